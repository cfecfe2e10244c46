"""``python -m kernels.inventory.update``: verdicts and INVENTORY.md are those that it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kernels.inventory import document, update
from whisper_npu.backends.cpu.kernels import KERNELS
from whisper_npu.backends.npu import registry
from whisper_npu.backends.npu.registry import built_in_folder, load_registry
from whisper_npu.backends.npu.verdicts import Measure, RecordedVerdict

ROOT = Path(__file__).parents[2]


def test_everything_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kernels.inventory.update", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built-in folder with our own kernels, and two small ones of the inventory."""
    source = built_in_folder()
    shutil.copytree(source / "inventory", tmp_path / "kernels/inventory")
    (tmp_path / "kernels/src").mkdir()
    for name in ("registry.json", "registry.schema.json", "verdicts.schema.json", "src/tiles.py"):
        shutil.copy(source / name, tmp_path / "kernels" / name)
    file = tmp_path / "kernels/inventory/registry.json"
    data = json.loads(file.read_text())
    small = [kernel for kernel in data["kernels"] if kernel["family"] in ("gelu", "amd_gemm")]
    file.write_text(json.dumps({**data, "kernels": small}))
    monkeypatch.setattr(registry, "shipped_file", lambda name: tmp_path / name)
    return tmp_path / "kernels"


def test_what_is_out_of_date_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stale() -> list[str]:
        code = update.main(["--check"])
        lines = capsys.readouterr().err.splitlines()
        assert code == bool(lines)
        assert all(
            line.endswith(" is out of date: run python -m kernels.inventory.update")
            for line in lines
        )
        return [str(Path(line.split(" is out")[0]).relative_to(copy)) for line in lines]

    assert update.main([]) == 0
    assert stale() == []
    own, theirs, text = (
        copy / "verdicts.json", copy / "inventory/verdicts.json", copy / "INVENTORY.md"
    )  # fmt: skip
    text.write_text(text.read_text().replace("| no |", "| yes |", 1))
    assert stale() == ["INVENTORY.md"]
    text.unlink()
    assert stale() == ["INVENTORY.md"]
    assert update.main([]) == 0
    # A number that differs, which the text has too.
    theirs.write_text(theirs.read_text().replace('"value": 0.83', '"value": 0.73', 1))
    assert stale() == ["inventory/verdicts.json", "INVENTORY.md"]
    assert update.main([]) == 0
    # A contract that changed, a kernel that went.
    file = copy / "registry.json"
    file.write_text(file.read_text().replace('"columns": 1', '"columns": 8', 1))
    assert stale() == ["verdicts.json"]
    records = json.loads(own.read_text())
    own.write_text(json.dumps({**records, "verdicts": records["verdicts"][:1]}))
    assert update.main([]) == 0
    assert stale() == []


def test_a_verdict_does_not_depend_on_files(copy: Path) -> None:
    update.main([])
    before = (copy / "inventory/verdicts.json").read_bytes()
    (kernel,) = (k for k in load_registry(inventory=True) if k.contract.name == "gelu_2048")
    assert kernel.contract.xclbin is not None
    path = kernel.path(kernel.contract.xclbin)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not an xclbin")
    update.main([])
    assert (copy / "inventory/verdicts.json").read_bytes() == before


MEASURE = Measure("case", "share", 0.25, 1.0)
VERDICT = RecordedVerdict("0" * 64, ("why",), (MEASURE,))


def test_the_last_digits_of_a_measure_may_differ() -> None:
    assert update.alike(VERDICT, replace(VERDICT, measures=(replace(MEASURE, value=0.2500001),)))


@pytest.mark.parametrize(
    "other",
    [
        replace(VERDICT, contract="1" * 64),
        replace(VERDICT, reasons=("why not",)),
        replace(VERDICT, measures=()),
        replace(VERDICT, measures=(replace(MEASURE, value=0.251),)),
        replace(VERDICT, measures=(replace(MEASURE, case="other"),)),
        replace(VERDICT, measures=(replace(MEASURE, quantity="other"),)),
        replace(VERDICT, measures=(replace(MEASURE, limit=None),)),
    ],
)
def test_nothing_else_may(other: RecordedVerdict) -> None:
    assert not update.alike(VERDICT, other)


def test_every_kernel_has_a_row_and_a_section() -> None:
    text = (built_in_folder() / document.FILE_NAME).read_text()
    names = [kernel.contract.name for kernel in load_registry(inventory=True)]
    names += [kernel.name for kernel in KERNELS]
    assert len(names) == 59
    for name in names:
        assert text.count(f"\n| `{name}` |") == 1
        assert text.count(f"\n#### {name}\n") == 1

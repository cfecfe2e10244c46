"""The tables of the documents: each has a place, and the counted ones are up to date."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import Recipe, checkpoint, write_checkpoint
from tools import tables
from tools.markdown import markdown_table
from tools.measuring import by_turns, in_new_process
from tools.tables import __main__ as command
from tools.tables import conversion, loading, quantisation
from tools.tables.__main__ import COUNTED, DOCUMENTS, MEASURED, NAMES, TableError, main
from tools.tables.peers.outputs import Inputs
from whisper_npu.backends.opening import numpy_model

OLD = "Before.\n\n<!-- table npu_limits -->\nold\n<!-- end -->\n\nAfter.\n"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.md"
    path.write_text(OLD)
    return path


@pytest.mark.parametrize("name", COUNTED)
def test_counted_tables_are_up_to_date(name: str) -> None:
    assert main([name, "--check"]) == 0


def test_every_table_stands_in_one_document_and_every_module_makes_one() -> None:
    marked = [
        name
        for path in DOCUMENTS
        for name in re.findall(r"^<!-- table (.*) -->$", path.read_text(), re.MULTILINE)
    ]
    assert sorted(marked) == sorted(NAMES)
    ends = sum(path.read_text().count("<!-- end -->\n") for path in DOCUMENTS)
    assert ends == len(NAMES)
    modules = {path.stem for path in Path(tables.__file__).parent.glob("[a-z]*.py")}
    assert modules == set(NAMES)


@pytest.mark.parametrize("name", MEASURED)
def test_measured_tables_name_date_and_machine(name: str) -> None:
    _, text = command.find(name, DOCUMENTS)
    assert re.match(r"\n20\d\d-\d\d-\d\d: ", text)


def test_a_table_is_replaced_and_nothing_else(
    document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["npu_limits", "--check"], [document]) == 1
    assert "npu_limits is out of date" in capsys.readouterr().err
    assert document.read_text() == OLD
    assert main(["npu_limits", "--write"], [document]) == 0
    written = document.read_text()
    table = capsys.readouterr().out.removeprefix("npu_limits\n\n").strip()
    assert table.startswith("| model ")
    assert written == OLD.replace("\nold\n", f"\n\n{table}\n\n")
    assert main(["npu_limits", "--check"], [document]) == 0


def test_a_document_without_the_table(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = OLD.replace("npu_limits", "npu_traffic")
    document.write_text(other)
    assert main(["npu_limits", "--write"], [document]) == 1
    assert "0 documents have a table npu_limits" in capsys.readouterr().err
    assert document.read_text() == other


def test_what_is_missing_is_named_with_what_installs_it(
    document: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other tables are made."""
    # Modules of the package that are loaded already would be found without it.
    for name in ("whisper", "whisper.audio"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "tools.tables.log_mel", raising=False)
    assert main(["log_mel", "npu_limits"], [document]) == 1
    out, err = capsys.readouterr()
    assert "log_mel needs whisper: make test-reference installs it" in err
    assert "| model " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "there is no table speed; there are packages, npu_limits"),
        (["parity", "--check"], "--check: parity is measured"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_cells_of_a_column_are_as_wide() -> None:
    assert list(markdown_table(["a", "bb"], [["long", "1"], ["x", "222"]])) == [
        "| a    | bb  |",
        "|------|-----|",
        "| long | 1   |",
        "| x    | 222 |",
    ]


def test_all_take_turns_in_alternating_order() -> None:
    calls: list[str] = []

    def call(name: str) -> int:
        calls.append(name)
        return len(calls)

    found = by_turns({name: lambda name=name: call(name) for name in "ab"}, 3)
    assert "".join(calls) == "abbaab"
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_new_process_imports_from_this_checkout(tmp_path: Path) -> None:
    code = (
        "import json, os, sys, tools\n"
        "print('noise')\n"
        "print(json.dumps([tools.__file__, sys.argv[1], os.environ['MINE']]))"
    )
    found = in_new_process(code, tmp_path, environment={"MINE": "1"})
    assert found == [importlib.util.find_spec("tools").origin, str(tmp_path), "1"]


# Measurements, each once as small as it gets


def test_conversion(tmp_path: Path) -> None:
    run = conversion.measure_random("tiny.en", "float16")
    # The logits have a table of their own, as large as the embedding: half of what tiny.en is.
    assert run.result < 0.85 * run.source
    assert run.peak_mib >= run.before_mib > 10


def test_loading(tmp_path: Path) -> None:
    write_checkpoint(Recipe("nano"), tmp_path)
    found = loading.measure(tmp_path, "int8", 1)
    assert [len(runs) for runs in found.values()] == [1, 1, 1]


def test_quantisation() -> None:
    """Of a small model: errors of every layer, which integers make larger."""
    recipe = Recipe("nano", seed=1)
    plain = checkpoint(recipe)
    norm = tuple(plain.weights[f"model.encoder.layer_norm.{part}"] for part in ("weight", "bias"))
    features = np.random.default_rng(1).standard_normal(
        (plain.dims.n_mels, plain.dims.n_frames), np.float32
    )
    given = Inputs(features, [1, 2, 3, 4], list(range(5, 25)))
    wanted, integers = (
        quantisation.layers(numpy_model(plain, precision), given, norm)
        for precision in ("float32", "int8")
    )
    found = {"none": quantisation.errors(wanted, wanted)}
    found["int8"] = quantisation.errors(wanted, integers)
    assert list(found["int8"])[:1] == ["encoder.0.residual"]
    assert list(found["int8"])[-1] == "logits"
    assert len(wanted["logits"]) == 21
    assert set(found["none"].values()) == {0.0}
    for error in found["int8"].values():
        assert 0 < error < 0.05
    shorter = {"int8": {"logits": 0.5}}
    rows = list(quantisation.table({"a": shorter, "b": found}))
    assert rows[0].split("|")[2:5] == [" a: int8 ", " b: none ", " b: int8 "]
    assert rows[-1].split("|")[2].strip() == "5.0e-01"
    assert {row.split("|")[2].strip() for row in rows[2:-1]} == {"-"}


def test_machine_is_named_without_its_build() -> None:
    versions = r"Linux [\d.]+, Python [\d.]+, NumPy .+\."
    pattern = rf"20\d\d-\d\d-\d\d: .+, \d+ CPUs \(.+\), [\d.]+ GiB, {versions}"
    assert re.fullmatch(pattern, command.machine())


def test_a_command_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(TableError, match=r"kernel_stack: Command .*make.* returned non-zero"):
        command.make("kernel_stack")

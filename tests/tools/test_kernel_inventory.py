from __future__ import annotations

from pathlib import Path

import pytest

from tools import kernel_inventory


def test_the_inventory_is_up_to_date() -> None:
    assert kernel_inventory.main(["--check"]) == 0


def test_an_old_or_missing_file_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_inventory, "render", lambda: "new\n")
    file = tmp_path / "INVENTORY.md"
    assert kernel_inventory.main(["--check", "--output", str(file)]) == 1
    file.write_text("old\n")
    assert kernel_inventory.main(["--check", "--output", str(file)]) == 1
    assert "is out of date" in capsys.readouterr().err
    assert kernel_inventory.main(["--output", str(file)]) == 0
    assert file.read_text() == "new\n"
    assert kernel_inventory.main(["--check", "--output", str(file)]) == 0


def test_every_kernel_has_a_row_and_a_section() -> None:
    text = (Path(kernel_inventory.built_in_folder()) / kernel_inventory.NAME).read_text()
    for kernel in kernel_inventory.read_folder(kernel_inventory.built_in_folder()):
        name = kernel.contract.name
        assert text.count(f"\n| `{name}` |") == 1
        assert text.count(f"\n#### {name}\n") == 1

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools import compare_outputs

ROOT = Path(__file__).parents[2]


def compare(monkeypatch: pytest.MonkeyPatch, new: Path) -> int:
    argv = ["compare_outputs", "--old", str(ROOT), "--new", str(new), "--files", "1"]
    monkeypatch.setattr("sys.argv", argv)
    return compare_outputs.main()


def test_a_checkout_is_like_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(monkeypatch, ROOT) == 0
    assert "0 written files differ" in capsys.readouterr().out


def test_another_text_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "whisper_npu", tmp_path / "whisper_npu")
    for name in ("kernels", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "whisper_npu" / "text" / "writers.py").open("a") as file:
        file.write("RENDERERS['txt'] = lambda *args: render_txt(*args).upper()\n")
    assert compare(monkeypatch, tmp_path) == 1
    assert "1 written files differ" in capsys.readouterr().out

"""The CPU path needs nothing that only POSIX systems have, and gives the same without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import Recipe
from whisper_npu.files import whole
from whisper_npu.files.whole import replacing_folder

ROOT = Path(__file__).parents[2]


def program(what: str, model: Path, folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the program prints, and the files that it converts; both runs have the same threads."""
    dest = folder / "converted"
    environment = {**os.environ, "WHISPER_NPU_HOME": str(folder), "OMP_NUM_THREADS": "2"}
    arguments = map(str, (what, model, dest, ROOT / "samples" / "synthetic" / "order.flac"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.portable_program", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), {file.name: file.read_bytes() for file in dest.iterdir()}


def test_nothing_of_posix_is_needed(
    seeded_directory: Callable[[Recipe], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = seeded_directory(Recipe("nano"))
    (hidden, made), (kept, expected) = (
        program(what, model, tmp_path_factory.mktemp(what)) for what in ("hide", "keep")
    )
    for result in (*hidden["results"], *kept["results"]):
        assert result["placement"].pop("seconds")
    assert len(hidden["modules"]) > 100
    assert hidden["results"][0]["text"]
    assert made == expected
    # The limit on locked memory is what is not to be known without the module resource.
    code, text = hidden["outputs"].pop("doctor")
    assert "does not say how much a program may lock" in text
    assert kept["outputs"].pop("doctor")[0] == code
    assert hidden == kept


def test_a_model_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that cannot rename a folder of which a file is open, say."""
    dest = tmp_path / "model"
    dest.mkdir()
    (dest / "config.json").write_text("old")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if (path / "config.json").read_text() == "new":
            raise PermissionError(13, "in use")
        return rename(path, target)

    monkeypatch.setattr(whole, "_exchange", lambda new, path: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), replacing_folder(dest) as folder:
        (folder / "config.json").write_text("new")
    assert (dest / "config.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [dest]

"""Which folder a path means: parts of a folder, and folders of the Hugging Face cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from whisper_npu.errors import ModelError
from whisper_npu.hub.folders import model_directory

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def repository(seeded_directory: Callable[[Recipe], Path], tmp_path: Path) -> Path:
    """A repository as huggingface_hub keeps it."""
    root = tmp_path / "models--openai--whisper-nano"
    blobs, snapshot = root / "blobs", root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in seeded_directory(Recipe("nano")).iterdir():
        shutil.copy(file, blobs)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    (root / "refs").mkdir()
    (root / "refs/main").write_text(COMMIT)
    return root


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("part", ["", "snapshots", f"snapshots/{COMMIT}"])
def test_a_repository_in_the_cache(repository: Path, part: str, kind: type) -> None:
    assert model_directory(kind(repository / part)) == repository / "snapshots" / COMMIT


def test_a_repository_without_main(repository: Path) -> None:
    (repository / "refs/main").unlink()
    assert model_directory(repository) == repository / "snapshots" / COMMIT
    (repository / "snapshots/other").mkdir()
    with pytest.raises(ModelError, match="holds several snapshots of a repository; name the fold"):
        model_directory(repository)
    for ref in ("other", "../../..", "", "gone"):
        (repository / "refs/main").write_text(ref)
        if ref == "other":
            assert model_directory(repository) == repository / "snapshots/other"
        else:
            with pytest.raises(ModelError, match="several snapshots"):
                model_directory(repository)
    shutil.rmtree(repository / "snapshots")
    (repository / "snapshots").mkdir()
    with pytest.raises(ModelError, match="holds no snapshot of a repository"):
        model_directory(repository)


def test_a_ref_that_is_a_fifo_is_not_waited_for(repository: Path) -> None:
    (repository / "refs/main").unlink()
    os.mkfifo(repository / "refs/main")
    assert model_directory(repository) == repository / "snapshots" / COMMIT


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_stands_for_its_folder(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path, name: str
) -> None:
    folder = seeded_directory(Recipe("nano"))
    assert model_directory(str(folder / name)) == folder
    assert model_directory(folder / name) == folder
    shutil.copy(folder / name, tmp_path / "x")
    assert model_directory(tmp_path / "x") == tmp_path / "x"


def test_a_shard_stands_for_its_folder(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    shard = tmp_path / "model-00001-of-00002.safetensors"
    shard.touch()
    assert model_directory(shard) == shard
    shutil.copy(seeded_directory(Recipe("nano")) / "config.json", tmp_path)
    assert model_directory(shard) == tmp_path


@pytest.mark.parametrize("name", ["tiny.pt", "ggml-tiny.bin", "nowhere"])
def test_other_files_are_what_they_are(tmp_path: Path, name: str) -> None:
    if name != "nowhere":
        (tmp_path / name).touch()
    assert model_directory(str(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_that_cannot_be_looked_at(kind: type) -> None:
    with pytest.raises(ModelError, match=r"^x{300}: cannot be read: [^:]+$"):
        model_directory(kind("x" * 300))

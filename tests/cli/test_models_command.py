"""``whisper-npu models`` and ``models remove``."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from whisper_npu.cli import main
from whisper_npu.hub.folders import built_in_directory
from whisper_npu.hub.names import short_names
from whisper_npu.hub.store import Store, StoredModel
from whisper_npu.runtime.packed import packed_folder
from whisper_npu.transcriber import Transcriber

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def install(repository: str, weights: bytes = b"weights") -> StoredModel:
    store = Store()
    with store.incoming(repository) as made:
        made.mkdir()
        (made / "model.safetensors").write_bytes(weights)
        return store.install(made, repository, "main", COMMIT, "int8")


def test_only_the_built_in_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "REPOSITORY", "COMMIT", "DTYPE", "SIZE", "SHA256", "FROM"]
    weights = (built_in_directory() / "model.safetensors").read_bytes()
    assert row.startswith("demo  (built in)  -")
    assert row.endswith(f"{hashlib.sha256(weights).hexdigest()[:12]}  -")


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    install("openai/whisper-tiny", bytes(41_500_000))
    install("owner/nano")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    digest = hashlib.sha256(b"weights").hexdigest()[:12]
    nano = ["owner/nano", "owner/nano", "0123456", "int8", "0.0", "MB", digest, "hub"]
    assert lines[1].split() == nano
    tiny = ["tiny", "openai/whisper-tiny", "0123456", "int8", "41.5", "MB"]
    assert lines[2].split()[:-2] == tiny
    assert lines[3].split()[0] == "demo"
    seconds = ("REPOSITORY", "owner/nano  ", "openai/whisper-tiny", "(built in)")
    columns = {line.rindex(cell) for line, cell in zip(lines, seconds, strict=True)}
    assert len(columns) == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    model = install("openai/whisper-tiny")
    assert main(["models", "--format", "json"]) == 0
    tiny, demo = json.loads(capsys.readouterr().out)
    assert tiny == {
        "name": "tiny",
        "path": str(model.path),
        "size": 7,
        "repository": "openai/whisper-tiny",
        "revision": "main",
        "commit": COMMIT,
        "dtype": "int8",
        "pulled": model.pulled,
        "packages": "",
        "format": 2,
        "files": {
            "model.safetensors": {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
        },
    }
    assert set(demo) == set(tiny)
    assert demo["name"] == "demo"
    assert demo["dtype"] in ("int8", "float16")
    assert sorted(demo["files"]) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    sizes = {name: (built_in_directory() / name).stat().st_size for name in demo["files"]}
    assert demo["size"] == sum(sizes.values())


def test_a_damaged_record(capsys: pytest.CaptureFixture[str]) -> None:
    (install("openai/whisper-tiny").path / "whisper-npu.json").write_text("{")
    assert main(["models"]) == 3
    assert capsys.readouterr().err.endswith("whisper-npu models remove openai/whisper-tiny\n")
    assert main(["models", "remove", "openai/whisper-tiny"]) == 0


def test_remove_takes_the_packed_weights_along(
    seeded_directory: Callable[[Recipe], Path],
) -> None:
    store = Store()
    with store.incoming("owner/nano") as made:
        shutil.copytree(seeded_directory(Recipe("nano")), made)
        store.install(made, "owner/nano", "main", COMMIT, "float32")
    Transcriber("owner/nano", cpu_kernels=False)
    Transcriber(seeded_directory(Recipe("nano")), cpu_kernels=False)
    assert len(list(packed_folder().iterdir())) == 2
    assert main(["models", "remove", "owner/nano"]) == 0
    assert len(list(packed_folder().iterdir())) == 1


def test_remove(capsys: pytest.CaptureFixture[str]) -> None:
    for repository in ("openai/whisper-tiny", "openai/whisper-base", "owner/nano"):
        install(repository)
    assert main(["models", "remove", "tiny", "owner/nano"]) == 0
    assert capsys.readouterr() == ("", "")
    assert [model.name for model in Store().all()] == ["base"]


def test_remove_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    """The others are removed all the same."""
    install("openai/whisper-tiny")
    install("openai/whisper-base")
    assert main(["models", "remove", "small", "demo", "nowhere", "tiny"]) == 3
    unknown = (
        f"'nowhere' is neither a repository (owner/name) nor one of {', '.join(short_names())}"
    )
    assert capsys.readouterr().err.splitlines() == [
        "whisper-npu: error: small: was not pulled; of the models, these are there: base, tiny",
        "whisper-npu: error: demo: is built in and cannot be removed",
        f"whisper-npu: error: {unknown}",
    ]
    assert [model.name for model in Store().all()] == ["base"]
    assert (built_in_directory() / "model.safetensors").is_file()


def test_remove_nothing() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["models", "remove"])
    assert caught.value.code == 2

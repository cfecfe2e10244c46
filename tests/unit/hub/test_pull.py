"""Pulling a model: what is downloaded, when it is not, and what is in the cache afterwards."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.checkpoints import Recipe, write_checkpoint
from tests.unit.hub.fake_hub import (
    COMMIT,
    REPOSITORY,
    FakeHub,
    corrupt,
    cut_after,
    read_folder,
    refuse,
)
from whisper_npu import convert
from whisper_npu.errors import ModelError, OutputError
from whisper_npu.hub import download
from whisper_npu.hub.client import BLOCK
from whisper_npu.hub.store import Store, StoredModel
from whisper_npu.pulling import pull

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LATER = 40 * "a"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Conversions, which only copy."""
    made: list[dict[str, Any]] = []

    def copy(source: Path, dest: Path, **options: Any) -> None:
        made.append({"files": sorted(file.name for file in source.iterdir()), **options})
        shutil.copytree(source, dest)

    monkeypatch.setattr(convert, "convert", copy)
    return made


def complaint(store: Store, kind: type[Exception] = ModelError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        pull(store, REPOSITORY, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def left(store: Store) -> list[str]:
    """Everything in the cache but locks."""
    return sorted(
        path.relative_to(store.home).as_posix()
        for path in store.home.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


class TestReal:
    """With the converter."""

    @pytest.mark.parametrize("dtype", ["int8", "float16"])
    def test_the_model_is_converted(self, hub: FakeHub, store: Store, dtype: str) -> None:
        model, was_there = pull(store, REPOSITORY, dtype=dtype)
        assert not was_there
        assert (model.repository, model.commit, model.dtype) == (REPOSITORY, COMMIT, dtype)
        assert store.find(REPOSITORY) == model
        assert model.is_whole()
        assert model.size < len(hub.files[WEIGHTS])
        assert not store.downloads(REPOSITORY).exists()
        metadata = (model.path / WEIGHTS).read_bytes()[:2000]
        assert f"{REPOSITORY}@{COMMIT}".encode() in metadata

    def test_a_conversion_that_fails(self, hub: FakeHub, store: Store) -> None:
        """The download stays; no model is there."""
        hub.files["tokenizer.json"] = b"{}"
        with pytest.raises(ModelError):
            pull(store, REPOSITORY)
        assert store.all() == []
        assert {Path(file).parent.as_posix() for file in left(store)} == {
            f"downloads/owner--nano/{COMMIT}"
        }


class TestWhatIsDownloaded:
    def test_only_what_is_needed(
        self, hub: FakeHub, store: Store, conversions: list[dict[str, Any]]
    ) -> None:
        others = ("pytorch_model.bin", "README.md", "model.fp32.safetensors", "vocab.json", INDEX)
        needed = set(hub.files)
        hub.files.update(dict.fromkeys(others, b"{}"))
        hub.files["onnx/model.onnx"] = b"onnx"
        pull(store, REPOSITORY)
        assert needed == {"config.json", "generation_config.json", "tokenizer.json", WEIGHTS}
        assert set(conversions[0]["files"]) == needed
        paths = {path.rpartition("/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
        assert paths == needed

    def test_by_the_commit(
        self, hub: FakeHub, store: Store, conversions: list[dict[str, Any]]
    ) -> None:
        model, _ = pull(store, REPOSITORY, revision="v1")
        assert (model.revision, model.commit) == ("v1", COMMIT)
        assert hub.requests[0][1].endswith("/revision/v1")
        assert all(f"/resolve/{COMMIT}/" in path for _, path, _ in hub.requests[1:])

    def test_shards(
        self, hub: FakeHub, store: Store, tmp_path: Path, conversions: list[dict[str, Any]]
    ) -> None:
        write_checkpoint(Recipe("nano"), tmp_path / "sharded", shards=3)
        hub.files = read_folder(tmp_path / "sharded")
        pull(store, REPOSITORY)
        assert set(conversions[0]["files"]) == set(hub.files)
        assert sum(name.startswith("model-0000") for name in hub.files) == 3

    def test_no_generation_config(
        self, hub: FakeHub, store: Store, conversions: list[dict[str, Any]]
    ) -> None:
        del hub.files["generation_config.json"]
        pull(store, REPOSITORY)
        assert conversions[0]["files"] == ["config.json", WEIGHTS, "tokenizer.json"]

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_a_missing_file(self, hub: FakeHub, store: Store, name: str) -> None:
        del hub.files[name]
        assert complaint(store) == f"owner/nano: has no {name}; it cannot be used"
        assert len(hub.requests) == 1

    def test_no_safetensors(self, hub: FakeHub, store: Store) -> None:
        del hub.files[WEIGHTS]
        hub.files["pytorch_model.bin"] = hub.files["flax_model.msgpack"] = b""
        hub.files["../\n.bin"] = b""
        assert complaint(store) == (
            "owner/nano: has no model.safetensors, only flax_model.msgpack, pytorch_model.bin; "
            "for other formats, download it and use whisper-npu convert"
        )

    def test_another_kind_of_model(self, hub: FakeHub, store: Store) -> None:
        """Found out before its weights come."""
        hub.files["config.json"] = b'{"model_type": "llama", "hidden_size": 4096}'
        assert "owner/nano: config.json: d_model must be a positive integer" in complaint(store)
        assert hub.asked(WEIGHTS) == []

    def test_a_huge_tokenizer(self, hub: FakeHub, store: Store) -> None:
        hub.files["tokenizer.json"] = bytes((16 << 20) + 1)
        assert "tokenizer.json has 16.8 MB; no Whisper model needs that" in complaint(store)

    @pytest.mark.parametrize(
        "shard",
        [
            *(
                "../model.safetensors",
                "/nowhere/a.safetensors",
                "a/b.safetensors",
                "..",
                "",
                "config.json",
            ),
            *("a\\b.safetensors", ".hidden.safetensors", "a\0.safetensors", "C:x.safetensors"),
        ],
    )
    def test_shards_with_hostile_names(self, hub: FakeHub, store: Store, shard: str) -> None:
        hub.files.setdefault(shard, hub.files.pop(WEIGHTS))
        hub.files[INDEX] = json.dumps({"weight_map": {"a": shard}}).encode()
        assert "is not the plain name of a safetensors file" in complaint(store)
        assert len(hub.requests) == 5

    @pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
    def test_an_index_of_nothing(self, hub: FakeHub, store: Store, index: dict[str, Any]) -> None:
        del hub.files[WEIGHTS]
        hub.files[INDEX] = json.dumps(index).encode()
        assert complaint(store).endswith(f"{INDEX} names no files")

    def test_a_shard_that_is_missing(self, hub: FakeHub, store: Store) -> None:
        del hub.files[WEIGHTS]
        hub.files[INDEX] = b'{"weight_map": {"a": "b.safetensors"}}'
        assert complaint(store).endswith(f"{INDEX} names b.safetensors, which is not there")

    def test_no_room(self, hub: FakeHub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        class Usage(NamedTuple):
            free: int

        size = len(hub.files[WEIGHTS])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(int(1.6 * size) - 1))
        assert "are needed to download and convert, and" in complaint(store, OutputError)
        assert hub.asked(WEIGHTS) == []
        # What is there already needs no more room.
        folder = store.downloads(REPOSITORY) / COMMIT
        (folder / f"{WEIGHTS}.part").write_bytes(hub.files[WEIGHTS][:1000])
        pull(store, REPOSITORY)

    def test_a_full_disk(self, hub: FakeHub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(download, "_show", full)
        assert "cannot be written (No space left on device)" in complaint(store, OutputError)


@pytest.mark.usefixtures("conversions")
class TestAgain:
    def test_nothing_is_downloaded(self, hub: FakeHub, store: Store) -> None:
        model, _ = pull(store, REPOSITORY)
        hub.requests.clear()
        assert pull(store, REPOSITORY) == (model, True)
        assert len(hub.requests) == 1

    @pytest.mark.parametrize("options", [{"force": True}, {"dtype": "float16"}])
    def test_unless_told_or_for_another_dtype(
        self, hub: FakeHub, store: Store, options: dict[str, Any]
    ) -> None:
        first, _ = pull(store, REPOSITORY)
        model, was_there = pull(store, REPOSITORY, **options)
        assert not was_there
        assert model.pulled > first.pulled
        assert len(hub.asked(WEIGHTS)) == 2
        assert store.all() == [model]

    def test_or_there_is_a_new_commit(self, hub: FakeHub, store: Store) -> None:
        pull(store, REPOSITORY)
        hub.commit = LATER
        model, was_there = pull(store, REPOSITORY)
        assert not was_there
        assert store.all() == [model]
        assert model.commit == LATER

    def test_or_what_is_there_is_damaged(self, hub: FakeHub, store: Store) -> None:
        model, _ = pull(store, REPOSITORY)
        (model.path / WEIGHTS).write_bytes(b"")
        assert not pull(store, REPOSITORY)[1]
        assert model.is_whole()

    def test_a_kept_download_is_used(self, hub: FakeHub, store: Store) -> None:
        pull(store, REPOSITORY, keep=True)
        assert (store.downloads(REPOSITORY) / COMMIT / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
        pull(store, REPOSITORY, dtype="float16")
        assert len(hub.asked(WEIGHTS)) == 1
        assert not store.downloads(REPOSITORY).exists()

    def test_a_download_that_failed_is_continued(self, hub: FakeHub, store: Store) -> None:
        hub.faults[WEIGHTS] = [cut_after(200_000), refuse(403)]
        complaint(store)
        assert store.all() == []
        folder = f"downloads/owner--nano/{COMMIT}"
        small = [f"{folder}/{name}" for name in hub.files if name != WEIGHTS]
        assert left(store) == sorted([*small, f"{folder}/{WEIGHTS}.part"])
        pull(store, REPOSITORY)
        assert hub.asked(WEIGHTS)[-1]["Range"] == f"bytes={200_000 // BLOCK * BLOCK}-"
        assert len(hub.asked("tokenizer.json")) == 1

    def test_but_not_with_another_commit(self, hub: FakeHub, store: Store) -> None:
        hub.faults[WEIGHTS] = [cut_after(200_000), refuse(403)]
        complaint(store)
        hub.commit = LATER
        pull(store, REPOSITORY)
        assert hub.asked(WEIGHTS)[-1]["Range"] is None
        assert not store.downloads(REPOSITORY).exists()

    @pytest.mark.parametrize("fault", [corrupt, refuse(404)])
    def test_what_is_there_survives_a_failure(
        self, hub: FakeHub, store: Store, fault: Callable[..., None]
    ) -> None:
        model, _ = pull(store, REPOSITORY)
        hub.faults[WEIGHTS] = 2 * [fault]
        complaint(store, force=True)
        assert store.all() == [model]
        assert model.is_whole()

    def test_two_at_once(self, hub: FakeHub, store: Store) -> None:
        """The second waits for the first and finds what that has pulled."""
        results: list[tuple[StoredModel, bool]] = []
        threads = [
            threading.Thread(target=lambda: results.append(pull(Store(), REPOSITORY)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(was_there for _, was_there in results) == [False, True]
        assert results[0][0] == results[1][0]
        assert len(hub.asked(WEIGHTS)) == 1


@pytest.mark.usefixtures("conversions")
class TestOffline:
    def test_what_is_there(self, hub: FakeHub, store: Store) -> None:
        model, _ = pull(store, REPOSITORY)
        hub.requests.clear()
        for revision in ("main", COMMIT):
            assert pull(store, REPOSITORY, revision=revision, offline=True) == (model, True)
        assert hub.requests == []

    def test_what_is_not(self, hub: FakeHub, store: Store) -> None:
        assert complaint(store, offline=True) == (
            "owner/nano: is not in the cache, and nothing is downloaded offline"
        )
        pull(store, REPOSITORY)
        hub.requests.clear()
        there = "the cache has int8 of revision main (0123456789ab), not"
        assert f"{there} float32 of main" in complaint(store, dtype="float32", offline=True)
        assert f"{there} int8 of v1" in complaint(store, revision="v1", offline=True)
        assert hub.requests == []

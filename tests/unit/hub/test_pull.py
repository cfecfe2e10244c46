"""Pulling a model: what is downloaded, when it is not, and what is in the cache afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import constants, snapshot_download

from tests.support.checkpoints import Recipe, write_checkpoint
from tests.support.formats.seeded import load_seeded
from tests.support.formats.torch_pt import write_pickled
from tests.support.model_folders import split_tokenizer
from tests.unit.hub.fake_hub import (
    COMMIT,
    REPOSITORY,
    FakeHub,
    corrupt,
    cut_after,
    damage,
    read_folder,
    refuse,
    set_endpoint,
)
from whisper_npu import Transcriber
from whisper_npu.convert.pull import pull
from whisper_npu.errors import ModelError, OutputError
from whisper_npu.hub.folders import model_directory
from whisper_npu.hub.store import RECORD, Store, StoredModel
from whisper_npu.model.folder import FORMAT_VERSION

pytestmark = pytest.mark.usefixtures("uncalibrated")

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

    monkeypatch.setattr("whisper_npu.convert.pull.convert", copy)
    return made


def complaint(store: Store, kind: type[Exception] = ModelError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        pull(store, REPOSITORY, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def cached() -> list[str]:
    """The files of the repository in the Hugging Face cache."""
    folder = Path(constants.HF_HUB_CACHE) / "models--owner--nano"
    return sorted(
        path.relative_to(folder).as_posix()
        for kind in ("refs", "snapshots", "blobs")
        for path in (folder / kind).rglob("*")
        if path.is_file() and (kind != "blobs" or path.suffix == ".incomplete")
    )


def snapshot_folder() -> Path:
    return Path(constants.HF_HUB_CACHE) / "models--owner--nano/snapshots" / COMMIT


def snapshot_files(hub: FakeHub) -> list[str]:
    return sorted(f"snapshots/{hub.commit}/{name}" for name in hub.files)


def part(hub: FakeHub) -> Path:
    digest = hashlib.sha256(hub.files[WEIGHTS]).hexdigest()
    folder = Path(constants.HF_HUB_CACHE) / "models--owner--nano/blobs"
    return folder / f"{digest}.whisper-npu.incomplete"


@contextmanager
def no_network(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody answers any more."""
    with patch.context() as patched:
        set_endpoint(patched, "http://127.0.0.1:1")
        yield


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
        assert cached() == ["refs/main", *snapshot_files(hub)]
        metadata = (model.path / WEIGHTS).read_bytes()[:2000]
        assert f"{REPOSITORY}@{COMMIT}".encode() in metadata

    def test_a_conversion_that_fails(self, hub: FakeHub, store: Store) -> None:
        """The download stays; no model is there."""
        hub.files["tokenizer.json"] = b"{}"
        with pytest.raises(ModelError):
            pull(store, REPOSITORY)
        assert store.all() == []
        assert cached() == ["refs/main", *snapshot_files(hub)]

    def test_a_tokenizer_in_parts(self, hub: FakeHub, store: Store, tmp_path: Path) -> None:
        write_checkpoint(Recipe("nano"), tmp_path / "parts")
        split_tokenizer(tmp_path / "parts")
        hub.files = read_folder(tmp_path / "parts")
        model, _ = pull(store, REPOSITORY)
        assert "tokenizer.json" in model.files
        assert "merges.txt" not in model.files
        assert cached() == ["refs/main", *snapshot_files(hub)]
        assert not pull(store, REPOSITORY, offline=True, force=True)[1]
        store.remove(REPOSITORY)
        assert model_directory(REPOSITORY) == snapshot_folder()

    @pytest.mark.parametrize("shards", [1, 2])
    def test_pickled_weights(self, hub: FakeHub, store: Store, tmp_path: Path, shards: int) -> None:
        write_checkpoint(Recipe("nano"), tmp_path / "bin")
        write_pickled(load_seeded(tmp_path / "bin"), tmp_path / "bin", shards=shards)
        (tmp_path / "bin" / WEIGHTS).unlink()
        hub.files = read_folder(tmp_path / "bin")
        model, _ = pull(store, REPOSITORY)
        assert WEIGHTS in model.files
        assert cached() == ["refs/main", *snapshot_files(hub)]
        assert not pull(store, REPOSITORY, offline=True, force=True)[1]
        store.remove(REPOSITORY)
        # As it is in the cache, it is converted when it is loaded.
        assert model_directory(REPOSITORY) == snapshot_folder()
        with pytest.warns(UserWarning, match="it is converted to"):
            Transcriber(REPOSITORY)

    def test_shards_offline(self, hub: FakeHub, store: Store, tmp_path: Path) -> None:
        write_checkpoint(Recipe("nano"), tmp_path / "sharded", shards=3)
        hub.files = read_folder(tmp_path / "sharded")
        pull(store, REPOSITORY)
        assert not pull(store, REPOSITORY, offline=True, force=True)[1]
        assert model_directory(REPOSITORY) == store.home / "models/owner--nano"
        store.remove(REPOSITORY)
        assert model_directory(REPOSITORY) == snapshot_folder()
        (snapshot_folder() / "model-00002-of-00003.safetensors").unlink()
        assert complaint(store, offline=True).endswith(
            ": has no model-00002-of-00003.safetensors, and nothing is downloaded offline"
        )


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
        hub.files["tf_model.h5"] = hub.files["flax_model.msgpack"] = b""
        hub.files["../\n.bin"] = b""
        assert complaint(store) == (
            "owner/nano: has no model.safetensors, only flax_model.msgpack, tf_model.h5; "
            "for other formats, download it and use whisper-npu convert"
        )

    def test_another_kind_of_model(self, hub: FakeHub, store: Store) -> None:
        """Found out before its weights come."""
        hub.files["config.json"] = b'{"model_type": "llama", "hidden_size": 4096}'
        assert "owner/nano: config.json: model_type is 'llama', not 'whisper'" in complaint(store)
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
        assert complaint(store).endswith(
            f"{INDEX}: weight_map must be an object that names the shards"
        )

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
        part(hub).write_bytes(hub.files[WEIGHTS][:1000])
        pull(store, REPOSITORY)

    @pytest.mark.parametrize(("full", "purpose"), [("hub", "download"), ("home", "convert")])
    def test_no_room_on_one_of_two_disks(
        self,
        hub: FakeHub,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        full: str,
        purpose: str,
    ) -> None:
        class Usage(NamedTuple):
            free: int

        disks = {Path(constants.HF_HUB_CACHE): 1, store.home: 2}
        monkeypatch.setattr("whisper_npu.convert.pull._disk", disks.__getitem__)
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: Usage(0 if Path(path).name == full else 1 << 40)
        )
        assert f"are needed to {purpose}, and 0.0 MB are free" in complaint(store, OutputError)
        assert hub.asked(WEIGHTS) == []

    def test_a_full_disk(self, hub: FakeHub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("whisper_npu.hub.remote._Part.write", full)
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
        # What was downloaded is in the Hugging Face cache.
        assert len(hub.asked(WEIGHTS)) == 1
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

    @pytest.mark.parametrize(("dtype", "made"), [("int8", True), ("float16", False)])
    def test_or_an_earlier_version_made_int8_of_it(
        self, hub: FakeHub, store: Store, dtype: str, made: bool
    ) -> None:
        model, _ = pull(store, REPOSITORY, dtype=dtype)
        record = json.loads((model.path / RECORD).read_text())
        assert record.pop("format") == FORMAT_VERSION
        (model.path / RECORD).write_text(json.dumps(record))
        assert store.all()[0].format == 1
        assert pull(store, REPOSITORY, dtype=dtype)[1] != made
        assert pull(store, REPOSITORY, dtype=dtype)[1]

    def test_or_what_was_downloaded_is_damaged(self, hub: FakeHub, store: Store) -> None:
        pull(store, REPOSITORY)
        weights = Path(constants.HF_HUB_CACHE) / "models--owner--nano" / snapshot_files(hub)[2]
        assert weights.name == WEIGHTS
        weights.write_bytes(damage(hub.files[WEIGHTS]))
        pull(store, REPOSITORY, force=True)
        assert weights.read_bytes() == hub.files[WEIGHTS]
        assert len(hub.asked(WEIGHTS)) == 2

    def test_what_other_programs_downloaded_is_used(self, hub: FakeHub, store: Store) -> None:
        snapshot_download(REPOSITORY, allow_patterns=["*.safetensors", "config.json"])
        assert len(hub.asked(WEIGHTS)) == 1
        pull(store, REPOSITORY)
        assert len(hub.asked(WEIGHTS)) == 1
        assert len(hub.asked("config.json")) == 1

    def test_and_they_use_what_was_pulled(self, hub: FakeHub, store: Store) -> None:
        pull(store, REPOSITORY)
        hub.requests.clear()
        folder = Path(snapshot_download(REPOSITORY))
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == hub.files
        assert not [path for _, path, _ in hub.requests if "/resolve/" in path]

    def test_a_download_that_failed_is_continued(self, hub: FakeHub, store: Store) -> None:
        hub.faults[WEIGHTS] = [cut_after(200_000), refuse(403)]
        complaint(store)
        assert store.all() == []
        small = [path for path in snapshot_files(hub) if not path.endswith(WEIGHTS)]
        assert cached() == sorted([f"blobs/{part(hub).name}", "refs/main", *small])
        pull(store, REPOSITORY)
        assert hub.asked(WEIGHTS)[-1]["Range"] == "bytes=200000-"
        assert len(hub.asked("tokenizer.json")) == 1
        assert not part(hub).exists()

    def test_but_not_if_the_file_is_another_one_now(self, hub: FakeHub, store: Store) -> None:
        hub.faults[WEIGHTS] = [cut_after(200_000), refuse(403)]
        complaint(store)
        before = part(hub)
        hub.commit, hub.files[WEIGHTS] = LATER, damage(hub.files[WEIGHTS])
        pull(store, REPOSITORY)
        assert hub.asked(WEIGHTS)[-1]["Range"] is None
        assert not before.exists()

    def test_a_process_that_is_killed(self, hub: FakeHub, store: Store) -> None:
        """What it wrote until then is there, and it holds no lock."""
        hub.faults[WEIGHTS] = [cut_after(200_000)]
        code = (
            "import os, time\n"
            "from huggingface_hub import constants\n"
            "from whisper_npu.convert.pull import pull\n"
            "from whisper_npu.hub.store import Store\n"
            "constants.DOWNLOAD_CHUNK_SIZE = 1000\n"
            # As it waits for the next attempt.
            "time.sleep = lambda _: os._exit(9)\n"
            "pull(Store(), 'owner/nano')\n"
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == 9
        assert hub.files[WEIGHTS].startswith(part(hub).read_bytes())
        came = part(hub).stat().st_size
        assert came > 100_000
        pull(store, REPOSITORY)
        assert hub.asked(WEIGHTS)[-1]["Range"] == f"bytes={came}-"

    @pytest.mark.parametrize("fault", [corrupt, refuse(404)])
    def test_what_is_there_survives_a_failure(
        self, hub: FakeHub, store: Store, fault: Callable[..., None]
    ) -> None:
        model, _ = pull(store, REPOSITORY)
        hub.commit, hub.files[WEIGHTS] = LATER, damage(hub.files[WEIGHTS])
        hub.faults[WEIGHTS] = 2 * [fault]
        complaint(store)
        assert store.all() == [model]
        assert model.is_whole()

    def test_two_at_once_that_share_only_the_hugging_face_cache(
        self, hub: FakeHub, tmp_path: Path
    ) -> None:
        stores = [Store(tmp_path / name) for name in ("a", "b")]
        threads = [threading.Thread(target=pull, args=(store, REPOSITORY)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(store.all()) for store in stores] == [1, 1]
        assert len(hub.asked(WEIGHTS)) == 1

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

    def test_what_is_not(self, hub: FakeHub, store: Store, tmp_path: Path) -> None:
        assert complaint(store, offline=True) == (
            "owner/nano: was not pulled, is not in the Hugging Face cache, and nothing is "
            "downloaded offline"
        )
        pull(store, REPOSITORY)
        shutil.rmtree(constants.HF_HUB_CACHE)
        hub.requests.clear()
        there = "what was pulled is int8 of revision main (0123456789ab), not"
        assert f"{there} float32 of main" in complaint(store, dtype="float32", offline=True)
        assert f"{there} int8 of v1" in complaint(store, revision="v1", offline=True)
        model = store.find(REPOSITORY)
        assert pull(store, REPOSITORY, offline=True, force=True) == (model, True)
        assert hub.requests == []

    @pytest.mark.parametrize("revision", ["main", "v1", COMMIT])
    def test_what_is_in_the_hugging_face_cache_is_converted(
        self, hub: FakeHub, store: Store, monkeypatch: pytest.MonkeyPatch, revision: str
    ) -> None:
        first, _ = pull(store, REPOSITORY, revision=revision)
        store.remove(REPOSITORY)
        with no_network(monkeypatch):
            model, was_there = pull(store, REPOSITORY, revision=revision, offline=True)
        assert not was_there
        assert store.all() == [model]
        assert (model.revision, model.commit, model.files) == (revision, COMMIT, first.files)

    @pytest.mark.parametrize("options", [{"dtype": "float16"}, {"force": True}])
    def test_also_another_dtype_and_by_force(
        self, hub: FakeHub, store: Store, options: dict[str, Any]
    ) -> None:
        first, _ = pull(store, REPOSITORY)
        hub.requests.clear()
        model, was_there = pull(store, REPOSITORY, offline=True, **options)
        assert not was_there
        assert model.pulled > first.pulled
        assert hub.requests == []

    @pytest.mark.parametrize("name", ["tokenizer.json", WEIGHTS])
    def test_a_part_of_a_model(self, hub: FakeHub, store: Store, name: str) -> None:
        pull(store, REPOSITORY)
        store.remove(REPOSITORY)
        (snapshot_folder() / name).unlink()
        assert complaint(store, offline=True) == (
            f"{snapshot_folder()}: has no {name}, and nothing is downloaded offline"
        )
        assert store.all() == []

    @pytest.mark.parametrize(("name", "kind"), [(WEIGHTS, "sha256"), ("tokenizer.json", "git")])
    def test_a_damaged_file(self, hub: FakeHub, store: Store, name: str, kind: str) -> None:
        pull(store, REPOSITORY)
        store.remove(REPOSITORY)
        file = snapshot_folder() / name
        file.write_bytes(damage(hub.files[name]))
        message = complaint(store, offline=True)
        assert message.startswith(f"{file}: is damaged: its {kind}")
        assert message.endswith("; pull the model again with the network")
        assert store.all() == []


@pytest.mark.usefixtures("conversions")
class TestEarlierVersions:
    """They kept downloads in the home folder."""

    @pytest.fixture
    def downloads(self, store: Store) -> Path:
        folder = store.home / "downloads" / "owner--nano"
        (folder / COMMIT).mkdir(parents=True)
        (folder / COMMIT / f"{WEIGHTS}.part").write_bytes(b"half")
        return folder

    def test_what_they_left_is_removed(
        self, hub: FakeHub, store: Store, downloads: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = downloads.with_name("owner--other")
        other.mkdir()
        pull(store, REPOSITORY)
        said = f"whisper-npu: removed {downloads}: downloads are now kept in the Hugging Face cache"
        assert capsys.readouterr().err == f"{said}\n"
        assert list(downloads.parent.iterdir()) == [other]
        pull(store, REPOSITORY)
        assert capsys.readouterr().err == ""

    def test_their_models_are_used(self, hub: FakeHub, store: Store) -> None:
        folder = store.home / "models" / "owner--nano"
        folder.mkdir(parents=True)
        files = {name: hub.files[name] for name in (WEIGHTS, "config.json", "tokenizer.json")}
        for name, content in files.items():
            (folder / name).write_bytes(content)
        described = {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        }
        record = {
            "repository": REPOSITORY,
            "revision": "main",
            "commit": COMMIT,
            "dtype": "float32",
            "pulled": "2026-01-01T00:00:00.000000Z",
            "files": described,
        }
        (folder / "whisper-npu.json").write_text(json.dumps(record))
        model, was_there = pull(store, REPOSITORY, dtype="float32")
        assert was_there
        assert (model.path, model.pulled) == (folder, record["pulled"])
        assert hub.asked(WEIGHTS) == []
        assert model_directory(REPOSITORY) == folder

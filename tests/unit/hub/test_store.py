"""The cache: what a model's record says, how models come in and go, and who may change them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.hub.fake_hub import COMMIT
from whisper_npu.errors import ModelError, OptionError, OutputError
from whisper_npu.files import whole
from whisper_npu.hub.store import RECORD, Store, StoredModel

NANO = "owner/nano"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def install(store: Store, repository: str = NANO, weights: bytes = b"weights") -> StoredModel:
    with store.incoming(repository) as made:
        made.mkdir()
        (made / "model.safetensors").write_bytes(weights)
        (made / "config.json").write_text("{}")
        return store.install(made, repository, "main", COMMIT, "int8")


def entries(store: Store) -> list[str]:
    return sorted(path.name for path in (store.home / "models").iterdir())


class TestPlace:
    def test_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/someone")
        monkeypatch.setenv("WHISPER_NPU_HOME", "~/models")
        assert Store().home == Path("/home/someone/models")

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have other places")
    def test_without_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WHISPER_NPU_HOME", "")
        monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
        assert Store().home == Path("/caches/whisper-npu")


class TestModels:
    def test_an_empty_cache(self, store: Store) -> None:
        assert store.all() == []
        assert store.latest() is None
        assert store.find("tiny") is None
        assert not store.home.exists()

    def test_the_record(self, store: Store) -> None:
        model = install(store)
        assert store.find(NANO) == model
        content = json.loads((model.path / RECORD).read_text())
        assert content["repository"] == NANO
        assert (content["revision"], content["commit"]) == ("main", COMMIT)
        assert content["dtype"] == "int8"
        assert content["files"] == {
            "config.json": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
            "model.safetensors": {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()},
        }
        assert model.size == 9
        assert len(content["pulled"]) == len("2026-01-01T00:00:00.000000Z")

    def test_a_record_of_a_version_without_packages(self, store: Store) -> None:
        model = install(store)
        content = json.loads((model.path / RECORD).read_text())
        assert content.pop("packages") == ""
        (model.path / RECORD).write_text(json.dumps(content))
        assert store.find(NANO) == model

    def test_names(self, store: Store) -> None:
        tiny, nano = install(store, "openai/whisper-tiny"), install(store)
        assert (tiny.name, nano.name) == ("tiny", NANO)
        assert store.find("tiny") == store.find("OpenAI/Whisper-Tiny") == tiny
        assert store.all() == [nano, tiny]
        assert entries(store) == ["openai--whisper-tiny", "owner--nano"]

    def test_the_latest(self, store: Store) -> None:
        for repository in ("a/b", NANO, "a/b"):
            model = install(store, repository)
            assert store.latest() == model

    def test_what_is_no_name(self, store: Store) -> None:
        with pytest.raises(OptionError):
            store.find("../etc")

    def test_replacing(self, store: Store) -> None:
        install(store)
        model = install(store, weights=b"others")
        assert (model.path / "model.safetensors").read_bytes() == b"others"
        assert store.find(NANO) == model
        assert entries(store) == ["owner--nano"]

    def test_a_model_comes_back_if_the_new_one_cannot_take_its_place(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, rename = install(store), Path.rename

        def refuse(path: Path, target: Path) -> Path:
            if path.name == "model":
                raise PermissionError(13, "in use")
            return rename(path, target)

        # As where two names cannot be exchanged.
        monkeypatch.setattr(whole, "_exchange", lambda new, path: False)
        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(OutputError, match="in use"):
            install(store, weights=b"others")
        assert store.find(NANO) == model
        assert model.is_whole()
        assert entries(store) == ["owner--nano"]

    def test_whole_or_not(self, store: Store) -> None:
        model = install(store)
        assert model.is_whole()
        (model.path / "model.safetensors").write_bytes(b"short")
        assert not model.is_whole()
        (model.path / "model.safetensors").unlink()
        assert not model.is_whole()

    def test_a_model_that_fails_to_be_made_leaves_nothing(self, store: Store) -> None:
        model = install(store)
        with suppress(ZeroDivisionError), store.incoming(NANO) as made:
            made.mkdir()
            raise ZeroDivisionError
        assert store.all() == [model]
        assert entries(store) == ["owner--nano"]

    def test_what_a_killed_process_leaves_is_cleared_away(self, store: Store) -> None:
        model = install(store)
        for state in ("incoming", "replaced"):
            (store.home / "models" / f".owner--nano.{state}" / "model").mkdir(parents=True)
        assert store.all() == [model]
        install(store)
        assert entries(store) == ["owner--nano"]

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "[]",
            "{}",
            '{"repository": "a", "revision": "b", "commit": "c", "dtype": "d", "pulled": "e"}',
        ],
    )
    def test_a_damaged_record(self, store: Store, content: str) -> None:
        record = install(store).path / RECORD
        record.write_text(content)
        for look in (store.all, store.latest, lambda: store.find(NANO)):
            with pytest.raises(ModelError) as caught:
                look()
            message = str(caught.value)
            assert message.startswith(str(record))
            assert message.endswith("whisper-npu models remove owner/nano")
        store.remove(NANO)
        assert store.all() == []

    @pytest.mark.parametrize("missing", ["model.safetensors", "commit", "size"])
    def test_an_incomplete_record(self, store: Store, missing: str) -> None:
        record = install(store).path / RECORD
        record.write_text(record.read_text().replace(f'"{missing}"', '"other"'))
        with pytest.raises(ModelError, match="is damaged; remove the model with"):
            store.find(NANO)

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
    def test_a_cache_that_cannot_be_written(self, store: Store) -> None:
        store.home.mkdir()
        store.home.chmod(0o500)
        with pytest.raises(OutputError, match="WHISPER_NPU_HOME names another place"):
            install(store)

    def test_a_cache_that_is_a_file(self, store: Store) -> None:
        store.home.write_text("file")
        with pytest.raises(OutputError, match="WHISPER_NPU_HOME names another place"):
            install(store)
        with (
            pytest.raises(OutputError, match="WHISPER_NPU_HOME names another place"),
            store.changing(NANO),
        ):
            pass
        with pytest.raises(ModelError, match="models: cannot be read"):
            store.latest()


class TestRemoval:
    def test_it_takes_the_download_of_an_earlier_version_too(
        self, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        install(store)
        other = install(store, "a/b")
        downloads = store.home / "downloads" / "owner--nano" / COMMIT
        downloads.mkdir(parents=True)
        (downloads / "model.safetensors.part").write_bytes(b"half")
        store.remove(NANO)
        assert store.all() == [other]
        assert not downloads.parent.exists()
        said = f"whisper-npu: removed {downloads.parent}: downloads are now kept in the Hugging"
        assert capsys.readouterr().err == f"{said} Face cache\n"

    def test_of_a_mere_download(self, store: Store) -> None:
        downloads = store.home / "downloads" / "owner--nano"
        downloads.mkdir(parents=True)
        store.remove(NANO)
        assert not downloads.exists()

    def test_of_what_is_not_there(self, store: Store) -> None:
        with pytest.raises(ModelError, match=r"^tiny: was not pulled; .* there: none is$"):
            store.remove("tiny")
        install(store, "openai/whisper-base")
        install(store)
        with pytest.raises(ModelError, match=r"there: base, owner/nano$"):
            store.remove("tiny")


class TestLeftovers:
    @pytest.fixture
    def left(self, store: Store) -> list[Path]:
        """What killed processes left of another model."""
        folders = [store.home / "models" / f".a--b.{s}" for s in ("incoming", "removed")]
        for folder in folders:
            (folder / "model").mkdir(parents=True)
        return folders

    def test_are_removed_by_whoever_changes_a_model(self, store: Store, left: list[Path]) -> None:
        with store.changing(NANO):
            assert not any(folder.exists() for folder in left)

    def test_are_removed_by_a_removal_of_what_is_not_there(
        self, store: Store, left: list[Path]
    ) -> None:
        install(store)
        with pytest.raises(ModelError, match="a/b: was not pulled"):
            store.remove("a/b")
        assert os.listdir(store.home / "models") == ["owner--nano"]

    def test_of_the_living_stay(self, store: Store, left: list[Path]) -> None:
        with store.changing("a/b"):
            for folder in left:
                folder.mkdir(parents=True)
            with Store(store.home).changing(NANO):
                assert all(folder.exists() for folder in left)


class TestLock:
    def test_the_second_waits(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        order = []

        def second() -> None:
            with Store(store.home).changing(NANO):
                order.append("second")

        with store.changing(NANO):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(0.2)
            order.append("first")
        thread.join()
        assert order == ["first", "second"]
        waiting = "whisper-npu: waiting for another process that pulls owner/nano\n"
        assert capsys.readouterr().err == waiting

    def test_other_repositories_do_not(self, store: Store) -> None:
        with store.changing(NANO), Store(store.home).changing("a/b"):
            pass

    def test_nothing_is_removed_while_it_is_pulled(self, store: Store) -> None:
        install(store)
        with (
            store.changing(NANO),
            pytest.raises(ModelError, match="another process; try again later"),
        ):
            Store(store.home).remove(NANO)
        assert store.find(NANO) is not None

    def test_a_killed_process_holds_none(self, store: Store) -> None:
        code = (
            "import os, pathlib, sys\n"
            "from whisper_npu.hub.store import Store\n"
            "with Store(pathlib.Path(sys.argv[1])).changing('owner/nano'): os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", code, str(store.home)], check=True)
        with store.changing(NANO, wait=False):
            pass

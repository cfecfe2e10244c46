"""Several files at a time: what is said and written of each is what it would be alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake import FakeStream, FakeTranscriber
from whisper_npu.cli import main, progress
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.errors import AudioError, ModelError, OutputError
from whisper_npu.results import Segment

FILES = ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]


class Together(FakeTranscriber):
    """Lets a file begin when ``count`` are under way, and those that come first end last."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._all_here = threading.Barrier(count, timeout=30)
        self.under_way = self.most = 0
        self._lock = threading.Lock()
        self.closed: list[str] = []

    def segments(self, audio: str, options: TranscribeOptions) -> FakeStream:
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        if self.most <= self._all_here.parties and audio in FILES[: self._all_here.parties]:
            self._all_here.wait()
        return _Slow(audio, options, self)


class _Slow(FakeStream):
    def __init__(self, name: str, options: TranscribeOptions, owner: Together) -> None:
        super().__init__(name, options)
        self._name, self._owner = name, owner

    def __iter__(self) -> Iterator[Segment]:
        if self._name in self._owner.fails:
            raise self._owner.fails[self._name]
        time.sleep(0.02 * (len(FILES) - FILES.index(self._name)))
        yield from super().__iter__()
        with self._owner._lock:
            self._owner.under_way -= 1

    def close(self) -> None:
        self._owner.closed.append(self._name)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Together:
    from whisper_npu.cli import transcribe

    monkeypatch.chdir(tmp_path)
    transcriber = Together(3)
    monkeypatch.setattr(transcribe, "load", lambda model, machine: transcriber)
    return transcriber


def test_what_is_said_is_said_in_the_order_of_the_files(
    fake: FakeTranscriber,
    together: Together,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["transcribe", "--model=fake", *FILES, "-f", "txt"]
    assert main([*arguments, "--jobs", "3"]) == 0
    said = capsys.readouterr().out
    assert together.most == 3
    written = {path.name: path.read_text() for path in Path().glob("*.txt")}
    assert len(written) == len(FILES)

    from whisper_npu.cli import transcribe

    monkeypatch.setattr(transcribe, "load", lambda model, machine: fake)
    assert main(arguments) == 0
    assert capsys.readouterr().out == said
    assert {path.name: path.read_text() for path in Path().glob("*.txt")} == written


def test_an_error_is_that_of_its_file(
    together: Together, capsys: pytest.CaptureFixture[str]
) -> None:
    together.fails["b.wav"] = AudioError("b.wav: is empty")
    together.fails["d.wav"] = ZeroDivisionError("no idea")
    assert main(["transcribe", "--model=fake", *FILES, "-f", "txt", "--jobs", "3"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "whisper-npu: error: b.wav: is empty"
    assert errors[1].startswith("Traceback")
    assert errors[-1] == "whisper-npu: error: d.wav: ZeroDivisionError: no idea"
    assert sorted(path.name for path in Path().glob("*.txt")) == ["a.txt", "c.txt", "e.txt"]


def test_what_is_wrong_for_all_ends_the_command(
    together: Together, capsys: pytest.CaptureFixture[str]
) -> None:
    together.fails["a.wav"] = ModelError("its windows are longer than 30 seconds")
    assert main(["transcribe", "--model=fake", *FILES, "-f", "txt", "--jobs", "3"]) == 3
    assert capsys.readouterr().err == (
        "whisper-npu: error: its windows are longer than 30 seconds\n"
    )
    # Those under way were given up, and no others begun.
    assert set(together.closed) <= {"b.wav", "c.wav", "d.wav", "e.wav"}
    assert together.closed


def test_no_jobs(together: Together, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "--model=fake", "a.wav", "--jobs", "0"]) == 2
    assert capsys.readouterr().err == "whisper-npu: error: --jobs: must be 1 or more, not 0\n"


@pytest.mark.parametrize(
    ("error", "code"), [(BrokenPipeError(), 0), (OutputError("standard output: is full"), 4)]
)
def test_files_are_written_where_stdout_is_not(
    together: Together,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(progress, "say", refuse)
    assert main(["transcribe", "--model=fake", *FILES, "-f", "txt", "--jobs", "3"]) == code
    assert len(list(Path().glob("*.txt"))) == len(FILES)
    told = "whisper-npu: error: standard output: is full\n" if code else ""
    assert capsys.readouterr().err == len(FILES) * told

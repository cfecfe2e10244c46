"""The transcribe command around a transcriber that makes its text up."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake import FakeStream, FakeTranscriber
from whisper_npu.cli import main, transcribe
from whisper_npu.decoding.options import TranscribeOptions
from whisper_npu.errors import AudioError, ModelError
from whisper_npu.results import Segment
from whisper_npu.text import writers

FILES = ("json", "srt", "tsv", "txt", "vtt")


class TestOutputs:
    @pytest.mark.parametrize("output_format", [*FILES, "all"])
    def test_files(self, fake: FakeTranscriber, output_format: str) -> None:
        audio = ["some/one.wav", "two.x.mp3", "-"]
        arguments = ["--output-dir", "out/deep", "-f", output_format]
        assert main(["transcribe", "--model=fake", *audio, *arguments]) == 0
        assert [path for path, _ in fake.calls] == audio
        formats = FILES if output_format == "all" else (output_format,)
        expected = [f"{stem}.{e}" for stem in ("one", "stdin", "two.x") for e in formats]
        assert sorted(os.listdir("out/deep")) == expected

    def test_contents(self, fake: FakeTranscriber) -> None:
        assert main(["transcribe", "--model=fake", "a.wav", "--language", "en"]) == 0
        result = FakeStream("a.wav", TranscribeOptions(language="en"))
        list(result)
        expected = result.result().to_dict()
        assert json.loads(Path("a.json").read_text()) == expected
        for extension in FILES:
            rendered = writers.RENDERERS[extension](expected, writers.LineOptions())
            assert Path(f"a.{extension}").read_text(encoding="utf-8") == rendered

    def test_line_options(self, fake: FakeTranscriber) -> None:
        arguments = ["--word_timestamps", "True", "--highlight_words", "True", "-f", "vtt"]
        assert main(["transcribe", "--model=fake", "a.wav", *arguments]) == 0
        assert "<u>a.wav →</u>" in Path("a.vtt").read_text(encoding="utf-8")

    def test_what_steers_a_terminal_is_escaped_there_and_written_as_it_is(
        self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = "a\x1b[31m\x9b\u202e.wav"
        assert main(["transcribe", "--model=fake", name, "-f", "txt"]) == 0
        shown = capsys.readouterr().out
        assert r"a\x1b[31m\x9b\u202e.wav →" in shown
        assert not {"\x1b", "\x9b", "\u202e"} & {*shown}
        written = Path(name).with_suffix(".txt").read_text(encoding="utf-8")
        assert written == f"{name} →\n{name} →\n"
        fake.fails["b\n.wav"] = AudioError("b\n.wav: no such file")
        assert main(["transcribe", "--model=fake", "b\n.wav", "-f", "txt"]) == 1
        assert capsys.readouterr().err == "whisper-npu: error: b\\n.wav: no such file\n"

    @pytest.mark.parametrize("name", ["out/deep", "."])
    def test_an_output_dir_that_is_removed_meanwhile(
        self, fake: FakeTranscriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        work = tmp_path / "work"
        work.mkdir()
        monkeypatch.chdir(work)
        segments = FakeStream.__iter__

        def removed(stream: FakeStream) -> Iterator[Segment]:
            shutil.rmtree(work if name == "." else work / "out")
            return segments(stream)

        monkeypatch.setattr(FakeStream, "__iter__", removed)
        assert main(["transcribe", "--model=fake", "a.wav", "-o", name]) == 0
        assert sorted(os.listdir(work / name)) == [f"a.{extension}" for extension in FILES]

    def test_an_output_dir_that_cannot_be(
        self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("file").touch()
        assert main(["transcribe", "--model=fake", "a.wav", "-o", "file/out"]) == 4
        error = capsys.readouterr().err
        assert error.startswith("whisper-npu: error: file/out: cannot write to this folder (")
        assert error.count("\n") == 1
        assert fake.calls == []

    def test_an_output_that_cannot_be_written(
        self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("a.txt").mkdir()
        assert main(["transcribe", "--model=fake", "a.wav", "b.wav", "-f", "txt"]) == 4
        assert "error: a.txt: cannot be written (Is a directory)" in capsys.readouterr().err
        assert Path("b.txt").exists()


class TestFailures:
    def test_the_other_files_are_transcribed(
        self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake.fails["b.wav"] = AudioError("b.wav: is empty (0 bytes); give an audio file")
        assert main(["transcribe", "--model=fake", "a.wav", "b.wav", "c.wav", "-f", "txt"]) == 1
        assert capsys.readouterr().err == (
            "whisper-npu: error: b.wav: is empty (0 bytes); give an audio file\n"
        )
        assert sorted(os.listdir()) == ["a.txt", "c.txt"]

    def test_a_defect_of_the_program(
        self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake.fails["a.wav"] = ZeroDivisionError("no idea")
        assert main(["transcribe", "--model=fake", "a.wav", "b.wav", "-f", "txt"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("Traceback")
        assert error.endswith("whisper-npu: error: a.wav: ZeroDivisionError: no idea\n")
        assert os.listdir() == ["b.txt"]

    def test_the_model(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        def load(model: str, machine: object) -> None:
            raise ModelError(f"{model}: no such folder")

        monkeypatch.setattr(transcribe, "load", load)
        assert main(["transcribe", "a.wav", "--model", "nowhere", "-o", str(tmp_path)]) == 3
        assert capsys.readouterr().err == "whisper-npu: error: nowhere: no such folder\n"

    def test_interrupted(self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]) -> None:
        fake.fails["a.wav"] = KeyboardInterrupt()  # type: ignore[assignment]
        assert main(["transcribe", "--model=fake", "a.wav", "b.wav"]) == 130
        assert capsys.readouterr().err == "whisper-npu: interrupted\n"
        assert os.listdir() == []


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


LINES = "[00:00.000 --> 00:02.500]  a.wav →\n[00:02.500 --> 00:05.000]  a.wav →\n"


class TestDisplay:
    def test_segments_are_printed(
        self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["transcribe", "--model=fake", "a.wav"]) == 0
        assert capsys.readouterr() == ("Detected language: Welsh (probability 0.99)\n" + LINES, "")

    def test_a_given_language_was_not_detected(
        self, fake: FakeTranscriber, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["transcribe", "--model=fake", "a.wav", "--language", "cy"]) == 0
        assert capsys.readouterr() == (LINES, "")

    @pytest.mark.parametrize(
        ("arguments", "out"),
        [
            (["--verbose", "False"], "Detected language: Welsh (probability 0.99)\n"),
            (["--quiet"], ""),
        ],
    )
    def test_less(
        self,
        fake: FakeTranscriber,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        out: str,
    ) -> None:
        assert main(["transcribe", "--model=fake", "a.wav", *arguments]) == 0
        assert capsys.readouterr() == (out, "")

    def test_segments_are_printed_as_they_are_found(
        self, fake: FakeTranscriber, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Pipe(io.StringIO):
            flushed = ""

            def flush(self) -> None:
                Pipe.flushed = self.getvalue()

        found = []
        original = FakeStream.__iter__

        def watched(self: FakeStream) -> Iterator[Segment]:
            for segment in original(self):
                found.append(Pipe.flushed.count("-->"))
                yield segment

        monkeypatch.setattr(FakeStream, "__iter__", watched)
        monkeypatch.setattr(sys, "stdout", Pipe())
        assert main(["transcribe", "--model=fake", "a.wav"]) == 0
        assert found == [0, 1]

    def test_a_console_that_has_no_arrow(
        self, fake: FakeTranscriber, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
        assert main(["transcribe", "--model=fake", "a.wav", "-f", "txt"]) == 0
        assert raw.getvalue().decode("latin-1").endswith(LINES.replace("→", "?"))
        assert Path("a.txt").read_text(encoding="utf-8") == "a.wav →\na.wav →\n"

    @pytest.mark.parametrize(
        ("arguments", "stdout", "stderr", "bar"),
        [
            ([], Terminal, Terminal, False),
            ([], io.StringIO, Terminal, True),
            (["--verbose", "False"], Terminal, Terminal, True),
            (["--verbose", "False"], Terminal, io.StringIO, False),
            (["--quiet"], io.StringIO, Terminal, False),
        ],
    )
    def test_progress_bar(
        self,
        fake: FakeTranscriber,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        stdout: type[io.StringIO],
        stderr: type[io.StringIO],
        bar: bool,
    ) -> None:
        streams = stdout(), stderr()
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        assert main(["transcribe", "--model=fake", "a.wav", *arguments]) == 0
        monkeypatch.undo()
        printed = streams[1].getvalue()
        assert ("1000/1000" in printed and "frames/s" in printed) == bar
        assert printed == "" or bar

    def test_a_reader_that_leaves(self, tmp_path: Path) -> None:
        """The files are written even if nobody reads the segments any more."""
        script = (
            "import sys\n"
            "from tests.cli.fake import FakeTranscriber\n"
            "from whisper_npu.cli import main\n"
            "from whisper_npu.cli import transcribe\n"
            "transcribe.load = lambda model, machine: FakeTranscriber()\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        read, write = os.pipe()
        os.close(read)
        arguments = [
            "transcribe",
            "--model=fake",
            "a.wav",
            "b.wav",
            "-f",
            "txt",
            "-o",
            str(tmp_path),
        ]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], stdout=write, stderr=subprocess.PIPE
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (0, b"")
        assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_threads_are_set_before_numpy_is_loaded(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from whisper_npu.cli import main\n"
        "from whisper_npu.cli import transcribe\n"
        "def load(model, machine):\n"
        "    print('numpy' in sys.modules, os.environ['OPENBLAS_NUM_THREADS'])\n"
        "    sys.exit(0)\n"
        "transcribe.load = load\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "transcribe",
            "--model=fake",
            "a.wav",
            "--threads",
            "3",
            "-o",
            tmp_path,
        ],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("False 3\n", "")


def test_python_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "whisper_npu", "transcribe", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: whisper-npu transcribe" in done.stdout
    assert "--temperature_increment_on_fallback" in done.stdout

"""A command in a process of its own: streams that are closed or full, and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.signals import noise
from whisper_npu.cli import main, process

pytestmark = pytest.mark.skipif(os.name == "nt", reason="closes streams as a shell does")

GRAPH = ["graph", "--model", "tiny"]
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def transcription(folder: Path, seeded_directory: Callable[[Recipe], Path]) -> list[str]:
    model = str(seeded_directory(Recipe("nano")))
    return ["transcribe", "a.wav", "--model", model, "-o", "out", "--language", "en"]


def shell(arguments: Sequence[str], redirections: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whisper_npu", *arguments]
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *command], capture_output=True, text=True
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams_are_the_null_device(
    folder: Path, transcription: list[str], closed: str
) -> None:
    done = shell(transcription, closed)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert sorted(os.listdir("out")) == ["a.json", "a.srt", "a.tsv", "a.txt", "a.vtt"]
    # No file of ours got the number of a stream, and with it what is printed.
    assert (folder / "a.wav").read_bytes() == encode(noise(16000), 16000, "WAV")
    missing = shell(["transcribe", "none.wav", "--model", "demo"], closed)
    assert missing.returncode == 1
    assert ("none.wav: no such file" in missing.stderr) == ("2>&-" not in closed)


@pytest.mark.parametrize("closed", CLOSED)
def test_each_number_is_that_of_its_stream(closed: str) -> None:
    code = (
        "import os, sys\n"
        "from whisper_npu.cli.process import open_standard_streams\n"
        "open_standard_streams()\n"
        "null = os.stat(os.devnull)\n"
        "for n, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):\n"
        "    assert stream.fileno() == n\n"
        "    if sys.argv[1][n] == '1':\n"
        "        assert os.path.samestat(os.fstat(n), null)\n"
        "print('x', file=sys.stdout)\n"
        "print('x', file=sys.stderr)\n"
        "assert sys.stdin.read() == ''\n"
        "os._exit(7)"
    )
    made = "".join(str(int(sign in closed.split())) for sign in ("<&-", ">&-", "2>&-"))
    command = [sys.executable, "-c", code, made]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command], stdin=subprocess.DEVNULL, timeout=60
    )
    assert done.returncode == 7


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
class TestAFullStdout:
    ERROR = "whisper-npu: error: standard output: cannot be written: No space left on device"

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("arguments", [GRAPH, ["--help"], ["transcribe", "--help"]])
    def test_is_an_error(
        self, arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
        done = shell(arguments, ">/dev/full")
        assert (done.returncode, done.stderr) == (4, f"{self.ERROR}\n")

    def test_costs_no_transcript(self, folder: Path, transcription: list[str]) -> None:
        done = shell(transcription, ">/dev/full")
        assert done.returncode == 4
        assert done.stderr.splitlines()[-1] == self.ERROR
        assert len(os.listdir("out")) == 5

    def test_that_is_stderr_is_passed_over(self, transcription: list[str]) -> None:
        assert shell(transcription, "2>/dev/full").returncode == 0


# A signal arrives when a module is looked for, or a file renamed.
HOOKED = """
import os, signal, sys
from whisper_npu.cli import main
event, value, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
def hook(found, arguments):
    if found == event and value in str(arguments[0]):
        os.kill(os.getpid(), number)
sys.addaudithook(hook)
sys.exit(main(sys.argv[4:]))
"""
STOPPED = [
    (signal.SIGINT, 130, "whisper-npu: interrupted"),
    (signal.SIGTERM, 143, "whisper-npu: terminated"),
]


def stopped_at(
    event: str, value: str, number: int, arguments: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HOOKED, event, value, str(number), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(("number", "code", "said"), STOPPED)
@pytest.mark.parametrize("module", ["argparse", "whisper_npu.transcriber", "numpy", "soundfile"])
def test_a_signal_while_modules_are_imported(
    transcription: list[str], module: str, number: int, code: int, said: str
) -> None:
    done = stopped_at("import", module, number, transcription)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (code, [said])
    assert "Traceback" not in done.stderr


def test_what_is_imported_before_signals_are_handled() -> None:
    code = (
        "import sys, __future__\n"
        "before = {*sys.modules}\n"
        "import whisper_npu.cli\n"
        "print(*sorted({*sys.modules} - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["whisper_npu", "whisper_npu.cli", "whisper_npu.version"]


@pytest.mark.parametrize(("number", "code", "said"), STOPPED)
def test_a_signal_while_files_are_written(
    transcription: list[str], number: int, code: int, said: str
) -> None:
    done = stopped_at("os.rename", ".srt", number, transcription)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, said)
    left = os.listdir("out")
    assert not [name for name in left if name.startswith(".")]
    assert "a.txt" in left
    assert "a.json" not in left


def test_an_interrupt_where_nothing_can_be_raised(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "from whisper_npu.cli import process\n"
        "class Callback:\n"
        "    def __del__(self):\n"
        "        raise KeyboardInterrupt\n"
        "with process.handling_signals():\n"
        "    Callback()\n"
        "    print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "whisper-npu: interrupted\n")


@pytest.mark.parametrize("made", ["ImportError", "SystemExit", "None"])
def test_an_interrupt_that_something_else_is_made_of(made: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from whisper_npu import cli\n"
        "import whisper_npu.cli.program as program\n"
        "def run(argv):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        f"    if {made} is not None:\n"
        f"        raise {made}\n"
        "    return 0\n"
        "program.run = run\n"
        "sys.exit(cli.main([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "whisper-npu: terminated\n")


def test_a_signal_that_the_parent_ignores_is_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with process.handling_signals():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_are_the_callers_again_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    before = (signal.getsignal(signal.SIGTERM), sys.unraisablehook)
    assert main(["models"]) == 0
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before

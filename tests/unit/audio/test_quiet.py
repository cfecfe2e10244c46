"""What mpg123 in libsndfile prints does not get to the standard error of a command."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.audio_samples import encode
from tests.support.signals import noise
from whisper_npu import terminal


@pytest.fixture
def damaged_mp3(tmp_path: Path) -> Path:
    """Damage within frames, which nothing but their decoder sees."""
    mp3 = bytearray(encode(noise(5 * 44100), 44100, "MP3"))
    at = 0
    while (at := mp3.find(b"\xff\xfb", at + 400)) > 0:
        mp3[at + 8 : at + 40] = bytes(range(200, 232))
    path = tmp_path / "damaged.mp3"
    path.write_bytes(mp3)
    return path


def stderr_of(code: str, path: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path],
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    ).stderr


def test_mpg123_prints(damaged_mp3: Path) -> None:
    """Without which the other test would show nothing."""
    code = """
        import sys
        from whisper_npu.audio import load_audio
        load_audio(sys.argv[1])
        """
    assert "libmpg123" in stderr_of(code, damaged_mp3)


def test_a_command_is_quiet(damaged_mp3: Path) -> None:
    code = """
        import sys
        from whisper_npu.cli import main
        sys.exit(main(["transcribe", sys.argv[1], "--model", "demo", "--quiet", "-f", "txt",
                       "-o", sys.argv[1] + ".out", "--cpu_kernels", "False"]))
        """
    assert stderr_of(code, damaged_mp3) == ""


def test_standard_error_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    def say(text: str) -> None:
        os.write(2, text.encode())

    with terminal.silent_library():
        say("a")
    with terminal.silencing_libraries():
        with suppress(ZeroDivisionError), terminal.silent_library():
            say("b")
            raise ZeroDivisionError
        say("c")
    assert capfd.readouterr().err == "ac"

"""Bad audio and bad outputs through the whole program, with a small random model.

Every failure is one line that names the culprit, with the documented exit code, and the other file
of the call is transcribed all the same.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.signals import noise, tone
from whisper_npu.cli import main

FILES = ["good.json", "good.srt", "good.tsv", "good.txt", "good.vtt"]
NOT_A_NUMBER = noise(16000)
NOT_A_NUMBER[8000] = np.nan
INFINITE = noise(16000)
INFINITE[8000] = np.inf


@pytest.fixture
def run(
    seeded_directory: Callable[[Recipe], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Run the command in an empty folder that holds good.wav."""
    model = str(seeded_directory(Recipe(size="nano")))
    monkeypatch.chdir(tmp_path)
    Path("good.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    fast = ["--beam_size", "1", "--temperature_increment_on_fallback", "None", "--verbose", "False"]
    # A random model is not sure of any, which it would tell.
    fast += ["--language", "en"]

    def run(*arguments: str) -> int:
        return main(["transcribe", "--model", model, *fast, *arguments])

    return run


def outputs(stem: str = "") -> list[str]:
    return sorted(p.name for p in Path().iterdir() if p.suffix != ".wav" and stem in p.name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.wav: is empty (0 bytes); give an audio file"),
        (b"This is text.\n" * 500, "bad.wav: neither libsndfile ("),
        (np.random.RandomState(0).bytes(5000), "bad.wav: neither libsndfile ("),
        (
            encode(np.full(16000, 1e12), 16000, "WAV", "FLOAT"),
            "bad.wav: a sample at 0.000 s is 1e+12, where full scale is 1; repair the audio",
        ),
        (
            encode(NOT_A_NUMBER, 16000, "WAV", "FLOAT"),
            "bad.wav: a sample at 0.500 s is not a finite number; repair the audio",
        ),
        (
            encode(INFINITE, 16000, "WAV", "FLOAT"),
            "bad.wav: a sample at 0.500 s is not a finite number; repair the audio",
        ),
    ],
    ids=["empty", "text", "garbage", "beyond all sound", "nan", "infinity"],
)
def test_bad_files(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    if "neither" in message:
        pytest.importorskip("av")
    Path("bad.wav").write_bytes(content)
    assert run("bad.wav", "good.wav") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: error: {message}")
    assert error.count("\n") == 1
    assert outputs() == FILES


def test_missing_file(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("none.wav", "good.wav") == 1
    error = capsys.readouterr().err
    assert error == "whisper-npu: error: none.wav: no such file; check the name\n"
    assert outputs() == FILES


def test_directories(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one.wav/", "two.wav/"):
        Path(folder).mkdir()
    assert run("good.wav", "one.wav/", "two.wav/") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"whisper-npu: error: {folder}: is a folder; give the audio files in it"
        for folder in ("one.wav/", "two.wav/")
    ]
    assert outputs() == FILES


def test_empty_stdin(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert run("-", "good.wav") == 1
    error = capsys.readouterr().err
    assert error == "whisper-npu: error: standard input: is empty (0 bytes); give an audio file\n"
    assert outputs() == FILES


@pytest.mark.parametrize("n", [0, 1])
def test_no_samples_and_one_sample(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], n: int
) -> None:
    """Sound, if very short: an empty transcript, as with openai-whisper."""
    Path("short.wav").write_bytes(encode(np.zeros(n), 16000, "WAV"))
    assert run("short.wav", "--language", "en") == 0
    assert capsys.readouterr().err == ""
    result = json.loads(Path("short.json").read_text())
    assert result.pop("placement")["device"] is None
    assert result == {"text": "", "segments": [], "language": "en"}
    assert Path("short.txt").read_bytes() == b""
    assert run("short.wav") == 0
    assert json.loads(Path("short.json").read_text())["segments"] == []


def test_eight_channels_at_96_khz(run: Callable[..., int]) -> None:
    sound = np.tile(tone(1.0, 96000)[:, None], 8)
    Path("many.wav").write_bytes(encode(sound, 96000, "WAV", "PCM_24"))
    assert run("many.wav") == 0
    assert len(outputs("many")) == 5


def test_stdin(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("good.wav").read_bytes())))
    assert run("-", "good.wav") == 0
    for extension in ("srt", "tsv", "txt", "vtt"):
        assert Path(f"stdin.{extension}").read_bytes() == Path(f"good.{extension}").read_bytes()
    stdin, good = (json.loads(Path(f"{name}.json").read_text()) for name in ("stdin", "good"))
    for result in (stdin, good):
        del result["placement"]["seconds"]
    assert stdin == good


@pytest.mark.parametrize("folder", ["good.wav", "good.wav/below"])
def test_an_output_folder_that_cannot_be_made(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    assert run("good.wav", "--output_dir", folder) == 4
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: error: {folder}: cannot write to this folder (")
    assert error.endswith("); choose another with --output_dir\n")
    assert error.count("\n") == 1
    assert outputs() == []


def test_an_output_folder_that_cannot_be_written(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("locked").mkdir(mode=0o500)
    # Who may write everywhere may not in /proc.
    folder = "/proc" if os.access("locked", os.W_OK) else "locked"
    if not Path(folder).is_dir():
        pytest.skip("this user may write everywhere")
    assert run("good.wav", "--output_dir", folder) == 4
    error = capsys.readouterr().err
    assert error.startswith(f"whisper-npu: error: {folder}: cannot write to this folder (")


def test_an_output_that_cannot_be_written(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("good.txt").mkdir()
    Path("other.wav").write_bytes(Path("good.wav").read_bytes())
    assert run("good.wav", "other.wav", "-f", "txt") == 4
    assert capsys.readouterr().err == (
        "whisper-npu: error: good.txt: cannot be written (Is a directory); "
        "free the name or choose another folder with --output_dir\n"
    )
    assert outputs() == ["good.txt", "other.txt"]


def test_the_worst_failure_decides(run: Callable[..., int]) -> None:
    Path("good.txt").mkdir()
    assert run("good.wav", "none.wav", "-f", "txt") == 4


def test_a_language_that_the_model_has_not(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("good.wav", "--language", "xx") == 2
    error = capsys.readouterr().err
    assert error.startswith("whisper-npu: error: ")
    assert "'xx'" in error
    assert error.count("\n") == 1
    assert outputs() == []


def test_prompts_in_every_script(run: Callable[..., int]) -> None:
    assert run("good.wav", "--initial_prompt", "naïve 很高 🎉 \u202e", "-f", "json") == 0

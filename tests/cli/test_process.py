"""The installed program in a process of its own: what it imports, and its threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.audio_samples import encode
from tests.support.checkpoints import Recipe
from tests.support.signals import noise

# Frameworks that others run Whisper with, and what only developers need.
FORBIDDEN = (
    "torch",
    "onnxruntime",
    "ctranslate2",
    "transformers",
    "whisper",
    "tensorflow",
    "pytest",
)


@pytest.fixture
def model(seeded_directory: Callable[[Recipe], Path]) -> str:
    return str(seeded_directory(Recipe("nano")))


def python(code: str, folder: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_no_framework_is_imported(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    loaded = python(
        "import sys\n"
        "from whisper_npu.cli import main\n"
        "assert main(['transcribe', 'a.wav', '--quiet', '--model', sys.argv[1],\n"
        "             '--word_timestamps', 'True']) == 0\n"
        "print(*sys.modules, file=sys.stdout)",
        tmp_path,
        model,
    ).split()
    assert "whisper_npu.runtime.model" in loaded
    assert not [name for name in loaded if name.split(".")[0] in FORBIDDEN]


def test_help_loads_neither_numpy_nor_graphs(tmp_path: Path) -> None:
    loaded = python(
        "import sys, contextlib\n"
        "from whisper_npu.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):\n"
        "    main(['transcribe', '--help'])\n"
        "print(*sys.modules)",
        tmp_path,
    ).split()
    assert "whisper_npu.cli" in loaded
    assert not {"numpy", "whisper_npu.model.graph"} & {*loaded}


@pytest.mark.parametrize("arguments", [["--help"], ["graph", "--model", "tiny"]])
def test_a_reader_that_has_gone(arguments: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "whisper_npu", *arguments],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_what_a_transcription_does_not_need_is_not_imported(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    loaded = python(
        "import sys\n"
        "from whisper_npu.cli import main\n"
        "assert main(['transcribe', 'a.wav', '--quiet', '--model', sys.argv[1],\n"
        "             '--suppress_tokens', '', '--language', 'en']) == 0\n"
        "print(*sys.modules)",
        tmp_path,
        model,
    ).split()
    assert "whisper_npu.runtime.model" in loaded
    unneeded = ("whisper_npu.backends.npu", "whisper_npu.hub.", "whisper_npu.convert")
    # Of the hub, it is needed what a name is and which folder it means.
    found = {name for name in loaded if name.startswith(unneeded)}
    assert found <= {"whisper_npu.hub.names", "whisper_npu.hub.folders"}
    others = {"tokenizers", "soxr", "tqdm", "huggingface_hub", "jsonschema", "html"}
    assert not others & {*loaded}
    # NumPy 2 imports it when it is named.
    assert np.__version__ < "2" or "numpy.ma" not in loaded


def test_threads_are_set_before_numpy_reads_them(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode(noise(16000), 16000, "WAV"))
    code = (
        "import os, sys\n"
        "from whisper_npu.cli import main\n"
        "assert main(['transcribe', 'a.wav', '--quiet', '--model', sys.argv[1],\n"
        "             '--threads', sys.argv[2]]) == 0\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    if not Path("/proc/self/task").is_dir() or os.cpu_count() == 1:
        pytest.skip("counts threads in /proc, and needs two cores")
    # OpenBLAS starts no more threads than there are cores; and with its second comes one of ours.
    one, two = (int(python(code, tmp_path, model, n)) for n in ("1", "2"))
    assert two - one == 2

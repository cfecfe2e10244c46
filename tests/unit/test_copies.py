"""Transcribers, results and options in other processes: pickled, copied, forked and spawned."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkpoints import Recipe
from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.signals import noise
from whisper_npu import MachineOptions, Segment, TranscribeOptions, Transcriber, Transcription
from whisper_npu.backends.npu.software import SoftwareDevice
from whisper_npu.errors import OptionError

AUDIO = noise(16000 * 3)
GREEDY = {"language": "en", "temperature": 0.0, "sample_len": 20}


@pytest.fixture
def model(seeded_directory: Callable[[Recipe], Path]) -> Path:
    return seeded_directory(Recipe("nano", seed=1))


@pytest.fixture
def transcriber(model: Path) -> Transcriber:
    return Transcriber(model, precision="int8", cpu_kernels=False)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, *[lambda t, p=p: pickle.loads(pickle.dumps(t, p)) for p in (2, 5)]],
    ids=["copy", "deepcopy", "pickle 2", "pickle 5"],
)
def test_a_copy_of_a_transcriber(
    transcriber: Transcriber, copied: Callable[[Transcriber], Transcriber]
) -> None:
    other = copied(transcriber)
    assert other is not transcriber
    expected = transcriber.transcribe(AUDIO, **GREEDY)
    found = other.transcribe(AUDIO, **GREEDY)
    assert found == expected
    assert found.placement is not None
    assert found.placement.precision == "int8"
    # The one's end is not the other's.
    transcriber.close()
    assert other.transcribe(AUDIO, **GREEDY) == expected


def test_a_pickle_has_what_it_was_made_of_and_no_weights(
    model: Path, transcriber: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    text = pickle.dumps(Transcriber(model.name, precision="int8"))
    assert len(text) < 1000
    # Wherever it is read.
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(text).transcribe(AUDIO, **GREEDY) == transcriber.transcribe(AUDIO, **GREEDY)
    assert b"demo" in pickle.dumps(Transcriber("demo"))
    assert str(tmp_path).encode() not in pickle.dumps(Transcriber("demo"))


def test_a_transcriber_with_a_device_of_its_owners(model: Path) -> None:
    transcriber = Transcriber(model, device=SoftwareDevice(), allow_fallback=True)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(OptionError, match=r"^device: .* or name the device, as device='npu'$"):
            copied(transcriber)


def test_results_and_options(transcriber: Transcriber) -> None:
    result = transcriber.transcribe(AUDIO, **GREEDY, word_timestamps=True)
    options = (
        MachineOptions(threads=2, kernels=["a"]),
        TranscribeOptions.from_keywords(clip_timestamps=[0.5, 1.0], temperature=(0.0, 0.2)),
    )
    for each in (result, result.segments, *options):
        for copied in (pickle.loads(pickle.dumps(each)), copy.copy(each), copy.deepcopy(each)):
            assert copied == each
    assert isinstance(pickle.loads(pickle.dumps(result)), Transcription)
    assert isinstance(result.segments[0], Segment)


def test_a_stream_says_what_can_be_copied(transcriber: Transcriber) -> None:
    stream = transcriber.segments(AUDIO, **GREEDY)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"^a SegmentStream .* and its result\(\) can$"):
            copied(stream)
    assert list(stream)
    assert pickle.loads(pickle.dumps(stream.result())) == stream.result()


PROGRAM = """
import os, sys, threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import numpy as np
from whisper_npu import Transcriber

audio = (0.1 * np.random.default_rng(0).standard_normal(48000)).astype(np.float32)
greedy = dict(language="en", temperature=0.0, sample_len=20)
model, kernels = sys.argv[1], sys.argv[2] == "True"

def work(_):
    return transcriber.transcribe(audio, **greedy).text

def given(other):
    return other.transcribe(audio, **greedy).text

def load():
    return Transcriber(model, precision="int8", cpu_kernels=kernels, threads=2)

"""
# What each program does; it prints the texts of the parent and of its children.
FORKED = """
transcriber = load()
print(repr(work(0)))
with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
    print(*map(repr, pool.map(work, range(3))), sep="\\n")
print(repr(work(0)))
"""
# A thread of the parent is within a transcription when it forks, and goes on.
FORKED_WITHIN = """
transcriber = load()
print(repr(work(0)))
inside, go_on = threading.Event(), threading.Event()
right, parent = transcriber._model.log_mel, os.getpid()
def slow(samples):
    if os.getpid() == parent:
        inside.set()
        go_on.wait()
    return right(samples)
transcriber._model.log_mel = slow
thread = threading.Thread(target=work, args=[0])
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    print(repr(work(0)), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
go_on.set()
thread.join()
"""
SPAWNED = """
if __name__ == "__main__":
    transcriber = load()
    print(repr(work(0)))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        print(repr(pool.submit(given, transcriber).result()))
"""
LOADED_IN_CHILDREN = """
with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=load) as pool:
    print(repr(pool.submit(given, load()).result()))
transcriber = load()
print(repr(work(0)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("kernels", [False, True], ids=["NumPy", "CPU kernels"])
@pytest.mark.parametrize(
    ("program", "count"),
    [(FORKED, 5), (FORKED_WITHIN, 2), (SPAWNED, 2), (LOADED_IN_CHILDREN, 2)],
    ids=["fork", "fork within", "spawn", "loaded in children"],
)
def test_processes(
    program: str,
    count: int,
    kernels: bool,
    model: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if kernels:
        request.getfixturevalue("cpu_home")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM + textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(file), str(model), str(kernels)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stderr) == (0, "")
    texts = done.stdout.splitlines()
    assert len(texts) == count
    assert len({*texts}) == 1
    assert texts[0] != "''"

"""One transcriber in several threads, and with several recordings under way."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import Recipe
from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.rounding import but_for_rounding
from tests.support.signals import noise
from tests.support.waiting import LIMIT
from tests.unit.transcriber_jobs import (
    GREEDY,
    no_file_is_left,
    no_thread_is_left,
    open_files,
    sound,
)
from tests.unit.transcriber_jobs import compiled as compiled
from tests.unit.transcriber_jobs import spilled as spilled
from whisper_npu import Transcriber, Transcription
from whisper_npu.runtime.model import Model

# Of different lengths and options: plans of several shapes, beams, fallbacks and words.
JOBS: list[tuple[int, dict[str, Any]]] = [
    (1, {"language": None}),
    (1, {"beam_size": 3}),
    (2, {"temperature": (0.0, 0.6), "best_of": 2, "logprob_threshold": -0.1}),
    (2, {"word_timestamps": True}),
    (3, {}),
    (3, {"beam_size": 2, "word_timestamps": True}),
    (31, {"batch_size": 3, "condition_on_previous_text": False}),
    (4, {}),
]
N_THREADS = 8


@pytest.fixture(params=["NumPy", "CPU kernels"])
def transcriber(
    request: pytest.FixtureRequest, seeded_directory: Callable[[Recipe], Path]
) -> Iterator[Transcriber]:
    if request.param == "CPU kernels":
        yield request.getfixturevalue("compiled")
        return
    with Transcriber(seeded_directory(Recipe("nano", seed=1))) as made:
        yield made


def transcribe(transcriber: Transcriber, number: int) -> Transcription:
    seconds, options = JOBS[number]
    shared = {"language": "en", "temperature": 0.0, "sample_len": 12}
    return transcriber.transcribe(noise(16000 * seconds, seed=number), **{**shared, **options})


def without_placement(result: Transcription) -> dict[str, Any]:
    return {**result.to_dict(), "placement": None}


def without_choice(ops: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: counts for kind, counts in ops.items() if not kind.startswith("top_logprobs")}


def test_threads_get_what_one_thread_gets(transcriber: Transcriber) -> None:
    alone = [transcribe(transcriber, number) for number in range(len(JOBS))]
    assert len({result.text for result in alone}) > len(JOBS) // 2
    with ThreadPoolExecutor(N_THREADS) as threads:
        together = list(threads.map(lambda n: transcribe(transcriber, n), range(len(JOBS))))
    for one, other in zip(alone, together, strict=True):
        if transcriber._model.precision == "int8":
            assert other == one
        else:
            found_float, expected = (without_placement(each) for each in (other, one))
            assert found_float == but_for_rounding(expected)
        assert one.placement is not None
        assert other.placement is not None
        # None retired. What is shared with others may run the choice of tokens more often, and keys
        # and values of a window again whose place was taken between two attempts.
        kernels = {kind: set(counts) for kind, counts in one.placement.ops.items()}
        found = {kind: set(counts) for kind, counts in other.placement.ops.items()}
        assert without_choice(found) == without_choice(kernels)
        assert other.placement.fallbacks == ()
    no_thread_is_left()


def test_recordings_take_turns_in_one_thread(transcriber: Transcriber) -> None:
    audio = [noise(16000 * 40, seed=n) for n in (1, 2)]
    options = {"language": "en", "temperature": 0.0, "sample_len": 20}
    alone = [transcriber.transcribe(each, **options) for each in audio]
    streams = [transcriber.segments(each, **options) for each in audio]
    assert sum(len(pair) for pair in zip_longest(*streams)) > 3
    assert [stream.result() for stream in streams] == alone
    for one, stream in zip(alone, streams, strict=True):
        placement = stream.result().placement
        assert one.placement is not None
        assert placement is not None
        assert placement.ops == one.placement.ops


def test_closing_while_another_thread_decodes(transcriber: Transcriber) -> None:
    options = {"language": "en", "temperature": 0.0, "sample_len": 20}
    audio = noise(16000 * 40)
    alone = transcriber.transcribe(audio, **options)
    begun = threading.Event()
    found: list[Transcription] = []

    def decode() -> None:
        stream = transcriber.segments(audio, **options)
        next(stream)
        begun.set()
        for _ in stream:
            pass
        found.append(stream.result())

    thread = threading.Thread(target=decode)
    thread.start()
    begun.wait()
    transcriber.close()
    thread.join()
    assert [result.text for result in found] == [alone.text]


def test_a_stream_is_closed_by_another_thread(compiled: Transcriber, spilled: None) -> None:
    """At any moment: it ends with CancelledError, and with what it had open."""
    options = {**GREEDY, "sample_len": 12, "batch_size": 2, "condition_on_previous_text": False}
    audio = sound(65)
    alone = compiled.transcribe(audio, **options)
    no_thread_is_left()
    files, chance, ended = open_files(), random.Random(1), []
    began = time.perf_counter()
    compiled.transcribe(audio, **options)
    seconds = time.perf_counter() - began

    for _ in range(6):
        stream = compiled.segments(audio, **options)

        def decode(stream: Any = stream) -> BaseException | None:
            try:
                assert tuple(stream) == alone.segments
            except BaseException as what:
                return what
            return None

        with ThreadPoolExecutor(2) as threads:
            found = threads.submit(decode)
            other = threads.submit(compiled.transcribe, sound(2), **options)
            time.sleep(chance.uniform(0, seconds))
            stream.close()
            error = found.result(LIMIT)
            assert error is None or type(error) is CancelledError
            ended.append(error)
            assert other.result(LIMIT).text == compiled.transcribe(sound(2), **options).text
        # What was decoded before is still there.
        with suppress(CancelledError):
            assert len(list(stream)) <= len(alone.segments)
    assert any(error is not None for error in ended)
    no_thread_is_left()
    no_file_is_left(files)


def test_a_stream_whose_audio_is_closed_is_cancelled(compiled: Transcriber, spilled: None) -> None:
    stream = compiled.segments(sound(61), **GREEDY, sample_len=5)
    next(stream)
    stream.close()
    with pytest.raises(CancelledError):
        list(stream)


def test_closing_while_others_transcribe(compiled: Transcriber) -> None:
    alone = [transcribe(compiled, number) for number in (0, 1, 2, 4)]
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(transcribe, compiled, number) for number in (0, 1, 2, 4)]
        for _ in range(5):
            time.sleep(0.02)
            compiled.close()
        assert [each.result(LIMIT) for each in found] == alone
    no_thread_is_left()


def test_a_stream_that_is_dropped_is_given_up(compiled: Transcriber, spilled: None) -> None:
    options = {**GREEDY, "sample_len": 40, "batch_size": 3, "condition_on_previous_text": False}
    alone = compiled.transcribe(sound(5), **options)
    no_thread_is_left()
    files = open_files()
    gc.disable()
    try:
        for _ in range(3):
            stream = compiled.segments(sound(100), **options)
            next(stream)
            assert open_files() > files or not files
            del stream
            no_thread_is_left()
            no_file_is_left(files)
    finally:
        gc.enable()
    assert compiled.transcribe(sound(5), **options) == alone


def test_a_transcriber_is_given_back_between_steps(
    seeded_directory: Callable[[Recipe], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last of its streams, whose windows are being decoded."""
    transcriber = Transcriber(seeded_directory(Recipe("nano", seed=1)), cpu_kernels=False)
    where: list[str] = []
    known = weakref.ref(transcriber._model)
    release = Model.release

    def note(model: Model) -> None:
        where.append(threading.current_thread().name)
        release(model)

    monkeypatch.setattr(Model, "release", note)
    stream = transcriber.segments(
        sound(70), **GREEDY, sample_len=30, batch_size=2, condition_on_previous_text=False
    )
    next(stream)
    gc.collect()
    gc.disable()
    try:
        del stream, transcriber
        no_thread_is_left()
        assert where == ["whisper-npu-engine"]
        assert known() is None
    finally:
        gc.enable()

"""One transcriber in several threads, and with several recordings under way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import Recipe
from tests.support.cpu_library import cpu_home as cpu_home
from tests.support.signals import noise
from whisper_npu import Transcriber, Transcription
from whisper_npu.convert import convert

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
    request: pytest.FixtureRequest, seeded_directory: Callable[[Recipe], Path], tmp_path: Path
) -> Iterator[Transcriber]:
    floats = seeded_directory(Recipe("nano", seed=1))
    if request.param == "NumPy":
        with Transcriber(floats) as made:
            yield made
        return
    request.getfixturevalue("cpu_home")
    integers = convert(floats, tmp_path / "int8", calibrate=False).dest
    with Transcriber(integers, precision="int8", cpu_kernels=True) as made:
        yield made


def transcribe(transcriber: Transcriber, number: int) -> Transcription:
    seconds, options = JOBS[number]
    shared = {"language": "en", "temperature": 0.0, "sample_len": 12}
    return transcriber.transcribe(noise(16000 * seconds, seed=number), **{**shared, **options})


def without_choice(ops: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: counts for kind, counts in ops.items() if not kind.startswith("top_logprobs")}


def about(result: Transcription) -> Any:
    """Without the last digits of probabilities."""
    return json.loads(
        json.dumps({**result.to_dict(), "placement": None}),
        parse_float=lambda number: round(float(number), 4),
    )


def test_threads_get_what_one_thread_gets(transcriber: Transcriber) -> None:
    alone = [transcribe(transcriber, number) for number in range(len(JOBS))]
    assert len({result.text for result in alone}) > len(JOBS) // 2
    with ThreadPoolExecutor(N_THREADS) as threads:
        together = list(threads.map(lambda n: transcribe(transcriber, n), range(len(JOBS))))
    for (_, options), one, other in zip(JOBS, alone, together, strict=True):
        # Rows of float32 products are added up in an order that depends on how many there are.
        assert (
            other == one if transcriber._model.precision == "int8" else about(other) == about(one)
        )
        assert one.placement is not None
        assert other.placement is not None
        # None retired, and those of other threads are not counted: but for the choice of tokens,
        # which windows that are sampled share with those beside them. How many steps the windows of
        # one recording take together depends on the company.
        if "batch_size" not in options:
            assert without_choice(other.placement.ops) == without_choice(one.placement.ops)
        assert other.placement.fallbacks == ()


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

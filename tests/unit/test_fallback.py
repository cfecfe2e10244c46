"""What a window is prompted with, when it is tried again, and when it is silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.unit.decoding_fakes import FakeModel, replace_decoding, says, small_tokenizer, transcript
from whisper_npu.decoding.options import DecodingResult

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
A = TOKENIZER.encode(" the water")

# Prompts. Every window says A in one segment of 30 s.

SOT = TOKENIZER.sot_sequence
WINDOW = [BEGIN, *A, BEGIN + 100]


def prompts(n_windows: int = 3, **options: Any) -> list[tuple[int, ...]]:
    model = FakeModel(says(WINDOW))
    list(transcript([], 3000 * n_windows, model, **options))
    # What is between <|startofprev|> and the start of the transcript.
    return [prompt[1 : -len(SOT)] for prompt in model.prompts]


def test_the_text_so_far_is_the_prompt() -> None:
    assert prompts() == [(), tuple(WINDOW), tuple(WINDOW * 2)]
    assert prompts(condition_on_previous_text=False) == [(), (), ()]
    # Half of the context of 64, less <|startofprev|>.
    assert prompts(8)[-1] == tuple((WINDOW * 7)[-31:])


def test_text_of_high_temperature_is_no_prompt() -> None:
    assert prompts(temperature=0.5)[1] != ()
    assert prompts(temperature=0.6)[1:] == [(), ()]


def test_the_initial_prompt_precedes_the_text() -> None:
    start = tuple(TOKENIZER.encode(" the lighthouse"))
    text = "the lighthouse "
    assert prompts(initial_prompt=text) == [start, (*start, *WINDOW), (*start, *WINDOW * 2)]
    assert prompts(initial_prompt=text, condition_on_previous_text=False) == [start, (), ()]
    assert prompts(8, initial_prompt=text)[-1] == tuple((WINDOW * 7)[-31:])


def test_the_initial_prompt_can_be_carried() -> None:
    start = tuple(TOKENIZER.encode(" the lighthouse"))
    options = {"initial_prompt": "the lighthouse", "carry_initial_prompt": True}
    assert prompts(**options) == [start, (*start, *WINDOW), (*start, *WINDOW * 2)]
    assert prompts(**options, condition_on_previous_text=False) == [start] * 3
    assert prompts(8, **options)[-1] == (*start, *(WINDOW * 7)[-(31 - len(start)) :])


@pytest.mark.parametrize("n_tokens", [31, 40])
def test_an_initial_prompt_that_fills_the_context_is_carried_alone(n_tokens: int) -> None:
    text = " ".join(["the"] * n_tokens)
    start = tuple(TOKENIZER.encode(" the") * 31)
    assert prompts(initial_prompt=text, carry_initial_prompt=True) == [start] * 3


def test_the_text_is_without_the_initial_prompt() -> None:
    assert transcript(WINDOW, initial_prompt="the lighthouse").text == ""
    result = transcript(WINDOW, initial_prompt="the lighthouse")
    list(result)
    assert result.text == " the water"


def test_a_character_can_span_segments() -> None:
    lead, *rest = TOKENIZER.encode("\U0001f984")
    plan = [BEGIN, *A, lead, BEGIN + 50, BEGIN + 50, *rest, BEGIN + 100]
    result = transcript(plan, suppress_tokens="")
    assert [s.text for s in result] == [" the water\ufffd", "\ufffd" * len(rest)]
    assert result.text == " the water\U0001f984"


# Fallback and silence: results by temperature.


class Attempts:
    """Replaces decoding: window and temperature decide the outcome, which is kept."""

    def __init__(self, outcome: Callable[[int, float], Mapping[str, float]]) -> None:
        self.outcome = outcome
        self.tried: list[tuple[int, float]] = []

    def __call__(self, seek: int, options: Any, prompt: Any) -> DecodingResult:
        self.tried.append((seek, options.temperature))
        good = {"avg_logprob": -0.5, "compression_ratio": 1.0, "no_speech_prob": 0.1}
        values = {**good, **self.outcome(seek, options.temperature)}
        tokens = (BEGIN, *A, BEGIN + 100)
        return DecodingResult("en", None, tokens, "x", temperature=options.temperature, **values)


def attempts(
    monkeypatch: pytest.MonkeyPatch,
    outcome: Callable[[int, float], Mapping[str, float]],
    **options: Any,
) -> tuple[list[float], int]:
    """Temperatures tried on one window, and the number of its segments."""
    tried = Attempts(outcome)
    replace_decoding(monkeypatch, tried)
    result = transcript([], **{"temperature": (0.0, 0.2, 0.4), **options})
    n_segments = len(list(result))
    assert result.seek == 3000
    return [t for _, t in tried.tried], n_segments


BAD = {"avg_logprob": -1.5}
LOOP = {"compression_ratio": 3.0}
QUIET = {"no_speech_prob": 0.9}
ONCE, ALL = [0.0], [0.0, 0.2, 0.4]

FALLBACKS = [
    ({}, {}, ONCE, 1),
    (BAD, {}, ALL, 1),
    (LOOP, {}, ALL, 1),
    (QUIET, {}, ONCE, 1),  # the text is probable
    (BAD | QUIET, {}, ONCE, 0),
    (BAD | LOOP | QUIET, {}, ONCE, 0),
    (LOOP | QUIET, {}, ALL, 1),  # silence does not excuse repetition
    (BAD, {"logprob_threshold": None}, ONCE, 1),
    (BAD, {"logprob_threshold": -2.0}, ONCE, 1),
    (LOOP, {"compression_ratio_threshold": None}, ONCE, 1),
    (BAD | QUIET, {"no_speech_threshold": None}, ALL, 1),
    (BAD | QUIET, {"no_speech_threshold": 0.95}, ALL, 1),
    (QUIET, {"logprob_threshold": None}, ONCE, 0),
    ({"avg_logprob": -1.0}, {}, ONCE, 1),
    ({"avg_logprob": -1.0} | QUIET, {}, ONCE, 0),
    ({"compression_ratio": 2.4}, {}, ONCE, 1),
    (BAD | {"no_speech_prob": 0.6}, {}, ALL, 1),
    ({"no_speech_prob": float("nan")} | BAD, {}, ALL, 1),
]


@pytest.mark.parametrize(("outcome", "options", "temperatures", "n_segments"), FALLBACKS)
def test_when_a_window_is_tried_again_and_when_it_is_silence(
    monkeypatch: pytest.MonkeyPatch,
    outcome: Mapping[str, float],
    options: dict[str, Any],
    temperatures: list[float],
    n_segments: int,
) -> None:
    tried = attempts(monkeypatch, lambda window, temperature: outcome, **options)
    assert tried == (temperatures, n_segments)


def test_the_first_good_attempt_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(window: int, temperature: float) -> Mapping[str, float]:
        return BAD if temperature < 0.2 else {}

    assert attempts(monkeypatch, outcome) == ([0.0, 0.2], 1)


def test_a_silent_window_leaves_the_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Attempts(lambda window, t: BAD | QUIET if window == 3000 else {})
    replace_decoding(monkeypatch, tried)
    result = transcript([], 9000, condition_on_previous_text=False, initial_prompt="the river")
    segments = list(result)
    assert [s.id for s in segments] == [0, 1]
    assert [s.seek for s in segments] == [0, 6000]
    assert tried.tried == [(0, 0.0), (3000, 0.0), (6000, 0.0)]

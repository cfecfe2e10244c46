"""Decoding a window: what the decoder is given, what comes back."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.unit.decoding_fakes import (
    FakeModel,
    FakeSession,
    read_tokenizer,
    says,
    small_tokenizer,
    special,
    tokenizer_json,
)
from whisper_npu.decoding.options import DecodingOptions
from whisper_npu.decoding.task import (
    compression_ratio,
    decode,
    detect_language,
    initial_tokens,
)
from whisper_npu.errors import ModelError, OptionError

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
WATER = TOKENIZER.encode(" the water")
TEXT = [BEGIN, *WATER, BEGIN + 50]


def states(*windows: int) -> np.ndarray:
    return np.array(windows, np.float32)[:, None]


def test_a_window_is_decoded() -> None:
    model = FakeModel(says(TEXT))
    (result,) = decode(model, TOKENIZER, states(0), DecodingOptions(language="en"))
    assert result.tokens == tuple(TEXT)
    assert result.text == "the water"
    assert result.language == "en"
    assert result.language_probs is None
    assert result.temperature == 0.0
    assert result.compression_ratio == 9 / len(zlib.compress(b"the water"))
    assert model.prompts == [TOKENIZER.sot_sequence]


def test_the_mean_logprob_counts_the_end() -> None:
    # One logit of 20 among zeros, for all tokens and the end of text.
    (result,) = decode(FakeModel(says(WATER)), TOKENIZER, states(0), plain(language="en"))
    n_vocab = TOKENIZER.vocabulary.n_vocab
    expected = -math.log1p((n_vocab - 1) * math.exp(-20))
    # 5e-6, of which float32 loses a hundredth next to 1.
    assert result.avg_logprob == pytest.approx(expected, rel=0.03)


def plain(**options: Any) -> DecodingOptions:
    """Options without rules."""
    rules = {"suppress_tokens": "", "suppress_blank": False, "without_timestamps": True}
    return DecodingOptions(**{**rules, **options})


def test_without_timestamps() -> None:
    model = FakeModel(says(WATER))
    options = DecodingOptions(language="de", task="translate", without_timestamps=True)
    (result,) = decode(model, TOKENIZER, states(0), options)
    assert result.tokens == tuple(WATER)
    german = TOKENIZER.for_task("de", "translate")
    assert model.prompts == [german.sot_sequence_including_notimestamps]


def test_windows_of_a_batch_are_decoded_each_on_its_own() -> None:
    def plan(window: int) -> list[int]:
        return [BEGIN, *WATER * (window + 1), BEGIN + 50 + window]

    for options in (
        DecodingOptions(language="en"),
        DecodingOptions(language="en", beam_size=3),
        DecodingOptions(language="en", temperature=0.7, best_of=2),
    ):
        together = decode(FakeModel(says(plan)), TOKENIZER, states(0, 1, 2), options)
        for window, result in enumerate(together):
            assert result.tokens == tuple(plan(window))
            (alone,) = decode(FakeModel(says(plan)), TOKENIZER, states(window), options)
            assert alone == result


@pytest.mark.parametrize("sampling", [{}, {"beam_size": 2}, {"temperature": 0.5, "best_of": 2}])
def test_windows_that_have_ended_leave_the_batch(
    sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [3, 12, 5, 20, 1, 9, 4, 2]
    sizes: list[int] = []
    step = FakeSession.step

    def count(self: FakeSession, tokens: np.ndarray) -> np.ndarray:
        sizes.append(self.n_audio)
        return step(self, tokens)

    def plan(window: int) -> list[int]:
        return [WATER[i % 2] + window for i in range(lengths[window])]

    monkeypatch.setattr(FakeSession, "step", count)
    options = plain(language="en", **sampling)
    results = decode(FakeModel(says(plan)), TOKENIZER, states(*range(8)), options)
    assert [list(result.tokens) for result in results] == [plan(window) for window in range(8)]
    assert sizes == sorted(sizes, reverse=True)
    if "beam_size" in sampling:  # beams end some steps after the best of them
        assert (sizes[0], sizes[-1]) == (8, 1)
    else:
        # In the step after its last token.
        assert sizes == [sum(n > step for n in lengths) for step in range(max(lengths))]


def test_sample_len_limits_the_tokens() -> None:
    options = plain(language="en", sample_len=3)
    (result,) = decode(FakeModel(says(WATER * 9)), TOKENIZER, states(0), options)
    assert len(result.tokens) == 3


def test_at_most_half_the_context_is_sampled() -> None:
    (result,) = decode(FakeModel(says(WATER * 20)), TOKENIZER, states(0), plain(language="en"))
    assert len(result.tokens) == 32


def test_sampling_ends_with_the_context() -> None:
    # 64 positions: after the prompt of 4 tokens 61 can be sampled, the last from a full context.
    options = plain(language="en", sample_len=500)
    (result,) = decode(FakeModel(says(WATER * 30)), TOKENIZER, states(0), options)
    assert len(result.tokens) == 61


def language_script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
    if context == (TOKENIZER.sot,):
        return {token: float(i == window) for i, token in enumerate(TOKENIZER.all_language_tokens)}
    return says([])(window, context)


def test_languages_are_detected_for_each_window() -> None:
    tokens, probabilities = detect_language(FakeModel(language_script), TOKENIZER, states(0, 2, 1))
    en, de, ja = TOKENIZER.all_language_tokens
    assert tokens.tolist() == [en, ja, de]
    share = math.e / (math.e + 2)
    expected = {"en": (1 - share) / 2, "de": (1 - share) / 2, "ja": share}
    assert probabilities[1] == pytest.approx(expected, abs=1e-6)


def test_decoding_without_a_language_detects_it() -> None:
    model = FakeModel(language_script)
    options = DecodingOptions(without_timestamps=True)
    results = decode(model, TOKENIZER, states(2, 1), options)
    assert [result.language for result in results] == ["ja", "de"]
    assert results[0].language_probs is not None
    assert max(results[0].language_probs, key=results[0].language_probs.__getitem__) == "ja"
    assert model.prompts[2:] == [
        TOKENIZER.for_task(code, "transcribe").sot_sequence_including_notimestamps
        for code in ("ja", "de")
    ]


def test_only_detecting_the_language() -> None:
    model = FakeModel(language_script)
    (result,) = decode(model, TOKENIZER, states(1), DecodingOptions(task="lang_id"))
    assert (result.language, result.tokens, result.text) == ("de", (), "")
    assert math.isnan(result.avg_logprob)
    assert len(model.prompts) == 1


def test_english_only_models_detect_no_language() -> None:
    tokenizer = read_tokenizer(tokenizer_json(), is_multilingual=False)
    for options in (DecodingOptions(language="en"), DecodingOptions()):
        (result,) = decode(FakeModel(lambda w, c: {}), tokenizer, states(0), options)
        assert result.language == "en"
    with pytest.raises(OptionError, match="language: this model is English-only"):
        detect_language(FakeModel(lambda w, c: {}), tokenizer, states(0))


def test_no_speech_is_read_at_the_start_and_before_the_rules() -> None:
    assert TOKENIZER.no_speech is not None

    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        if context[-1] == TOKENIZER.sot:
            return {TOKENIZER.no_speech: 6.0}
        return {TOKENIZER.no_speech: 12.0, **says(TEXT)(window, context)}

    options = DecodingOptions(language="en", prompt="earlier")
    (result,) = decode(FakeModel(script), TOKENIZER, states(0), options)
    others = TOKENIZER.vocabulary.n_vocab - 1
    expected = math.exp(6) / (math.exp(6) + others)
    assert result.no_speech_prob == pytest.approx(expected, rel=1e-5)
    assert result.tokens == tuple(TEXT)


def test_a_vocabulary_without_no_speech_has_no_probability_of_it() -> None:
    content = tokenizer_json()
    content["added_tokens"].remove(special(content, "<|nospeech|>"))
    tokenizer = read_tokenizer(content, TOKENIZER.vocabulary.n_vocab)
    (result,) = decode(FakeModel(says(TEXT)), tokenizer, states(0), DecodingOptions(language="en"))
    assert math.isnan(result.no_speech_prob)


def initial(n_text_ctx: int = 64, prompt: Any = None, **options: Any) -> list[int]:
    checked = DecodingOptions(language="en", **options)
    return initial_tokens(TOKENIZER, checked, prompt, n_text_ctx)


def test_prompts() -> None:
    sot = list(TOKENIZER.sot_sequence)
    encoded = TOKENIZER.encode(" so far")
    assert initial() == sot
    assert initial(prompt="") == sot
    assert initial(prompt=" so far ") == [TOKENIZER.sot_prev, *encoded, *sot]
    assert initial(prompt=encoded) == [TOKENIZER.sot_prev, *encoded, *sot]
    # The last tokens that leave room for the start of the previous text in half the context.
    long = list(range(100))
    assert initial(prompt=long) == [TOKENIZER.sot_prev, *long[-31:], *sot]


def test_prefixes() -> None:
    sot = list(TOKENIZER.sot_sequence)
    assert initial(prefix="the water ") == [*sot, *WATER]
    assert initial(prefix=[5, 6], prompt=[7]) == [TOKENIZER.sot_prev, 7, *sot, 5, 6]
    # What sampling leaves of half the context.
    assert initial(prefix=list(range(20)), sample_len=22) == [*sot, *range(10, 20)]
    assert initial(prefix=list(range(40))) == [*sot, *range(40)]


def test_the_prefix_is_no_part_of_the_result() -> None:
    model = FakeModel(says([7, 8, *WATER]))
    options = DecodingOptions(language="en", prefix=[7, 8], without_timestamps=True)
    (result,) = decode(model, TOKENIZER, states(0), options)
    assert model.prompts == [(*TOKENIZER.sot_sequence_including_notimestamps, 7, 8)]
    assert result.tokens == tuple(WATER)


def test_what_does_not_fit_the_model() -> None:
    with pytest.raises(OptionError, match="prefix: with the prompt it takes 65 tokens"):
        initial(prefix=list(range(62)))
    assert len(initial(prefix=list(range(61)))) == 64
    n_vocab = TOKENIZER.vocabulary.n_vocab
    for name in ("prompt", "prefix"):
        with pytest.raises(OptionError, match=f"{name}: token {n_vocab} is not one of"):
            initial(**{name: [1, n_vocab]})
    options = DecodingOptions(language="en", beam_size=900)
    with pytest.raises(OptionError, match="beam_size: must be below the model's 900"):
        decode(FakeModel(says(TEXT), n_vocab=900), TOKENIZER, states(0), options)
    with pytest.raises(OptionError, match="language: the model has no 'fr'"):
        decode(FakeModel(says(TEXT)), TOKENIZER, states(0), DecodingOptions(language="fr"))


def test_beams_follow_the_caches() -> None:
    # The second beam at first leads in the end: its cache has to move with it.
    good, bad = WATER[0], WATER[1]

    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        start = len(TOKENIZER.sot_sequence_including_notimestamps)
        said = context[start:]
        if not said:
            return {bad: 10.0, good: 9.9}
        if bad in said:
            return {}
        return {TOKENIZER.eot if len(said) > 2 else good: 15.0}

    options = DecodingOptions(language="en", beam_size=2, without_timestamps=True)
    (result,) = decode(FakeModel(script), TOKENIZER, states(0), options)
    assert result.tokens == (good, good, good)
    greedy = DecodingOptions(language="en", without_timestamps=True, sample_len=5)
    (first,) = decode(FakeModel(script), TOKENIZER, states(0), greedy)
    assert first.tokens[0] == bad


def test_best_of_takes_the_best_of_the_samples() -> None:
    random = np.random.RandomState(0)
    logits = random.standard_normal((40, TOKENIZER.vocabulary.n_vocab)) * 3

    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        return dict(enumerate(logits[len(context) % 40]))

    def best_logprob(best_of: int) -> float:
        options = plain(language="en", temperature=1.0, best_of=best_of, sample_len=8)
        (result,) = decode(FakeModel(script), TOKENIZER, states(0), options)
        return result.avg_logprob

    # Samples of a smaller group are among those of a larger one.
    means = [best_logprob(n) for n in (1, 2, 4, 8)]
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_seed_and_position_decide_the_samples() -> None:
    def sample(seek: int, **options: Any) -> tuple[int, ...]:
        model = FakeModel(lambda window, context: {})
        sampling = plain(language="en", temperature=1.0, sample_len=8, **options)
        (result,) = decode(model, TOKENIZER, states(0), sampling, seeks=[seek])
        return result.tokens

    assert sample(0) == sample(0)
    assert len({sample(0), sample(1), sample(0, seed=1)}) == 3


def test_compression_ratio() -> None:
    assert compression_ratio("") == 0
    assert compression_ratio("ha" * 200) > 10
    assert compression_ratio("é") == 2 / len(zlib.compress("é".encode()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"beam_size": 2}, {"temperature": 0.5, "best_of": 2}, {"language": None}],
    ids=["greedy", "beams", "samples", "language"],
)
def test_logits_that_are_no_numbers(value: float, at: int, options: dict[str, Any]) -> None:
    said = says(TEXT)

    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        logits = dict(said(window, context))
        # A token that no rule forbids; in one of two windows.
        if window == 1 and len(context) >= len(TOKENIZER.sot_sequence) + at:
            logits[WATER[0]] = value
            logits[BEGIN + 40] = value
        return logits

    checked = DecodingOptions(**{"language": "en", **options})
    with pytest.raises(ModelError, match=r"^the model gives logits that are not finite numbers: "):
        decode(FakeModel(script), TOKENIZER, states(0, 1), checked)


def test_languages_that_are_no_numbers() -> None:
    model = FakeModel(lambda *_: {TOKENIZER.all_language_tokens[1]: math.nan})
    with pytest.raises(ModelError, match="the model gives logits"):
        detect_language(model, TOKENIZER, states(0))

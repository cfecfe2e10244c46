"""The language of a file, and of every window."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from tests.support import synthetic_audio
from tests.unit.decoding_fakes import (
    LANGUAGES,
    FakeFeatures,
    FakeModel,
    says,
    small_tokenizer,
    transcript,
)
from whisper_npu.audio.features import LogMel, compute_log_mel
from whisper_npu.decoding.language import Detection, detect_file_language
from whisper_npu.decoding.levels import may_be_speech
from whisper_npu.model.precision import Precision
from whisper_npu.ops import mel
from whisper_npu.ops.mel_int import log_mel_int16
from whisper_npu.ops.mel_tables import mel_tables

TOKENIZER = small_tokenizer()
BEGIN = TOKENIZER.timestamp_begin
A, B = TOKENIZER.encode(" the water"), TOKENIZER.encode(" and the")


def spectrum(samples: np.ndarray, precision: Precision = "float32") -> LogMel:
    if precision == "int8":
        tables = mel_tables(80)
        return compute_log_mel([samples], 80, lambda s: log_mel_int16(s, tables), precision)
    filters = mel.mel_filters(80)
    return compute_log_mel([samples], 80, lambda s: mel.mel_log10(mel.stft_power(s), filters))


SPEECH = synthetic_audio.speech(30, seed=1)
HUM = 0.1 * np.sin(2 * np.pi * 50 * np.arange(480000) / 16000).astype(np.float32)
QUIET = {
    "silence": np.zeros(480000, np.float32),
    "faint noise": synthetic_audio.noise(30, seed=1, level=1e-4),
    "loud noise": synthetic_audio.noise(30, seed=2, level=0.3),
    "hum": HUM + synthetic_audio.noise(30, seed=3, level=1e-3),
    "a click": np.eye(1, 480000, 240000, dtype=np.float32)[0],
}
SPOKEN = {
    "speech": SPEECH,
    "faint speech": 0.003 * SPEECH,
    "speech in noise": SPEECH + synthetic_audio.noise(30, seed=4, level=1.7 * SPEECH.std()),
    "a second of speech": np.r_[np.zeros(29 * 16000, np.float32), SPEECH[:16000]],
    "speech and hum": 0.3 * SPEECH + HUM,
}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", [*QUIET, *SPOKEN])
def test_windows_that_may_be_speech(name: str, precision: Precision) -> None:
    """Also where others of the file are louder."""
    samples = {**QUIET, **SPOKEN}[name]
    for file in (samples, np.r_[samples, synthetic_audio.speech(5, seed=2)]):
        with spectrum(file, precision) as features:
            assert may_be_speech(features.full_window(0)) == (name in SPOKEN)


def detect(
    features: FakeFeatures | LogMel,
    probabilities: Callable[[float], Mapping[str, float]],
    segments: int = 1,
    threshold: float = 0.5,
) -> tuple[Detection, list[float]]:
    """What is detected, and the windows that were asked for, by their first number."""
    asked: list[float] = []

    def asking(window: np.ndarray) -> Mapping[str, float]:
        asked.append(float(window[0, 0]))
        return probabilities(asked[-1])

    return detect_file_language(features, asking, 3000, segments, threshold), asked


def test_windows_without_speech_do_not_count() -> None:
    features = FakeFeatures(12000, speech=[6000, 9000])
    found, asked = detect(features, lambda window: {"en": 0.1, "de": 0.9})
    assert (found.language, found.probability, asked) == ("de", 0.9, [6000])
    assert found.probabilities == {"en": 0.1, "de": 0.9}


@pytest.mark.parametrize("n_frames", [0, 1, 2999, 3000])
def test_a_file_of_one_window_is_what_it_is(n_frames: int) -> None:
    _, asked = detect(FakeFeatures(n_frames), lambda window: {"en": 0.9, "de": 0.1}, 5, 1.0)
    assert asked == [0 if n_frames == 3000 else -1]


def test_without_any_speech_it_is_the_opening_window() -> None:
    found, asked = detect(FakeFeatures(9000), lambda window: {"en": 0.2, "de": 0.3}, 3)
    assert (found.language, asked) == ("de", [0])


def test_the_first_window_above_the_threshold_decides() -> None:
    by_window = {0: {"en": 0.5, "de": 0.4}, 3000: {"en": 0.4, "de": 0.6}, 6000: {"en": 0.9}}
    found, asked = detect(FakeFeatures(9000, [0, 3000, 6000]), by_window.__getitem__, 3)
    assert (found.language, found.probability, asked) == ("de", 0.6, [0, 3000])


def test_else_the_language_of_most_windows() -> None:
    by_window = {
        0: {"en": 0.49, "de": 0.4},
        3000: {"en": 0.1, "de": 0.3},
        6000: {"en": 0.1, "de": 0.35},
        9000: {"en": 0.99, "de": 0.0},
    }
    features = FakeFeatures(12000, list(by_window))
    found, asked = detect(features, by_window.__getitem__, 3)
    assert (found.language, found.probability, asked) == ("de", 0.35, [0, 3000, 6000])
    # Of as many windows the one that comes first.
    assert detect(features, by_window.__getitem__, 2)[0].language == "en"


def test_a_recording_that_begins_with_noise() -> None:
    quiet = synthetic_audio.noise(30, seed=5, level=1e-3)
    with spectrum(np.r_[quiet, SPEECH]) as features:
        later = float(features.full_window(3000)[0, 0])
        assert detect(features, lambda window: {"en": 1.0})[1] == [later]
    with spectrum(np.r_[SPEECH, quiet]) as features:
        first = float(features.full_window(0)[0, 0])
        assert detect(features, lambda window: {"en": 1.0})[1] == [first]


def speaking(by_window: Mapping[int, int], logit: float = 9.0) -> FakeModel:
    """A model that hears one of ``LANGUAGES`` in each window, and says which it was told."""

    def script(window: int, context: tuple[int, ...]) -> Mapping[int, float]:
        if context == (TOKENIZER.sot,):
            return {TOKENIZER.all_language_tokens[by_window[window]]: logit}
        if TOKENIZER.transcribe not in context:
            return {}
        start = context.index(TOKENIZER.transcribe)
        told = TOKENIZER.all_language_tokens.index(context[start - 1])
        return says([BEGIN, *(A if told else B), BEGIN + 50 + told])(window, context)

    return FakeModel(script)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("beam_size", [None, 2])
def test_every_window_in_its_own_language(
    batch_size: int | None, condition: bool, beam_size: int | None
) -> None:
    by_window = {0: 2, 3000: 1, 6000: 0, 9000: 1}
    model = speaking(by_window)
    result = transcript(
        [],
        12000,
        model,
        language=None,
        multilingual=True,
        beam_size=beam_size,
        batch_size=batch_size,
        clip_timestamps="0,30,30,60,60,90,90,120",
        condition_on_previous_text=condition and batch_size is None,
    )
    found = [(s.seek, s.language, s.text, round(100 * (s.end - s.start))) for s in result]
    assert found == [
        (0, "ja", " the water", 104),
        (3000, "de", " the water", 102),
        (6000, "en", " and the", 100),
        (9000, "de", " the water", 102),
    ]
    assert result.language == "ja"
    before = [prompt for prompt in model.prompts if prompt[0] == TOKENIZER.sot_prev]
    assert len(before) == (3 if condition and batch_size is None else 0)


def test_a_language_that_is_given_names_the_file() -> None:
    model = speaking({0: 1})
    (segment,) = result = transcript([], 3000, model, language="ja", multilingual=True)
    assert (result.language, result.language_probability, segment.language) == ("ja", None, "de")
    assert segment.to_dict()["language"] == "de"


def test_otherwise_segments_have_no_language() -> None:
    (segment,) = transcript([], 3000, speaking({0: 1}), language=None)
    assert segment.language is None
    assert "language" not in segment.to_dict()


def test_words_are_of_the_language_of_their_window(monkeypatch: pytest.MonkeyPatch) -> None:
    from whisper_npu.decoding import words

    told = []

    def alignment(session: object, tokenizer: object, *_: object) -> list[object]:
        told.append(getattr(tokenizer, "language", None))
        return []

    monkeypatch.setattr(words, "find_alignment", alignment)
    options = {"language": None, "multilingual": True, "word_timestamps": True}
    list(transcript([], 6000, speaking({0: 2, 3000: 1}), clip_timestamps="0,30,30,60", **options))
    assert told == ["ja", "de"]


def test_an_unsure_language_is_told() -> None:
    message = r"^language: German was detected with a probability of only 0\.4\d; name the "
    with pytest.warns(UserWarning, match=message):
        result = transcript([], 3000, speaking({0: 1}, logit=0.4), language=None)
    assert result.language_probability == pytest.approx(np.exp(0.4) / (np.exp(0.4) + 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert transcript([], 3000, speaking({0: 1}), language=None).language == "de"
    assert LANGUAGES[1] == "de"

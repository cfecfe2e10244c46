"""Options: defaults, what each refuses and how it says so."""

from __future__ import annotations

import inspect
import json
import math
from array import array
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from whisper_npu.decoding.options import (
    DecodingOptions,
    TranscribeOptions,
    fallback_temperatures,
)
from whisper_npu.errors import OptionError

REFUSED_BY_BOTH: list[tuple[dict[str, Any], str]] = [
    ({"task": "sing"}, "task: must be one of transcribe, translate.*, not 'sing'"),
    ({"language": "Englsh"}, "language: must be a code such as 'en', or an English name"),
    ({"language": 3}, "language: must be"),
    ({"sample_len": 0}, "sample_len: must be 1 or more, not 0"),
    ({"best_of": 0}, "best_of: must be from 1 to 1000, not 0"),
    ({"beam_size": -1}, "beam_size: must be from 1 to 1000, not -1"),
    ({"beam_size": 2.5}, "beam_size: must be from 1 to 1000, not 2.5"),
    ({"beam_size": True}, "beam_size: must be from 1 to 1000, not True"),
    ({"patience": 1.0}, "patience: 1.0 needs beam_size"),
    ({"beam_size": 5, "patience": 0}, "patience: must be above 0, not 0"),
    ({"beam_size": 5, "patience": math.inf}, "patience: must be above 0, not inf"),
    ({"beam_size": 1, "patience": 0.4}, "patience: 0.4 with beam_size 1 leaves no candidate"),
    ({"length_penalty": 1.1}, "length_penalty: must be between 0 and 1, not 1.1"),
    ({"length_penalty": -0.1}, "length_penalty: must be between 0 and 1"),
    ({"length_penalty": "1"}, "length_penalty: must be between 0 and 1, not '1'"),
    ({"prefix": 3}, "prefix: must be text or a list of token ids, not 3"),
    ({"prefix": [-4]}, "prefix: must be text or a list of token ids"),
    ({"suppress_tokens": "-1,x"}, "suppress_tokens: must be token ids, or -1, not '-1,x'"),
    ({"suppress_tokens": [-2]}, "suppress_tokens: must be token ids"),
    ({"suppress_tokens": 5}, "suppress_tokens: must be token ids"),
    ({"suppress_tokens": [1.5]}, "suppress_tokens: must be token ids"),
    ({"suppress_blank": "True"}, "suppress_blank: must be True or False, not 'True'"),
    ({"without_timestamps": 1}, "without_timestamps: must be True or False"),
    ({"max_initial_timestamp": -1}, "max_initial_timestamp: must be 0 or more seconds, not -1"),
    ({"max_initial_timestamp": math.nan}, "max_initial_timestamp: must be 0 or more seconds"),
    ({"seed": -1}, r"seed: must be an integer from 0 to 2\*\*64 - 1, not -1"),
    ({"seed": 2**64}, "seed: must be an integer"),
    ({"seed": 0.5}, "seed: must be an integer"),
    ({"temperature": -0.1}, "temperature: must be 0 or more, not -0.1"),
    ({"temperature": math.nan}, "temperature: must be 0 or more"),
    ({"temperature": "0"}, "temperature: must be 0 or more, not '0'"),
    ({"temperature": 1e300}, r"temperature: must be 0, or from 1e-30 to 1e\+30, not 1e\+300"),
    ({"temperature": 5e-324}, r"temperature: must be 0, or from 1e-30 to 1e\+30, not 5e-324"),
    ({"temperature": 10**400}, "temperature: must be 0 or more, not 1000"),
    ({"temperature": np.array([[0.0]])}, "temperature: must be 0 or more, not"),
    ({"beam_size": 10**6}, "beam_size: must be from 1 to 1000, not 1000000"),
    ({"best_of": 1001}, "best_of: must be from 1 to 1000, not 1001"),
    ({"beam_size": np.array([3])}, r"beam_size: must be from 1 to 1000, not \(3,\)"),
    ({"beam_size": np.float64(3)}, "beam_size: must be from 1 to 1000, not 3.0"),
    ({"beam_size": 2, "patience": 10**400}, "patience: must be above 0, not 1000"),
    ({"max_initial_timestamp": 10**400}, "max_initial_timestamp: must be 0 or more seconds"),
    ({"suppress_blank": np.int64(1)}, "suppress_blank: must be True or False, not 1"),
    ({"suppress_tokens": np.array([0.5])}, "suppress_tokens: must be token ids"),
]
REFUSED_BY_DECODING: list[tuple[dict[str, Any], str]] = [
    (
        {"temperature": 0.5, "beam_size": 5, "best_of": 4},
        "beam_size: 5 and best_of 4 cannot be given together",
    ),
    ({"best_of": 5}, "best_of: 5 needs a temperature above 0"),
    ({"beam_size": 5, "temperature": 0.2}, "beam_size: 5 needs temperature 0, not 0.2"),
    ({"prompt": {}}, "prompt: must be text or a list of token ids"),
]
REFUSED_BY_TRANSCRIBING: list[tuple[dict[str, Any], str]] = [
    ({"task": "lang_id"}, "task: must be one of transcribe, translate, not 'lang_id'"),
    ({"temperature": [0.5] * 1002}, "temperature: must be one number or up to 1001, "),
    ({"temperature": ()}, "temperature: must be one number or up to 1001, "),
    ({"temperature": (0.0, None)}, "temperature: must be 0 or more, not None"),
    ({"logprob_threshold": "low"}, "logprob_threshold: must be a number or None, not 'low'"),
    ({"no_speech_threshold": math.nan}, "no_speech_threshold: must be a number or None"),
    ({"compression_ratio_threshold": []}, "compression_ratio_threshold: must be a number"),
    ({"condition_on_previous_text": None}, "condition_on_previous_text: must be True or False"),
    ({"carry_initial_prompt": 0}, "carry_initial_prompt: must be True or False"),
    ({"word_timestamps": "yes"}, "word_timestamps: must be True or False"),
    ({"initial_prompt": [3]}, "initial_prompt: must be text"),
    ({"prepend_punctuations": None}, "prepend_punctuations: must be text"),
    ({"append_punctuations": 1}, "append_punctuations: must be text"),
    ({"clip_timestamps": "-1"}, "clip_timestamps: must be numbers of seconds, 0 or more"),
    ({"clip_timestamps": "1,,2"}, "clip_timestamps: must be numbers of seconds"),
    ({"clip_timestamps": [math.inf]}, "clip_timestamps: must be numbers of seconds"),
    ({"clip_timestamps": 5}, "clip_timestamps: must be numbers of seconds"),
    ({"clip_timestamps": [10**400]}, "clip_timestamps: must be numbers of seconds"),
    ({"clip_timestamps": np.array([[0, 5], [7, 9]])}, "clip_timestamps: must be numbers of sec"),
    ({"clip_timestamps": np.array([0.0, np.nan])}, "clip_timestamps: must be numbers of seconds"),
    ({"clip_timestamps": "5,3"}, "clip_timestamps: the clip 5,3 ends before it starts"),
    (
        {"word_timestamps": True, "hallucination_silence_threshold": -1},
        "hallucination_silence_threshold: must be 0 or more seconds",
    ),
    (
        {"hallucination_silence_threshold": 2.0},
        "hallucination_silence_threshold: needs word_timestamps",
    ),
    ({"batch_size": 0}, "batch_size: must be 1 or more, not 0"),
    ({"batch_size": True}, "batch_size: must be 1 or more, not True"),
    ({"batch_size": 2.0}, "batch_size: must be 1 or more, not 2.0"),
    (
        {"batch_size": 1, "condition_on_previous_text": True},
        "batch_size: 1 and condition_on_previous_text True cannot be given together",
    ),
    ({"beam": 5}, "beam: is not an option; did you mean beam_size"),
    ({"xyzzy": 5}, "xyzzy: is not an option; known are task, language"),
    ({"prompt": "x"}, "prompt: is not an option; did you mean initial_prompt"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED_BY_BOTH + REFUSED_BY_DECODING)
def test_decoding_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        DecodingOptions(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("options", "message"), REFUSED_BY_BOTH + REFUSED_BY_TRANSCRIBING)
def test_transcribing_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        TranscribeOptions.from_keywords(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"language": "English"},
        {"language": "xx"},  # the model may know it
        {"suppress_tokens": None},
        {"suppress_tokens": ""},
        {"suppress_tokens": "-1, 50"},
        {"suppress_tokens": np.arange(3).tolist()},
        {"beam_size": np.int64(5), "patience": 2, "length_penalty": 0},
        {"temperature": 0.4, "best_of": 5},
        {"temperature": np.float64(0.4)},
        {"max_initial_timestamp": None},
        {"prefix": [1, 2]},
    ],
)
def test_accepted(options: dict[str, Any]) -> None:
    DecodingOptions(**options)
    TranscribeOptions(**options)


VALUES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"beam_size": np.int64(3), "patience": np.float16(2)}, {"beam_size": 3, "patience": 2.0}),
    ({"temperature": np.float32(0.5)}, {"temperature": 0.5}),
    ({"temperature": np.array(0.25)}, {"temperature": 0.25}),
    ({"temperature": Fraction(1, 4)}, {"temperature": 0.25}),
    ({"suppress_blank": np.bool_(False)}, {"suppress_blank": False}),
    ({"suppress_tokens": np.array([-1, 50])}, {"suppress_tokens": (-1, 50)}),
    ({"suppress_tokens": range(2)}, {"suppress_tokens": (0, 1)}),
    ({"prefix": np.arange(2, dtype=np.uint8)}, {"prefix": (0, 1)}),
    ({"task": np.str_("translate"), "language": np.str_("de")}, {"task": "translate"}),
]
VALUES_OF_TRANSCRIBING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": np.array([0.0, 0.5])}, {"temperature": (0.0, 0.5)}),
    ({"temperature": [np.float32(0), 1]}, {"temperature": (0.0, 1)}),
    ({"clip_timestamps": np.array([0.0, 5.0])}, {"clip_timestamps": (0.0, 5.0)}),
    ({"clip_timestamps": range(0, 9, 4)}, {"clip_timestamps": (0, 4, 8)}),
    ({"clip_timestamps": array("f", [1.5])}, {"clip_timestamps": (1.5,)}),
    ({"word_timestamps": np.bool_(True)}, {"word_timestamps": True}),
    ({"batch_size": np.uint8(8)}, {"batch_size": 8, "condition_on_previous_text": False}),
    ({"no_speech_threshold": np.float64(0.5)}, {"no_speech_threshold": 0.5}),
]


def check_values(options: Any, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert repr(getattr(options, name)) == repr(value)
    json.dumps(asdict(options))


@pytest.mark.parametrize(("given", "expected"), VALUES)
def test_values_become_pythons(given: dict[str, Any], expected: dict[str, Any]) -> None:
    check_values(DecodingOptions(**given), expected)
    check_values(TranscribeOptions.from_keywords(**given), expected)


@pytest.mark.parametrize(("given", "expected"), VALUES_OF_TRANSCRIBING)
def test_values_of_transcribing(given: dict[str, Any], expected: dict[str, Any]) -> None:
    check_values(TranscribeOptions.from_keywords(**given), expected)


def test_tensors_are_values() -> None:
    torch = pytest.importorskip("torch")
    options = TranscribeOptions(
        clip_timestamps=torch.tensor([0.0, 2.5]),
        temperature=torch.tensor(0.5),
        best_of=torch.tensor(2),
    )
    check_values(options, {"clip_timestamps": (0.0, 2.5), "temperature": 0.5, "best_of": 2})


def test_suppressed_ids() -> None:
    assert DecodingOptions(suppress_tokens="-1, 50").suppressed_ids() == (-1, 50)
    assert DecodingOptions(suppress_tokens=[3]).suppressed_ids() == (3,)
    for nothing in ("", None, []):
        assert DecodingOptions(suppress_tokens=nothing).suppressed_ids() == ()


def test_clips() -> None:
    assert TranscribeOptions().clip_seconds() == (0.0,)
    assert TranscribeOptions(clip_timestamps="1,2.5,7").clip_seconds() == (1.0, 2.5, 7.0)
    assert TranscribeOptions(clip_timestamps=[3]).clip_seconds() == (3.0,)
    assert TranscribeOptions(clip_timestamps="").clip_seconds() == ()


def test_one_attempt_takes_what_its_temperature_allows() -> None:
    options = TranscribeOptions(beam_size=5, patience=2.0, best_of=3, length_penalty=0.5, seed=7)
    assert (options.group, replace(options, temperature=0.4).group) == (5, 3)
    cold, warm = replace(options, temperature=(0.0, 0.4)).attempts("de")
    assert (cold.beam_size, cold.patience, cold.best_of, cold.group) == (5, 2.0, None, 5)
    assert (warm.beam_size, warm.patience, warm.best_of, warm.group) == (None, None, 3, 3)
    assert (cold.language, warm.language, cold.temperature) == ("de", "de", 0.0)
    assert (warm.length_penalty, warm.seed, warm.temperature) == (0.5, 7, 0.4)


def test_batches_have_no_previous_text() -> None:
    assert TranscribeOptions.from_keywords(batch_size=None).condition_on_previous_text is True
    for options in ({}, {"condition_on_previous_text": False}):
        checked = TranscribeOptions.from_keywords(batch_size=np.int64(8), **options)
        assert (checked.batch_size, checked.condition_on_previous_text) == (8, False)


def test_temperatures() -> None:
    assert TranscribeOptions(temperature=0.3).temperatures == (0.3,)
    assert TranscribeOptions(temperature=[0.0, 0.5]).temperatures == (0.0, 0.5)


@pytest.mark.parametrize(
    ("temperature", "increment"), [(0.0, 0.2), (0.2, 0.4), (1.0, 0.5), (0.0, 0.3)]
)
def test_fallback_temperatures(temperature: float, increment: float) -> None:
    expected = np.arange(temperature, 1.0 + 1e-6, increment)
    assert fallback_temperatures(temperature, increment) == pytest.approx(expected, abs=1e-15)


def test_fallback_temperatures_at_the_limits() -> None:
    assert fallback_temperatures(0.4, None) == (0.4,)
    assert fallback_temperatures(1.5, 0.2) == (1.5,)
    assert len(fallback_temperatures(0.0, 0.001)) == 1001
    for increment in (0, -0.2, math.nan, 1e-300):
        with pytest.raises(
            OptionError, match=r"temperature_increment_on_fallback: must be 0\.001 or more, or None"
        ):
            fallback_temperatures(0.0, increment)
    with pytest.raises(OptionError, match="temperature: must be 0, or from"):
        fallback_temperatures(1e300, 0.2)


@pytest.mark.reference
def test_names_and_defaults_are_openais() -> None:
    whisper = pytest.importorskip("whisper")
    theirs = {
        name: parameter.default
        for function in (whisper.transcribe, whisper.DecodingOptions)
        for name, parameter in inspect.signature(function).parameters.items()
        # Printing is the caller's, and everything is computed in float32.
        if name not in ("model", "audio", "decode_options", "verbose", "fp16", "prompt")
    }
    theirs["temperature"] = inspect.signature(whisper.transcribe).parameters["temperature"].default
    ours = TranscribeOptions()
    assert {name: getattr(ours, name) for name in theirs} == theirs
    for name, parameter in inspect.signature(whisper.DecodingOptions).parameters.items():
        if name != "fp16":
            assert getattr(DecodingOptions(), name) == parameter.default

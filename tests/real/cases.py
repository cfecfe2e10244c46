"""What published weights transcribe on both sides, compared token for token.

Each case is a model, a recording and options of ``whisper.transcribe``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.support.real import speech
from whisper_npu import load_audio

SAMPLING_SEED = 7


@dataclass(frozen=True)
class Case:
    """``model`` is one of ``data.MODELS``, ``audio`` a name for ``recording``. A ``long`` one takes
    more than some seconds."""

    model: str
    audio: str
    options: Mapping[str, Any] = field(default_factory=dict)
    long: bool = False


def recording(name: str) -> np.ndarray:
    """Samples of a recording, float32 [n] at 16 kHz."""
    if name in _OTHERS:
        return _OTHERS[name]()
    collection = name.partition("/")[0]
    if collection == "librivox":
        among = speech.sentences()
    else:
        among = (*speech.prompts(collection), *speech.packs(collection))
    return next(each for each in among if each.name == name).samples()


def _pauses() -> np.ndarray:
    """Sentences, a pause of 9 s, another, noise that is no speech, silence: 50 s."""
    first, second, third, *_ = (sentence.samples() for sentence in speech.sentences())
    silence = np.zeros(9 * speech.RATE, np.float32)
    monkeys = load_audio(str(speech.sound("tt-monkeys")))
    return np.concatenate([first, silence, second, monkeys, third, silence])


_OTHERS = {
    "jfk": lambda: speech.president().samples(),
    "librivox": lambda: speech.joined("librivox", speech.sentences()).samples(),
    "one minute": lambda: speech.minutes("en", 1).samples(),
    "five minutes": lambda: speech.minutes("en", 5).samples(),
    # Some sentences of each language.
    "five languages": lambda: speech.joined(
        "five languages", [part for each in speech.LANGUAGES for part in speech.prompts(each)[9:11]]
    ).samples(),
    "pauses": _pauses,
    "monkeys": lambda: load_audio(str(speech.sound("tt-monkeys"))),
    "silence": lambda: np.zeros(12 * speech.RATE, np.float32),
}

GREEDY: Mapping[str, Any] = {"temperature": 0.0}
WORDS: Mapping[str, Any] = {"word_timestamps": True}
# At high temperatures a random number is soon within float32's rounding of another token.
FEW_SAMPLES: Mapping[str, Any] = {"temperature": (0.0, 0.2, 0.4), "best_of": 2, "sample_len": 60}
TRANSLATE: Mapping[str, Any] = {"task": "translate"}
PROMPT = "Mr. John Dashwood and Elinor, of Norland Park, in Sussex:"
MENU = "conf-adminmenu"  # a prompt of about 20 s, in all languages
TINY, BASE = "tiny.en", "base"

CASES: Mapping[str, Case] = {
    # Greedy search and the defaults, which fall back to sampling where a window fails.
    "tiny.en, greedy": Case(TINY, "jfk", GREEDY),
    "base, greedy": Case(BASE, "jfk", GREEDY),
    "tiny.en, defaults": Case(TINY, "librivox"),
    "base, defaults": Case(BASE, "librivox"),
    "tiny.en, short prompts": Case(TINY, "en/pack 3", GREEDY),
    "base, short prompts": Case(BASE, "en/pack 30", {"language": "en"}),
    "tiny.en, a minute": Case(TINY, "one minute"),
    # Beam search.
    "tiny.en, beams": Case(TINY, "jfk", {"beam_size": 5}),
    "base, beams": Case(BASE, "librivox", {"beam_size": 5, "language": "en"}),
    "base, beams in Spanish": Case(BASE, f"es/{MENU}", {"beam_size": 5, "language": "es"}),
    "tiny.en, patience": Case(TINY, f"en/{MENU}", {"beam_size": 3, "patience": 2.0}),
    "base, impatience": Case(BASE, "librivox/0870", {"beam_size": 5, "patience": 0.4}),
    "tiny.en, length penalty": Case(TINY, "librivox/0920", {"beam_size": 4, "length_penalty": 0.3}),
    "base, length penalty in French": Case(
        BASE, "fr/demo-moreinfo", {"beam_size": 4, "length_penalty": 0.3, "language": "fr"}
    ),
    # Languages are detected.
    "Spanish": Case(BASE, f"es/{MENU}"),
    "French": Case(BASE, f"fr/{MENU}"),
    "Italian": Case(BASE, f"it/{MENU}"),
    "Russian": Case(BASE, f"ru/{MENU}"),
    "English of another language": Case(BASE, "librivox/0890", {"language": "it", **GREEDY}),
    # Translation.
    "from Spanish": Case(BASE, "es/demo-echotest", {**TRANSLATE, "language": "es"}),
    "from French": Case(BASE, "fr/demo-echotest", {**TRANSLATE, "language": "fr"}),
    "from Italian": Case(BASE, "it/demo-echotest", {**TRANSLATE, "language": "it"}),
    "from Russian": Case(BASE, "ru/demo-echotest", {**TRANSLATE, "language": "ru"}),
    "from what is detected, with beams": Case(BASE, f"ru/{MENU}", {**TRANSLATE, "beam_size": 5}),
    # Word timestamps.
    "tiny.en, words": Case(TINY, "jfk", WORDS),
    "base, words": Case(BASE, "librivox", WORDS),
    "tiny.en, words of a minute": Case(TINY, "one minute", WORDS),
    "base, words in Russian": Case(BASE, f"ru/{MENU}", {**WORDS, "language": "ru"}),
    "base, words and beams in Italian": Case(
        BASE, f"it/{MENU}", {**WORDS, "beam_size": 3, "language": "it"}
    ),
    "base, words of a translation": Case(
        BASE, "es/demo-echotest", {**WORDS, **TRANSLATE, "language": "es"}
    ),
    # Pauses, silence and sounds.
    "tiny.en, hallucinations": Case(
        TINY, "pauses", {**WORDS, "hallucination_silence_threshold": 2.0}
    ),
    "base, hallucinations": Case(
        BASE, "pauses", {**WORDS, "hallucination_silence_threshold": 2.0, "language": "en"}
    ),
    "tiny.en, pauses": Case(TINY, "pauses"),
    "tiny.en, silence": Case(TINY, "silence"),
    "base, silence": Case(BASE, "silence"),
    "base, silence is skipped": Case(
        BASE, "pauses", {"no_speech_threshold": 0.2, "logprob_threshold": -0.4, "language": "en"}
    ),
    "tiny.en, monkeys": Case(TINY, "monkeys", FEW_SAMPLES),
    "base, monkeys": Case(BASE, "monkeys", {**FEW_SAMPLES, "language": "en"}),
    # Temperatures.
    "tiny.en, one temperature": Case(TINY, "librivox/0870", {"temperature": 0.8}),
    "base, best of three": Case(
        BASE, f"fr/{MENU}", {"temperature": 0.6, "best_of": 3, "language": "fr"}
    ),
    "tiny.en, all temperatures fail": Case(
        TINY, "librivox", {"logprob_threshold": 0.0, "temperature": (0.0, 0.4), "best_of": 2}
    ),
    "base, fallback from beams": Case(
        BASE,
        "ru/demo-echotest",
        {
            "beam_size": 2,
            "best_of": 3,
            "temperature": (0.0, 0.5),
            "logprob_threshold": -0.1,
            "language": "ru",
        },
    ),
    "base, repetition fails": Case(
        BASE, f"es/{MENU}", {"compression_ratio_threshold": 1.3, "temperature": (0.0, 0.2, 0.6)}
    ),
    # Prompts.
    "tiny.en, prompt": Case(TINY, "librivox", {"initial_prompt": PROMPT}),
    "base, prompt": Case(BASE, "librivox/0870", {"initial_prompt": PROMPT, "language": "en"}),
    "tiny.en, carried prompt": Case(
        TINY, "one minute", {"initial_prompt": PROMPT, "carry_initial_prompt": True}
    ),
    "tiny.en, prompt without context": Case(
        TINY, "one minute", {"initial_prompt": PROMPT, "condition_on_previous_text": False}
    ),
    "base, prefix": Case(BASE, "jfk", {"prefix": "And so, my", "language": "en"}),
    # Windows.
    "tiny.en, clips": Case(TINY, "one minute", {"clip_timestamps": "3.3,9,21,30.5,44"}),
    "base, clips": Case(BASE, "librivox", {"clip_timestamps": [0.0, 7.3, 11.1], "language": "en"}),
    "tiny.en, no timestamps": Case(TINY, "one minute", {"without_timestamps": True, **GREEDY}),
    "base, no timestamps": Case(BASE, f"it/{MENU}", {"without_timestamps": True, "language": "it"}),
    # Rules.
    "tiny.en, nothing suppressed": Case(TINY, "en/pack 20", {"suppress_tokens": ""}),
    "base, more suppressed": Case(
        BASE, "jfk", {"suppress_tokens": "-1,11,13,1029", "language": "en"}
    ),
    "tiny.en, blanks allowed": Case(TINY, "en/pack 40", {"suppress_blank": False, **GREEDY}),
    "tiny.en, late first timestamp": Case(TINY, "pauses", {"max_initial_timestamp": None}),
    # Several languages, of which the first is detected.
    "base, five languages": Case(BASE, "five languages", GREEDY),
    # Long recordings.
    "tiny.en, five minutes": Case(TINY, "five minutes", long=True),
}

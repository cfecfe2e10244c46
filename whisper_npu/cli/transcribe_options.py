"""The options of ``whisper-npu transcribe``: openai-whisper's names and defaults."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whisper_npu.builtin import BUILT_IN
from whisper_npu.decoding.options import (
    APPEND_PUNCTUATIONS,
    PREPEND_PUNCTUATIONS,
    TranscribeOptions,
    fallback_temperatures,
)
from whisper_npu.errors import OptionError
from whisper_npu.runtime.threads import check_threads
from whisper_npu.text.languages import TASKS
from whisper_npu.text.writers import OUTPUT_FORMATS, LineOptions


def flag(text: str) -> bool:
    """The value of an option that is True or False. Raises ArgumentTypeError."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return text == "True"


def _optional_int(text: str) -> int | None:
    return None if text == "None" else int(text)


def _optional_float(text: str) -> float | None:
    return None if text == "None" else float(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, not {text!r}")
    return int(text)


def _optional_count(text: str) -> int | None:
    return None if text == "None" else _count(text)


# Name, type, default, help.
_Option = tuple[str, Callable[[str], Any], Any, str]

_DECODING: Sequence[_Option] = (
    ("language", str, None, "code (en) or English name of the language; detected if not given"),
    ("temperature", float, 0.0, "of sampling; at 0 the likeliest tokens are taken"),
    ("best_of", _optional_int, 5, "samples to choose from, above temperature 0"),
    ("beam_size", _optional_int, 5, "beams, at temperature 0"),
    ("patience", float, None, "beams times this must end before the search does, 1 if not given"),
    ("length_penalty", float, None, "exponent of the length penalty; the mean if not given"),
    ("suppress_tokens", str, "-1", "ids never to produce, with commas; -1: the model's own list"),
    ("seed", int, 0, "of sampling: equal seeds give equal results"),
)
_LONG_AUDIO: Sequence[_Option] = (
    ("initial_prompt", str, None, "text that the model takes to precede the audio"),
    ("carry_initial_prompt", flag, False, "put the initial prompt before every window"),
    (
        "condition_on_previous_text",
        flag,
        None,
        "give each window the text of those before it; if not given, True without --batch_size",
    ),
    ("temperature_increment_on_fallback", _optional_float, 0.2, "step after a failed attempt"),
    ("compression_ratio_threshold", _optional_float, 2.4, "text that compresses better has failed"),
    ("logprob_threshold", _optional_float, -1.0, "a mean log-probability below this has failed"),
    ("no_speech_threshold", _optional_float, 0.6, "likelihood from which failed text is silence"),
    ("clip_timestamps", str, "0", "seconds start,end,start,... of the parts to transcribe"),
    (
        "batch_size",
        _optional_int,
        None,
        "decode so many windows side by side: faster on long audio, cut at pauses; if not given, "
        "one after the other",
    ),
)
_WORDS: Sequence[_Option] = (
    ("word_timestamps", flag, False, "time every word; the options below need it"),
    ("prepend_punctuations", str, PREPEND_PUNCTUATIONS, "signs that belong to the word after them"),
    ("append_punctuations", str, APPEND_PUNCTUATIONS, "signs that belong to the word before them"),
    (
        "hallucination_silence_threshold",
        _optional_float,
        None,
        "skip silences longer than this (seconds) around text that looks invented",
    ),
    ("highlight_words", flag, False, "underline each word as it is spoken, in srt and vtt"),
    ("max_line_width", _optional_count, None, "characters in a line of srt and vtt"),
    ("max_line_count", _optional_count, None, "lines in a cue; needs --max_line_width"),
    ("max_words_per_line", _optional_count, None, "words in a cue; not with --max_line_width"),
)
_MODEL: Sequence[_Option] = (
    (
        "model",
        str,
        None,
        f"folder, name of a pulled model, or {BUILT_IN}; if not given, the model pulled last, "
        f"else {BUILT_IN}; nothing is ever downloaded here",
    ),
)
_GENERAL: Sequence[_Option] = (
    ("fp16", flag, None, "accepted, but without effect: everything is computed in float32"),
    ("verbose", flag, True, "True prints segments as they are found, False a progress bar"),
)

_MACHINE: Sequence[_Option] = (
    ("threads", _count, 0, "threads to compute with; 0: one for each physical core"),
    ("device", str, "cpu", "cpu, npu, or auto: the NPU where there is one and it is faster"),
    (
        "precision",
        str,
        None,
        "of products with weights: float32, or int8, which is what the NPU computes; if not given, "
        "int8 on the NPU and float32 on the CPU",
    ),
    ("allow_fallback", flag, False, "let NumPy run what the NPU cannot, instead of an error"),
    ("check_rate", float, 1e-3, "share of the NPU's launches that NumPy recomputes and compares"),
    (
        "cpu_kernels",
        flag,
        None,
        "use the kernels compiled for this CPU by whisper-npu kernels build; if not given, where "
        "they are there",
    ),
)

# The last is made of the kernels' NumPy models, to try everything above a device.
DEVICES = ("cpu", "npu", "auto", "software")

BUILT_IN_NOTICE = (
    "no --model was given and none was pulled: using the small built-in model, which knows only "
    "synthetic English voices; for real use run: whisper-npu pull tiny"
)

# These become ``LineOptions``; others of the groups above go to the transcriber as they are.
_LINE_OPTIONS = ("highlight_words", "max_line_count", "max_line_width", "max_words_per_line")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("audio", nargs="+", help="files; - is standard input, written as stdin.*")
    general = parser.add_argument_group("model and output")
    general.add_argument("--output_dir", "-o", default=".", help="folder for the transcripts")
    general.add_argument(
        "--output_format", "-f", default="all", choices=OUTPUT_FORMATS, help="what to write"
    )
    general.add_argument("--quiet", action="store_true", help="print errors only")
    _add(general, (*_MODEL, *_GENERAL))
    add_machine_arguments(parser)
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--task", default="transcribe", choices=TASKS, help="translate: into English"
    )
    _add(decoding, _DECODING)
    _add(parser.add_argument_group("long audio"), _LONG_AUDIO)
    _add(parser.add_argument_group("words and subtitle lines"), _WORDS)


def add_model_argument(parser: argparse._ActionsContainer) -> None:
    """Declare ``--model``."""
    _add(parser, _MODEL)


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say what to compute on; ``machine_options`` reads them."""
    machine = parser.add_argument_group("machine")
    _add(machine, _MACHINE)
    machine.add_argument(
        "--kernels",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder with kernels of your own (registry.json); may be given several times",
    )


def _add(group: argparse._ActionsContainer, options: Sequence[_Option]) -> None:
    for name, kind, default, text in options:
        metavar = "{True,False}" if kind is flag else None
        group.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=text)


def transcribe_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords for the transcriber. Raises OptionError for a value that an option does not take."""
    names = [name for name, *_ in (*_DECODING, *_LONG_AUDIO, *_WORDS) if name not in _LINE_OPTIONS]
    options = {name: getattr(args, name) for name in names}
    increment = options.pop("temperature_increment_on_fallback")
    if options["condition_on_previous_text"] is None:
        options["condition_on_previous_text"] = args.batch_size is None
    try:
        options["temperature"] = fallback_temperatures(args.temperature, increment)
        TranscribeOptions.from_keywords(task=args.task, **options)
    except OptionError as error:
        # Its message begins with the name of the option.
        raise OptionError(f"--{error}") from None
    return {"task": args.task, **options}


def machine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords for the transcriber that say what it computes on. Raises OptionError."""
    if args.device not in DEVICES:
        listed = ", ".join(DEVICES[:-1])
        raise OptionError(f"--device must be one of {listed}, not {args.device!r}")
    if not 0 <= args.check_rate <= 1:
        raise OptionError(f"--check_rate must be between 0 and 1, not {args.check_rate}")
    if args.threads:
        try:
            check_threads(args.threads)
        except OptionError as error:
            raise OptionError(f"--{error}") from None
    options = {name: getattr(args, name) for name in (*(name for name, *_ in _MACHINE), "kernels")}
    return {**options, "threads": args.threads or None}


def line_options(args: argparse.Namespace) -> LineOptions:
    """How cues are cut. Raises OptionError if that needs word timestamps and they are off."""
    values: Mapping[str, Any] = {name: getattr(args, name) for name in _LINE_OPTIONS}
    for name, value in values.items():
        if value and not args.word_timestamps:
            raise OptionError(f"--{name} requires --word_timestamps True")
    return LineOptions(**values)


def notices(args: argparse.Namespace) -> list[str]:
    """What the user should know: options without effect."""
    found = []
    if args.fp16 is not None:
        found.append("--fp16 has no effect: everything is computed in float32")
    if args.max_line_count and not args.max_line_width:
        found.append("--max_line_count has no effect without --max_line_width")
    if args.max_words_per_line and args.max_line_width:
        found.append("--max_words_per_line has no effect with --max_line_width")
    return found


def output_stems(audio: Sequence[str]) -> list[str]:
    """The names, without extension, of the outputs of each input: "stdin" for "-".

    Raises OptionError if two inputs have the same: one would overwrite the other.
    """
    by_stem: dict[str, str] = {}
    for path in audio:
        name = os.path.basename(os.path.normpath(path))
        stem = "stdin" if path == "-" else os.path.splitext(name)[0]
        if stem in by_stem:
            raise OptionError(
                f"{by_stem[stem]} and {path} would both be written to {stem}.*; "
                "transcribe them one at a time into different folders (--output_dir)"
            )
        by_stem[stem] = path
    return list(by_stem)

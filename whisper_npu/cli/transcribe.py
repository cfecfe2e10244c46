"""``whisper-npu transcribe``: audio files to transcripts. Options are openai-whisper's."""

from __future__ import annotations

import argparse
import os
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from whisper_npu.backends.machine_options import MachineOptions
from whisper_npu.cli.machine import (
    MODEL,
    THREADS,
    add_machine,
    machine_options,
    prepare_numpy,
    unnamed_model,
)
from whisper_npu.cli.options import (
    Option,
    add_options,
    as_options,
    channel,
    count,
    flag,
    optional_count,
    optional_float,
    optional_int,
)
from whisper_npu.cli.process import showing_warnings, was_stopped
from whisper_npu.cli.progress import Display, HeldOutput, Output, Segments
from whisper_npu.decoding.options import (
    APPEND_PUNCTUATIONS,
    PREPEND_PUNCTUATIONS,
    TranscribeOptions,
    fallback_temperatures,
)
from whisper_npu.errors import ModelError, OptionError, WhisperNpuError
from whisper_npu.terminal import note
from whisper_npu.text.languages import TASKS
from whisper_npu.text.writers import OUTPUT_FORMATS, LineOptions, prepare_output_dir, write_result

_DECODING: Sequence[Option] = (
    ("language", str, None, "code (en) or English name of the language; detected if not given"),
    (
        "language_detection_segments",
        int,
        1,
        "windows with speech to detect the language from; one may do",
    ),
    (
        "language_detection_threshold",
        float,
        0.5,
        "a window in which a language is more probable than this decides alone",
    ),
    ("multilingual", flag, False, "detect the language of every window"),
    ("temperature", float, 0.0, "of sampling; at 0 the likeliest tokens are taken"),
    ("best_of", optional_int, 5, "samples to choose from, above temperature 0"),
    ("beam_size", optional_int, 5, "beams, at temperature 0"),
    ("patience", float, None, "beams times this must end before the search does, 1 if not given"),
    ("length_penalty", float, None, "exponent of the length penalty; the mean if not given"),
    ("suppress_tokens", str, "-1", "ids never to produce, with commas; -1: the model's own list"),
    ("seed", int, 0, "of sampling: equal seeds give equal results"),
)
_LONG_AUDIO: Sequence[Option] = (
    ("initial_prompt", str, None, "text that the model takes to precede the audio"),
    ("carry_initial_prompt", flag, False, "put the initial prompt before every window"),
    (
        "condition_on_previous_text",
        flag,
        None,
        "give each window the text of those before it; if not given, True without --batch_size",
    ),
    ("temperature_increment_on_fallback", optional_float, 0.2, "step after a failed attempt"),
    ("compression_ratio_threshold", optional_float, 2.4, "text that compresses better has failed"),
    ("logprob_threshold", optional_float, -1.0, "a mean log-probability below this has failed"),
    ("no_speech_threshold", optional_float, 0.6, "likelihood from which failed text is silence"),
    ("clip_timestamps", str, "0", "seconds start,end,start,... of the parts to transcribe"),
    ("raw_timestamps", flag, False, "times as openai-whisper gives them, also beyond the audio"),
    (
        "batch_size",
        optional_int,
        None,
        "decode so many windows side by side: faster on long audio, cut at pauses; if not given, "
        "one after the other",
    ),
)
_AUDIO: Sequence[Option] = (
    (
        "channel",
        channel,
        None,
        "transcribe one channel: left, right or its number from 0, as FFmpeg counts; or each of "
        "them, as speakers of one transcript; if not given, the mix of all",
    ),
    (
        "audio_track",
        optional_int,
        None,
        "audio track of the file, from 0; FFmpeg's default if not given",
    ),
)
_WORDS: Sequence[Option] = (
    ("word_timestamps", flag, False, "time every word; the options below need it"),
    ("prepend_punctuations", str, PREPEND_PUNCTUATIONS, "signs that belong to the word after them"),
    ("append_punctuations", str, APPEND_PUNCTUATIONS, "signs that belong to the word before them"),
    (
        "hallucination_silence_threshold",
        optional_float,
        None,
        "skip silences longer than this (seconds) around text that looks invented",
    ),
    ("highlight_words", flag, False, "underline each word as it is spoken, in srt and vtt"),
    ("max_line_width", optional_count, None, "characters in a line of srt and vtt"),
    ("max_line_count", optional_count, None, "lines in a cue; needs --max_line_width"),
    ("max_words_per_line", optional_count, None, "words in a cue; not with --max_line_width"),
)
_GENERAL: Sequence[Option] = (
    MODEL,
    THREADS,
    (
        "jobs",
        count,
        1,
        "files to transcribe at a time: faster, as their windows are decoded side by side",
    ),
    ("fp16", flag, None, "accepted, but without effect: everything is computed in float32"),
    ("verbose", flag, True, "True prints segments as they are found, False a progress bar"),
)

# These become ``LineOptions``; others of the groups above go to the transcriber as they are.
_LINE_OPTIONS = ("highlight_words", "max_line_count", "max_line_width", "max_words_per_line")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("audio", nargs="+", help="files; - is standard input, written as stdin.*")
    general = parser.add_argument_group("model and output")
    general.add_argument("--output_dir", "-o", default=".", help="folder for the transcripts")
    general.add_argument(
        "--output_format", "-f", default="all", choices=OUTPUT_FORMATS, help="what to write"
    )
    general.add_argument("--quiet", action="store_true", help="print errors only")
    add_options(general, _GENERAL)
    add_machine(parser)
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--task", default="transcribe", choices=TASKS, help="translate: into English"
    )
    add_options(decoding, _DECODING)
    add_options(parser.add_argument_group("audio"), _AUDIO)
    add_options(parser.add_argument_group("long audio"), _LONG_AUDIO)
    add_options(parser.add_argument_group("words and subtitle lines"), _WORDS)


class Transcribes(Protocol):
    """What the command needs of a transcriber."""

    def segments(self, audio: str, options: TranscribeOptions) -> Segments: ...


def run(args: argparse.Namespace) -> int:
    """Transcribe every file; return the highest exit code of those that failed, or 0."""
    options = _transcribe_options(args)
    lines = _line_options(args)
    if args.jobs < 1:
        raise OptionError("--jobs: must be 1 or more, not 0")
    machine = machine_options(args)
    stems = _output_stems(args.audio)
    prepare_output_dir(args.output_dir)
    # If it is removed meanwhile, so may be the folder that a relative name begins at.
    args.output_path = os.path.abspath(args.output_dir)
    with showing_warnings(args.quiet):
        for notice in _notices(args):
            warnings.warn(notice, stacklevel=1)
        prepare_numpy(args.threads)
        transcriber = load(args.model or unnamed_model(args.quiet), machine)
        files = _Files(transcriber, args, options, lines)
        if args.jobs > 1 and len(stems) > 1:
            return _side_by_side(files, list(zip(args.audio, stems, strict=True)), args.jobs)
        return max(
            files.transcribe(path, stem, Output())
            for path, stem in zip(args.audio, stems, strict=True)
        )


def load(model: str, machine: MachineOptions) -> Transcribes:
    """Load the model. Raises ModelError, OptionError and KernelError."""
    # Imported here, so that errors in options are reported at once, and because NumPy reads the
    # number of threads when it is imported.
    from whisper_npu.transcriber import Transcriber

    with as_options():
        return Transcriber.from_options(model, machine)


class _Files:
    """Transcribes files, from any thread."""

    def __init__(
        self,
        transcriber: Transcribes,
        args: argparse.Namespace,
        options: TranscribeOptions,
        lines: LineOptions,
    ) -> None:
        self._transcriber, self._args = transcriber, args
        self._options, self._lines = options, lines
        self._streams: set[Segments] = set()
        self._stopped = False

    def transcribe(self, path: str, stem: str, output: Output) -> int:
        """Transcribe a file; return its exit code. Raises what would happen to every file."""
        try:
            self._transcribe(path, stem, output)
        except (OptionError, ModelError):
            raise
        except WhisperNpuError as error:
            if was_stopped():
                raise
            output.note(f"error: {error}")
            return error.exit_code
        except Exception as error:
            if was_stopped():
                raise
            for line in traceback.format_exc().splitlines():
                output.note(line, who="")
            output.note(f"error: {path}: {type(error).__name__}: {error}")
            return WhisperNpuError.exit_code
        return 0

    def _transcribe(self, path: str, stem: str, output: Output) -> None:
        args, start = self._args, time.perf_counter()
        stream = self._transcriber.segments(path, self._options)
        self._streams.add(stream)
        try:
            if self._stopped:
                stream.close()
            with Display(stream, args.verbose, args.quiet, output) as display:
                for segment in stream:
                    display.show(segment)
        finally:
            self._streams.discard(stream)
        result = stream.result()
        display.summarize(path, result, time.perf_counter() - start)
        write_result(result.to_dict(), _output_dir(args), stem, args.output_format, self._lines)
        if output.failure is not None:
            raise output.failure

    def stop(self) -> None:
        """Give up all that is under way."""
        self._stopped = True
        for stream in list(self._streams):
            stream.close()


def _side_by_side(files: _Files, named: Sequence[tuple[str, str]], jobs: int) -> int:
    """Transcribe so many files at a time. What is said of them is said in their order."""
    # Imported here, as it is not needed otherwise.
    from concurrent.futures import ThreadPoolExecutor

    outputs = [HeldOutput() for _ in named]
    with ThreadPoolExecutor(jobs) as threads:
        try:
            codes = [
                threads.submit(files.transcribe, *names, output)
                for names, output in zip(named, outputs, strict=True)
            ]
            highest = 0
            for code, output in zip(codes, outputs, strict=True):
                try:
                    highest = max(highest, code.result())
                finally:
                    output.release()
                if output.failure is not None:
                    note(f"error: {output.failure}")
                    highest = max(highest, output.failure.exit_code)
            return highest
        except BaseException:
            files.stop()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _output_dir(args: argparse.Namespace) -> str:
    """The folder for the transcripts: as it was named, unless that has been removed."""
    name: str = args.output_dir
    return name if os.path.exists(args.output_path) else args.output_path


def _transcribe_options(args: argparse.Namespace) -> TranscribeOptions:
    """Raises OptionError for a value that an option does not take."""
    groups = (*_DECODING, *_AUDIO, *_LONG_AUDIO, *_WORDS)
    names = [name for name, *_ in groups if name not in _LINE_OPTIONS]
    options = {name: getattr(args, name) for name in names}
    increment = options.pop("temperature_increment_on_fallback")
    if options["condition_on_previous_text"] is None:
        # What it is then depends on the batch size.
        del options["condition_on_previous_text"]
    with as_options():
        options["temperature"] = fallback_temperatures(args.temperature, increment)
        return TranscribeOptions.from_keywords(task=args.task, **options)


def _line_options(args: argparse.Namespace) -> LineOptions:
    """How cues are cut. Raises OptionError if that needs word timestamps and they are off."""
    values: Mapping[str, Any] = {name: getattr(args, name) for name in _LINE_OPTIONS}
    for name, value in values.items():
        if value and not args.word_timestamps:
            raise OptionError(f"--{name} requires --word_timestamps True")
    return LineOptions(**values)


def _notices(args: argparse.Namespace) -> list[str]:
    """What the user should know: options without effect."""
    found = []
    if args.fp16 is not None:
        found.append("--fp16 has no effect: everything is computed in float32")
    if args.max_line_count and not args.max_line_width:
        found.append("--max_line_count has no effect without --max_line_width")
    if args.max_words_per_line and args.max_line_width:
        found.append("--max_words_per_line has no effect with --max_line_width")
    return found


def _output_stems(audio: Sequence[str]) -> list[str]:
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

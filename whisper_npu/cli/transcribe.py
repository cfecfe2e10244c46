"""``whisper-npu transcribe``: audio files to transcripts."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from whisper_npu.builtin import BUILT_IN
from whisper_npu.cli import transcribe_options
from whisper_npu.cli.transcribe_options import add_arguments as add_arguments
from whisper_npu.errors import ModelError, OptionError, WhisperNpuError
from whisper_npu.results import Segment, Transcription
from whisper_npu.text.languages import LANGUAGES
from whisper_npu.text.writers import LineOptions, format_timestamp, prepare_output_dir, write_result

if TYPE_CHECKING:
    from whisper_npu.transcriber import Transcriber

# What the libraries that NumPy may be built with read when they are loaded. OpenBLAS can be told
# later too, but has started its threads by then.
_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class SegmentStream(Protocol):
    """Segments as they are decoded; ``whisper_npu.transcriber.SegmentStream`` is one."""

    @property
    def language(self) -> str: ...

    @property
    def language_probs(self) -> Mapping[str, float] | None:
        """By code, if the language was detected."""
        ...

    @property
    def seek(self) -> int:
        """Position in mel frames, of ``n_frames``."""
        ...

    @property
    def n_frames(self) -> int: ...

    def __iter__(self) -> Iterator[Segment]: ...

    def result(self) -> Transcription:
        """The transcription so far."""
        ...


class Transcribes(Protocol):
    """What the command needs of a transcriber."""

    def segments(self, audio: str, **options: Any) -> SegmentStream: ...


def run(args: argparse.Namespace) -> int:
    """Transcribe every file; return the highest exit code of those that failed, or 0."""
    options = transcribe_options.transcribe_options(args)
    lines = transcribe_options.line_options(args)
    machine = transcribe_options.machine_options(args)
    stems = transcribe_options.output_stems(args.audio)
    prepare_output_dir(args.output_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if args.quiet else "always", UserWarning)
        warnings.showwarning = show_warning
        for notice in transcribe_options.notices(args):
            warnings.warn(notice, stacklevel=1)
        set_threads(args.threads)
        transcriber = load(args.model or unnamed_model(args.quiet), machine)
        return max(
            _transcribe_file(transcriber, args, path, stem, options, lines)
            for path, stem in zip(args.audio, stems, strict=True)
        )


def load(model: str, machine: Mapping[str, Any]) -> Transcriber:
    """Load the model. Raises ModelError, OptionError and KernelError."""
    # Imported here, so that errors in options are reported at once, and because NumPy reads the
    # number of threads when it is imported.
    from whisper_npu.transcriber import Transcriber

    try:
        return Transcriber(model, **machine)
    except OptionError as error:
        raise OptionError(f"--{error}") from None


def unnamed_model(quiet: bool) -> str:
    """The model pulled last, or else the built-in one; says on stderr which it is."""
    # Imported here, as most models are named.
    from whisper_npu.hub.store import Store

    pulled = Store().latest()
    if pulled is None:
        warnings.warn(transcribe_options.BUILT_IN_NOTICE, stacklevel=1)
        return BUILT_IN
    if not quiet:
        print(
            f"whisper-npu: using {pulled.name} ({pulled.dtype}), the model pulled last; "
            "--model names another",
            file=sys.stderr,
        )
    return str(pulled.path)


def set_threads(threads: int) -> None:
    """The environment for ``--threads``, before NumPy is imported; 0: one for each core."""
    # OpenBLAS's threads wait for work by taking turns with ours, by default for 0.1 s.
    # 2 ** 20 clock ticks, half a millisecond, are enough from one product to the next.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    for name in _THREAD_VARIABLES if threads else ():
        os.environ[name] = str(threads)


def _transcribe_file(
    transcriber: Transcribes,
    args: argparse.Namespace,
    path: str,
    stem: str,
    options: dict[str, Any],
    lines: LineOptions,
) -> int:
    try:
        stream = transcriber.segments(path, **options)
        with _Display(stream, args.verbose, args.quiet) as display:
            for segment in stream:
                display.show(segment)
        write_result(stream.result().to_dict(), args.output_dir, stem, args.output_format, lines)
    except (OptionError, ModelError):
        # The same for every file.
        raise
    except WhisperNpuError as error:
        print(f"whisper-npu: error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        print(f"whisper-npu: error: {path}: {type(error).__name__}: {error}", file=sys.stderr)
        return WhisperNpuError.exit_code
    return 0


class _Display:
    """Prints segments, or moves a progress bar on stderr if that is a terminal.

    Both only if stdout is not a terminal: there the bar would run through the text.
    """

    def __init__(self, stream: SegmentStream, verbose: bool, quiet: bool) -> None:
        self._stream = stream
        self._prints = verbose and not quiet
        if stream.language_probs is not None and not quiet:
            language = LANGUAGES.get(stream.language, stream.language)
            _print(f"Detected language: {language.title()}")
        shares_terminal = self._prints and sys.stdout.isatty()
        self._bar: Any = None
        if sys.stderr.isatty() and not quiet and not shares_terminal:
            # Imported here, as it is not needed otherwise.
            from tqdm import tqdm

            self._bar = tqdm(total=stream.n_frames, unit="frames")

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            if kind is None:
                self._bar.update(self._bar.total - self._bar.n)
            self._bar.close()

    def show(self, segment: Segment) -> None:
        if self._prints:
            start, end = format_timestamp(segment.start), format_timestamp(segment.end)
            _print(f"[{start} --> {end}] {segment.text}")
        if self._bar is not None:
            self._bar.update(min(self._stream.seek, self._bar.total) - self._bar.n)


def _print(text: str) -> None:
    """Print at once, with ? for what the console cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        # Nobody reads any more (as with | head), but the files are still wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line on stderr; takes the place of ``warnings.showwarning``."""
    print(f"whisper-npu: warning: {message}", file=sys.stderr)

"""What a command shows while it runs: segments as text, or a progress bar, and warnings."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from whisper_npu.results import Placement, Segment, Transcription
from whisper_npu.runtime.backend import NUMPY
from whisper_npu.text.languages import LANGUAGES
from whisper_npu.text.writers import format_timestamp


class Segments(Protocol):
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


class Display:
    """Prints segments, or moves a progress bar on stderr if that is a terminal.

    Both only if stdout is not a terminal: there the bar would run through the text.
    """

    def __init__(self, stream: Segments, verbose: bool, quiet: bool) -> None:
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

    def __enter__(self) -> Display:
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

    def summarize(self, name: str, result: Transcription, seconds: float) -> None:
        """Say on stderr how fast a file was transcribed, and where and in what precision."""
        placement = result.placement
        if self._prints and placement is not None and seconds > 0:
            print(
                f"whisper-npu: {name}: {result.duration:.1f} s in {seconds:.2f} s, "
                f"{result.duration / seconds:.1f} times real time; {placement.precision} "
                f"({placement.precision_reason}); ops: {', '.join(_shares(placement))}",
                file=sys.stderr,
            )


def _shares(placement: Placement) -> Iterator[str]:
    """Where ops ran, with their shares, the largest first."""
    # Imported here, as it is not needed before the first file is done.
    from whisper_npu.backends.cpu.kernels import KERNELS

    of_cpu = {kernel.name for kernel in KERNELS}
    counts: Counter[str] = Counter()
    for kernels in placement.ops.values():
        for kernel, count in kernels.items():
            if kernel == NUMPY:
                where = "NumPy"
            elif kernel in of_cpu:
                where = f"CPU kernels ({placement.instruction_set})"
            else:
                where = f"NPU ({placement.device})"
            counts[where] += count
    for where, count in counts.most_common():
        yield f"{count / sum(counts.values()):.1%} {where}"


def _print(text: str) -> None:
    """Print at once, with ? for what the console cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        # Nobody reads any more (as with | head), but the files are still wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def showing_warnings(quiet: bool) -> Iterator[None]:
    """Print warnings for the user, as one line each on stderr, unless ``quiet``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "always", UserWarning)
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"whisper-npu: warning: {message}", file=sys.stderr)

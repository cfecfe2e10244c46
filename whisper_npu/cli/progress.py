"""What a command shows while it runs: segments as text, or a progress bar, and warnings."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from whisper_npu.cli.process import say
from whisper_npu.errors import OutputError
from whisper_npu.results import Placement, Segment, Transcription
from whisper_npu.terminal import note, printable
from whisper_npu.text.languages import LANGUAGES
from whisper_npu.text.writers import format_timestamp, with_speaker


class Segments(Protocol):
    """Segments as they are decoded; ``whisper_npu.streams.SegmentStream`` is one."""

    @property
    def language(self) -> str: ...

    @property
    def language_probability(self) -> float | None:
        """Of the language, if it was detected."""
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

    def close(self) -> None:
        """Give up what is not decoded yet."""
        ...


class Output:
    """The lines of one file: on stdout, and on stderr for notes.

    ``failure`` is why lines could not be printed; what is written to files is still wanted then.
    """

    def __init__(self) -> None:
        self.failure: OutputError | None = None

    def say(self, text: str) -> None:
        """A line of what was asked for."""
        try:
            say(text, now=True)
        except BrokenPipeError:
            # Nobody reads any more, as with | head.
            pass
        except OutputError as error:
            self.failure = error

    def note(self, text: str, **how: Any) -> None:
        """A line about it."""
        note(text, **how)


class HeldOutput(Output):
    """Lines that are held until they are released."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Callable[[Output], None]] = []

    def say(self, text: str) -> None:
        self._held.append(lambda output: output.say(text))

    def note(self, text: str, **how: Any) -> None:
        self._held.append(lambda output: output.note(text, **how))

    def release(self) -> None:
        """Print all of them."""
        output = Output()
        for line in self._held:
            line(output)
        self._held, self.failure = [], output.failure


class Display:
    """Prints segments, or moves a progress bar on stderr if that is a terminal.

    Both only if stdout is not a terminal: there the bar would run through the text. There is no bar
    where the output is held.
    """

    def __init__(self, stream: Segments, verbose: bool, quiet: bool, output: Output) -> None:
        self._stream, self._output = stream, output
        self._prints = verbose and not quiet
        probability = stream.language_probability
        if probability is not None and not quiet:
            language = LANGUAGES.get(stream.language, stream.language)
            output.say(f"Detected language: {language.title()} (probability {probability:.2f})")
        shares_terminal = self._prints and sys.stdout.isatty()
        self._bar: Any = None
        shown = not quiet and not shares_terminal and not isinstance(output, HeldOutput)
        if sys.stderr.isatty() and shown:
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
            text = with_speaker(segment.text, segment.speaker)
            self._output.say(f"[{start} --> {end}] {printable(text)}")
        if self._bar is not None:
            self._bar.update(min(self._stream.seek, self._bar.total) - self._bar.n)

    def summarize(self, name: str, result: Transcription, seconds: float) -> None:
        """Say on stderr how fast a file was transcribed, and where and in what precision."""
        placement = result.placement
        if self._prints and placement is not None and seconds > 0:
            self._output.note(
                f"{name}: {result.duration:.1f} s in {seconds:.2f} s, "
                f"{result.duration / seconds:.1f} times real time; {placement.precision} "
                f"({placement.precision_reason}); ops: {', '.join(_shares(placement))}"
            )


def _shares(placement: Placement) -> Iterator[str]:
    """Where ops ran, with their shares, the largest first."""
    # Imported here, as NumPy must not be loaded before its number of threads is set.
    from whisper_npu.backends.cpu.kernels import KERNELS
    from whisper_npu.runtime.backend import NUMPY

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

"""What a file consists of."""

from __future__ import annotations

from dataclasses import dataclass

from whisper_npu.audio.decoders.reader import Reader


@dataclass(frozen=True)
class Part:
    """A recording, or a piece of one, that a decoder can read by itself. Times are in seconds.

    ``lost`` is audio that is missing before it, and ``padding`` silence that is there for other
    reasons. ``least`` is what a decoder must get out of it, and ``promised`` what its header says
    that it holds, None where nothing says it. ``damaged`` parts are FFmpeg's, which tells times
    after the damage. ``read_to_end`` is False where bytes at the end are known to be no audio.
    ``note`` is what users should know of it.
    """

    reader: Reader
    lost: float = 0.0
    padding: float = 0.0
    least: float | None = None
    promised: float | None = None
    damaged: bool = False
    read_to_end: bool = True
    note: str | None = None

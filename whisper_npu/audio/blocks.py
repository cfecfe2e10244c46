"""What decoders give."""

from __future__ import annotations

from dataclasses import dataclass

from whisper_npu.ops.arrays import F32

# Sampling rates that recordings have, in Hz.
RATES = range(1_000, 768_001)


@dataclass(frozen=True)
class DecodedBlock:
    """A part of a recording as it was decoded, before channels are mixed and rates converted.

    ``rate`` is in Hz; ``samples`` are float32 [n, channels] with full scale at 1; ``layout`` is
    FFmpeg's name of the channel layout ("stereo", "5.1(side)") or the names of the channels in
    their order ("FL+FC+FR"), None if it is not known. All three may change from block to block.
    """

    rate: int
    samples: F32
    layout: str | None

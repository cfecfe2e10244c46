"""Files without a header, which only their names tell: recordings of telephones."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Headerless:
    """How samples are read that do not say what they are, with one channel.

    ``demuxer`` is FFmpeg's name; ``subtype`` libsndfile's, where it can read them.
    """

    demuxer: str
    rate: int
    subtype: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """FFmpeg's options of the demuxer: those with a rate of their own take none."""
        return {"sample_rate": str(self.rate)} if self.subtype else {}


_MULAW = Headerless("mulaw", 8000, "ULAW")
_ALAW = Headerless("alaw", 8000, "ALAW")
_G722 = Headerless("g722", 16000)
_BY_EXTENSION = {
    **dict.fromkeys(("ul", "ulaw", "mulaw", "pcmu"), _MULAW),
    **dict.fromkeys(("al", "alaw", "pcma"), _ALAW),
    **dict.fromkeys(("g722", "722"), _G722),
    "gsm": Headerless("gsm", 8000),
    # Asterisk's signed linear, with its rate in kHz.
    "sln": Headerless("s16le", 8000, "PCM_16"),
    **{
        f"sln{rate // 1000}": Headerless("s16le", rate, "PCM_16")
        for rate in (8000, 12000, 16000, 24000, 32000, 44100, 48000, 96000, 192000)
    },
}


# Files that begin so are of other formats, whatever their names. Decoders are not asked what a file
# is: any samples may look like frames of MP3.
_SIGNATURES = (
    *(b"RIFF", b"RF64", b"riff", b"FORM", b".snd", b"caff", b"OggS", b"fLaC", b"ID3", b"#!AMR"),
    b"\x1a\x45\xdf\xa3",
)


def headerless(name: str, start: bytes) -> Headerless | None:
    """How a file of this name that begins so is read; None if it says itself what it is."""
    if start.startswith(_SIGNATURES) or start[4:8] == b"ftyp":
        return None
    return _BY_EXTENSION.get(os.path.splitext(name)[1].lower().lstrip("."))

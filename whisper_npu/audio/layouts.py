"""Channel layouts: which channels a recording has, by FFmpeg's names."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soundfile import SoundFile

# FFmpeg's layouts of 3 to 8 channels.
_LAYOUTS = {
    "2.1": "FL+FR+LFE",
    "3.0": "FL+FR+FC",
    "3.0(back)": "FL+FR+BC",
    "4.0": "FL+FR+FC+BC",
    "quad": "FL+FR+BL+BR",
    "quad(side)": "FL+FR+SL+SR",
    "3.1": "FL+FR+FC+LFE",
    "5.0": "FL+FR+FC+BL+BR",
    "5.0(side)": "FL+FR+FC+SL+SR",
    "4.1": "FL+FR+FC+LFE+BC",
    "5.1": "FL+FR+FC+LFE+BL+BR",
    "5.1(side)": "FL+FR+FC+LFE+SL+SR",
    "6.0": "FL+FR+FC+BC+SL+SR",
    "6.0(front)": "FL+FR+FLC+FRC+SL+SR",
    "3.1.2": "FL+FR+FC+LFE+TFL+TFR",
    "hexagonal": "FL+FR+FC+BL+BR+BC",
    "6.1": "FL+FR+FC+LFE+BC+SL+SR",
    "6.1(back)": "FL+FR+FC+LFE+BL+BR+BC",
    "6.1(front)": "FL+FR+LFE+FLC+FRC+SL+SR",
    "7.0": "FL+FR+FC+BL+BR+SL+SR",
    "7.0(front)": "FL+FR+FC+FLC+FRC+SL+SR",
    "7.1": "FL+FR+FC+LFE+BL+BR+SL+SR",
    "7.1(wide)": "FL+FR+FC+LFE+BL+BR+FLC+FRC",
    "7.1(wide-side)": "FL+FR+FC+LFE+FLC+FRC+SL+SR",
    "5.1.2": "FL+FR+FC+LFE+SL+SR+TFL+TFR",
    "5.1.2(back)": "FL+FR+FC+LFE+BL+BR+TFL+TFR",
    "octagonal": "FL+FR+FC+BL+BR+BC+SL+SR",
    "cube": "FL+FR+BL+BR+TFL+TFR+TBL+TBR",
}
# What FFmpeg takes a number of channels to be if nothing says more.
_DEFAULT = {3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}

# A layout without a name of its own: "FL+FC+FR", or "3 channels (FL+FC+FR)".
_CHANNELS = re.compile(r"(?:\d+ channels \()?([A-Z][A-Z0-9]*(?:\+[A-Z][A-Z0-9]*)+)\)?")

# Formats whose specification names the channels of each number, by libsndfile's names.
_FLAC = {3: "3.0", 4: "quad", 5: "5.0(side)", 6: "5.1(side)", 7: "6.1", 8: "7.1"}
_VORBIS = {
    3: "FL+FC+FR",
    4: "FL+FR+BL+BR",
    5: "FL+FC+FR+BL+BR",
    6: "FL+FC+FR+BL+BR+LFE",
    7: "FL+FC+FR+SL+SR+BC+LFE",
    8: "FL+FC+FR+SL+SR+BL+BR+LFE",
}
_BY_FORMAT = {"FLAC": _FLAC, "VORBIS": _VORBIS, "OPUS": _VORBIS}

# The order of its decoders, whatever that of a format is.
_FFMPEG_CHANNELS = (
    *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC"),
    *("TFR", "TBL", "TBC", "TBR"),
)

# SF_CHANNEL_MAP_* of sndfile.h, from 1 on.
_SNDFILE_CHANNELS = (
    *("FC", "FL", "FR", "FC", "FL", "FR", "FC", "BC", "BL", "BR", "LFE", "FLC", "FRC", "SL", "SR"),
    *("TC", "TFL", "TFR", "TFC", "TBL", "TBR", "TBC"),
)
_SFC_GET_CHANNEL_MAP_INFO = 0x1100


@cache
def channel_names(layout: str | None, n: int) -> tuple[str, ...] | None:
    """FFmpeg's names of ``n`` channels, in their order, None where they are not known.

    ``layout`` is its name for them, or their names with ``+`` between them. Without one, 3 to 8
    channels are what FFmpeg takes them for.
    """
    named = _CHANNELS.fullmatch(_LAYOUTS.get(layout or "", layout or ""))
    if named is None:
        named = _CHANNELS.fullmatch(_LAYOUTS.get(_DEFAULT.get(n, ""), ""))
    names = None if named is None else tuple(named[1].split("+"))
    return names if names is not None and len(names) == n else None


def layout_of(decoder: SoundFile) -> tuple[str | None, list[int] | None]:
    """The layout of a file that libsndfile decodes, None if nothing says it.

    It is that of the format (FLAC, Vorbis, Opus), or the file's own (the channel mask of a WAV). It
    comes with the places of the channels in FFmpeg's order, None if that is libsndfile's too.
    """
    named = _named(decoder)
    names = None if named is None else channel_names(named, decoder.channels)
    if names is None:
        return None, None
    order = sorted(range(len(names)), key=lambda i: _FFMPEG_CHANNELS.index(names[i]))
    layout = "+".join(names[i] for i in order)
    return layout, None if order == sorted(order) else order


def _named(decoder: SoundFile) -> str | None:
    """The channels as libsndfile has them, by their names or that of their layout."""
    from soundfile import _ffi, _snd  # it has no function for this

    n = decoder.channels
    for name in (decoder.format, decoder.subtype):
        if name in _BY_FORMAT:
            return _BY_FORMAT[name].get(n)
    if n < 3:
        return None
    channels = _ffi.new("int[]", n)
    size = n * _ffi.sizeof("int")
    if not _snd.sf_command(decoder._file, _SFC_GET_CHANNEL_MAP_INFO, channels, size):
        return None
    if not all(0 < channel <= len(_SNDFILE_CHANNELS) for channel in channels):
        return None
    return "+".join(_SNDFILE_CHANNELS[channel - 1] for channel in channels)

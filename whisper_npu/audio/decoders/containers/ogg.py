"""The pages of an Ogg file: where recordings that were joined begin, and what is damaged."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

from whisper_npu.audio.decoders.containers.part import Part
from whisper_npu.audio.decoders.reader import Reader

_CHUNK = 2**20
# After so many places without a page the rest is not looked at: each may cost a checksum.
_MAX_DAMAGED = 10_000
# How tags begin that some programs put after the last page: ID3 and APE.
_TAGS = (b"TAG", b"ID3", b"APE")
_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


@dataclass
class _Link:
    """One of the recordings of a file, from ``start`` to ``end``."""

    start: int
    end: int
    streams: int = 0
    closed: bool = False
    # Whether there is something else between its pages, or some are missing.
    damaged: bool = False
    # The number of the last page of each stream, by the stream's own.
    numbers: dict[bytes, int] = field(default_factory=dict)

    def add(self, page: bytes, end: int) -> None:
        """Take a page in, which ends at a place in the file."""
        stream, number = page[14:18], int.from_bytes(page[18:22], "little")
        if stream in self.numbers and number != (self.numbers[stream] + 1) % 2**32:
            self.damaged = True
        self.numbers[stream] = number
        self.end = end
        self.streams += bool(page[5] & 2)
        self.closed |= bool(page[5] & 4)


@dataclass
class _Pages:
    """What the pages of a file tell."""

    links: list[_Link]
    # Whether there is something else than pages after the last one.
    cut: bool = False


def parts(reader: Reader) -> list[Part]:
    """The recordings of an Ogg file; none if it is no such file."""
    pages = _inspect(reader)
    if pages is None:
        return []
    found = [
        Part(
            reader.part(link.start, link.end) if len(pages.links) > 1 else reader,
            # Which of several streams is meant FFmpeg tells.
            damaged=link.damaged or link.streams > 1,
            # Where pages are whole libsndfile gets all there is, whatever their times tell.
            least=0.0,
            read_to_end=False,
        )
        for link in pages.links
    ]
    last = pages.links[-1]
    tagged = last.closed and reader.at(last.end, 3) in _TAGS
    if (pages.cut and not tagged) or not last.closed:
        found[-1] = replace(
            found[-1], note="its last page is missing (cut off; get a complete copy)"
        )
    return found


def _inspect(reader: Reader) -> _Pages | None:
    """Read all pages and compare their checksums; None if the file is not Ogg."""
    if reader.at(0, 4) != b"OggS":
        return None
    pages = _Pages([])
    data, start, at = reader.at(0, _CHUNK), 0, 0
    # Whether the last page was the first of a stream, which all those of a link come before.
    opening = False
    n_damaged = 0
    while at < reader.size:
        if at + 2**16 + 512 > start + len(data) < reader.size:
            start, data = at, reader.at(at, _CHUNK)
            if not data:
                # The file has become shorter.
                break
        page = _page(data, at - start)
        if page is not None and pages.cut:
            pages.cut = False
            if pages.links:
                pages.links[-1].damaged = True
        if page is None:
            pages.cut = True
            n_damaged += 1
            if n_damaged > _MAX_DAMAGED:
                if pages.links:
                    pages.links[-1] = replace(pages.links[-1], end=reader.size, damaged=True)
                break
            found = data.find(b"OggS", at - start + 1)
            at = start + found if found >= 0 else max(at + 1, start + len(data) - 3)
            continue
        first = bool(page[5] & 2)
        if first and not opening:
            pages.links.append(_Link(at, at))
        opening = first
        at += len(page)
        if pages.links:
            pages.links[-1].add(page, at)
    return pages if pages.links else None


def _page(data: bytes, at: int) -> bytes | None:
    """The page that begins at a place, or None if there is no whole one."""
    if data[at : at + 4] != b"OggS" or at + 27 > len(data):
        return None
    lengths = at + 27 + data[at + 26]
    end = lengths + sum(data[at + 27 : lengths])
    if lengths > len(data) or end > len(data):
        return None
    page = data[at:end]
    return page if _checksum(page) == int.from_bytes(page[22:26], "little") else None


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32, which takes the bits in the other order than zlib and begins with 0."""
    cleared = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(cleared.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)

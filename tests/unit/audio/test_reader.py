"""What C libraries read through: they may go to and fro, and not round in a circle for ever."""

from __future__ import annotations

import io

from whisper_npu.audio.decoders.reader import Reader

CONTENT = bytes(range(256)) * 200


def test_a_file_is_read_twice_in_small_pieces() -> None:
    """As libsndfile reads MP3: all frames to count them, then one by one with calls between."""
    reader = Reader(io.BytesIO(CONTENT))
    for _ in range(2):
        reader.seek(0)
        found = bytearray()
        while len(found) < len(CONTENT):
            for _ in range(8):
                assert reader.tell() == len(found)
            found += reader.read(2)
        assert bytes(found) == CONTENT


def test_who_asks_for_ever_where_he_is_is_at_the_end() -> None:
    reader = Reader(io.BytesIO(CONTENT))
    reader.read(10)
    places = [reader.tell() for _ in range(200_000)]
    assert places[0] == 10
    assert places[-1] == len(CONTENT)
    assert reader.read(1) == b""


def test_who_reads_the_same_for_ever_comes_to_the_end() -> None:
    reader = Reader(io.BytesIO(CONTENT))
    for _ in range(200):
        reader.seek(0)
        assert len(reader.read(len(CONTENT))) == len(CONTENT)
    for _ in range(100):
        reader.seek(0)
        data = reader.read(len(CONTENT))
    assert data == b""

"""Mutations keep enough of a structure that more than its first check is reached."""

from __future__ import annotations

import io
import json
import struct
from contextlib import suppress
from random import Random

import pytest
import soundfile

from tests.fuzz import audio_mutations
from tests.fuzz.audio_seeds import audio_seeds
from tests.fuzz.json_mutations import mutate_json

TEXT = json.dumps({"a": 1, "b": {"c": [1, 2, {"d": "text"}], "e": None}, "f": "x"}).encode()


def _parsed(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return ValueError


def test_json_stays_json() -> None:
    changed = [mutate_json(TEXT, Random(number)) for number in range(500)]
    assert changed == [mutate_json(TEXT, Random(number)) for number in range(500)]
    parsed = [_parsed(text) for text in changed]
    assert sum(value is not ValueError for value in parsed) > 350
    assert sum(isinstance(value, dict) for value in parsed) > 300
    assert len(set(changed)) > 300
    assert any(_has_a_key_twice(text) for text in changed)
    assert mutate_json(b"no json", Random(0)) == b"no json"


def _has_a_key_twice(text: bytes) -> bool:
    found = []
    with suppress(ValueError, RecursionError):
        json.loads(
            text, object_pairs_hook=lambda pairs: found.append(len(pairs) > len(dict(pairs)))
        )
    return any(found)


def test_seeds_are_of_many_formats() -> None:
    names = audio_seeds()
    assert len({name.rpartition(".")[2] for name in names}) >= 30
    assert sum(map(len, names.values())) < 1_000_000


@pytest.mark.parametrize("name", ["OGG-VORBIS.ogg", "OGG-OPUS.ogg"])
def test_checksums_of_ogg_pages(name: str) -> None:
    content = audio_seeds()[name]
    mended = bytearray(content)
    for page in (0, content.index(b"OggS", 1)):
        mended[page + 22 : page + 26] = b"none"
    assert bytes(mended) != content
    audio_mutations._mend_pages(mended)
    assert bytes(mended) == content


def test_fields_of_flac_are_set_alone() -> None:
    content = audio_seeds()["FLAC-PCM_16.flac"]
    found = set()
    for number in range(300):
        data = bytearray(content)
        audio_mutations._flac(data, Random(number))
        (packed,) = struct.unpack_from(">Q", data, 18)
        found.add((packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1))
    samples = soundfile.info(io.BytesIO(content)).frames
    assert {(655_350, 1, samples), (16_000, 8, samples), (16_000, 1, (1 << 36) - 1)} <= found


def test_recordings_stay_recordings() -> None:
    content = audio_seeds()["WAV-PCM_16.wav"]
    others = (audio_seeds()["FLAC-PCM_16.flac"],)
    changed = [audio_mutations.mutate_audio(content, others, Random(n)) for n in range(400)]
    assert len(set(changed)) > 350
    headers = [data[:12] for data in changed]
    assert sum(data[:4] == b"RIFF" and data[8:12] == b"WAVE" for data in headers) > 200
    formats = {data[22:24] for data in changed if data[:22] == content[:22]}
    # Numbers of channels.
    assert len(formats) > 5

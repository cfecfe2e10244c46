"""The .pt reader: views of storages, and archives that torch did not write."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.formats import torch_pt
from tests.support.formats.torch_pt import write_pt
from tests.support.micro import micro_model
from whisper_npu.convert.openai_names import openai_name
from whisper_npu.convert.source import open_source
from whisper_npu.convert.torch_file import StridedRows
from whisper_npu.convert.torch_zip import Member, zip_members
from whisper_npu.errors import ModelError
from whisper_npu.model.stored import FLOAT16, FLOAT32

CONV = "encoder.conv1.weight"


@pytest.mark.parametrize("block_bytes", [4, 64, 1000, 1 << 20])
@pytest.mark.parametrize("stored", [FLOAT32, FLOAT16])
@pytest.mark.parametrize(
    "view",
    [
        lambda base: base.reshape(60, 40).T,
        lambda base: base.reshape(8, 30, 10).transpose(2, 0, 1),
        lambda base: base.reshape(8, 30, 10)[1:7:2, ::3, 2:9:4],
        lambda base: base[5:1000:7],
        lambda base: base.reshape(2400, 1)[::-1][::-1].T,
    ],
)
def test_strided_views(
    tmp_path: Path, view: Callable[[np.ndarray], np.ndarray], stored: object, block_bytes: int
) -> None:
    base = np.arange(2400, dtype=np.float32 if stored is FLOAT32 else np.float16)
    array = view(base)
    file = tmp_path / "file"
    file.write_bytes(b"12345" + base.tobytes())
    start = 5 + array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    strides = tuple(stride // base.itemsize for stride in array.strides)
    rows = StridedRows(file, start, array.shape, stored, strides)  # type: ignore[arg-type]
    blocks = list(rows.blocks(block_bytes))
    np.testing.assert_array_equal(np.concatenate(blocks), array)
    assert all(block.nbytes <= block_bytes or len(block) == 1 for block in blocks)
    assert rows.n_bytes == array.nbytes


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    """The archive with ``old`` in its pickle replaced once."""

    def change(members: dict[str, bytes]) -> None:
        pickle = members["model/data.pkl"]
        assert old in pickle
        members["model/data.pkl"] = pickle.replace(old, new, 1)

    return rewritten(path, change)


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


SHAPE = b"(" + integer(2) + integer(3) + integer(3) + b"t"
STRIDES = b"(" + integer(9) + integer(3) + integer(1) + b"t"


def test_a_transposed_weight(micro: dict[str, Path]) -> None:
    strides = b"(" + integer(1) + integer(2) + integer(6) + b"t"
    replaced(micro["float32.pt"], SHAPE + STRIDES, SHAPE + strides)
    stored = micro_model(timestamps=1).weights["model.encoder.conv1.weight"]
    (block,) = open_source(micro["float32.pt"]).blocks("model.encoder.conv1.weight")
    np.testing.assert_array_equal(block, stored.reshape(3, 3, 2).transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (text("n_mels") + integer(3), text("n_mels") + integer(-3), "num_mel_bins must be a pos"),
        (text("n_mels") + integer(3), text("n_mels") + integer(1 << 30), "num_mel_bins must be"),
        (text("n_mels") + integer(3), text("n_mels") + b"G" + b"\0" * 8, "no integer n_mels"),
        (text("n_mels") + integer(3), text("n_me_s") + integer(3), "no integer n_mels"),
        (text("n_mels") + integer(3), text("n_mels") + integer(4), "of the wrong shape: model.en"),
        (text("n_text_state") + integer(2), text("n_text_state") + integer(4), "different n_aud"),
        (text("model_state_dict"), text("model_state_dicT"), "has no dims and model_state_dict"),
        (text(CONV), text("encoder.conv9.weight"), "1 missing: .*; 1 unexpected: encoder.conv9"),
        (text(CONV), text("encoder.conv1.\nweigh"), r"has the name 'encoder.conv1.\\nweigh'"),
        (b"torch\nFloat", b"torch\nLong", r"conv1.weight is a 'torch LongStorage'; double, flo"),
        (text("0") + text("cpu"), text("x") + text("cpu"), "conv1.weight is missing or too short"),
        (text("0") + text("cpu"), text("1") + text("cpu"), "conv1.weight is missing or too short"),
        (integer(0) + SHAPE, integer(1) + SHAPE, "conv1.weight passes the end of its data"),
        (STRIDES, STRIDES.replace(integer(9), integer(10)), "conv1.weight passes the end"),
        (STRIDES, b"(" + 3 * integer(0) + b"t", None),
        (
            integer(2) + 2 * integer(3) + b"t",
            3 * integer(0) + b"t",
            r"conv1.weight is \[0, 0, 0\], ",
        ),
    ],
)
def test_damaged_pickles(
    micro: dict[str, Path], old: bytes, new: bytes, message: str | None
) -> None:
    path = replaced(micro["float32.pt"], old, new)
    if message is None:
        open_source(path)
        return
    with pytest.raises(ModelError, match=rf"float32\.pt: .*{message}") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_few_bytes_cannot_pose_as_many(micro: dict[str, Path]) -> None:
    # A stride of zero makes a tensor of one number.
    zeros = b"(" + 3 * integer(0) + b"t"
    path = replaced(micro["float32.pt"], SHAPE + STRIDES, SHAPE + zeros)
    open_source(path)
    path = replaced(path, text("cpu") + integer(18), text("cpu") + integer(1))
    with pytest.raises(ModelError, match=r"conv1.weight passes the end of its data"):
        open_source(path)


def test_tensors_that_share_all_their_bytes(tmp_path: Path) -> None:
    model = micro_model(state=32, timestamps=1)
    write_pt(model, tmp_path / "model.pt")
    layer = re.compile(r"model\.decoder\.layers\.0\.(.*)")

    def share(members: dict[str, bytes]) -> None:
        # 40 more layers, which are the first.
        more = b""
        for key, (name, array) in enumerate(model.weights.items()):
            if layer.fullmatch(name):
                tensor = torch_pt._tensor(key, array.shape, "FloatStorage")
                for index in range(1, 41):
                    more += text(openai_name(layer.sub(rf"model.decoder.layers.{index}.\1", name)))
                    more += tensor
        pickle = members["model/data.pkl"]
        layers = text("n_text_layer")
        assert layers + integer(1) in pickle
        pickle = pickle.replace(layers + integer(1), layers + integer(41))
        members["model/data.pkl"] = pickle[:-3] + more + pickle[-3:]

    with pytest.raises(ModelError, match=r"its tensors share their bytes"):
        open_source(rewritten(tmp_path / "model.pt", share))


def test_a_hugging_face_pickle_is_named(micro: dict[str, Path]) -> None:
    path = replaced(micro["float32.pt"], text("dims"), text("model.encoder.x"))
    with pytest.raises(ModelError, match=r"Hugging Face's pytorch_model\.bin: name the folder"):
        open_source(path)


def test_archives_that_torch_did_not_write(micro: dict[str, Path]) -> None:
    def big_endian(members: dict[str, bytes]) -> None:
        members["model/byteorder"] = b"big"

    def second(members: dict[str, bytes]) -> None:
        members["other/data.pkl"] = b"N."

    with pytest.raises(ModelError, match="not written on a little-endian machine"):
        open_source(rewritten(micro["float32.pt"], big_endian))
    with pytest.raises(ModelError, match=r"not of torch: it has no data\.pkl"):
        open_source(rewritten(micro["bfloat16.pt"], second))


def archive(tmp_path: Path, **options: object) -> Path:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, size in (("a/x", 10), ("a/y", 0), ("b", 1000)):
            with file.open(zipfile.ZipInfo(name), "w", **options) as member:  # type: ignore[call-overload]
                member.write(bytes(range(250)) * 4 if size == 1000 else b"z" * size)
    return path


@pytest.mark.parametrize("wide", [False, True])
def test_members_lie_where_zipfile_finds_them(tmp_path: Path, wide: bool) -> None:
    path = archive(tmp_path, force_zip64=wide)
    with path.open("rb") as file:
        members = zip_members(file)
        assert {name: member.size for name, member in members.items()} == {
            "a/x": 10,
            "a/y": 0,
            "b": 1000,
        }
        for name, member in members.items():
            file.seek(member.start)
            assert file.read(member.size) == zipfile.ZipFile(path).read(name)


def test_a_directory_in_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # zipfile writes the 64-bit records where a limit is passed, torch always.
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    path = archive(tmp_path)
    assert b"PK\6\6" in path.read_bytes()
    with path.open("rb") as file:
        assert [member.size for member in zip_members(file).values()] == [10, 0, 1000]
    damaged = bytearray(path.read_bytes())
    at = damaged.rindex(b"PK\6\7")
    for offset, message in ((1 << 62, "end at byte"), (3, "no zip64 end of its directory")):
        damaged[at + 8 : at + 16] = struct.pack("<Q", offset)
        with pytest.raises(ModelError, match=message):
            members_of(bytes(damaged), tmp_path)


def members_of(content: bytes, tmp_path: Path) -> dict[str, Member]:
    path = tmp_path / "damaged.zip"
    path.write_bytes(content)
    with path.open("rb") as file:
        return zip_members(file)


def edited(content: bytes, magic: bytes, at: int, layout: str, value: int) -> bytes:
    """``content`` with a field of the first structure that begins with ``magic`` changed."""
    changed = bytearray(content)
    struct.pack_into("<" + layout, changed, content.index(magic) + at, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("magic", "at", "layout", "value", "message"),
    [
        (b"PK\5\6", 0, "I", 0, "no end of its directory"),
        (b"PK\5\6", 10, "H", 60_000, "a directory of 60000 entries"),
        (b"PK\5\6", 12, "I", 1 << 30, "a directory of 3 entries and 1073741824 bytes"),
        (b"PK\5\6", 16, "I", 1 << 31, "from byte 2147483648"),
        (b"PK\5\6", 16, "I", 0, "no entry where its directory should"),
        (b"PK\1\2", 0, "I", 0, "no entry where its directory should"),
        (b"PK\1\2", 10, "H", 8, "'a/x' that is compressed or encrypted"),
        (b"PK\1\2", 8, "H", 1, "'a/x' that is compressed or encrypted"),
        (b"PK\1\2", 20, "I", 11, "'a/x' of impossible size"),
        (b"PK\1\2", 20, "I", 0xFFFFFFFF, "'a/x' of impossible size"),
        (b"PK\1\2", 28, "H", 0xFFFF, "an entry that passes the end of its directory"),
        (b"PK\1\2", 42, "I", 1 << 31, "'a/x' of impossible size or place"),
        (b"PK\1\2", 42, "I", 1, "no member 'a/x' where its directory says"),
        (b"PK\3\4", 28, "H", 0xFFFF, "'a/x' that passes the end of the file"),
    ],
)
def test_damaged_archives(
    tmp_path: Path, magic: bytes, at: int, layout: str, value: int, message: str
) -> None:
    content = archive(tmp_path).read_bytes()
    with pytest.raises(ModelError, match=rf"damaged\.zip: as a zip archive, .*{message}"):
        members_of(edited(content, magic, at, layout, value), tmp_path)


def test_two_members_of_one_name_and_compression(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a", b"2")
    with pytest.raises(ModelError, match="has two members 'a'"):
        members_of(buffer.getvalue(), tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", b"1" * 100)
    with pytest.raises(ModelError, match="compressed"):
        members_of(buffer.getvalue(), tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 21, 100, -1])
def test_truncated_archives(tmp_path: Path, keep: int) -> None:
    content = archive(tmp_path).read_bytes()
    with pytest.raises(ModelError, match="is the download complete"):
        members_of(content[:keep], tmp_path)

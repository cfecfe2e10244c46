"""Packed files: made once, mapped by all, and never believed when they may be wrong."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_checkpoint import Recipe

from whisper_npu.backends.opening import numpy_machine
from whisper_npu.model.checkpoint import StoredWeights, load_checkpoint
from whisper_npu.runtime import packed, weights
from whisper_npu.runtime.model import Model
from whisper_npu.runtime.packed import PackedFile, PackedTensor, checksum, packed_folder, sweep

ROWS = PackedTensor("rows", "int8", (3, 5), "C")
COLUMNS = PackedTensor("columns", "float32", (7, 4), "F")
LARGE = PackedTensor("large", "float32", (300, 700), "C")
TENSORS = (ROWS, COLUMNS, LARGE)


def content(tensor: PackedTensor) -> np.ndarray:
    random = np.random.default_rng(len(tensor.name))
    values: np.ndarray = random.integers(-100, 100, tensor.shape).astype(tensor.dtype)
    return values


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the weights")
    return path


@pytest.fixture
def made(model_file: Path) -> PackedFile:
    file = PackedFile([model_file], TENSORS)
    with file.writer() as writer:
        for tensor in reversed(TENSORS):
            writer.write(tensor, content(tensor))
    return file


def test_what_was_written_is_mapped(made: PackedFile) -> None:
    found = made.open()
    assert found is not None
    assert list(found) == list(TENSORS)
    for tensor, array in found.items():
        np.testing.assert_array_equal(array, content(tensor))
        assert (array.dtype, array.shape) == (tensor.dtype, tensor.shape)
        assert array.flags.f_contiguous if tensor.order == "F" else array.flags.c_contiguous
        assert not array.flags.writeable
        assert (array.T if tensor.order == "F" else array).ctypes.data % 64 == 0
    assert [path.name for path in packed_folder().iterdir()] == [made.path.name]


def test_there_is_none_yet(model_file: Path) -> None:
    assert PackedFile([model_file], TENSORS).open() is None


def test_other_forms_are_another_file(made: PackedFile, model_file: Path) -> None:
    for other in (TENSORS[:2], (*TENSORS[:2], PackedTensor("large", "float32", (300, 700), "F"))):
        file = PackedFile([model_file], other)
        assert file.path != made.path
        assert file.open() is None


@pytest.mark.parametrize("change", ["content", "time", "another"])
def test_a_model_that_has_changed(made: PackedFile, model_file: Path, change: str) -> None:
    found = model_file.stat()
    if change == "content":
        # Of the same length, with the time of the old one.
        model_file.write_bytes(b"the weightz")
        os.utime(model_file, ns=(found.st_atime_ns, found.st_mtime_ns))
    elif change == "time":
        os.utime(model_file, ns=(0, 0))
    else:
        copy = model_file.with_name("copy")
        shutil.copy2(model_file, copy)
        copy.replace(model_file)
    assert made.open() is None


@pytest.mark.parametrize("tensor", TENSORS, ids=lambda tensor: tensor.name)
def test_every_byte_is_checked(
    made: PackedFile, tensor: PackedTensor, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(made.path.read_bytes())
    start = data.find(np.ascontiguousarray(content(tensor).T if tensor.order == "F"
                                           else content(tensor)).tobytes())  # fmt: skip
    assert start > 0
    for at in (start, start + tensor.nbytes // 2, start + tensor.nbytes - 1):
        data[at] ^= 0x10
        made.path.write_bytes(data)
        assert made.open() is None
        data[at] ^= 0x10
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 3
    assert "is damaged and is made again" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[: packed._DATA],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"something else" + data[14:],
        lambda data: data[:29] + (2**62).to_bytes(8, "little") + data[37:],
        lambda data: data.replace(b'"checksums": [', b'"checksums": 12, "x": ['),
        lambda data: data.replace(b'"order": "F"', b'"order": "C"'),
    ],
    ids=[str(i) for i in range(9)],
)
def test_a_file_that_is_not_whole(made: PackedFile, spoil: Callable[[bytes], bytes]) -> None:
    made.path.write_bytes(spoil(made.path.read_bytes()))
    assert made.open() is None


def test_checksums_see_what_moves() -> None:
    raw = np.random.default_rng(0).integers(0, 256, 300_001).astype(np.uint8)
    before = checksum(raw)
    assert checksum(raw.copy()) == before
    for a, b, size in ((0, 4096, 4096), (0, 8 * 2048, 8 * 2048), (8, 16, 8), (299_990, 300_000, 1)):
        moved = raw.copy()
        moved[a : a + size], moved[b : b + size] = raw[b : b + size], raw[a : a + size]
        assert checksum(moved) != before
    assert checksum(raw[:-1]) != before
    assert checksum(np.zeros(0, np.uint8)) != checksum(np.zeros(8, np.uint8))


def test_nothing_is_left_of_a_file_that_was_not_finished(model_file: Path) -> None:
    file = PackedFile([model_file], TENSORS)

    def write_some() -> None:
        with file.writer() as writer:
            writer.write(ROWS, content(ROWS))
            writer.write(COLUMNS, content(COLUMNS))

    with pytest.raises(ValueError, match="large was not written"):
        write_some()
    assert list(packed_folder().iterdir()) == []


def test_no_room(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(model_file)._replace(free=3 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    file = PackedFile([model_file], TENSORS)
    with pytest.raises(OSError, match="too little room"), file.writer():
        pass
    assert list(packed_folder().iterdir()) == []


def test_files_of_models_that_are_gone_are_removed(made: PackedFile, tmp_path: Path) -> None:
    sweep()
    assert made.path.exists()
    unknown = made.path.with_name("damaged.weights")
    unknown.write_bytes(b"?")
    abandoned, being_written = (made.path.with_name(f".{n}.weights") for n in ("a", "b"))
    for path in (abandoned, being_written):
        path.write_bytes(b"")
    os.utime(abandoned, (1, 1))
    model = tmp_path / "model.safetensors"
    model.rename(tmp_path / "moved")
    other = tmp_path / "other"
    other.write_bytes(b"x")
    with PackedFile([other], [ROWS]).writer() as writer:
        writer.write(ROWS, content(ROWS))
    assert not made.path.exists()
    assert not unknown.exists()
    assert not abandoned.exists()
    assert being_written.exists()
    assert len(list(packed_folder().iterdir())) == 2


@pytest.fixture
def nano(seeded_directory: Callable[[Recipe], Path], tmp_path: Path) -> Path:
    """A model folder of this test's own."""
    folder = tmp_path / "nano"
    shutil.copytree(seeded_directory(Recipe("nano", seed=1)), folder)
    return folder


def logits(folder: Path) -> tuple[np.ndarray, Model]:
    checkpoint = load_checkpoint(folder)
    model = Model(checkpoint, "int8", numpy_machine())
    dims = checkpoint.dims
    features = np.random.RandomState(0).standard_normal((1, dims.n_mels, dims.n_frames))
    session = model.decoder(model.encode(features.astype(np.float32)))
    return session.prefill([[1, 2, 3]], [2]).copy(), model


def in_file(model: Model) -> int:
    """Bytes of weights that are pages of a file."""
    return sum(a.nbytes for a in model._weights._held.values() if not a.flags.writeable)


def test_a_model_is_converted_once(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, model = logits(nano)
    # All but the filters of the spectrum, which no file has.
    assert in_file(model) == model._weights.nbytes() - model._weights.nbytes("mel_filters")

    def read(*args: object) -> None:
        raise AssertionError("a weight was read again")

    monkeypatch.setattr(StoredWeights, "rows", read)
    again, model = logits(nano)
    np.testing.assert_array_equal(again, first)


def test_a_damaged_file_is_made_again(nano: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = logits(nano)
    (file,) = packed_folder().iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    again, _ = logits(nano)
    np.testing.assert_array_equal(again, first)
    assert "is damaged and is made again" in caplog.text
    caplog.clear()
    logits(nano)
    assert caplog.text == ""


def test_a_changed_model_is_not_taken_for_the_old_one(
    nano: Path, seeded_directory: Callable[[Recipe], Path]
) -> None:
    first, _ = logits(nano)
    other = seeded_directory(Recipe("nano", seed=2))
    shutil.copyfile(other / "model.safetensors", nano / "model.safetensors")
    second, _ = logits(nano)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, logits(other)[0])


@pytest.mark.parametrize("where", ["folder", "write"])
def test_where_nothing_can_be_kept_the_model_is_in_memory(
    nano: Path, monkeypatch: pytest.MonkeyPatch, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected, _ = logits(nano)
    shutil.rmtree(packed_folder())

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "folder":
        packed_folder().write_bytes(b"a file in its place")
    else:
        monkeypatch.setattr(packed.Writer, "write", full)
    with caplog.at_level(logging.INFO, "whisper_npu"):
        found, model = logits(nano)
    np.testing.assert_array_equal(found, expected)
    assert in_file(model) == 0
    assert "is not kept" in caplog.text
    if where == "write":
        assert list(packed_folder().iterdir()) == []


def test_weights_that_no_file_has_are_in_memory(nano: Path) -> None:
    stored = dict(load_checkpoint(nano).weights)
    held = weights.Weights(stored, "float32")
    held.load({"model.encoder.layer_norm.bias": (weights.Form("float32"),)})
    assert held.nbytes("model.encoder.layer_norm.bias") > 0
    assert not packed_folder().exists()


_READER = """
import sys, numpy as np
from whisper_npu.transcriber import Transcriber
t = Transcriber(sys.argv[1], precision="int8", cpu_kernels=False)
for array in t._model._weights._held.values():
    array.sum()
private = 0
with open("/proc/self/smaps") as file:
    mine = False
    for line in file:
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            mine = line.rstrip().endswith(".weights")
        elif mine and line.startswith(("Private_Clean", "Private_Dirty")):
            private += int(line.split()[1])
print(private * 1024, t._model._weights.nbytes(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="there is no smaps here")
def test_processes_share_the_pages(seeded_directory: Callable[[Recipe], Path]) -> None:
    folder = seeded_directory(Recipe("nano", seed=1))
    logits(folder)
    command = [sys.executable, "-c", _READER, str(folder)]
    readers = []
    for _ in range(2):
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert reader.stdout is not None
        readers.append((reader, reader.stdout.readline().split()))
    for reader, _ in readers:
        assert reader.stdin is not None
        reader.stdin.close()
        assert reader.wait(30) == 0
    private, total = map(int, readers[1][1])
    assert private == 0 < total

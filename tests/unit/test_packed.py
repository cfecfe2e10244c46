"""Packed files: made once, mapped by all, and never believed when they may be wrong."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import Recipe
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


def packed_file(model: Path, tensors: Iterable[PackedTensor] = TENSORS) -> PackedFile:
    return PackedFile({model: model.stat()}, tensors, "int8")


@pytest.fixture
def made(model_file: Path) -> PackedFile:
    file = packed_file(model_file)
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
    assert packed_file(model_file).open() is None


def test_other_forms_are_another_file(made: PackedFile, model_file: Path) -> None:
    for other in (TENSORS[:2], (*TENSORS[:2], PackedTensor("large", "float32", (300, 700), "F"))):
        file = packed_file(model_file, other)
        assert file.path != made.path
        assert file.open() is None
    floats = PackedFile({model_file: model_file.stat()}, TENSORS, "float32")
    assert floats.path != made.path


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
    assert packed_file(model_file).path == made.path
    assert packed_file(model_file).open() is None


def test_every_file_of_a_model_counts(model_file: Path, tmp_path: Path) -> None:
    """Of two shards the second changes too."""
    second = tmp_path / "second.safetensors"
    second.write_bytes(b"more weights")

    def both() -> PackedFile:
        return PackedFile({f: f.stat() for f in (second, model_file)}, [ROWS], "int8")

    with both().writer() as writer:
        writer.write(ROWS, content(ROWS))
    assert both().open() is not None
    second.write_bytes(b"other weights")
    assert both().open() is None


def test_another_version_of_the_package_makes_its_own(
    made: PackedFile, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "__version__", "9.9")
    assert packed_file(model_file).path == made.path
    assert packed_file(model_file).open() is None


def test_a_model_that_changes_while_it_is_read(model_file: Path) -> None:
    """What was read then is of neither model."""
    file = packed_file(model_file)

    def write() -> None:
        with file.writer() as writer:
            for tensor in TENSORS:
                writer.write(tensor, content(tensor))
            model_file.write_bytes(b"other weights")

    with pytest.raises(OSError, match="the model was changed while it was read"):
        write()
    assert list(packed_folder().iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 5), np.float32), np.zeros((5, 3), np.int8), np.zeros(15, np.int8)]
)
def test_an_array_that_is_not_the_tensor(model_file: Path, wrong: np.ndarray) -> None:
    def write() -> None:
        with packed_file(model_file).writer() as writer:
            writer.write(ROWS, wrong)

    with pytest.raises(ValueError, match="name='rows'"):
        write()


def test_what_cannot_be_removed_stays(made: PackedFile, tmp_path: Path) -> None:
    (packed_folder() / "folder.weights").mkdir()
    os.unlink(tmp_path / "model.safetensors")
    sweep()
    assert not made.path.exists()
    assert [path.name for path in packed_folder().iterdir()] == ["folder.weights"]


def test_an_interrupt_is_an_interrupt(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time; nothing is left."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    def write() -> None:
        with packed_file(model_file, [ROWS]).writer() as writer:
            writer.write(ROWS, content(ROWS))

    for where, name in ((packed, "checksum"), (packed, "_encode"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                write()
        assert list(packed_folder().iterdir()) == []


@pytest.mark.parametrize("part", [1 << 22, 5000])
@pytest.mark.parametrize("tensor", TENSORS, ids=lambda tensor: tensor.name)
def test_every_byte_is_checked(
    model_file: Path, tensor: PackedTensor, part: int, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(packed, "_PART", part)
    made = packed_file(model_file)
    with made.writer() as writer:
        for each in TENSORS:
            writer.write(each, content(each))
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
    file = packed_file(model_file)

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
    file = packed_file(model_file)
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
    with packed_file(other, [ROWS]).writer() as writer:
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
    held = model._weights._held.items()
    return sum(a.nbytes for (name, _), a in held if not is_table(name) and not a.flags.writeable)


def is_table(name: str) -> bool:
    """Whether this is one of the spectrum's tables, which no file has."""
    return name.startswith("mel.")


def test_a_model_is_converted_once(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, model = logits(nano)
    tables = sum(model._weights.nbytes(n) for n in model._weights.forms if is_table(n))
    assert tables > 0
    assert in_file(model) == model._weights.nbytes() - tables

    def read(*args: object) -> None:
        raise AssertionError("a weight was read again")

    monkeypatch.setattr(StoredWeights, "rows", read)
    again, model = logits(nano)
    np.testing.assert_array_equal(again, first)


def test_a_damaged_file_is_made_again(nano: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = logits(nano)
    (file,) = packed_folder().iterdir()
    data = bytearray(file.read_bytes())
    # Of what is small the middle lies between the header and the data.
    data[packed._DATA + 1000] ^= 1
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
    held = weights.Weights(stored)
    held.load({"model.encoder.layer_norm.bias": (weights.Form("float32"),)})
    assert held.nbytes("model.encoder.layer_norm.bias") > 0
    assert not packed_folder().exists()


_READER = """
import sys, numpy as np
from whisper_npu.transcriber import Transcriber
t = Transcriber(sys.argv[1], precision="int8", cpu_kernels=False)
for array in t._model._weights._held.values():
    array.sum()
private = mapped = 0
with open("/proc/self/smaps") as file:
    mine = False
    for line in file:
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            mine = line.rstrip().endswith(".weights")
        elif mine and line.startswith(("Private_Clean", "Private_Dirty")):
            private += int(line.split()[1])
        elif mine and line.startswith("Rss"):
            mapped += int(line.split()[1])
weights = t._model._weights
held = sum(weights.nbytes(name) for name in weights.forms if not name.startswith("mel."))
print(private * 1024, mapped * 1024, held, flush=True)
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
    private, mapped, weights = map(int, readers[1][1])
    assert private == 0
    assert mapped >= weights > 0

"""From a checkpoint to a model folder: what is in it, and that it is there whole or not at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.support.checkpoints import Recipe
from whisper_npu.backends.opening import numpy_model
from whisper_npu.convert import conversion as module
from whisper_npu.convert import convert
from whisper_npu.convert.conversion import FILES
from whisper_npu.convert.safetensors_writer import SafetensorsWriter
from whisper_npu.errors import ModelError, OptionError, OutputError
from whisper_npu.files.whole import file_sha256
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.model.weight_shapes import is_quantizable, scale_name
from whisper_npu.ops.quant import quantize_weight
from whisper_npu.runtime.model import Model

Directory = Callable[[Recipe], Path]


@pytest.fixture
def source(seeded_directory: Directory) -> Path:
    return seeded_directory(Recipe("nano", seed=1))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that tensors come in many pieces."""
    monkeypatch.setattr("whisper_npu.convert.tensors.BLOCK_BYTES", 5000)


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@pytest.mark.usefixtures("small_blocks")
def test_int8_is_the_quantised_source(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "made")
    original, made = load_checkpoint(source).weights, weights_of(tmp_path / "made")
    for name, weight in original.items():
        assert isinstance(weight, np.ndarray)
        if is_quantizable(name, weight.shape):
            expected = quantize_weight(weight)
            assert made[name].dtype == np.int8
            assert np.array_equal(made.pop(name), expected.values)
            assert np.array_equal(made.pop(scale_name(name)), expected.scale)
        else:
            assert np.array_equal(made.pop(name), weight)
    assert not made


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_floats_are_the_source(source: Path, tmp_path: Path, dtype: str) -> None:
    convert(source, tmp_path / "made", dtype=dtype)
    made = weights_of(tmp_path / "made")
    for name, weight in load_checkpoint(source).weights.items():
        assert isinstance(weight, np.ndarray)
        assert made[name].dtype == dtype
        assert np.array_equal(made[name], weight.astype(dtype))
    assert json.loads((tmp_path / "made" / "config.json").read_text())["torch_dtype"] == dtype


def test_the_folder_is_complete_and_says_where_it_is_from(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "made", origin="somewhere/nano")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(FILES)
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]
    assert report.sha256 == file_sha256(tmp_path / "made" / "model.safetensors")
    with safe_open(tmp_path / "made" / "model.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["source"] == "somewhere/nano"
    assert metadata["scheme"].startswith("int8 symmetric")
    hashes = json.loads(metadata["source_sha256"])
    assert hashes["model.safetensors"] == file_sha256(source / "model.safetensors")
    for name in ("tokenizer.json", "generation_config.json"):
        assert json.loads((tmp_path / "made" / name).read_text()) == json.loads(
            (source / name).read_text()
        )


@pytest.mark.usefixtures("small_blocks")
def test_the_errors_are_those_of_the_stored_weights(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "made")
    made = weights_of(tmp_path / "made")
    for name, weight in load_checkpoint(source).weights.items():
        assert isinstance(weight, np.ndarray)
        (entry,) = [error for error in report.tensors if error.name == name]
        if name not in made or scale_name(name) not in made:
            assert (entry.largest, entry.steps, entry.relative) == (0, None, 0)
            continue
        scale = made[scale_name(name)].reshape(-1, *[1] * (weight.ndim - 1))
        errors = np.abs(made[name] * scale - weight)
        assert entry.largest == errors.max()
        assert entry.worst_channel == np.unravel_index(errors.argmax(), errors.shape)[0]
        assert entry.steps == pytest.approx((errors / scale).max(), rel=1e-6)
        assert 0.4 < entry.steps <= 0.5001
        rms = np.sqrt(np.square(errors).mean() / np.square(weight).mean())
        assert entry.relative == pytest.approx(rms, rel=1e-5)


def test_converting_again_changes_nothing(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "once")
    convert(tmp_path / "once", tmp_path / "twice")
    once, twice = weights_of(tmp_path / "once"), weights_of(tmp_path / "twice")
    for name, array in once.items():
        if array.dtype == np.int8:
            assert np.array_equal(twice[name], array)


def damaged(source: Path, folder: Path, name: str, value: float) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = weights_of(folder)
    tensors[name] = tensors[name].astype(np.float32)
    tensors[name].reshape(-1)[3] = value
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("int8", np.nan, "holds NaN or infinity"),
        ("float32", -np.inf, "holds NaN or infinity"),
        ("float16", 1e6, "beyond float16"),
    ],
)
@pytest.mark.parametrize("name", ["model.encoder.conv2.weight", "model.decoder.layer_norm.bias"])
def test_values_that_cannot_be_stored_are_refused(
    source: Path, tmp_path: Path, dtype: str, value: float, message: str, name: str
) -> None:
    bad = damaged(source, tmp_path / "bad", name, value)
    with pytest.raises(ModelError, match=f"{name} .*{message}"):
        convert(bad, tmp_path / "made", dtype=dtype)
    assert list(tmp_path.iterdir()) == [bad]


def test_a_full_disk_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    write = SafetensorsWriter.write

    def fails_later(writer: SafetensorsWriter, name: str, rows: np.ndarray) -> None:
        if next(calls) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, name, rows)

    monkeypatch.setattr(SafetensorsWriter, "write", fails_later)
    with pytest.raises(OutputError, match=r"made: cannot be written: No space left"):
        convert(source, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_what_reads_back_different_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = SafetensorsWriter.write

    def flips_a_bit(writer: SafetensorsWriter, name: str, rows: np.ndarray) -> None:
        if name == "model.decoder.layers.0.fc1.weight":
            rows = rows ^ np.int8(1)
        write(writer, name, rows)

    monkeypatch.setattr(SafetensorsWriter, "write", flips_a_bit)
    with pytest.raises(OutputError, match=r"layers.0.fc1.weight reads back different"):
        convert(source, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_what_was_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, tmp_path / "made")
    before = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_read_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "made", dtype="float16", force=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()} == before


def test_force_replaces_a_model(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "made")
    with pytest.raises(OutputError, match="--force replaces it"):
        convert(source, tmp_path / "made", dtype="float16")
    assert weights_of(tmp_path / "made")["model.encoder.conv1.weight"].dtype == np.int8
    convert(source, tmp_path / "made", dtype="float16", force=True)
    assert weights_of(tmp_path / "made")["model.encoder.conv1.weight"].dtype == np.float16
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]


def test_force_replaces_nothing_but_models(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis: holds chapter1.tex"):
        convert(source, tmp_path / "thesis", force=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "precious"
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match="is a file"):
        convert(source, tmp_path / "file", force=True)


def test_a_folder_that_cannot_be_looked_at(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"/x{300}: cannot be written: [^:]+$"):
        convert(source, tmp_path / ("x" * 300))


def test_the_source_is_not_replaced_by_itself(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "made")
    with pytest.raises(OutputError, match="is the source itself"):
        convert(tmp_path / "made", tmp_path / "made", force=True)


def test_options_that_contradict(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="dtype must be one of"):
        convert(source, tmp_path / "made", dtype="int4")
    with pytest.raises(OptionError, match="smooth is for int8"):
        convert(source, tmp_path / "made", dtype="float16", smooth=[Path("speech.wav")])


def test_smoothing_folds_factors_that_cancel(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = tmp_path / "noise.wav"
    rng = np.random.default_rng(3)
    soundfile.write(recording, 0.1 * rng.standard_normal(32000), 16000)
    # Random weights have no outliers: take whatever helps at all.
    monkeypatch.setattr("whisper_npu.convert.smoothing.GAIN", 1.5)
    report = convert(source, tmp_path / "made", smooth=[recording])
    assert report.smoothed
    smoothed, plain = load_checkpoint(tmp_path / "made"), load_checkpoint(source)
    norm = report.smoothed[0]
    assert not np.array_equal(smoothed.weights[f"{norm}.weight"], plain.weights[f"{norm}.weight"])
    features = rng.standard_normal((1, plain.dims.n_mels, plain.dims.n_frames)).astype(np.float32)
    expected = logits(numpy_model(plain), features)
    unsmoothed = load_checkpoint(convert(source, tmp_path / "plain").dest)
    error, usual = (
        np.linalg.norm(logits(numpy_model(checkpoint), features) - expected)
        for checkpoint in (smoothed, unsmoothed)
    )
    assert 0 < error < 1.5 * usual


def logits(model: Model, features: np.ndarray) -> np.ndarray:
    return model.decoder(model.encode(features)).prefill([[1, 2, 3, 4]], range(4)).copy()

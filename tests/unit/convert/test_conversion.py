"""From a checkpoint to a model folder: what is in it, and that it is there whole or not at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.support.checkpoints import Recipe
from whisper_npu.convert import convert, safetensors_writer
from whisper_npu.convert.conversion import FILES
from whisper_npu.convert.safetensors_writer import SafetensorsWriter
from whisper_npu.errors import ModelError, OptionError, OutputError
from whisper_npu.files.whole import file_sha256
from whisper_npu.model.checkpoint import StoredWeights, load_checkpoint
from whisper_npu.model.integer_weights import DECODER_POSITIONS, ROTATION, Folding
from whisper_npu.model.weight_shapes import ENCODER_POSITIONS, TOKEN_EMBEDDING, scale_name
from whisper_npu.version import __version__

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
def test_int8_is_the_integers_of_the_source(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "made", calibrate=False)
    assert report.calibration is None
    expected = load_checkpoint(source).integer_weights()
    made = weights_of(tmp_path / "made")
    assert set(made) == set(expected)
    for name, array in expected.items():
        assert made[name].dtype == array.dtype
        assert np.array_equal(made[name], array)
    checkpoint = load_checkpoint(tmp_path / "made")
    assert checkpoint.has_only_integers
    assert all(np.array_equal(checkpoint.integer_weights()[n], a) for n, a in expected.items())


@pytest.mark.usefixtures("small_blocks")
def test_calibration_changes_how_products_are_rounded(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "made")
    assert report.calibration == f"8 recordings of synthetic speech of whisper-npu {__version__}"
    expected = load_checkpoint(source).integer_weights()
    made = weights_of(tmp_path / "made")
    (errors,) = [e for e in report.tensors if e.name == "model.encoder.layers.0.fc1.weight"]
    assert errors.products is not None
    assert 1e-4 < errors.products < 0.02
    for name, array in expected.items():
        product = array.dtype == np.int8 and name not in (TOKEN_EMBEDDING, ROTATION)
        # Scales, biases and tables are those of any rounding.
        assert np.array_equal(made[name], array) != product, name
        if product:
            steps = np.abs(made[name].astype(int) - array)
            assert 0.05 < (steps > 0).mean() < 0.6


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
    report = convert(source, tmp_path / "made", origin="somewhere/nano", calibrate=False)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(FILES)
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]
    assert report.sha256 == file_sha256(tmp_path / "made" / "model.safetensors")
    with safe_open(tmp_path / "made" / "model.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["source"] == "somewhere/nano"
    assert metadata["scheme"].startswith("weights of the network in rotated coordinates: int8")
    assert (metadata["whisper_npu_format"], metadata["calibration"]) == ("2", "none")
    hashes = json.loads(metadata["source_sha256"])
    assert hashes["model.safetensors"] == file_sha256(source / "model.safetensors")
    for name in ("tokenizer.json", "generation_config.json"):
        assert json.loads((tmp_path / "made" / name).read_text()) == json.loads(
            (source / name).read_text()
        )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("calibrate", [False, True])
def test_the_errors_are_those_of_the_stored_weights(
    source: Path, tmp_path: Path, calibrate: bool
) -> None:
    report = convert(source, tmp_path / "made", calibrate=calibrate)
    made = weights_of(tmp_path / "made")
    weights = load_checkpoint(source).weights
    assert isinstance(weights, StoredWeights)
    folding = Folding(weights.rows, load_checkpoint(source).dims)
    entries = {error.name: error for error in report.tensors}
    assert set(entries) == {name for name in made if not name.endswith("_scale")}
    for name in folding.products:
        scale, matrix = made[scale_name(name)][:, None].astype(np.float64), folding.matrix(name)
        errors, entry = np.abs(made[name] * scale - matrix), entries[name]
        assert entry.dtype == "I8"
        assert entry.largest == pytest.approx(errors.max(), rel=1e-6)
        assert entry.worst_channel == np.unravel_index(errors.argmax(), errors.shape)[0]
        steps = (errors / np.where(scale > 0, scale, 1)).max()
        assert entry.steps == pytest.approx(steps, rel=1e-6)
        if not calibrate:
            assert steps <= 0.5001
        rms = np.sqrt(np.square(errors).mean() / np.square(matrix).mean())
        assert entry.relative == pytest.approx(rms, rel=1e-5)
        assert (entry.products is not None) == (
            calibrate and name not in (TOKEN_EMBEDDING, ROTATION)
        )
    for name in (DECODER_POSITIONS, ENCODER_POSITIONS):
        errors = np.abs(made[name] / 4096 - folding.positions(name))
        assert entries[name].dtype == "I32"
        assert entries[name].steps == pytest.approx(errors.max() * 4096, rel=1e-6)


def test_what_was_converted_for_int8_is_no_source(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "once", calibrate=False)
    with pytest.raises(ModelError, match=r"once: was converted for int8 and has no floats"):
        convert(tmp_path / "once", tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


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
        convert(source, tmp_path / "made", calibrate=False)
    assert not list(tmp_path.iterdir())


def test_what_reads_back_different_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back = safetensors_writer._read_back

    def flips_a_bit(path: Path, digests: Mapping[str, str]) -> None:
        tensors = load_file(path)
        tensors["model.decoder.layers.0.fc1.weight"][0, 0] ^= 1
        save_file(tensors, path)
        read_back(path, digests)

    monkeypatch.setattr(safetensors_writer, "_read_back", flips_a_bit)
    with pytest.raises(OutputError, match=r"layers.0.fc1.weight reads back different"):
        convert(source, tmp_path / "made", calibrate=False)
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_what_was_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, tmp_path / "made", calibrate=False)
    before = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors_writer, "_read_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "made", dtype="float16", force=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()} == before


def test_force_replaces_a_model(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "made", calibrate=False)
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
    convert(source, tmp_path / "made", dtype="float32")
    with pytest.raises(OutputError, match="is the source itself"):
        convert(tmp_path / "made", tmp_path / "made", force=True)


def test_dtypes_that_there_are_not(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="dtype must be one of"):
        convert(source, tmp_path / "made", dtype="int4")

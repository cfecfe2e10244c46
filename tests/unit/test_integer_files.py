"""Folders of version 2: integers are read as they are, and what is no such folder is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.support.micro import (
    micro_model,
    write_huggingface,
    write_int8,
    write_integers,
    write_tokenizer,
)
from tests.support.signals import noise
from whisper_npu import Transcriber
from whisper_npu.backends.opening import numpy_model
from whisper_npu.errors import ModelError
from whisper_npu.model.checkpoint import Checkpoint, load_checkpoint
from whisper_npu.model.integer_files import VERSION_KEY
from whisper_npu.model.integer_weights import integer_specification
from whisper_npu.model.weight_shapes import TOKEN_EMBEDDING, scale_name

MODEL = micro_model(timestamps=1)
FC1 = "model.encoder.layers.0.fc1.weight"
Arrays = dict[str, NDArray[np.generic]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_integers(MODEL, tmp_path / "model")
    return tmp_path / "model"


def changed(folder: Path, **arrays: NDArray[np.generic] | None) -> None:
    """Replace tensors, or leave them out."""
    file = folder / "model.safetensors"
    tensors = {**load_file(file), **arrays}
    kept = {name: array for name, array in tensors.items() if array is not None}
    save_file(kept, file, {VERSION_KEY: "2"})


def test_the_integers_are_those_of_the_file(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert checkpoint.has_only_integers
    assert checkpoint.has_int8_weights
    assert not checkpoint.is_quantized_again
    weights = checkpoint.integer_weights()
    stored = load_file(folder / "model.safetensors")
    assert set(weights) == set(stored) == set(integer_specification(MODEL.dims))
    for name, array in stored.items():
        assert weights[name].dtype == array.dtype
        assert np.array_equal(weights[name], array)
    assert set(weights.files or {}) == {folder / "model.safetensors"}


def test_they_are_those_of_the_floats(folder: Path, tmp_path: Path) -> None:
    write_huggingface(MODEL, tmp_path / "floats")
    floats = load_checkpoint(tmp_path / "floats")
    assert not floats.has_only_integers
    expected = floats.integer_weights()
    assert set(expected.files or {}) == {tmp_path / "floats" / "model.safetensors"}
    found = load_checkpoint(folder).integer_weights()
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


def test_weights_in_memory_are_quantised_as_those_of_a_file(folder: Path) -> None:
    found = Checkpoint(folder, MODEL.dims, {}, {}, MODEL.weights).integer_weights()
    expected = load_checkpoint(folder).integer_weights()
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


def test_float32_is_refused(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    with pytest.raises(ModelError, match=r"integers for precision int8 only.*--dtype float16"):
        numpy_model(checkpoint, "float32")


def test_int8_of_version_1_is_quantised_again(tmp_path: Path) -> None:
    write_int8(MODEL, tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.is_quantized_again
    assert not checkpoint.has_only_integers
    assert checkpoint.integer_weights()[FC1].dtype == np.int8
    assert checkpoint.float_weights() is checkpoint.weights


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    write_integers(MODEL, tmp_path, version="3")
    with pytest.raises(ModelError, match="version '3', and this program reads version 2"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (FC1, None, f"{FC1} is missing"),
        (FC1, np.zeros((8, 3), np.int8), r"fc1.weight is I8 \[8, 3\], not int8 \[8, 2\]"),
        (FC1, np.zeros((8, 2), np.float32), r"fc1.weight is F32 \[8, 2\], not int8 \[8, 2\]"),
        (scale_name(FC1), np.ones(8, np.float16), r"is F16 \[8\], not float32 \[8\]"),
        ("model.encoder.layer_norm.weight", np.ones(2, np.float32), "is unexpected"),
    ],
)
def test_what_does_not_fit_is_named(
    folder: Path, name: str, array: NDArray[np.generic] | None, message: str
) -> None:
    changed(folder, **{name: array})
    with pytest.raises(ModelError, match=message):
        load_checkpoint(folder)


def test_five_problems_are_named_and_the_rest_counted(folder: Path) -> None:
    names = list(integer_specification(MODEL.dims))[:9]
    changed(folder, **dict.fromkeys(names))
    with pytest.raises(ModelError, match=r"(\S+ is missing; ){5}and 4 more$"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (FC1, -128, "holds -128; -127 is the least"),
        ("model.encoder.layers.0.fc1.bias", -(2**31), "-2147483648; -2147483647 is the least"),
        (scale_name(FC1), -1.0, "holds what is no scale"),
        (scale_name(FC1), np.inf, "holds what is no scale"),
        (scale_name(FC1), np.nan, "holds what is no scale"),
        (scale_name(FC1), -0.0, "holds what is no scale"),
        (scale_name(FC1), 2.0**-127, "holds what is no scale"),
        (scale_name(FC1), 1 + 2.0**-14, "holds what is no scale"),
    ],
)
def test_values_that_ops_do_not_take_are_refused(
    folder: Path, name: str, value: float, message: str
) -> None:
    array = load_file(folder / "model.safetensors")[name]
    array.flat[-1] = value
    changed(folder, **{name: array})
    weights = load_checkpoint(folder).integer_weights()
    with pytest.raises(ModelError, match=message):
        weights[name]


def test_limits_are_taken(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[FC1][0] = -127
    scales = tensors[scale_name(FC1)]
    scales[:3] = 0, 2.0**-126, 1 + 2.0**-13
    changed(folder, **{FC1: tensors[FC1], scale_name(FC1): scales})
    weights = load_checkpoint(folder).integer_weights()
    assert np.array_equal(weights[scale_name(FC1)], scales)
    assert np.array_equal(weights[FC1], tensors[FC1])


def test_loading_warns_of_nothing(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(folder)
    assert TOKEN_EMBEDDING in load_checkpoint(folder).weights


class TestTranscriber:
    """Of models that can transcribe, without CPU kernels."""

    model = micro_model(whole_windows=True)

    def loaded(self, folder: Path, precision: str = "auto") -> Transcriber:
        write_tokenizer(self.model, folder)
        return Transcriber(folder, precision=precision, cpu_kernels=False)

    def test_int8_is_what_a_model_of_integers_has(self, tmp_path: Path) -> None:
        write_integers(self.model, tmp_path)
        placement = self.loaded(tmp_path).transcribe(noise(16000), language="en").placement
        assert placement.precision == "int8"
        assert placement.precision_reason == "the model was converted for int8"
        with pytest.raises(ModelError, match=r"integers for precision int8 only"):
            self.loaded(tmp_path, "float32")

    def test_integers_of_floats_and_of_the_file_transcribe_alike(self, tmp_path: Path) -> None:
        write_integers(self.model, tmp_path / "integers")
        write_huggingface(self.model, tmp_path / "floats")
        found, expected = (
            self.loaded(tmp_path / name, "int8").transcribe(noise(16000), language="en").segments
            for name in ("integers", "floats")
        )
        assert found == expected

    def test_of_an_earlier_version_int8_warns(self, tmp_path: Path) -> None:
        write_int8(self.model, tmp_path)
        with pytest.warns(UserWarning, match=r"its int8 weights.*are quantised a second time"):
            self.loaded(tmp_path, "int8")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.loaded(tmp_path, "float32")

    def test_but_the_built_in_model_does_not(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Transcriber(precision="int8", cpu_kernels=False)

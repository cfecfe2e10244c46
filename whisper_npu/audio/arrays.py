"""Arrays of samples as sources of audio."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.audio.blocks import DecodedBlock
from whisper_npu.audio.sources import unreadable
from whisper_npu.errors import AudioError, OptionError
from whisper_npu.ops.arrays import F32
from whisper_npu.values import python_value

# As many as libsndfile accepts; more are a transposed array.
_MAX_CHANNELS = 1024

_FULL_SCALE = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31, np.dtype(np.uint8): 2.0**7}


# An array of so few samples with more channels than this is [channels, n].
_FEW = 8


def as_array(source: Any) -> NDArray[Any] | None:
    """The samples of an array, a tensor or a buffer of numbers; None for other sources.

    Buffers of single bytes are files. Raises AudioError for what NumPy cannot make an array.
    """
    if isinstance(source, np.ndarray):
        # NumPy imports ``ma`` when it is named.
        if type(source) is not np.ndarray and np.ma.is_masked(source):
            raise AudioError("array: some of its samples are masked; fill them, with 0 for silence")
        # A matrix has two dimensions whatever is taken of it.
        return np.asarray(source)
    if isinstance(source, str | bytes | os.PathLike) or hasattr(source, "read"):
        return None
    name = type(source).__name__
    try:
        if not (hasattr(source, "__array__") or hasattr(source, "__array_interface__")):
            view = _view(source)
            return None if view is None else np.asarray(view)
        # A tensor may be on another device, or part of a computation.
        for step in ("detach", "cpu"):
            if callable(getattr(source, step, None)):
                source = getattr(source, step)()
        return np.asarray(source)
    except Exception as error:
        raise unreadable(name, error) from error


def _view(source: Any) -> memoryview | None:
    """The buffer of an object that has one of more than bytes."""
    try:
        view = memoryview(source)
    except TypeError:
        return None
    return view if view.itemsize > 1 else None


def array_blocks(array: NDArray[Any], rate: int, block_seconds: float) -> Iterator[DecodedBlock]:
    """An array of shape [n] or [n, channels] in blocks.

    [channels, n], PyTorch's order, is taken too where it cannot be the other, with a warning.

    Raises OptionError for a rate, AudioError for a shape or dtype that is not audio.
    """
    rate = _whole_rate(rate)
    if array.ndim == 2 and 0 < array.shape[0] <= _FEW < array.shape[1]:
        warnings.warn(
            f"array: its shape {array.shape} is taken for [channels, n]; give its transpose, "
            "[n, channels]",
            stacklevel=2,
        )
        array = array.T
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 0 < array.shape[1] <= _MAX_CHANNELS):
        raise AudioError(
            f"array: shape {array.shape} is not audio; it must be [n] or [n, channels]"
        )
    if array.ndim == 1:
        array = array[:, None]
    if array.size and array.dtype.newbyteorder("=") == np.int32:
        _warn_if_unscaled(array)
    size = max(1, int(block_seconds * rate))
    for start in range(0, len(array), size):
        samples = scale_to_float(array[start : start + size], "array")
        yield DecodedBlock(rate, samples, None)


def _whole_rate(rate: object) -> int:
    """A rate in Hz, which may be a scalar of NumPy or a float. Raises OptionError."""
    value = python_value(rate)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise OptionError(f"sampling_rate must be a positive whole number of Hz, not {rate!r}")
    return value


def _warn_if_unscaled(array: NDArray[Any]) -> None:
    """Warn of what is 96 dB below the full scale of its type because it was never scaled to it."""
    peak = max(int(array.max()), -int(array.min()))
    if 0 < peak <= _FULL_SCALE[np.dtype(np.int16)]:
        warnings.warn(
            "array: its int32 samples are within 16 bits; if they are 16-bit samples, give them as "
            "int16",
            stacklevel=2,
        )


def scale_to_float(samples: NDArray[Any], name: str) -> F32:  # [...] -> [...]
    """Samples as float32 with full scale at 1. Raises AudioError for types that are not audio."""
    if samples.dtype.kind == "f":
        # A float64 beyond the range of float32 becomes infinite, which is reported later.
        with np.errstate(over="ignore"):
            return samples.astype(np.float32)
    full_scale = _FULL_SCALE.get(samples.dtype.newbyteorder("="))
    if full_scale is None:
        raise AudioError(
            f"{name}: samples of type {samples.dtype} are not audio; "
            "use float32, float64, int16, int32 or uint8"
        )
    result = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        result -= np.float32(128)
    result /= np.float32(full_scale)
    return result

"""What each kernel computes, in NumPy, exact to the bit wherever its contract says so.

A model takes one flat array for each input argument of its contract, in order, of the argument's
dtype, and returns the same for each output: an array if there is one, else a tuple. Leading axes
are separate launches. bfloat16 is uint16 here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.backends.npu.contract import Argument, KernelContract
from whisper_npu.backends.npu.models import (
    attention,
    bfloat16,
    gelu,
    gemm,
    layer_norm,
    matmul,
    mel,
    passthrough,
)
from whisper_npu.errors import KernelError

Array = NDArray[Any]
KernelModel = Callable[..., Any]

MODELS: Mapping[str, KernelModel] = {
    f"{function.__module__.rpartition('.')[2]}.{function.__name__}": function
    for function in (
        attention.multicore_64x64,
        attention.simple_16x16,
        attention.tile_64x64,
        attention.tile_64x64_int32,
        gelu.lookup,
        gemm.tile_16x64x64,
        gemm.tile_64x64x64,
        layer_norm.bfloat16_512,
        layer_norm.int8_256,
        layer_norm.int8_512,
        matmul.packed_16x16,
        matmul.packed_32x32,
        matmul.packed_64x64,
        matmul.separate_16x16,
        mel.fixed_v1,
        mel.fixed_v2,
        mel.fixed_v3,
        mel.optimized,
        mel.production_v1,
        passthrough.copy,
        passthrough.first_80,
    )
}

# Of models whose outputs are floats: what each output is added up from without regard to signs, and
# the share of it by which a kernel may differ. One unit in the last place of the output leaves the
# rounding open, and the order of a sum in a wider type.
BOUNDS: Mapping[str, tuple[KernelModel, float]] = {
    "layer_norm.bfloat16_512": (layer_norm.bfloat16_512_magnitude, bfloat16.ULP),
}

_DTYPES: Mapping[str, type[np.generic]] = {
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "int32": np.int32,
    "bfloat16": np.uint16,
    "float16": np.float16,
    "float32": np.float32,
}


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype that holds a contract's dtype."""
    return np.dtype(_DTYPES[dtype])


def run_model(contract: KernelContract, *inputs: Array) -> tuple[Array, ...]:
    """The outputs of one launch (or of several, by leading axes) according to the model.

    Raises KernelError if the kernel has no model, or if an input or an output is not what the
    contract says.
    """
    model = MODELS.get(contract.model or "")
    if model is None:
        raise KernelError(f"{contract.name}: has no model that could stand in for it")
    _check(contract, contract.inputs, inputs)
    try:
        result = model(*inputs)
    except (ValueError, TypeError) as error:
        raise KernelError(
            f"{contract.name}: its buffers are not those of model {contract.model}: {error}"
        ) from error
    outputs = result if isinstance(result, tuple) else (result,)
    _check(contract, contract.outputs, outputs)
    return outputs


def _check(
    contract: KernelContract, arguments: tuple[Argument, ...], arrays: tuple[Array, ...]
) -> None:
    if len(arguments) != len(arrays):
        raise KernelError(f"{contract.name}: {len(arrays)} arrays for {len(arguments)} buffers")
    for argument, array in zip(arguments, arrays, strict=True):
        size = array.shape[-1] * array.itemsize if array.ndim else 0
        if argument.dtype is None or array.dtype != numpy_dtype(argument.dtype):
            raise KernelError(
                f"{contract.name}: {argument.name} is {argument.dtype}, not {array.dtype}"
            )
        if argument.bytes not in (None, size):
            raise KernelError(
                f"{contract.name}: {argument.name} has {argument.bytes} bytes, not {size}"
            )

"""What each kernel of the inventory computes, in NumPy.

Every bit is what the kernel's source gives, wherever its contract says "exact". How models are
called and by what they are found is told in ``docs/kernels.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from whisper_npu.backends.npu.dtypes import ULP

from . import attention, gelu, layer_norm, matmul, mel, passthrough

MODELS: Mapping[str, Callable[..., Any]] = {
    f"{function.__module__.rpartition('.')[2]}.{function.__name__}": function
    for function in (
        attention.multicore_64x64,
        attention.simple_16x16,
        attention.tile_64x64,
        attention.tile_64x64_int32,
        gelu.lookup,
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

# One unit in the last place of the output leaves the rounding open, and the order of a sum in a
# wider type.
BOUNDS: Mapping[str, tuple[Callable[..., Any], float]] = {
    "layer_norm.bfloat16_512": (layer_norm.bfloat16_512_magnitude, ULP),
}

"""Model folders of format version 2: their weights are the integers that precision int8 computes
with, and nothing else.

The version is in the metadata of the safetensors file. A folder without one has floats, or int8 by
rows of the float network (version 1), which are read by ``checkpoint`` and quantised again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from whisper_npu.errors import ModelError
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.folder import FORMAT_VERSION
from whisper_npu.model.integer_weights import Array, IntegerWeights, integer_specification
from whisper_npu.model.safetensors_file import SafetensorsFile
from whisper_npu.model.stored import SAFETENSORS
from whisper_npu.model.weight_names import named
from whisper_npu.model.weight_shapes import check_layers
from whisper_npu.ops.fixed import LARGEST
from whisper_npu.ops.product_int8 import WEIGHT_SCALE_BITS
from whisper_npu.ops.rows import LARGEST_INT8

# The key of the metadata.
VERSION_KEY = "whisper_npu_format"
CONVERT_FLOATS = "convert the model from its source with --dtype float16"
# Bits of a float32 that are zero where its mantissa has no more than WEIGHT_SCALE_BITS.
_UNUSED_BITS = (1 << (24 - WEIGHT_SCALE_BITS)) - 1


def holds_integers(files: Mapping[str, SafetensorsFile], folder: Path) -> bool:
    """Whether a folder's files, by the names of their tensors, are of version 2.

    Raises ModelError for a later version.
    """
    versions = {file.metadata.get(VERSION_KEY, "") for file in files.values()} - {""}
    for version in versions:
        if version != str(FORMAT_VERSION):
            raise ModelError(
                f"{folder}: is a model folder of version {version[:20]!r}, and this program reads "
                f"version {FORMAT_VERSION}; use a later whisper-npu"
            )
    return bool(versions)


def stored_integers(
    files: Mapping[str, SafetensorsFile], dims: ModelDimensions, folder: Path
) -> IntegerWeights:
    """The integer weights in the files of a folder of version 2.

    Names, shapes and types are checked here, values when they are read, of which ops rely on: int8
    above -128, int32 above -2**31, scales that are no more than ``WEIGHT_SCALE_BITS`` long. Raises
    ModelError.
    """
    check_layers(dims, len(files), str(folder))
    specification = integer_specification(dims)
    problems = []
    for name, (shape, dtype) in specification.items():
        entry = files[name].entries[name] if name in files else None
        stored = SAFETENSORS.get(entry.dtype) if entry is not None else None
        if entry is None:
            problems.append(f"{name} is missing")
        elif entry.shape != shape or stored is None or stored.name != dtype:
            problems.append(
                f"{name} is {entry.dtype} {list(entry.shape)}, not {dtype} {list(shape)}"
            )
    problems += [f"{named([name])} is unexpected" for name in files if name not in specification]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelError(
            f"{folder}: tensors do not fit config.json: " + "; ".join(problems[:5]) + more
        )

    def read(name: str) -> Array:
        array = files[name].read(name)
        _check(array, name, folder)
        return array

    return IntegerWeights(dims, read, {file.path: file.found for file in files.values()})


def _check(array: Array, name: str, folder: Path) -> None:
    if array.dtype == np.float32:
        bits = array.view(np.uint32)
        normal = (array >= np.finfo(np.float32).tiny) & (array <= np.finfo(np.float32).max)
        if not (normal | (bits == 0)).all() or (bits & _UNUSED_BITS).any():
            raise ModelError(
                f"{folder}: tensor {name} holds what is no scale: a positive number with "
                f"{WEIGHT_SCALE_BITS} bits, or 0"
            )
        return
    least = -(LARGEST_INT8 if array.dtype == np.int8 else LARGEST)
    if array.min() < least:
        raise ModelError(f"{folder}: tensor {name} holds {least - 1}; {least} is the least")

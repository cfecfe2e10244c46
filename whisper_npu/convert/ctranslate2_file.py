"""CTranslate2's model.bin: its variables, and which part of which is which Whisper weight.

Little-endian: version of the format, name and revision of a specification, variables with their
data, aliases of variables. A variable that is int8 has scales under its name and ``_scale``; it
was multiplied by them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from whisper_npu.convert.tensors import LARGEST_TENSOR_COUNT, Rows, RowScale, check_name
from whisper_npu.errors import ModelError
from whisper_npu.files.span import Reader, Span
from whisper_npu.files.whole import open_regular
from whisper_npu.model.stored import BFLOAT16, FLOAT16, FLOAT32, INT8, StoredType

# Types came with version 4; vocabularies and config.json beside the file do not matter here.
_VERSIONS = range(4, 7)
_SPECIFICATION = "WhisperSpec"
_TYPES: Mapping[int, StoredType] = {0: FLOAT32, 1: INT8, 4: FLOAT16, 5: BFLOAT16}
_REFUSED = {2: "int16", 3: "int32"}
# Bytes of a scalar by its type's number.
_SCALARS = {0: 4, 1: 1, 2: 2, 3: 4, 4: 2, 5: 2}
_INTEGERS = (1, 2, 3)


@dataclass(frozen=True)
class ModelFile:
    """``variables`` are arrays, with their scales; ``scalars`` those that are integers."""

    variables: Mapping[str, Rows]
    scalars: Mapping[str, int]
    size: int


def read_model_file(path: Path) -> ModelFile:
    """The header and all variables' places of a Whisper's model.bin. Raises ModelError."""
    with open_regular(path, ModelError) as file:
        reader = Reader(Span.of_file(file, ModelError))
        (version,) = reader.unpack("I", "the version")
        if version not in _VERSIONS:
            raise ModelError(
                f"{path}: is version {version} of CTranslate2's format; "
                f"{_VERSIONS[0]} to {_VERSIONS[-1]} are read"
            )
        specification = _string(reader, path)
        if specification != _SPECIFICATION:
            raise ModelError(f"{path}: is a {specification}, not a {_SPECIFICATION}")
        reader.skip(4, "the revision")
        arrays, scalars = _variables(reader, path)
        for alias, name in _aliases(reader, path):
            # What holds for a variable holds for its scales.
            for suffix in ("", "_scale"):
                if name + suffix in arrays:
                    arrays[alias + suffix] = arrays[name + suffix]
        if reader.left:
            raise ModelError(f"{path}: {reader.left} bytes follow the aliases; it is damaged")
        return ModelFile(_scaled(arrays, path), scalars, reader.span.size)


def _string(reader: Reader, path: Path) -> str:
    (length,) = reader.unpack("H", "the length of a name")
    raw = reader.take(length, "a name")
    if raw[-1:] != b"\0":
        raise ModelError(f"{path}: no name stands where one is due; it is damaged")
    return check_name(raw[:-1].decode("latin-1"), path)


def _count(reader: Reader, path: Path) -> int:
    (count,) = reader.unpack("I", "the number of variables")
    if count > LARGEST_TENSOR_COUNT:
        raise ModelError(f"{path}: claims {count} variables; it is damaged")
    return count


def _variables(reader: Reader, path: Path) -> tuple[dict[str, Rows], dict[str, int]]:
    arrays: dict[str, Rows] = {}
    scalars: dict[str, int] = {}
    for _ in range(_count(reader, path)):
        name = _string(reader, path)
        (rank,) = reader.unpack("B", f"the rank of {name}")
        shape = reader.unpack(f"{rank}I", f"the shape of {name}")
        type_number, n_bytes = reader.unpack("BI", f"the size of {name}")
        if name in arrays or name in scalars:
            raise ModelError(f"{path}: variable {name} is there twice")
        if not shape:
            if n_bytes != _SCALARS.get(type_number):
                raise ModelError(f"{path}: variable {name} is no scalar of {n_bytes} bytes")
            raw = reader.take(n_bytes, f"variable {name}")
            if type_number in _INTEGERS:
                scalars[name] = int.from_bytes(raw, "little", signed=True)
            continue
        stored = _TYPES.get(type_number)
        if stored is None:
            what = _REFUSED.get(type_number, f"of type {type_number}")
            raise ModelError(
                f"{path}: variable {name} is {what}; float32, float16, bfloat16 and int8 are read"
            )
        if stored.size(math.prod(shape)) != n_bytes or not n_bytes:
            raise ModelError(f"{path}: variable {name} cannot be {list(shape)} in {n_bytes} bytes")
        arrays[name] = Rows(path, reader.skip(n_bytes, f"variable {name}"), shape, stored)
    return arrays, scalars


def _aliases(reader: Reader, path: Path) -> list[tuple[str, str]]:
    return [(_string(reader, path), _string(reader, path)) for _ in range(_count(reader, path))]


def _scaled(arrays: Mapping[str, Rows], path: Path) -> dict[str, Rows]:
    """The arrays, int8 ones with their scales, which are no arrays of their own any more."""
    scales = {f"{name}_scale" for name, array in arrays.items() if array.stored is INT8}
    scaled = {}
    for name, array in arrays.items():
        if name in scales:
            continue
        if array.stored is INT8:
            scale = arrays.get(f"{name}_scale")
            if scale is None or scale.stored is not FLOAT32 or scale.shape != array.shape[:1]:
                raise ModelError(
                    f"{path}: variable {name} is int8 and has no float32 scale for each row"
                )
            array = replace(array, scale=RowScale(scale.start, divides=True))
        scaled[name] = array
    return scaled


@dataclass(frozen=True)
class Part:
    """Where a weight is: part ``index`` of the ``count`` equal parts of a variable's rows."""

    variable: str
    index: int = 0
    count: int = 1

    def of(self, array: Rows) -> Rows:
        """The part itself. The number of rows is a multiple of ``count``."""
        rows = array.shape[0] // self.count
        first = self.index * rows
        scale = array.scale
        if scale is not None:
            scale = replace(scale, start=scale.start + FLOAT32.size(first))
        row = math.prod(array.shape[1:])
        start = array.start + array.stored.size(first * row)
        return replace(array, start=start, shape=(rows, *array.shape[1:]), scale=scale)


_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_MODULES: Mapping[str, Part] = {
    "self_attn.q_proj": Part("self_attention/linear_0", 0, 3),
    "self_attn.k_proj": Part("self_attention/linear_0", 1, 3),
    "self_attn.v_proj": Part("self_attention/linear_0", 2, 3),
    "self_attn.out_proj": Part("self_attention/linear_1"),
    "self_attn_layer_norm": Part("self_attention/layer_norm"),
    "encoder_attn.q_proj": Part("attention/linear_0"),
    "encoder_attn.k_proj": Part("attention/linear_1", 0, 2),
    "encoder_attn.v_proj": Part("attention/linear_1", 1, 2),
    "encoder_attn.out_proj": Part("attention/linear_2"),
    "encoder_attn_layer_norm": Part("attention/layer_norm"),
    "fc1": Part("ffn/linear_0"),
    "fc2": Part("ffn/linear_1"),
    "final_layer_norm": Part("ffn/layer_norm"),
}
_NORM = {"weight": "gamma", "bias": "beta"}


def part_of(name: str) -> Part:
    """Where the weight is that Hugging Face calls ``name``; also for biases that keys lack."""
    if match := _LAYER.fullmatch(name):
        side, layer, module, kind = match.groups()
        part = _MODULES[module]
        kind = _NORM[kind] if module.endswith("layer_norm") else kind
        return replace(part, variable=f"{side}/layer_{layer}/{part.variable}/{kind}")
    side, module, kind = name.removeprefix("model.").split(".")
    if module == "embed_positions":
        return Part(f"{side}/position_encodings/encodings")
    if module == "embed_tokens":
        return Part(f"{side}/embeddings/{kind}")
    return Part(f"{side}/{module}/{_NORM[kind] if module == 'layer_norm' else kind}")

"""Reading openai-whisper's .pt files: a zip archive with a pickle and the bytes of each storage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from whisper_npu.convert.configs import load_tokenizer, made_config, made_generation
from whisper_npu.convert.openai_names import names_from_openai
from whisper_npu.convert.pickle_reader import LARGEST_PICKLE, PickledTensor, read_pickle
from whisper_npu.convert.tensors import (
    Rows,
    Source,
    StoredTensor,
    check_name,
    check_sharing,
    checked_weights,
)
from whisper_npu.convert.tokenizer_files import read_tokenizer
from whisper_npu.convert.torch_zip import Member, zip_members
from whisper_npu.errors import ModelError
from whisper_npu.files.whole import open_regular
from whisper_npu.model.dims import ModelDimensions, dimensions_from_config
from whisper_npu.model.folder import TOKENIZER
from whisper_npu.model.stored import StoredType, fill
from whisper_npu.model.weight_shapes import Shape, check_layers
from whisper_npu.ops.arrays import F32

_PICKLE = "data.pkl"


def read_openai(path: Path, tokenizer: Path | None) -> Source:
    """A .pt file of torch 1.6 or newer: float32, float16 or bfloat16. Raises ModelError.

    It has no vocabulary. Without ``tokenizer`` a tokenizer.json beside it is used, or none.
    """
    with open_regular(path, ModelError) as file:
        members = zip_members(file)
        folder, content = _content(file, members, path)
    dims, state = _parts(content, path)
    check_layers(dims, len(state), str(path))
    names = names_from_openai(dims)
    tensors: dict[str, StoredTensor] = {
        names.get(name, name): _located(tensor, name, folder, members, path)
        for name, tensor in state.items()
    }
    check_sharing(tensors, path.stat().st_size, path)
    weights, dtype = checked_weights(tensors, dims, path)

    files = [path]
    text = loaded = None
    beside = path.with_name(TOKENIZER)
    if tokenizer is not None or beside.exists():
        text, vocabulary = read_tokenizer(tokenizer or beside, dims.n_vocab)
        loaded = load_tokenizer(text, dims.n_vocab, {}, vocabulary)
        files.append(vocabulary)
    config, generation = made_config(dims, loaded), made_generation(dims, loaded)
    return Source("openai", path, tuple(files), dtype, dims, weights, config, generation, text)


def _content(
    file: BufferedReader, members: Mapping[str, Member], path: Path
) -> tuple[str, dict[Any, Any]]:
    """The folder within the archive that torch made, and what the pickle in it holds."""
    found = [name for name in members if name.split("/")[1:] == [_PICKLE]]
    if len(found) != 1:
        raise ModelError(f"{path}: is a zip archive, but not of torch: it has no {_PICKLE}")
    folder = found[0].removesuffix(_PICKLE)
    order = members.get(f"{folder}byteorder")
    if order is not None and _member(file, order, path) != b"little":
        raise ModelError(f"{path}: was not written on a little-endian machine")
    content = read_pickle(_member(file, members[found[0]], path), str(path))
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a dict")
    return folder, content


def _member(file: BufferedReader, member: Member, path: Path) -> bytes:
    if member.size > LARGEST_PICKLE:
        raise ModelError(f"{path}: {_PICKLE} has {member.size} bytes; no Whisper needs that many")
    file.seek(member.start)
    return file.read(member.size)


def _parts(content: dict[Any, Any], path: Path) -> tuple[ModelDimensions, dict[str, PickledTensor]]:
    sizes, state = content.get("dims"), content.get("model_state_dict")
    if not isinstance(sizes, dict) or not isinstance(state, dict):
        hint = ""
        if any(str(key).startswith("model.encoder.") for key in content if type(key) is str):
            hint = "; it seems to be Hugging Face's pytorch_model.bin: save it as safetensors"
        raise ModelError(
            f"{path}: has no dims and model_state_dict, as openai-whisper's have{hint}"
        )
    names = [field.name for field in fields(ModelDimensions)]
    for name in names:
        if type(sizes.get(name)) is not int:
            raise ModelError(f"{path}: dims has no integer {name}")
    dims = ModelDimensions(**{name: sizes[name] for name in names})
    if dims.n_audio_state != dims.n_text_state:
        raise ModelError(
            f"{path}: dims has different n_audio_state {dims.n_audio_state} "
            f"and n_text_state {dims.n_text_state}"
        )
    for name, tensor in state.items():
        if not isinstance(tensor, PickledTensor):
            raise ModelError(f"{path}: {str(name)[:200]!r} in model_state_dict is not a tensor")
        check_name(str(name), path)
    return dimensions_from_config(made_config(dims, None), str(path)), state


def _located(
    tensor: PickledTensor, name: str, folder: str, members: Mapping[str, Member], path: Path
) -> StoredTensor:
    storage = tensor.storage
    if storage.stored is None:
        raise ModelError(
            f"{path}: tensor {name} is a {storage.type_name[:100]!r}; float, half and bfloat16 "
            "are read"
        )
    member = members.get(f"{folder}data/{storage.key}")
    if member is None or member.size < storage.stored.size(storage.count):
        raise ModelError(f"{path}: the data of tensor {name} is missing or too short")
    if 0 in tensor.shape:
        raise ModelError(f"{path}: tensor {name} is empty: {list(tensor.shape)}")
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
    if last >= storage.count or math.prod(tensor.shape) > storage.count:
        raise ModelError(f"{path}: tensor {name} passes the end of its data")
    start = member.start + storage.stored.size(tensor.offset)
    if tensor.strides == _contiguous(tensor.shape):
        return Rows(path, start, tensor.shape, storage.stored)
    return StridedRows(path, start, tensor.shape, storage.stored, tensor.strides)


def _contiguous(shape: Shape) -> Shape:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass(frozen=True)
class StridedRows:
    """A tensor whose neighbours along each axis lie ``strides`` numbers apart, as a transposed
    matrix has them. All of it is within the file."""

    path: Path
    start: int
    shape: Shape
    stored: StoredType
    strides: Shape

    @property
    def n_bytes(self) -> int:
        return self.stored.size(math.prod(self.shape))

    def blocks(self, block_bytes: int) -> Iterator[F32]:
        count = max(1, block_bytes // (4 * math.prod(self.shape[1:])))
        with open_regular(self.path, ModelError) as file:
            for first in range(0, self.shape[0], count):
                shape = (min(count, self.shape[0] - first), *self.shape[1:])
                block = np.empty(shape, np.float32)
                self._fill(file, block, first * self.strides[0], self.strides, block_bytes)
                yield block

    def _fill(
        self, file: BufferedReader, out: F32, offset: int, strides: Shape, block_bytes: int
    ) -> None:
        """Read what lies from number ``offset`` on into ``out``, a part of the tensor."""
        steps = list(zip(out.shape, strides, strict=True))
        span = 1 + sum((size - 1) * stride for size, stride in steps)
        # The bytes between the numbers are read too: in one piece where they are few.
        if 4 * span <= block_bytes or out.size == 1:
            raw = np.empty(self.stored.size(span), np.uint8)
            fill(file, self.start + self.stored.size(offset), raw)
            numbers = self.stored.decode(raw)
            steps_in_bytes = [stride * numbers.itemsize for stride in strides]
            out[...] = np.lib.stride_tricks.as_strided(numbers, out.shape, steps_in_bytes)
            return
        axis = max(range(out.ndim), key=lambda axis: (out.shape[axis] > 1, strides[axis]))
        for index in range(out.shape[axis]):
            part = out[(slice(None),) * axis + (slice(index, index + 1),)]
            self._fill(file, part, offset + index * strides[axis], strides, block_bytes)

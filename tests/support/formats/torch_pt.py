"""Writing openai-whisper's .pt files as torch.save lays them out, without torch."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tests.support.formats.seeded import SeededModel
from whisper_npu.convert.openai_names import openai_name

DTYPES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
}
# torch gives the folder within the archive the name of the file.
FOLDER = "model"


def write_pt(model: SeededModel, path: Path, dtype: str = "float32") -> None:
    """``dtype`` is one of ``DTYPES``; bfloat16 is rounded towards zero."""
    names = {openai_name(name): array for name, array in model.weights.items()}
    dims = _dict((name, _integer(value)) for name, value in asdict(model.dims).items())
    _write(path, names, dtype, lambda state: _dict([("dims", dims), ("model_state_dict", state)]))


def write_pickled(
    model: SeededModel, folder: Path, dtype: str = "float32", shards: int = 1
) -> None:
    """pytorch_model.bin of transformers, or its shards with their index."""
    weights = list(model.weights.items())
    weight_map = {}
    for i in range(shards):
        part = dict(weights[len(weights) * i // shards : len(weights) * (i + 1) // shards])
        name = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" if shards > 1 else "pytorch_model.bin"
        _write(folder / name, part, dtype, lambda state: state)
        weight_map.update(dict.fromkeys(part, name))
    if shards > 1:
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "pytorch_model.bin.index.json").write_text(index)


def _write(
    path: Path,
    weights: Mapping[str, np.ndarray],
    dtype: str,
    content: Callable[[bytes], bytes],
) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        state = _dict(
            (name, _tensor(key, array.shape, DTYPES[dtype]))
            for key, (name, array) in enumerate(weights.items())
        )
        archive.writestr(f"{FOLDER}/data.pkl", b"\x80\x02" + content(state) + b".")
        archive.writestr(f"{FOLDER}/byteorder", "little")
        for key, array in enumerate(weights.values()):
            archive.writestr(f"{FOLDER}/data/{key}", _encoded(array, dtype))
        archive.writestr(f"{FOLDER}/version", "3\n")


def _encoded(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (array.view(np.uint32) >> 16).astype("<u2").tobytes()
    return array.astype({"float64": "<f8", "float32": "<f4", "float16": "<f2"}[dtype]).tobytes()


# Opcodes of pickle's protocol 2


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(items: Iterable[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _dict(items: Iterable[tuple[str, bytes]]) -> bytes:
    return b"}(" + b"".join(_text(key) + value for key, value in items) + b"u"


def _tensor(key: int, shape: tuple[int, ...], storage_type: str) -> bytes:
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    storage = [
        _text("storage"),
        f"ctorch\n{storage_type}\n".encode(),
        _text(str(key)),
        _text("cpu"),
        _integer(int(np.prod(shape))),
    ]
    arguments = [
        _tuple(storage) + b"Q",
        _integer(0),
        _tuple(map(_integer, shape)),
        _tuple(map(_integer, strides)),
        b"\x89",  # requires no gradient
        b"ccollections\nOrderedDict\n)R",  # no hooks
    ]
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + _tuple(arguments) + b"R"

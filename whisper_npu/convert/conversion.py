"""Converting a checkpoint of any known format to a model folder, quantised to INT8 or not.

Tensors are read, encoded, measured and written in blocks of rows: the memory this takes does not
grow with the model. Weights that are quantised are read one at a time, with the activations that
calibration finds for one layer.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whisper_npu.convert.calibration import SHIPPED, shipped_windows
from whisper_npu.convert.destination import check_destination
from whisper_npu.convert.errors_table import ErrorMeter, TensorError
from whisper_npu.convert.integers import METADATA, write_integers
from whisper_npu.convert.safetensors_writer import (
    SAFETENSORS_NAMES,
    OutputTensor,
    writing_tensors,
)
from whisper_npu.convert.source import Source, open_source
from whisper_npu.convert.tensors import StoredTensor
from whisper_npu.errors import ModelError, OptionError
from whisper_npu.files.whole import file_sha256, replacing_folder, writing
from whisper_npu.model.folder import CONFIG, GENERATION, TOKENIZER, WEIGHTS
from whisper_npu.model.weight_shapes import WEIGHT_DTYPES, is_quantizable, scale_name
from whisper_npu.ops.arrays import F32, widen_bfloat16
from whisper_npu.ops.quant import quantize_weight
from whisper_npu.terminal import printable
from whisper_npu.text.tokenizer import Tokenizer
from whisper_npu.version import __version__

AS_STORED = "as stored"
FILES = (WEIGHTS, CONFIG, GENERATION, TOKENIZER)
# What a tensor becomes that stays what it is, if not that.
_NEAREST = {"float64": "float32", "q8_0": "float16"}


@dataclass(frozen=True)
class ConversionReport:
    """What was made of what, and how far the stored weights are from the source's.

    ``sha256`` and ``nbytes`` are those of model.safetensors; ``source_sha256`` maps the names of
    the source's files to theirs. ``calibration`` says on what the rounding of int8 was calibrated,
    None if it was not.
    """

    source: Path
    kind: str
    source_sha256: Mapping[str, str]
    dest: Path
    dtype: str
    sha256: str
    nbytes: int
    calibration: str | None
    tensors: tuple[TensorError, ...]


def convert(
    source: Path,
    dest: Path,
    *,
    dtype: str = "int8",
    force: bool = False,
    tokenizer: Path | None = None,
    calibrate: bool = True,
    origin: str | None = None,
    progress: bool = False,
) -> ConversionReport:
    """Convert ``source``, in any format that ``open_source`` knows, to the model folder ``dest``.

    ``dtype`` is one of ``WEIGHT_DTYPES``: int8 makes the integers that precision int8 computes
    with, rounded for the speech that the package has or, without ``calibrate``, each to the
    nearest, which is quicker and less accurate; the others store all weights so. ``origin`` names
    the source in the metadata (its file name, if not given). What was written is read back and
    compared before ``dest`` appears, whole or not at all. Raises ModelError, OptionError and
    OutputError.
    """
    if dtype not in WEIGHT_DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(WEIGHT_DTYPES)}, not {dtype!r}")
    opened = open_source(source, tokenizer)
    if opened.tokenizer is None:
        raise ModelError(
            f"{source}: holds no vocabulary; name a tokenizer.json or a .tiktoken file with "
            "--tokenizer"
        )
    with writing(dest):
        check_destination(dest, source, FILES, force)
    with writing(dest), replacing_folder(dest) as folder:
        report = convert_source(opened, folder, dtype, calibrate, origin, progress)
    return replace(report, dest=dest)


def convert_source(
    opened: Source,
    folder: Path,
    dtype: str,
    calibrate: bool = True,
    origin: str | None = None,
    progress: bool = False,
) -> ConversionReport:
    """As ``convert``, of a source that is open and has a vocabulary, into a folder that is there.

    ``dtype`` may also be ``AS_STORED``: each tensor stays what it is, float64 becomes float32 and
    what only ggml has float16. Raises OSError if ``folder`` cannot be written.
    """
    source = opened.path
    hashes = {file.name: file_sha256(file) for file in opened.files}
    metadata = {
        "producer": f"whisper-npu {__version__}",
        # A name may have bytes that are no UTF-8, which the format cannot hold.
        "source": printable(origin or source.name),
        "source_format": opened.kind,
        "source_sha256": json.dumps(hashes),
    }
    tokenizer = _write_companions(opened, folder, dtype)
    calibration = None
    if dtype == "int8":
        windows = shipped_windows(opened.dims, tokenizer) if calibrate else []
        calibration = SHIPPED.format(len(windows)) if calibrate else None
        metadata |= {**METADATA, "calibration": calibration or "none"}
        with _bar(opened, progress) as bar:
            errors = write_integers(opened, windows, folder / WEIGHTS, metadata, bar.update)
    else:
        metadata |= {"format": "pt", "scheme": dtype}
        errors = _write_weights(opened, folder / WEIGHTS, dtype, metadata, progress)
    digest, size = file_sha256(folder / WEIGHTS), (folder / WEIGHTS).stat().st_size
    return ConversionReport(
        source, opened.kind, hashes, folder, dtype, digest, size, calibration, tuple(errors)
    )


def _write_companions(source: Source, folder: Path, dtype: str) -> Tokenizer:
    """The files beside the weights. Raises ModelError if they do not fit each other."""
    _write_json(folder / CONFIG, _config(source.config, dtype))
    _write_json(folder / GENERATION, source.generation)
    (folder / TOKENIZER).write_text(source.tokenizer or "", encoding="utf-8")
    return Tokenizer.from_dir(folder, source.dims.n_vocab, source.generation)


def _config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    return {**kept, "torch_dtype": dtype} if dtype in ("float16", "float32") else kept


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def kept_dtype(tensor: StoredTensor) -> str:
    """What a tensor becomes that is to stay as it is stored."""
    stored = tensor.stored.name
    return _NEAREST.get(stored, stored)


def _layout(name: str, tensor: StoredTensor, dtype: str) -> list[OutputTensor]:
    """What a tensor of the source becomes, that is not quantised for precision int8.

    Sources of other programs that are kept as they are may have int8 by rows.
    """
    shape = tensor.shape
    if dtype == AS_STORED:
        dtype = kept_dtype(tensor)
    if dtype != "int8":
        return [OutputTensor(name, SAFETENSORS_NAMES[dtype], shape)]
    if not is_quantizable(name, shape):
        return [OutputTensor(name, "F32", shape)]
    return [OutputTensor(name, "I8", shape), OutputTensor(scale_name(name), "F32", shape[:1])]


def _encode(
    block: F32, names: Sequence[OutputTensor]
) -> tuple[list[NDArray[Any]], F32, F32 | None]:
    """Rows as they are stored (one array for each of ``names``), as they will be read, and their
    scales. Raises ValueError for values that the type does not hold."""
    if not np.isfinite(block).all():
        raise ValueError("holds NaN or infinity")
    if names[0].dtype == "I8":
        quantized = quantize_weight(block)
        return [quantized.values, quantized.scale], quantized.dequantize(), quantized.scale
    if names[0].dtype == "F16":
        with np.errstate(over="ignore"):
            half = block.astype(np.float16)
        if np.isinf(half).any():
            raise ValueError("holds values beyond float16; use --dtype float32")
        return [half], half.astype(np.float32), None
    if names[0].dtype == "BF16":
        # Only what was bfloat16 becomes it: the lower half of each number is zero.
        upper = (block.view(np.uint32) >> 16).astype(np.uint16)
        return [upper], widen_bfloat16(upper), None
    return [block], block, None


def _write_weights(
    source: Source, path: Path, dtype: str, metadata: Mapping[str, str], progress: bool
) -> list[TensorError]:
    layouts = {name: _layout(name, tensor, dtype) for name, tensor in source.tensors.items()}
    outputs = [output for layout in layouts.values() for output in layout]
    errors = []
    with writing_tensors(path, outputs, metadata) as writer, _bar(source, progress) as bar:
        for name, layout in layouts.items():
            meter = ErrorMeter(name, source.shapes[name], layout[0].dtype)
            for block in source.blocks(name):
                try:
                    stored, restored, scale = _encode(block, layout)
                except ValueError as error:
                    raise ModelError(f"{source.path}: tensor {name} {error}") from None
                for output, rows in zip(layout, stored, strict=True):
                    writer.write(output.name, rows)
                meter.add(block, restored, scale)
                bar.update(block.nbytes)
            errors.append(meter.result())
    return errors


def _bar(source: Source, progress: bool) -> Any:
    from tqdm import tqdm

    total = sum(4 * math.prod(shape) for shape in source.shapes.values())
    shown = progress and sys.stderr.isatty()
    name = printable(source.path.name)
    return tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=not shown)

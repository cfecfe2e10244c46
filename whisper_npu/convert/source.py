"""The models that are read: which format a path holds, and its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from whisper_npu.convert.ctranslate2 import read_ctranslate2
from whisper_npu.convert.ggml import read_ggml
from whisper_npu.convert.huggingface import read_huggingface
from whisper_npu.convert.openai_pt import read_openai
from whisper_npu.convert.tensors import BLOCK_BYTES, Source
from whisper_npu.errors import ModelError
from whisper_npu.files.whole import open_regular
from whisper_npu.model.folder import INDEX, PICKLED, PICKLED_INDEX, WEIGHTS
from whisper_npu.model.weight_names import MERGE_FIRST, named

__all__ = ["BLOCK_BYTES", "FORMATS", "Source", "open_source", "recognized"]

Reader = Callable[[Path, Path | None], Source]

# What a message calls each format, and its reader.
FORMATS: Mapping[str, tuple[str, Reader]] = {
    "huggingface": ("a Hugging Face folder", read_huggingface),
    "openai": ("an openai-whisper .pt file", read_openai),
    "ggml": ("a whisper.cpp ggml file", read_ggml),
    "ctranslate2": ("a CTranslate2 folder", read_ctranslate2),
}
SUPPORTED = (
    "a Hugging Face folder, an openai-whisper .pt file, a whisper.cpp ggml file or a CTranslate2 "
    "folder"
)
_CTRANSLATE2 = "model.bin"

# Files that begin like this are known, and not read.
_REFUSED = (
    (b"GGUF", "a GGUF file, which no Whisper is distributed as"),
    (b"tjgg", "a ggjt file of llama.cpp"),
    (b"fmgg", "a ggmf file of llama.cpp"),
    (b"\x80", "a torch file in the format before torch 1.6: load and save it with a newer torch"),
)
_ADAPTER = f"a PEFT adapter and no model: {MERGE_FIRST}"
_RESAVE = "load it with transformers 4 (from_pretrained(DIR, {}=True)) and save_pretrained(NEW)"
_ORIGINAL = "get the safetensors that it was made of"
# By the names of files: what has them, and is not read.
_FOREIGN = (
    ("adapter_config.json", _ADAPTER),
    ("adapter_model.*", _ADAPTER),
    ("tf_model*.h5", f"a model of TensorFlow: {_RESAVE.format('from_tf')}"),
    ("flax_model*.msgpack", f"a model of Flax: {_RESAVE.format('from_flax')}"),
    ("weights.npz", f"a model of MLX: {_ORIGINAL}"),
    ("weights.safetensors", f"a model of MLX: {_ORIGINAL}"),
    ("*.onnx", f"a model of ONNX: {_ORIGINAL}"),
    ("onnx", f"a model of ONNX: {_ORIGINAL}"),
    ("openvino_*.xml", f"a model of OpenVINO: {_ORIGINAL}"),
    ("*.mlmodelc", f"a model of Core ML: {_ORIGINAL}"),
    ("*.mlpackage", f"a model of Core ML: {_ORIGINAL}"),
    ("*.gguf", f"a GGUF model: {_ORIGINAL}"),
    ("*.nemo", "a model of NeMo, which is no Whisper"),
)


def open_source(path: Path, tokenizer: Path | None = None) -> Source:
    """Open a model in any format that is read, and validate everything but the weights' values.

    ``tokenizer`` names what to use instead of the source's own vocabulary: a tokenizer.json, a
    folder with one, or a ``.tiktoken`` file. Raises ModelError.
    """
    try:
        kind, path = recognized(path)
        return FORMATS[kind][1](path, tokenizer)
    except OSError as error:
        # It may be the tokenizer.
        file = error.filename or path
        raise ModelError(f"{file}: cannot be read: {error.strerror or error}") from error


def recognized(path: Path) -> tuple[str, Path]:
    """The format of a model, one of ``FORMATS``, and the file or folder that is the whole of it.

    Raises ModelError that says what to do about formats that are not read, and OSError.
    """
    if path.is_dir():
        return _kind_of_folder(path), path
    if path.name == _CTRANSLATE2 and path.is_file() and not _starts(path).startswith(b"lmgg"):
        return "ctranslate2", path.parent
    return _kind_of_file(path), path


def _kind_of_folder(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if {WEIGHTS, INDEX}.intersection(names):
        return "huggingface"
    if _CTRANSLATE2 in names:
        return "ctranslate2"
    if {PICKLED, PICKLED_INDEX}.intersection(names):
        return "huggingface"
    for pattern, what in _FOREIGN:
        if any(fnmatchcase(name, pattern) for name in names):
            raise ModelError(f"{path}: is {what}")
    files = [name for name in names if fnmatchcase(name, "*.pt") or fnmatchcase(name, "ggml*.bin")]
    if files:
        raise ModelError(f"{path}: is no model, but holds files that may be: {named(files)}")
    raise ModelError(
        f"{path}: has neither {WEIGHTS} nor {PICKLED} (Hugging Face) nor {_CTRANSLATE2} "
        "(CTranslate2)"
    )


def _kind_of_file(path: Path) -> str:
    if not path.exists():
        raise ModelError(f"{path}: does not exist")
    start = _starts(path)
    if start.startswith(b"PK\x03\x04"):
        return "openai"
    if start.startswith(b"lmgg"):
        return "ggml"
    for magic, what in _REFUSED:
        if start.startswith(magic):
            raise ModelError(f"{path}: is {what}")
    for pattern, what in _FOREIGN:
        if fnmatchcase(path.name, pattern):
            raise ModelError(f"{path}: is {what}")
    if start[8:] == b"{":
        raise ModelError(f"{path}: is one file of a model; name the folder that holds it")
    raise ModelError(f"{path}: is not {SUPPORTED}")


def _starts(path: Path) -> bytes:
    with open_regular(path, ModelError) as file:
        return file.read(9)

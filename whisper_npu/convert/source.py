"""The models that ``whisper-npu convert`` reads: which format a path holds, and its reader."""

from __future__ import annotations

from pathlib import Path

from whisper_npu.convert.ctranslate2 import read_ctranslate2
from whisper_npu.convert.ggml import read_ggml
from whisper_npu.convert.huggingface import read_huggingface
from whisper_npu.convert.openai_pt import read_openai
from whisper_npu.convert.tensors import BLOCK_BYTES, Source
from whisper_npu.errors import ModelError
from whisper_npu.files.whole import open_regular
from whisper_npu.model.folder import INDEX, WEIGHTS

__all__ = ["BLOCK_BYTES", "Source", "open_source"]

SUPPORTED = (
    "a Hugging Face directory, an openai-whisper .pt file, a whisper.cpp ggml file or a "
    "CTranslate2 directory"
)

# Files that begin like this are known, and not read.
_REFUSED = (
    (b"GGUF", "a GGUF file, which no Whisper is distributed as"),
    (b"tjgg", "a ggjt file of llama.cpp"),
    (b"fmgg", "a ggmf file of llama.cpp"),
    (b"\x80", "a torch file in the format before torch 1.6: load and save it with a newer torch"),
)


def open_source(path: Path, tokenizer: Path | None = None) -> Source:
    """Open a model in any format that is read, and validate everything but the weights' values.

    ``tokenizer`` names what to use instead of the source's own vocabulary: a tokenizer.json, a
    folder with one, or a ``.tiktoken`` file. Raises ModelError.
    """
    try:
        if path.is_dir():
            return _open_folder(path, tokenizer)
        return _open_file(path, tokenizer)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error


def _open_folder(path: Path, tokenizer: Path | None) -> Source:
    names = {entry.name for entry in path.iterdir()}
    if "model.bin" in names and WEIGHTS not in names:
        return read_ctranslate2(path, tokenizer)
    if names & {WEIGHTS, INDEX}:
        return read_huggingface(path, tokenizer)
    if names & {"pytorch_model.bin", "pytorch_model.bin.index.json"}:
        raise ModelError(f"{path}: has weights in pytorch_model.bin; only safetensors are read")
    raise ModelError(
        f"{path}: has neither model.safetensors (Hugging Face) nor model.bin (CTranslate2)"
    )


def _open_file(path: Path, tokenizer: Path | None) -> Source:
    if not path.exists():
        raise ModelError(f"{path}: does not exist")
    if not path.is_file():
        raise ModelError(f"{path}: is not a file or a folder")
    with open_regular(path, ModelError) as file:
        start = file.read(9)
    if start.startswith(b"PK\x03\x04"):
        return read_openai(path, tokenizer)
    if start.startswith(b"lmgg"):
        return read_ggml(path, tokenizer)
    for magic, what in _REFUSED:
        if start.startswith(magic):
            raise ModelError(f"{path}: is {what}")
    if start[8:] == b"{" or path.name == "model.bin":
        raise ModelError(f"{path}: is one file of a model; name the folder that holds it")
    raise ModelError(f"{path}: is not {SUPPORTED}")

"""What has to hold for any file: it is a model, all of which can be read, or a ModelError.

A folder that can be transcribed with as it is (Hugging Face's and our own) is also loaded so.
"""

from __future__ import annotations

from pathlib import Path

from whisper_npu.convert.source import open_source
from whisper_npu.errors import ModelError
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.text.tokenizer import Tokenizer


def check(path: Path) -> bool:
    """Open a model and read all of it. True if it is valid; anything but ModelError comes out."""
    try:
        if path.name in ("huggingface", "sharded", "int8"):
            _load(path)
        source = open_source(path)
        for name, shape in source.shapes.items():
            rows = 0
            for block in source.blocks(name):
                rows += len(block)
            if rows != shape[0]:
                raise AssertionError(f"{name}: {rows} rows of {shape[0]}")
    except ModelError as error:
        if "\n" in str(error):
            raise AssertionError(f"a message of more than one line: {error}") from error
        return False
    return True


def _load(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    for name in checkpoint.weights:
        checkpoint.weights[name]
    if not (folder / "tokenizer.json").exists():
        return
    tokenizer = Tokenizer.from_dir(folder, checkpoint.dims.n_vocab, checkpoint.generation)
    tokenizer.decode(tokenizer.encode(" Caf\u00e9, 7 o'clock."))
    tokenizer.decode(range(checkpoint.dims.n_vocab))

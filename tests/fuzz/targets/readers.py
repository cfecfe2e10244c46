"""The readers of model formats: a model, all of which can be read, or a ModelError.

A folder that can be transcribed with as it is (Hugging Face's and our own) is also loaded so.
An input is the name of a file of a seed, a line, and the content that it has.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.fuzz.json_mutations import mutate_json
from tests.fuzz.mutations import mutate as mutate_bytes
from tests.fuzz.seed_models import load_seeds
from whisper_npu.convert.source import open_source
from whisper_npu.errors import ModelError
from whisper_npu.model.checkpoint import load_checkpoint
from whisper_npu.terminal import printable
from whisper_npu.text.tokenizer import Tokenizer

SECONDS = 10.0
SEEDS = load_seeds()


def mutate(chance: Random) -> bytes:
    """One file of a seed, changed."""
    return mutate_file(dict(chance.choice(SEEDS).files), chance)


def mutate_file(files: dict[str, bytes], chance: Random) -> bytes:
    """One of the files, changed: its name, a line, its content."""
    name = chance.choice(list(files))
    return f"{name}\n".encode() + _mutate_content(name, files[name], chance)


def _mutate_content(name: str, content: bytes, chance: Random) -> bytes:
    structured = chance.random() < 0.6
    if name.endswith(".json") and structured:
        return mutate_json(content, chance)
    if name.endswith(".safetensors") and structured:
        end = 8 + int.from_bytes(content[:8], "little")
        header = mutate_json(content[8:end], chance)
        return len(header).to_bytes(8, "little") + header + content[end:]
    return mutate_bytes(content, chance)


def check(data: bytes, folder: Path) -> str:
    """Open the model and read all of it."""
    name, _, content = data.partition(b"\n")
    file = name.decode()
    if not any(folder.iterdir()):
        for seed in SEEDS:
            seed.write(folder)
    original = (folder / file).read_bytes()
    try:
        (folder / file).write_bytes(content)
        return "valid" if is_valid(folder / file.split("/")[0]) else "refused"
    finally:
        (folder / file).write_bytes(original)


def is_valid(path: Path) -> bool:
    """Open a model and read all of it. True if it is valid; anything but ModelError comes out."""
    try:
        if path.name in ("huggingface", "sharded", "int8", "integers"):
            _load(path)
        if path.name == "integers":
            # It has no floats that could be converted.
            return True
        source = open_source(path)
        for name, shape in source.shapes.items():
            rows = 0
            for block in source.blocks(name):
                rows += len(block)
            if rows != shape[0]:
                raise AssertionError(f"{name}: {rows} rows of {shape[0]}")
    except ModelError as error:
        check_message(error)
        return False
    return True


def check_message(error: Exception) -> None:
    """Raises AssertionError for what is no line that a terminal can show."""
    text = str(error)
    if not text or printable(text) != text or len(text) > 1_000:
        raise AssertionError(f"no line for a terminal: {text[:300]!r}") from error


def _load(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    for name in checkpoint.weights:
        checkpoint.weights[name]
    if not (folder / "tokenizer.json").exists():
        return
    tokenizer = Tokenizer.from_dir(folder, checkpoint.dims.n_vocab, checkpoint.generation)
    tokenizer.decode(tokenizer.encode(" Caf\u00e9, 7 o'clock."))
    tokenizer.decode(range(checkpoint.dims.n_vocab))

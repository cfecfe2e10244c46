"""Write a seeded checkpoint in the formats that other programs use, without these programs.

The same weights as openai-whisper's .pt, whisper.cpp's ggml files, CTranslate2's directories and a
Hugging Face directory in shards.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.support.checkpoints import write_weights
from tests.support.formats.ctranslate2 import write_ctranslate2
from tests.support.formats.ggml import write_ggml
from tests.support.formats.seeded import SeededModel, load_seeded
from tests.support.formats.torch_pt import write_pt

SHARDS = 3

# File or folder in OUT -> what writes it.
WRITERS: Mapping[str, Callable[[SeededModel, Path], None]] = {
    **{f"{dtype}.pt": partial(write_pt, dtype=dtype) for dtype in ("float32", "float16")},
    **{f"ggml-{dtype}.bin": partial(write_ggml, dtype=dtype) for dtype in ("f32", "f16", "q8_0")},
    **{
        f"ctranslate2-{dtype}": partial(write_ctranslate2, dtype=dtype)
        for dtype in ("float32", "float16", "int8")
    },
}


def write_sharded(model: SeededModel, source: Path, folder: Path) -> None:
    """The Hugging Face directory ``source`` with its weights in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.json"):
        shutil.copy(file, folder)
    write_weights(model.dims, model.weights.items(), folder, shards=SHARDS)


def write_formats(source: Path, out: Path) -> list[Path]:
    """Write all formats of the checkpoint ``source``; returns the paths that name them."""
    model = load_seeded(source)
    out.mkdir(parents=True, exist_ok=True)
    for name, write in WRITERS.items():
        write(model, out / name)
    write_sharded(model, source, out / "sharded")
    return [out / name for name in (*WRITERS, "sharded")]

"""What has to hold for any file: it is a model, all of which can be read, or a ModelError."""

from __future__ import annotations

from pathlib import Path

from whisper_npu.convert.source import open_source
from whisper_npu.errors import ModelError


def check(path: Path) -> bool:
    """Open a model and read all of it. True if it is valid; anything but ModelError comes out."""
    try:
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

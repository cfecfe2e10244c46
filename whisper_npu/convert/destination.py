"""The folder that a conversion makes: checked before anything is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whisper_npu.errors import OutputError


def check_destination(dest: Path, source: Path, files: Sequence[str], force: bool) -> None:
    """Raise OutputError unless ``dest`` may be made, or replaced because of ``force``.

    Only a folder that holds nothing but ``files`` is ever replaced.
    """
    if not dest.exists():
        return
    if not dest.is_dir():
        raise OutputError(f"{dest}: is a file; name a folder for the converted model")
    if source.exists() and dest.samefile(source):
        raise OutputError(f"{dest}: is the source itself; name another folder")
    entries = sorted(entry.name for entry in dest.iterdir())
    foreign = [name for name in entries if name not in files]
    if foreign:
        raise OutputError(f"{dest}: holds {foreign[0]}, which is no part of a converted model")
    if entries and not force:
        raise OutputError(f"{dest}: is there already; --force replaces it")

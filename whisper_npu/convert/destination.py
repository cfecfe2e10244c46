"""The folder that a conversion makes: checked before, and there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def replacing(dest: Path) -> Iterator[Path]:
    """A new folder beside ``dest`` that takes its place if the block ends well.

    Otherwise it is removed and ``dest`` is what it was. Raises OSError.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", suffix=".part", dir=dest.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp lets nobody else read
        if dest.exists():
            old = partial.with_suffix(".old")
            dest.rename(old)
            try:
                partial.rename(dest)
            except BaseException:
                old.rename(dest)
                raise
            shutil.rmtree(old)
        else:
            partial.rename(dest)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise

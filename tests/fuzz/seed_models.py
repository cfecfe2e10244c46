"""Small valid models of every format, as files of the repository.

    python -m tests.fuzz.seed_models

makes them anew.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_suffix("")


@dataclass(frozen=True)
class Seed:
    """A model: ``name`` is what is opened, a file or a folder, ``files`` its content by path."""

    name: str
    files: tuple[tuple[str, bytes], ...]

    def write(self, folder: Path) -> Path:
        """Write it into a folder; gives what to open."""
        for file, content in self.files:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(content)
        return folder / self.name


def load_seeds() -> list[Seed]:
    """All of them, sorted by name."""
    seeds = []
    for path in sorted(FOLDER.iterdir()):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        content = tuple((str(file.relative_to(FOLDER)), file.read_bytes()) for file in files)
        seeds.append(Seed(path.name, content))
    return seeds


if __name__ == "__main__":
    from tests.support.micro import write_micro

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    write_micro(FOLDER)

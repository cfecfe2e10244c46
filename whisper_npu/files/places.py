"""Where the files lie that come with the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# ``kernels`` and ``weights`` are installed in the package (pyproject.toml). In a checkout they are
# beside it.
PLACES = (_PACKAGE, _PACKAGE.parent)


def shipped_file(name: str) -> Path | None:
    """A file of the folder ``kernels`` or ``weights``; None if it was not installed."""
    return next((place / name for place in PLACES if (place / name).is_file()), None)

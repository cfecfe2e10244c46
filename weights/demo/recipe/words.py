"""The word lists, phrases and sentence frames, which are text files beside this module."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def _lines(name: str) -> list[str]:
    """The lines of a file but for comments and empty ones."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _sections(name: str) -> dict[str, list[str]]:
    """The lines below each ``[section]`` of a file."""
    sections: dict[str, list[str]] = {}
    for line in _lines(name):
        if line.startswith("["):
            section = sections[line.strip("[]")] = []
        else:
            section.append(line)
    return sections


def _frames(name: str) -> tuple[list[float], list[str]]:
    """The weights of the sentence frames, and their texts."""
    pairs = [line.split(" ", 1) for line in _lines(name)]
    return [float(weight) for weight, _ in pairs], [text for _, text in pairs]


WORDS: dict[str, list[str]] = {
    section: [entry.replace("_", " ") for line in lines for entry in line.split()]
    for section, lines in _sections("words.txt").items()
}
PHRASES = _sections("phrases.txt")
FRAMES = _frames("sentences.txt")

"""The short names of published models, and the form of repository names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from whisper_npu.errors import ModelError, OptionError
from whisper_npu.files.places import shipped_file

# What the hub allows in either half of a repository's name, but for "--" and "..".
_PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")


def sources_file() -> Path:
    """The list of the models and of where they come from. Raises ModelError if it is missing."""
    file = shipped_file("weights/sources.json")
    if file is None:
        raise ModelError("weights/sources.json was not installed; install whisper-npu again")
    return file


@cache
def short_names() -> Mapping[str, str]:
    """The repository of each short name. Raises ModelError.

    A repository that has several names is called by the first of them.
    """
    file = sources_file()
    # Without the schema, which takes longer than all else that a model's name needs.
    try:
        models = json.loads(file.read_bytes())["models"]
        names = {name: model["repository"] for name, model in models.items()}
        if not all(map(is_repository, names.values())):
            raise ValueError
    except (
        AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError
    ) as error:  # fmt: skip
        raise ModelError(f"{file}: is damaged; install whisper-npu again") from error
    return names


def is_repository(name: str) -> bool:
    """Whether a name has the form ``owner/name`` of a repository on the hub."""
    parts = name.split("/")
    return len(parts) == 2 and all(_PART.fullmatch(part) for part in parts)


def repository_of(name: str) -> str:
    """The repository that a short name or a repository's own name means. Raises OptionError."""
    if name in short_names():
        return short_names()[name]
    if not is_repository(name):
        raise OptionError(
            f"{name!r} is neither a repository (owner/name) nor one of {', '.join(short_names())}"
        )
    return name


def short_name(repository: str) -> str:
    """The short name of a repository; its own name if it has none."""
    names = short_names().items()
    return next((name for name, known in names if known == repository), repository)

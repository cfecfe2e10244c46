"""The short names of published models, and the form of repository names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from whisper_npu.errors import OptionError

_OPENAI = (
    *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
    *("large-v2", "large-v3", "large-v3-turbo"),
)
_DISTIL = (
    *("distil-small.en", "distil-medium.en"),
    *("distil-large-v2", "distil-large-v3", "distil-large-v3.5"),
)
# openai-whisper's names. The first large model was published without a version in its name, which
# now means the latest of them.
SHORT_NAMES: Mapping[str, str] = {
    **{name: f"openai/whisper-{name}" for name in _OPENAI},
    **{name: f"distil-whisper/{name}" for name in _DISTIL},
    "large-v1": "openai/whisper-large",
    "large": "openai/whisper-large-v3",
    "turbo": "openai/whisper-large-v3-turbo",
}

# What the hub allows in either half of a repository's name, but for "--" and "..".
_PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")


def is_repository(name: str) -> bool:
    """Whether a name has the form ``owner/name`` of a repository on the hub."""
    parts = name.split("/")
    return len(parts) == 2 and all(_PART.fullmatch(part) for part in parts)


def repository_of(name: str) -> str:
    """The repository that a short name or a repository's own name means. Raises OptionError."""
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    if not is_repository(name):
        raise OptionError(
            f"{name!r} is neither a repository (owner/name) nor one of {', '.join(SHORT_NAMES)}"
        )
    return name


def short_name(repository: str) -> str:
    """The short name of a repository; its own name if it has none."""
    return next((name for name, known in SHORT_NAMES.items() if known == repository), repository)

"""The Hugging Face cache, which other programs share: what of a model is there, and is it right.

``huggingface_hub`` knows where the cache is and how it is laid out; nothing here uses the network.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from whisper_npu.errors import ModelError
from whisper_npu.files.whole import hash_file
from whisper_npu.model.folder import CONFIG, GENERATION, WEIGHTS, tokenizer_names, weights_name
from whisper_npu.model.safetensors_file import shard_names

OPTIONAL = (GENERATION,)

# The name of a blob is the digest of its content.
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def cached_snapshot(repository: str, revision: str = "main") -> Path | None:
    """The folder of a repository's files at a revision, if any are in the cache."""
    # Imported here, as most models are no repositories: it takes half a second.
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, CONFIG, revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def needed_files(is_there: Callable[[str], bool]) -> list[str]:
    """The files beside the weights that a model has to have, where ``is_there`` tells which files
    there are."""
    return [CONFIG, *tokenizer_names(is_there)]


def model_files(folder: Path) -> list[Path]:
    """The files of a model in a snapshot's folder. Raises ModelError that names what is missing."""

    def is_there(name: str) -> bool:
        return (folder / name).exists()

    names = needed_files(is_there)
    weights = weights_name(is_there) or WEIGHTS
    index = f"{weights}.index.json"
    if is_there(weights) or not is_there(index):
        names.append(weights)
    else:
        names += [index, *shard_names(folder / index)]
    for name in names:
        if not (folder / name).exists():
            raise ModelError(f"{folder}: has no {name}")
    names += [name for name in OPTIONAL if (folder / name).exists()]
    return [folder / name for name in names]


def check_cached(path: Path) -> None:
    """Raise ModelError if a file of a snapshot is not what the name of its blob says."""
    # Where there are no symbolic links, a file's hash is not known.
    digest = path.readlink().name if path.is_symlink() else ""
    if not _DIGEST.fullmatch(digest):
        return
    if wrong := difference(path, path.stat().st_size, digest):
        raise ModelError(f"{path}: is damaged: {wrong}; pull the model again with the network")


def difference(path: Path, size: int, digest: str) -> str:
    """How a file's content differs from its size in bytes and its hash; "" if it does not.

    ``digest`` is a sha256 or the id of a git blob, which is a sha1, in hex.
    """
    there = path.stat().st_size
    if there != size:
        return f"it has {there} bytes, not {size}"
    kind = "sha256" if len(digest) == 64 else "git blob sha1"
    hashed = (
        hashlib.sha256()
        if kind == "sha256"
        else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    )
    hash_file(path, hashed)
    found = hashed.hexdigest()
    return "" if found == digest else f"its {kind} is {found}, not {digest}"

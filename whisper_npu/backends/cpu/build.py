"""Compiling the CPU kernels: their sources, a compiler, and the library that comes of them.

The sources are a folder of the package. A library lies beside a record that says what it was made
of: after a change of the sources it is not used any more. One is compiled into the package when
that is installed (``hatch_build.py``), others by ``whisper-npu kernels build`` into ``cpu`` of
``WHISPER_NPU_HOME``. Only the standard library and modules that need no other are imported here:
the build hook runs before there is anything else.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_npu.backends.cpu.isas import Isa, isas_for, read_isas
from whisper_npu.backends.cpu.library_file import check_library_file
from whisper_npu.errors import KernelError
from whisper_npu.files.owner import make_private
from whisper_npu.files.places import shipped_file
from whisper_npu.files.temporary import locked, sweep, temporary_folder
from whisper_npu.files.whole import file_sha256, read_file, replacing, writing
from whisper_npu.home import home_folder

COMPILERS = ("c++", "g++", "clang++")

# Results are part of the contracts: no contraction but where the source asks for it. Loops begin at
# cache lines: otherwise a change elsewhere in a file moves them, and makes products of bytes slower
# or faster by as much as 12 % (AVX2).
_FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math", "-falign-functions=64", "-falign-loops=64", "-w",
)  # fmt: skip
_LINK_FLAGS = ("-shared", "-pthread")
# Sources that are compiled several times, with VARIANT defined as the name of an instruction set:
# for all, and for those that have floats of their own.
_FOR_ALL = ("fixed_point.cc",)
_FOR_FLOATS = ("floats.cc", "integer_attention.cc", "log_mel.cc")

_RECORD = "library.json"
_LONGEST_RECORD = 1 << 16
# In a record: why an installation compiled nothing.
_NOT_COMPILED = "not_compiled"
# Readable by all and written by the owner alone, whatever the umask.
_LIBRARY_MODE = 0o755

COMMAND = "whisper-npu kernels build"


@dataclass(frozen=True)
class Build:
    """A compiled library in a folder.

    ``sources`` is the hash of what it was made of, ``sha256`` that of the file.
    """

    folder: Path
    library: str
    sources: str
    compiler: str
    flags: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the library is."""
        return self.folder / self.library


def build_folder() -> Path:
    """Where libraries that ``kernels build`` made are kept, and the evidence of all."""
    return home_folder() / "cpu"


def installed_folder() -> Path:
    """Where the library is that was compiled when the package was installed.

    Raises KernelError if the sources were not installed.
    """
    return source_folder().parents[1] / "lib"


def source_folder() -> Path:
    """The folder of the sources. Raises KernelError if they were not installed."""
    file = shipped_file("kernels/src/cpu/api.h")
    if file is None:
        raise KernelError("kernels/src/cpu was not installed; install whisper-npu again")
    return file.parent


def source_hash() -> str:
    """SHA-256 of all sources with their names."""
    digest = hashlib.sha256()
    for file in sorted(source_folder().glob("*.[ch]*")):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def find_build() -> Build | None:
    """The library made of the sources as they are now, if there is one.

    One that ``kernels build`` made is taken before the one that was installed.
    """
    return next(find_builds(), None)


def find_builds() -> Iterator[Build]:
    """The libraries made of the sources as they are now, in that order."""
    sources = source_hash()
    for build in _builds():
        if build.sources == sources and build.path.is_file():
            yield build


def _builds() -> Iterator[Build]:
    """What the records of both folders say, whatever the sources; a warning for damaged ones."""
    for folder in (build_folder(), installed_folder()):
        try:
            build = _read_build(folder)
        except KernelError as error:
            warnings.warn(f"{error}; run {COMMAND}", stacklevel=4)
            continue
        if build is not None:
            yield build


def why_no_build() -> str:
    """In one line why ``find_build`` finds none, and what to do."""
    try:
        _isas()
    except KernelError as error:
        return str(error)
    try:
        _read_record(build_folder())
        reason = _read_record(installed_folder()).get(_NOT_COMPILED)
    except KernelError as error:
        return f"CPU kernels are not built: {error}; run {COMMAND}"
    if reason is not None:
        when = "CPU kernels were not compiled when whisper-npu was installed"
        return f"{when}: {reason}; when that is put right, run {COMMAND}"
    sources = source_hash()
    if any(build.sources != sources for build in _builds()):
        return f"CPU kernels were compiled from other sources than these: run {COMMAND}"
    return f"CPU kernels are not built: run {COMMAND}"


def _read_record(folder: Path) -> dict[str, Any]:
    """The record of a folder, of texts; empty if there is none. Raises KernelError."""
    file = folder / _RECORD
    if not os.path.lexists(file):
        return {}
    try:
        record = json.loads(read_file(file, _LONGEST_RECORD, KernelError))
    except (ValueError, RecursionError) as error:
        raise KernelError(f"{file}: is damaged ({error})") from error
    if not isinstance(record, dict) or not all(isinstance(v, str) for v in record.values()):
        raise KernelError(f"{file}: is damaged: it is no record of a library")
    return record


def _read_build(folder: Path) -> Build | None:
    """The library that a folder's record describes; None if there is none. Raises KernelError."""
    record = _read_record(folder)
    try:
        build = Build(folder, **record)
    except TypeError:
        # Of another version.
        return None
    # A library is a file of this folder.
    return build if re.fullmatch(r"kernels-[0-9a-f]{16}\.so", build.library) else None


def find_compiler() -> list[str]:
    """``CXX`` (which may have options), else the first of ``COMPILERS`` that there is.

    Raises KernelError.
    """
    named = _words("CXX")
    for command in [named] if named else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    tried = named[0] if named else ", ".join(COMPILERS)
    raise KernelError(
        f"no C++ compiler: looked for {tried}; install g++ or clang++, or name one in CXX"
    )


def _words(variable: str) -> list[str]:
    """The words of an environment variable, as a shell has them. Raises KernelError."""
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise KernelError(f"{variable}: {error}") from error


def build_library(force: bool = False, folder: Path | None = None) -> Build:
    """Compile the kernels unless there is a library of these sources, compiler and options.

    ``folder`` is ``build_folder()`` if it is not given. Options of the compiler in ``CXXFLAGS``
    follow our own. Raises KernelError without a compiler, for a processor that there are no sources
    for, or with what the compiler said; OutputError if the library cannot be written.
    """
    folder = build_folder() if folder is None else folder
    isas = _isas()
    compiler, options = find_compiler(), [*_FLAGS, *_words("CXXFLAGS")]
    version = _run([*compiler, "--version"]).splitlines()[0]
    flags = json.dumps([options, _LINK_FLAGS, {isa.name: isa.options for isa in isas}])
    record = {"sources": source_hash(), "compiler": f"{shlex.join(compiler)}: {version}"}
    record["flags"] = flags
    with writing(folder):
        make_private(folder)
        # Others who build the same wait, and find it made.
        with locked(folder):
            sweep(folder)
            known = None
            with suppress(KernelError):
                known = _read_build(folder)
            if known is None or force or not _is_made_of(known, record):
                known = _build([*compiler, *options], isas, folder, record)
            for old in folder.glob("kernels-*.so"):
                if old != known.path:
                    old.unlink(missing_ok=True)
    return known


def _is_made_of(build: Build, record: Mapping[str, str]) -> bool:
    """Whether a library is there, as it was compiled, and of what a record says."""
    if not record.items() <= vars(build).items():
        return False
    try:
        check_library_file(build.path, build.sha256)
    except KernelError:
        return False
    return True


def _build(
    compiler: Sequence[str], isas: Sequence[Isa], folder: Path, record: Mapping[str, str]
) -> Build:
    """Compile into a folder. The library that was there stays usable until the new one is.

    ``compiler`` is with its options. Raises KernelError and OSError.
    """
    with temporary_folder(folder / "build") as objects:
        made = _compile(compiler, isas, objects)
        made.chmod(_LIBRARY_MODE)
        sha256 = file_sha256(made)
        # Another library has another name: the record may name the old one until it is replaced.
        key = hashlib.sha256("\n".join([*record.values(), sha256]).encode()).hexdigest()
        library = f"kernels-{key[:16]}.so"
        os.replace(made, folder / library)
    whole = {**record, "library": library, "sha256": sha256}
    _write_record(folder, whole)
    return Build(folder, **whole)


def _isas() -> tuple[Isa, ...]:
    """The instruction sets of this processor. Raises KernelError where nothing can be compiled."""
    isas = isas_for(platform.machine(), read_isas(source_folder()))
    if not isas or os.name == "nt":
        raise KernelError(f"there are no CPU kernels for {platform.system()} {platform.machine()}")
    return isas


def install_library(folder: Path) -> Build | None:
    """Compile the kernels into the package's folder, where it is built to be installed.

    Where that cannot be done a record says why, and None is returned: everything runs on NumPy
    then. Raises OutputError.
    """
    try:
        return build_library(folder=folder)
    except KernelError as error:
        with writing(folder):
            make_private(folder)
            _write_record(folder, {_NOT_COMPILED: str(error)})
        return None


def _write_record(folder: Path, record: Mapping[str, str]) -> None:
    """Raises OSError."""
    with replacing(folder / _RECORD) as new:
        new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _compile(compiler: Sequence[str], isas: Sequence[Isa], folder: Path) -> Path:
    """Compile in ``folder`` and link; gives the library. ``compiler`` is with its options."""

    def commands() -> Iterator[tuple[list[str], Path]]:
        for source in sorted(source_folder().glob("*.cc")):
            command = [*compiler, "-c", str(source)]
            if source.name not in (*_FOR_ALL, *_FOR_FLOATS):
                yield command, folder / f"{source.stem}.o"
                continue
            for isa in isas:
                if source.name in _FOR_ALL or isa.has_floats:
                    options = [f"-DVARIANT={isa.name}", *isa.options]
                    yield [*command, *options], folder / f"{source.stem}.{isa.name}.o"

    # Imported here: to find a library takes no threads.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        jobs = [
            (threads.submit(_run, [*command, "-o", str(target)]), target)
            for command, target in commands()
        ]
        for job, _ in jobs:
            job.result()
    library = folder / "library.so"
    objects = [str(target) for _, target in jobs]
    _run([*compiler, *_LINK_FLAGS, "-o", str(library), *objects])
    return library


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise KernelError(f"{command[0]}: cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        error_lines = [line for line in lines if "error" in line] or lines or ["no message"]
        raise KernelError(f"{command[0]} failed on the CPU kernels: {error_lines[0]}")
    return done.stdout

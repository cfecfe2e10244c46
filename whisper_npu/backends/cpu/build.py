"""Compiling the CPU kernels: their sources, a compiler, and the library that comes of them.

The sources are a folder of the package. A library is in ``cpu`` of ``WHISPER_NPU_HOME``, beside
a file that says what it was made of: after a change of the sources it is not used any more.
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
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from whisper_npu.backends.cpu.isas import Isa, isas_for, read_isas
from whisper_npu.errors import KernelError
from whisper_npu.files.places import shipped_file
from whisper_npu.files.whole import replacing, writing
from whisper_npu.home import home_folder

COMPILERS = ("c++", "g++", "clang++")

# Results are part of the contracts: no contraction but where the source asks for it.
_FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math", "-w",
)  # fmt: skip
_LINK_FLAGS = ("-shared", "-pthread")
# Sources that are compiled several times, with VARIANT defined as the name of an instruction set:
# for all, and for those that have floats of their own.
_INTEGERS, _FLOATS = "integers.cc", "floats.cc"

_RECORD = "library.json"
_LONGEST_RECORD = 1 << 16


@dataclass(frozen=True)
class Build:
    """A compiled library. ``sources`` is the hash of what it was made of."""

    library: str
    sources: str
    compiler: str
    flags: str

    @property
    def path(self) -> Path:
        """Where the library is."""
        return build_folder() / self.library


def build_folder() -> Path:
    """Where libraries and their evidence are kept."""
    return home_folder() / "cpu"


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
    """The library made of the sources as they are now, if there is one."""
    file = build_folder() / _RECORD
    try:
        if file.stat().st_size > _LONGEST_RECORD:
            return None
        build = Build(**json.loads(file.read_text(encoding="utf-8")))
        # A library is a file of this folder.
        if not re.fullmatch(r"kernels-[0-9a-f]{16}\.so", build.library):
            return None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return build if build.sources == source_hash() and build.path.is_file() else None


def find_compiler() -> list[str]:
    """``CXX`` (which may have options), else the first of ``COMPILERS`` that there is.

    Raises KernelError.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    tried = named[0] if named else ", ".join(COMPILERS)
    raise KernelError(
        f"no C++ compiler: looked for {tried}; install g++ or clang++, or name one in CXX"
    )


def build_library(force: bool = False) -> Build:
    """Compile the kernels unless there is a library of these sources, compiler and options.

    Raises KernelError without a compiler, for a processor that there are no sources for, or with
    what the compiler said; OutputError if the library cannot be written.
    """
    isas = isas_for(platform.machine(), read_isas(source_folder()))
    if not isas or os.name == "nt":
        raise KernelError(f"there are no CPU kernels for {platform.system()} {platform.machine()}")
    compiler = find_compiler()
    version = _run([*compiler, "--version"]).splitlines()[0]
    flags = json.dumps([_FLAGS, _LINK_FLAGS, {isa.name: isa.options for isa in isas}])
    sources = source_hash()
    key = hashlib.sha256("\n".join([sources, *compiler, version, flags]).encode()).hexdigest()
    build = Build(f"kernels-{key[:16]}.so", sources, f"{shlex.join(compiler)}: {version}", flags)
    if find_build() == build and not force:
        return build
    with writing(build_folder()):
        build_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=build_folder(), prefix=".build.") as folder:
            os.replace(_compile(compiler, isas, Path(folder)), build.path)
        with replacing(build_folder() / _RECORD) as record:
            record.write_text(json.dumps(asdict(build)), encoding="utf-8")
    for old in build_folder().glob("kernels-*.so"):
        if old != build.path:
            old.unlink(missing_ok=True)
    return build


def _compile(compiler: Sequence[str], isas: Sequence[Isa], folder: Path) -> Path:
    """Compile in ``folder`` and link; gives the library."""

    def commands() -> Iterator[tuple[list[str], Path]]:
        for source in sorted(source_folder().glob("*.cc")):
            command = [*compiler, *_FLAGS, "-c", str(source)]
            if source.name not in (_INTEGERS, _FLOATS):
                yield command, folder / f"{source.stem}.o"
                continue
            for isa in isas:
                if source.name == _INTEGERS or isa.has_floats:
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

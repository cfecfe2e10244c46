"""The library of CPU kernels: its functions, threads and instruction sets."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from whisper_npu.backends.cpu.api import read_api
from whisper_npu.backends.cpu.build import COMMAND, Build, source_folder
from whisper_npu.backends.cpu.isas import read_isas
from whisper_npu.backends.cpu.library_file import check_library_file
from whisper_npu.errors import KernelError, OptionError

# Caps the instruction set, for tests and measurements; with NO_ISA no kernel is used.
ISA_ENVIRONMENT = "WHISPER_NPU_CPU_ISA"
NO_ISA = "none"

# Takes the address of a structure; 0 if it computed what it was asked for.
CpuFunction = Callable[[int], int]

_ALIGNMENT = 64
# Of Linux, which the module fcntl names.
_SEALS = ("F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE")


class Library:
    """A compiled library, loaded; one for the process, whatever the number of models.

    ``api`` is what it was compiled from. With ``content`` that is loaded, which was read from
    ``path``, where the system can load what is no file: nobody can cut it short any more. Raises
    KernelError if it cannot be loaded, OptionError for an instruction set in
    ``WHISPER_NPU_CPU_ISA`` that there is none of that name.
    """

    def __init__(self, path: Path, content: bytes = b"") -> None:
        self.api = read_api(source_folder())
        try:
            self._library = _load(path, content)
            for name, declared in self.api.functions.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = declared.parameters, declared.result
        except (OSError, AttributeError) as error:
            raise KernelError(
                f"{path}: cannot be loaded ({error}); run {COMMAND} --force"
            ) from error
        self.path = path
        #: ``cpu_run`` of api.h.
        self.run: Callable[[int, int, int], int] = self._library.cpu_run
        self.isas = self._text("cpu_isas").split(";")
        self.choose_isa(self._best_isa())

    @property
    def cpu(self) -> str:
        """What the processor calls itself."""
        return self._text("cpu_name")

    @property
    def isa(self) -> str:
        """The instruction set that kernels use."""
        return self._text("cpu_isa")

    def choose_isa(self, name: str) -> None:
        """Use another of ``isas``. Not while a kernel runs."""
        if self._library.cpu_choose_isa(name.encode()) != 0:
            raise KernelError(f"this CPU has no {name}; it has {', '.join(self.isas)}")

    @property
    def threads(self) -> int:
        """Threads of a kernel, the caller's included."""
        return int(self._library.cpu_threads())

    @threads.setter
    def threads(self, count: int) -> None:
        self._library.cpu_set_threads(count)

    def stay_awake(self, longer: bool) -> None:
        """Whether threads wait for the next step of a decoder before they sleep."""
        self._library.cpu_stay_awake(longer)

    def structure(self, name: str) -> type[ctypes.Structure]:
        """A structure of api.h."""
        return self.api.structures[name]

    def function(self, name: str) -> CpuFunction:
        """A kernel."""
        kernel: CpuFunction = getattr(self._library, name)
        return kernel

    def scratch_bytes(self, name: str, *arguments: int | ctypes.Structure) -> int:
        """What one of the functions for sizes of scratch gives; it gets addresses of structures."""
        values = [a if isinstance(a, int) else ctypes.addressof(a) for a in arguments]
        return int(getattr(self._library, name)(*values))

    def _text(self, name: str) -> str:
        return bytes(getattr(self._library, name)()).decode("ascii", "replace")

    def _best_isa(self) -> str:
        order = [isa.name for isa in read_isas(source_folder())]
        cap = os.environ.get(ISA_ENVIRONMENT) or order[-1]
        if cap == NO_ISA:
            # Whoever loads a library all the same builds or looks at one.
            cap = order[-1]
        if cap not in order:
            listed = ", ".join((NO_ISA, *order))
            raise OptionError(f"{ISA_ENVIRONMENT} must be one of {listed}, not {cap!r}")
        return [isa for isa in self.isas if order.index(isa) <= order.index(cap)][-1]


def _load(path: Path, content: bytes) -> ctypes.CDLL:
    """Raises OSError."""
    if content and hasattr(os, "memfd_create"):
        # The administrator may not allow it, or there is no /proc.
        with suppress(ImportError, OSError):
            return ctypes.CDLL(_in_memory(path.name, content))
    return ctypes.CDLL(str(path))


def _in_memory(name: str, content: bytes) -> str:
    """The path of a file in memory that cannot be changed any more. Raises OSError."""
    import fcntl

    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
    seals = sum(int(getattr(fcntl, seal)) for seal in _SEALS)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    # Left open: the loader would take another file of the same path for this one.
    return f"/proc/self/fd/{descriptor}"


# Loaded once: the library's threads and instruction set are those of the process.
_libraries: dict[Path, Library] = {}
# Two threads that ask for the same at once would each get one.
_loading = threading.Lock()


def _begin_anew() -> None:
    """In a child process: threads that held the lock are the parent's."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def load_library(path: Path, content: bytes = b"") -> Library:
    """The library of a file, loaded once. Raises as ``Library`` does."""
    with _loading:
        if path not in _libraries:
            _libraries[path] = Library(path, content)
        return _libraries[path]


def open_library(build: Build) -> Library:
    """Load a library whose file is as it was compiled. Raises KernelError, OptionError."""
    return load_library(build.path, check_library_file(build.path, build.sha256))


def open_first(builds: Iterable[Build]) -> tuple[Build, Library] | None:
    """The first library that may be loaded, with a warning for each before it; None if there are
    none at all. Raises the KernelError of the first if none may."""
    refused: list[KernelError] = []
    for build in builds:
        try:
            library = open_library(build)
        except KernelError as error:
            refused.append(error)
            continue
        for reason in refused:
            warnings.warn(f"{reason}; {build.path} is used instead", stacklevel=2)
        return build, library
    if refused:
        raise refused[0]
    return None


def switched_off() -> str | None:
    """Why no kernel may be used, if that was asked for."""
    if os.environ.get(ISA_ENVIRONMENT) != NO_ISA:
        return None
    return f"CPU kernels are switched off: {ISA_ENVIRONMENT} is {NO_ISA}"


class Scratch:
    """Memory that the calls of one model share. It grows while ops are bound; they point to it."""

    def __init__(self, library: Library) -> None:
        self.threads = library.threads
        # A structure of api.h: its fields have types only there.
        self._args: Any = library.structure("Scratch")(None, 0, self.threads)
        self._memory = np.empty(0, np.uint8)

    @property
    def address(self) -> int:
        """Of the structure that says where the memory is."""
        return ctypes.addressof(self._args)

    def reserve(self, nbytes: int) -> None:
        """Have at least so many bytes for each thread."""
        if nbytes > self._args.bytes:
            self._memory = np.empty(nbytes * self.threads + _ALIGNMENT, np.uint8)
            start = self._memory.ctypes.data
            self._args.data = start + -start % _ALIGNMENT
            self._args.bytes = nbytes

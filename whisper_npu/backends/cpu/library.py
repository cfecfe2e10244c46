"""The library of CPU kernels: its structures, its functions, threads and instruction sets."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import c_char_p, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import numpy as np

from whisper_npu.errors import KernelError, OptionError

# Caps the instruction set, for tests and measurements.
ISA_ENVIRONMENT = "WHISPER_NPU_CPU_ISA"
ISAS = ("scalar", "dotprod", "avx2", "avx512", "avx512_vnni", "amx")

# Takes the address of a structure; 0 if it computed what it was asked for.
Function = Callable[[int], int]

_ALIGNMENT = 64
_SCRATCH_SIZES = {
    "cpu_linear_int8_scratch": [c_int64],
    "cpu_attention_scratch": [c_void_p, c_int64],
    "cpu_over_cache_scratch": [c_void_p],
    "cpu_top_logprobs_scratch": [c_void_p],
}


class ScratchArgs(ctypes.Structure):
    """``Scratch`` of api.h."""

    _fields_ = [("data", c_void_p), ("bytes", c_int64), ("threads", c_int64)]


class QuantizeRows(ctypes.Structure):
    """``QuantizeRows`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("values", c_void_p), ("scale", c_void_p), ("m", c_int64), ("k", c_int64),
    ]  # fmt: skip


class LinearInt8(ctypes.Structure):
    """``LinearInt8`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("x_scale", c_void_p), ("w", c_void_p), ("w_scale", c_void_p),
        ("bias", c_void_p), ("out", c_void_p), ("m", c_int64), ("k", c_int64), ("n", c_int64),
        ("scratch", c_void_p),
    ]  # fmt: skip


class EmbedInt8(ctypes.Structure):
    """``EmbedInt8`` of api.h."""

    _fields_ = [
        ("tokens", c_void_p), ("table", c_void_p), ("scale", c_void_p), ("positions", c_void_p),
        ("position", c_void_p), ("out", c_void_p), ("rows", c_int64), ("n", c_int64),
        ("d", c_int64), ("ctx", c_int64),
    ]  # fmt: skip


class StoreCache(ctypes.Structure):
    """``StoreCache`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("cache", c_void_p), ("position", c_void_p), ("b", c_int64),
        ("n", c_int64), ("t", c_int64), ("n_head", c_int64), ("d_head", c_int64),
        ("stride", c_int64),
    ]  # fmt: skip


class SplitHeads(ctypes.Structure):
    """``SplitHeads`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("out", c_void_p), ("b", c_int64), ("t", c_int64), ("n_head", c_int64),
        ("d_head", c_int64),
    ]  # fmt: skip


class QuantizeHeads(ctypes.Structure):
    """``QuantizeHeads`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("values", c_void_p), ("scale", c_void_p), ("b", c_int64),
        ("t", c_int64), ("n_head", c_int64), ("d_head", c_int64),
    ]  # fmt: skip


class Im2Col(ctypes.Structure):
    """``Im2Col`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("out", c_void_p), ("b", c_int64), ("t", c_int64), ("c", c_int64),
        ("step", c_int64),
    ]  # fmt: skip


class Gelu(ctypes.Structure):
    """``Gelu`` of api.h."""

    _fields_ = [("x", c_void_p), ("out", c_void_p), ("count", c_int64)]


class Add(ctypes.Structure):
    """``Add`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("y", c_void_p), ("out", c_void_p), ("count", c_int64),
        ("period", c_int64),
    ]  # fmt: skip


class LayerNorm(ctypes.Structure):
    """``LayerNorm`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("gain", c_void_p), ("bias", c_void_p), ("out", c_void_p),
        ("m", c_int64), ("d", c_int64),
    ]  # fmt: skip


class Attention(ctypes.Structure):
    """``Attention`` of api.h."""

    _fields_ = [
        ("q", c_void_p), ("k", c_void_p), ("v", c_void_p), ("out", c_void_p), ("b", c_int64),
        ("t", c_int64), ("n_head", c_int64), ("d_head", c_int64), ("scale", c_float),
        ("scratch", c_void_p),
    ]  # fmt: skip


class OverCache(ctypes.Structure):
    """``OverCache`` of api.h."""

    _fields_ = [
        ("q", c_void_p), ("k", c_void_p), ("v", c_void_p), ("k_scale", c_void_p),
        ("v_scale", c_void_p), ("out", c_void_p), ("position", c_void_p), ("b", c_int64),
        ("n", c_int64), ("group", c_int64), ("t", c_int64), ("n_head", c_int64),
        ("d_head", c_int64), ("stride", c_int64), ("scale", c_float), ("scratch", c_void_p),
    ]  # fmt: skip


class TopLogprobs(ctypes.Structure):
    """``TopLogprobs`` of api.h."""

    _fields_ = [
        ("x", c_void_p), ("tokens", c_void_p), ("logprobs", c_void_p), ("m", c_int64),
        ("n", c_int64), ("k", c_int64), ("scratch", c_void_p),
    ]  # fmt: skip


class Call(ctypes.Structure):
    """``Call`` of api.h."""

    _fields_ = [("kernel", c_void_p), ("args", c_void_p)]


class Library:
    """A compiled library, loaded; one for the process, whatever the number of models.

    Raises KernelError if the file cannot be loaded, OptionError for an instruction set in
    ``WHISPER_NPU_CPU_ISA`` that there is none of that name.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
            for name in ("cpu_isas", "cpu_isa", "cpu_name"):
                getattr(self._library, name).restype = c_char_p
            for name, arguments in _SCRATCH_SIZES.items():
                size = getattr(self._library, name)
                size.argtypes, size.restype = arguments, c_int64
            #: ``cpu_run`` of api.h.
            self.run: Callable[[int, int, int], int] = self._library.cpu_run
            self._library.cpu_run.argtypes = [c_void_p, c_int64, c_int64]
            self._library.cpu_run.restype = c_int64
        except (OSError, AttributeError) as error:
            raise KernelError(
                f"{path}: cannot be loaded ({error}); run whisper-npu kernels build --force"
            ) from error
        self.path = path
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
        self._library.cpu_set_threads(c_int32(count))

    def stay_awake(self, longer: bool) -> None:
        """Whether threads wait for the next step of a decoder before they sleep."""
        self._library.cpu_stay_awake(c_int32(longer))

    def function(self, name: str) -> Function:
        """A kernel."""
        function = self._library[name]
        function.argtypes = [c_void_p]
        function.restype = c_int32
        return function

    def has(self, name: str, isa: str) -> bool:
        """Whether there is this kernel for an instruction set."""
        return bool(self._library.cpu_has(name.encode(), isa.encode()))

    def linear_scratch(self, k: int) -> int:
        """Bytes of scratch for each thread of a product over ``k``."""
        return int(self._library.cpu_linear_int8_scratch(k))

    def attention_scratch(self, args: Attention, threads: int) -> int:
        """Bytes of scratch for each of so many threads."""
        return int(self._library.cpu_attention_scratch(ctypes.addressof(args), threads))

    def over_cache_scratch(self, args: OverCache) -> int:
        """Bytes of scratch for each thread."""
        return int(self._library.cpu_over_cache_scratch(ctypes.addressof(args)))

    def top_logprobs_scratch(self, args: TopLogprobs) -> int:
        """Bytes of scratch of all threads together."""
        return int(self._library.cpu_top_logprobs_scratch(ctypes.addressof(args)))

    def _text(self, name: str) -> str:
        return bytes(getattr(self._library, name)()).decode("ascii", "replace")

    def _best_isa(self) -> str:
        cap = os.environ.get(ISA_ENVIRONMENT) or ISAS[-1]
        if cap not in ISAS:
            raise OptionError(f"{ISA_ENVIRONMENT} must be one of {', '.join(ISAS)}, not {cap!r}")
        return [isa for isa in self.isas if ISAS.index(isa) <= ISAS.index(cap)][-1]


class Scratch:
    """Memory that the calls of one model share. It grows while ops are bound; they point to it."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._args = ScratchArgs(None, 0, threads)
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

"""What a command computes on: its model, its threads, and the machine."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Sequence

from whisper_npu.backends.machine_options import MachineOptions
from whisper_npu.cli.options import (
    Option,
    add_kernels,
    add_options,
    as_options,
    count,
    flag,
)
from whisper_npu.hub.folders import BUILT_IN
from whisper_npu.terminal import note

# What the libraries that NumPy may be built with read when they are loaded. OpenBLAS can be told
# later too, but has started its threads by then.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_BUILT_IN_NOTICE = (
    "no --model was given and none was pulled: using the small built-in model, which knows only "
    "synthetic English voices; for real use run: whisper-npu pull tiny"
)

_DEFAULTS = MachineOptions()

MODEL: Option = (
    "model",
    str,
    None,
    f"folder, name of a pulled model, repository in the Hugging Face cache, or {BUILT_IN}; a .pt "
    "or ggml file, a CTranslate2 folder or one with pytorch_model.bin is converted into the cache "
    f"when it is first used; if not given, the model pulled last, else {BUILT_IN}; nothing is ever "
    "downloaded here",
)
THREADS: Option = (
    "threads",
    count,
    0,
    "threads to compute with; 0: one for each physical core",
)
CPU_KERNELS: Option = (
    "cpu_kernels",
    flag,
    _DEFAULTS.cpu_kernels,
    "use the kernels compiled for this CPU; if not given, where they are there",
)
_MACHINE: Sequence[Option] = (
    (
        "device",
        str,
        _DEFAULTS.device,
        "cpu, npu, or auto: the NPU where there is one and it is faster",
    ),
    (
        "precision",
        str,
        _DEFAULTS.precision,
        "of products with weights: float32; int8, which is what the NPU computes; or auto: int8 on "
        "the NPU, and on the CPU for INT8 models where verified kernels make it faster",
    ),
    (
        "allow_fallback",
        flag,
        _DEFAULTS.allow_fallback,
        "let NumPy run what the NPU cannot, instead of an error",
    ),
    (
        "check",
        str,
        _DEFAULTS.check,
        "of the NPU's launches: full, each product is proven by checksums; or sample, only the "
        "check_rate applies",
    ),
    (
        "check_rate",
        float,
        _DEFAULTS.check_rate,
        "share of the NPU's launches that NumPy recomputes and compares",
    ),
    CPU_KERNELS,
)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say what to compute on, but for ``THREADS``."""
    machine = parser.add_argument_group("machine")
    add_options(machine, _MACHINE)
    add_kernels(machine)


def machine_options(args: argparse.Namespace) -> MachineOptions:
    """What ``add_machine`` and ``THREADS`` declared. Raises OptionError."""
    given = {name: getattr(args, name) for name, *_ in _MACHINE}
    with as_options():
        return MachineOptions(**given, kernels=args.kernels, threads=args.threads or None)


def unnamed_model(quiet: bool) -> str:
    """The model pulled last, or else the built-in one; says on stderr which it is."""
    # Imported here, as most models are named.
    from whisper_npu.hub.store import Store

    pulled = Store().latest()
    if pulled is None:
        warnings.warn(_BUILT_IN_NOTICE, stacklevel=1)
        return BUILT_IN
    if not quiet:
        note(f"using {pulled.name} ({pulled.dtype}), the model pulled last; --model names another")
    return str(pulled.path)


def prepare_numpy(threads: int) -> None:
    """Tell the libraries that NumPy is built with how many threads to start; 0: what they like.

    They read it when NumPy is imported, which must not have been before.
    """
    # OpenBLAS's threads wait for work by taking turns with ours, by default for 0.1 s.
    # 2 ** 20 clock ticks, half a millisecond, are enough from one product to the next.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    if threads:
        for name in THREAD_VARIABLES:
            os.environ[name] = str(threads)

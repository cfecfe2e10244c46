"""What the programs under the emulator share that use our device.

Imported with ``*`` by the programs that the tests start, not by the tests. Their first argument is
the path of an xclbin.
"""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.npu.client import Gemm as BareGemm
from tests.npu.client import counters, json, message, np, os, poll, pyxrt
from tests.support.npu.gemm_registry import Gemm, entry, write_registry
from whisper_npu.backends.npu.device import DeviceError
from whisper_npu.backends.npu.registry import Registry
from whisper_npu.backends.npu.xrt import XrtDevice, open_device

__all__ = [
    "SHAPE",
    "BareGemm",
    "DeviceError",
    "Gemm",
    "Path",
    "caught",
    "counters",
    "gc",
    "gemms",
    "json",
    "message",
    "np",
    "open_device",
    "os",
    "poll",
    "pyxrt",
    "registry",
    "say",
    "sys",
    "time",
]

SHAPE = (64, 64, 64)
_folder = tempfile.TemporaryDirectory()


def registry(*paths: str) -> Registry:
    """Kernels gemm_0, gemm_1, ... in the xclbins of these paths."""
    entries = []
    for i, path in enumerate(paths):
        copy = Path(shutil.copy(path, Path(_folder.name, f"{i}.xclbin")))
        entries.append(entry(f"gemm_{i}", copy))
    return write_registry(Path(_folder.name), *entries)


def gemms(n: int = 1, **options: Any) -> tuple[XrtDevice, list[Gemm]]:
    """The device, and products on n kernels of the xclbin of the first argument."""
    device = open_device(**options)
    entries = registry(*[sys.argv[1]] * n)
    return device, [Gemm(device.open(e), SHAPE, seed) for seed, e in enumerate(entries)]


def caught(call: Any) -> list[str]:
    """Type and message of the error that the call raises; of none, an empty list.

    The exception and its traceback are gone afterwards.
    """
    try:
        call()
    except BaseException as error:
        return [type(error).__name__, str(error)]
    return []


def say(*values: Any) -> None:
    """Print as JSON."""
    print(json.dumps(values), flush=True)

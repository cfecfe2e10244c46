"""The AMX variant on emulated tile registers: for a CPU that has AVX-512 VNNI but no AMX."""

from __future__ import annotations

import ctypes
import subprocess
from ctypes import addressof, c_long
from pathlib import Path

import numpy as np
import pytest

from tests.support.cpu_library import require_compiler
from whisper_npu.backends.cpu.api import read_api
from whisper_npu.backends.cpu.build import find_compiler, source_folder
from whisper_npu.backends.cpu.isas import read_isas
from whisper_npu.backends.cpu.verify_library import Guarded
from whisper_npu.ops.product_int8 import product_int8
from whisper_npu.ops.rows import limit

SOURCE = Path(__file__).parent / "emulated_amx.cc"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    require_compiler()
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "avx512_vnni" not in cpuinfo.read_text():
        pytest.skip("this CPU has no AVX-512 VNNI, which the AMX variant uses too")
    target = tmp_path_factory.mktemp("amx") / "emulated.so"
    # Without the options for AMX itself: the compiler has no tile instruction to emit.
    flags = {isa.name: isa.options for isa in read_isas(source_folder())}["avx512_vnni"]
    subprocess.run(
        [*find_compiler(), "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off",
         *flags, f"-I{source_folder()}", str(SOURCE), "-o", str(target)],
        check=True,
    )  # fmt: skip
    loaded = ctypes.CDLL(str(target))
    loaded.amx_scratch.restype, loaded.amx_scratch.argtypes = c_long, [ctypes.c_void_p]
    loaded.amx_product.restype = None
    loaded.amx_product.argtypes = [ctypes.c_void_p, *[c_long] * 4]
    return loaded


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(32, 64, 64), (33, 240, 70), (13, 65, 1), (64, 128, 129), (31, 63, 33), (40, 1536, 66)],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_products_are_exact(library: ctypes.CDLL, m: int, k: int, n: int, bits: int) -> None:
    rng = np.random.default_rng(m * k)
    most = limit(bits, k)
    x = rng.integers(-most, most, (m, k), f"int{bits}", endpoint=True)
    w = rng.integers(-127, 127, (n, k), np.int8, endpoint=True)
    # Often the largest numbers, so that sums are.
    x[rng.random((m, k)) < 0.1], w[rng.random((n, k)) < 0.1] = -most, -127
    scales = [np.ldexp(np.float32(1), rng.integers(-12, -6, rows)) for rows in (m, n)]
    bias = rng.integers(-(2**20), 2**20, n, np.int32)
    expected = product_int8(x, scales[0], w.astype(np.float32), scales[1], bias)
    out = Guarded(np.full((m, n), -1, np.int32))
    inputs = [Guarded(array) for array in (x, scales[0], w, scales[1], bias)]
    structures = read_api(source_folder()).structures
    arrays = [array.array.ctypes.data for array in (*inputs, out)]
    args = structures["ProductInt8"](*arrays, bits, m, k, n, None)
    room = Guarded(np.empty(library.amx_scratch(addressof(args)), np.uint8))
    scratch = structures["Scratch"](room.array.ctypes.data, room.array.size, 1)
    args.scratch = addressof(scratch)
    # In parts, as threads have them.
    half = m // 2
    for first in range(0, n, 64):
        for rows in ((0, half), (half, m)):
            library.amx_product(addressof(args), first, min(first + 64, n), *rows)
    assert np.array_equal(out.array, expected)
    assert all(guarded.is_intact() for guarded in (out, room, *inputs))

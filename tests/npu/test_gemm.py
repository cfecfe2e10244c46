"""The INT8 GEMM through pyxrt: right to the last bit, and wrong where a sync is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.npu.emulator import Emulator

pytestmark = pytest.mark.npu


def test_products_equal_numpy(emulator: Emulator, xclbin: Path) -> None:
    """One tile; several in each direction; more jobs than are under way at once."""
    code = """
shapes = [(64, 64, 64), (64, 192, 64), (192, 128, 256), (384, 64, 128)]
print(json.dumps([Gemm(sys.argv[1], shape).whole() for shape in shapes]))
"""
    assert emulator.value(code, xclbin) == [True] * 4


def test_a_strip_of_more_than_256_tiles(emulator: Emulator, xclbin_16: Path) -> None:
    code = "print(Gemm(sys.argv[1], (32, 64, 64 * 300), (16, 64, 64)).whole())"
    assert emulator.output(code, xclbin_16) == "True"


def test_small_tile(emulator: Emulator, xclbin_16: Path) -> None:
    code = "print(Gemm(sys.argv[1], (48, 128, 192), (16, 64, 64)).whole())"
    assert emulator.output(code, xclbin_16) == "True"


SYNCS = """
g = Gemm(sys.argv[1])
if sys.argv[2] != "no input":
    g.sync_in()
assert g.launch() == 4
if sys.argv[2] != "no output":
    g.sync_out()
print(g.right())
"""


@pytest.mark.parametrize("missing", ["no input", "no output"])
def test_strict_sync_shows_a_missing_sync(emulator: Emulator, xclbin: Path, missing: str) -> None:
    assert emulator.output(SYNCS, xclbin, missing) == "False"
    assert emulator.output(SYNCS, xclbin, "none") == "True"


@pytest.mark.parametrize("missing", ["no input", "no output"])
def test_coherent_memory_hides_it(emulator: Emulator, xclbin: Path, missing: str) -> None:
    assert emulator.output(SYNCS, xclbin, missing, strict=0) == "True"


def test_partial_sync(emulator: Emulator, xclbin: Path) -> None:
    """Half of A reaches the device: that half of C is right, the other is not."""
    code = """
g = Gemm(sys.argv[1])
g.sync_in()
g.launch()
g.buffers[0].write(np.ascontiguousarray(np.roll(g.a, 1)).reshape(-1), 0)
g.buffers[0].sync(TO_DEVICE, 2048, 0)
g.launch()
g.sync_out()
c, want = g.result(), np.roll(g.a, 1).astype(int) @ g.b.astype(int)
print(json.dumps([bool((c[:32] == want[:32]).all()), bool((c[32:] == g.expected[32:]).all())]))
"""
    assert emulator.value(code, xclbin) == [True, True]


def test_runlist(emulator: Emulator, xclbin: Path) -> None:
    """60 runs are three chained commands."""
    code = """
g = Gemm(sys.argv[1])
g.sync_in()
runs = pyxrt.runlist(g.context)
outputs = []
for _ in range(60):
    g.buffers[2] = pyxrt.bo(g.device, g.size, pyxrt.bo.host_only, g.kernel.group_id(5))
    g.run = pyxrt.run(g.kernel)
    g.set_arguments()
    runs.add(g.run)
    outputs.append(g.buffers[2])
runs.execute()
runs.wait()
right = 0
for g.buffers[2] in outputs:
    g.sync_out()
    right += g.right()
print(json.dumps([right, counters()["launches"], counters()["completed"]]))
"""
    assert emulator.value(code, xclbin) == [60, 60, 3]


def test_sub_buffers(emulator: Emulator, xclbin: Path) -> None:
    """A and B in one buffer: the address of an argument may lie inside it."""
    code = """
g = Gemm(sys.argv[1])
both = pyxrt.bo(g.device, 8192, pyxrt.bo.host_only, g.kernel.group_id(3))
for i in range(2):
    both.write(np.frombuffer(g.buffers[i].map(), np.int8), 4096 * i)
both.sync(TO_DEVICE, 8192, 0)
g.buffers[:2] = [pyxrt.bo(both, 4096, 0), pyxrt.bo(both, 4096, 4096)]
g.set_arguments()
assert g.launch() == 4
g.sync_out()
print(g.right())
"""
    assert emulator.output(code, xclbin) == "True"

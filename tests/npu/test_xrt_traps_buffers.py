"""Traps of buffers and their memory.

Each test shows that a trap is there, and that our device stays out of it. The numbers are those
of docs/xrt-traps.md.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.npu.emulator import Emulator
from tests.npu.xrt_programs import run, values

pytestmark = pytest.mark.npu


def test_09_buffer_too_many(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
a, b, c = g.buffers
say([caught(lambda x=x: g.kernel.launch(g.program, x)) for x in ([a, b], [a, b, c, c], [a] * 9)])
"""
    (errors,) = values(emulator, code, xclbin)
    assert [kind for kind, _ in errors] == ["LaunchFailed"] * 3
    assert [text.split("takes ")[1] for _, text in errors] == [
        f"3 data buffers, not {n}" for n in (2, 4, 9)
    ]
    code = "g = BareGemm(sys.argv[1])\ng.run.set_arg(8, g.buffers[0])"
    # XRT writes behind its table: mostly that ends the process, at times it raises something.
    assert run(emulator, code, xclbin).returncode in (-signal.SIGSEGV, -signal.SIGABRT, 1)


def test_10_array_outlives_its_buffer(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
view = g.kernel.buffer(3, 1 << 20).array.view(np.int32).reshape(512, -1)[7:9, ::2].T
view[...] = np.arange(view.size).reshape(view.shape)
g.kernel.close()
device.close()
del device, g
gc.collect()
live = counters()["host_only_bos"]
right = bool((view == np.arange(view.size).reshape(view.shape)).all())
del view
gc.collect()
c = counters()
say(live, right, [c["host_only_bos"], c["cacheable_bos"], c["contexts"], c["heaps"]])
"""
    assert values(emulator, code, xclbin) == [1, True, [0, 0, 0, 0]]


def test_11_data_that_is_not_contiguous(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
g.x = np.asfortranarray(g.x)
g.buffers[0].array.view(np.int8).reshape(64, 64)[...] = g.x
g.buffers[0].to_device()
g.check()
bo = g.buffers[0].memory.bo
bo.write(g.x.T[::2], 0)
say(bool((g.buffers[0].array.view(np.int8).reshape(64, 64)[:32] == g.x.T[::2]).all()))
"""
    assert values(emulator, code, xclbin) == [False]


def test_12_forgotten_sync(emulator: Emulator, xclbin: Path) -> None:
    """Strict mode shows it; what we sync is the whole buffer."""
    code = """
device, [g] = gemms()
g.check()
a = g.buffers[0].array
old = g.expected
a[-1] ^= 1
g.x[-1, -1] ^= 1
g.launch()
forgotten = bool((g.result == old).all())
g.buffers[0].to_device()
g.check()
say(forgotten)
"""
    assert values(emulator, code, xclbin) == [True]


def test_13_wrong_memory_group(emulator: Emulator, xclbin: Path) -> None:
    code = """
device, [g] = gemms()
wrong = [caught(lambda i=i: g.kernel.buffer(i, 64)) for i in (0, 1, 2, 6, -1)]
bare = BareGemm(sys.argv[1])
say(wrong, message(lambda: bare.run.set_arg(1, bare.buffers[0])))
"""
    wrong, bare = values(emulator, code, xclbin)
    assert [kind for kind, _ in wrong] == ["BufferRefused"] * 5
    assert "No host side buffer in destination buffer" in bare


def test_16_buffers_outlive_contexts(emulator: Emulator, xclbin: Path) -> None:
    """A kernel opened again takes the buffers of its predecessor; what is bound is not freed."""
    code = """
device, [g, h] = gemms(2)
g.check()
g.kernel.close()
closed = caught(g.launch)
g.kernel = h.kernel
g.program = h.program
g.check()
live = counters()["host_only_bos"]
device.pool.close()
del g
gc.collect()
kept = counters()["host_only_bos"]
h.check()
say(closed, live, kept, counters()["host_only_bos"])
"""
    closed, live, kept, after = values(emulator, code, xclbin)
    assert closed[0] == "DeviceError"
    assert "is closed" in closed[1]
    assert (live, kept, after) == (6, 6, 3)


def test_21_heap_is_full(emulator: Emulator, xclbin: Path) -> None:
    """128 KiB of it are the context's, as much is its configuration's and our instructions'."""
    code = """
device, [g] = gemms()
programs = []
def fill():
    while True:
        programs.append(g.kernel.program((64, 64, 64 * (len(programs) + 2))))
error = caught(fill)
n = len(programs)
g.check()
programs.clear()
again = caught(fill)
say(error, n, again[0], len(programs))
"""
    for errno_name in ("EAGAIN", "ENOMEM"):
        error, n, again, n_again = values(
            emulator, code, xclbin, heap_kib=512, heap_errno=errno_name
        )
        assert error[0] == again == "BufferRefused"
        assert "argument 1 (instr)" in error[1]
        assert n_again == n > 1

"""Instruction streams that hardware could not carry out are refused, each with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.npu.emulator import Emulator

pytestmark = pytest.mark.npu

# Runs changed streams of one GEMM in one process: state, then whether a good launch still works.
CODE = """
import struct
shape = (128, 128, 192)
good = gemm_int8_stream(*shape, (64, 64, 64))
g = Gemm(sys.argv[1], shape)
assert g.whole()

def operations(stream):
    at, out = 16, []
    while at < len(stream):
        size = {0: 20, 1: 12, 3: 24}.get(stream[at], 4)
        n = struct.unpack_from("<I", stream, at + size)[0]
        out.append(stream[at:at + n])
        at += n
    return out

def stream_of(ops):
    body = b"".join(ops)
    return good[:8] + struct.pack("<II", len(ops), 16 + len(body)) + body

def with_word(stream, at, value):
    return stream[:at] + struct.pack("<I", value) + stream[at + 4:]

def launch(stream, n_bytes=None):
    g.instructions = g.instruction_bo(stream)
    g.n_bytes = n_bytes or g.n_bytes
    g.set_arguments()
    return g.launch()

ops = operations(good)
assert stream_of(ops) == good
kinds = [op[0] for op in ops]
syncs = [i for i, kind in enumerate(kinds) if kind == 0x80]
pushes = [i for i, op in enumerate(ops) if op[0] == 0 and op[9] == 0xD2]
bds = [i for i, kind in enumerate(kinds) if kind == 1]
patches = [i for i, kind in enumerate(kinds) if kind == 0x81]

def edited(i, at, value):
    return stream_of([*ops[:i], with_word(ops[i], at, value), *ops[i + 1:]])

def without(i):
    return stream_of([op for j, op in enumerate(ops) if j != i])
"""

CASES = {
    "good": ("launch(good)", 4, ""),
    "words": ("launch(good, len(good) // 4)", 4, ""),
    "length": ("launch(good, len(good) - 4)", 5, "instructions: ninstr"),
    "cut": ("launch(good[:-4], len(good))", 5, "instructions: ninstr"),
    "version": ("launch(with_word(good, 0, 0x06030001))", 5, "transaction version 1.0"),
    "generation": ("launch(with_word(good, 0, 0x06040100))", 5, "is not of this device"),
    "count": ("launch(with_word(good, 8, len(ops) + 1))", 5, "the header says"),
    "operation": ("launch(edited(0, 0, 2))", 5, "operation 0 at byte 16 (code 0x2)"),
    "size": ("launch(edited(0, 20, 28))", 5, "of a wrong size"),
    "column": ("launch(edited(0, 8, 0x0220FFE0))", 5, "column 1, but the partition has 1"),
    "row": ("launch(edited(0, 8, 0x0030FFE0))", 5, "no register of the design"),
    "core": ("launch(edited(0, 8, 0x0020FFD0))", 5, "no parameter there"),
    "register": ("launch(edited(2, 8, 0x1D300))", 5, "no register of the shim tile"),
    "bounds": ("launch(edited(patches[4], 40, 64 * 128 + 4))", 5, "of argument 0, which has 16384"),
    "stride": ("launch(edited(bds[1], 16 + 16, 0x84000000 | 128))", 5, "of argument 0"),
    "argument": ("launch(edited(patches[0], 32, 3))", 5, "argument 3, which is no buffer"),
    "unpatched": ("launch(without(patches[0]))", 5, "has no buffer address"),
    "invalid": ("launch(edited(bds[0], 16 + 28, 0))", 5, "is not valid"),
    "locks": ("launch(edited(bds[0], 16 + 28, 0x02001000))", 5, "uses packets or locks"),
    "token": ("launch(edited(2, 16, 0))", 5, "go to packet id 0"),
    "unwaited": ("launch(without(syncs[-1]))", 5, "the stream ends while S2MM 0"),
    "reuse": (
        "launch(stream_of([*ops[:syncs[0]], *ops[bds[0]:]]))",
        5,
        "written while its task may be unfinished",
    ),
    "queue": (
        "launch(stream_of([*ops[:pushes[1]], *[ops[pushes[1]]] * 5, *ops[pushes[1] + 1:]]))",
        5,
        "queue of MM2S 0 is full",
    ),
    "left": ("launch(edited(pushes[1], 16, 3 << 16 | 1))", 5, "the stream ends while MM2S 0"),
    "starved": ("launch(without(pushes[2]))", 8, "the core waits for a tile of B"),
    "tiles": ("launch(edited(1, 16, 4))", 5, "output tile 2 of 4"),
    "K tiles": ("launch(edited(0, 16, 3))", 8, "the core waits for"),
    "no tiles": ("launch(edited(1, 16, 0))", 5, "core parameters: 2 K tiles, 0 output tiles"),
    "nothing": ("launch(stream_of(ops[:3] + [ops[syncs[0]]]))", 8, "no task with a token"),
}


@pytest.fixture(scope="module")
def outcome(
    _emulator_is_there: None, tmp_path_factory: pytest.TempPathFactory, xclbin: Path
) -> dict[str, tuple[int, bool, str]]:
    """Case -> state, is a good launch right after it, what the emulator said."""
    code = CODE
    for name, (call, _, _) in CASES.items():
        code += f"""
print({name!r}, file=sys.stderr, flush=True)
state = {call}
print("=", state, launch(good) == 4 and not g.sync_out() and g.right(), file=sys.stderr, flush=True)
"""
    done = Emulator(tmp_path_factory.mktemp("streams")).run(code, xclbin)
    assert done.returncode == 0, done.stderr
    result = {}
    for name in CASES:
        _, _, rest = f"\n{done.stderr}".partition(f"\n{name}\n")
        said, _, end = rest.partition("= ")
        state, right = end.split("\n")[0].split()
        result[name] = (int(state), right == "True", said)
    return result


@pytest.mark.parametrize("name", CASES)
def test_stream(outcome: dict[str, tuple[int, bool, str]], name: str) -> None:
    _, state, words = CASES[name]
    got, right_after, said = outcome[name]
    assert (got, right_after) == (state, True), said
    assert words in said
    assert bool(said) == bool(words)


def test_buffer_too_short(emulator: Emulator, xclbin: Path) -> None:
    """B shorter than the stream reads."""
    code = """
g = Gemm(sys.argv[1])
g.sync_in()
g.buffers[1] = pyxrt.bo(g.device, 2048, pyxrt.bo.host_only, g.kernel.group_id(4))
g.set_arguments()
print(g.launch())
"""
    done = emulator.run(code, xclbin)
    assert done.stdout == "5\n"
    assert "of argument 1, which has 2048" in done.stderr


def test_unknown_pdi(emulator: Emulator, xclbin: Path) -> None:
    other = emulator.folder / "other.xclbin"
    other.write_bytes(xclbin.read_bytes().replace(b"WNPUEMU1gemm_int8", b"WNPUEMU1gemm_int9"))
    done = emulator.run("print(Gemm(sys.argv[1]).launch())", other)
    assert done.stdout == "5\n"
    assert "PDI of 68 bytes: no emulation kernel" in done.stderr

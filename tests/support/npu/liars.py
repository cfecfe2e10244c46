"""GEMM kernels that lie: each of them was believed, or might be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whisper_npu.backends.npu.device import Buffer, Program
from whisper_npu.backends.npu.packing import GemmTile, unpack_gemm_weights
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.software import SoftwareBuffer, SoftwareDevice, SoftwareKernel
from whisper_npu.ops.arrays import I8, I32
from whisper_npu.ops.product_int8 import integer_sums


@dataclass(frozen=True)
class Product:
    """A launch: its number, which buffers it has, rows and weights, and the right sums of them,
    which a lie changes in place."""

    count: int
    buffers: tuple[int, int]
    tile: GemmTile
    a: I8  # [m, k]
    b: I8  # [n, k]
    c: I32  # [m, n]

    def computed(self, a: I8, b: I8) -> None:
        """The sums of others."""
        self.c[:] = integer_sums(a, b.astype(np.float32)).astype(np.int32)


Lie = Callable[[Product], None]


class Liar(SoftwareDevice):
    """Tells a lie in each launch; ``told`` are the numbers of those whose sums it changed.

    Tiles are zero beyond the op's own rows and columns, ``own``, where nobody looks.
    """

    def __init__(self, lie: Lie, own: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.lie, self.own, self.told = lie, own, list[int]()

    def open(self, entry: KernelEntry) -> SoftwareKernel:
        """See ``SoftwareDevice``."""
        self.act("open", entry.contract.name)
        return _LyingKernel(self, entry)


class _LyingKernel(SoftwareKernel):
    def __init__(self, liar: Liar, entry: KernelEntry) -> None:
        super().__init__(liar, entry)
        self._liar, self._tile = liar, GemmTile(**entry.contract.tile)

    def launch(self, program: Program, buffers: Sequence[Buffer]) -> None:
        super().launch(program, buffers)
        m, k, n = program.shape  # type: ignore[attr-defined]
        a, b, c = (buffer.device for buffer in buffers if isinstance(buffer, SoftwareBuffer))
        packed = b.view(np.int8).reshape(n // self._tile.n, k // self._tile.k, -1)
        product = Product(
            self._liar.traffic.launches - 1,
            (id(buffers[0]), id(buffers[1])),
            self._tile,
            a.view(np.int8).reshape(m, k),
            unpack_gemm_weights(packed, n, k, self._tile),
            c.view(np.int32).reshape(m, n),
        )
        right = product.c.copy()
        self._liar.lie(product)
        rows, columns = self._liar.own or (m, n)
        if not np.array_equal(product.c[:rows, :columns], right[:rows, :columns]):
            self._liar.told.append(product.count)


@dataclass
class ReadsRowsOnce:
    """Reads A only the first time that it sees a buffer."""

    seen: dict[int, I8] = field(default_factory=dict)

    def __call__(self, product: Product) -> None:
        product.computed(self.seen.setdefault(product.buffers[0], product.a.copy()), product.b)


@dataclass
class KnowsWeightsByTheirStart:
    """Uses B again if its first 64 bytes are those of the last one."""

    last: I8 | None = None

    def __call__(self, product: Product) -> None:
        start = product.b[:8, :8]
        same = self.last is not None and np.array_equal(self.last[:8, :8], start)
        if not (same and self.last is not None and self.last.shape == product.b.shape):
            self.last = product.b
        product.computed(product.a, self.last)


@dataclass
class ReturnsTheLastResult:
    """Of each shape."""

    last: dict[tuple[int, ...], I32] = field(default_factory=dict)

    def __call__(self, product: Product) -> None:
        right = product.c.copy()
        product.c[:] = self.last.get(product.c.shape, right)
        self.last[product.c.shape] = right


@dataclass
class Sometimes:
    """In some launches, as a seed says."""

    share: float
    lie: Lie
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __call__(self, product: Product) -> None:
        if self.rng.random() < self.share:
            self.lie(product)


@dataclass(frozen=True)
class From:
    """From a launch on."""

    first: int
    lie: Lie

    def __call__(self, product: Product) -> None:
        if product.count >= self.first:
            self.lie(product)


def off_by_one(product: Product) -> None:
    """In one place."""
    product.c[0, 0] += 1


def saturates(bits: int) -> Lie:
    """At 2**bits."""

    def lie(product: Product) -> None:
        np.clip(product.c, -(2**bits), 2**bits - 1, out=product.c)

    return lie


def wraps_below(bits: int) -> Lie:
    """The negative side, at -2**bits."""

    def lie(product: Product) -> None:
        low = product.c < -(2**bits)
        product.c[low] += np.int32(2 ** (bits + 1))

    return lie


def rounds_to_float32(product: Product) -> None:
    """Sums that float32 does not hold."""
    product.c[:] = product.c.astype(np.float32).astype(np.int64).clip(-(2**31), 2**31 - 1)


def without_minus_128(product: Product) -> None:
    """Takes -128 for -127."""
    product.computed(product.a, np.maximum(product.b, -127))


def last_row(first: int) -> Lie:
    """The last row of launches that have so many."""

    def lie(product: Product) -> None:
        if len(product.c) >= first:
            product.c[-1] += 1

    return lie


def beyond_the_third_strip(product: Product) -> None:
    """Rows beyond the third tile."""
    product.c[3 * product.tile.m :] = 0


def zeros_beyond(tiles: int) -> Lie:
    """Of a strip."""

    def lie(product: Product) -> None:
        product.c[:, tiles * product.tile.n :] = 0

    return lie


def only_for_k(*right: int) -> Lie:
    """Right for these lengths of sums alone."""

    def lie(product: Product) -> None:
        if product.a.shape[1] not in right:
            product.computed(product.a[:, 1:], product.b[:, 1:])

    return lie


# The lies that were tried on the first verification, with those that it caught. Made anew for each
# device, as some remember.
LIES: dict[str, Callable[[], Lie]] = {
    "reads rows once": ReadsRowsOnce,
    "knows weights by their start": KnowsWeightsByTheirStart,
    "returns the last result": ReturnsTheLastResult,
    "saturates at 2^25": lambda: saturates(25),
    "saturates at 2^23": lambda: saturates(23),
    "wraps below -2^23": lambda: wraps_below(23),
    "rounds to float32": lambda: rounds_to_float32,
    "takes -128 for -127": lambda: without_minus_128,
    "last row from 384 rows on": lambda: last_row(384),
    "last row": lambda: last_row(1),
    "rows beyond the third strip": lambda: beyond_the_third_strip,
    "zeros beyond 256 tiles": lambda: zeros_beyond(256),
    "right for some k": lambda: only_for_k(64, 128, 192, 5120),
    "from the 11th launch on": lambda: From(10, off_by_one),
    "from the 41st launch on": lambda: From(40, off_by_one),
    "in 1 % of the launches": lambda: Sometimes(0.01, off_by_one),
    "in 5 % of the launches": lambda: Sometimes(0.05, off_by_one),
}


def drawn(seed: int, shape: tuple[int, int]) -> tuple[str, Lie]:
    """A lie drawn by seed: which rows and columns, from when on or how often, and what error; and
    its description."""
    rng = np.random.default_rng(seed)
    rows = _some(rng, shape[0])
    columns = _some(rng, shape[1])
    kind, change = _error(rng)

    def wrong(product: Product) -> None:
        part = np.ix_(rows, columns)
        product.c[part] = change(product.c[part])

    when = rng.choice(["always", "from", "sometimes"])
    lie: Lie = wrong
    if when == "from":
        lie = From(int(rng.integers(1, 30)), wrong)
    elif when == "sometimes":
        lie = Sometimes(float(rng.choice([0.05, 0.3])), wrong, rng)
    return f"{kind}, {len(rows)} x {len(columns)}, {when}", lie


def _some(rng: np.random.Generator, size: int) -> Any:
    """One, a run, a stride or all of so many."""
    kind = rng.integers(4)
    first = int(rng.integers(size))
    if kind == 0:
        return np.array([first])
    if kind == 1:
        return np.arange(first, int(rng.integers(first, size)) + 1)
    if kind == 2:
        return np.arange(first, size, int(rng.integers(1, 9)))
    return np.arange(size)


def _error(rng: np.random.Generator) -> tuple[str, Callable[[I32], I32]]:
    bit = int(rng.integers(32))
    mask = np.array(1 << bit, np.uint32).view(np.int32)
    step = np.int32(rng.integers(-(2**16), 2**16))

    def balanced(c: I32) -> I32:
        """The sum of a row stays."""
        wrong = c.copy()
        wrong[:, : c.shape[1] // 2] += step
        wrong[:, c.shape[1] - c.shape[1] // 2 :] -= step
        return wrong

    errors: dict[str, Callable[[I32], I32]] = {
        "zeros": lambda c: c * 0,
        "added": lambda c: c + step,
        "balanced": balanced,
        f"bit {bit} flipped": lambda c: c ^ mask,
        f"bit {bit} stuck": lambda c: c | mask,
        "negated": lambda c: -c,
        "rows turned": lambda c: np.roll(c, 1, axis=0),
        "columns turned": lambda c: np.roll(c, 1, axis=1),
        "columns reversed": lambda c: c[:, ::-1],
        "halved": lambda c: c >> 1,
        "low bytes": lambda c: c & 0xFFFF,
        "noise": lambda c: rng.integers(-(2**20), 2**20, c.shape).astype(np.int32),
    }
    kind = str(rng.choice(list(errors)))
    return kind, errors[kind]

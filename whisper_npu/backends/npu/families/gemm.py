"""Quantised products on a GEMM kernel: resident weights in tiles, padding to whole tiles.

A kernel takes int8 rows. Of int16 rows it gets the high and the low halves as rows of one launch,
and the host adds up what they give; ``ops.rows.limit`` is such that both halves are int8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from whisper_npu.backends.npu.adversarial import CHANGED, INTEGERS, changed_little
from whisper_npu.backends.npu.device import U8
from whisper_npu.backends.npu.families.family import (
    Family,
    SoftwareMemory,
    Take,
    Task,
    Timed,
    Work,
)
from whisper_npu.backends.npu.families.gemm_stream import (
    ARGUMENT_A,
    ARGUMENT_B,
    ARGUMENT_C,
    gemm_int8_moved,
    gemm_int8_sizes,
    gemm_int8_stream,
)
from whisper_npu.backends.npu.kernel_rates import SHORT_ROW, KernelRates
from whisper_npu.backends.npu.launch_case import LaunchCase
from whisper_npu.backends.npu.packing import (
    GemmTile,
    pack_gemm_weights,
    unpack_gemm_weights,
)
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.errors import KernelError
from whisper_npu.model.graph import Graph, Op
from whisper_npu.ops.arrays import F32, I8, I32, I64
from whisper_npu.ops.checksums import sums_of_product, sums_of_rows, sums_of_weight
from whisper_npu.ops.fixed import F64
from whisper_npu.ops.product_int8 import integer_sums, scale_sums
from whisper_npu.ops.rows import Integers
from whisper_npu.runtime.backend import Array, Bound, Form, Step

# Of a verification: one tile; several in every direction; the longest sums of any Whisper.
_VERIFIED_TILES = ((1, 1, 1), (2, 3, 2), (1, 80, 1), (3, 2, 5))
# Where loops over tiles may end too early: rows beyond the third strip and beyond 384 of any tile,
# columns beyond 256, sums of any length.
_LIMITS = (
    (1, 1, 1), (4, 1, 1), (7, 1, 1), (25, 1, 1), (1, 1, 257), (1, 5, 2), (2, 6, 3), (1, 80, 1)
)  # fmt: skip
# Products of tiny: a window's, a prompt's and a token's.
_WHISPER = ((1500, 384, 384), (448, 384, 1536), (2, 1536, 384))
# Multiplications of those that come most of the time.
_LIGHT = 1 << 22
# Tiles in each direction of a launch that is all overhead, and of one that is mostly work.
_TIMED_TILES = (1, 6)
# And of the stream that stands for all: more jobs than are under way at once.
_SAMPLE_TILES = 3
# Values of a weight that NumPy packs or unpacks at a time: 4 MiB as float32.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class GemmShape:
    """A product [m, k] x [k, n] of int8 and what it becomes in whole tiles."""

    m: int
    k: int
    n: int
    padded: tuple[int, int, int]

    @property
    def bytes_in(self) -> int:
        """Bytes of activations that a launch takes."""
        return gemm_int8_sizes(*self.padded)[ARGUMENT_A]

    @property
    def bytes_out(self) -> int:
        """Bytes of sums that a launch gives."""
        return gemm_int8_sizes(*self.padded)[ARGUMENT_C]

    @property
    def resident_bytes(self) -> int:
        """Bytes of the packed weights."""
        return gemm_int8_sizes(*self.padded)[ARGUMENT_B]


def gemm_shape(tile: GemmTile, m: int, k: int, n: int) -> GemmShape:
    """The shape padded to whole tiles."""
    padded = tuple(-(-size // step) * step for size, step in zip((m, k, n), tile, strict=True))
    return GemmShape(m, k, n, (padded[0], padded[1], padded[2]))


def gemm_seconds(shape: GemmShape, tile: GemmTile, rates: KernelRates) -> float:
    """Time of a product on a GEMM kernel, the copies of its rows and sums included."""
    computing = max(gemm_bounds(shape, tile, rates).values())
    copying = (shape.bytes_in + shape.bytes_out) / rates.copy_bytes_per_second
    return rates.launch_seconds + computing + copying


def gemm_bounds(shape: GemmShape, tile: GemmTile, rates: KernelRates) -> dict[str, float]:
    """Seconds that each part of the device needs for a product, by the name of the part. They work
    side by side, so that the longest binds."""
    m, k, n = shape.padded
    moved = gemm_int8_moved(m, k, n, tile)
    channel = rates.channel_bytes_per_second
    # Tiles of A are read in rows of tile.k bytes; those of B are contiguous.
    rows = rates.short_rows_bytes_per_second if tile.k <= SHORT_ROW else math.inf
    return {
        "core": 2 * m * k * n / rates.rate,
        "A": moved[ARGUMENT_A] / min(channel, rows),
        "B": moved[ARGUMENT_B] / channel,
        "C": moved[ARGUMENT_C] / channel,
        "memory": sum(moved.values()) / rates.dma_bytes_per_second,
    }


def product_shape(graph: Graph, op: Op) -> tuple[int, int, int]:
    """(m, k, n) of a ``product_int8`` op as it is launched: an int16 row is two of int8."""
    x, w = graph[op.inputs[0]], graph[op.inputs[2]]
    k = x.shape[-1]
    return x.nbytes // k, k, w.shape[0]


class _Product:
    """A product of a verification: rows that are written over the last ones, and two weights that
    begin with the same bytes."""

    WAYS = ("random", "extreme", "one sign", CHANGED)

    def __init__(
        self, rng: np.random.Generator, tile: GemmTile, shape: tuple[int, int, int]
    ) -> None:
        self._rng, self.shape = rng, shape
        self.multiplications = math.prod(shape)
        m, k, n = shape
        one, other = (INTEGERS[way](rng, "int8", (n, k)) for way in ("random", "one sign"))
        # One block of the matrix unit, 64 bytes.
        other[:8, :8] = one[:8, :8]
        self._weights = [w.astype(np.float32) for w in (one, other)]
        self._packed = [pack_gemm_weights(w, tile) for w in (one, other)]
        self._rows = INTEGERS["random"](rng, "int8", (m, k))

    def case(self, way: str, weight: int) -> LaunchCase:
        """The next launch, with one of the weights."""
        if way == CHANGED:
            self._rows = changed_little(self._rng, self._rows)
        else:
            self._rows = INTEGERS[way](self._rng, "int8", self._rows.shape)
        sums = integer_sums(self._rows, self._weights[weight]).astype(np.int32)
        name = " ".join(map(str, self.shape))
        kept = (name, f"{name}, weight {weight}", name)
        inputs = (self._rows, self._packed[weight])
        return LaunchCase(way, self.shape, inputs, (sums,), kept=kept)


@dataclass(frozen=True)
class TilePacking:
    """Weights as the tiles of ``packing.pack_gemm_weights``, in memory of one kernel.

    Implements ``runtime.backend.Packing``; equal by the kernel's name and its tile.
    """

    kernel: str
    tile: GemmTile
    memory: Take = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """See ``Packing``."""
        return f"{self.kernel} tiles"

    @property
    def rows(self) -> int:
        """See ``Packing``: the output channels of a tile."""
        return self.tile.n

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:  # [n, k] -> [n/tn, k/tk, tk * tn]
        """See ``Packing``."""
        n, k = shape
        return -(-n // self.tile.n), -(-k // self.tile.k), self.tile.k * self.tile.n

    def take(self, weight: str, shape: tuple[int, ...]) -> Array:
        """See ``Packing``. The host's view of the kernel's buffer, int8; nothing is written."""
        packed = self.shape(shape)
        return self.memory(weight, math.prod(packed)).view(np.int8).reshape(packed)

    def fill(self, packed: Array, values: Array, first: int) -> None:
        """See ``Packing``. The padding of whole tiles is filled with zeros.

        Raises ValueError for rows that do not begin with a tile.
        """
        column, within = divmod(first, self.tile.n)
        if within:
            raise ValueError(f"row {first} is not the first of a tile of {self.tile.n}")
        columns = _columns_of_block(self.tile, values.shape[1])
        for start in range(0, -(-len(values) // self.tile.n), columns):
            some = values[start * self.tile.n : (start + columns) * self.tile.n]
            tiles = pack_gemm_weights(some, self.tile)
            packed[column + start : column + start + len(tiles)] = tiles


class GemmInt8(Family):
    """C = A B in int32, of rows A and tiles B in int8, for any number of tiles.

    Instructions are made for each shape, (m, k, n), by ``gemm_stream``. Weights are packed once.
    """

    kinds = ("product_int8",)
    float_kinds = ("linear", "conv1d")
    distracts = True
    resident = ARGUMENT_B

    def __init__(self, entry: KernelEntry) -> None:
        super().__init__(entry)
        tile = self.contract.tile
        if set(tile) != set(GemmTile._fields) or not all(tile.values()):
            raise KernelError(
                f"kernel {self.contract.name}: its tile is {dict(tile)}; the family "
                f"{self.contract.family} takes m, k and n, each at least 1"
            )
        self.tile = GemmTile(**tile)

    def instructions(self, shape: tuple[int, ...]) -> tuple[bytes, list[int]]:
        """See ``Family``."""
        name = self.contract.name
        if len(shape) != 3:
            raise KernelError(
                f"kernel {name}: no instructions for shape {shape}: they are made for (m, k, n)"
            )
        m, k, n = shape
        try:
            stream = gemm_int8_stream(m, k, n, self.tile)
        except ValueError as error:
            raise KernelError(f"kernel {name}: {error}") from error
        return stream, list(gemm_int8_sizes(m, k, n).values())

    def sample(self) -> bytes:
        """See ``Family``."""
        m, k, n = (_SAMPLE_TILES * size for size in self.tile)
        return self.instructions((m, k, n))[0]

    def cases(self, rng: np.random.Generator) -> Iterator[LaunchCase]:
        """See ``Family``."""
        for tiles in _VERIFIED_TILES:
            m, k, n = (count * size for count, size in zip(tiles, self.tile, strict=True))
            for name, make in INTEGERS.items():
                x, w = make(rng, "int8", (m, k)), make(rng, "int8", (n, k))
                sums = x.astype(np.int64) @ w.astype(np.int64).T
                inputs = (x, pack_gemm_weights(w, self.tile))
                yield LaunchCase(name, (m, k, n), inputs, (sums.astype(np.int32),))

    def production(self, rng: np.random.Generator, launches: int) -> Iterator[LaunchCase]:
        """See ``Family``: products of many shapes by turns, each with two weights that stay."""
        products = [_Product(rng, self.tile, shape) for shape in self._shapes()]
        light = [product for product in products if product.multiplications <= _LIGHT]
        turns = [(p, way, i) for p in products for way in _Product.WAYS for i in range(2)]
        while len(turns) < launches:
            turns += [(p, way, i) for p in light for way in _Product.WAYS for i in range(2)]
        for i in rng.permutation(len(turns))[:launches]:
            product, way, weight = turns[i]
            yield product.case(way, weight)

    def _shapes(self) -> Iterator[tuple[int, int, int]]:
        tile = self.tile
        for tiles in _LIMITS:
            m, k, n = (count * size for count, size in zip(tiles, tile, strict=True))
            yield m, k, n
        for m, k, n in _WHISPER:
            yield gemm_shape(tile, m, k, n).padded

    def timed(self) -> tuple[Timed, ...]:
        """See ``Family``."""
        tile = self.tile
        shapes = ((count * tile.m, count * tile.k, count * tile.n) for count in _TIMED_TILES)
        return tuple(
            Timed(shape, tuple(gemm_int8_sizes(*shape).values()), 2 * math.prod(shape))
            for shape in shapes
        )

    def simulate(
        self,
        shape: tuple[int, ...],
        inputs: Sequence[SoftwareMemory],
        outputs: Sequence[SoftwareMemory],
    ) -> None:
        """See ``Family``: what the tile kernel, carried out tile by tile, amounts to."""
        m, k, n = shape
        buffers = a, b, c = (*inputs, *outputs)
        for buffer, nbytes in zip(buffers, gemm_int8_sizes(m, k, n).values(), strict=True):
            if buffer.device.nbytes != nbytes:
                raise KernelError(
                    f"{self.contract.name}: a buffer of {buffer.device.nbytes} bytes, not {nbytes}"
                )

        def unpacked(device: U8) -> F32:
            packed = device.view(np.int8).reshape(n // self.tile.n, k // self.tile.k, -1)
            return unpack_gemm_weights(packed, n, k, self.tile).astype(np.float32)

        sums = integer_sums(a.device.view(np.int8).reshape(m, k), b.derived(unpacked))
        np.copyto(c.device.view(np.int32).reshape(m, n), sums, casting="unsafe")

    def work(self, graph: Graph, index: int, rates: KernelRates) -> Work | None:
        """See ``Family``."""
        op = graph.ops[index]
        if op.kind not in self.kinds:
            return None
        shape = gemm_shape(self.tile, *product_shape(graph, op))
        return Work(
            ops=(op,),
            shape=shape.padded,
            inputs=(shape.bytes_in,),
            outputs=(shape.bytes_out,),
            seconds=gemm_seconds(shape, self.tile, rates),
            weight=op.inputs[2],
            resident=shape.resident_bytes,
            # By the real k: the columns beyond it stay zero for as long as the buffer lives.
            key=(shape.k,),
        )

    def form(self, take: Take) -> Form:
        """See ``Family``."""
        return Form.packed("int8", TilePacking(self.contract.name, self.tile, take))

    def sums(self, bound: Bound) -> I64:  # -> [2, k]
        """See ``Family``."""
        x, _, packed, w_scale, *_ = bound.inputs
        return sums_of_tiles_weight(packed, len(w_scale), x.shape[-1], self.tile)

    def task(self, bound: Bound, arrays: Sequence[U8], sums: I64 | None) -> Task:
        """See ``Family``."""
        x, x_scale, packed, w_scale, *rest = bound.inputs
        bias = rest[0] if rest else None
        shape = gemm_shape(self.tile, x.nbytes // x.shape[-1], x.shape[-1], len(w_scale))
        m, k, n = shape.padded
        values, scales = x.reshape(-1, shape.k), x_scale.reshape(-1)
        out = bound.outputs[0].reshape(-1, shape.n)
        a, _, c = arrays
        rows = a.view(np.int8).reshape(m, k)[: shape.m, : shape.k]
        found = c.view(np.int32).reshape(m, n)[: shape.m, : shape.n]

        def read() -> None:
            scale_sums(joined_sums(found, len(values)), scales, w_scale, bias, out)

        def wrong() -> str | None:
            split = np.empty(rows.shape, np.int8)
            split_rows(values, split)
            expected = sums_of_tiles(split, packed, shape.n, self.tile)
            count = int(np.count_nonzero(found != expected))
            return f"{count} of {found.size} sums" if count else None

        def unproven() -> str | None:
            assert sums is not None
            # Of the region's own rows: a kernel may have written to those in its buffer.
            expected = sums_of_rows(values, sums)
            differ = (joined_checksums(sums_of_product(found), len(values)) != expected).any(axis=1)
            count = int(np.count_nonzero(differ))
            return f"checksums of {count} of {len(values)} rows" if count else None

        law = unproven if sums is not None else None
        return Task(partial(split_rows, values, rows), read, wrong, law)

    def numpy(self, bound: Bound) -> Step:
        """See ``Family``."""
        x, x_scale, packed, w_scale, *rest = bound.inputs
        n = len(w_scale)
        return partial(
            product_int8_tiles,
            self.tile,
            x.reshape(-1, x.shape[-1]),
            x_scale.reshape(-1),
            packed,
            w_scale,
            rest[0] if rest else None,
            bound.outputs[0].reshape(-1, n),
        )


def _columns_of_block(tile: GemmTile, k: int) -> int:
    """Columns of tiles over all of k that are packed or unpacked at a time."""
    return max(1, _BLOCK // (tile.n * k))


def split_rows(x: Integers, rows: I8) -> None:  # [m, k] -> [m, k] or [2 m, k]
    """Rows for a kernel: int8 as they are; of int16 the high halves and then the low ones.

    x = 256 high + low with low in [-128, 127], for |x| at most ``ops.rows.LARGEST_INT16``.
    """
    if x.dtype == np.int8:
        np.copyto(rows, x)
        return
    high, low = rows[: len(x)], rows[len(x) :]
    np.copyto(low, x, casting="unsafe")
    np.copyto(high, (x + np.int16(128)) >> 8, casting="unsafe")


def joined_sums(sums: I32, m: int) -> F64:  # [m, n] or [2 m, n] -> [m, n]
    """Sums of m rows from those of the rows that ``split_rows`` made of them, exact."""
    total = sums[:m].astype(np.float64)
    if len(sums) > m:
        total *= 256.0
        total += sums[m:]
    return total


def joined_checksums(sums: I64, m: int) -> I64:  # [m, 2] or [2 m, 2] -> [m, 2]
    """Checksums of ``joined_sums`` from those of the rows, modulo 2**64."""
    return sums if len(sums) == m else 256 * sums[:m] + sums[m:]


def sums_of_tiles_weight(
    packed: I8, n: int, k: int, tile: GemmTile
) -> I64:  # [n / tn, k / tk, tk * tn] -> [2, k]
    """``ops.checksums.sums_of_weight`` with the weight in tiles."""
    total = np.zeros((2, k), np.int64)
    for part, w in _unpacked(packed, n, k, tile):
        total += sums_of_weight(w, part.start)
    return total


def _unpacked(packed: I8, n: int, k: int, tile: GemmTile) -> Iterator[tuple[slice, F32]]:
    # [n / tn, k / tk, tk * tn] -> [n', k]...
    """Some output channels at a time, in the same memory, so that no weight is ever held twice."""
    columns = _columns_of_block(tile, k)
    room = np.empty((min(n, columns * tile.n), k), np.float32)
    for first in range(0, len(packed), columns):
        some = packed[first : first + columns]
        part = slice(first * tile.n, min(n, (first + len(some)) * tile.n))
        w = room[: part.stop - part.start]
        np.copyto(w, unpack_gemm_weights(some, len(w), k, tile))
        yield part, w


def sums_of_tiles(
    x: Integers, packed: I8, n: int, tile: GemmTile
) -> F64:  # [m, k], [n / tn, k / tk, tk * tn] -> [m, n]
    """``ops.product_int8.integer_sums`` with the weight in tiles."""
    sums = np.empty((len(x), n), np.float64)
    for part, w in _unpacked(packed, n, x.shape[1], tile):
        sums[:, part] = integer_sums(x, w)
    return sums


def product_int8_tiles(
    tile: GemmTile,
    x: Integers,
    x_scale: F32,
    packed: I8,
    w_scale: F32,
    bias: I32 | None,
    out: I32,
) -> None:  # [m, k], [m], [n / tn, k / tk, tk * tn], [n], [n] -> [m, n]
    """``ops.product_int8.product_int8`` with the weight in tiles: the same bits."""
    for part, w in _unpacked(packed, len(w_scale), x.shape[1], tile):
        added = None if bias is None else bias[part]
        scale_sums(integer_sums(x, w), x_scale, w_scale[part], added, out[:, part])

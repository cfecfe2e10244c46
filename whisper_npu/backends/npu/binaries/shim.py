"""Registers of the DMA in a shim tile (npu1), the array's way to host memory.

Sizes and strides are in 32-bit words. Source: aie-rt's AIE-ML register tables; see
``docs/instruction-streams.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

N_BDS = 16
BD_WORDS = 8
MAX_EXECUTIONS = 256

S2MM, MM2S = 0, 1
DIRECTIONS = ("S2MM", "MM2S")

_BD_BASE = 0x1D000
_BD_STEP = 4 * BD_WORDS
_CONTROL_BASE = 0x1D200
_TOKEN = 1 << 31

_SIZE_BITS = 10
_STRIDE_BITS = 20
_ITERATION_BITS = 6
_LONGEST_BURST = 2 << 30
_AXI_CACHE = 2 << 24  # lets the interconnect merge accesses
_VALID = 1 << 25
_USE_NEXT_BD = 1 << 26


@dataclass(frozen=True, slots=True)
class ArrayTile:
    """Place of a register: tile and offset in the tile."""

    column: int
    row: int
    register: int

    @classmethod
    def of(cls, address: int) -> ArrayTile:
        """The place with an address of the stream."""
        return cls(address >> 25, address >> 20 & 0x1F, address & 0xFFFFF)


def address_of(column: int, row: int, register: int) -> int:
    """Address in the stream of a tile's register or data memory."""
    return column << 25 | row << 20 | register


def bd_address(column: int, bd: int) -> int:
    """Address of the first word of a descriptor."""
    return address_of(column, 0, _BD_BASE + bd * _BD_STEP)


def bd_word_at(register: int) -> tuple[int, int] | None:
    """Descriptor and word that a register of a shim tile is."""
    index = (register - _BD_BASE) // 4
    return divmod(index, BD_WORDS) if 0 <= index < N_BDS * BD_WORDS else None


@dataclass(frozen=True, slots=True)
class Channel:
    """Channel ``number`` (0 or 1) of the shim tile in ``column``; ``direction``: S2MM or MM2S."""

    column: int
    direction: int
    number: int

    @property
    def control(self) -> int:
        """Address of the control register, which has the packet id of tokens in bits 12..8."""
        offset = 8 * (2 * self.direction + self.number)
        return address_of(self.column, 0, _CONTROL_BASE + offset)

    @property
    def queue(self) -> int:
        """Address of the task queue."""
        return self.control + 4


def queue_at(tile: ArrayTile) -> Channel | None:
    """The channel whose queue a register of a shim tile is."""
    index, rest = divmod(tile.register - _CONTROL_BASE, 8)
    if rest != 4 or not 0 <= index < 4:
        return None
    return Channel(tile.column, *divmod(index, 2))


def push_word(bd: int, executions: int, token: bool) -> int:
    """What to write to a task queue. Raises ValueError."""
    return (
        _field("first BD", bd, 4)
        | _field("executions - 1", executions - 1, 8) << 16
        | (_TOKEN if token else 0)
    )


def parse_push(word: int) -> tuple[int, int, bool]:
    """First descriptor, executions, token: the reverse of ``push_word``."""
    return word & 0xF, (word >> 16 & 0xFF) + 1, bool(word & _TOKEN)


@dataclass(frozen=True, slots=True)
class BufferDescriptor:
    """What one execution moves: ``length`` words, those at

        (i % d0) * stride0 + (i // d0 % d1) * stride1 + i // (d0 * d1) * stride2

    A size of 0 has no end. Executions of a task add ``iteration_stride`` after one another,
    modulo ``iteration_size``.
    """

    length: int
    sizes: tuple[int, int] = (0, 0)
    strides: tuple[int, int, int] = (1, 1, 1)
    iteration_size: int = 1
    iteration_stride: int = 1
    iteration_current: int = 0
    next_bd: int | None = None
    valid: bool = True

    def words(self) -> list[int]:
        """The eight registers, with address 0. Raises ValueError for what a field cannot hold."""
        (d0, d1), (s0, s1, s2) = self.sizes, self.strides
        chain = (
            0 if self.next_bd is None else _USE_NEXT_BD | _field("next BD", self.next_bd, 4) << 27
        )
        return [
            _field("length", self.length, 32),
            0,
            0,
            _field("d0 size", d0, _SIZE_BITS) << 20 | _field("d0 stride - 1", s0 - 1, _STRIDE_BITS),
            _LONGEST_BURST
            | _field("d1 size", d1, _SIZE_BITS) << 20
            | _field("d1 stride - 1", s1 - 1, _STRIDE_BITS),
            _AXI_CACHE | _field("d2 stride - 1", s2 - 1, _STRIDE_BITS),
            _field("iteration current", self.iteration_current, _ITERATION_BITS) << 26
            | _field("iteration size - 1", self.iteration_size - 1, _ITERATION_BITS) << 20
            | _field("iteration stride - 1", self.iteration_stride - 1, _STRIDE_BITS),
            (_VALID if self.valid else 0) | chain,
        ]

    @classmethod
    def of(cls, words: Sequence[int]) -> BufferDescriptor:
        """The descriptor in eight registers."""
        size, stride = (1 << _SIZE_BITS) - 1, (1 << _STRIDE_BITS) - 1
        return cls(
            length=words[0],
            sizes=(words[3] >> 20 & size, words[4] >> 20 & size),
            strides=((words[3] & stride) + 1, (words[4] & stride) + 1, (words[5] & stride) + 1),
            iteration_size=(words[6] >> 20 & 0x3F) + 1,
            iteration_stride=(words[6] & stride) + 1,
            iteration_current=words[6] >> 26,
            next_bd=words[7] >> 27 & 0xF if words[7] & _USE_NEXT_BD else None,
            valid=bool(words[7] & _VALID),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sizes of the three dimensions that the length makes, the last one rounded up."""
        d0 = min(self.sizes[0] or self.length, self.length)
        rows = -(-self.length // d0)
        d1 = min(self.sizes[1] or rows, rows)
        return d0, d1, -(-rows // d1)

    def reach(self) -> int:
        """Words from the base to behind the farthest word of one execution."""
        d0, d1, _ = self.shape
        s0, s1, s2 = self.strides
        planes, rest = divmod(self.length, d0 * d1)
        rows, row_rest = divmod(rest, d0)
        farthest = 0
        if planes:
            farthest = (d0 - 1) * s0 + (d1 - 1) * s1 + (planes - 1) * s2
        if rows:
            farthest = max(farthest, (d0 - 1) * s0 + (rows - 1) * s1 + planes * s2)
        if row_rest:
            farthest = max(farthest, (row_rest - 1) * s0 + rows * s1 + planes * s2)
        return farthest + 1


def _field(name: str, value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name} is {value}, 0 to {(1 << bits) - 1} fit into its {bits} bits")
    return value

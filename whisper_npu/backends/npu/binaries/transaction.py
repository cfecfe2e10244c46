"""Instruction streams ("transactions"): what the NPU's controller does for one launch.

Formats and register semantics: ``docs/instruction-streams.md``. Two encodings of the operations
are in use, version 0.1 and the short 1.0; both are read, 0.1 is written.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from whisper_npu.backends.npu.binaries.shim import BufferDescriptor, Channel, bd_address, push_word
from whisper_npu.errors import KernelError
from whisper_npu.files.span import Span
from whisper_npu.files.whole import read_file

# Streams in use have a few kB; an NPU can address 64 MiB of instructions in all.
MAX_STREAM_SIZE = 16 << 20
MAX_OPERATIONS = 1 << 18
MAX_TEXT_SIZE = MAX_STREAM_SIZE // 4 * len("00000000\r\n")

# Device generation in a stream's header: npu1 is Phoenix and Hawk Point, npu2 Strix and later.
GENERATIONS = {3: "npu1", 4: "npu2"}


class TransactionError(KernelError):
    """A stream that cannot be read or does what it must not; the message gives byte and reason."""


@dataclass(frozen=True, slots=True)
class Write32:
    """Register ``address`` becomes ``value``."""

    offset: int
    address: int
    value: int


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """The registers from ``address`` on become ``words``."""

    offset: int
    address: int
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MaskWrite:
    """The bits of ``mask`` in register ``address`` become those of ``value``."""

    offset: int
    address: int
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class MaskPoll:
    """Wait until register ``address`` has ``value`` in the bits of ``mask``."""

    offset: int
    address: int
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class AddressPatch:
    """The BD address at register ``address`` becomes that of argument ``argument`` + ``plus``."""

    offset: int
    address: int
    argument: int
    plus: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Wait for a token of each DMA channel in ``columns`` x ``rows`` tiles.

    ``direction`` is 0 for S2MM (array to memory) and 1 for MM2S.
    """

    offset: int
    column: int
    row: int
    direction: int
    channel: int
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class LoadPdi:
    """Configure the array with PDI ``id``."""

    offset: int
    id: int
    size: int
    address: int


@dataclass(frozen=True, slots=True)
class Other:
    """An operation without effect on registers or memory: its name and what follows its code."""

    offset: int
    name: str
    payload: bytes


Operation = Write32 | BlockWrite | MaskWrite | MaskPoll | AddressPatch | Sync | LoadPdi | Other


@dataclass(frozen=True)
class Transaction:
    """A decoded stream. An operation's ``offset`` is that of its first byte."""

    version: tuple[int, int]
    device_generation: int
    rows: int
    columns: int
    memory_rows: int
    size: int
    operations: tuple[Operation, ...]

    @property
    def device(self) -> str:
        """Name of the device generation."""
        return GENERATIONS.get(self.device_generation, f"generation {self.device_generation}")


_HEADER = struct.Struct("<6B2xII")
_TEXT = re.compile(rb"(?:[0-9A-Fa-f]{8}\s+)+")

_WRITE, _BLOCK_WRITE, _BLOCK_SET, _MASK_WRITE, _MASK_POLL = range(5)
_NOOP, _PREEMPT, _MASK_POLL_BUSY, _LOAD_PDI, _LOAD_PM_START = range(5, 10)
_SYNC, _PATCH, _READ_REGISTERS, _RECORD_TIMER, _MERGE_SYNC = range(0x80, 0x85)

_CODE = struct.Struct("<B")
_U32 = struct.Struct("<I")
_SYNC_FIELDS = struct.Struct("<BBBxxBBB")
_LOAD_PDI_FIELDS = struct.Struct("<xxHIQ")

# Operations that are the same in both versions, are of no consequence here, and have a fixed size.
_FIXED = {_NOOP: ("NOOP", 4), _PREEMPT: ("PREEMPT", 4), _LOAD_PM_START: ("LOAD_PM_START", 8)}
# The same with their size in the second word.
_SIZED = {
    _READ_REGISTERS: "READ_REGS",
    _RECORD_TIMER: "RECORD_TIMER",
    _MERGE_SYNC: "MERGE_SYNC",
}


@dataclass(frozen=True)
class _Layout:
    """Where the fields of the operations are that the versions place differently."""

    write: struct.Struct
    mask_write: struct.Struct
    block: struct.Struct
    patch: struct.Struct
    # Offset of the size in a WRITE32 and a MASKWRITE, if it is there at all.
    write_size_at: int | None
    mask_write_size_at: int | None


_LAYOUTS: Mapping[tuple[int, int], _Layout] = {
    (0, 1): _Layout(
        struct.Struct("<8xQI4x"),
        struct.Struct("<8xQII4x"),
        struct.Struct("<8xII"),
        struct.Struct("<24xQQQ"),
        20,
        24,
    ),
    (1, 0): _Layout(
        struct.Struct("<4xII"),
        struct.Struct("<4xIII"),
        struct.Struct("<4xII"),
        struct.Struct("<8xIB3xQ"),
        None,
        None,
    ),
}


def read_transaction(path: str | os.PathLike[str]) -> Transaction:
    """Decode a stream in a file. Raises TransactionError."""
    return decode_transaction(read_file(path, MAX_TEXT_SIZE, TransactionError), str(path))


def decode_transaction(data: bytes, name: str = "instruction stream") -> Transaction:
    """Decode a stream; ``name`` is what errors call it. Raises TransactionError.

    It may be the text of older mlir-aie, a hexadecimal word a line. Offsets are those of the binary
    form in any case.
    """
    if _TEXT.fullmatch(data):
        data = b"".join(bytes.fromhex(word.decode())[::-1] for word in data.split())
    if len(data) > MAX_STREAM_SIZE:
        raise TransactionError(f"{name}: {len(data)} bytes; at most {MAX_STREAM_SIZE} are read")
    span = Span.of(data, name, TransactionError)
    major, minor, generation, rows, columns, memory_rows, count, size = span.unpack(
        _HEADER, 0, "the header"
    )
    layout = _LAYOUTS.get((major, minor))
    if layout is None:
        raise span.fail(0, f"an instruction stream has version 0.1 or 1.0, this {major}.{minor}")
    if size != len(data):
        raise span.fail(12, f"it was written with {size} bytes and has {len(data)}")
    if count > MAX_OPERATIONS:
        raise span.fail(8, f"{count} operations, at most {MAX_OPERATIONS} are read")
    decoder = _Decoder(span, layout)
    operations: list[Operation] = []
    while decoder.at < size:
        if len(operations) == count:
            raise span.fail(decoder.at, f"more than the {count} operations of the header")
        operations.append(decoder.next())
    if len(operations) != count:
        raise span.fail(8, f"{len(operations)} operations, the header says {count}")
    return Transaction(
        (major, minor), generation, rows, columns, memory_rows, size, tuple(operations)
    )


class _Decoder:
    """Reads one operation after the other from ``at`` on."""

    def __init__(self, span: Span, layout: _Layout) -> None:
        self.at = _HEADER.size
        self._span = span
        self._layout = layout
        self._readers: Mapping[int, Callable[[], Operation]] = {
            _WRITE: self._write,
            _BLOCK_WRITE: self._block_write,
            _MASK_WRITE: self._mask_write,
            _MASK_POLL: self._mask_poll,
            _MASK_POLL_BUSY: self._mask_poll,
            _LOAD_PDI: self._load_pdi,
            _SYNC: self._sync,
            _PATCH: self._patch,
        }

    def next(self) -> Operation:
        (code,) = self._span.unpack(_CODE, self.at, "an operation")
        if code in _FIXED:
            name, size = _FIXED[code]
            return self._other(name, size)
        if code in _SIZED:
            return self._other(_SIZED[code], self._size(4, 8))
        reader = self._readers.get(code)
        if reader is None:
            raise self._span.fail(self.at, f"operation 0x{code:02x} is not known")
        return reader()

    def _size(self, at: int, least: int) -> int:
        """The size at ``at`` of the operation, which has ``least`` bytes and whole words."""
        (size,) = self._span.unpack(_U32, self.at + at, "an operation's size")
        if size < least or size % 4:
            raise self._span.fail(
                self.at + at, f"an operation of {size} bytes, not {least} or more"
            )
        return size

    def _take(self, size: int) -> int:
        """Step over the operation, all of which has to be there; gives its offset."""
        at = self.at
        self._span.part(at, size, "an operation")
        self.at += size
        return at

    def _fields(self, form: struct.Struct, size_at: int | None) -> tuple[int, ...]:
        """Fields of an operation that may say its own size; offset of the operation first."""
        fields = self._span.unpack(form, self.at, "an operation")
        size = form.size if size_at is None else self._size(size_at, form.size)
        return self._take(size), *fields

    def _other(self, name: str, size: int) -> Other:
        at = self._take(size)
        return Other(at, name, self._span.raw(at + 1, size - 1, "an operation"))

    def _write(self) -> Write32:
        return Write32(*self._fields(self._layout.write, self._layout.write_size_at))

    def _mask_write(self) -> MaskWrite:
        return MaskWrite(*self._fields(self._layout.mask_write, self._layout.mask_write_size_at))

    def _mask_poll(self) -> MaskPoll:
        return MaskPoll(*self._fields(self._layout.mask_write, self._layout.mask_write_size_at))

    def _load_pdi(self) -> LoadPdi:
        return LoadPdi(*self._fields(_LOAD_PDI_FIELDS, None))

    def _patch(self) -> AddressPatch:
        return AddressPatch(*self._fields(self._layout.patch, 4))

    def _block_write(self) -> BlockWrite:
        form = self._layout.block
        address, _ = self._span.unpack(form, self.at, "an operation")
        size = self._size(form.size - 4, form.size)
        at = self._take(size)
        words = struct.Struct(f"<{(size - form.size) // 4}I")
        return BlockWrite(at, address, self._span.unpack(words, at + form.size, "an operation"))

    def _sync(self) -> Sync:
        size = self._size(4, 16)
        at = self._take(size)
        direction, row, column, rows, columns, channel = self._span.unpack(
            _SYNC_FIELDS, at + 8, "an operation"
        )
        return Sync(at, column, row, direction, channel, columns, rows)


class TransactionBuilder:
    """Writes a stream in version 0.1. Addresses are those of ``docs/instruction-streams.md``."""

    def __init__(self, columns: int, device_generation: int = 3) -> None:
        self._header = 0, 1, device_generation, 6, columns, 1
        self._operations: list[bytes] = []

    def write32(self, address: int, value: int) -> None:
        """Register ``address`` becomes ``value``."""
        self._operations.append(struct.pack("<B7xQII", _WRITE, address, value, 24))

    def mask_write(self, address: int, value: int, mask: int) -> None:
        """The bits of ``mask`` in register ``address`` become those of ``value``."""
        self._operations.append(struct.pack("<B7xQIII", _MASK_WRITE, address, value, mask, 28))

    def block_write(self, address: int, words: Sequence[int]) -> None:
        """The registers from ``address`` on become ``words``."""
        form = f"<B7xII{len(words)}I"
        size = struct.calcsize(form)
        self._operations.append(struct.pack(form, _BLOCK_WRITE, address, size, *words))

    def patch_address(self, address: int, argument: int, plus: int) -> None:
        """The BD address at ``address`` becomes that of a buffer, ``plus`` bytes into it."""
        self._operations.append(struct.pack("<B3xI16xQQQ", _PATCH, 48, address, argument, plus))

    def sync(self, channel: Channel) -> None:
        """Wait for one token of a DMA channel."""
        self._operations.append(
            struct.pack(
                "<B3xIBBBxxBBB",
                _SYNC,
                16,
                channel.direction,
                0,
                channel.column,
                1,
                1,
                channel.number,
            )
        )

    def write_bd(
        self, column: int, bd: int, descriptor: BufferDescriptor, argument: int, plus: int
    ) -> None:
        """Set a descriptor that starts ``plus`` bytes into the buffer of ``argument``."""
        address = bd_address(column, bd)
        self.block_write(address, descriptor.words())
        self.patch_address(address + 4, argument, plus)

    def push(self, channel: Channel, bd: int, executions: int = 1, token: bool = False) -> None:
        """Queue ``executions`` (1 to 256) of the task that begins with descriptor ``bd``."""
        self.write32(channel.queue, push_word(bd, executions, token))

    def build(self) -> bytes:
        """The stream."""
        size = _HEADER.size + sum(map(len, self._operations))
        header = _HEADER.pack(*self._header, len(self._operations), size)
        return b"".join([header, *self._operations])

"""Which bytes of which buffer an instruction stream moves, and whether it may."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from whisper_npu.backends.npu.binaries.shim import (
    BD_WORDS,
    DIRECTIONS,
    S2MM,
    ArrayTile,
    BufferDescriptor,
    Channel,
    bd_address,
    bd_word_at,
    parse_push,
    queue_at,
)
from whisper_npu.backends.npu.binaries.transaction import (
    AddressPatch,
    BlockWrite,
    LoadPdi,
    MaskWrite,
    Operation,
    Other,
    Sync,
    Transaction,
    TransactionError,
    Write32,
)
from whisper_npu.errors import KernelError

# Of one stream. Ours have three per 256 output tiles; the bound is against hostile ones.
MAX_TRANSFERS = 1 << 16

_ITERATION_WORD = 6


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one descriptor of one push moves between a buffer and the array.

    ``offset`` is the byte of the push in the stream. Of argument ``argument`` the bytes from
    ``first`` up to ``last`` (exclusive) are touched, though with strides not each of them;
    ``total_bytes`` is what moves in all ``executions``. ``shape`` and ``strides`` are in 32-bit
    words, innermost first; executions advance by ``iteration_stride`` words modulo
    ``iteration_size``. ``awaited``: a SYNC of the stream waits for the push.
    """

    offset: int
    column: int
    direction: str
    channel: int
    bd: int
    argument: int
    byte_offset: int
    shape: tuple[int, int, int]
    strides: tuple[int, int, int]
    iteration_size: int
    iteration_stride: int
    executions: int
    bytes_per_execution: int
    first: int
    last: int
    token: bool
    awaited: bool

    @property
    def total_bytes(self) -> int:
        """Bytes that move in all executions."""
        return self.executions * self.bytes_per_execution


def decode_transfers(
    transaction: Transaction, name: str = "instruction stream"
) -> tuple[Transfer, ...]:
    """Interpret the register writes of a stream for npu1. Raises TransactionError.

    Descriptors have to be set by the stream itself and their addresses patched: of others nothing
    can be said.
    """
    if transaction.device_generation != 3:
        raise TransactionError(f"{name}: made for {transaction.device}, not for npu1")
    shim = _Shim(name)
    for operation in transaction.operations:
        shim.execute(operation)
    return tuple(shim.transfers)


def check_transfers(
    transfers: Iterable[Transfer],
    sizes: Mapping[int, int],
    moved: Mapping[int, int] | None = None,
    name: str = "instruction stream",
) -> None:
    """Hold the transfers of a stream to a contract. Raises KernelError.

    ``sizes`` has the bytes of every argument's buffer: no transfer may leave it. ``moved`` has the
    bytes that have to move from or to each in all; the default is each buffer once. What is written
    has to be waited for.
    """
    moved = sizes if moved is None else moved
    totals: Counter[int] = Counter()
    for transfer in transfers:
        size = sizes.get(transfer.argument)
        where = f"{name}: the push at byte {transfer.offset}"
        if size is None:
            raise KernelError(
                f"{where} uses argument {transfer.argument}, which the contract does not have"
            )
        if transfer.last > size:
            raise KernelError(
                f"{where} touches bytes {transfer.first} to {transfer.last - 1} of argument "
                f"{transfer.argument}, which has {size}"
            )
        if transfer.direction == DIRECTIONS[S2MM] and not transfer.awaited:
            raise KernelError(
                f"{where} writes argument {transfer.argument} and nothing waits for that"
            )
        totals[transfer.argument] += transfer.total_bytes
    for argument in sorted(set(sizes) | set(moved)):
        if totals[argument] != moved.get(argument, 0):
            raise KernelError(
                f"{name}: {totals[argument]} bytes of argument {argument} move, the contract says "
                f"{moved.get(argument, 0)}"
            )


class _Shim:
    """State of the shim tiles' DMA while a stream runs."""

    def __init__(self, name: str) -> None:
        self.transfers: list[Transfer] = []
        self._name = name
        self._registers: dict[int, int] = {}
        # The last patch of (column, bd), gone when its address is written again.
        self._patches: dict[tuple[int, int], AddressPatch] = {}
        # Of each channel, the transfers of every push whose token nothing has waited for yet.
        self._tokens: dict[Channel, deque[range]] = {}

    def execute(self, operation: Operation) -> None:
        if isinstance(operation, Write32):
            self._write(operation.offset, operation.address, operation.value)
        elif isinstance(operation, BlockWrite):
            for i, word in enumerate(operation.words):
                self._write(operation.offset, operation.address + 4 * i, word)
        elif isinstance(operation, MaskWrite):
            old = self._registers.get(operation.address, 0)
            value = old & ~operation.mask | operation.value & operation.mask
            self._write(operation.offset, operation.address, value)
        elif isinstance(operation, AddressPatch):
            self._patch(operation)
        elif isinstance(operation, Sync):
            self._sync(operation)
        elif isinstance(operation, LoadPdi):
            self._registers.clear()
            self._patches.clear()
        elif isinstance(operation, Other) and operation.name == "MERGE_SYNC":
            raise self._fail(operation.offset, "MERGE_SYNC is not known on npu1")

    def _fail(self, offset: int, reason: str) -> TransactionError:
        return TransactionError(f"{self._name}: operation at byte {offset}: {reason}")

    def _write(self, offset: int, address: int, value: int) -> None:
        tile = ArrayTile.of(address)
        if tile.row != 0:
            return
        channel = queue_at(tile)
        if channel is not None:
            self._push(offset, channel, value)
            return
        place = bd_word_at(tile.register)
        if place is not None:
            bd, word = place
            self._registers[address] = value
            if word in (1, 2):
                self._patches.pop((tile.column, bd), None)

    def _patch(self, patch: AddressPatch) -> None:
        tile = ArrayTile.of(patch.address)
        place = bd_word_at(tile.register)
        if tile.row != 0 or place is None or place[1] != 1:
            raise self._fail(
                patch.offset, f"patches 0x{patch.address:x}, which is no descriptor's address"
            )
        if patch.plus % 4:
            raise self._fail(patch.offset, f"offset {patch.plus} is not a multiple of 4")
        self._patches[tile.column, place[0]] = patch

    def _push(self, offset: int, channel: Channel, value: int) -> None:
        first_bd, executions, token = parse_push(value)
        start = len(self.transfers)
        for bd, descriptor in self._chain(offset, channel.column, first_bd):
            transfer = self._transfer(offset, channel, bd, descriptor, executions)
            self.transfers.append(replace(transfer, token=token))
        if len(self.transfers) > MAX_TRANSFERS:
            raise self._fail(offset, f"more than {MAX_TRANSFERS} transfers")
        if token:
            queue = self._tokens.setdefault(channel, deque())
            queue.append(range(start, len(self.transfers)))

    def _chain(self, offset: int, column: int, bd: int) -> Iterator[tuple[int, BufferDescriptor]]:
        """The descriptors of a task, from its first one on."""
        seen: set[int] = set()
        following: int | None = bd
        while following is not None:
            if following in seen:
                raise self._fail(offset, f"the chain from BD {bd} comes back to {following}")
            seen.add(following)
            descriptor = self._descriptor(offset, column, following)
            yield following, descriptor
            following = descriptor.next_bd

    def _descriptor(self, offset: int, column: int, bd: int) -> BufferDescriptor:
        base = bd_address(column, bd)
        words = [self._registers.get(base + 4 * i) for i in range(BD_WORDS)]
        known = [word for word in words if word is not None]
        if len(known) < BD_WORDS:
            raise self._fail(offset, f"BD {bd} of column {column} is used, but never set")
        descriptor = BufferDescriptor.of(known)
        if not descriptor.valid or not descriptor.length:
            what = "has length 0" if descriptor.valid else "is not valid"
            raise self._fail(offset, f"BD {bd} of column {column} {what}")
        return descriptor

    def _transfer(
        self,
        offset: int,
        channel: Channel,
        bd: int,
        descriptor: BufferDescriptor,
        executions: int,
    ) -> Transfer:
        patch = self._patches.get((channel.column, bd))
        if patch is None:
            raise self._fail(
                offset, f"BD {bd} of column {channel.column} has no argument's address"
            )
        steps = self._iterate(channel.column, bd, descriptor, executions)
        return Transfer(
            offset=offset,
            column=channel.column,
            direction=DIRECTIONS[channel.direction],
            channel=channel.number,
            bd=bd,
            argument=patch.argument,
            byte_offset=patch.plus,
            shape=descriptor.shape,
            strides=descriptor.strides,
            iteration_size=descriptor.iteration_size,
            iteration_stride=descriptor.iteration_stride,
            executions=executions,
            bytes_per_execution=4 * descriptor.length,
            first=patch.plus + 4 * min(steps) * descriptor.iteration_stride,
            last=patch.plus + 4 * (max(steps) * descriptor.iteration_stride + descriptor.reach()),
            token=False,
            awaited=False,
        )

    def _iterate(
        self, column: int, bd: int, descriptor: BufferDescriptor, executions: int
    ) -> Sequence[int]:
        """Values of "iteration current" during the executions; leaves the next one behind."""
        current, size = descriptor.iteration_current, descriptor.iteration_size
        following = (current + executions) % size
        address = bd_address(column, bd) + 4 * _ITERATION_WORD
        self._registers[address] = self._registers[address] & 0x3FFFFFF | following << 26
        # It may start beyond its size; after that it goes round, and once round is all there is.
        return [current, *((current + i) % size for i in range(1, min(executions, size + 1)))]

    def _sync(self, sync: Sync) -> None:
        # Tokens of the other rows come from inside of the array.
        if sync.row != 0:
            return
        for column in range(sync.column, sync.column + sync.columns):
            channel = Channel(column, sync.direction, sync.channel)
            waiting = self._tokens.get(channel)
            if not waiting:
                raise self._fail(
                    sync.offset,
                    f"waits for a token of column {column}, direction {sync.direction}, channel "
                    f"{sync.channel}, but no push sends one: the launch would not end",
                )
            for i in waiting.popleft():
                self.transfers[i] = replace(self.transfers[i], awaited=True)

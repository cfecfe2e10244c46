"""``whisper-npu kernels inspect``: print what is in xclbin files and instruction streams."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import singledispatch
from typing import Any
from uuid import UUID

from whisper_npu.backends.npu.binaries.shim import DIRECTIONS, ArrayTile
from whisper_npu.backends.npu.binaries.transaction import (
    AddressPatch,
    BlockWrite,
    LoadPdi,
    MaskPoll,
    MaskWrite,
    Operation,
    Other,
    Sync,
    Transaction,
    TransactionError,
    Write32,
    decode_transaction,
)
from whisper_npu.backends.npu.binaries.transfers import Transfer, decode_transfers
from whisper_npu.backends.npu.binaries.xclbin import MAGIC, MAX_FILE_SIZE, Xclbin, parse_xclbin
from whisper_npu.backends.npu.binaries.xclbin.metadata import DeclaredKernel
from whisper_npu.backends.npu.binaries.xclbin.partition import Partition
from whisper_npu.cli.options import add_format
from whisper_npu.cli.process import say
from whisper_npu.errors import KernelError
from whisper_npu.files.whole import read_file
from whisper_npu.terminal import note, printable

_WORDS_PER_LINE = 8
_TRANSFER_COLUMNS = "    {:>6}  {:<12} {:>2}  {:>3} {:>11} {:>11} {:>11}  {:<18} {:<18} {}"


@dataclasses.dataclass(frozen=True)
class _Stream:
    """A stream and what its register writes come to, or why that cannot be said."""

    transaction: Transaction
    transfers: tuple[Transfer, ...]
    not_interpreted: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("files", nargs="+", metavar="FILE")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Print the files on stdout."""
    return inspect(args.files, args.format)


def inspect(paths: Sequence[str], form: str) -> int:
    """Print the files in one of ``FORMATS``; an unreadable one does not keep the others from it.

    Gives the exit code.
    """
    exit_code = 0
    documents: list[dict[str, Any]] = []
    for path in paths:
        try:
            content = _read(path)
        except KernelError as error:
            note(f"error: {error}")
            documents.append({"file": path, "error": str(error)})
            exit_code = error.exit_code
            continue
        if form == "text":
            lines = _xclbin(content) if isinstance(content, Xclbin) else _stream(content)
            say(f"{printable(path)}: " + "\n".join(map(_ascii, lines)) + "\n")
        else:
            kind = "xclbin" if isinstance(content, Xclbin) else "stream"
            documents.append({"file": path, "kind": kind, **_plain(content)})
    if form == "json":
        say(json.dumps(documents, indent=2))
    return exit_code


def _read(path: str) -> Xclbin | _Stream:
    data = read_file(path, MAX_FILE_SIZE, KernelError)
    if data.startswith(MAGIC):
        return parse_xclbin(data, path)
    transaction = decode_transaction(data, path)
    try:
        return _Stream(transaction, decode_transfers(transaction, path), None)
    except TransactionError as error:
        return _Stream(transaction, (), str(error))


def _ascii(line: str) -> str:
    """Names in a file may hold anything, and line breaks too."""
    return printable(line).encode("ascii", "backslashreplace").decode()


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        kind = {"op": type(value).__name__} if isinstance(value, Operation) else {}
        return kind | {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, UUID) else value


def _xclbin(file: Xclbin) -> Iterator[str]:
    yield f"xclbin, {file.size:,} bytes, {'signed' if file.signed else 'not signed'}"
    yield f"  sha256 {file.sha256}"
    yield f"  uuid {file.uuid}, version {file.version}, written {_time(file.timestamp)}"
    for section in file.sections:
        yield f"  section {section.kind:<20} {section.size:>9,} bytes at {section.offset}"
    for i, memory in enumerate(file.memories):
        used = "" if memory.used else ", not used"
        yield f"  memory {i}: {memory.tag} ({memory.type}), {memory.size:,} bytes{used}"
    if file.partition:
        yield from _partition(file.partition)
    for kernel in file.kernels:
        yield from _kernel(kernel, [memory.tag for memory in file.memories])


def _partition(partition: Partition) -> Iterator[str]:
    starts = ", ".join(map(str, partition.start_columns))
    yield (
        f"  partition {partition.name!r}: columns {partition.column_width}, first column one of "
        f"[{starts}], {partition.operations_per_cycle:,} operations per cycle"
    )
    for pdi in partition.pdis:
        yield f"  PDI {pdi.uuid}: {pdi.size:,} bytes at {pdi.offset}, sha256 {pdi.sha256}"
        for group in pdi.cdo_groups:
            yield (
                f"    CDO group {group.name!r} ({group.type}): PDI id 0x{group.pdi_id:x}, kernels "
                f"{_hexadecimal(group.dpu_kernel_ids)}, after {_hexadecimal(group.pre_cdo_groups)}"
            )


def _kernel(kernel: DeclaredKernel, tags: Sequence[str]) -> Iterator[str]:
    number = "none" if kernel.dpu_kernel_id is None else f"0x{kernel.dpu_kernel_id:x}"
    instances = ", ".join(kernel.instances)
    yield f"  kernel {kernel.name} ({kernel.type}), id {number}, instances: {instances}"
    for argument in kernel.arguments:
        memory = ""
        if argument.memory is not None:
            known = argument.memory < len(tags)
            memory = f" in memory {argument.memory} ({tags[argument.memory] if known else '?'})"
        yield (
            f"    argument {argument.index}: {argument.type} {argument.name}, "
            f"{argument.size} bytes at 0x{argument.offset:x}, {argument.qualifier}{memory}"
        )


def _stream(stream: _Stream) -> Iterator[str]:
    transaction = stream.transaction
    major, minor = transaction.version
    yield f"instruction stream, {transaction.size:,} bytes"
    yield (
        f"  version {major}.{minor}, {transaction.device}, columns {transaction.columns}, rows "
        f"{transaction.rows}, rows of memory {transaction.memory_rows}, operations "
        f"{len(transaction.operations)}"
    )
    for operation in transaction.operations:
        yield f"    {operation.offset:>6}  {_describe(operation)}"
    if stream.not_interpreted:
        yield f"  transfers not interpreted: {stream.not_interpreted}"
        return
    yield "  transfers (shape and strides in 32-bit words, innermost first)"
    yield _TRANSFER_COLUMNS.format(
        "byte", "channel", "bd", "arg", "first", "last", "bytes", "shape", "strides", "executions"
    )
    for transfer in stream.transfers:
        channel = f"{transfer.column} {transfer.direction} {transfer.channel}"
        yield _TRANSFER_COLUMNS.format(
            transfer.offset,
            channel,
            transfer.bd,
            transfer.argument,
            transfer.first,
            transfer.last - 1,
            transfer.total_bytes,
            str(list(transfer.shape)),
            str(list(transfer.strides)),
            f"{transfer.executions}{_waited(transfer)}",
        )


def _waited(transfer: Transfer) -> str:
    if transfer.awaited:
        return ", waited for"
    return ", token" if transfer.token else ""


@singledispatch
def _describe(operation: Operation) -> str:
    raise TypeError(operation)


@_describe.register
def _(operation: Write32) -> str:
    return f"WRITE32     {_register(operation.address)} = 0x{operation.value:08x}"


@_describe.register
def _(operation: BlockWrite) -> str:
    words = [f"{word:08x}" for word in operation.words[:_WORDS_PER_LINE]]
    more = f" and {len(operation.words) - len(words)} more" if operation.words[len(words) :] else ""
    return f"BLOCKWRITE  {_register(operation.address)} = {' '.join(words)}{more}"


@_describe.register(MaskWrite)
@_describe.register(MaskPoll)
def _(operation: MaskWrite | MaskPoll) -> str:
    name, relation = ("MASKWRITE", "=") if isinstance(operation, MaskWrite) else ("MASKPOLL", "==")
    return (
        f"{name:<11} {_register(operation.address)} {relation} 0x{operation.value:08x} "
        f"in the bits 0x{operation.mask:08x}"
    )


@_describe.register
def _(operation: AddressPatch) -> str:
    return (
        f"DDR_PATCH   {_register(operation.address)} = address of argument {operation.argument} "
        f"+ {operation.plus}"
    )


@_describe.register
def _(operation: Sync) -> str:
    known = operation.direction < len(DIRECTIONS)
    direction = DIRECTIONS[operation.direction] if known else str(operation.direction)
    return (
        f"SYNC        {direction} channel {operation.channel} of {operation.columns} x "
        f"{operation.rows} tiles from ({operation.column}, {operation.row})"
    )


@_describe.register
def _(operation: LoadPdi) -> str:
    return f"LOAD_PDI    id {operation.id}, {operation.size} bytes at 0x{operation.address:x}"


@_describe.register
def _(operation: Other) -> str:
    return f"{operation.name:<11} {operation.payload[:32].hex()}"


def _register(address: int) -> str:
    tile = ArrayTile.of(address)
    return f"({tile.column}, {tile.row}) 0x{tile.register:05x}"


def _hexadecimal(numbers: Sequence[int]) -> str:
    return "[" + ", ".join(f"0x{number:x}" for number in numbers) + "]"


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"at second {seconds}"

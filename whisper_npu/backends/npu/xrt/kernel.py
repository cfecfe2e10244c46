"""A kernel of the registry on the device: its buffers, programs and launches."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import cached_property
from operator import is_
from typing import Any

import numpy as np

from whisper_npu.backends.npu.binaries.transaction import decode_transaction
from whisper_npu.backends.npu.binaries.transfers import decode_transfers
from whisper_npu.backends.npu.binaries.xclbin import MAX_FILE_SIZE, parse_xclbin
from whisper_npu.backends.npu.contract import Argument, KernelContract
from whisper_npu.backends.npu.device import (
    Buffer,
    BufferRefused,
    DeviceError,
    LaunchFailed,
    LaunchTimedOut,
    Program,
)
from whisper_npu.backends.npu.families import family_of
from whisper_npu.backends.npu.registry import KernelEntry
from whisper_npu.backends.npu.xrt.buffers import XrtBuffer
from whisper_npu.backends.npu.xrt.launch import Launcher, NotOver
from whisper_npu.backends.npu.xrt.open_npu import OpenNpu
from whisper_npu.backends.npu.xrt.pyxrt_errors import PYXRT_ERRORS, code, context_refused, is_busy
from whisper_npu.errors import KernelError
from whisper_npu.files.whole import read_file

# The heap that all instructions have to fit into.
_MAX_INSTRUCTIONS = 64 << 20


class XrtProgram:
    """Instructions in a buffer; see ``whisper_npu.backends.npu.device.Program``.

    ``sizes`` has the bytes that a launch touches of each data buffer, from its start.
    """

    def __init__(
        self,
        contract: KernelContract,
        shape: tuple[int, ...],
        buffer: XrtBuffer,
        sizes: Sequence[int],
    ) -> None:
        self.contract = contract
        self.shape = shape
        self.sizes = tuple(sizes)
        # Counted in 32-bit words, as AMD's own programs do.
        words = buffer.nbytes // 4
        self.arguments = ((buffer.memory.bo, buffer.memory), (words, words))


class XrtKernel:
    """A kernel in a hardware context; see ``whisper_npu.backends.npu.device.Kernel``.

    The context may have to make room for another kernel's; the next launch makes it again.
    """

    def __init__(self, device: OpenNpu, entry: KernelEntry) -> None:
        self._device = device
        self._entry = entry
        self._closed = False
        self._xclbin = _load_xclbin(device, entry)
        self._data = [a for a in self.contract.arguments if a.role in ("input", "output")]
        # What was checked last, and the arguments 1, 2, ... that it came to.
        self._checked: tuple[object, ...] = ()
        self._arguments: list[tuple[Any, object]] = []
        with device.lock:
            launcher = self._launcher()
            try:
                self._groups = launcher.groups(
                    a.index for a in self.contract.arguments if a.direction is not None
                )
            except PYXRT_ERRORS as error:
                device.contexts.drop(self)
                raise context_refused(self.contract.name, error) from error

    @property
    def contract(self) -> KernelContract:
        return self._entry.contract

    def buffer(self, argument: int, nbytes: int) -> XrtBuffer:
        """See ``whisper_npu.backends.npu.device.Kernel``."""
        known = next((a for a in self._data if a.index == argument), None)
        if known is None:
            raise BufferRefused(
                f"kernel {self.contract.name}: argument {argument} is not a data buffer"
            )
        if nbytes < 1 or known.bytes not in (None, nbytes):
            raise BufferRefused(
                f"{self._what(known)}: takes {known.bytes or 'at least 1'} bytes, not {nbytes}"
            )
        return self._buffer(known, "host_only", nbytes)

    def program(self, shape: tuple[int, ...]) -> XrtProgram:
        """See ``whisper_npu.backends.npu.device.Kernel``.

        Instructions are those of the contract's file, or made for the shape if it names none.
        """
        if self.contract.instructions:
            stream, sizes = self._fixed(shape)
        else:
            stream, sizes = family_of(self._entry).instructions(shape)
        buffer = self._buffer(self._instructions, "cacheable", len(stream))
        buffer.array[:] = np.frombuffer(stream, np.uint8)
        buffer.to_device()
        return XrtProgram(self.contract, shape, buffer, sizes)

    def launch(self, program: Program, buffers: Sequence[Buffer]) -> None:
        """See ``whisper_npu.backends.npu.device.Kernel``.

        Launches of one device run one after the other. An interrupted one (Ctrl-C) is waited for.
        """
        device = self._device
        with device.lock:
            arguments = self._check(program, buffers)
            launcher = self._launcher()
            try:
                launcher.launch(arguments, device.launch_timeout_s)
            except NotOver:
                device.contexts.drop(self)
                raise LaunchTimedOut(
                    f"kernel {self.contract.name}: the launch is not over after "
                    f"{device.launch_timeout_s:g} s; its context is given up and its buffers must "
                    "not be used again"
                ) from None
            except BaseException:
                device.contexts.drop(self)
                raise

    def close(self) -> None:
        """See ``whisper_npu.backends.npu.device.Kernel``."""
        with self._device.lock:
            self._closed = True
            self._checked, self._arguments = (), []
            self._device.contexts.drop(self)

    @cached_property
    def _instructions(self) -> Argument:
        return next(a for a in self.contract.arguments if a.role == "instructions")

    def _what(self, argument: Argument) -> str:
        return f"kernel {self.contract.name}, argument {argument.index} ({argument.name})"

    def _launcher(self) -> Launcher:
        return self._device.contexts.get(self, self.contract.name, self._make_launcher)

    def _make_launcher(self) -> Launcher:
        name = self.contract.name
        device = self._device
        try:
            return Launcher(
                device.pyxrt, device.handle, self._xclbin.get_uuid(), self.contract.kernel, name
            )
        except PYXRT_ERRORS as error:
            if code(error) == errno.ENODEV:
                device.check_alive(f"kernel {name}")
            if is_busy(error):
                raise
            raise context_refused(name, error) from error

    def _buffer(self, argument: Argument, kind: str, nbytes: int) -> XrtBuffer:
        self._device.check_open()
        what = self._what(argument)
        group = self._groups[argument.index]
        memory = self._device.pool.take(what, kind, group, nbytes)
        return XrtBuffer(self._device.pyxrt, memory, what, nbytes)

    def _fixed(self, shape: tuple[int, ...]) -> tuple[bytes, list[int]]:
        contract = self.contract
        file = contract.instructions
        assert file is not None
        if shape:
            raise KernelError(f"kernel {contract.name}: has one shape, (), not {shape}")
        path = _present(self._entry, "instructions")
        stream = read_file(path, _MAX_INSTRUCTIONS, KernelError)
        if file.bytes not in (None, len(stream)):
            raise KernelError(f"{path}: has {len(stream)} bytes, the registry says {file.bytes}")
        sizes = [a.bytes or 0 for a in self._data]
        # The device writes where these say, in this process's memory.
        for transfer in decode_transfers(decode_transaction(stream, path), path):
            if transfer.argument >= len(sizes) or transfer.last > sizes[transfer.argument]:
                raise KernelError(
                    f"{path}: touches bytes up to {transfer.last} of data buffer "
                    f"{transfer.argument}; the registry's sizes are {sizes}"
                )
        return stream, sizes

    def _check(self, program: Program, buffers: Sequence[Buffer]) -> list[tuple[Any, object]]:
        """Arguments 1, 2, ... of a launch, as pairs of value and owner."""
        self._device.check_open()
        name = self.contract.name
        if self._closed:
            raise DeviceError(f"kernel {name}: is closed; open it again")
        these = (program, *buffers)
        if len(these) == len(self._checked) and all(map(is_, these, self._checked)):
            return self._arguments
        if not isinstance(program, XrtProgram) or program.contract is not self.contract:
            raise LaunchFailed(f"kernel {name}: the program is another kernel's")
        # A buffer more than the kernel has arguments ends the process in XRT.
        if len(buffers) != len(self._data):
            raise LaunchFailed(
                f"kernel {name}: takes {len(self._data)} data buffers, not {len(buffers)}"
            )
        arguments = list(program.arguments)
        for argument, buffer, size in zip(self._data, buffers, program.sizes, strict=True):
            if not isinstance(buffer, XrtBuffer):
                raise LaunchFailed(f"{self._what(argument)}: the buffer is another device's")
            if buffer.nbytes < size:
                raise LaunchFailed(
                    f"{self._what(argument)}: the buffer has {buffer.nbytes} bytes, a launch of "
                    f"shape {program.shape} touches {size}"
                )
            arguments.append((buffer.memory.bo, buffer.memory))
        self._checked, self._arguments = these, arguments
        return arguments


def _present(entry: KernelEntry, what: str) -> str:
    """The path of a file of the contract. Raises KernelError if it is not as it should be."""
    file = entry.contract.files.get(what)
    name = entry.contract.name
    if file is None:
        raise KernelError(f"kernel {name}: the registry names no {what} file")
    status = entry.file_status()[what]
    if status == "absent":
        raise KernelError(f"kernel {name}: {entry.path(file)} is missing; build it or put it there")
    if status == "wrong hash":
        raise KernelError(
            f"kernel {name}: {entry.path(file)} is not the file of the registry, which has sha256 "
            f"{file.sha256}"
        )
    return str(entry.path(file))


def _load_xclbin(device: OpenNpu, entry: KernelEntry) -> Any:
    """The kernel's xclbin, registered with the device."""
    contract = entry.contract
    if contract.device.pci_id != device.npu.pci_id:
        raise KernelError(
            f"kernel {contract.name}: is for {contract.device.name}, {contract.device.pci_id}; "
            f"this NPU is {device.npu.pci_id}"
        )
    path = _present(entry, "xclbin")
    content = parse_xclbin(read_file(path, MAX_FILE_SIZE, KernelError), path)
    kernel = next((k for k in content.kernels if k.name == contract.kernel), None)
    if kernel is None:
        there = ", ".join(k.name for k in content.kernels) or "none"
        raise KernelError(f"{path}: has no kernel {contract.kernel!r}; there are: {there}")
    if len(kernel.arguments) < len(contract.arguments):
        raise KernelError(
            f"{path}: kernel {contract.kernel!r} takes {len(kernel.arguments)} arguments, the "
            f"registry says {len(contract.arguments)}"
        )
    try:
        xclbin = device.pyxrt.xclbin(path)
        device.handle.register_xclbin(xclbin)
    except PYXRT_ERRORS as error:
        raise context_refused(contract.name, error) from error
    return xclbin

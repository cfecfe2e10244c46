"""From the name of a device to a machine that plans can run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from whisper_npu.backends.machine_options import (
    AUTO,
    CPU,
    NPU,
    PHOENIX,
    SOFTWARE,
    Check,
    MachineOptions,
    check_npu_precision,
)
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.errors import KernelError
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.model.precision import Precision
from whisper_npu.runtime.backend import Backend
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model, phase_graphs
from whisper_npu.runtime.placement import Policy, Region
from whisper_npu.runtime.usage import Usage

if TYPE_CHECKING:
    from whisper_npu.backends.cpu.backend import CpuBackend, UsableKernels
    from whisper_npu.backends.npu.backend import NpuBackend
    from whisper_npu.backends.npu.device import Device

# Where the driver puts the device's node.
_NODES = Path("/dev/accel")

Folders = Sequence[str | os.PathLike[str]]


def open_device(name: str) -> Device | None:
    """The device of this name of ``MachineOptions``; None for the CPU alone.

    ``auto`` is the NPU if there is one. ``software`` is made of the kernels' NumPy models, for
    tests. Raises KernelError if the NPU cannot be used.
    """
    return _OPENERS[name]()


def _no_device() -> None:
    """The CPU alone."""


def _open_npu() -> Device:
    # Only here, and only now, is pyxrt imported.
    from whisper_npu.backends.npu.xrt import open_device as open_xrt

    return open_xrt()


def _open_npu_if_there() -> Device | None:
    return _open_npu() if any(_NODES.glob("accel*")) else None


def _open_software() -> Device:
    from whisper_npu.backends.npu.software import SoftwareDevice

    return SoftwareDevice()


_OPENERS: Mapping[str, Callable[[], Device | None]] = {
    CPU: _no_device,
    NPU: _open_npu,
    AUTO: _open_npu_if_there,
    SOFTWARE: _open_software,
}


# Instruction sets on which int8 was measured to be faster than float32, with the time of a window
# of 30 s as a share of float32's (tiny.en, docs/performance.md). On ``scalar`` it is slower, and
# ``dotprod`` ran in an emulator only.
INT8_TIME: Mapping[str, float] = {
    "avx2": 0.39, "avx512": 0.30, "avx512_vnni": 0.22, "amx": 0.20
}  # fmt: skip


def choose_precision(
    asked: str,
    on_npu: bool,
    int8_weights: bool,
    kernels: UsableKernels | str,
    *,
    only_int8: bool = False,
) -> tuple[Precision, str]:
    """The precision of products with weights, and why. Raises OptionError.

    ``auto`` is int8 on an NPU, for a model that has nothing else (``only_int8``), and where it is
    faster: for INT8 weights, with verified kernels for an instruction set of ``INT8_TIME``.
    ``kernels`` are those of this CPU, or why there are none.
    """
    if on_npu:
        check_npu_precision(asked)
        return "int8", "the NPU's products are int8"
    if asked != AUTO:
        return cast(Precision, asked), "asked for"
    if only_int8:
        return "int8", "the model was converted for int8"
    if not int8_weights:
        return "float32", "the model's weights are not INT8"
    if isinstance(kernels, str):
        return "float32", kernels
    if kernels.failed:
        names = ", ".join(kernel.name for kernel in kernels.failed)
        return "float32", f"CPU kernels failed verification: {names}"
    isa = kernels.library.isa
    if isa not in INT8_TIME:
        return "float32", f"int8 was not measured to be faster than float32 on {isa}"
    return "int8", "INT8 weights and verified CPU kernels, with which int8 is faster"


def numpy_machine(usage: Usage | None = None) -> Machine:
    """NumPy alone."""
    return Machine(numpy_backends(), usage=usage or Usage())


def numpy_model(checkpoint: Checkpoint, precision: Precision = "float32") -> Model:
    """A model that runs on NumPy alone."""
    return Model(checkpoint, precision, numpy_machine())


def open_machine(
    device: Device | None,
    dims: ModelDimensions,
    options: MachineOptions,
    *,
    int8_weights: bool,
    only_int8: bool = False,
) -> Machine:
    """The machine for a model of these dimensions, on the device that ``options`` gave; its
    ``usage`` has the precision.

    With the device ``auto`` kernels are used where they are verified and predicted to be faster;
    without it wherever they are verified, and it is a KernelError that lists them all if an op has
    none, and one if a kernel does not open (NoContext: other programs have the NPU), unless
    fallback is allowed. Kernels compiled for this CPU are by default used where they are there; it
    is a KernelError if they were asked for and there are none.
    """
    kernels = _cpu_kernels(options.cpu_kernels)
    usage = _usage(options.precision, device is not None, int8_weights, kernels, only_int8)
    cpu = _cpu(kernels, usage)
    if device is None:
        return Machine((*cpu, *numpy_backends()), usage=usage)
    # Imported here: the CPU alone needs none of this.
    from whisper_npu.backends.numpy.host_rates import measure_host

    auto = options.device == AUTO
    npu = _npu(device, options.kernels, usage, options.check, options.check_rate)
    host = numpy_backends(measure_host())
    machine = Machine((npu, *cpu, *host), "auto" if auto else "npu", usage)
    if not auto and not options.allow_fallback:
        graphs = phase_graphs(dims, usage.precision)
        regions = [region for graph in graphs for region in machine.choose(graph)]
        require(npu, regions)
        try:
            npu.open(region.offer.kernel for region in regions if region.offer.launches)
        except KernelError:
            npu.close()
            raise
    usage.device = device.identity.name
    return machine


def describe_machine(
    name: str,
    precision: str,
    policy: Policy,
    kernels: Folders = (),
    cpu_kernels: bool | None = None,
    *,
    int8_weights: bool = True,
    only_int8: bool = False,
) -> tuple[Machine, list[str]]:
    """The machine that a device by name would give, to be printed; and the rates that it predicts
    with, as text.

    ``phoenix`` is described and not there: all kernels are taken to be verified. Raises OptionError
    for a precision that the device does not have, KernelError if the NPU cannot be used.
    """
    from whisper_npu.backends.numpy.host_rates import measure_host

    own = _cpu_kernels(cpu_kernels)
    usage = _usage(precision, name != CPU, int8_weights, own, only_int8)
    host = measure_host()
    backends: list[Backend] = []
    rates = [
        f"NumPy here: {host.flops / 1e9:.0f} GFLOPS, {host.bytes_per_second / 1e9:.1f} GB/s "
        "(measured now)"
    ]
    if name != CPU:
        npu = _npu(None if name == PHOENIX else open_device(name), kernels, usage)
        backends.append(npu)
        rates += npu.describe_rates()
    cpu = _cpu(own, usage)
    if cpu:
        rates.append(f"CPU kernels: {usage.instruction_set}; what they take is not predicted")
    return Machine((*backends, *cpu, *numpy_backends(host)), policy, usage), rates


def require(npu: NpuBackend, regions: Iterable[Region]) -> None:
    """Raise KernelError that lists every op that an NPU is for and no kernel can run, if there are
    any."""
    missing: dict[str, list[str]] = {}
    for region in regions:
        refused = {refusal.backend: refusal.reason for refusal in region.refusals}
        if npu.name in refused and region.ops[0].kind in npu.kinds:
            names = missing.setdefault(refused[npu.name], [])
            names += [f"{region.phase}/{op.name}" for op in region.ops]
    if missing:
        count = sum(map(len, missing.values()))
        listed = "; ".join(f"{', '.join(ops)}: {why}" for why, ops in missing.items())
        raise KernelError(
            f"{count} ops cannot run on the NPU ({listed}); verify its kernels with "
            "whisper-npu kernels verify, or let NumPy run them with --allow_fallback"
        )


def _npu(
    device: Device | None,
    kernels: Folders,
    usage: Usage,
    check: Check = "full",
    check_rate: float = 0.0,
) -> NpuBackend:
    """The NPU with the kernels that are verified on it; without a device, all kernels on a Phoenix
    as published figures describe it."""
    from whisper_npu.backends.npu.backend import NpuBackend
    from whisper_npu.backends.npu.kernel_rates import PHOENIX_CORE
    from whisper_npu.backends.npu.manager import KernelManager

    statuses = KernelManager(device, kernels).list()
    if device is None:
        rates = {status.name: PHOENIX_CORE for status in statuses}
    else:
        rates = {
            status.name: status.evidence.rates()
            for status in statuses
            if status.evidence is not None and status.evidence.passed
        }
    return NpuBackend(device, statuses, rates, usage, check_rate, proving=check == "full")


def _cpu_kernels(wanted: bool | None) -> UsableKernels | str:
    """The kernels of this CPU, or why there are none. Raises KernelError if they were asked for."""
    if wanted is False:
        return "CPU kernels are not wanted"
    from whisper_npu.backends.cpu.backend import usable_kernels

    found = usable_kernels()
    if wanted and isinstance(found, str):
        raise KernelError(found)
    return found


def _cpu(kernels: UsableKernels | str, usage: Usage) -> list[CpuBackend]:
    if isinstance(kernels, str):
        return []
    from whisper_npu.backends.cpu.backend import CpuBackend

    return [CpuBackend(kernels, usage)]


def _usage(
    asked: str, on_npu: bool, int8_weights: bool, kernels: UsableKernels | str, only_int8: bool
) -> Usage:
    precision, reason = choose_precision(asked, on_npu, int8_weights, kernels, only_int8=only_int8)
    instruction_set = None if isinstance(kernels, str) else kernels.library.isa
    return Usage(precision=precision, precision_reason=reason, instruction_set=instruction_set)

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
    MachineOptions,
    check_npu_precision,
)
from whisper_npu.backends.numpy import numpy_backends
from whisper_npu.errors import KernelError
from whisper_npu.model.builders import Precision
from whisper_npu.model.checkpoint import Checkpoint
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.runtime.backend import Backend
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.model import Model, phase_graphs
from whisper_npu.runtime.placement import Policy, Region
from whisper_npu.runtime.usage import Usage

if TYPE_CHECKING:
    from whisper_npu.backends.cpu.backend import CpuBackend
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


def choose_precision(asked: str | None, device: Device | None) -> Precision:
    """INT8 on a device, float32 without one, unless asked for. Raises OptionError."""
    if device is None:
        return cast(Precision, asked or "float32")
    check_npu_precision(asked)
    return "int8"


def numpy_machine(usage: Usage | None = None) -> Machine:
    """NumPy alone."""
    return Machine(numpy_backends(), usage=usage or Usage())


def numpy_model(checkpoint: Checkpoint, precision: Precision = "float32") -> Model:
    """A model that runs on NumPy alone."""
    return Model(checkpoint, precision, numpy_machine())


def open_machine(
    device: Device | None,
    dims: ModelDimensions,
    precision: Precision,
    options: MachineOptions,
) -> Machine:
    """The machine for a model of these dimensions, on the device that ``options`` gave.

    With the device ``auto`` kernels are used where they are verified and predicted to be faster;
    without it wherever they are verified, and it is a KernelError that lists them all if an op has
    none, and one if a kernel does not open (NoContext: other programs have the NPU), unless
    fallback is allowed. Kernels compiled for this CPU are by default used where they are there; it
    is a KernelError if they were asked for and there are none.
    """
    usage = Usage(precision=precision)
    cpu = _cpu(usage, options.cpu_kernels)
    if device is None:
        return Machine((*cpu, *numpy_backends()), usage=usage)
    # Imported here: the CPU alone needs none of this.
    from whisper_npu.backends.numpy.host_rates import measure_host

    auto = options.device == AUTO
    npu = _npu(device, options.kernels, usage, options.check_rate)
    host = numpy_backends(measure_host())
    machine = Machine((npu, *cpu, *host), "auto" if auto else "npu", usage)
    if not auto and not options.allow_fallback:
        regions = [r for graph in phase_graphs(dims, precision) for r in machine.choose(graph)]
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
    precision: Precision,
    policy: Policy,
    kernels: Folders = (),
    cpu_kernels: bool | None = None,
) -> tuple[Machine, list[str]]:
    """The machine that a device by name would give, to be printed; and the rates that it predicts
    with, as text.

    ``phoenix`` is described and not there: all kernels are taken to be verified. Raises KernelError
    if the NPU cannot be used.
    """
    from whisper_npu.backends.numpy.host_rates import measure_host

    usage = Usage(precision=precision)
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
    cpu = _cpu(usage, cpu_kernels)
    rates += [f"CPU kernels: {each.isa}; what they take is not predicted" for each in cpu]
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
    device: Device | None, kernels: Folders, usage: Usage, check_rate: float = 0.0
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
    return NpuBackend(device, statuses, rates, usage, check_rate)


def _cpu(usage: Usage, wanted: bool | None) -> list[CpuBackend]:
    """The kernels of this CPU, none if there are none or they are not wanted."""
    if wanted is False:
        return []
    from whisper_npu.backends.cpu.backend import open_cpu_backend

    found = open_cpu_backend(usage, required=wanted is True)
    return [] if found is None else [found]

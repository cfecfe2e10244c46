"""From the name of a device to a machine that plans can run on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_npu.errors import KernelError, OptionError
from whisper_npu.model.builders import PHASES, Precision, build_phase
from whisper_npu.model.dims import ModelDimensions
from whisper_npu.runtime.plan import Machine
from whisper_npu.runtime.usage import Usage

if TYPE_CHECKING:
    from whisper_npu.backends.cpu.kernels import CpuKernels
    from whisper_npu.backends.npu.device import Device
    from whisper_npu.runtime.planner import Planner, Policy

DEVICES = ("cpu", "npu", "auto", "software")
# Where the driver puts the device's node.
_NODES = Path("/dev/accel")

Folders = Sequence[str | os.PathLike[str]]


def open_device(name: str) -> Device | None:
    """The device of this name; None for the CPU alone.

    ``auto`` is the NPU if there is one. ``software`` is made of the kernels' NumPy models, for
    tests. Raises OptionError for another name, KernelError if the NPU cannot be used.
    """
    if name not in DEVICES:
        raise OptionError(f"device must be one of {', '.join(DEVICES)}, not {name!r}")
    if name == "software":
        from whisper_npu.backends.npu.software import SoftwareDevice

        return SoftwareDevice()
    if name == "npu" or (name == "auto" and any(_NODES.glob("accel*"))):
        # Only here, and only now, is pyxrt imported.
        from whisper_npu.backends.npu.xrt import open_device as open_xrt

        return open_xrt()
    return None


def choose_precision(asked: str | None, device: Device | None) -> str:
    """INT8 on a device, float32 without one, unless asked for. Raises OptionError."""
    if device is None:
        return asked or "float32"
    if asked not in (None, "int8"):
        raise OptionError(f"precision {asked!r} does not go with an NPU, whose products are int8")
    return "int8"


def make_machine(
    device: Device | None,
    dims: ModelDimensions,
    precision: Precision,
    *,
    kernels: Folders = (),
    auto: bool = False,
    allow_fallback: bool = False,
    check_rate: float = 1e-3,
    cpu_kernels: bool | None = None,
) -> Machine:
    """The machine for a model of these dimensions.

    With ``auto`` kernels are used where they are verified and predicted to be faster; without it
    wherever they are verified, and it is a KernelError that lists them all if an op has none, and
    one if a kernel does not open (NoContext: other programs have the NPU), unless
    ``allow_fallback``. ``cpu_kernels`` says whether to use the kernels compiled for this CPU: by
    default those that there are, and if True it is a KernelError if there are none.
    """
    if not 0 <= check_rate <= 1:
        raise OptionError(f"check_rate must be between 0 and 1, not {check_rate}")
    usage = Usage(precision=precision)
    cpu = _cpu_kernels(usage, cpu_kernels)
    if device is None:
        return Machine(usage, cpu=cpu)
    # Imported here: the CPU alone needs none of this.
    from whisper_npu.runtime.accelerator import Accelerator

    planner = _planner(device, "auto" if auto else "npu", kernels)
    accelerator = Accelerator(device, planner.choose, usage, check_rate)
    if not auto and not allow_fallback:
        graphs = [build_phase(phase, dims, precision=precision) for phase in PHASES]
        planner.require(graphs)
        try:
            accelerator.open(planner.kernels(graphs))
        except KernelError:
            accelerator.close()
            raise
    usage.device = device.identity.name
    return Machine(usage, accelerator, cpu)


def _cpu_kernels(usage: Usage, wanted: bool | None) -> CpuKernels | None:
    if wanted is False:
        return None
    from whisper_npu.backends.cpu.kernels import open_cpu_kernels

    return open_cpu_kernels(usage, required=wanted is True)


def _planner(device: Device | None, policy: Policy, kernels: Folders) -> Planner:
    from whisper_npu.backends.npu.manager import KernelManager
    from whisper_npu.runtime.cost import measure_host, measured_rates
    from whisper_npu.runtime.planner import Planner

    statuses = KernelManager(device, kernels).list()
    rates = {
        status.name: measured_rates(status.evidence)
        for status in statuses
        if status.evidence is not None and status.evidence.passed
    }
    return Planner(statuses, rates, measure_host(), policy)


def plan_device(name: str, policy: Policy, kernels: Folders = ()) -> tuple[Planner, list[str]]:
    """A planner for a device by name, or for ``phoenix``, which is described and not there; and
    the rates that it predicts with, as text. Raises KernelError if the NPU cannot be used."""
    from whisper_npu.backends.npu.manager import KernelManager
    from whisper_npu.runtime.cost import PHOENIX_CORE, measure_host
    from whisper_npu.runtime.planner import Planner

    if name == "phoenix":
        statuses = KernelManager(None, kernels).list()
        described = {status.name: PHOENIX_CORE for status in statuses}
        planner = Planner(statuses, described, measure_host(), policy)
    else:
        planner = _planner(open_device(name), policy, kernels)
    return planner, planner.describe_rates()

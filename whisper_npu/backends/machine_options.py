"""What a model is to be computed on: the options of a transcriber, checked when they are made.

NumPy is not imported here: the command line checks its options before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from whisper_npu.errors import OptionError
from whisper_npu.model.precision import PRECISIONS
from whisper_npu.runtime.threads import check_threads
from whisper_npu.values import use_python_values

if TYPE_CHECKING:
    from whisper_npu.backends.npu.device import Device

# ``AUTO`` is a precision too.
CPU, NPU, AUTO = "cpu", "npu", "auto"
DEVICES = (CPU, NPU, AUTO)
# Of launches on a device: each is proven, or some are compared with NumPy (``check_rate``).
Check = Literal["full", "sample"]
# Made of the kernels' NumPy models, to try everything above a device. Not listed in messages.
SOFTWARE = "software"
# As published figures describe it: to be printed, and not there.
PHOENIX = "phoenix"


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """The keywords of ``Transcriber``, which describes them.

    Raises OptionError for a value that an option does not take.
    """

    device: str | Device = CPU
    precision: str = AUTO
    kernels: Sequence[str | os.PathLike[str]] = ()
    allow_fallback: bool = False
    check: Check = "full"
    check_rate: float = 1e-3
    cpu_kernels: bool | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        use_python_values(self)
        if isinstance(self.device, str):
            _check_member("device", self.device, DEVICES, (SOFTWARE,))
        _check_member("precision", self.precision, (AUTO, *PRECISIONS))
        if isinstance(self.kernels, str | os.PathLike):
            object.__setattr__(self, "kernels", (self.kernels,))
        if not isinstance(self.kernels, tuple):
            raise OptionError(f"kernels must be a list of folders, not {self.kernels!r}")
        _check_member("allow_fallback", self.allow_fallback, (True, False))
        _check_member("cpu_kernels", self.cpu_kernels, (True, False, None))
        _check_member("check", self.check, get_args(Check))
        if not isinstance(self.check_rate, int | float) or not 0 <= self.check_rate <= 1:
            raise OptionError(f"check_rate must be between 0 and 1, not {self.check_rate!r}")
        if self.threads is not None:
            check_threads(self.threads)
        if self.device in (NPU, SOFTWARE):
            check_npu_precision(self.precision)


def check_npu_precision(precision: str) -> None:
    """Raise OptionError for a precision that the products of an NPU do not have."""
    if precision not in (AUTO, "int8"):
        raise OptionError(
            f"precision {precision!r} does not go with an NPU, whose products are int8"
        )


def _check_member(
    name: str, value: object, listed: Sequence[object], unlisted: Sequence[object] = ()
) -> None:
    if value not in (*listed, *unlisted):
        raise OptionError(f"{name} must be one of {', '.join(map(str, listed))}, not {value!r}")

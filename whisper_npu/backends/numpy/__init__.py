"""NumPy: the specification of every op, and faster ways to compute some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whisper_npu.backends.numpy.fast import FastNumPy
from whisper_npu.backends.numpy.specification import Specification
from whisper_npu.runtime.backend import Backend

if TYPE_CHECKING:
    from whisper_npu.backends.numpy.host_rates import HostRates


def numpy_backends(host: HostRates | None = None) -> tuple[Backend, ...]:
    """Both backends of NumPy, the faster first; with ``host`` they predict what ops take."""
    return FastNumPy(host), Specification(host)

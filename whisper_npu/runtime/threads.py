"""How many threads to compute with: one number for NumPy's products, workers and CPU kernels.

NumPy is not imported here: the command line checks its options before.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from whisper_npu.errors import OptionError

# More are no machine's, but a mistake.
MOST_THREADS = 256


def check_threads(count: object) -> None:
    """Raise OptionError unless ``count`` is a number of threads."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_THREADS:
        raise OptionError(f"threads must be a whole number from 1 to {MOST_THREADS}, not {count!r}")


def default_threads() -> int:
    """``OMP_NUM_THREADS``, else the number of physical cores that this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return physical_cores()


@cache
def physical_cores() -> int:
    """The number of physical cores that this process may run on."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)

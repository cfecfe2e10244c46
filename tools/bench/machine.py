"""What the machine does meanwhile: whose CPU time a measurement took, and how much memory.

Everything is read from Linux's /proc. Nothing here imports more than it must: it runs in the
processes whose start is measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_MB = 2**20

# A measurement is disturbed if other processes took this share of all CPUs meanwhile,
MAX_FOREIGN = 0.03
# if its own threads were kept waiting for this share of it while others ran,
MAX_WAITED = 0.04
# or if the host of a virtual machine took this share of all CPUs.
MAX_STOLEN = 0.02
# The kernel counts the time of all CPUs in ticks: a few of them are no evidence.
TICKS = 3


@dataclass(frozen=True)
class Load:
    """Seconds of a measurement: as the clock goes, and of all CPUs together.

    ``cpu`` is the CPU time of the measured process, ``waited`` how long its threads were ready but
    on no CPU, ``foreign`` the CPU time of everything else (below zero by some ticks where there
    was nothing else), and ``stolen`` what the host of a virtual machine kept.
    """

    wall: float
    cpu: float
    waited: float
    foreign: float
    stolen: float
    n_cpus: int

    @property
    def disturbed(self) -> bool:
        whole = self.wall * self.n_cpus
        slack = TICKS * _TICK
        # A process with more threads than CPUs makes its own wait: that is no disturbance.
        kept_waiting = min(self.waited, self.foreign)
        return (
            self.foreign > MAX_FOREIGN * whole + slack
            or kept_waiting > MAX_WAITED * self.wall + _TICK
            or self.stolen > MAX_STOLEN * whole + slack
        )

    def why(self) -> str:
        """What disturbed it, as text."""
        return (
            f"disturbed: in {self.wall:.2f} s others took {self.foreign:.2f} s of "
            f"{self.n_cpus} CPUs, it waited {self.waited:.2f} s, the host kept {self.stolen:.2f} s"
        )

    @classmethod
    def total(cls, loads: Sequence[Load]) -> Load:
        """Of measurements that followed each other."""
        *seconds, _ = map(sum, zip(*map(astuple, loads), strict=True))
        return cls(*seconds, loads[0].n_cpus)

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Reading:
    """Clocks at a moment, in seconds; differences of two are a :class:`Load`."""

    wall: float
    busy: float
    stolen: float
    waited: float

    @classmethod
    def now(cls) -> Reading:
        busy, stolen = _machine_seconds()
        return cls(time.perf_counter(), busy, stolen, _waited_seconds())

    def load_since(self, start: Reading, cpu: float) -> Load:
        """The load since ``start``, of which the measured process took ``cpu`` seconds."""
        return Load(
            wall=self.wall - start.wall,
            cpu=cpu,
            waited=self.waited - start.waited,
            foreign=self.busy - start.busy - cpu,
            stolen=self.stolen - start.stolen,
            n_cpus=os.cpu_count() or 1,
        )


class Meter:
    """Measures the load that this process is under while it runs something."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._start = Reading.now()

    def stop(self) -> Load:
        end = Reading.now()
        return end.load_since(self._start, time.process_time() - self._cpu)


def _machine_seconds() -> tuple[float, float]:
    """CPU time of all processes on all CPUs since the start, and what a host kept for others."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(int, fields[:8])
    return (user + nice + system + interrupts + soft_interrupts) * _TICK, stolen * _TICK


def _waited_seconds() -> float:
    """How long all threads of this process have been ready to run but waiting for a CPU."""
    total = 0
    for thread in Path("/proc/self/task").iterdir():
        try:
            total += int((thread / "schedstat").read_text().split()[1])
        except (OSError, IndexError):  # the thread ended, or the kernel does not count
            continue
    return total * 1e-9


def peak_memory_mb() -> float:
    """The most memory this process ever had resident, in MiB."""
    # From the kernel: what getrusage says includes the process that this one was started by.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / _MB
    raise RuntimeError("/proc/self/status has no VmHWM")


def choose_cpus(threads: int) -> list[int]:
    """CPUs of ``threads`` different cores; of the same cores only if there are no others.

    Raises ValueError if this process may not use as many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if threads > len(allowed):
        raise ValueError(f"{threads} threads need as many CPUs; there are {len(allowed)}")
    first_of_core: dict[str, int] = {}
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        first_of_core.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    first = list(first_of_core.values())
    return [*first, *(cpu for cpu in allowed if cpu not in first)][:threads]


def describe() -> dict[str, Any]:
    """CPU, instruction sets that matter, memory and kernel of this machine."""
    info = Path("/proc/cpuinfo").read_text()
    first = (line.partition(":") for line in info.split("\n\n")[0].splitlines())
    lines = {key.strip(): value.strip() for key, _, value in first}
    flags = set(lines.get("flags", "").split())
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": lines.get("model name", os.uname().machine),
        "cpus": os.cpu_count(),
        "instructions": [flag for flag in wanted if flag in flags],
        "memory_gib": round(memory / 2**30, 1),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
    }

"""What crosses between host and NPU for each window and each token, by model size.

From the shapes alone, with every product on the kernel that the described Phoenix runs fastest;
needs neither weights nor a device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from tools.markdown import markdown_table
from whisper_npu.backends.opening import describe_machine
from whisper_npu.model.builders import PHASES, TOKEN_PHASES, WINDOW_PHASES, build_phase
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.runtime.machine import Machine
from whisper_npu.runtime.placement import PlacedOp, placed_ops

SIZES = ("tiny", "base", "small", "medium", "large-v3", "large-v3-turbo")


@cache
def phoenix() -> Machine:
    """The described NPU with all of our kernels, and NumPy here."""
    return describe_machine("phoenix", "int8", "npu")[0]


def placed(size: str) -> tuple[list[PlacedOp], list[PlacedOp]]:
    """The ops of a window and those of a token, where ``--policy npu`` has them on a Phoenix."""
    graphs = [build_phase(phase, KNOWN_DIMENSIONS[size], precision="int8") for phase in PHASES]
    ops = [op for graph in graphs for op in placed_ops(phoenix().choose(graph))]
    return (
        [op for op in ops if op.phase in WINDOW_PHASES],
        [op for op in ops if op.phase in TOKEN_PHASES],
    )


def cells(ops: Iterable[PlacedOp]) -> list[str]:
    """Launches, MB in, MB out."""
    listed = list(ops)
    launches = sum(op.launches for op in listed)
    moved = (sum(op.bytes_in for op in listed), sum(op.bytes_out for op in listed))
    return [f"{launches:,}", *(f"{nbytes / 1e6:,.3f}" for nbytes in moved)]


def lines() -> Iterator[str]:
    columns = ("launches", "MB in", "MB out")
    titles = [f"{column} per {what}" for what in ("window", "token") for column in columns]
    rows = []
    for size in SIZES:
        window, token = placed(size)
        resident = {(op.backend, op.weight): op.resident_bytes for op in (*window, *token)}
        megabytes = f"{sum(resident.values()) / 1e6:,.1f}"
        rows.append([size, *cells(window), *cells(token), megabytes])
    yield from markdown_table(["model", *titles, "MB of resident weights"], rows)

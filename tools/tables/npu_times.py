"""What ``whisper-npu plan`` predicts for a described Phoenix and NumPy on this machine.

Predictions from published figures (backends/npu/kernel_rates.py); no such device was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tools.markdown import markdown_table
from tools.tables.npu_traffic import SIZES, placed
from whisper_npu.backends.npu.families.gemm import gemm_bounds, gemm_shape, product_shape
from whisper_npu.backends.npu.kernel_rates import PHOENIX_CORE
from whisper_npu.backends.npu.packing import GemmTile
from whisper_npu.model.builders import WINDOW_PHASES, build_phase
from whisper_npu.model.dims import KNOWN_DIMENSIONS


def lines() -> Iterator[str]:
    rows = []
    for size in SIZES:
        window, token = (sum(op.seconds for op in ops) for ops in placed(size))
        bounds = _bounds(size)
        binds = ", ".join(f"{name} {count}" for name, count in bounds.most_common())
        rows.append([size, f"{window:.1f} s", f"{token * 1e3:.0f} ms", binds])
    titles = ["model", "window, predicted", "token, predicted", "products bound by, of a window"]
    yield from markdown_table(titles, rows)


def _bounds(size: str) -> Counter[str]:
    """How many products of a window each part of the device binds, on the tile of 64 rows."""
    tile = GemmTile(64, 64, 64)
    found: Counter[str] = Counter()
    for phase in WINDOW_PHASES:
        graph = build_phase(phase, KNOWN_DIMENSIONS[size], 4, "int8")
        for op in graph.ops:
            if op.kind == "product_int8":
                shape = gemm_shape(tile, *product_shape(graph, op))
                bounds = gemm_bounds(shape, tile, PHOENIX_CORE)
                found[max(bounds, key=lambda name: bounds[name])] += 1
    return found

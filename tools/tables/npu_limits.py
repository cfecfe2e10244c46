"""What no software on Phoenix can go below, one window at a time (backends/npu/kernel_rates.py)."""

from __future__ import annotations

from collections.abc import Iterator

from tools.markdown import markdown_table
from tools.tables.npu_traffic import SIZES
from whisper_npu.backends.npu.kernel_rates import physical_limits
from whisper_npu.model.dims import KNOWN_DIMENSIONS

TOKENS = 100  # for a window of speech
WINDOW_SECONDS = 30


def lines() -> Iterator[str]:
    rows, bounds = [], []
    for size in SIZES:
        limits = physical_limits(KNOWN_DIMENSIONS[size])
        bounds = list(limits)
        products, weights = limits.values()
        whole = products + TOKENS * weights
        parts = (products, weights, TOKENS * weights, whole)
        milliseconds = (f"{1e3 * part:,.1f} ms" for part in parts)
        rows.append([size, *milliseconds, f"{WINDOW_SECONDS / whole:.0f}"])
    titles = (f"{TOKENS} tokens", f"window with {TOKENS} tokens", "times real time, at most")
    yield from markdown_table(["model", *bounds, *titles], rows)

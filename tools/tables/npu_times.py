"""What ``whisper-npu plan`` predicts for a described Phoenix and NumPy on this machine.

Predictions from published figures (backends/npu/kernel_rates.py); no such device was measured.
"""

from __future__ import annotations

from collections.abc import Iterator

from tools.markdown import markdown_table
from tools.tables.npu_traffic import SIZES, placed


def lines() -> Iterator[str]:
    rows = []
    for size in SIZES:
        window, token = (sum(op.seconds for op in ops) for ops in placed(size))
        rows.append([size, f"{window:.2f} s", f"{token * 1e3:.0f} ms"])
    yield from markdown_table(["model", "window, predicted", "token, predicted"], rows)

"""What crosses between host and NPU for each window and each token, by model size.

    python tools/traffic.py [SIZE ...] [--kernels DIR]

From the shapes alone, with every product on the kernel that the described Phoenix runs fastest;
needs neither weights nor a device. Sizes are the published ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from whisper_npu.backends.opening import describe_machine
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.runtime.placement import PlacedOp, placed_ops

SIZES = ("tiny", "base", "small", "medium", "large-v3", "large-v3-turbo")
_ROW = "| {} | {} | {} | {} | {} | {} | {} | {} |"


def cells(ops: Iterable[PlacedOp]) -> list[str]:
    """Launches, MB in, MB out."""
    listed = list(ops)
    launches = sum(op.launches for op in listed)
    moved = (sum(op.bytes_in for op in listed), sum(op.bytes_out for op in listed))
    return [f"{launches:,}", *(f"{nbytes / 1e6:,.3f}" for nbytes in moved)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", nargs="*", default=SIZES, metavar="SIZE")
    parser.add_argument("--kernels", action="append", default=[], metavar="DIR")
    args = parser.parse_args()
    machine, _ = describe_machine("phoenix", "int8", "npu", args.kernels)
    columns = ("launches", "MB in", "MB out")
    titles = [f"{column} a {what}" for what in ("window", "token") for column in columns]
    print(_ROW.format("model", *titles, "MB of resident weights"))
    print("|---|" + "--:|" * 7)
    for size in args.sizes:
        graphs = [build_phase(p, KNOWN_DIMENSIONS[size], precision="int8") for p in PHASES]
        ops = [op for graph in graphs for op in placed_ops(machine.choose(graph))]
        resident = {(op.backend, op.weight): op.resident_bytes for op in ops}
        print(_ROW.format(
            size,
            *cells(op for op in ops if op.phase != "step"),
            *cells(op for op in ops if op.phase == "step"),
            f"{sum(resident.values()) / 1e6:,.1f}",
        ))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

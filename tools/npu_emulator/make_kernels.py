"""Makes the folder of kernels that the emulator can run: registry.json and their xclbins.

tools/npu_emulator/run python tools/npu_emulator/make_kernels.py DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from build_xclbin import build_xclbin

REGISTRY = Path(__file__).resolve().parents[2] / "kernels" / "registry.json"
FAMILY = "gemm_int8"


def make_kernels(folder: Path) -> None:
    """The kernels of our own family, as the built-in registry describes them."""
    registry = json.loads(REGISTRY.read_text(encoding="utf-8"))
    # Its models are not here, and only the software device runs them.
    registry.pop("models", None)
    registry["kernels"] = [k for k in registry["kernels"] if k["family"] == FAMILY]
    for kernel in registry["kernels"]:
        path = folder / kernel["xclbin"]["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        tile = kernel["tile"]
        build_xclbin(path, FAMILY, (tile["m"], tile["k"], tile["n"]))
    (folder / "registry.json").write_text(json.dumps(registry, indent=2), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    make_kernels(parser.parse_args().folder)

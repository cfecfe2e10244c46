"""``whisper-npu graph``: print the op graph of a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from whisper_npu.errors import ModelError
from whisper_npu.model.builders import PHASES, PRECISIONS, build_phase
from whisper_npu.model.dims import KNOWN_DIMENSIONS, ModelDimensions, dimensions_from_config
from whisper_npu.model.json_file import read_json
from whisper_npu.model.report import FORMATS, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--model",
        required=True,
        help="a model folder (only its config.json is read), or the name of a published size: "
        + ", ".join(KNOWN_DIMENSIONS),
    )
    parser.add_argument("--phase", choices=PHASES, help="one phase only (default: all)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="default: %(default)s"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Print the graphs on stdout."""
    dims = _dimensions(args.model)
    phases = [args.phase] if args.phase else list(PHASES)
    print(
        render(
            [build_phase(phase, dims, precision=args.precision) for phase in phases], args.format
        )
    )
    return 0


def _dimensions(model: str) -> ModelDimensions:
    folder = Path(model)
    if folder.is_dir():
        file = folder / "config.json"
        return dimensions_from_config(read_json(file), str(file))
    known = KNOWN_DIMENSIONS.get(model)
    if known is None:
        raise ModelError(
            f"{model}: neither a model folder nor one of {', '.join(KNOWN_DIMENSIONS)}"
        )
    return known

"""``whisper-npu graph``: print the op graph of a model."""

from __future__ import annotations

import argparse

from whisper_npu.cli.dimensions import dimensions_of
from whisper_npu.cli.process import say
from whisper_npu.model.builders import PHASES, build_phase
from whisper_npu.model.dims import KNOWN_DIMENSIONS
from whisper_npu.model.precision import PRECISIONS
from whisper_npu.model.report import GRAPH_FORMATS, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--model",
        required=True,
        help="a model folder (only its config.json is read), or the name of a published size: "
        + ", ".join(KNOWN_DIMENSIONS),
    )
    parser.add_argument("--phase", choices=PHASES, help="one phase only; if not given, all")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of products with weights"
    )
    parser.add_argument("--format", choices=GRAPH_FORMATS, default="text", help="what to print")


def run(args: argparse.Namespace) -> int:
    """Print the graphs on stdout."""
    dims = dimensions_of(args.model)
    phases = [args.phase] if args.phase else list(PHASES)
    say(
        render(
            [build_phase(phase, dims, precision=args.precision) for phase in phases], args.format
        )
    )
    return 0

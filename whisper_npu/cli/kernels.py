"""``whisper-npu kernels``: what there is to know about NPU kernels and their files."""

from __future__ import annotations

import argparse
from pathlib import Path

from whisper_npu.cli.kernels_build import build
from whisper_npu.cli.kernels_inspect import FORMATS, inspect
from whisper_npu.cli.kernels_list import LIST_DEVICES, LIST_FORMATS, list_kernels
from whisper_npu.cli.kernels_verify import DEVICES, status, verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    inspection = subparsers.add_parser(
        "inspect",
        help="print what is in xclbin files and instruction streams",
        description="Print what is in xclbin files and instruction streams. No XRT is needed.",
    )
    inspection.add_argument("files", nargs="+", metavar="FILE")
    inspection.add_argument(
        "--format", choices=FORMATS, default="text", help="default: %(default)s"
    )
    inspection.set_defaults(command=lambda args: inspect(args.files, args.format))
    building = subparsers.add_parser(
        "build",
        help="compile the kernels for this CPU, and verify them",
        description="Compile the kernels for this CPU with the C++ compiler that is there (CXX, or "
        "c++, g++, clang++) into the cache (WHISPER_NPU_HOME), and verify them against NumPy. From "
        "then on --device cpu uses them.",
    )
    building.add_argument("--force", action="store_true", help="even if that was done before")
    building.set_defaults(command=lambda args: build(args.force))
    listing = subparsers.add_parser(
        "list",
        help="print kernels with a verdict on each",
        description="Print our own kernels and those of your folders: the op that each could "
        "serve, whether its files are there, whether it is verified on this machine, and the "
        "computed verdict on its use.",
    )
    listing.add_argument(
        "--kernels",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of your own with a registry.json; may be given several times",
    )
    listing.add_argument(
        "--all",
        action="store_true",
        help="also the published kernels that are not ours (kernels/inventory)",
    )
    listing.add_argument(
        "--format", choices=LIST_FORMATS, default="text", help="default: %(default)s"
    )
    listing.add_argument(
        "--device",
        choices=LIST_DEVICES,
        default="auto",
        help="whose verification to show: the NPU if there is one (auto), or software (default: "
        "%(default)s)",
    )
    listing.set_defaults(
        command=lambda args: list_kernels(args.kernels, args.format, args.device, args.all)
    )
    verification = subparsers.add_parser(
        "verify",
        help="run kernels on a device against their NumPy models, and record the outcome",
        description="Run kernels on a device against their NumPy models, on inputs made to break "
        "them, and record the outcome as evidence. Without it no kernel is used.",
    )
    verification.add_argument("names", nargs="*", metavar="NAME", help="kernels (default: all)")
    verification.add_argument(
        "--export", type=Path, metavar="FILE", help="also write a report to send upstream"
    )
    _add_device(verification)
    verification.set_defaults(
        command=lambda args: verify(args.names, args.device, args.kernels, args.export)
    )
    state = subparsers.add_parser(
        "status",
        help="print what the evidence of this machine says of each kernel",
        description="Print what the evidence of this machine says of each kernel.",
    )
    state.add_argument("names", nargs="*", metavar="NAME", help="kernels (default: all)")
    state.add_argument(
        "--format", choices=LIST_FORMATS, default="text", help="default: %(default)s"
    )
    _add_device(state)
    state.set_defaults(
        command=lambda args: status(args.names, args.device, args.kernels, args.format)
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="npu",
        help="npu, or software: made of the NumPy models themselves, to try the procedure "
        "(default: %(default)s)",
    )
    parser.add_argument("--kernels", action="append", default=[], metavar="DIR")

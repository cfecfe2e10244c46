"""``whisper-npu kernels``: kernels of the NPU and of this CPU, and their files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module

from whisper_npu.cli.options import HelpFormatter

# Each is a module kernels_NAME beside this one, with ``add_arguments(parser)`` and ``run(args)``:
# name -> what the help says in a list, and by itself.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "inspect": (
        "print what is in xclbin files and instruction streams",
        "Print what is in xclbin files and instruction streams. No XRT is needed.",
    ),
    "build": (
        "compile the kernels for this CPU, and verify them",
        "Compile the kernels for this CPU with the C++ compiler that is there (CXX, or c++, g++, "
        "clang++; CXXFLAGS) into the cache (WHISPER_NPU_HOME), and verify them against NumPy. They "
        "are used in the place of those that were compiled when whisper-npu was installed.",
    ),
    "list": (
        "print kernels with a verdict on each",
        "Print our own kernels and those of your folders: the op that each could serve, whether "
        "its files are there, whether it is verified on this machine, and the computed verdict on "
        "its use.",
    ),
    "verify": (
        "run kernels on a device against their NumPy models, and record the outcome",
        "Run kernels on a device against their NumPy models, on inputs made to break them, and "
        "record the outcome as evidence. Without it no kernel is used.",
    ),
    "status": (
        "print what the evidence of this machine says of each kernel",
        "Print what the evidence of this machine says of each kernel.",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (short, long) in COMMANDS.items():
        module = import_module(f"whisper_npu.cli.kernels_{name}")
        command = subparsers.add_parser(
            name, help=short, description=long, formatter_class=HelpFormatter
        )
        command.set_defaults(command=module.run)
        module.add_arguments(command)

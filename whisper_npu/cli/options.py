"""Options that several commands have, and how all of them are declared."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from whisper_npu.backends.machine_options import NPU, SOFTWARE
from whisper_npu.errors import OptionError

FORMATS = ("text", "json")
# What kernels are verified on.
VERIFIED_ON = (NPU, SOFTWARE)
# Name, type, default, help.
Option = tuple[str, Callable[[str], Any], Any, str]


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that gives the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # An identity: 0 is a default to tell.
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


def flag(text: str) -> bool:
    """The value of an option that is True or False. Raises ArgumentTypeError."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")
    return text == "True"


def optional_int(text: str) -> int | None:
    """An integer, or None by that name."""
    return None if text == "None" else int(text)


def optional_float(text: str) -> float | None:
    """A number, or None by that name."""
    return None if text == "None" else float(text)


def count(text: str) -> int:
    """A number of things. Raises ArgumentTypeError."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, not {text!r}")
    return int(text)


def optional_count(text: str) -> int | None:
    """A number of things, or None by that name."""
    return None if text == "None" else count(text)


def channel(text: str) -> int | str | None:
    """A channel: its number, or else what may be its name, or None by that name."""
    return int(text) if text.isdecimal() else None if text == "None" else text


def add_options(group: argparse._ActionsContainer, options: Sequence[Option]) -> None:
    """Declare options, each under its name with underscores."""
    for name, kind, default, text in options:
        metavar = "{True,False}" if kind is flag else None
        group.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=text)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Declare ``--format``."""
    parser.add_argument("--format", choices=FORMATS, default="text", help="what to print")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Declare ``--dtype``, of which ``--precision`` is another name."""
    # Imported here, as most commands have no such option.
    from whisper_npu.model.weight_shapes import WEIGHT_DTYPES

    parser.add_argument(
        *("--dtype", "--precision"),
        choices=WEIGHT_DTYPES,
        default="int8",
        help="type of the tensors; float16 keeps the weights of published models as they are",
    )


def add_kernels(group: argparse._ActionsContainer) -> None:
    """Declare ``--kernels``."""
    group.add_argument(
        "--kernels",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder with kernels of your own (registry.json); may be given several times",
    )


def add_verification(parser: argparse.ArgumentParser) -> None:
    """Declare what kernels are verified, and on what device."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernels; if none is given, all")
    parser.add_argument(
        "--device",
        choices=VERIFIED_ON,
        default=NPU,
        help="npu, or software: made of the NumPy models themselves, to try the procedure",
    )
    add_kernels(parser)


@contextmanager
def as_options() -> Iterator[None]:
    """OptionErrors, whose messages begin with the name of a keyword, name the option instead."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"--{error}") from None

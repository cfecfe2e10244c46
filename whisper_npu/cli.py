"""The command line: one function per subcommand; exit codes are those of ``whisper_npu.errors``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

from whisper_npu.errors import WhisperNpuError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(list(_with_underscores(arguments)))
    try:
        return int(args.command(args))
    except WhisperNpuError as error:
        print(f"whisper-npu: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("whisper-npu: interrupted", file=sys.stderr)
        return INTERRUPTED


def transcribe(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``whisper-npu transcribe``: audio files to transcripts."""
    from whisper_npu.commands import transcribe as command
    from whisper_npu.commands.transcribe_options import add_arguments

    parser = subparsers.add_parser(
        "transcribe",
        help="transcribe audio files",
        description="Transcribe audio files. Options are openai-whisper's, with underscores or "
        "dashes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(command=command.run)


def graph(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``whisper-npu graph``: print the op graph of a model."""
    from whisper_npu.commands import graph as command

    parser = subparsers.add_parser(
        "graph", help="print the op graph", description="Print the op graph of a model."
    )
    command.add_arguments(parser)
    parser.set_defaults(command=command.run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="whisper-npu", description="Speech in, text out.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    transcribe(subparsers)
    graph(subparsers)
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

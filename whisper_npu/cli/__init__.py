"""The command line: its entry, which imports nothing that takes time.

An interrupt is answered while all else is imported; ``program`` has the commands.
"""

from __future__ import annotations

# What this names is for type checkers: the module ``typing`` takes longer than all that is here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# As a shell says of other programs: 128 and the number of SIGINT, of SIGPIPE, of SIGTERM.
INTERRUPTED = 130
NO_READER = 141
TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: all that is cleaned up after an interrupt is cleaned up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        from whisper_npu.cli.process import handling_signals, open_standard_streams

        open_standard_streams()
        with handling_signals():
            from whisper_npu.cli.program import run

            return run(argv)
    except KeyboardInterrupt as error:
        return stopped(type(error))


def stopped(kind: type[BaseException]) -> int:
    """Say that the command was stopped by an exception of this kind; gives the exit code."""
    from whisper_npu.terminal import note

    terminated = issubclass(kind, Terminated)
    note("terminated" if terminated else "interrupted")
    return TERMINATED if terminated else INTERRUPTED

"""The command line: its entry, which imports nothing that takes time.

An interrupt is answered while all else is imported; ``program`` has the commands.
"""

from __future__ import annotations

# What this names is for type checkers: the module ``typing`` takes longer than all that is here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        from whisper_npu.cli.process import handling_signals, open_standard_streams

        open_standard_streams()
        with handling_signals():
            from whisper_npu.cli.program import run

            return run(argv)
    except KeyboardInterrupt as error:
        from whisper_npu.cli.process import stopped

        return stopped(type(error))

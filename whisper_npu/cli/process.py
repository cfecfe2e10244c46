"""The process of a command: its standard streams, and the signals that stop it."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from whisper_npu.errors import OutputError
from whisper_npu.terminal import note, printable

# As a shell says of other programs: 128 and the number of SIGINT, of SIGTERM.
INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: all that is cleaned up after an interrupt is cleaned up."""


def stopped(kind: type[BaseException]) -> int:
    """Say that the command was stopped by an exception of this kind; gives the exit code."""
    terminated = issubclass(kind, Terminated)
    note("terminated" if terminated else "interrupted")
    return TERMINATED if terminated else INTERRUPTED


def open_standard_streams() -> None:
    """Make closed standard streams ``/dev/null``: no file of ours gets their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is given.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # None where they were closed when Python started, and without a console on Windows.
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


# The signals that have come, as exceptions.
_arrived: list[type[KeyboardInterrupt]] = []


def was_stopped() -> bool:
    """Whether a signal has come, whatever became of its exception: modules written in C make
    errors of their own of it while they are imported."""
    return bool(_arrived)


@contextmanager
def handling_signals() -> Iterator[None]:
    """SIGTERM stops a command as SIGINT does, with everything cleaned up.

    Raises KeyboardInterrupt, at last, if one has come.
    """
    hook, before = sys.unraisablehook, {}

    def unraisable(found: Any) -> None:
        """An interrupt where nothing can be raised, as in a callback, would be lost."""
        if issubclass(found.exc_type, KeyboardInterrupt):
            # What is left of files is removed by the next run.
            os._exit(stopped(found.exc_type))
        hook(found)

    # Not of the main thread of a program that calls this: signals are that one's.
    with suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            # A parent may have had them ignored.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, _stop)
    sys.unraisablehook = unraisable
    try:
        try:
            yield
        except BaseException:
            if not _arrived:
                raise
        if _arrived:
            raise _arrived[0]
    finally:
        _arrived.clear()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    _arrived.append(kind)
    raise kind


@contextmanager
def showing_warnings(quiet: bool) -> Iterator[None]:
    """Print warnings for the user, as one line each on stderr, unless ``quiet``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if quiet else "always", UserWarning)
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"warning: {message}")


def say(text: str = "", *, now: bool = False) -> None:
    """Print lines on stdout, ``now`` or when there are more, with what controls a terminal escaped
    and ? for what it cannot show.

    Raises BrokenPipeError if nobody reads, and OutputError; stdout is ``/dev/null`` then.
    """
    encoding = sys.stdout.encoding or "utf-8"
    lines = "\n".join(map(printable, text.split("\n")))
    with writing_stdout():
        print(lines.encode(encoding, "replace").decode(encoding), flush=now)


def flush_stdout() -> None:
    """Raises as ``say`` does."""
    with writing_stdout():
        sys.stdout.flush()


@contextmanager
def writing_stdout() -> Iterator[None]:
    """Raise BrokenPipeError if nobody reads, and OutputError for other errors of stdout, which is
    ``/dev/null`` then."""
    try:
        yield
    except OSError as error:
        # Python flushes what it has once more at its end.
        with suppress(io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"standard output: cannot be written: {error.strerror}") from error

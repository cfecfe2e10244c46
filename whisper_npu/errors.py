"""Errors a user can act on, each with the exit code that the command line gives it.

| exit code | meaning |
|---|---|
| 0 | every file was transcribed |
| 1 | an audio file could not be read or transcribed; the others were |
| 2 | an unknown option, or a value that an option does not take |
| 3 | the model could not be loaded, converted or pulled |
| 4 | an output could not be written |
| 5 | an NPU, a kernel or one of its files is missing, damaged or unfit |
| 130 | interrupted (Ctrl-C) |
| 141 | nobody reads the output any more |
| 143 | terminated (SIGTERM) |
"""

from __future__ import annotations

from whisper_npu.terminal import message

_LONGEST = 1000


class WhisperNpuError(Exception):
    """Base of all errors raised on purpose; the message is one line and names the culprit.

    As text it can be shown: control characters are escaped, and passwords and tokens hidden. What
    makes it longer than 1,000 characters, a value out of a damaged file, is left out.
    """

    exit_code = 1

    def __str__(self) -> str:
        # To look through megabytes for secrets takes seconds, and nothing of the middle is shown.
        text = message(_without_middle(super().__str__(), 20 * _LONGEST))
        return _without_middle(text, _LONGEST)


def _without_middle(text: str, longest: int) -> str:
    """At most so many characters: where it is begins a message, what to do ends it."""
    if len(text) <= longest:
        return text
    return f"{text[: longest * 2 // 3]} ... {text[5 - longest // 3 :]}"


class AudioError(WhisperNpuError):
    """An audio source that is missing, unreadable, empty or not audio."""


class OptionError(WhisperNpuError, ValueError):
    """An option that does not exist, has a value it does not take, or contradicts another."""

    exit_code = 2


class ModelError(WhisperNpuError):
    """A model directory that is missing, incomplete, damaged or inconsistent."""

    exit_code = 3


class OutputError(WhisperNpuError):
    """An output file or folder that cannot be written."""

    exit_code = 4


class KernelError(WhisperNpuError):
    """An NPU kernel, or a file of one, that is missing, damaged, unfit or fails.

    ``reason`` is a short word for reports.
    """

    exit_code = 5
    reason = "kernel"

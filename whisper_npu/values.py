"""Values of options as Python's own types, and those that audio and decoding both take.

NumPy is not imported here: the command line checks its options before.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from whisper_npu.errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


# A channel by its number from 0, as FFmpeg counts, or by name. None is the mix of all.
Channel = int | str | None
CHANNEL_NAMES = {"left": 0, "right": 1}
# All of them, one after the other.
EACH_CHANNEL = "each"


def python_value(value: Any) -> Any:
    """``value`` as bool, int, float or str, or as a tuple of these.

    Scalars and arrays of NumPy and PyTorch, lists and ranges become what ``json`` can write. Every
    other value stays what it is.
    """
    # Of NumPy's scalars and arrays, tensors, and arrays of the standard library.
    if callable(tolist := getattr(value, "tolist", None)):
        value = tolist()
    if isinstance(value, list | tuple | range):
        return tuple(python_value(item) for item in value)
    if isinstance(value, bool):
        return value
    # A fraction may be too large for a float.
    with suppress(OverflowError):
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real):
            return float(value)
    return value


def use_python_values(options: DataclassInstance) -> None:
    """Replace the values of a frozen dataclass, while it is made, by Python's own."""
    for each in fields(options):
        object.__setattr__(options, each.name, python_value(getattr(options, each.name)))


def checked_channel(value: object) -> Channel:
    """A ``Channel``, or ``EACH_CHANNEL``. Raises OptionError for what is neither."""
    channel: Channel = python_value(value)
    known = channel is None or channel in (EACH_CHANNEL, *CHANNEL_NAMES)
    if not known and (isinstance(channel, bool) or not isinstance(channel, int) or channel < 0):
        raise OptionError(f"channel: must be left, right, each, or a number from 0, not {value!r}")
    return channel

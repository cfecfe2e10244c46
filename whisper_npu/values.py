"""Values of options as Python's own types.

NumPy is not imported here: the command line checks its options before.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


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

"""Comparisons with openai-whisper say in what precision they are made.

What ``auto`` chooses depends on the machine: a suite that left it open would compare something
else on the next one, and on most the integers that differ on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from whisper_npu.backends import opening
from whisper_npu.backends.machine_options import AUTO

_TESTS = Path(__file__).parents[1]
FOLDERS = (_TESTS / "parity", _TESTS / "real")


def is_compared(item: pytest.Item) -> bool:
    """Whether a test is one of those suites, or runs openai-whisper."""
    in_suite = any(folder in item.path.parents for folder in FOLDERS)
    return in_suite or item.get_closest_marker("reference") is not None


@contextmanager
def precision_is_named() -> Iterator[None]:
    """Within it, loading a model is an AssertionError unless its precision is named."""
    choose = opening.choose_precision

    def checked(asked: str, *others: Any, **named: Any) -> Any:
        assert asked != AUTO, 'a comparison names no precision, such as "float32"'
        return choose(asked, *others, **named)

    with mock.patch.object(opening, "choose_precision", checked):
        yield

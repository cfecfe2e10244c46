"""Waiting for what another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds: longer than anything that is waited for takes. What has not come then never comes.
LIMIT = 60.0


def wait_for(condition: Callable[[], object], what: str = "it does not happen") -> None:
    """Wait until a condition holds. Fails with ``what`` if it never does."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)

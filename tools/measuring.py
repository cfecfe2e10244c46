"""What measurements have in common: taking turns, processes of their own, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]

T = TypeVar("T")


def seconds(action: Callable[[], object]) -> float:
    """What one call takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def by_turns(actions: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each action gives: all take turns, and every second round is in the opposite order.

    What changes slowly on a machine then falls on all of them alike.
    """
    found: dict[str, list[T]] = {name: [] for name in actions}
    for i in range(rounds):
        for name in list(actions)[:: -1 if i % 2 else 1]:
            found[name].append(actions[name]())
    return found


def in_new_process(code: str, *arguments: object, environment: Mapping[str, str] = {}) -> Any:
    """What Python code prints as its last line, which is JSON, in a process of its own.

    It imports from this checkout. Raises CalledProcessError if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )
    return json.loads(done.stdout.splitlines()[-1])


def relative_errors(value: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Root mean square of the error relative to that of the reference; largest to largest."""
    error = value - reference
    rms = np.sqrt(np.square(error).mean() / np.square(reference).mean())
    return float(rms), float(np.abs(error).max() / np.abs(reference).max())

"""The interface is what the snapshot says: nothing of it changes by accident."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.interface import interface

SNAPSHOT = Path(__file__).parents[1] / "data" / "interface.json"


def test_the_interface_is_that_of_the_snapshot() -> None:
    """If a change of it is meant, write the snapshot anew: see ``tests/cli/interface.py``."""
    assert interface() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))

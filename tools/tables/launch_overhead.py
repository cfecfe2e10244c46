"""What our code adds to a launch, beside bare pyxrt, on the emulator (npu_emulator/overhead.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from tools.measuring import REPOSITORY

EMULATOR = REPOSITORY / "tools" / "npu_emulator"


def lines() -> Iterator[str]:
    command = [EMULATOR / "run", "python", EMULATOR / "overhead.py"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=sys.stderr, check=True, text=True)
    yield from done.stdout.splitlines()

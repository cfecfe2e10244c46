"""Programs under the emulator that use our device; they begin with ``tests.npu.xrt_client``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.npu.emulator import Emulator

TIMEOUT_S = 300
PRELUDE = "from tests.npu.xrt_client import *\n"


def values(emulator: Emulator, code: str, *arguments: str | Path, **options: object) -> Any:
    """What the code says; it must end well."""
    done = run(emulator, code, *arguments, **options)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def run(
    emulator: Emulator, code: str, *arguments: str | Path, **options: object
) -> subprocess.CompletedProcess[str]:
    process = emulator.start(PRELUDE + code, *arguments, **options)
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)

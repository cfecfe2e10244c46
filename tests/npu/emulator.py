"""Runs programs under the NPU emulator (tools/npu_emulator)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = REPOSITORY / "tools" / "npu_emulator" / "run"
PRELUDE = "from tests.npu.client import *\n"


def environment() -> dict[str, str]:
    """This process's own without the emulator's options, in case it runs under one itself.

    WNE_LIBRARY stays: it is how the tests are run on another build of the emulator.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WNE_") or name == "WNE_LIBRARY"
    }


def why_not() -> str | None:
    """Why the emulator cannot be used here; None if it can."""
    done = subprocess.run(
        [RUN, "python", "-c", "import pyxrt"], env=environment(), capture_output=True, text=True
    )
    return None if done.returncode == 0 else done.stderr.strip() or "pyxrt cannot be imported"


class Emulator:
    """One emulated device of its own, and the programs that run on it.

    ``options`` are those of the wrapper, as keywords: ``latency_us=1000``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *arguments: str | Path, **options: object) -> list[str]:
        options.setdefault("device", self.folder / "device")
        flags = [x for name, value in options.items() for x in (_flag(name), str(value))]
        return [str(RUN), *flags, *map(str, arguments)]

    def start(self, code: str, *arguments: str | Path, **options: object) -> subprocess.Popen[str]:
        """Python code that begins with the names of ``tests.npu.client``."""
        return subprocess.Popen(
            self.command("python", "-c", PRELUDE + code, *arguments, **options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def run(
        self, code: str, *arguments: str | Path, **options: object
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(code, *arguments, **options)
        try:
            out, err = process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def output(self, code: str, *arguments: str | Path, **options: object) -> str:
        """What the code prints; it must end well."""
        done = self.run(code, *arguments, **options)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def value(self, code: str, *arguments: str | Path, **options: object) -> Any:
        """What the code prints as JSON."""
        return json.loads(self.output(code, *arguments, **options))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

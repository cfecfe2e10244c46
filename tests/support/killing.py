"""A program that is killed at a file-system event, any of them, and begun again.

``Killable`` starts a process that has imported everything. For each run that forks a child, which
sends itself SIGKILL or another signal when it is about to do the n-th thing that changes files:

    python -m tests.support.killing CODE < {"at": 3, "signal": 9} > {"status": -9, "events": 3}

``CODE`` defines ``action()``, which gives the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Audit events of what changes files: each is raised before the change.
_CHANGES = frozenset(
    f"os.{name}"
    for name in ("chmod", "chown", "link", "mkdir", "remove", "rename", "rmdir", "symlink")
) | {"os.truncate", "os.utime", "shutil.rmtree", "subprocess.Popen"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Seconds that processes of one that was killed, as compilers, may go on.
_PATIENCE = 30.0


class Killable:
    """Runs of an action, in the place of which each begins as it was at the start."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, at: int = 0, number: int = signal.SIGKILL) -> tuple[int, int]:
        """Run it, with a signal at event ``at`` (0: none); gives its exit status and the events."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"at": at, "signal": number}), file=self._process.stdin, flush=True)
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer["status"], answer["events"]


@contextmanager
def killable(code: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Killable]:
    """A process that runs ``code`` in ``folder``, which must be there for each run."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.killing", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
    )
    with process:
        yield Killable(process)
        assert process.stdin is not None
        process.stdin.close()


def _child(action: Any, at: int, number: int, report: int, folder: str) -> None:
    """Never returns."""
    os.setpgid(0, 0)
    os.chdir(folder)
    log = os.open(os.environ.get("KILLING_LOG", os.devnull), os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    events = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal events
        if event in _CHANGES or (event == "open" and arguments[2] & _WRITES):
            if arguments and arguments[0] == os.devnull:
                return
            events += 1
            os.pwrite(report, events.to_bytes(4, "little"), 0)
            if events == at:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    try:
        os._exit(action())
    except SystemExit as error:
        os._exit(int(error.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(99)


def _serve(code: str, folder: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)
    report = os.memfd_create("events")
    for line in sys.stdin:
        os.pwrite(report, bytes(4), 0)
        child = os.fork()
        if child == 0:
            asked = json.loads(line)
            _child(names["action"], asked["at"], asked["signal"], report, folder)
        _, status = os.waitpid(child, 0)
        # What it had started is not killed with it.
        end = time.monotonic() + _PATIENCE
        with suppress(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(child, 0)
                time.sleep(0.01)
        events = int.from_bytes(os.pread(report, 4, 0), "little")
        answer = {"status": os.waitstatus_to_exitcode(status), "events": events}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2])

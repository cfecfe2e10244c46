"""A worker from the other side: its process, and the requests that it answers."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# What the libraries of the runtimes read when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LAST_LINES = 15
_PR_SET_PDEATHSIG = 1


class WorkerError(Exception):
    """A worker ended or answered what it should not; the message has its last lines."""


class WorkerRefusal(Exception):
    """The runtime cannot do what it was asked for."""


def command(python: Path, task: Mapping[str, Any]) -> list[str]:
    """The command line of a worker; see ``worker.py`` for the task."""
    return [str(python), "-m", "tools.bench.worker", json.dumps(task)]


def variables(threads: int, own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker."""
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads))
    # Models are folders: nobody needs a network.
    offline = {"HF_HUB_OFFLINE": "1"}
    inherited = {
        # Installed packages have bytecode; a checkout has it from the second start on.
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**inherited, **limits, **offline, "PYTHONPATH": str(REPOSITORY), **own}


class Worker:
    """A context manager: leaving it ends the process.

    ``started`` is the moment of the start by ``time.perf_counter``.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(environment),
                preexec_fn=_die_with_parent,
            )

    def ready(self) -> str:
        """Wait until the model is loaded. Returns the runtime's version. Raises WorkerRefusal."""
        version: str = self._answer()["ready"]
        return version

    def request(self, **content: Any) -> dict[str, Any]:
        """Ask and wait for the answer. Raises WorkerRefusal and WorkerError."""
        self.send(**content)
        return self._answer()

    def send(self, **content: Any) -> None:
        """Ask without waiting; ``receive`` waits for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def receive(self) -> dict[str, Any]:
        """The answer to what was sent."""
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            raise self._failure() from None
        if "unsupported" in answer:
            raise WorkerRefusal(answer["unsupported"])
        return answer

    def _failure(self) -> WorkerError:
        lines = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return WorkerError(f"no answer from a worker ({self._log}):\n" + "\n".join(lines))

    def pause(self) -> None:
        """Stop all its threads: pools of some runtimes spin after their work is done."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> float:
        """Let it end by itself. Returns the CPU seconds that it took in all."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    # A paused worker would outlive a conductor that was killed, for ever.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

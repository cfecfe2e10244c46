"""A program that uses the CPU path, with or without what only POSIX systems have.

    python -m tests.support.portable_program hide|keep MODEL DEST AUDIO

prints what became of it, as JSON. ``hide`` takes fcntl, resource and their like away before
anything else is imported. What NumPy and the standard library themselves need here stays.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from typing import Any

MODULES = "fcntl grp pty pwd resource syslog termios tty"
OF_OS = (
    "chown chroot fchmod fchown fdatasync fork forkpty getegid geteuid getgid getgroups getloadavg "
    "getpgid getpriority getresuid getsid getuid getxattr initgroups killpg lchown lockf mkfifo "
    "mknod nice posix_fadvise posix_fallocate posix_spawn posix_spawnp pread preadv pwrite pwritev "
    "readv register_at_fork sched_getaffinity sched_getparam sched_getscheduler sched_setaffinity "
    "sched_setscheduler sched_yield sendfile setpgid setpriority setsid setuid setxattr sync "
    "writev O_ASYNC O_CLOEXEC O_DIRECT O_DSYNC O_NOATIME O_NOCTTY O_PATH O_SYNC O_TMPFILE"
)
OF_SIGNAL = "SIGALRM SIGCHLD SIGHUP SIGKILL SIGUSR1 SIGUSR2 alarm pthread_kill pthread_sigmask"
OF_TIME = "clock_getres clock_gettime pthread_getcpuclockid"
OF_MMAP = ("MAP_", "MADV_", "PROT_")


class _NamedLibrary(ctypes.CDLL):
    """No library without a name: the C library's ``renameat2`` and its like are not to be had."""

    def __init__(self, name: Any, *args: Any, **kwargs: Any) -> None:
        if name is None:
            raise TypeError("a library has to have a name here")
        super().__init__(name, *args, **kwargs)


def hide() -> None:
    """Take away what only POSIX systems have, and the files of Linux's /proc and /sys."""
    for name in MODULES.split():
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (time, OF_TIME)):
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    for name in dir(mmap):
        if name.startswith(OF_MMAP):
            delattr(mmap, name)
    ctypes.CDLL = _NamedLibrary  # type: ignore[misc]

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/", "/dev/accel")):
            raise FileNotFoundError(2, "No such file or directory", arguments[0])

    sys.addaudithook(refuse)


def use(model: str, dest: str, audio: str) -> dict[str, Any]:
    """Import everything, transcribe, convert, and run commands."""
    import contextlib
    import importlib
    import io
    import pkgutil
    from dataclasses import asdict
    from pathlib import Path

    import whisper_npu

    modules = [
        info.name
        for info in pkgutil.walk_packages(whisper_npu.__path__, "whisper_npu.")
        if not info.name.endswith("__main__")
    ]
    for name in modules:
        importlib.import_module(name)

    from whisper_npu.cli import main
    from whisper_npu.convert import convert
    from whisper_npu.runtime.packed import packed_folder
    from whisper_npu.transcriber import Transcriber

    results = []
    for _ in range(2):  # the second time from the packed file
        with Transcriber("demo") as transcriber:
            results.append(asdict(transcriber.transcribe(audio)))
        assert len(list(packed_folder().glob("*.weights"))) == 1
    convert(Path(model), Path(dest), calibrate=False)
    convert(Path(model), Path(dest), calibrate=False, force=True)
    outputs = {}
    for command in ("kernels list", "doctor", "models"):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            outputs[command] = [main(command.split()), text.getvalue()]
    return {"modules": modules, "results": results, "outputs": outputs}


if __name__ == "__main__":
    import json

    if sys.argv[1] == "hide":
        hide()
    print(json.dumps(use(*sys.argv[2:]), default=str))

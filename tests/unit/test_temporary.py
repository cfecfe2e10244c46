"""Temporary files and folders: removed at the end, and by the next process after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from whisper_npu.files import temporary, whole
from whisper_npu.files.temporary import (
    is_temporary,
    old_name,
    sweep,
    temporary_file,
    temporary_folder,
    temporary_name,
)
from whisper_npu.files.whole import replacing, replacing_folder

needs_locks = pytest.mark.skipif(temporary.fcntl is None, reason="needs locks of files")
KINDS = ("temporary_file", "temporary_folder")

# Makes one, says so, and waits to be killed.
HOLDER = """
import sys
from pathlib import Path
from whisper_npu.files import temporary
with getattr(temporary, sys.argv[1])(Path(sys.argv[2])) as path:
    if path.is_dir():
        (path / "inner").write_text("x")
    print(path, flush=True)
    sys.stdin.read()
"""


def holder(kind: str, path: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def leave(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


@needs_locks
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_killed_process_left_is_removed(tmp_path: Path, kind: str) -> None:
    process, path = holder(kind, tmp_path / "a.txt")
    assert is_temporary(path)
    sweep(tmp_path)
    assert path.exists(), "the process lives"
    leave(process)
    assert path.exists()
    # By whoever makes another there.
    with temporary_file(tmp_path / "b.txt") as own:
        assert os.listdir(tmp_path) == [own.name]
        sweep(tmp_path)
        assert own.exists()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_while_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    rmdir, unlink, interrupts = os.rmdir, Path.unlink, [KeyboardInterrupt()]

    def interrupted(*arguments: object, **options: object) -> None:
        if interrupts:
            raise interrupts.pop()
        (rmdir if kind == "temporary_folder" else unlink)(*arguments, **options)  # type: ignore

    monkeypatch.setattr(os, "rmdir", interrupted)
    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt), getattr(temporary, kind)(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path) == []


@needs_locks
def test_a_folder_is_swept_once_by_a_process(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt"):
        pass
    left = temporary_name(tmp_path / "b.txt")
    left.touch()
    with replacing(tmp_path / "b.txt"):
        pass
    assert left.exists()
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_names_of_others_stay(tmp_path: Path) -> None:
    names = [".a.txt", "a.whisper-npu-0123456789abcdef", ".a.0123456789abcdef.txt", ".x.part"]
    names += [".a.whisper-npu-0123456789abcdeg", "whisper-npu-old"]
    for name in names:
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    sweep(tmp_path / "none")


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    inner = tmp_path / "folder" / "inner"
    inner.parent.mkdir()
    inner.touch()
    path = temporary_name(tmp_path / "x")
    path.symlink_to(inner.parent)
    sweep(tmp_path)
    assert inner.exists()


@needs_locks
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_swept_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    flock = temporary.fcntl.flock
    calls = []

    def swept(descriptor: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            sweep(tmp_path)
        flock(descriptor, how)

    with temporary_file(tmp_path / "first"):
        pass
    monkeypatch.setattr(temporary.fcntl, "flock", swept)
    with getattr(temporary, kind)(tmp_path / "x") as path:
        assert os.listdir(tmp_path) == [path.name]
    assert len(calls) == 3


@needs_locks
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_being_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    flock, tried = temporary.fcntl.flock, []

    def held_by_another(descriptor: int, how: int) -> None:
        tried.append(how)
        if len(tried) == 1:
            raise BlockingIOError
        flock(descriptor, how)

    with temporary_file(tmp_path / "first"):
        pass
    monkeypatch.setattr(temporary.fcntl, "flock", held_by_another)
    with getattr(temporary, kind)(tmp_path / "x") as path:
        # The first one is its sweeper's to remove.
        assert len(os.listdir(tmp_path)) == 2
        assert path.exists()
    assert len(tried) == 2


@needs_locks
def test_where_files_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int, how: int) -> None:
        raise OSError(38, "no locks here")

    monkeypatch.setattr(temporary.fcntl, "flock", fails)
    with replacing(tmp_path / "a") as new:
        new.write_text("new")
        sweep(tmp_path)
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("kind", KINDS)
def test_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(temporary, "fcntl", None)
    left, new = (temporary_name(tmp_path / name) for name in ("left", "new"))
    for path in (left, new):
        path.touch()
    os.utime(left, (1, 1))
    with getattr(temporary, kind)(tmp_path / "x") as path:
        assert sorted(os.listdir(tmp_path)) == sorted([new.name, path.name])
    assert os.listdir(tmp_path) == [new.name]


Replacing = Callable[[Path], AbstractContextManager[Path]]


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges names")
def test_a_folder_is_replaced_without_an_instant_without_it(tmp_path: Path) -> None:
    path = tmp_path / "model"
    (path / "0").mkdir(parents=True)
    stop = threading.Event()
    missing = []

    def watch() -> None:
        while not stop.is_set():
            if not path.exists():
                missing.append(path)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(1, 50):
        with replacing_folder(path) as new:
            (new / str(number)).mkdir()
        assert os.listdir(path) == [str(number)]
    stop.set()
    watcher.join()
    assert not missing
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_is_replaced_in_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "_exchange", lambda new, path: False)
    for text in ("old", "new"):
        with replacing_folder(tmp_path / "model") as new:
            (new / text).touch()
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["new"]


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_crash_between_two_steps_left(tmp_path: Path, taken: bool) -> None:
    path = tmp_path / "model"
    old = old_name(path)
    (old / "old").mkdir(parents=True)
    if taken:
        (path / "new").mkdir(parents=True)
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(path) == ["new" if taken else "old"]


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "large" / "model").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "large" / "model")
    with replacing_folder(tmp_path / "link") as new:
        (new / "inner").touch()
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "large" / "model") == ["inner"]
    assert os.listdir(tmp_path / "large") == ["model"]


def test_a_link_to_itself_is_not_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(NotADirectoryError), replacing_folder(link) as new:
        (new / "inner").touch()
    assert os.listdir(tmp_path) == ["link"]


def test_a_folder_of_its_owner_alone(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "x", 0o700) as path:
        assert path.stat().st_mode & 0o777 == 0o700

"""A few threads that share out the rows of an op, each with BLAS to itself.

NumPy lets go of the interpreter in products and element-wise loops, so that Python threads run side
by side. BLAS has threads of its own, but only within products: softmax, GELU and norms stay on one
core. While a task is shared out here, OpenBLAS is told to use one thread, which makes products of
different rows independent; where NumPy was built with a library that cannot be told so at run time,
the pool has one thread, and products are threaded as that library likes.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from whisper_npu.ops.arrays import F32
from whisper_npu.runtime.threads import default_threads, physical_cores

Piecework = Callable[[int], object]
Item = TypeVar("Item")

_ALIGNMENT = 64
# Threads that read and write memory together; more do not make it faster.
_MEMORY_THREADS = 4
_NOWHERE = -1
# OpenBLAS under its own name, with 64-bit integers, and as NumPy's wheels bring it.
_SYMBOLS = tuple(
    (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
    for prefix in ("scipy_", "")
    for suffix in ("64_", "")
)


class Blas:
    """The number of threads of the OpenBLAS that NumPy uses, which is one number per process."""

    def __init__(self, library: ctypes.CDLL, get: str, set_: str) -> None:
        self._get, self._set = library[get], library[set_]

    @property
    def threads(self) -> int:
        return int(self._get())

    @threads.setter
    def threads(self, count: int) -> None:
        self._set(count)


@cache
def find_blas() -> Blas | None:
    """The OpenBLAS that NumPy uses, None for another library."""
    for path in _candidates():
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for get, set_ in _SYMBOLS:
            if hasattr(library, get) and hasattr(library, set_):
                return Blas(library, get, set_)
    return None


def _candidates() -> Iterator[Path]:
    package = Path(np.__file__).parent
    # Where the wheels for Linux and Windows, and for macOS, have it.
    bundled = (package.parent / "numpy.libs", package / ".dylibs")
    yield from chain.from_iterable(folder.glob("*openblas*") for folder in bundled)
    # A system's NumPy is linked with a library that this process has mapped.
    maps = Path("/proc/self/maps")
    if maps.exists():
        mapped = re.findall(r"/\S*blas\S*\.so\S*", maps.read_text(errors="replace"))
        yield from map(Path, dict.fromkeys(mapped))


class Workers:
    """Threads that wait for tasks; the caller is one of the ``threads``.

    ``blas`` is told to use one thread while a task is shared out.
    """

    def __init__(self, threads: int, blas: Blas | None) -> None:
        self.threads = threads
        self._blas = blas
        self._busy = threading.Lock()
        self._task: Piecework = _nothing
        self._pieces: Iterator[int] = iter(())
        self._error: BaseException | None = None
        self._started = 0  # by this process: threads do not outlive a fork
        self._go: list[threading.Lock] = []
        self._done: list[threading.Lock] = []
        self._threads: list[int] = []  # as the system numbers them
        self._apart_from = _NOWHERE

    def run(self, task: Piecework, pieces: int) -> None:
        """Call ``task`` with 0, 1, ... ``pieces`` - 1, shared out as threads become free.

        An exception in any of them is raised here. Called from within a task, or while another
        thread of the program is here, it runs all of it alone.
        """
        if self.threads == 1 or pieces == 1 or not self._busy.acquire(blocking=False):
            for piece in range(pieces):
                task(piece)
            return
        try:
            self._share(task, pieces)
        finally:
            self._busy.release()

    def _share(self, task: Piecework, pieces: int) -> None:
        if self._started != os.getpid():
            self._start()
        self._task, self._pieces, self._error = task, iter(range(pieces)), None
        before = 0
        if self._blas is not None:
            before, self._blas.threads = self._blas.threads, 1
        self._keep_apart()
        try:
            for go in self._go:
                go.release()
            self._work()
            for done in self._done:
                done.acquire()
        finally:
            if self._blas is not None:
                self._blas.threads = before
        self._task = _nothing
        if self._error is not None:
            raise self._error

    def _keep_apart(self) -> None:
        """Let the threads run on any CPU but the caller's.

        Linux likes to wake a thread where it was woken from, and then leaves both on one CPU for
        longer than most tasks take.
        """
        current = _current_cpu()
        if current == self._apart_from:
            return
        self._apart_from = current
        others = os.sched_getaffinity(0) - {current}
        if others:
            for thread in self._threads:
                os.sched_setaffinity(thread, others)

    def _start(self) -> None:
        self._go, self._done, self._threads = [], [], []
        self._apart_from = _NOWHERE
        for i in range(1, self.threads):
            go, done = threading.Lock(), threading.Lock()
            go.acquire()
            done.acquire()
            self._go.append(go)
            self._done.append(done)
            # Daemons, which do not keep a program from ending.
            thread = threading.Thread(
                target=self._serve, args=(go, done), name=f"whisper-npu-{i}", daemon=True
            )
            thread.start()
            assert thread.native_id is not None
            self._threads.append(thread.native_id)
        self._started = os.getpid()

    def _serve(self, go: threading.Lock, done: threading.Lock) -> None:
        while True:
            go.acquire()
            self._work()
            done.release()

    def _work(self) -> None:
        try:
            # Taking from an iterator is one step of the interpreter: each piece is taken once.
            for piece in self._pieces:
                self._task(piece)
        except BaseException as error:
            self._error = error


def in_threads(task: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call ``task`` with every item, as a few threads become free. Raises the first error of any.

    For what waits for memory and files: reading a file that is in memory takes less time than
    making room for it, page by page, and several threads make that faster than one.
    """
    waiting = iter(list(items))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for item in waiting:
                if errors:
                    break
                task(item)
        except BaseException as error:
            errors.append(error)

    count = min(_MEMORY_THREADS, os.cpu_count() or 1)
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        try:
            thread.join()
        except BaseException as error:
            # An interrupt: the threads end with the item that they have.
            errors.insert(0, error)
            thread.join()
    if errors:
        raise errors[0]


@cache
def _cpu_function() -> Callable[[], int] | None:
    """The C library's ``sched_getcpu``, where threads can also be told where to run."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    function: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return function


def _current_cpu() -> int:
    """The CPU that this thread runs on, if that can be known."""
    function = _cpu_function()
    return _NOWHERE if function is None else function()


def _nothing(piece: int) -> None:
    """The task where there is none."""


class _Process:
    """What the threads of this process were set to; None if they were not."""

    asked: int | None = None


def use_threads(count: int) -> None:
    """Have so many threads in this process from now on: OpenBLAS's, ``workers()``, CPU kernels'.

    What is bound already keeps the threads that it has.
    """
    _Process.asked = count
    blas = find_blas()
    if blas is not None:
        blas.threads = count


def kernel_threads() -> int:
    """The threads of a CPU kernel: what was asked for, or by default."""
    return _Process.asked or default_threads()


def workers() -> Workers:
    """The threads of this process: what was asked for, or as many as OpenBLAS was set to, at most
    one per physical core. One where the BLAS is another: it has threads of its own."""
    return _team(_usual_threads() if _Process.asked is None else _Process.asked)


@lru_cache(maxsize=4)
def _team(threads: int) -> Workers:
    blas = find_blas()
    return Workers(1 if blas is None else threads, blas)


@cache
def _usual_threads() -> int:
    blas = find_blas()
    if blas is None:
        return 1
    # OpenBLAS takes a thread for each logical core, which share what products need most.
    blas.threads = max(1, min(blas.threads, physical_cores()))
    return blas.threads


_scratch = threading.local()


def scratch(*shapes: tuple[int, ...]) -> list[F32]:
    """Arrays of this thread to work in, valid until the next call in this thread."""
    return scratch_arrays(*((shape, np.float32) for shape in shapes))


def scratch_arrays(*wanted: tuple[tuple[int, ...], Any]) -> list[NDArray[Any]]:
    """The same with a type for each shape."""
    nbytes = size_of(wanted)
    memory: NDArray[np.uint8] | None = getattr(_scratch, "memory", None)
    if memory is None or memory.size < nbytes:
        block = np.empty(nbytes + _ALIGNMENT, np.uint8)
        start = -block.ctypes.data % _ALIGNMENT
        memory = _scratch.memory = block[start : start + nbytes]
    return cut(memory, wanted)


def cut(
    memory: NDArray[np.uint8], wanted: Iterable[tuple[tuple[int, ...], Any]]
) -> list[NDArray[Any]]:
    """Arrays of these shapes and types side by side; ``memory`` has ``size_of`` bytes for them."""
    arrays, start = [], 0
    for shape, dtype in wanted:
        count = math.prod(shape) * np.dtype(dtype).itemsize
        arrays.append(memory[start : start + count].view(dtype).reshape(shape))
        start += -(-count // _ALIGNMENT) * _ALIGNMENT
    return arrays


def size_of(wanted: Iterable[tuple[tuple[int, ...], Any]]) -> int:
    """Bytes of arrays that ``cut`` puts side by side."""
    counts = (math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in wanted)
    return sum(-(-count // _ALIGNMENT) * _ALIGNMENT for count in counts)


def spans(rows: int, pieces: int) -> list[slice]:
    """``rows`` cut into so many slices of about equal length, or into fewer that are not empty."""
    pieces = min(pieces, rows)
    edges = [rows * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]

"""Sharing out pieces of work to threads."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from whisper_npu.errors import ModelError, OptionError
from whisper_npu.runtime.threads import check_threads, physical_cores
from whisper_npu.runtime.workers import (
    Workers,
    _Process,
    find_blas,
    kernel_threads,
    scratch,
    spans,
    use_threads,
    workers,
)
from whisper_npu.transcriber import Transcriber


class FakeBlas:
    def __init__(self) -> None:
        self.threads = 7


def team(threads: int = 3) -> Workers:
    return Workers(threads, FakeBlas())  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("pieces", [1, 2, 3, 40])
def test_every_piece_is_run_once(threads: int, pieces: int) -> None:
    workers = team(threads)
    done: list[int] = []
    for _ in range(20):
        done.clear()
        workers.run(done.append, pieces)
        assert Counter(done) == Counter(range(pieces))


def test_pieces_run_side_by_side() -> None:
    # Each piece waits for all others to have begun.
    together = threading.Barrier(3, timeout=20)
    team(3).run(lambda piece: together.wait() and None, 3)


def test_blas_has_one_thread_within_a_task_and_what_it_had_before_after_it() -> None:
    blas, seen = FakeBlas(), []
    workers = Workers(2, blas)  # type: ignore[arg-type]
    workers.run(lambda piece: seen.append(blas.threads), 4)
    assert seen == [1] * 4
    assert blas.threads == 7


def test_an_exception_in_any_thread_is_raised_and_the_team_goes_on() -> None:
    together = threading.Barrier(2, timeout=20)
    blas = FakeBlas()
    workers = Workers(2, blas)  # type: ignore[arg-type]
    caller = threading.get_ident()

    def fail_in_the_other(piece: int) -> None:
        together.wait()
        if threading.get_ident() != caller:
            raise ValueError("in a worker")

    for _ in range(2):
        with pytest.raises(ValueError, match="in a worker"):
            workers.run(fail_in_the_other, 2)
        assert blas.threads == 7
    done: list[int] = []
    workers.run(done.append, 5)
    assert sorted(done) == list(range(5))


def test_a_task_within_a_task_is_run_by_its_own_thread() -> None:
    workers, inner = team(2), []

    def outer(piece: int) -> None:
        caller = threading.get_ident()
        workers.run(lambda i: inner.append(threading.get_ident() == caller), 3)

    workers.run(outer, 2)
    assert inner == [True] * 6


def test_two_threads_of_a_program_may_use_one_team() -> None:
    workers = team(2)
    done: Counter[tuple[int, ...]] = Counter()

    def use() -> None:
        for _ in range(50):
            mine: list[int] = []
            workers.run(mine.append, 4)
            done[tuple(sorted(mine))] += 1

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert done == {(0, 1, 2, 3): 150}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    workers = team(2)
    workers.run(lambda piece: None, 2)
    child = os.fork()
    if child == 0:
        together = threading.Barrier(2, timeout=20)
        try:
            workers.run(lambda piece: together.wait() and None, 2)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be placed here")
def test_threads_may_run_on_any_cpu_but_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one CPU")
    together, caller, seen = threading.Barrier(2, timeout=20), threading.get_ident(), []
    workers = team(2)

    def look(piece: int) -> None:
        together.wait()
        if threading.get_ident() != caller:
            seen.append(os.sched_getaffinity(0))

    for cpu in sorted(allowed):
        monkeypatch.setattr("whisper_npu.runtime.workers._current_cpu", lambda cpu=cpu: cpu)
        workers.run(look, 2)
    assert seen == [allowed - {cpu} for cpu in sorted(allowed)]
    assert os.sched_getaffinity(0) == allowed


def test_openblas_takes_a_number_of_threads() -> None:
    blas = find_blas()
    if blas is None:
        pytest.skip("NumPy is built with another library")
    before = blas.threads
    try:
        blas.threads = 1
        assert blas.threads == 1
    finally:
        blas.threads = before
    assert blas.threads == before


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads as this process had them before."""
    blas = find_blas()
    before = None if blas is None else blas.threads
    monkeypatch.setattr("whisper_npu.runtime.workers._Process.asked", None)
    yield
    if blas is not None:
        blas.threads = before


def test_threads_that_are_asked_for(unset: None) -> None:
    usual = workers()
    for count in (3, 1, 2):
        use_threads(count)
        assert kernel_threads() == count
        blas = find_blas()
        if blas is not None:
            assert workers().threads == blas.threads == count
    assert workers() is workers()
    _Process.asked = None
    assert workers() is usual


@pytest.mark.parametrize("count", [0, -1, 257, 1.0, "2", True, None])
def test_threads_that_are_none(count: Any) -> None:
    with pytest.raises(OptionError, match=r"threads must be a whole number from 1 to 256, not "):
        check_threads(count)


def test_a_transcriber_sets_them(unset: None) -> None:
    with pytest.raises(ModelError):
        Transcriber("nowhere", threads=2)
    assert kernel_threads() == 2
    with pytest.raises(OptionError, match="threads"):
        Transcriber("nowhere", threads=0)


def test_there_is_a_physical_core_and_no_more_than_logical_ones() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


def test_scratch_is_aligned_disjoint_and_each_threads_own() -> None:
    a, b = scratch((3, 5), (7,))
    assert (a.shape, b.shape) == ((3, 5), (7,))
    assert not np.shares_memory(a, b)
    assert a.ctypes.data % 64 == b.ctypes.data % 64 == 0
    (larger,) = scratch((1000, 100))
    larger[:] = 1
    (again,) = scratch((10,))
    assert np.shares_memory(larger, again)
    others: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: others.extend(scratch((10,))))
    thread.start()
    thread.join()
    assert not np.shares_memory(larger, others[0])


@pytest.mark.parametrize(("rows", "pieces"), [(10, 3), (3, 3), (2, 5), (1500, 4)])
def test_spans_cover_all_rows_in_order_and_none_is_empty(rows: int, pieces: int) -> None:
    covered = [row for part in spans(rows, pieces) for row in range(part.start, part.stop)]
    lengths = {part.stop - part.start for part in spans(rows, pieces)}
    assert covered == list(range(rows))
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1

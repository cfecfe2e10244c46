"""One engine for all that is transcribed with a model: windows come in, results are futures.

Recordings ask for work on their windows from any thread; one thread of the engine does it. Windows
of any recordings are decoded side by side, each step one of all of them. When a window has ended,
the next one that waits takes its place at once. What a window gives does not depend on its company.

The thread is there while a recording is open. An error of a recording is raised in that recording.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from time import perf_counter
from traceback import clear_frames
from typing import Any, TypeVar

import numpy as np

from whisper_npu.decoding.batch import Batch
from whisper_npu.decoding.protocols import Counts, Session, Whisper
from whisper_npu.decoding.task import Decoding
from whisper_npu.ops.arrays import F32, I16, I64
from whisper_npu.ops.probabilities import Probabilities

# Windows that are decoded side by side. On AVX2 a step of 8 takes 3.3 to 3.6 times as long as one
# of 1 (base, int8): more would be little faster, and take memory.
PLACES = 8
# How long steps are taken between two windows that are encoded, of the time that the first of them
# took, where there are places for more than wait: those under way go on while others come.
_STEPS_SHARE = 0.5

Result = TypeVar("Result")


@dataclass(eq=False)
class _Job:
    """Work on a window: a visit of its caches, or an attempt to decode it."""

    recording: Recording
    window: Window
    number: int
    future: Future[Any]
    visit: Callable[[Session], Any] | None = None
    make: Callable[[], Decoding] | None = None
    decoding: Decoding | None = None
    #: It was decoded with others, and something went wrong.
    alone: bool = False


@dataclass(eq=False)
class _Call:
    """Work that needs no window."""

    recording: Recording
    work: Callable[[], Any]
    future: Future[Any]


@dataclass(eq=False)
class _Side:
    """Windows that are decoded side by side, and what was run for them since the last of them came
    or left."""

    counts: Counts
    batch: Batch = field(default_factory=Batch)
    jobs: list[_Job] = field(default_factory=list)


class Engine:
    """Does the work of all recordings on a model, which nobody else may use meanwhile.

    ``places`` windows are decoded side by side, more wait. Of those that wait, and have the same
    priority, first come those of the recordings that have the fewest under way, then those that
    were asked for first.
    """

    def __init__(self, model: Whisper, places: int = PLACES) -> None:
        self.model, self.places = model, places
        self._numbers = count()
        self._sides: dict[object, _Side] = {}
        self._stopped = False
        self._renew()
        _engines.add(self)

    def _renew(self) -> None:
        """Without what is under way: in a child process the thread is the parent's."""
        # Of the state below. A finalizer may run in a thread that has it: see _locked.
        self._lock = threading.RLock()
        self._holder: int | None = None
        # Open once there is something new for the thread; a condition would forget it.
        self._news = threading.Lock()
        self._recordings: set[Recording] = set()
        self._given_up: deque[Recording] = deque()
        self._later: deque[Callable[[], object]] = deque()
        # All that somebody may wait for.
        self._works: set[_Job | _Call] = set()
        self._calls: list[_Call] = []
        self._jobs: list[_Job] = []
        self._cancelled = False
        self._sides.clear()
        self._thread: threading.Thread | None = None
        # Whose window is being encoded.
        self._encoding: Recording | None = None
        # Seconds that steps are still to take before the next one.
        self._owed = 0.0
        self.model.halt.asked = False

    def open(self, priority: int = 0) -> Recording:
        """A recording, which is to be closed. Windows of higher priority go first; above 0 they do
        not wait for a place either, up to twice as many as there are."""
        recording = Recording(self, priority)
        with self._locked():
            if not self._stopped:
                # It keeps the thread from ending.
                self._recordings.add(recording)
        return recording

    def call(self, work: Callable[[], Result]) -> Result:
        """Have something done while nothing is run on the model. Raises what that raises."""
        future: Future[Result] = Future()
        self.later(partial(_do, work, future))
        return future.result()

    def later(self, work: Callable[[], object]) -> None:
        """As ``call``, but without waiting for it: for finalizers, which may run in any thread, and
        where others wait for this one."""
        with self._lock:
            if self._thread is None:
                work()
            else:
                self._later.append(work)
        self._tell()

    @property
    def reentered(self) -> bool:
        """Whether this is a finalizer that runs within the engine, which can wait for nothing."""
        thread = self._thread
        busy = self._holder, None if thread is None else thread.ident
        return threading.get_ident() in busy

    def stop(self) -> None:
        """Close all recordings for ever, and wait for the thread to end."""
        with self._locked():
            self._stopped = True
            thread, recordings = self._thread, list(self._recordings)
        for recording in recordings:
            recording.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """To look at the state or to change it.

        Memory is collected at any time: a recording that is closed meanwhile by a finalizer in this
        thread is dropped by whoever comes here next.
        """
        dropped: list[_Job | _Call] = []
        try:
            with self._lock:
                before, self._holder = self._holder, threading.get_ident()
                try:
                    while self._given_up:
                        dropped += self._drop(self._given_up.popleft())
                    yield
                finally:
                    # A finalizer that looked at the state within gives it back to this thread.
                    self._holder = before
        finally:
            for work in dropped:
                self._end(work, CancelledError("the recording was closed"))

    def _tell(self) -> None:
        """There is something new for the thread."""
        with suppress(RuntimeError):
            # Raised where it was told before.
            self._news.release()

    def _end(self, work: _Job | _Call, error: BaseException | None, result: Any = None) -> None:
        """Give out what has become of work, once."""
        try:
            self._works.remove(work)
        except KeyError:
            return
        if error is None:
            work.future.set_result(result)
        else:
            _forget_frames(error)
            work.future.set_exception(error)

    # What recordings do, in their threads.

    def _submit(self, work: _Job | _Call) -> None:
        if self.reentered:
            raise RuntimeError("a finalizer cannot wait for a transcription")
        with self._locked():
            if self._stopped or work.recording.cancelled:
                raise CancelledError("the recording was closed")
            if self._thread is None:
                thread = threading.Thread(
                    target=self._serve, name="whisper-npu-engine", daemon=True
                )
                # Raises where no thread can be had. This one waits until all is there.
                thread.start()
                self._thread = thread
            # Also one of the parent of this process.
            self._recordings.add(work.recording)
            self._works.add(work)
            if isinstance(work, _Job):
                self._jobs.append(work)
            else:
                self._calls.append(work)
        self._tell()

    def _cancel(self, recording: Recording) -> None:
        if recording.cancelled:
            return
        self._given_up.append(recording)
        recording.cancelled = True
        if threading.get_ident() != self._holder:
            with self._locked():
                pass
        self._tell()

    def _drop(self, recording: Recording) -> list[_Job | _Call]:
        """Forget a recording. Returns what waits of it."""
        self._cancelled = True
        if self._encoding is recording:
            self.model.halt.asked = True
        works: list[_Job | _Call] = [*self._calls, *self._jobs]
        self._calls = [call for call in self._calls if call.recording is not recording]
        self._jobs = [job for job in self._jobs if job.recording is not recording]
        self._recordings.discard(recording)
        return [work for work in works if work.recording is recording]

    def _counts_of(self, recording: Recording) -> Counts:
        with self._locked():
            counts = self.model.new_counts()
            counts.add(recording.counts)
            return counts

    # What the thread does.

    def _serve(self) -> None:
        try:
            while self._wait():
                self._turn()
        except BaseException as error:
            # A fault of the engine itself: nobody is to wait for ever.
            with self._locked():
                self._thread = None
                works = list(self._works)
                self._calls, self._jobs = [], []
                self._sides.clear()
            for work in works:
                self._end(work, error)
            self._finalize()

    def _wait(self) -> bool:
        """Wait for something to do. Returns whether there is, or will be."""
        while True:
            self._finalize()
            with self._locked():
                if self._calls or self._jobs or self._sides:
                    return True
                if not self._recordings:
                    # First, so that what comes now for later is done where it comes.
                    thread, self._thread = self._thread, None
                    if not self._later:
                        return False
                    self._thread = thread
            self._news.acquire()

    def _finalize(self) -> None:
        while self._later:
            try:
                self._later.popleft()()
            except Exception:
                # As of any finalizer.
                sys.excepthook(*sys.exc_info())

    def _turn(self) -> None:
        """What is short, one window to encode, and a step of all that is decoded."""
        with self._locked():
            self._cancelled, cancelled = False, self._cancelled
            self._calls, calls = [], self._calls
        if cancelled:
            self._leave()
        for call in calls:
            self._do(call, call.work)
        self._start()
        began = perf_counter()
        if not self._sides or self._owed <= 0 or self._fills_up():
            self._encode()
            self._owed = _STEPS_SHARE * (perf_counter() - began)
            self._start()
            began = perf_counter()
        for key, side in list(self._sides.items()):
            self._step(key, side)
        self._owed -= perf_counter() - began

    def _leave(self) -> None:
        """Windows of recordings that were cancelled."""
        for key, side in list(self._sides.items()):
            left = [job for job in side.jobs if job.recording.cancelled]
            if left:
                self._share(side)
                side.batch.leave([_decoding(job) for job in left])
                self._settle(key, side, left, CancelledError("the recording was closed"))

    @contextmanager
    def _counting(self, recording: Recording) -> Iterator[None]:
        counts = self.model.new_counts()
        try:
            with self.model.counted(counts):
                yield
        finally:
            with self._locked():
                recording.counts.add(counts)

    def _do(self, work: _Job | _Call, what: Callable[[], Any]) -> None:
        try:
            with self._counting(work.recording):
                result = what()
        except BaseException as error:
            self._end(work, error)
        else:
            self._end(work, None, result)

    def _running(self) -> list[_Job]:
        """Those whose windows are decoded."""
        return [job for side in self._sides.values() for job in side.jobs]

    def _has_place(self, job: _Job, taken: Sequence[_Job]) -> bool:
        """Whether there is a place for a job, when others have theirs."""
        if job.recording.priority > 0:
            return len(taken) < 2 * self.places
        # One is left for a recording that has none, unless it is to go last.
        has_none = job.recording.priority == 0 and not _of(job.recording, taken)
        return len(taken) < self.places + has_none

    def _fills_up(self) -> bool:
        """Whether the windows that wait would take all places that are free: to have them all first
        makes steps of more windows, which take little longer. Live audio does not wait for that.
        """
        running = self._running()
        if any(job.recording.priority > 0 for job in running):
            return False
        with self._locked():
            encoded = sum(job.window.states is not None for job in self._jobs)
            free = self.places - len(running) - encoded
            return 0 < free <= len(self._jobs) - encoded

    def _start(self) -> None:
        """Begin with the jobs whose windows are encoded, as far as there are places for them."""
        if not self._jobs:
            return
        running = self._running()
        with self._locked():
            ready = [job for job in self._jobs if job.window.states is not None]
            ready.sort(key=lambda job: (-job.recording.priority, job.number))
            taken: list[_Job] = []
            for job in ready:
                if self._has_place(job, running + taken):
                    taken.append(job)
                    self._jobs.remove(job)
        # By the batch that they join, and by the length of the prompt and its rows.
        together: dict[tuple[object, object], list[_Job]] = {}
        for job in taken:
            if job.visit is not None:
                self._do(job, partial(self._visit, job, job.visit))
                continue
            decoding = _decoding(job)
            key = decoding.group, job if job.alone else None
            of_prompt = len(decoding.prompt), *decoding.rows
            together.setdefault((key, of_prompt), []).append(job)
        for (side, _), jobs in together.items():
            self._begin(side, jobs)

    def _visit(self, job: _Job, visit: Callable[[Session], Any]) -> Any:
        return visit(self.model.decoder([_states(job)]))

    def _begin(self, key: object, jobs: list[_Job]) -> None:
        """Run prompts of one length; their windows join those of the same key."""
        decodings = [_decoding(job) for job in jobs]
        new = _Side(self.model.new_counts(), jobs=jobs)
        side = self._sides.setdefault(key, _Side(self.model.new_counts()))
        # Those that are there have nothing to do with the prompts of others.
        self._share(side)
        try:
            with self.model.counted(new.counts):
                side.batch.begin(self._session(jobs), decodings)
        except BaseException as error:
            self._share(new)
            side.batch.leave(decodings)
            self._fail(key, side, jobs, error)
            return
        self._share(new)
        side.jobs += jobs
        self._settle(key, side, [job for job in jobs if _decoding(job).ended])

    def _session(self, jobs: Sequence[_Job]) -> Session:
        return self.model.decoder([_states(job) for job in jobs], _decoding(jobs[0]).group)

    def _step(self, key: object, side: _Side) -> None:
        try:
            with self.model.counted(side.counts):
                side.batch.step()
        except BaseException as error:
            self._share(side)
            jobs, side.jobs, side.batch = side.jobs, [], Batch()
            self._fail(key, side, jobs, error)
            return
        ended = [job for job in side.jobs if _decoding(job).ended]
        if ended:
            self._share(side)
            self._settle(key, side, ended)

    def _fail(self, key: object, side: _Side, jobs: list[_Job], error: BaseException) -> None:
        """What went wrong with several windows is tried with each of them alone."""
        if len(jobs) == 1:
            self._settle(key, side, jobs, error)
            return
        self._settle(key, side, [])
        again = []
        for job in jobs:
            assert job.make is not None
            try:
                job.decoding, job.alone = job.make(), True
            except BaseException as its_own:
                self._end(job, its_own)
            else:
                again.append(job)
        with self._locked():
            self._jobs = again + self._jobs
            # Some may have been closed, and were not there to be dropped.
            self._given_up += {job.recording for job in again if job.recording.cancelled}

    def _settle(
        self, key: object, side: _Side, jobs: list[_Job], error: BaseException | None = None
    ) -> None:
        """Give out what has become of jobs, which have left the batch."""
        side.jobs = [job for job in side.jobs if job not in jobs]
        if not side.jobs:
            self._sides.pop(key, None)
        for job in jobs:
            decoding = _decoding(job)
            if decoding.error is not None:
                _forget_frames(decoding.error)
            self._end(job, error, decoding)

    def _share(self, side: _Side) -> None:
        """Count what was run for all recordings that have windows there, with their share of the
        time."""
        with self._locked():
            for recording in {job.recording for job in side.jobs}:
                own = sum(job.recording is recording for job in side.jobs)
                recording.counts.add(side.counts, own / len(side.jobs))
        side.counts = self.model.new_counts()

    def _encode(self) -> None:
        """Encode the window that is next, if there will be a place for it."""
        running = self._running()
        with self._locked():
            taken = running + [job for job in self._jobs if job.window.states is not None]
            waiting = [
                job
                for job in self._jobs
                if job.window.states is None and self._has_place(job, taken)
            ]
            if not waiting:
                return
            job = min(
                waiting,
                key=lambda job: (
                    -job.recording.priority, _of(job.recording, running), job.number,
                ),
            )  # fmt: skip
            self._encoding = job.recording
        try:
            with self._counting(job.recording):
                window, n_frames = job.window, self.model.dims.n_frames
                window.states = self.model.encode(window.features[None, :, :n_frames])[0]
        except BaseException as error:
            with self._locked():
                waits = job in self._jobs
                if waits:
                    self._jobs.remove(job)
            # Otherwise whoever cancelled it says so.
            if waits:
                self._end(job, error)
        finally:
            with self._locked():
                self._encoding = None
                self.model.halt.asked = False


def _of(recording: Recording, jobs: Sequence[_Job]) -> int:
    """How many of them are a recording's."""
    return sum(job.recording is recording for job in jobs)


def _forget_frames(error: BaseException) -> None:
    """Who keeps an error keeps the lines that it came from, but nothing that was there."""
    clear_frames(error.__traceback__)


def _do(work: Callable[[], Result], future: Future[Result]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def _decoding(job: _Job) -> Decoding:
    assert job.decoding is not None
    return job.decoding


def _states(job: _Job) -> F32:
    assert job.window.states is not None
    return job.window.states


class Recording:
    """A recording that is under way; made by ``Engine.open``. A context manager that closes it.

    ``counts`` are the engine's: see ``counts_so_far``.
    """

    def __init__(self, engine: Engine, priority: int) -> None:
        self._engine, self.priority = engine, priority
        self.counts = engine.model.new_counts()
        self.cancelled = False

    @property
    def model(self) -> Whisper:
        """The network that the engine runs."""
        return self._engine.model

    def call(self, work: Callable[[], Result]) -> Result:
        """Have something done on the model. Raises what that raises, and CancelledError."""
        future: Future[Result] = Future()
        self._engine._submit(_Call(self, work, future))
        return future.result()

    def make_room(self, windows: int) -> None:
        """Have places for so many windows at once from now on, if there are fewer."""
        self._engine.places = max(self._engine.places, windows)

    def window(self, features: F32 | I16) -> Window:  # [n_mels, N_FRAMES]
        """A window of the recording, which is encoded when it is first needed."""
        return Window(self._engine, self, features)

    def counts_so_far(self) -> Any:
        """What was run for this recording: all that it shared with others too, but only its share
        of that time."""
        return self._engine._counts_of(self)

    def close(self) -> None:
        """Give up what is not done: whoever waits for it gets CancelledError."""
        self._engine._cancel(self)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Work(Future[Result]):
    """What a window was asked for; lost in a child process of the one that asked."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    @property
    def lost(self) -> bool:
        """Whether nobody works on it. Done or not: it may have been forked with its lock held."""
        return os.getpid() != self._process


class Window:
    """A window of a recording. Made by ``Recording.window``.

    ``states`` are those of the encoder, once they are known: [n_audio_ctx, n_audio_state].
    """

    def __init__(self, engine: Engine, recording: Recording, features: F32 | I16) -> None:
        self._engine, self._recording = engine, recording
        self.features = features
        self.states: F32 | None = None

    @property
    def probabilities(self) -> Probabilities:
        """How probabilities are computed of the logits."""
        return self._engine.model.probabilities

    def _job(self, **what: Any) -> Work[Any]:
        future: Work[Any] = Work()
        job = _Job(self._recording, self, next(self._engine._numbers), future, **what)
        self._engine._submit(job)
        return future

    def prefill(self, tokens: Sequence[int], rows: Sequence[int]) -> Work[F32]:
        # [n], rows of n -> [len(rows), n_vocab]
        """Run a prompt, for its logits alone."""

        def visit(session: Session) -> F32:
            logits: F32 = session.prefill(np.array([tokens]), rows)[0].copy()
            return logits

        return self._job(visit=visit)

    def decode(self, make: Callable[[], Decoding]) -> Work[Decoding]:
        """Decode the window; ``make`` makes an attempt at it, and another one if what is decoded
        side by side with it fails. Raises what ``make`` raises."""
        return self._job(make=make, decoding=make())

    def align(
        self, tokens: I64, heads: Sequence[tuple[int, int]]
    ) -> tuple[F32, F32]:  # [n] -> [n, n_vocab], [len(heads), n, n_audio_ctx]
        """Wait for ``Session.align`` of this window."""

        def visit(session: Session) -> tuple[F32, F32]:
            logits, scores = session.align(tokens, heads)
            return logits.copy(), scores

        found: tuple[F32, F32] = self._job(visit=visit).result()
        return found


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _stop_all() -> None:
    """Before the interpreter ends: a thread within a kernel would outlive what it needs."""
    for engine in list(_engines):
        engine.stop()


def _renew_all() -> None:
    for engine in list(_engines):
        engine._renew()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)

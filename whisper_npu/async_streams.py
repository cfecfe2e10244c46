"""Segments as they are decoded, for asyncio: every recording in a thread, which ends with it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from whisper_npu.decoding.engine import Engine, Recording
from whisper_npu.results import Segment, Transcription
from whisper_npu.streams import SegmentStream

# Recordings that are under way for each place: while one is decoded, audio of another is read.
_RECORDINGS_FOR_A_PLACE = 2

Result = TypeVar("Result")

# How many recordings may begin, by engine and event loop. A semaphore may know its loop, and would
# keep it; it is kept by the streams that have it or wait for it.
_limits: weakref.WeakKeyDictionary[
    Engine, weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[asyncio.Semaphore]]
] = weakref.WeakKeyDictionary()


class AsyncSegmentStream(AsyncIterator[Segment]):
    """Segments as they are decoded; made by ``Transcriber.asegments``. For one task at a time."""

    def __init__(
        self, engine: Engine, begin: Callable[[Recording], SegmentStream], priority: int
    ) -> None:
        self._engine, self._begin, self._priority = engine, begin, priority
        self._recording: Recording | None = None
        self._stream: SegmentStream | None = None
        self._thread: ThreadPoolExecutor | None = None
        # Lets another one begin, also when this one is dropped.
        self._give_way: weakref.finalize[..., AsyncSegmentStream] | None = None
        self._closed = False

    async def stream(self) -> SegmentStream:
        """The stream whose segments these are, with what is known of the recording: its language,
        its duration. It begins now, unless it has before. Raises CancelledError if it was closed
        before."""
        if self._stream is None:
            await self._wait_for_turn()
            recording = self._recording = self._engine.open(self._priority)
            self._thread = ThreadPoolExecutor(1, "whisper-npu-recording")
            self._stream = await self._run(lambda: self._begin(recording))
        return self._stream

    async def result(self) -> Transcription:
        """The transcription as far as it has been decoded: the whole of it at the end."""
        return (await self.stream()).result()

    async def __anext__(self) -> Segment:
        if self._closed:
            raise StopAsyncIteration
        stream = await self.stream()
        segment = await self._run(lambda: next(stream, None))
        if segment is None:
            await self.aclose()
            raise StopAsyncIteration
        return segment

    async def aclose(self) -> None:
        """Give up what is not decoded yet."""
        self._close()

    async def __aenter__(self) -> AsyncSegmentStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    async def _wait_for_turn(self) -> None:
        if self._priority <= 0 and not self._closed:
            await self._wait_for_others()
        if self._closed:
            self._close()
            raise asyncio.CancelledError("the recording was closed")

    async def _wait_for_others(self) -> None:
        loop = asyncio.get_running_loop()
        limits = _limits.setdefault(self._engine, weakref.WeakKeyDictionary())
        known = limits.get(loop)
        limit = None if known is None else known()
        if limit is None:
            limit = asyncio.Semaphore(_RECORDINGS_FOR_A_PLACE * self._engine.places)
            limits[loop] = weakref.ref(limit)
        await limit.acquire()
        self._give_way = weakref.finalize(self, _release, loop, limit)
        self._give_way.atexit = False

    async def _run(self, work: Callable[[], Result]) -> Result:
        """Have the thread do something; give up the recording if it fails or is cancelled."""
        if self._thread is None:
            raise asyncio.CancelledError("the recording was closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._closed = True
        if self._give_way is not None:
            self._give_way()
        if self._recording is not None:
            # Its thread gets an error where it waits, and closes what it has open.
            self._recording.close()
        if self._stream is not None:
            self._stream.close()
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None


def _release(loop: asyncio.AbstractEventLoop, limit: asyncio.Semaphore) -> None:
    """From any thread."""
    # Raised where the loop has ended.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(limit.release)

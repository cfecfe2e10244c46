"""Segments as they are decoded, for asyncio: every recording in a thread, which ends with it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from whisper_npu.decoding.engine import Engine, Recording
from whisper_npu.results import Segment, Transcription
from whisper_npu.streams import SegmentStream

# Recordings that are under way for each place: while one is decoded, audio of another is read.
_RECORDINGS_FOR_A_PLACE = 2

Result = TypeVar("Result")

# How many recordings may begin, by engine and event loop.
_limits: weakref.WeakKeyDictionary[
    Engine, weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]
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
        self._limit: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def stream(self) -> SegmentStream:
        """The stream whose segments these are, with what is known of the recording: its language,
        its duration. It begins now, unless it has before. Raises RuntimeError if it was closed
        before it began."""
        if self._stream is None:
            if self._closed:
                raise RuntimeError("the stream was closed before it began")
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
        if self._priority > 0 or self._limit is not None:
            return
        loop = self._loop = asyncio.get_running_loop()
        limits = _limits.setdefault(self._engine, weakref.WeakKeyDictionary())
        limit = limits.get(loop)
        if limit is None:
            limit = asyncio.Semaphore(_RECORDINGS_FOR_A_PLACE * self._engine.places)
            limits[loop] = limit
        await limit.acquire()
        self._limit = limit

    async def _run(self, work: Callable[[], Result]) -> Result:
        """Have the thread do something; give up the recording if it fails or is cancelled."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except BaseException:
            self._close()
            raise

    def __del__(self) -> None:
        # Whoever leaves a loop early and drops it.
        if self._limit is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._limit.release)

    def _close(self) -> None:
        self._closed = True
        if self._limit is not None:
            limit, self._limit = self._limit, None
            limit.release()
        if self._recording is not None:
            # Its thread gets an error where it waits, and closes what it has open.
            self._recording.close()
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None

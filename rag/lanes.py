"""Lanes: blocking work in threads, a bounded number waiting in front, each piece of it cancellable.

The event loop owns a `Lane` and its `Job`s; only `Job._run` and what it calls happen in the lane's threads.
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from rag.errors import DeadlinePassed, Overloaded

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long an end waits for work that was cancelled. A step of the model is stopped within a second, and an endpoint
# that says nothing is left; native code may hang, and who ends a server does not wait for that.
CLOSE_SECONDS = 3.0


class JobCancelled(Exception):
    """The job was cancelled before it ended: its client has gone, or the server ends."""


class Job(Generic[T]):
    """One piece of work, read once as an asynchronous iterator of what it yields.

    An error of the work is raised where it is read, and what `cancel()` was given after that. A reader that is
    itself cancelled takes the job with it. `ended` says that the reader has come to the end, good or bad.
    """

    def __init__(self, work: Callable[[], Iterator[T]]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[T] | BaseException] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._future: Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._submitted = time.monotonic()
        self.started: float | None = None
        self.ended = False

    @property
    def waited(self) -> float:
        """Seconds between submission and start; up to now where it has not started."""
        return (self.started or time.monotonic()) - self._submitted

    def cancel(self, error: BaseException | None = None) -> None:
        """Drop the job if it still waits, else close its iterator at the next thing it yields. Idempotent.

        `error` is what its reader gets then, if not `JobCancelled`.
        """
        if self._cancelled.is_set():
            return
        self._cancelled.set()
        if self._future is not None:
            self._future.cancel()
        self._events.put_nowait(JobCancelled() if error is None else error)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            event = await self._events.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if isinstance(event, BaseException):
            self.ended = True
            try:
                raise event
            finally:
                # The error holds this frame, and those of its readers with the index they looked into: all of it would
                # stay, with files that were removed long ago, until the collector comes by.
                del event
        return event[0]

    def _run(self) -> None:
        self.started = time.monotonic()
        try:
            self._drain(self._work())
        except BaseException as error:  # whatever it is, the waiting reader must hear of it
            self._tell(error)
        else:
            self._tell(StopAsyncIteration())

    def _drain(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                if self._cancelled.is_set():
                    return
                self._tell((item,))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def _tell(self, event: tuple[T] | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Lane:
    """`workers` threads, and room for `waiting` jobs in front of them; more are refused at once.

    A job that has not ended `deadline` seconds after it was submitted is cancelled, and its reader told.
    """

    def __init__(self, name: str, *, waiting: int, workers: int = 1, deadline: float = math.inf) -> None:
        self.name = name
        self._deadline = deadline
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"smallhold-{name}")
        self._places = workers + waiting
        self._jobs: set[Job[Any]] = set()
        self._mean_seconds = 1.0

    @property
    def depth(self) -> int:
        """How many jobs wait for a thread."""
        # Of a copy: figures are asked for in other threads, while the loop takes jobs in and lets them go.
        return sum(job.started is None for job in self._jobs.copy())

    @property
    def running(self) -> int:
        """How many jobs a thread is at work on."""
        return len(self._jobs) - self.depth

    @property
    def retry_after(self) -> int:
        """Whole seconds until a place is likely to be free: as long as jobs took lately, between 1 and 60."""
        return max(1, min(60, math.ceil(self._mean_seconds)))

    def submit(self, work: Callable[[], Iterator[T]]) -> Job[T]:
        """Queue `work`, whose iterator is made, run and closed in one thread.

        Raises `Overloaded` where no more may wait. The job's reader gets `DeadlinePassed` when its time is over.
        """
        if len(self._jobs) >= self._places:
            raise Overloaded(
                f"{len(self._jobs)} requests are already being served or waiting",
                hint=f"Try again in {self.retry_after} s.",
                retry_after=self.retry_after,
            )
        job = Job(work)
        self._jobs.add(job)
        loop = asyncio.get_running_loop()
        if self._deadline < math.inf:
            job._timer = loop.call_later(self._deadline, self._expire, job)
        # In the context of the request: log lines of its thread name it, too.
        job._future = self._pool.submit(contextvars.copy_context().run, job._run)
        job._future.add_done_callback(lambda _: self._free_from_any_thread(loop, job))
        return job

    async def close(self) -> None:
        """Cancel every job, and wait until the threads are done with them, or `CLOSE_SECONDS` where one is stuck."""
        for job in list(self._jobs):
            job.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        end = asyncio.get_running_loop().time() + CLOSE_SECONDS
        while self._jobs and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)

    def _expire(self, job: Job[Any]) -> None:
        what = f"the answer was not complete within {self._deadline:g} s"
        job.cancel(DeadlinePassed(what, hint="Ask for less; the setting server.deadline is the limit."))

    def _free_from_any_thread(self, loop: asyncio.AbstractEventLoop, job: Job[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._free, job)

    def _free(self, job: Job[Any]) -> None:
        self._jobs.discard(job)
        if job._timer is not None:
            job._timer.cancel()
        if job.started is not None:
            # A moving mean over about the last five jobs, for `retry_after` alone.
            self._mean_seconds += 0.2 * (time.monotonic() - job.started - self._mean_seconds)

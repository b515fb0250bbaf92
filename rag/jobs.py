"""The work of requests in the lanes: what is put there is dropped when its client goes away."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

from rag.errors import Overloaded
from rag.lanes import Job, Lane
from rag.loader import Loader
from rag.service import Service
from rag.telemetry import Telemetry

T = TypeVar("T")


class Jobs:
    """`chat` is the lane of the language model, `embed` that of the embedder, `lookup` that of all that is quick.

    Two thousand texts take a minute, in which searches and documents that are opened cannot wait.
    """

    def __init__(self, loader: Loader, chat: Lane, embed: Lane, lookup: Lane, telemetry: Telemetry) -> None:
        self._loader = loader
        self._chat = chat
        self._embed = embed
        self._lookup = lookup
        self._telemetry = telemetry
        self._watchers: set[asyncio.Task[None]] = set()

    def write(self, request: Request, work: Callable[[], Iterator[T]]) -> Job[T]:
        """Have something done by the language model. Raises `Overloaded` where too many wait."""
        return self._submit(request, self._chat, work)

    def embed(self, request: Request, work: Callable[[], Iterator[T]]) -> Job[T]:
        """Have texts embedded. Raises `Overloaded` where too many wait."""
        return self._submit(request, self._embed, work)

    def quick(self, request: Request, work: Callable[[], Iterator[T]]) -> Job[T]:
        """Have something done that needs no language model. Raises `Overloaded` where too many wait."""
        return self._submit(request, self._lookup, work)

    def look_up(self, request: Request, find: Callable[[Service], T]) -> Job[T]:
        """Put one question to the index as it is when its turn comes. Raises `Overloaded` where too many wait."""
        return self.quick(request, lambda: self._loader.each(lambda service: iter([find(service)])))

    def _submit(self, request: Request, lane: Lane, work: Callable[[], Iterator[T]]) -> Job[T]:
        try:
            job = lane.submit(work)
        except Overloaded:
            self._telemetry.overloaded(lane.name)
            raise
        # Ends by itself: a server reports a disconnect when the response is complete, too.
        watcher = asyncio.create_task(self._cancel_when_gone(request, job))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return job

    async def _cancel_when_gone(self, request: Request, job: Job[T]) -> None:
        with contextlib.suppress(HTTPException):  # a body that nobody reads is too large or too slow: gone, too
            while (await request.receive())["type"] != "http.disconnect":
                pass
        if not job.ended:
            self._telemetry.abandoned()
            job.cancel()

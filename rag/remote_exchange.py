"""HTTP requests that can be given up at any moment, whatever the other side does or leaves undone.

A thread that waits at a socket cannot be told to stop. So an event loop in a thread of its own makes the requests, and
whoever wants an answer is told every `STEP` seconds that nothing came, and may leave.
"""

import asyncio
import queue
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from rag.errors import Unavailable

STEP = 0.25
# How long an end waits for connections to be closed in good order.
CLOSE_SECONDS = 3.0


class Head(NamedTuple):
    """What an answer begins with."""

    status: int
    headers: httpx.Headers


class Exchange:
    """One request under way: first its `head`, then its body by `chunk`. `close` gives it up, connection and all.

    For one thread. Errors of httpx are raised where what failed is asked for.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: httpx.AsyncClient,
        request: httpx.Request,
        auth: httpx.Auth,
        most: int,
    ) -> None:
        self._events: queue.SimpleQueue[Head | bytes | Exception] = queue.SimpleQueue()
        self._future = asyncio.run_coroutine_threadsafe(self._run(client, request, auth, most), loop)

    def head(self) -> Head | None:
        """Return the answer's head, None where it has not come within `STEP` seconds: ask again."""
        event = self._next()
        assert not isinstance(event, bytes)
        return event

    def chunk(self) -> bytes | None:
        """Return the next bytes of the body, b"" at its end, None where nothing came within `STEP` seconds."""
        event = self._next()
        assert not isinstance(event, Head)
        return event

    def close(self) -> None:
        """Give it up, if it has not ended. Idempotent."""
        self._future.cancel()

    def _next(self) -> Head | bytes | None:
        try:
            event = self._events.get(timeout=STEP)
        except queue.Empty:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    async def _run(self, client: httpx.AsyncClient, request: httpx.Request, auth: httpx.Auth, most: int) -> None:
        """Hand out what comes, in the loop's thread; of the body what `most` bytes allow and one chunk more."""
        try:
            response = await client.send(request, stream=True, auth=auth)
            try:
                self._events.put(Head(response.status_code, response.headers))
                size = 0
                async for chunk in response.aiter_bytes():
                    if chunk:
                        self._events.put(chunk)
                    size += len(chunk)
                    if size > most:
                        break
            finally:
                await response.aclose()
            self._events.put(b"")
        except asyncio.CancelledError:
            self._events.put(httpx.CloseError("it was given up"))
            raise
        except Exception as error:  # whatever it is, whoever waits must hear of it
            self._events.put(error)


class Exchanges:
    """Makes requests, any number at a time and for any thread. `close` gives up all that are under way."""

    def __init__(self, timeout: httpx.Timeout) -> None:
        self._client = httpx.AsyncClient(timeout=timeout)
        self._lock = threading.Lock()  # guards what follows
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def request(self, url: httpx.URL, body: Mapping[str, Any]) -> httpx.Request:
        """Return the request that posts a body as JSON."""
        return self._client.build_request("POST", url, json=body)

    def begin(self, request: httpx.Request, auth: httpx.Auth, *, most: int) -> Exchange:
        """Send a request; of its answer little more than `most` bytes are taken. Raises `Unavailable` once closed."""
        with self._lock:
            if self._closed:
                raise Unavailable("the model has been closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="smallhold-endpoint", daemon=True)
                self._thread.start()
            return Exchange(self._loop, self._client, request, auth, most)

    def close(self) -> None:
        """Close the connections and end the thread. Idempotent."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(loop), loop)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            loop.close()

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            under_way = asyncio.all_tasks() - {asyncio.current_task()}
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            await self._client.aclose()
        finally:
            loop.stop()

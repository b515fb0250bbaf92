"""What is no HTTP: refused like everything else that is refused, with OpenAI's error body and the security headers.

uvicorn answers it before the application hears of it, in words and with headers of its own. And it waits for ever: for
the head of a request of which no more comes, and for a client that takes nothing of its answer, which is kept for it.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from rag import problems
from rag.guard import SECURITY_HEADERS

HEAD_SECONDS = 30.0  # for the head of a request, the first one of a connection or the next one that has begun
STALL_SECONDS = 60.0  # in which a client takes none of what it asked for


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with that refusal and these limits; for `uvicorn.Config(http=...)`."""

    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Go on waiting while the head is not complete."""
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._forget_head()
        self._forget_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to watch whether the client takes anything."""
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It did."""
        self._forget_stall()
        super().resume_writing()

    def _unsupported_upgrade_warning(self) -> None:
        """HTTP/1.1 goes on where a client offers more, as Java's and curl's do: nothing to warn of or to install."""

    def _await_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_head()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _watch_reader(self, left: int) -> None:
        def look() -> None:
            now = self.transport.get_write_buffer_size()
            if now < left:
                self._watch_reader(now)
            else:
                self.transport.abort()

        self._stall = self.loop.call_later(STALL_SECONDS, look)

    def send_400_response(self, msg: str) -> None:
        """Refuse what was sent, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # a request whose body went wrong is over
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer was begun, and nothing fits behind it
            refusal = problems.response(400, f"{msg.rstrip('.')}\nIt is malformed, or its head is longer than 64 kB.")
            refusal.headers.update({**SECURITY_HEADERS, "Cache-Control": "no-store", "Connection": "close"})
            response = h11.Response(status_code=400, headers=refusal.raw_headers, reason=b"Bad Request")
            for event in (response, h11.Data(data=bytes(refusal.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

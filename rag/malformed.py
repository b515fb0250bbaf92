"""What is no HTTP: refused like everything else that is refused, with OpenAI's error body and the security headers.

uvicorn answers it before the application hears of it, in words and with headers of its own.
"""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from rag import problems
from rag.guard import SECURITY_HEADERS


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with that refusal; for `uvicorn.Config(http=...)`."""

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

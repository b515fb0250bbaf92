"""What every HTTP request passes on its way to a route: Host, number, size, time and type; and what it gets: headers.

A page on the web can make a visitor's browser talk to a server on the visitor's own machine. Two things stop it here:
the Host check (a hostile name that was rebound to 127.0.0.1 still sends its own name), and the demand for a JSON
content type, which a cross-site form cannot send and a cross-site script may not without a CORS permission, which is
given to those origins alone that the settings name.
"""

import asyncio
import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag import logs, problems
from rag.config import ServerSettings

logger = logging.getLogger(__name__)

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(?::\d{1,5})?")
# Answered however much is going on, and not counted: they cost next to nothing, and tell those who watch the server.
UNCOUNTED = frozenset({"/health", "/ready", "/metrics"})
HOST_REFUSED = 421
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class HostRule:
    """Which Host headers are answered: on loopback its names and those allowed, elsewhere those allowed, if any."""

    def __init__(self, host: str, allowed: Iterable[str] = ()) -> None:
        extra = frozenset(name.lower() for name in allowed)
        own = {host.lower()} if is_loopback(host) else set()  # 127.0.0.2 is loopback, too
        self._allowed = _LOOPBACK_NAMES | extra | own
        self._checks = bool(own or extra)

    def allows(self, hosts: list[str]) -> bool:
        """Whether a request with these Host headers (there should be one) is answered. Any port will do."""
        if not self._checks:
            return True
        if len(hosts) != 1:
            return False
        host = hosts[0].lower()
        match = _HOST.fullmatch(host)
        return match is not None and (match["name"] in self._allowed or host in self._allowed)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Envelope:
    """ASGI middleware that gives a request its id, every response its headers, and the log its line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))
        logs.request_id.set(request_id)
        began, status = time.perf_counter(), problems.CLIENT_GONE

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            if scope["path"] not in UNCOUNTED or status == HOST_REFUSED:
                logs.log_request(scope, status, time.perf_counter() - began)


class Guard:
    """ASGI middleware. Refusals have OpenAI's error body, like everything that fails further in."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._hosts = HostRule(settings.host, settings.allowed_hosts)
        self._max_body = settings.max_body_bytes
        self._body_seconds = settings.body_seconds
        self._max_requests = settings.requests
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, pass it on, and see to it that a response comes back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counted = scope["path"] not in UNCOUNTED
        refusal = self._refusal(Headers(scope=scope), counted)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self._requests += counted
        try:
            await self._app(scope, self._bounded(receive), send_noting_start)
        except asyncio.CancelledError:  # told to end, and the time for what is under way is over
            if started:
                raise
            ending = "the server is being stopped\nAsk again when it is there again."
            await problems.response(503, ending, code="unavailable")(scope, receive, send)
        except Exception:
            if started:
                raise  # the server closes the connection, which is all that can still be said
            request_id = logs.request_id.get()
            logger.exception("request %s failed: %s %s", request_id, scope["method"], logs.route_of(scope))
            await problems.internal(request_id)(scope, receive, send)
        finally:
            self._requests -= counted

    def _refusal(self, headers: Headers, counted: bool) -> JSONResponse | None:
        if not self._hosts.allows(headers.getlist("host")):
            return problems.response(
                HOST_REFUSED,
                "this server does not answer to that Host header\n"
                "Ask it as localhost or 127.0.0.1, or add the name to server.allowed_hosts.",
            )
        if counted and self._requests >= self._max_requests:
            return problems.response(
                503,
                f"{self._requests} requests are under way already\n"
                f"Try again in {problems.RETRY_AFTER_SECONDS} s; the setting server.requests is the limit.",
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body:
            return self._too_large_response()
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """Bound the body in bytes and seconds. What comes after it, that the client left, may take its time."""
        read, complete = 0, False
        end = asyncio.get_running_loop().time() + self._body_seconds

        async def bounded() -> Message:
            nonlocal read, complete
            try:
                async with asyncio.timeout_at(None if complete else end):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, self._too_slow) from None
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._max_body:
                    raise HTTPException(413, self._too_large)
            complete = not message.get("more_body", False)
            return message

        return bounded

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body} bytes\nThe setting server.max_body_bytes is the limit."

    @property
    def _too_slow(self) -> str:
        return f"the body took longer than {self._body_seconds:g} s\nThe setting server.body_seconds is the limit."

    def _too_large_response(self) -> JSONResponse:
        return problems.response(413, self._too_large)


async def require_json(request: Request) -> None:
    """Refuse a POST that does not say that it is JSON: a dependency of every route.

    A coroutine, since others are run in one of the threads that gather the figures: `/health` would wait for these.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise HTTPException(415, "the body must be JSON\nSend it with the header Content-Type: application/json.")


def _request_id(headers: Headers) -> str:
    """The client's own id where it is a plain one, so that both logs name the request alike; else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _add_headers(message: Message, request_id: str) -> None:
    headers = MutableHeaders(scope=message)
    headers["X-Request-Id"] = request_id
    headers.setdefault("Cache-Control", "no-store")
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value

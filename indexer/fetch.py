"""Fetching pages from the network, and never from where a page's owner might like to send us.

Each address of a page is resolved once, what it resolves to is checked (`indexer.addresses`), and the connection goes
to what was checked: a name that resolves differently the next time gains nothing. TLS certificates are checked against
the name. Redirects are followed here, each checked like the first address. No proxy, cookie or password is used.
"""

import asyncio
import os
import re
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

import httpx

from indexer.addresses import Address, is_public, parse_address, refusal
from indexer.inflate import PIECE, Inflater
from indexer.media import split_type, suffix_of, to_utf8
from indexer.parsed import FILE_BYTES
from rag.errors import Unavailable, UnreadableDocument

URL_LENGTH = 2000
SECONDS = 60.0  # for one page, redirects and all
SILENCE = 15.0  # seconds for a connection, and between two pieces of a page
REDIRECTS = 5
TOTAL_BYTES = 5_000_000_000  # of all pages of a run
_AT_ONCE = 4
_MOST_ADDRESSES = 4  # of a name that are tried: the first may be one of IPv6 where there is none
_DEAD_AFTER = 3  # pages of a host in a row that it did not answer for: its others are not tried
_NAME_BYTES = 200  # systems take 255 for a file's name, and a server decides to which address it leads
_MOVED = (301, 302, 303, 307, 308)

Resolver = Callable[[str, int], Sequence[str]]
"""From host and port to IP addresses. Raises `OSError`."""


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server gave to ask with whether a page has changed: of which address, its `ETag` and `Last-Modified`."""

    address: str = ""
    etag: str = ""
    modified: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a page: new `content` in a file, the same as before, gone for good, or why it cannot be had."""

    kind: Literal["content", "unchanged", "gone", "failed"]
    reason: str = ""
    file: Path = Path()
    validators: Validators = Validators()


def parse_url(text: str) -> httpx.URL:
    """Return an address of a page in its normal form. Raises `UnreadableDocument` for anything else."""
    if len(text) > URL_LENGTH or not text.isprintable() or any(char.isspace() for char in text):
        raise UnreadableDocument(f"no address: it has spaces, or more than {URL_LENGTH} characters")
    try:
        url = httpx.URL(text)
        url = url.copy_with(raw_path=url.raw_path, fragment=None)
        port, host = url.port, url.host
    except (httpx.InvalidURL, ValueError) as error:
        raise UnreadableDocument(f"no address: {error}") from None
    if url.scheme not in ("http", "https"):
        raise UnreadableDocument("only addresses that begin with http:// or https:// are fetched")
    if not host or (port is not None and not 0 < port < 65536):
        raise UnreadableDocument("no address: it names no host, or an impossible port")
    if url.userinfo:
        raise UnreadableDocument("an address with a user or password in it is not fetched")
    return url


def system_resolver(host: str, port: int) -> list[str]:
    """Resolve as this machine does."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Fetcher:
    """Fetches pages over HTTP, within bounds. `private` allows addresses of private networks and this machine too.

    `resolver` and `transport` are what tests put their own in: `transport` makes a connection, given its TLS settings.
    """

    def __init__(
        self,
        *,
        private: bool = False,
        seconds: float = SECONDS,
        page_bytes: int = FILE_BYTES,
        total_bytes: int = TOTAL_BYTES,
        resolver: Resolver = system_resolver,
        transport: Callable[[ssl.SSLContext], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._private = private
        self._seconds = seconds
        self._page_bytes = page_bytes
        self._total_bytes = total_bytes
        self._resolver = resolver
        self._transport = transport or _transport
        self._tls = httpx.create_ssl_context()
        self._agent = f"smallhold/{_version()}"

    def fetch(
        self,
        pages: Sequence[tuple[str, Validators]],
        folder: Path,
        suffixes: Collection[str],
        done: Callable[[int], None],
    ) -> list[Reply]:
        """Fetch pages, some at once, into files below a folder, and return what became of each, in their order.

        Where a page has validators its server is asked for nothing but news. `suffixes` are those of the formats that
        can be read; `done` is told how many pages are through. Raises `Unavailable` where the disk refuses.
        """
        try:
            return asyncio.run(self._fetch_all(pages, folder, frozenset(suffixes), done))
        except OSError as error:
            raise Unavailable(
                f"a page cannot be kept in {folder}: {error.strerror or error}", hint="Make room there."
            ) from error

    async def _fetch_all(
        self,
        pages: Sequence[tuple[str, Validators]],
        folder: Path,
        suffixes: frozenset[str],
        done: Callable[[int], None],
    ) -> list[Reply]:
        run = _Run(self, folder, suffixes, self._total_bytes)
        turn = asyncio.Semaphore(_AT_ONCE)
        finished = 0

        async def one(number: int, url: str, validators: Validators) -> Reply:
            nonlocal finished
            async with turn:
                reply = await run.page(number, url, validators)
            finished += 1
            done(finished)
            return reply

        tasks = [asyncio.ensure_future(one(number, *page)) for number, page in enumerate(pages)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def addresses(self, url: httpx.URL) -> list[Address]:
        """Resolve an address, once. Raises `UnreadableDocument` where any that it has may not be fetched from."""
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        host = url.raw_host.decode("ascii")
        try:
            found = await asyncio.to_thread(self._resolver, host, port)
            addresses = [parse_address(text) for text in found]
        except (OSError, ValueError) as error:  # ValueError: a name no resolver takes
            reason = getattr(error, "strerror", None) or "no such name"
            raise _Unreached(f"{url.host} cannot be resolved: {reason}") from None
        for address in addresses:
            if reason := refusal(address, private=self._private):
                raise UnreadableDocument(f"refused: {url.host} is at {address}, {reason}")
        if not addresses:
            raise _Unreached(f"{url.host} has no address")
        return addresses[:_MOST_ADDRESSES]

    @asynccontextmanager
    async def open(
        self, url: httpx.URL, addresses: Sequence[Address], headers: dict[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Ask for a page at the first of these addresses that takes a connection, a new one for every request.

        Connections are not kept: one that was made for a name must not serve another name at the same address.
        """
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), SILENCE)
        failure: httpx.HTTPError | None = None
        for address in addresses:
            request = httpx.Request(
                "GET",
                url.copy_with(host=str(address)),
                headers={
                    "Host": url.netloc.decode("ascii"),
                    "User-Agent": self._agent,
                    "Accept": "*/*",
                    "Accept-Encoding": "gzip",
                    "Connection": "close",
                    **headers,
                },
                extensions={"sni_hostname": url.raw_host.decode("ascii"), "timeout": timeout},
            )
            async with self._transport(self._tls) as transport:
                try:
                    response = await transport.handle_async_request(request)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failure = error
                    continue
                try:
                    yield response
                finally:
                    await response.aclose()
                return
        raise _Unreached(f"{url.host} cannot be reached: {_said(failure)}")

    @property
    def seconds(self) -> float:
        """How long a page may take."""
        return self._seconds

    @property
    def page_bytes(self) -> int:
        """How large a page may be."""
        return self._page_bytes


class _Unreached(UnreadableDocument):
    """No connection came about."""


class _Run:
    """The pages of one run, in files below a folder."""

    def __init__(self, fetcher: Fetcher, folder: Path, suffixes: frozenset[str], left: int) -> None:
        self._fetcher = fetcher
        self._folder = folder
        self._suffixes = suffixes
        self._left = left
        self._unreached: Counter[str] = Counter()

    async def page(self, number: int, text: str, validators: Validators) -> Reply:
        """Fetch a page; whatever goes wrong with it becomes the reason of the reply."""
        url = parse_url(text)
        if self._unreached[url.host] >= _DEAD_AFTER:
            return Reply("failed", f"not tried: {url.host} did not answer {_DEAD_AFTER} times in a row")
        try:
            async with asyncio.timeout(self._fetcher.seconds):
                reply = await self._follow(url, validators, self._folder / f"{number:06d}")
        except _Unreached as error:
            self._unreached[url.host] += 1
            return Reply("failed", error.message)
        except UnreadableDocument as error:  # it is there, and said no
            self._unreached[url.host] = 0
            return Reply("failed", error.message)
        except TimeoutError:
            self._unreached[url.host] += 1
            return Reply("failed", f"it took longer than {self._fetcher.seconds:g} s")
        except httpx.HTTPError as error:
            self._unreached[url.host] += isinstance(error, httpx.TimeoutException)
            return Reply("failed", f"{url.host} did not send it: {_said(error)}")
        self._unreached[url.host] = 0
        return reply

    async def _follow(self, url: httpx.URL, validators: Validators, folder: Path) -> Reply:
        public = False
        for _ in range(REDIRECTS + 1):
            addresses = await self._fetcher.addresses(url)
            if public and not all(map(is_public, addresses)):
                raise UnreadableDocument(f"refused: a public page leads to {url.host}, at the private {addresses[0]}")
            public = public or all(map(is_public, addresses))
            headers = _conditions(validators) if validators.address == str(url) else {}
            async with self._fetcher.open(url, addresses, headers) as response:
                if response.status_code not in _MOVED:
                    return await self._take(response, url, folder, conditional=bool(headers))
                url = _redirected(url, response.headers.get("Location", ""))
        raise UnreadableDocument(f"it leads from one address to the next more than {REDIRECTS} times")

    async def _take(self, response: httpx.Response, url: httpx.URL, folder: Path, *, conditional: bool) -> Reply:
        status = response.status_code
        if status == 304 and conditional:
            return Reply("unchanged")
        if status == 410:
            return Reply("gone", "410: it is gone for good, says its server")
        if status != 200:
            with suppress(ValueError):
                raise UnreadableDocument(f"{status} {HTTPStatus(status).phrase}, says its server")
            raise UnreadableDocument(f"{status}, says its server")
        kind, charset = split_type(response.headers.get("Content-Type", ""))
        suffix = suffix_of(kind, url.path, self._suffixes)
        folder.mkdir()
        part = folder / "part"
        with part.open("wb") as file:
            async for piece in self._body(response):
                file.write(piece)
        if _is_pdf(part):  # whatever its server calls it
            suffix = ".pdf"
        to_utf8(part, suffix, charset)
        modified = response.headers.get("Last-Modified", "")[:100]
        validators = Validators(str(url), response.headers.get("ETag", "")[:1000], modified)
        return Reply("content", "", _named(part, _name(url, suffix), modified), validators)

    async def _body(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the page in pieces. Raises `UnreadableDocument` at the first that is too much, packed or unpacked."""
        limit = self._fetcher.page_bytes
        size = response.headers.get("Content-Length", "")
        if size.isdecimal() and len(size) < 20 and int(size) > limit:
            raise _too_large(limit)
        unpacked = Inflater(response.headers.get("Content-Encoding", ""))
        came = sent = 0
        async for piece in response.aiter_raw(PIECE):
            came += len(piece)
            for part in unpacked.of(piece):
                sent += len(part)
                self._left -= len(part)
                if max(came, sent) > limit:
                    raise _too_large(limit)
                if self._left < 0:
                    raise UnreadableDocument("not kept: the pages of this run are too large together")
                yield part
            if came > limit:
                raise _too_large(limit)
        unpacked.check_end()


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    if not location:
        raise UnreadableDocument("its server says that it has moved, and not where")
    try:
        target = url.join(location)
    except (httpx.InvalidURL, ValueError):
        raise UnreadableDocument("its server leads to what is no address") from None
    try:
        return parse_url(str(target))
    except UnreadableDocument as error:
        raise UnreadableDocument(f"refused: it leads to {str(target)[:200]!r}: {error.message}") from None


def _conditions(validators: Validators) -> dict[str, str]:
    given = {"If-None-Match": validators.etag, "If-Modified-Since": validators.modified}
    return {name: value for name, value in given.items() if value}


def _is_pdf(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(5) == b"%PDF-"


def _named(part: Path, name: str, modified: str) -> Path:
    """Give a page a name of its own, and the time of its last change where that is known."""
    file = part.rename(part.with_name(name))
    with suppress(ValueError, TypeError, OverflowError, OSError):
        when = parsedate_to_datetime(modified).timestamp()
        os.utime(file, (when, when))
    return file


def _name(url: httpx.URL, suffix: str) -> str:
    """A file name for a page, of which a title can be made: the last part of its address, or its host."""
    last = PurePosixPath(unquote(url.path)).name.removesuffix(suffix) or url.host
    kept = re.sub(r"[^\w.-]+", "-", last).strip(".-")[:80].encode()[:_NAME_BYTES].decode("utf-8", "ignore")
    return (kept or "page") + suffix


def _transport(tls: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    return httpx.AsyncHTTPTransport(verify=tls, trust_env=False, retries=0)


def _too_large(limit: int) -> UnreadableDocument:
    return UnreadableDocument(f"too large: more than {limit / 1_000_000:g} MB")


def _said(error: Exception | None) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _version() -> str:
    try:
        return version("smallhold")
    except PackageNotFoundError:
        return "0"

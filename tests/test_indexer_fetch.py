"""Fetching pages: where connections go, what is refused, and what a hostile server gets out of it."""

import asyncio
import gzip
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from indexer.addresses import is_public, parse_address, refusal
from indexer.fetch import Fetcher, Reply, Validators, parse_url
from indexer.load import SUFFIXES
from indexer.media import split_type, suffix_of
from rag.errors import UnreadableDocument, UnsupportedFormat

PUBLIC = "93.184.215.14"
NONE = Validators()
MARCH = "Fri, 01 Mar 2024 10:00:00 GMT"


class Body(httpx.AsyncByteStream):
    """As it comes from the network, not unpacked."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        for start in range(0, len(self._content), 10_000):
            yield self._content[start : start + 10_000]


class Net:
    """Names with their addresses, asked one after the other, and servers by address that answer what they are told."""

    def __init__(self, names: dict[str, list[str]], answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self.names = names
        self.resolved: list[str] = []
        self.requests: list[httpx.Request] = []
        self._answer = answer

    def resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        if host not in self.names:
            raise OSError(-2, "Name or service not known")
        addresses = self.names[host]
        return [addresses[min(self.resolved.count(host), len(addresses)) - 1]]

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)

    def fetch(self, tmp_path: Path, *urls: str, **options: object) -> list[Reply]:
        fetcher = Fetcher(
            resolver=self.resolve,
            transport=lambda _: httpx.MockTransport(self._handle),
            **options,  # type: ignore[arg-type]
        )
        tmp_path.mkdir(exist_ok=True)
        return fetcher.fetch([(str(parse_url(url)), NONE) for url in urls], tmp_path, SUFFIXES, lambda _: None)


def page(text: str = "<p>hello</p>", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(200, headers={"Content-Type": "text/html", **named}, stream=Body(text.encode()))


def moved(location: str) -> httpx.Response:
    return httpx.Response(302, headers={"Location": location})


# --- addresses


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        (PUBLIC, True, True),
        ("2606:2800:220:1::1", True, True),
        ("::ffff:93.184.215.14", True, True),
        ("64:ff9b::5db8:d70e", True, True),  # the same, seen through NAT64
        ("10.1.2.3", False, True),
        ("172.31.0.1", False, True),
        ("192.168.1.1", False, True),
        ("127.0.0.1", False, True),
        ("127.8.8.8", False, True),
        ("::1", False, True),
        ("fd00::1", False, True),
        ("100.64.0.1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("64:ff9b::a00:1", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("fe80::1", False, False),
        ("fe80::1%eth0", False, False),
        ("fec0::1", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("::7f00:1", False, False),
        ("255.255.255.255", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("240.0.0.1", False, False),
        ("192.0.2.1", False, False),
        ("198.18.0.1", False, False),
        ("2001:db8::1", False, False),
        ("2002:7f00:1::", False, False),
        ("2002:5db8:d70e::1", False, False),
        ("2001:0:5db8:d70e::1", False, False),
    ],
)
def test_which_addresses_are_fetched_from(address: str, public: bool, private: bool) -> None:
    parsed = parse_address(address)
    assert (is_public(parsed), refusal(parsed, private=False) == "") == (public, public)
    assert (refusal(parsed, private=True) == "") == private


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://example.org/a", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("example.org/a", "http:// or https://"),
        ("http:///a", "no host"),
        ("http:/a", "no host"),
        ("https://user:secret@example.org/", "user or password"),
        ("https://user@example.org/", "user or password"),
        ("http://example.org:99999/", "impossible port"),
        ("http://example.org:0/", "impossible port"),
        ("http://exa mple.org/", "spaces"),
        ("http://[::1/", "no address"),
        ("http://example.org/\x00", "no address"),
        ("http://example.org/" + "a" * 2000, "2000 characters"),
    ],
)
def test_what_is_no_address_of_a_page(text: str, reason: str) -> None:
    with pytest.raises(UnreadableDocument, match=reason):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("HTTPS://Example.ORG", "https://example.org/"),
        ("http://example.org:80/a?b=c#part", "http://example.org/a?b=c"),
        ("https://example.org?q=1", "https://example.org/?q=1"),
        ("https://example.org/a%2Fb/../c", "https://example.org/c"),
        ("https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
    ],
)
def test_addresses_have_one_form(text: str, url: str) -> None:
    assert str(parse_url(text)) == url
    assert str(parse_url(url)) == url


# --- connections


def test_the_connection_goes_to_the_address_that_was_checked(tmp_path: Path) -> None:
    net = Net({"example.org": [PUBLIC, "127.0.0.1"]}, lambda _: page())
    (reply,) = net.fetch(tmp_path, "https://example.org:8443/a?b=c")
    (request,) = net.requests
    assert (reply.kind, reply.file.read_text()) == ("content", "<p>hello</p>")
    assert str(request.url) == f"https://{PUBLIC}:8443/a?b=c"
    assert (request.headers["Host"], request.extensions["sni_hostname"]) == ("example.org:8443", "example.org")
    assert net.resolved == ["example.org"]
    assert "Cookie" not in request.headers
    assert "Authorization" not in request.headers


def test_a_name_that_turns_private_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """DNS rebinding: public for the first page, and for the redirect on the second look a private one."""
    net = Net({"evil.example": [PUBLIC, "10.0.0.1"]}, lambda _: moved("https://evil.example/inside"))
    (reply,) = net.fetch(tmp_path, "https://evil.example/")
    assert reply.reason.startswith("refused: evil.example is at 10.0.0.1, a private address")
    assert [request.url.host for request in net.requests] == [PUBLIC]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["127.0.0.1"], "127.0.0.1, a private address; allow such with --allow-urls private"),
        (["169.254.169.254"], "169.254.169.254, no public address"),
        (["::ffff:127.0.0.1"], "127.0.0.1, a private address; allow such with --allow-urls private"),
    ],
)
def test_names_of_private_addresses_are_refused(tmp_path: Path, names: list[str], reason: str) -> None:
    net = Net({"a.example": names}, lambda _: page())
    (reply,) = net.fetch(tmp_path, "http://a.example/")
    assert (reply.kind, reply.reason, net.requests) == ("failed", f"refused: a.example is at {reason}", [])


def test_one_private_address_among_public_ones_is_enough(tmp_path: Path) -> None:
    net = Net({}, lambda _: page())
    fetcher = Fetcher(resolver=lambda *_: [PUBLIC, "10.0.0.1"], transport=lambda _: httpx.MockTransport(net._handle))
    (reply,) = fetcher.fetch([("http://a.example/", NONE)], tmp_path, SUFFIXES, lambda _: None)
    assert (reply.kind, net.requests) == ("failed", [])


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "localhost", "[::1]", "0"])
def test_spellings_of_this_machine_are_refused(tmp_path: Path, host: str) -> None:
    net = Net({}, lambda _: page())
    fetcher = Fetcher(transport=lambda _: httpx.MockTransport(net._handle))
    (reply,) = fetcher.fetch([(str(parse_url(f"http://{host}/")), NONE)], tmp_path, SUFFIXES, lambda _: None)
    assert (reply.kind, reply.reason[:8], net.requests) == ("failed", "refused:", [])


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (
            "http://169.254.169.254/latest/meta-data",
            "refused: 169.254.169.254 is at 169.254.169.254, no public address",
        ),
        ("file:///etc/passwd", "refused: it leads to 'file:"),
        ("http://user:secret@example.org/", "refused: it leads to"),
        ("http://[::1/", "its server leads to what is no address"),
        ("", "its server says that it has moved, and not where"),
        ("/again", "it leads from one address to the next more than 5 times"),
    ],
)
def test_redirects_are_checked_like_the_first_address(tmp_path: Path, location: str, reason: str) -> None:
    names = {"example.org": [PUBLIC], "169.254.169.254": ["169.254.169.254"]}
    net = Net(names, lambda _: moved(location))
    for private in (False, True):
        (reply,) = net.fetch(tmp_path / str(private), "https://example.org/", private=private)
        assert reply.kind == "failed"
        assert reply.reason.startswith(reason)
    assert {request.url.host for request in net.requests} == {PUBLIC}


def test_a_public_page_leads_to_no_private_one_even_where_these_are_allowed(tmp_path: Path) -> None:
    names = {"example.org": [PUBLIC], "wiki.lan": ["10.0.0.1"], "new.lan": ["10.0.0.2"]}

    def answer(request: httpx.Request) -> httpx.Response:
        target = {"example.org": "http://wiki.lan/", "wiki.lan": "http://new.lan/"}.get(request.headers["Host"])
        return moved(target) if target else page()

    net = Net(names, answer)
    outside, inside = net.fetch(tmp_path, "https://example.org/", "http://wiki.lan/", private=True)
    assert outside.reason == "refused: a public page leads to wiki.lan, at the private 10.0.0.1"
    assert inside.kind == "content"


def test_a_redirect_that_is_fine_is_followed(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return page() if request.url.path == "/new/page" else moved("new/page")

    (reply,) = Net({"example.org": [PUBLIC]}, answer).fetch(tmp_path, "https://example.org/old")
    assert (reply.kind, reply.file.name) == ("content", "page.html")
    assert reply.validators.address == "https://example.org/new/page"


def test_a_long_name_costs_no_more_than_its_length(tmp_path: Path) -> None:
    """A server leads to which address it likes; a file's name has 255 bytes, and some letters four."""
    net = Net({"a.example": [PUBLIC]}, lambda _: page(Last_Modified="Mon, 01 Jan 0001 00:00:00 GMT"))
    (reply,) = net.fetch(tmp_path, f"https://a.example/{quote(chr(0x20000) * 90)}.html")
    assert (reply.kind, reply.file.read_text()) == ("content", "<p>hello</p>")
    assert reply.file.name == f"{chr(0x20000) * 50}.html"


def test_the_next_address_is_tried_where_the_first_takes_no_connection(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if ":" in request.url.host:
            raise httpx.ConnectError("Network is unreachable")
        return page()

    net = Net({}, answer)
    fetcher = Fetcher(
        resolver=lambda *_: ["2606:2800:220:1::1", PUBLIC], transport=lambda _: httpx.MockTransport(net._handle)
    )
    (reply,) = fetcher.fetch([("http://a.example/", NONE)], tmp_path, SUFFIXES, lambda _: None)
    assert (reply.kind, len(net.requests)) == ("content", 2)


def test_a_host_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("timed out")

    net = Net({"example.org": [PUBLIC]}, answer)
    replies = net.fetch(tmp_path, *(f"https://example.org/{number}" for number in range(20)))
    assert replies[0].reason == "example.org cannot be reached: timed out"
    assert replies[-1].reason == "not tried: example.org did not answer 3 times in a row"
    assert len(net.requests) < 10


@pytest.mark.parametrize("said", [200, 404])
def test_a_host_that_answers_now_and_then_is_not_given_up(tmp_path: Path, said: int) -> None:
    """That a page is not there is an answer, too."""

    def answer(request: httpx.Request) -> httpx.Response:
        if int(request.url.path[1:]) % 3:
            raise httpx.ReadTimeout("")
        return page() if said == 200 else httpx.Response(said)

    net = Net({"example.org": [PUBLIC]}, answer)
    replies = net.fetch(tmp_path, *(f"https://example.org/{number}" for number in range(30)))
    assert [reply.reason.startswith("example.org did not") for reply in replies] == [n % 3 > 0 for n in range(30)]
    assert replies[0].kind == ("content" if said == 200 else "failed")


def test_a_host_that_takes_connections_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    """A list of thousands of pages of one such host would take a day at 15 s each."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("")

    net = Net({"example.org": [PUBLIC]}, answer)
    replies = net.fetch(tmp_path, *(f"https://example.org/{number}" for number in range(5000)))
    assert replies[0].reason == "example.org did not send it: ReadTimeout"
    assert replies[-1].reason == "not tried: example.org did not answer 3 times in a row"
    assert len(net.requests) < 10


# --- what comes


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (404, "failed", "404 Not Found, says its server"),
        (410, "gone", "410: it is gone for good, says its server"),
        (503, "failed", "503 Service Unavailable, says its server"),
        (304, "failed", "304 Not Modified, says its server"),
        (799, "failed", "799, says its server"),
    ],
)
def test_what_servers_say(tmp_path: Path, status: int, kind: str, reason: str) -> None:
    net = Net({"example.org": [PUBLIC]}, lambda _: httpx.Response(status))
    (reply,) = net.fetch(tmp_path, "https://example.org/")
    assert (reply.kind, reply.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("content_type", "path", "suffix"),
    [
        ("text/html; charset=utf-8", "/a.pdf", ".html"),
        ("application/pdf", "/a", ".pdf"),
        ("text/plain", "/README.md", ".md"),
        ("text/plain", "/a.pdf", ".txt"),
        ("text/plain", "/a", ".txt"),
        ("text/x-python", "/a.py", ".py"),
        ("application/octet-stream", "/a.docx", ".docx"),
        ("", "/a%2Epdf", ".pdf"),
        ("application/ld+json", "/a", ".json"),
        ("application/rss+xml", "/feed", ".xml"),
        ("application/gzip", "/a.tar.gz", ".gz"),
        ("TEXT/HTML", "/", ".html"),
    ],
)
def test_the_type_decides_on_the_loader(content_type: str, path: str, suffix: str) -> None:
    assert suffix_of(split_type(content_type)[0], path, SUFFIXES) == suffix


@pytest.mark.parametrize("content_type", ["image/png", "video/mp4; x=y", "application/octet-stream", "", "nonsense"])
def test_types_without_a_loader_are_named(content_type: str) -> None:
    with pytest.raises(UnsupportedFormat):
        suffix_of(split_type(content_type)[0], "/a", SUFFIXES)


@pytest.mark.parametrize("name", ["notes.rst", "schema.sql", "feed.xml", "server.log"])
def test_texts_of_all_kinds_are_in_the_charset_that_their_server_names(tmp_path: Path, name: str) -> None:
    kind = "application/xml" if name.endswith(".xml") else "text/plain"
    headers, content = {"Content-Type": f"{kind}; charset=iso-8859-2"}, "Łódź, żółta łódź"

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, stream=Body(content.encode("iso-8859-2")))

    (reply,) = Net({"example.org": [PUBLIC]}, answer).fetch(tmp_path, f"https://example.org/{name}")
    assert reply.file.read_text("utf-8-sig") == content


def test_a_pdf_is_one_whatever_its_server_says_and_text_comes_as_utf8(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/pdf":
            return httpx.Response(200, headers={"Content-Type": "text/html"}, stream=Body(b"%PDF-1.7 ..."))
        charset = request.url.path.removeprefix("/")
        content = "Straße, Łódź" if charset == "iso-8859-2" else "日本"
        return httpx.Response(
            200,
            headers={
                "Content-Type": f"text/plain; charset={charset}",
                "Last-Modified": "Fri, 01 Mar 2024 10:00:00 GMT",
            },
            stream=Body(content.encode("iso-8859-2" if charset == "iso-8859-2" else "shift_jis")),
        )

    net = Net({"example.org": [PUBLIC]}, answer)
    pdf, polish, japanese, unknown = net.fetch(
        tmp_path, *(f"https://example.org/{name}" for name in ("pdf", "iso-8859-2", "shift_jis", "klingon"))
    )
    assert pdf.file.suffix == ".pdf"
    assert polish.file.read_text("utf-8-sig") == "Straße, Łódź"
    assert japanese.file.read_text("utf-8-sig") == "日本"
    assert unknown.file.read_bytes() == "日本".encode("shift_jis")
    assert polish.file.stat().st_mtime == 1709287200


def test_compressed_pages_are_unpacked_and_bombs_are_not(tmp_path: Path) -> None:
    text = b"<p>hello</p>"
    bodies = {
        "/one": gzip.compress(text),
        "/members": gzip.compress(text) + gzip.compress(text),
        "/bomb": gzip.compress(bytes(50_000_000)),
        "/cut": gzip.compress(text * 1000)[:-20],
        "/lie": text,
        "/br": text,
        "/large": b"x" * 1_000_001,
    }

    def answer(request: httpx.Request) -> httpx.Response:
        encoding = {"/br": "br", "/large": "identity"}.get(request.url.path, "gzip")
        return httpx.Response(
            200,
            headers={"Content-Type": "text/html", "Content-Encoding": encoding},
            stream=Body(bodies[request.url.path]),
        )

    net = Net({"example.org": [PUBLIC]}, answer)
    replies = net.fetch(tmp_path, *(f"https://example.org{name}" for name in bodies), page_bytes=1_000_000)
    assert [reply.file.read_bytes() for reply in replies[:2]] == [text, text * 2]
    assert [reply.reason for reply in replies[2:]] == [
        "too large: more than 1 MB",
        "damaged: its gzip data end too soon",
        "damaged: it is not the gzip data that its server says",
        "it comes in an encoding that was not asked for ('br')",
        "too large: more than 1 MB",
    ]
    parts = [file.stat().st_size for file in tmp_path.rglob("part")]
    assert max(parts) <= 1_000_000


def test_all_pages_together_have_a_bound(tmp_path: Path) -> None:
    net = Net({"example.org": [PUBLIC]}, lambda _: page("x" * 600))
    replies = net.fetch(tmp_path, *(f"https://example.org/{n}" for n in range(3)), total_bytes=1000)
    assert sorted(reply.kind for reply in replies) == ["content", "failed", "failed"]


def test_a_page_that_has_not_changed_is_asked_for_with_what_its_server_gave(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers.get("If-None-Match") == '"1"':
            return httpx.Response(304)
        return page(ETag='"1"', Last_Modified="Fri, 01 Mar 2024 10:00:00 GMT")

    net = Net({"example.org": [PUBLIC]}, answer)
    (first,) = net.fetch(tmp_path / "1", "https://example.org/")
    fetcher = Fetcher(resolver=net.resolve, transport=lambda _: httpx.MockTransport(net._handle))
    elsewhere = Validators("https://example.org/other", '"1"')
    (tmp_path / "2").mkdir()
    asked = [("https://example.org/", first.validators), ("https://example.org/x", elsewhere)]
    again, other = fetcher.fetch(asked, tmp_path / "2", SUFFIXES, lambda _: None)
    assert (again.kind, other.kind) == ("unchanged", "content")
    assert net.requests[1].headers["If-Modified-Since"] == "Fri, 01 Mar 2024 10:00:00 GMT"


# --- real connections


@contextmanager
def served(handle: Callable[[BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # the other side has had enough
                handle(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def local(fetcher: Fetcher, tmp_path: Path, *urls: str) -> list[Reply]:
    tmp_path.mkdir(exist_ok=True)
    return fetcher.fetch([(url, NONE) for url in urls], tmp_path, SUFFIXES, lambda _: None)


def to_here(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def say(handler: BaseHTTPRequestHandler, body: bytes, **headers: str) -> None:
    handler.send_response(200)
    for name, value in {"Content-Type": "text/plain", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_real_server_is_asked_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    seen = []

    def handle(handler: BaseHTTPRequestHandler) -> None:
        seen.append((handler.headers["Host"], handler.path, handler.headers["Cookie"]))
        say(handler, b"hello", Set_Cookie="a=b; Path=/")

    with served(handle) as port:
        fetcher = Fetcher(resolver=to_here, private=True)
        replies = local(fetcher, tmp_path, f"http://site.test:{port}/a?b=%20", f"http://site.test:{port}/c")
        refused = local(Fetcher(resolver=to_here), tmp_path, f"http://site.test:{port}/a")
    assert [reply.file.read_text() for reply in replies] == ["hello", "hello"]
    assert sorted(seen) == [(f"site.test:{port}", "/a?b=%20", None), (f"site.test:{port}", "/c", None)]
    assert refused[0].reason.startswith("refused: site.test is at 127.0.0.1")


@pytest.mark.parametrize("slow", ["body", "headers", "silence"])
def test_a_server_that_drips_is_left_in_time(tmp_path: Path, slow: str) -> None:
    stop = threading.Event()

    def handle(handler: BaseHTTPRequestHandler) -> None:
        if slow == "body":
            say(handler, b"", Content_Length="1000000")
        elif slow == "headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while slow != "silence" and not stop.wait(0.05):
            handler.wfile.write(b"x")
        stop.wait(10)

    with served(handle) as port:
        began = time.monotonic()
        (reply,) = local(Fetcher(resolver=to_here, private=True, seconds=0.5), tmp_path, f"http://site.test:{port}/a")
        took = time.monotonic() - began
        stop.set()
    assert reply.reason == "it took longer than 0.5 s"
    assert took < 8


def test_a_body_that_is_cut_or_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    def handle(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/cut":
            say(handler, b"x" * 10, Content_Length="1000")
        elif handler.path == "/says":
            say(handler, b"", Content_Length="100000000000")
        elif handler.path == "/junk":
            handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        else:
            say(handler, b"")
            while True:
                handler.wfile.write(b"x" * 100_000)

    with served(handle) as port:
        fetcher = Fetcher(resolver=to_here, private=True, page_bytes=2_000_000)
        names = ("cut", "says", "junk", "endless")
        replies = local(fetcher, tmp_path, *(f"http://site.test:{port}/{name}" for name in names))
    assert all(reply.kind == "failed" for reply in replies)
    assert "did not send it" in replies[0].reason
    assert replies[1].reason == replies[3].reason == "too large: more than 2 MB"
    assert "did not send it" in replies[2].reason


def test_certificates_are_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    try:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", "/CN=site.test", "-addext", "subjectAltName=DNS:site.test"),
                *("-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("openssl cannot make a certificate here")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with served(lambda handler: say(handler, b"hello"), tls) as port:
        fetcher = Fetcher(resolver=to_here, private=True)
        right, wrong = local(fetcher, tmp_path / "a", f"https://site.test:{port}/", f"https://other.test:{port}/")
        monkeypatch.delenv("SSL_CERT_FILE")
        (stranger,) = local(Fetcher(resolver=to_here, private=True), tmp_path / "b", f"https://site.test:{port}/")
    assert right.file.read_text() == "hello"
    assert "CERTIFICATE_VERIFY_FAILED" in wrong.reason
    assert "other.test" in wrong.reason
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.reason


def test_no_connection_serves_two_names(tmp_path: Path) -> None:
    """Two names at one address: a kept connection would be asked for the second under the first's certificate."""
    made = []

    def transport(_: ssl.SSLContext) -> httpx.AsyncBaseTransport:
        made.append(httpx.MockTransport(lambda request: page()))
        return made[-1]

    fetcher = Fetcher(resolver=lambda *_: [PUBLIC], transport=transport)
    local(fetcher, tmp_path, "https://a.example/", "https://b.example/")
    assert len(made) == 2


def test_an_interrupt_leaves_no_task_behind(tmp_path: Path) -> None:
    async def hang(request: httpx.Request) -> httpx.Response:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)
        return page()

    fetcher = Fetcher(resolver=lambda *_: [PUBLIC], transport=lambda _: httpx.MockTransport(hang))
    with pytest.raises(KeyboardInterrupt):
        local(fetcher, tmp_path, "https://a.example/", "https://b.example/")
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()

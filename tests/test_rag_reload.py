"""A running server whose index is published again and again: the real process, index and embedder.

The language model is an endpoint on this machine that answers with the code word of the passage it is shown, so that
an answer tells which generation it is from.
"""

import json
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from indexer.chunk import Chunker
from indexer.load import SUFFIXES, Loader
from indexer.sync import sync
from indexer.watch import Rules, Watch
from rag.embedder import SentenceEmbedder
from rag.index import Index
from tests.test_rag_serve import start, wait_until_ready

pytestmark = pytest.mark.model

CODE = re.compile(r"The code word of \w+ is (\w+)\.")
ROUNDS, CLIENTS = 6, 8
TAKEN, REFUSED = (f'smallhold_index_published_total{{outcome="{outcome}"}}' for outcome in ("taken", "refused"))


@dataclass
class Reader:
    """The language model: says the code word it reads in the last message, when `go` allows the second half of it."""

    url: str = ""
    go: threading.Event = field(default_factory=threading.Event)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


@contextmanager
def reading() -> Iterator[Reader]:
    reader = Reader()
    reader.go.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = CODE.search(" ".join(message["content"] for message in body["messages"]))
            said = found[1] if found else "nothing"
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self._say(said[:1])
            reader.asked.release()
            assert reader.go.wait(60)
            self._say(said[1:] + ".", "stop")
            self.wfile.write(b"data: [DONE]\n\n")

        def _say(self, text: str, finish: str | None = None) -> None:
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        reader.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield reader
        finally:
            reader.go.set()
            server.shutdown()
            thread.join()


class Library:
    """A folder of documents and the index of it."""

    def __init__(self, folder: Path, embedder: SentenceEmbedder) -> None:
        self.sources, self.index = folder / "sources", folder / "index"
        self.sources.mkdir()
        self._embedder = embedder
        self._chunker = Chunker(embedder.tokenizer_file, 240, 0)

    def write(self, name: str, code: str) -> None:
        text = f"# The {name}\n\nThe code word of {name} is {code}. It is kept in the tower of {name}.\n"
        (self.sources / f"{name}.md").write_text(text)

    def publish(self, index: Path | None = None) -> None:
        with Loader() as loader:
            sync(index or self.index, [self.sources], embedder=self._embedder, chunker=self._chunker, loader=loader)


@dataclass
class Server:
    pid: int
    url: str
    reader: Reader
    library: Library

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    @property
    def generation(self) -> int:
        return int(self.ready()["index"]["generation"])

    def ready(self) -> dict[str, Any]:
        reply = httpx.get(f"{self.url}/ready")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def figure(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def code_of(self, name: str) -> str:
        """The code word of a document by the search, "" where it is not found."""
        reply = httpx.post(f"{self.url}/v1/search", json=looking_for(name), timeout=60)
        assert reply.status_code == 200, reply.text
        hits = reply.json()["data"]
        return CODE.search(hits[0]["text"])[1] if hits else ""  # type: ignore[index]

    def open_files(self) -> list[str]:
        """What the process has open or mapped of index files; files that were removed end in " (deleted)"."""
        process = Path(f"/proc/{self.pid}")
        mapped = {line.split(maxsplit=5)[-1] for line in (process / "maps").read_text().splitlines()}
        opened = []
        for link in (process / "fd").iterdir():
            try:
                opened.append(str(link.readlink()))
            except FileNotFoundError:
                continue  # closed meanwhile
        return sorted(path for path in [*mapped, *opened] if "/segments/" in path)

    def counted(self) -> tuple[int, int, int]:
        """File descriptors, threads, and resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        threads, resident = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("Threads", "VmRSS"))  # type: ignore[index]
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir())), threads, 1024 * resident


def looking_for(name: str) -> dict[str, Any]:
    return {"query": f"What is the code word of {name}?", "k": 1, "filter": {"path": {"glob": f"{name}.md"}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, embedder: SentenceEmbedder) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("reload")
    library = Library(folder, embedder)
    library.write("mill", "m0")
    for name in ("weir", "slip", "quay"):
        library.write(name, f"{name}word")
    library.publish()
    with reading() as reader:
        settings = folder / "smallhold.toml"
        settings.write_text(
            f'[generator]\nendpoint = "{reader.url}"\nmodel = "reader"\n[abstention]\nenabled = false\n'
            "[evidence]\npassages = 1\n[server]\nqueue = 100\n"
        )
        process, url = start(library.index, "--config", str(settings))
        try:
            wait_until_ready(url)
            yield Server(process.pid, url, reader, library)
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[1]
            assert process.returncode == 0
            assert "Traceback" not in said


def until(condition: Callable[[], bool], seconds: float) -> float:
    """The seconds after which the condition holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


class Client(threading.Thread):
    """Asks, searches and lists in a loop; anything but a good answer is kept in `failures`."""

    def __init__(self, server: Server, stop: threading.Event) -> None:
        super().__init__()
        self._server = server
        self._stop_asking = stop
        self.failures: list[str] = []
        self.requests = 0

    def run(self) -> None:
        with self._server.client() as http:
            while not self._stop_asking.is_set():
                try:
                    self._round(http)
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def _round(self, http: httpx.Client) -> None:
        answer = self._good(http.post("/v1/chat/completions", json=asking("mill")))
        (source, *_) = answer["citations"]
        said = answer["choices"][0]["message"]["content"]
        if f"is {said.split('.')[0]}." not in source["text"]:
            self.failures.append(f"{said} from {source['text']}")
        hits = self._good(http.post("/v1/search", json=looking_for("mill")))["data"]
        if len(hits) != 1:
            self.failures.append(f"{len(hits)} hits")
        listed = self._good(http.get("/v1/documents"))
        if listed["total"] != len(listed["data"]) or listed["chunks"] != sum(d["chunks"] for d in listed["data"]):
            self.failures.append(f"a listing of two generations: {listed}")
        text = self._good(http.get("/v1/documents/text", params={"id": "mill.md"}))["text"]
        if not CODE.search(text):
            self.failures.append(f"no whole document: {text}")

    def _good(self, reply: httpx.Response) -> dict[str, Any]:
        self.requests += 1
        if reply.status_code != 200:
            raise AssertionError(f"{reply.status_code}: {reply.text}")
        return dict(reply.json())


def asking(name: str, **more: Any) -> dict[str, Any]:
    question = f"What is the code word of {name}?"
    return {"messages": [{"role": "user", "content": question}], "filter": {"path": {"glob": f"{name}.md"}}, **more}


def test_a_file_that_changes_is_answered_from_soon_after(server: Server) -> None:
    """What `smallhold index --watch` runs, in a thread: a change, a run, the next generation, an answer."""
    library, stop = server.library, threading.Event()
    rules = Rules(SUFFIXES, library.index, {})
    watch = Watch([library.sources.resolve()], lambda _: library.publish(), lambda: rules, lambda *_: None, quiet=0.2)
    thread = threading.Thread(target=watch.run, args=(stop,))
    thread.start()
    try:
        library.write("dock", "first")
        until(lambda: server.code_of("dock") == "first", seconds=60)
        library.write("dock", "second")
        until(lambda: server.code_of("dock") == "second", seconds=60)
        (library.sources / "dock.md").unlink()
        until(lambda: server.code_of("dock") == "", seconds=60)
    finally:
        stop.set()
        thread.join()


def test_generations_under_load_without_a_failed_request(server: Server) -> None:
    before, taken = server.generation, server.figure(TAKEN)
    stop = threading.Event()
    clients = [Client(server, stop) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    waits: list[float] = []
    early: tuple[int, int, int] | None = None
    try:
        for number in range(1, ROUNDS + 1):
            server.library.write("mill", f"m{number}")
            server.library.write(f"new{number}", f"word{number}")
            (server.library.sources / f"new{number - 2}.md").unlink(missing_ok=True)
            server.library.publish()
            # Asked of /ready: a search waits for those of the clients, and for a processor, as well.
            waits.append(until(lambda n=before + number: server.generation == n, seconds=10))  # type: ignore[misc]
            assert server.code_of(f"new{number}") == f"word{number}"
            assert server.code_of("mill") == f"m{number}"
            assert server.code_of(f"new{number - 2}") == ""
            if number == 5:
                early = server.counted()
    finally:
        stop.set()
        for client in clients:
            client.join()
    late = server.counted()
    failures = [failure for client in clients for failure in client.failures]
    assert failures == []
    assert min(client.requests for client in clients) >= 4
    assert max(waits) < 2, waits
    assert early is not None
    assert late[0] <= early[0] + 2, "files"
    assert late[1] <= early[1] + 2, "threads"
    assert late[2] <= early[2] + 40_000_000, "bytes"
    until(lambda: not [path for path in server.open_files() if path.endswith("(deleted)")], seconds=5)
    assert server.figure(TAKEN) == taken + ROUNDS
    assert server.figure(REFUSED) == 0
    assert server.figure("smallhold_index_generation") == before + ROUNDS
    assert server.ready()["index"]["documents"] == 4 + 2


def test_a_stream_under_way_ends_in_the_generation_that_it_began_in(server: Server) -> None:
    before, word = server.generation, server.code_of("mill")
    server.reader.go.clear()
    with server.client() as http:
        stream = http.stream("POST", "/v1/chat/completions", json=asking("mill", stream=True))
        reader = threading.Thread(target=lambda: texts.append(read(stream)))
        texts: list[str] = []
        reader.start()
        assert server.reader.asked.acquire(timeout=30)
        server.library.write("mill", "during")
        server.library.publish()
        until(lambda: server.generation == before + 1, seconds=2)
        held = [path for path in server.open_files() if path.endswith("(deleted)")]
        assert held, "the old generation is still open"
        assert server.code_of("mill") == "during"
        server.reader.go.set()
        reader.join(30)
    assert texts == [f"{word}. [1]"]
    until(lambda: not [path for path in server.open_files() if path.endswith("(deleted)")], seconds=5)


def read(stream: Any) -> str:
    with stream as reply:
        assert reply.status_code == 200
        chunks = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_a_damaged_generation_is_refused_told_and_taken_when_it_is_whole(server: Server, tmp_path: Path) -> None:
    library, copied = server.library, tmp_path / "copied"
    before, word = server.ready()["index"], server.code_of("mill")
    shutil.copytree(library.index, copied)
    library.write("mill", "whole")
    library.publish(copied)
    with closing(Index.open(copied)) as newer:
        name, new = newer.generation, newer.manifest.segments[-1].name
    whole = (copied / "segments" / new / "vectors.faiss").read_bytes()
    # As when somebody copies the index over, and one file has not come whole.
    shutil.copytree(copied / "segments" / new, library.index / "segments" / new)
    shutil.copytree(copied / "generations" / name, library.index / "generations" / name)
    (library.index / "segments" / new / "vectors.faiss").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shutil.copy(copied / "CURRENT", library.index / "NEXT")
    (library.index / "NEXT").rename(library.index / "CURRENT")

    until(lambda: bool(server.ready()["index"]["refused"]), seconds=2)
    told = server.ready()
    assert told["status"] == "ready"
    assert told["index"]["generation"] == before["generation"]
    assert "vectors.faiss" in told["index"]["refused"]
    assert "smallhold store repair" in told["index"]["hint"]
    assert server.code_of("mill") == word
    assert server.figure("smallhold_index_stale") == 1
    assert server.figure(REFUSED) >= 1

    (library.index / "segments" / new / "vectors.faiss").write_bytes(whole)
    until(lambda: server.code_of("mill") == "whole", seconds=15)
    assert server.figure("smallhold_index_stale") == 0
    assert server.ready()["index"] == {**before, "generation": name}


def test_an_index_that_is_made_anew_in_its_place_is_taken(server: Server) -> None:
    server.library.write("mill", "anew")
    anew = server.library.index.with_name("anew")
    server.library.publish(anew)
    server.library.index.rename(server.library.index.with_name("before"))
    anew.rename(server.library.index)
    until(lambda: server.code_of("mill") == "anew", seconds=2)
    assert server.generation == 1

"""Lists of URLs in an index: what is fetched, kept, removed and remembered."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

import indexer.sync
import indexer.urls
from indexer.compact import compact
from indexer.fetch import Fetcher
from indexer.load import Loader
from indexer.repair import repair
from indexer.scratch import scratch, sweep
from indexer.store import IndexWriter
from indexer.sync import sync
from indexer.update import SyncReport
from indexer.urls import UrlList
from rag.errors import IndexLocked, InvalidRequest, UnknownDocument
from rag.filter import View, parse_filter
from rag.glob import compile_glob
from rag.index import Generation, Index
from rag.manifest import SEGMENTS
from tests.conftest import REPOSITORY
from tests.test_indexer_fetch import MARCH, PUBLIC, Body, say, served, to_here
from tests.test_indexer_sync import CountingEmbedder, LineChunker, Run, TextLoader, Write, contents, letters, write

__all__ = ["write"]

NO_SCHEME = "only addresses that begin with http:// or https:// are fetched"
A, B, C = (f"https://example.org/{name}" for name in ("a.txt", "b.txt", "c.txt"))


class Site:
    """A server with pages by path: a text, a status, or a text under a type. Gives an ETag where `tags` is set."""

    def __init__(self, tmp_path: Path, **pages: object) -> None:
        self.pages = {f"/{name}.txt": page for name, page in pages.items()}
        self.tags = False
        self.full: list[str] = []  # the pages that were sent whole
        self.down = False
        self.list = tmp_path / "pages.list"
        self._tmp_path = tmp_path

    def lists(self, *urls: str) -> None:
        self.list.write_text("\n".join(urls))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("no route")
        page = self.pages.get(request.url.path, 404)
        if isinstance(page, int):
            return httpx.Response(page)
        content, kind = page if isinstance(page, tuple) else (page, "text/plain")
        content = content if isinstance(content, bytes) else str(content).encode()
        tag = f'"{hash(content)}"'
        if self.tags and request.headers.get("If-None-Match") == tag:
            return httpx.Response(304)
        self.full.append(request.url.path)
        headers = {"Content-Type": kind, "Last-Modified": MARCH} | ({"ETag": tag} if self.tags else {})
        return httpx.Response(200, headers=headers, stream=Body(content))

    def fetcher(self) -> Fetcher:
        self.full = []
        return Fetcher(resolver=lambda *_: [PUBLIC], transport=lambda _: httpx.MockTransport(self._answer))

    def run(self, *roots: str, **options: object) -> SyncReport:
        options = {"lists": [self.list], "fetcher": self.fetcher(), **options}
        return Run(self._tmp_path, *roots, **options).report


def reasons(report: SyncReport) -> dict[str, str]:
    return dict(report.failed)


# --- the list


def test_a_list_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "pages.list"
    path.write_bytes(
        "\ufeff# pages\r\n\r\nhttps://Example.org/a#x\r\nftp://b\nhttps://example.org/a\n  # no\n".encode()
    )
    listed = UrlList.read(path)
    assert listed.root == f"urls:{path}"
    assert listed.urls == ("https://example.org/a",)
    assert listed.failed == (
        (f"urls:{path}, line 4", "only addresses that begin with http:// or https:// are fetched"),
    )
    assert listed.skipped == ((f"urls:{path}, line 5", "https://example.org/a is in line 3 already"),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe", "not UTF-8"),
        (b"http://a/\n" * 3 + b"http://b/", "more than 1"),
    ],
)
def test_a_file_that_is_no_list_is_refused(
    tmp_path: Path, content: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer.urls, "MOST_URLS", 1)
    path = tmp_path / "pages.list"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=reason):
        UrlList.read(path)


def test_patterns_match_addresses() -> None:
    url = "https://example.org/docs/a.pdf"
    for pattern in ("https://example.org/**", "*.pdf", "**", "docs", "https://example.org/docs/", "https://*/docs/*"):
        assert compile_glob(pattern).match(url), pattern
    for pattern in ("http://example.org/**", "https://example.org/*", "example.org/docs"):
        assert not compile_glob(pattern).match(url), pattern
    with pytest.raises(ValueError, match="no path has"):
        compile_glob("https:///x//y")


# --- in an index


def test_pages_become_documents_under_their_urls(tmp_path: Path, write: Write) -> None:
    site = Site(tmp_path, a="alpha", b="beta")
    site.lists(A, B, "nonsense", C)
    write("docs/x.txt", "a file")
    Run(tmp_path, "docs")
    report = site.run()
    assert report.added == [A, B]
    assert reasons(report) == {
        f"urls:{site.list}, line 3": NO_SCHEME,
        C: "404 Not Found, says its server",
    }
    assert contents(tmp_path) == {"x.txt": "a file", A: "alpha", B: "beta"}
    assert [name for name, _ in letters(tmp_path)] == ["c.txt", "pages.list, line 3"]
    with Index.open(tmp_path / "index") as index:
        assert index.manifest.roots == {str(tmp_path / "docs"): "", f"urls:{site.list}": ""}
        document = index.document(A)
        assert (document.uri, document.metadata["date"]) == (A, "2024-03-01")
        view = View(parse_filter('{"path": {"glob": "https://example.org/**"}}'))
        assert index.document(B, view).text == "beta"
        with pytest.raises(UnknownDocument):
            index.document("x.txt", view)
    Run(tmp_path)  # a run over folders leaves pages, and what is known of them, alone
    assert [name for name, _ in letters(tmp_path)] == ["c.txt", "pages.list, line 3"]
    assert sorted(contents(tmp_path)) == [A, B, "x.txt"]


def test_changes_removals_and_renames_are_told(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha", b="beta")
    site.lists(A, B)
    site.run()
    assert not site.run().published
    site.pages |= {"/a.txt": "omega", "/c.txt": "beta"}
    site.lists(A, C)
    report = site.run()
    assert (report.changed, report.renamed, report.removed) == ([A], [(B, C)], [])
    site.lists(C)
    assert site.run().removed == [A]
    assert contents(tmp_path) == {C: "beta"}


def test_a_page_that_cannot_be_had_stays_and_one_that_is_gone_goes(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha", b="beta", c="gamma")
    site.lists(A, B, C)
    site.run()
    site.pages |= {"/a.txt": 500, "/b.txt": 410, "/c.txt": ("image", "image/gif")}
    report = site.run()
    assert reasons(report) == {
        A: "500 Internal Server Error, says its server",
        B: "410: it is gone for good, says its server",
        C: "no loader for image/gif",
    }
    assert (report.removed, report.kept, sorted(report.unchanged)) == ([B], 2, [A, C])
    assert contents(tmp_path) == {A: "alpha", C: "gamma"}
    site.pages["/a.txt"] = "broken"  # the loader's word for what it cannot read
    report = site.run()
    assert (reasons(report)[A], report.kept) == ("it is broken", 2)
    report = site.run()
    assert (reasons(report)[A], report.untried, report.kept) == ("it is broken", 1, 2)
    assert site.run(retry=True).untried == 0
    assert contents(tmp_path) == {A: "alpha", C: "gamma"}


def test_a_network_that_is_down_empties_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha", b="beta")
    site.lists(A, B)
    site.run()
    site.down = True
    report = site.run()
    assert (len(report.failed), report.kept, report.published) == (2, 2, False)
    assert contents(tmp_path) == {A: "alpha", B: "beta"}
    site.lists("# all gone")
    with pytest.raises(InvalidRequest, match="had documents and now has none"):
        site.run()


def test_what_has_not_changed_is_not_sent_again(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha", b="beta")
    site.tags = True
    site.lists(A, B)
    site.run()
    report = site.run()
    assert (site.full, sorted(report.unchanged)) == ([], [A, B])
    site.pages["/b.txt"] = "broken"
    site.run()
    site.run()
    assert site.full == ["/b.txt"]  # what its answer gave is not in the index
    site.run(version="2")
    assert sorted(site.full) == ["/a.txt", "/b.txt"]  # another loader may make something else of the same page
    (tmp_path / "index" / ".urls").write_text("nonsense")
    assert not site.run(version="2").published
    assert sorted(site.full) == ["/a.txt", "/b.txt"]


def test_a_dry_run_says_it_all_and_writes_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha")
    site.tags = True
    site.lists(A, B)
    report = site.run(dry_run=True)
    assert (report.added, list(reasons(report))) == ([A], [B])
    assert not (tmp_path / "index").exists()


def test_an_archive_is_its_members_and_keeps_those_that_break(tmp_path: Path) -> None:
    def packed(**members: str) -> tuple[bytes, str]:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in members.items():
                archive.writestr(f"{name}.txt", text)
        return file.getvalue(), "application/zip"

    site = Site(tmp_path, a=packed(one="first", two="second"))
    site.tags = True
    site.lists(A)

    def run() -> SyncReport:
        with Loader() as loader:
            return sync(
                tmp_path / "index",
                [],
                lists=[site.list],
                fetcher=site.fetcher(),
                embedder=CountingEmbedder(),
                chunker=LineChunker(),
                loader=loader,
            )

    assert run().added == [f"{A}/one.txt", f"{A}/two.txt"]
    run()
    assert site.full == []
    site.pages["/a.txt"] = packed(one="new", two="\0\1")
    report = run()
    assert (report.changed, report.kept, len(report.failed)) == ([f"{A}/one.txt"], 1, 1)
    site.pages["/a.txt"] = (b"PK nonsense", "application/zip")
    assert run().kept == 1
    assert contents(tmp_path) == {f"{A}/one.txt": "new", f"{A}/two.txt": "second"}


def test_what_its_server_alone_calls_markdown_is_not_sent_again(tmp_path: Path) -> None:
    site = Site(tmp_path, a=("# Alpha", "text/markdown"))
    site.tags = True
    site.lists(A)
    assert site.run().added == [A]
    assert (site.run().unchanged, site.full) == ([A], [])


def test_known_lists_are_fetched_again_only_where_that_is_allowed(tmp_path: Path, write: Write) -> None:
    site = Site(tmp_path, a="alpha")
    site.lists(A)
    site.run()
    with pytest.raises(InvalidRequest, match="nothing to index"):
        Run(tmp_path)
    write("docs/x.txt", "a file")
    Run(tmp_path, "docs")
    site.pages["/a.txt"] = "omega"
    write("docs/x.txt", "changed")
    assert Run(tmp_path).report.changed == ["docs/x.txt"]
    assert Run(tmp_path, fetcher=site.fetcher()).report.changed == [A]
    site.list.unlink()
    with pytest.raises(InvalidRequest, match="cannot be read") as caught:
        Run(tmp_path, fetcher=site.fetcher())
    assert "--remove urls:" in caught.value.hint
    assert Run(tmp_path, remove=["pages.list"]).report.removed == [A]


def test_a_rebuild_fetches_where_it_may_and_keeps_what_it_cannot_have(tmp_path: Path, write: Write) -> None:
    write("docs/x.txt", "a file")
    site = Site(tmp_path, a="alpha", b="beta")
    site.lists(A, B)
    site.run("docs")
    site.pages |= {"/a.txt": "omega", "/b.txt": 503}
    assert sorted(site.run(rebuild=True).added) == [A, B, "x.txt"]
    assert contents(tmp_path) == {A: "omega", B: "beta", "x.txt": "a file"}
    site.pages["/a.txt"] = "later"
    assert sorted(Run(tmp_path, rebuild=True).report.added) == [A, B, "x.txt"]
    assert contents(tmp_path) == {A: "omega", B: "beta", "x.txt": "a file"}


def test_a_page_in_two_lists_is_a_document_of_the_first(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha", b="beta")
    site.lists(A)
    other = tmp_path / "other.list"
    other.write_text(f"{A}\n{B}\n")
    report = site.run(lists=[site.list, other])
    assert report.added == [A, B]
    assert "belongs to a document of another source" in reasons(report)[A]
    site.lists("# none")
    assert site.run(lists=[site.list, other], allow_empty=True).changed == [A]


def test_no_id_comes_twice_from_archives(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("b.txt", "in the archive")
    site = Site(tmp_path, a=(file.getvalue(), "application/zip"))
    site.pages["/a.txt/b.txt"] = "a page of its own"
    site.lists(A, f"{A}/b.txt")
    other = tmp_path / "other.list"
    other.write_text(A)
    with Loader() as loader:
        report = sync(
            tmp_path / "index",
            [],
            lists=[site.list, other],
            fetcher=site.fetcher(),
            embedder=CountingEmbedder(),
            chunker=LineChunker(),
            loader=loader,
        )
    assert report.added == [f"{A}/b.txt"]
    assert len(report.failed) == 2
    assert contents(tmp_path) == {f"{A}/b.txt": "in the archive"}


def test_the_loader_is_asked_for_what_was_fetched(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha")
    site.lists(A)
    run = Run(tmp_path, lists=[site.list], fetcher=site.fetcher())
    assert isinstance(run.loader, TextLoader)
    assert run.loader.loaded == [A]


# --- beside other writers


class Slow:
    """A real server on this machine whose pages wait until `go` is set; with an ETag each, their texts in `pages`."""

    def __init__(self, tmp_path: Path, **pages: str) -> None:
        self.pages = {f"/{name}.txt": text for name, text in pages.items()}
        self.asked = threading.Semaphore(0)
        self.go = threading.Event()
        self.sent: list[str] = []
        self.port = 0
        self.list = tmp_path / "pages.list"
        self._tmp_path = tmp_path

    def url(self, name: str) -> str:
        return f"http://site.test:{self.port}/{name}.txt"

    def lists(self, *names: str) -> None:
        self.list.write_text("\n".join(map(self.url, names)))

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        text = self.pages[handler.path]
        tag = f'"{text}"'
        self.asked.release()
        assert self.go.wait(30)
        if handler.headers["If-None-Match"] == tag:
            handler.send_response(304)
            handler.end_headers()
            return
        self.sent.append(handler.path)
        say(handler, text.encode(), ETag=tag)

    def run(self, **options: object) -> Run:
        fetcher = Fetcher(resolver=to_here, private=True)
        return Run(self._tmp_path, **{"lists": [self.list], "fetcher": fetcher, **options})

    def while_fetching(self, meanwhile: Callable[[], object], **options: object) -> Run:
        """Run over the list, and do something else once the first page has been asked for and before it comes."""
        self.asked, self.go = threading.Semaphore(0), threading.Event()
        runs: list[Run | Exception] = []

        def fetch() -> None:
            try:
                runs.append(self.run(**options))
            except Exception as error:
                runs.append(error)

        thread = threading.Thread(target=fetch)
        thread.start()
        try:
            assert self.asked.acquire(timeout=30)
            meanwhile()
        finally:
            self.go.set()
            thread.join(60)
        (run,) = runs
        if isinstance(run, Exception):
            raise run
        return run

    def folders(self) -> list[str]:
        """What is being fetched."""
        return [path.name for path in (self._tmp_path / "index").glob(".smallhold-pages-*")]


@contextmanager
def slow(tmp_path: Path, **pages: str) -> Iterator[Slow]:
    site = Slow(tmp_path, **pages)
    with served(site.answer) as site.port:
        site.go.set()
        yield site


def test_others_write_while_pages_are_fetched(tmp_path: Path, write: Write) -> None:
    write("docs/x.txt", "a file")
    with slow(tmp_path, a="alpha", b="beta") as site:
        site.lists("a", "b")
        during: list[list[str]] = []

        def meanwhile() -> None:
            assert Run(tmp_path, "docs").report.added == ["x.txt"]
            during.append(site.folders())
            compact(tmp_path / "index")

        report = site.while_fetching(meanwhile).report
        assert (report.added, report.failed) == ([site.url("a"), site.url("b")], [])
        assert contents(tmp_path) == {"x.txt": "a file", site.url("a"): "alpha", site.url("b"): "beta"}
    assert [len(folders) for folders in during] == [1]
    assert site.folders() == []


def test_two_runs_over_one_list_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    with slow(tmp_path, a="alpha", b="beta") as site:
        site.lists("a", "b")
        runs: list[Run] = []
        second = threading.Thread(target=lambda: runs.append(site.run()))

        def meanwhile() -> None:
            second.start()
            assert all(site.asked.acquire(timeout=30) for _ in range(3))

        runs.append(site.while_fetching(meanwhile))
        second.join(60)
        assert sorted(len(run.report.added) for run in runs) == [0, 2]
        assert contents(tmp_path) == {site.url("a"): "alpha", site.url("b"): "beta"}
        site.sent.clear()
        assert not site.run().report.published
        assert site.sent == []


def test_an_unchanged_page_that_another_run_removed_meanwhile_is_not_lost_in_silence(tmp_path: Path) -> None:
    with slow(tmp_path, a="alpha", b="beta") as site:
        site.lists("a", "b")
        site.run()
        site.pages["/b.txt"] = "omega"
        report = site.while_fetching(lambda: Run(tmp_path, remove=["pages.list"])).report
        assert (report.added, report.kept) == ([site.url("b")], 0)
        assert [name for name, _ in report.failed] == [site.url("a")]
        assert "another run removed it meanwhile; the next run fetches it" in reasons(report)[site.url("a")]
        assert [name for name, _ in letters(tmp_path)] == ["a.txt"]
        assert site.run().report.added == [site.url("a")]
        assert contents(tmp_path) == {site.url("a"): "alpha", site.url("b"): "omega"}
    assert letters(tmp_path) == []


def test_an_unchanged_page_of_which_another_run_has_a_newer_state_stays_as_that_has_it(tmp_path: Path) -> None:
    with slow(tmp_path, a="alpha", b="beta") as site:
        site.lists("a", "b")
        site.run()

        def meanwhile() -> None:
            fresh = Site(tmp_path)
            fresh.list = site.list
            fresh.pages = {"/a.txt": "newer", "/b.txt": "beta"}
            assert fresh.run().changed == [site.url("a")]

        assert site.while_fetching(meanwhile).report.failed == []
        assert contents(tmp_path) == {site.url("a"): "newer", site.url("b"): "beta"}
        assert site.run().report.changed == [site.url("a")]  # the other's answer is asked for no news of this server's
        assert contents(tmp_path)[site.url("a")] == "alpha"


def test_what_counts_is_the_list_as_it_is_when_the_pages_have_come(tmp_path: Path) -> None:
    with slow(tmp_path, a="alpha", b="beta", c="gamma") as site:
        site.lists("a", "b")
        report = site.while_fetching(lambda: site.lists("b", "c")).report
        assert report.added == [site.url("b")]
        assert reasons(report) == {
            site.url("c"): "it was put on the list while other pages were being fetched; the next run fetches it"
        }
        assert site.run().report.added == [site.url("c")]
        site.list.unlink()
        with pytest.raises(InvalidRequest, match="cannot be read"):
            site.run()
        assert contents(tmp_path) == {site.url("b"): "beta", site.url("c"): "gamma"}


def test_a_list_that_comes_or_goes_while_known_ones_are_fetched(tmp_path: Path) -> None:
    """A run over everything does what it began with: it neither drops a new list's pages nor brings back an old one."""
    with slow(tmp_path, a="alpha", b="beta") as site:
        site.lists("a")
        site.run()
        other = Site(tmp_path, b="from elsewhere")
        other.list = tmp_path / "other.list"
        other.lists(B)
        site.while_fetching(other.run, lists=[])
        assert contents(tmp_path) == {site.url("a"): "alpha", B: "from elsewhere"}
        site.pages["/a.txt"] = "omega"
        site.lists("a")
        other.list.write_text(f"{B}\n{site.url('b')}\n")

        def meanwhile() -> None:
            Run(tmp_path, remove=["pages.list"])

        report = site.while_fetching(meanwhile, lists=[other.list], allow_empty=True).report
        assert report.added == [site.url("b")]
        assert site.url("a") not in contents(tmp_path)


@contextmanager
def writing(directory: Path) -> Iterator[Callable[[], None]]:
    """Another writer, from now on until the block's end, or half a second after what is given is called."""
    held, end = threading.Event(), threading.Event()

    def write() -> None:
        with IndexWriter(directory):
            held.set()
            assert end.wait(30)

    thread = threading.Thread(target=write)
    thread.start()
    assert held.wait(30)
    try:
        yield threading.Timer(0.5, end.set).start
    finally:
        end.set()
        thread.join(30)


def test_another_writer_is_waited_for_once_pages_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow(tmp_path, a="alpha") as site, ExitStack() as other:
        site.lists("a")
        with writing(tmp_path / "index"), pytest.raises(IndexLocked):
            site.run()
        assert site.sent == []  # it is told before anything is fetched
        run = site.while_fetching(lambda: other.enter_context(writing(tmp_path / "index"))())
        assert run.report.added == [site.url("a")]
        assert ("wait", 0, 0) in run.stages
        monkeypatch.setattr(indexer.sync, "PATIENCE_SECONDS", 0.1)
        site.pages["/a.txt"] = "omega"
        with pytest.raises(IndexLocked):
            site.while_fetching(lambda: other.enter_context(writing(tmp_path / "index")))
        assert (contents(tmp_path), site.folders()) == ({site.url("a"): "alpha"}, [])


def test_what_a_killed_run_fetched_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    script = "import sys, pathlib, time, indexer.scratch as s\n"
    script += "with s.scratch(pathlib.Path(sys.argv[1])) as f: (f / 'page').touch(); print(f.name, flush=True); "
    script += "time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    directory = tmp_path / "index"
    with IndexWriter(directory):
        pass
    (directory / ".smallhold-pages-file").touch()
    (directory / ".smallhold-pages-link").symlink_to(tmp_path, target_is_directory=True)
    command = [sys.executable, "-c", script, str(directory)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        folder = directory / process.stdout.readline().strip()
        with IndexWriter(directory), scratch(directory) as own:
            assert folder.joinpath("page").exists()
            sweep(directory)
            assert own.exists()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert folder.joinpath("page").exists()
    with IndexWriter(directory):
        assert not folder.exists()
    assert sorted(path.name for path in directory.glob(".smallhold*")) == [
        ".smallhold-pages-file",
        ".smallhold-pages-link",
    ]
    assert tmp_path.exists()


def test_an_interrupt_leaves_no_pages_behind(tmp_path: Path) -> None:
    with slow(tmp_path, a="alpha") as site:
        site.lists("a")
        site.go.clear()

        def interrupt() -> None:
            assert site.asked.acquire(timeout=30)
            assert len(site.folders()) == 1
            signal.raise_signal(signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            site.run()
        interrupter.join()
        site.go.set()
    assert site.folders() == []


def test_a_dry_run_keeps_its_pages_where_temporary_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    found: list[int] = []
    with slow(tmp_path, a="alpha") as site:
        site.lists("a")
        run = site.while_fetching(lambda: found.append(len(list(temporary.iterdir()))), dry_run=True)
    assert (run.report.added, found, list(temporary.iterdir())) == ([site.url("a")], [1], [])
    assert not (tmp_path / "index").exists()


def test_a_page_on_two_lists_is_fetched_once(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha", b="beta")
    site.lists(A)
    other = tmp_path / "other.list"
    other.write_text(f"{B}\n{A}\n")
    site.run(lists=[site.list, other])
    assert sorted(site.full) == ["/a.txt", "/b.txt"]


def test_what_would_stop_a_run_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha")
    site.lists(A)
    with pytest.raises(InvalidRequest, match="no file or folder"):
        site.run("missing")
    assert site.full == []


def test_a_list_that_a_rebuild_drops_stays_dropped(tmp_path: Path, write: Write) -> None:
    write("docs/x.txt", "a file")
    site = Site(tmp_path, a="alpha")
    site.lists(A)
    site.run("docs")
    site.run("docs", lists=[], rebuild=True, remove=["pages.list"])
    assert contents(tmp_path) == {"x.txt": "a file"}


def test_a_catalog_that_is_told_again_knows_the_list_of_each_page(tmp_path: Path) -> None:
    site = Site(tmp_path, a="alpha", b="beta")
    site.lists(A)
    site.run()
    site.list = tmp_path / "second.list"
    site.lists(B)
    site.run()
    for catalog in (tmp_path / "index" / SEGMENTS).glob("*/catalog.sqlite"):
        content = bytearray(catalog.read_bytes())
        content[len(content) // 2] ^= 1
        catalog.write_bytes(content)
    assert repair(tmp_path / "index").lost == []
    with Generation.open(tmp_path / "index") as parts:
        roots = {entry.id: entry.original.root for _, _, entry in parts.entries()}
    assert roots == {A: f"urls:{tmp_path / 'pages.list'}", B: f"urls:{site.list}"}

"""Watching folders: real files and events, runs with fakes. No test waits for a time in which nothing should happen."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from watchfiles import Change

import indexer.watch
from indexer.fetch import Fetcher
from indexer.store import IndexWriter
from indexer.sync import build, sync
from indexer.update import SyncReport
from indexer.watch import Rules, Watch
from rag.cli_index import IndexRuns
from rag.cli_watch import _rules, watch_folders
from rag.datatypes import Delta, Document, Message, ScoredChunk
from rag.errors import InvalidRequest, SmallholdError, Unavailable, UnreadableDocument
from rag.filter import EVERYTHING, View
from rag.index import Index
from rag.labels import LabelRule
from rag.loader import Loader
from rag.manifest import Patterns, published_stamp, read_current, read_patterns
from rag.pipeline import AskOptions
from rag.retrieve import LexicalRetriever
from rag.service import Service
from tests.conftest import REPOSITORY, WordEmbedder, located
from tests.test_indexer_sync import CountingEmbedder, LineChunker, Run, TextLoader, Write, contents, letters, write
from tests.test_indexer_urls import A, B, Site
from tests.test_rag_loader import Counter

__all__ = ["write"]


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOOK_SECONDS", "_POLL_SECONDS", "_FIRST_PAUSE"):
        monkeypatch.setattr(indexer.watch, name, 0.1)


@dataclass
class Watched:
    """A watch in a thread of its own, and what it did."""

    tmp_path: Path
    reports: list[tuple[str, SyncReport]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def update(self, root: Path) -> bool:
        report = Run(self.tmp_path, root.name).report
        self.reports.append((root.name, report))
        return report.passing > 0

    def tell(self, message: str, error: SmallholdError | None) -> None:
        self.told.append(message)

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            if self.failure:
                raise self.failure
            assert time.monotonic() < end, (self.told, self.reports)
            time.sleep(0.02)

    def until_indexed(self, **texts: str) -> None:
        """Wait until the index holds these files of the folder docs, and no others."""
        wanted = {f"{name}.txt": text for name, text in texts.items()}
        self.until(lambda: contents(self.tmp_path) == wanted)


@contextmanager
def watching(tmp_path: Path, *roots: str, **options: object) -> Iterator[Watched]:
    """Index the roots, then watch them. The watch has begun when the block does."""
    Run(tmp_path, *roots)
    watched = Watched(tmp_path)
    stop = threading.Event()
    paths = [(tmp_path / root).resolve() for root in roots]

    def rules() -> Rules:
        return Rules(frozenset({".txt", ".md"}), tmp_path / "index", read_patterns(tmp_path / "index"))

    watch = Watch(paths, watched.update, rules, watched.tell, quiet=0.05, debounce=1, **options)  # type: ignore[arg-type]

    def run() -> None:
        try:
            watch.run(stop)
        except BaseException as error:
            watched.failure = error

    thread = threading.Thread(target=run)
    thread.start()
    try:
        watched.until(lambda: len(watched.reports) >= len(roots))
        watched.reports.clear()
        yield watched
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    if watched.failure:
        raise watched.failure


@pytest.mark.parametrize("poll", [False, True])
def test_what_changes_is_indexed(tmp_path: Path, write: Write, poll: bool) -> None:
    write("docs/a.txt", "alpha")
    with watching(tmp_path, "docs", poll=poll) as watched:
        write("docs/b.txt", "beta")
        watched.until_indexed(a="alpha", b="beta")
        write("docs/a.txt", "omega, longer")
        (tmp_path / "docs/b.txt").rename(tmp_path / "docs/c.txt")
        watched.until_indexed(a="omega, longer", c="beta")
        (tmp_path / "docs/c.txt").unlink()
        watched.until_indexed(a="omega, longer")
    assert watched.told == []


def test_what_could_not_be_read_for_a_while_is_tried_again_by_itself(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells that a right was given back."""
    write("docs/a.txt", "alpha")
    denied, load = threading.Event(), TextLoader.load_file

    def guarded(self: TextLoader, path: Path, document_id: str, uri: str) -> Document:
        if denied.is_set():
            raise UnreadableDocument("cannot be read: Permission denied", passing=True)
        return load(self, path, document_id, uri)

    monkeypatch.setattr(TextLoader, "load_file", guarded)
    with watching(tmp_path, "docs") as watched:
        denied.set()
        write("docs/a.txt", "omega, longer")
        watched.until(lambda: any(report.passing for _, report in watched.reports))
        assert contents(tmp_path) == {"a.txt": "alpha"}
        denied.clear()
        watched.until_indexed(a="omega, longer")


def test_folders_that_come_and_go_are_seen(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("elsewhere/sub.d/deep/b.txt", "beta")
    with watching(tmp_path, "docs") as watched:
        (tmp_path / "elsewhere/sub.d").rename(tmp_path / "docs/sub.d")
        watched.until(lambda: "sub.d/deep/b.txt" in contents(tmp_path))
        write("docs/sub.d/deep/c.txt", "gamma")
        watched.until(lambda: "sub.d/deep/c.txt" in contents(tmp_path))
        (tmp_path / "docs/sub.d").rename(tmp_path / "elsewhere/sub.d")
        watched.until_indexed(a="alpha")


def test_many_changes_are_one_run(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    with watching(tmp_path, "docs") as watched:
        for number in range(200):
            write(f"docs/{number}.txt", str(number))
        watched.until(lambda: len(contents(tmp_path)) == 201)
    assert len(watched.reports) < 20


def test_one_root_that_fails_does_not_stop_another(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("more/b.txt", "beta")
    with watching(tmp_path, "docs", "more") as watched:
        write("docs/.smallholdignore", "[")  # no pattern
        write("docs/broken.txt", "broken")
        write("more/c.txt", "gamma")
        watched.until(lambda: "more/c.txt" in contents(tmp_path))
        (tmp_path / "docs/.smallholdignore").write_text("b*\n")
        write("docs/d.txt", "delta")
        watched.until(lambda: "d.txt" in contents(tmp_path))
        (tmp_path / "docs/.smallholdignore").unlink()
        watched.until(lambda: letters(tmp_path) == [("broken.txt", "it is broken")])
        write("docs/e.txt", "epsilon")
        watched.until(lambda: "e.txt" in contents(tmp_path))


def test_what_the_system_refuses_ends_no_watch(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without room for a file of its own, an index that may not be read, a folder that may not be entered."""
    root = write("docs/a.txt", "alpha").parent
    told: list[str] = []
    answers: list[BaseException | None] = [OSError(28, "No space left on device", "/x"), None]

    def update(root: Path) -> None:
        if answers and (error := answers.pop(0)):
            raise error

    def rules() -> Rules:
        raise Unavailable("the index cannot be read: Too many open files")

    watch = Watch([root], update, rules, lambda message, error: told.append(f"{message} {error and error.hint}"))
    watch._work()
    assert told == ["/x: No space left on device It is tried again by itself; see to that meanwhile."]
    assert not watch._note([(Change.added, str(root / "b.txt"))])
    watch._work()
    assert answers == []

    def is_dir(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", is_dir)
    seen = Rules(frozenset({".txt"}), tmp_path / "index", {})
    assert seen.matter(root, [(Change.modified, root / "inner/c.txt")])


@pytest.mark.parametrize("poll", [False, True])
def test_a_root_that_is_away_is_waited_for_and_keeps_its_documents(tmp_path: Path, write: Write, poll: bool) -> None:
    """An unmounted disk: the folder is not there. Another one comes in its place."""
    write("docs/a.txt", "alpha")
    write("more/b.txt", "beta")
    docs = tmp_path / "docs"
    with watching(tmp_path, "docs", "more", poll=poll) as watched:
        docs.rename(tmp_path / "away")
        watched.until(lambda: any("docs is not there" in message for message in watched.told))
        write("more/c.txt", "gamma")
        watched.until(lambda: sorted(contents(tmp_path)) == ["a.txt", "more/b.txt", "more/c.txt"])
        docs.mkdir()
        write("docs/a.txt", "alpha")
        write("docs/new.txt", "new")
        watched.until(lambda: "new.txt" in contents(tmp_path))
        write("docs/later.txt", "later")  # the watch is on the new folder
        watched.until(lambda: "later.txt" in contents(tmp_path))
    assert sum("docs is not there" in message for message in watched.told) == 1


def test_a_root_that_became_empty_is_waited_for(tmp_path: Path, write: Write) -> None:
    """A mount point without its disk. Files that are there again are indexed again."""
    write("docs/a.txt", "alpha")
    with watching(tmp_path, "docs") as watched:
        (tmp_path / "docs/a.txt").rename(tmp_path / "a.txt")
        watched.until(lambda: any("docs is empty" in message for message in watched.told))
        assert contents(tmp_path) == {"a.txt": "alpha"}
        write("docs/b.txt", "beta")
        watched.until_indexed(b="beta")


def test_a_root_that_holds_nothing_readable_any_more_is_refused_and_the_watch_goes_on(
    tmp_path: Path, write: Write
) -> None:
    write("docs/a.txt", "alpha")
    write("docs/picture.png", "")
    with watching(tmp_path, "docs") as watched:
        (tmp_path / "docs/a.txt").unlink()
        watched.until(lambda: any("had documents and now has none" in message for message in watched.told))
        assert contents(tmp_path) == {"a.txt": "alpha"}
        write("docs/b.txt", "beta")
        watched.until_indexed(b="beta")


def test_all_roots_away_at_once_are_waited_for(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    with watching(tmp_path, "docs") as watched:
        (tmp_path / "docs").rename(tmp_path / "away")
        watched.until(lambda: len(watched.told) > 0)
        write("away/b.txt", "beta")
        (tmp_path / "away").rename(tmp_path / "docs")
        watched.until_indexed(a="alpha", b="beta")


def test_another_writer_is_waited_for(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    with watching(tmp_path, "docs") as watched:
        with IndexWriter(tmp_path / "index"):
            write("docs/b.txt", "beta")
            watched.until(lambda: len(watched.told) > 0)
        watched.until_indexed(a="alpha", b="beta")
    assert len(watched.told) == 1
    assert watched.told[0].startswith("waiting: ")
    assert "is writing the index" in watched.told[0]


def test_a_file_as_root_may_be_replaced(tmp_path: Path, write: Write) -> None:
    """As editors save: the new text beside the old, then in its place."""
    write("a.txt", "alpha")
    with watching(tmp_path, "a.txt") as watched:
        for text in ("beta", "gamma"):
            write("a.txt.new", text).replace(tmp_path / "a.txt")
            watched.until_indexed(a=text)


def test_what_the_system_cannot_watch_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Iterator[object]:
        raise OSError("OS file watch limit reached. about [...]")
        yield

    monkeypatch.setattr(indexer.watch, "watch", full)
    rules = Rules(frozenset(), tmp_path, {})
    with pytest.raises(Unavailable, match="watch limit reached") as caught:
        Watch([tmp_path], lambda _: None, lambda: rules, lambda *_: None).run()
    assert "--poll" in caught.value.hint


def test_ctrl_c_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[object]:
        yield set()
        raise KeyboardInterrupt

    monkeypatch.setattr(indexer.watch, "watch", interrupted)
    runs: list[Path] = []
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(KeyboardInterrupt):
        Watch([tmp_path], runs.append, lambda: Rules(frozenset(), tmp_path, {}), lambda *_: None).run()
    assert runs == [tmp_path]


def test_the_debounce_reaches_the_library_in_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def noted(*_: object, **options: object) -> Iterator[object]:
        given.update(options)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(indexer.watch, "watch", noted)
    (tmp_path / "a.txt").write_text("a")
    for debounce, expected in ((30.0, (30_000, 1000)), (0.2, (200, 200))):
        with pytest.raises(KeyboardInterrupt):
            Watch([tmp_path], print, lambda: Rules(frozenset(), tmp_path, {}), print, debounce=debounce).run()
        assert (given["debounce"], given["step"], given["force_polling"]) == (*expected, None)
    assert given.keys() <= set(watchfiles.watch.__annotations__)


class Lookup:
    """What a server searches: one generation, by its words."""

    def __init__(self, directory: Path) -> None:
        self.generation = read_current(directory)
        self._index = Index.open(directory, CountingEmbedder.fingerprint)

    def retrieve(self, question: str, history: Sequence[Message] = (), view: View = EVERYTHING) -> list[ScoredChunk]:
        return LexicalRetriever(self._index).retrieve(question, 3, view)

    def stream(self, question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
        raise NotImplementedError

    def close(self) -> None:
        self._index.close()


def test_a_server_finds_what_has_changed(tmp_path: Path, write: Write) -> None:
    """From a file to a loaded generation: the real watch, runs, index and loader; no model."""
    index = tmp_path / "index"

    def load() -> Service:
        lookup = Lookup(index)
        return Service(
            *(lookup, WordEmbedder(), Counter(), "small", "words", lambda _: []),
            renew=lambda: load() if read_current(index) != lookup.generation else None,
        )

    def found(question: str) -> list[str]:
        return list(loader.each(lambda service: (hit.chunk.text for hit in service.pipeline.retrieve(question))))

    write("docs/a.txt", "Anna built the mill")
    with watching(tmp_path, "docs") as watched:
        loader = Loader(load, lambda: published_stamp(index), look_seconds=0.05)
        loader.start()
        try:
            watched.until(lambda: loader.readiness().status == "ready")
            assert (found("mill"), found("weir")) == (["Anna built the mill"], [])
            write("docs/b.txt", "Bert built the weir")
            watched.until(lambda: found("weir") == ["Bert built the weir"])
            write("docs/a.txt", "Carla sold the mill")
            watched.until(lambda: found("mill") == ["Carla sold the mill"])
            (tmp_path / "docs/b.txt").unlink()
            watched.until(lambda: found("weir") == [])
        finally:
            loader.close()


# --- the command


class Runs(IndexRuns):
    """The command's runs, with fakes for the models and the network."""

    def __init__(self, tmp_path: Path, fetcher: Callable[[], Fetcher] | None = None) -> None:
        self.directory = tmp_path / "index"
        self.fetching = fetcher is not None
        self._fetcher = fetcher
        self._ocr = None

    def run(
        self,
        paths: Sequence[Path],
        *,
        stream: str | None = None,
        lists: Sequence[Path] = (),
        quiet: bool = False,
        **options: Any,
    ) -> SyncReport:
        fakes: dict[str, Any] = {"embedder": CountingEmbedder(), "chunker": LineChunker(), "loader": TextLoader()}
        fetcher = self._fetcher() if self._fetcher else None
        return sync(self.directory, paths, lists=lists, fetcher=fetcher, **fakes, **options)


@dataclass
class Commanded:
    """`smallhold index --watch` in a thread, and what it said on stderr."""

    tmp_path: Path
    capsys: pytest.CaptureFixture[str]
    failure: BaseException | None = None
    _said: str = ""

    def said(self) -> str:
        self._said += self.capsys.readouterr().err
        return self._said

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not holds():
            if self.failure:
                raise self.failure
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)

    def until_indexed(self, *ids: str) -> None:
        index = self.tmp_path / "index" / "CURRENT"
        self.until(lambda: index.exists() and sorted(contents(self.tmp_path)) == sorted(ids))

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.said())


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in the block, over folders and lists of the temporary folder."""

    @contextmanager
    def command(
        *roots: str, lists: Sequence[str] = (), fetcher: Callable[[], Fetcher] | None = None, **options: Any
    ) -> Iterator[Commanded]:
        commanded, stop = Commanded(tmp_path, capsys), threading.Event()
        paths, urls = [tmp_path / name for name in roots], [tmp_path / name for name in lists]

        def run() -> None:
            try:
                how: dict[str, Any] = {"debounce": 0.1, "poll": False, "as_json": False, "stop": stop}
                watch_folders(Runs(tmp_path, fetcher), paths, urls, **how, **options)
            except BaseException as error:
                commanded.failure = error

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield commanded
        finally:
            stop.set()
            thread.join(30)
        if commanded.failure:
            raise commanded.failure

    return command


def test_changes_of_pictures_count_where_the_index_holds_some(tmp_path: Path) -> None:
    """Of one that was read with OCR the old text would stay, though each run without OCR takes it out."""
    rules = _rules(Runs(tmp_path))
    assert ".png" not in rules().suffixes
    fakes: dict[str, Any] = {"embedder": CountingEmbedder(), "chunker": LineChunker()}
    build(tmp_path / "index", [Document("docs/scan.PNG", "", "scan", "alpha", {})], **fakes)
    assert {".png", ".jpg"} & rules().suffixes == {".png"}
    build(tmp_path / "index", [Document("docs/a.txt", "", "a", "alpha", {})], **fakes)
    assert ".png" not in rules().suffixes


def test_the_command_names_label_rules_without_effect(tmp_path: Path, write: Write, command: Any) -> None:
    """As a run does: who misspells a folder in a rule leaves it open."""
    write("docs/hr/pay.txt", "alpha")
    with command("docs", labels=[LabelRule(path="/rh/", labels=("hr",))]) as commanded:
        commanded.until_said("watching")
    assert "label rule without effect: no document has its labels from '/rh/'" in commanded.said()


def test_the_command_waits_for_a_known_folder_that_is_missing_at_first(
    tmp_path: Path, write: Write, command: Any
) -> None:
    """A boot before a disk is mounted. A run without --watch ends there, and leaves the index as it is too."""
    write("docs/a.txt", "alpha")
    write("more/b.txt", "beta")
    Run(tmp_path, "docs", "more")
    (tmp_path / "more").rename(tmp_path / "away")
    with pytest.raises(InvalidRequest, match=r"there is no file or folder .*more"):
        Run(tmp_path)
    write("docs/c.txt", "gamma")
    with command() as watch:
        watch.until_indexed("a.txt", "c.txt", "more/b.txt")
        watch.until_said("more is not there; it is waited for, and what the index holds of it stays")
        write("docs/d.txt", "delta")
        watch.until_indexed("a.txt", "c.txt", "d.txt", "more/b.txt")
        write("away/e.txt", "epsilon")
        (tmp_path / "away").rename(tmp_path / "more")
        watch.until_indexed("a.txt", "c.txt", "d.txt", "more/b.txt", "more/e.txt")
        write("more/f.txt", "phi")
        watch.until_indexed("a.txt", "c.txt", "d.txt", "more/b.txt", "more/e.txt", "more/f.txt")
        watch.until_said("more is there again")
        assert watch.said().count("is not there") == 1


def test_the_command_names_a_folder_that_never_was_and_takes_it_when_it_comes(
    tmp_path: Path, write: Write, command: Any
) -> None:
    with command("typo", patterns=Patterns(exclude=("b.*",))) as watch:
        watch.until_said("typo is not there; it is waited for")
        watch.until_said("watching ")
        assert not (tmp_path / "index").exists()
        write("new/a.txt", "alpha")
        write("new/b.txt", "beta")
        (tmp_path / "new").rename(tmp_path / "typo")
        watch.until_indexed("a.txt")
        write("typo/b.txt", "later")
        write("typo/c.txt", "gamma")
        watch.until_indexed("a.txt", "c.txt")
    assert read_patterns(tmp_path / "index") == {str(tmp_path / "typo"): Patterns(exclude=("b.*",))}


@pytest.mark.parametrize("left", [None, "NOT-MOUNTED"])
def test_the_command_waits_at_a_mount_point_without_its_disk(
    tmp_path: Path, write: Write, command: Any, left: str | None
) -> None:
    write("docs/a.txt", "alpha")
    write("more/b.txt", "beta")
    Run(tmp_path, "docs", "more")
    (tmp_path / "docs").rename(tmp_path / "disk")
    (tmp_path / "docs").mkdir()
    if left:
        write(f"docs/{left}", "")
    write("more/c.txt", "gamma")
    with command("docs", "more") as watch:
        watch.until_indexed("a.txt", "more/b.txt", "more/c.txt")
        watch.until_said("docs had documents and now has none" if left else "docs is empty; what the index holds")
        (tmp_path / "docs").rename(tmp_path / "point")
        write("disk/d.txt", "delta")
        (tmp_path / "disk").rename(tmp_path / "docs")
        watch.until_indexed("a.txt", "d.txt", "more/b.txt", "more/c.txt")


def test_the_command_waits_for_a_missing_part_of_a_folder(tmp_path: Path, write: Write, command: Any) -> None:
    write("docs/a.txt", "alpha")
    write("docs/sub/b.txt", "beta")
    Run(tmp_path, "docs")
    (tmp_path / "docs/sub").rename(tmp_path / "sub")
    with command("docs/sub") as watch:
        watch.until_said("sub is not there")
        watch.until_said("watching ")
        assert sorted(contents(tmp_path)) == ["a.txt", "sub/b.txt"]
        write("sub/c.txt", "gamma")
        (tmp_path / "sub").rename(tmp_path / "docs/sub")
        watch.until_indexed("a.txt", "sub/b.txt", "sub/c.txt")


def test_what_else_is_wrong_at_first_ends_the_command(tmp_path: Path, write: Write, command: Any) -> None:
    write("docs/a.txt", "alpha")
    write("more/b.txt", "beta")
    with pytest.raises(InvalidRequest, match="nothing to index"), command():
        pass
    Run(tmp_path, "docs", "more")
    with pytest.raises(InvalidRequest, match="lies in the index directory"), command("docs", "index"):
        pass
    (tmp_path / "more").rename(tmp_path / "away")
    with pytest.raises(InvalidRequest, match="there is no file or folder"), command(rebuild=True):
        pass  # what a rebuild does not find is not in the new index
    assert sorted(contents(tmp_path)) == ["a.txt", "more/b.txt"]


def test_the_command_waits_for_lists_and_watches_those_that_are_known(
    tmp_path: Path, write: Write, command: Any
) -> None:
    site = Site(tmp_path, a="alpha", b="beta")
    write("docs/x.txt", "a file")
    with command("docs", lists=["pages.list"], fetcher=site.fetcher) as watch:
        watch.until_said("pages.list is not there; it is waited for")
        watch.until_indexed("x.txt")
        site.lists(A)
        watch.until_indexed("x.txt", A)
    with command(fetcher=site.fetcher) as watch:
        watch.until_said("watching ")
        site.list.with_suffix(".new").write_text(f"{A}\n{B}\n")
        site.list.with_suffix(".new").replace(site.list)
        watch.until_indexed("x.txt", A, B)


@pytest.mark.model
def test_the_command_watches_and_ends_with_ctrl_c(tmp_path: Path, write: Write) -> None:
    located("all-MiniLM-L6-v2")
    write("docs/a.txt", "The mill was built by Anna.")
    command = [sys.executable, "-c", "from rag.cli import main; main()", "index", "docs", "--watch", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        timer = threading.Timer(500, process.kill)
        timer.start()
        first = json.loads(process.stdout.readline() or "{}")
        process.stdout.readline()  # the run with which the watch begins
        write("docs/b.txt", "The weir was built by Bert.")
        second = json.loads(process.stdout.readline() or "{}")
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        process.wait(60)
        timer.cancel()
    assert (first["added"], second["added"], second["embedded"]) == (["a.txt"], ["b.txt"], 1)
    assert process.returncode == 130
    assert "watching" in said
    assert "Traceback" not in said


ADDED, CHANGED, GONE = Change.added, Change.modified, Change.deleted


@pytest.mark.parametrize(
    ("change", "name", "matters"),
    [
        (ADDED, "a.txt", True),
        (CHANGED, "sub/a.MD", True),
        (GONE, "sub/gone.txt", True),
        (GONE, "gone", True),  # it may have been a folder
        (ADDED, "picture.png", False),
        (CHANGED, "sub", False),  # a folder whose files changed: they say so themselves
        (ADDED, "sub", True),
        (CHANGED, ".hidden.txt", False),
        (CHANGED, ".git/index.txt", False),
        (CHANGED, "sub/.smallholdignore", True),
        (CHANGED, "drafts/a.txt", False),
        (ADDED, "drafts/deep/a.txt", False),
        (GONE, "drafts", False),
        (CHANGED, "a.log.txt", False),
        (CHANGED, "sub/left-out.txt", False),
        (CHANGED, "index/segments/a.txt", False),
        (CHANGED, "", False),
        (GONE, "", True),
    ],
)
def test_which_changes_matter(tmp_path: Path, write: Write, change: Change, name: str, matters: bool) -> None:
    write("docs/sub/.smallholdignore", "left-*")
    patterns = {str(tmp_path / "docs"): Patterns(exclude=("drafts/", "*.log.txt"))}
    rules = Rules(frozenset({".txt", ".md"}), tmp_path / "docs/index", patterns)
    root = tmp_path / "docs"
    assert rules.matter(root, [(change, root / name if name else root)]) == matters

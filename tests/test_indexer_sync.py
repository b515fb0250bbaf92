"""Keeping an index like its sources: what is read and embedded, what is not, and what is refused."""

import io
import os
import sqlite3
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import indexer.stamps
from indexer.checkpoint import Checkpoint
from indexer.letters import dead_letters
from indexer.load import Loader
from indexer.merge import MergePolicy
from indexer.scan import plan_roots
from indexer.stream import Stream
from indexer.sync import build, sync
from indexer.update import SyncReport
from rag.datatypes import Chunk, Document, Span
from rag.errors import (
    DataError,
    IndexDamaged,
    IndexIncompatible,
    InvalidRequest,
    SourceEmptied,
    Unavailable,
    UnreadableDocument,
)
from rag.filter import View, parse_filter
from rag.index import Index
from rag.labels import LabelRule
from rag.manifest import CATALOG, CURRENT, GENERATIONS, SEGMENTS, VECTORS, Patterns, read_synced
from rag.protocols import FloatArray

NEVER = MergePolicy(small=0, factor=10**6)


class CountingEmbedder:
    """The vector of a text is the direction (its characters, 1). Keeps what it was given; may be killed on the way."""

    name = "counting"
    fingerprint = "counting-2"
    dimension = 2

    def __init__(self, dies_after: int = 1_000_000) -> None:
        self.embedded: list[str] = []
        self._dies_after = dies_after

    def embed(self, texts: Sequence[str]) -> FloatArray:
        if len(self.embedded) >= self._dies_after:
            raise KeyboardInterrupt
        self.embedded.extend(texts)
        vectors = np.array([[len(text), 1] for text in texts], np.float32).reshape(-1, 2)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class LineChunker:
    """Every line is a chunk, whatever it says of its budget."""

    overlap = 0

    def __init__(self, tokens: int = 100) -> None:
        self.tokens = tokens
        self.fingerprint = f"lines-{tokens}"
        self.chunked: list[str] = []

    def chunk(self, document: Document) -> list[Chunk]:
        self.chunked.append(document.id)
        chunks, start = [], 0
        for number, line in enumerate(document.text.split("\n")):
            metadata = {"title": document.title, "uri": document.uri}
            chunks.append(Chunk(f"{document.id}#{number}", document.id, line, Span(start, start + len(line)), metadata))
            start += len(line) + 1
        return chunks


class TextLoader:
    """Reads .txt and .md; a text that begins with "broken" cannot be read. Keeps the ids it was asked for.

    With `ocr` it recognises what .md files hold.
    """

    suffixes = frozenset({".txt", ".md"})

    def __init__(self, version: str = "1", ocr: str = "") -> None:
        self.version = version
        self.ocr = ocr
        self.loaded: list[str] = []

    def load_file(self, path: Path, document_id: str, uri: str) -> Document:
        self.loaded.append(document_id)
        try:
            text = path.read_text()
        except OSError as error:
            raise UnreadableDocument(f"cannot be read: {error.strerror}", passing=True) from error
        if text.startswith("broken"):
            raise UnreadableDocument("it is broken")
        return Document(document_id, uri, path.stem, text)

    def recogniser(self, name: str) -> str:
        return self.ocr if name.endswith(".md") else ""

    def unpack(self, path: Path, *, pictures: bool = False) -> None:
        return None


Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file below the temporary folder."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


class Run:
    """A sync with fakes, and what it did."""

    def __init__(self, tmp_path: Path, *roots: str, dies_after: int = 1_000_000, **options: object) -> None:
        self.embedder = CountingEmbedder(dies_after)
        self.chunker = LineChunker(int(str(options.pop("tokens", 100))))
        self.loader = TextLoader(str(options.pop("version", "1")), str(options.pop("ocr", "")))
        self.stages: list[tuple[str, int, int]] = []
        options["remove"] = [tmp_path / str(name) for name in options.pop("remove", ())]  # type: ignore[attr-defined]
        self.report: SyncReport = sync(
            tmp_path / "index",
            [tmp_path / root for root in roots],
            embedder=self.embedder,
            chunker=self.chunker,
            loader=self.loader,
            progress=lambda *stage: self.stages.append(stage),
            **options,  # type: ignore[arg-type]
        )


def contents(tmp_path: Path) -> dict[str, str]:
    with Index.open(tmp_path / "index", "counting-2") as index:
        found = {entry.id: index.document(entry.id).text for entry in index.documents()}
        check_vectors(index)
    return found


def check_vectors(index: Index) -> None:
    """Every row has the vector of its own text, wherever that came from."""
    rows = range(index.manifest.counts.chunks)
    texts = [chunk.context_text for chunk in index.chunks(rows)]
    assert index.vectors.rows(rows) == pytest.approx(CountingEmbedder().embed(texts))


def test_a_folder_is_indexed(tmp_path: Path, write: Write) -> None:
    write("docs/b.txt", "beta\ngamma")
    write("docs/sub/a.md", "alpha")
    run = Run(tmp_path, "docs")
    assert run.report.added == ["b.txt", "sub/a.md"]
    assert (run.report.chunks, run.report.embedded, run.report.reused) == (3, 3, 0)
    assert (run.report.generation, run.report.published) == ("000001", True)
    assert contents(tmp_path) == {"b.txt": "beta\ngamma", "sub/a.md": "alpha"}
    with Index.open(tmp_path / "index") as index:
        assert index.manifest.roots == {str(tmp_path / "docs"): ""}
        assert index.documents()[0].uri == (tmp_path / "docs/b.txt").as_uri()
        assert index.documents()[0].bytes == 10
    assert set(run.report.seconds) == {"scan", "read", "embed", "write"}


def test_progress_tells_every_stage_to_its_end(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha\nbeta")
    write("docs/b.txt", "gamma")
    assert Run(tmp_path, "docs").stages == [
        *[("scan", 0, 2), ("scan", 1, 2), ("scan", 2, 2)],
        *[("read", 0, 2), ("read", 1, 2), ("read", 2, 2)],
        *[("embed", 0, 3), ("embed", 3, 3)],
        *[("write", 0, 3), ("write", 1, 3), ("write", 2, 3), ("write", 3, 3)],
    ]


def test_the_longest_texts_are_embedded_first(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "1\n333\n22")
    write("docs/b.txt", "4444\n22")
    assert Run(tmp_path, "docs").embedder.embedded == ["b\n4444", "a\n333", "a\n22", "b\n22", "a\n1"]


def test_nothing_changed_is_nothing_done(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index" / GENERATIONS).rglob("*")}
    os.utime(tmp_path / "docs/a.txt", (0, 0))
    run = Run(tmp_path, "docs")
    assert (run.report.generation, run.report.published) == ("000001", False)
    assert (run.report.unchanged, run.report.chunks, run.report.reused) == (["a.txt"], 1, 1)
    assert (run.loader.loaded, run.chunker.chunked, run.embedder.embedded) == ([], [], [])
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "index" / GENERATIONS).rglob("*")}


def test_a_sync_that_finds_nothing_new_is_told_by_the_time_of_the_index(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    assert read_synced(tmp_path / "index") is None
    Run(tmp_path, "docs")
    os.utime(tmp_path / "index" / CURRENT, (0, 0))
    began = time.time() - 1
    Run(tmp_path, "docs")
    synced = read_synced(tmp_path / "index")
    assert synced is not None
    assert began <= synced.timestamp() <= time.time() + 1


def test_only_what_is_new_in_a_changed_file_is_embedded(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha\nbeta")
    write("docs/b.txt", "gamma")
    Run(tmp_path, "docs")
    write("docs/a.txt", "delta\nbeta\nalpha")
    run = Run(tmp_path, "docs")
    assert (run.report.changed, run.report.unchanged, run.report.added) == (["a.txt"], ["b.txt"], [])
    assert run.loader.loaded == ["a.txt"]
    assert run.embedder.embedded == ["a\ndelta"]
    assert (run.report.chunks, run.report.embedded, run.report.reused) == (4, 1, 3)
    assert contents(tmp_path) == {"a.txt": "delta\nbeta\nalpha", "b.txt": "gamma"}


def test_what_is_deleted_is_removed(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    gone = write("docs/b.txt", "zorblatt")
    Run(tmp_path, "docs")
    gone.unlink()
    run = Run(tmp_path)
    assert (run.report.removed, run.report.unchanged, run.embedder.embedded) == (["b.txt"], ["a.txt"], [])
    assert contents(tmp_path) == {"a.txt": "alpha"}
    assert [p for p in (tmp_path / "index").rglob("*") if p.is_file() and b"zorblatt" in p.read_bytes()] == []


def test_a_moved_file_keeps_its_vectors(tmp_path: Path, write: Write) -> None:
    write("docs/stay.txt", "stays")
    write("docs/a.txt", "alpha").rename(tmp_path / "docs/a.md")
    Run(tmp_path, "docs")
    (tmp_path / "docs/a.md").rename(tmp_path / "docs/sub.md")
    write("docs/a.txt", "alpha")
    run = Run(tmp_path)
    assert run.report.renamed == [("a.md", "a.txt")]
    assert (run.report.added, run.report.removed) == (["sub.md"], [])
    assert run.embedder.embedded == ["sub\nalpha"]  # its title is new; the one of a.txt is that of a.md


def test_equal_chunks_are_embedded_once(tmp_path: Path, write: Write) -> None:
    write("docs/x/a.txt", "alpha\nalpha\nbeta")
    write("docs/y/a.txt", "alpha")
    run = Run(tmp_path, "docs")
    assert sorted(run.embedder.embedded) == ["a\nalpha", "a\nbeta"]
    assert (run.report.chunks, run.report.embedded, run.report.reused) == (4, 2, 2)
    contents(tmp_path)


def test_unreadable_files_are_reported_and_the_rest_goes_on(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    bad = write("docs/bad.txt", "broken")
    other = write("docs/picture.gif", "...")
    bare = write("docs/Makefile", "all:")
    run = Run(tmp_path, "docs")
    assert run.report.failed == [(str(bad), "it is broken")]
    assert run.report.skipped == [
        (str(bare), "no loader for files without a suffix"),
        (str(other), "no loader for files named *.gif"),
    ]
    assert contents(tmp_path) == {"a.txt": "alpha"}
    again = Run(tmp_path, "docs")
    assert (again.loader.loaded, again.report.published) == ([], False)
    assert (again.report.failed, again.report.untried) == ([(str(bad), "it is broken")], 1)


def test_a_file_that_became_unreadable_leaves_the_index(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("docs/b.txt", "beta")
    Run(tmp_path, "docs")
    write("docs/b.txt", "broken")
    run = Run(tmp_path, "docs")
    assert ([reason for _, reason in run.report.failed], run.report.removed) == (["it is broken"], ["b.txt"])
    assert contents(tmp_path) == {"a.txt": "alpha"}


def test_a_file_that_may_not_be_read_is_reported(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("docs/a.txt", "alpha")
    secret = write("docs/secret.txt", "mine")
    real_open = Path.open

    def guarded(path: Path, *args: object, **kwargs: object) -> object:
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", guarded)
    run = Run(tmp_path, "docs")
    assert run.report.failed == [(str(secret), "Permission denied")]
    assert run.report.added == ["a.txt"]


def test_a_folder_that_may_not_be_listed_is_reported(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.txt", "alpha")
    write("docs/secret/b.txt", "mine")
    scandir = os.scandir

    def guarded(path: Path | int) -> object:
        if isinstance(path, Path) and path.name == "secret":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    run = Run(tmp_path, "docs")
    assert run.report.failed == [(str(tmp_path / "docs/secret"), "Permission denied")]
    assert run.report.added == ["a.txt"]


@pytest.fixture
def withdraw(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Withdraw this user's right to read a file, or to list a folder, until the test ends: root has every right."""

    def withdraw(gone: Path) -> None:
        real_open, real_scandir = Path.open, os.scandir

        def opened(path: Path, *args: object, **kwargs: object) -> object:
            if path == gone:
                raise PermissionError(13, "Permission denied", str(path))
            return real_open(path, *args, **kwargs)  # type: ignore[call-overload]

        def scandir(path: Any) -> object:
            if path == gone:
                raise PermissionError(13, "Permission denied", str(path))
            return real_scandir(path)

        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(os, "scandir", scandir)

    return withdraw


@pytest.mark.parametrize("rebuild", [False, True])
def test_what_may_not_be_read_any_more_stays_in_the_index(
    tmp_path: Path, write: Write, withdraw: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, rebuild: bool
) -> None:
    """A right that was withdrawn deletes nothing: neither a file's, touched since, nor a folder's."""
    secret = write("docs/secret.txt", "mine")
    write("docs/inner/deep/b.txt", "beta")
    write("docs/inner.txt", "not in it")
    write("docs/gone.txt", "gone")
    Run(tmp_path, "docs")
    os.utime(secret, (0, 0))
    (tmp_path / "docs/gone.txt").unlink()
    withdraw(secret)
    withdraw(tmp_path / "docs/inner")
    report = Run(tmp_path, "docs", rebuild=rebuild).report
    denied = [(str(tmp_path / "docs" / name), "Permission denied") for name in ("inner", "secret.txt")]
    assert (sorted(report.failed), report.kept) == (denied, 2)
    assert report.removed == ([] if rebuild else ["gone.txt"])
    assert contents(tmp_path) == {"secret.txt": "mine", "inner/deep/b.txt": "beta", "inner.txt": "not in it"}
    assert [letter.root for letter in dead_letters(tmp_path / "index")] == [str(tmp_path / "docs")] * 2
    monkeypatch.undo()
    (tmp_path / "docs/inner/deep/b.txt").unlink()
    again = Run(tmp_path).report
    assert (again.failed, again.removed) == ([], ["inner/deep/b.txt"])


@pytest.mark.parametrize("rebuild", [False, True])
def test_new_patterns_reach_what_may_not_be_read(
    tmp_path: Path, write: Write, withdraw: Callable[[Path], None], rebuild: bool
) -> None:
    """Who excludes drafts wants none in the index, also of a folder that happens to be closed."""
    for name in ("a.txt", "drafts/b.txt", "old.txt", "deep/c.txt", "deep/c.md", "deep/old.txt"):
        write(f"docs/inner/{name}", name)
    with zipfile.ZipFile(tmp_path / "docs/inner/all.zip", "w") as archive:
        archive.writestr("old.txt", "in an archive")
    write("more/inner/drafts/d.txt", "of another root")
    write("docs/one.md", "not included")

    def run(*roots: str, **options: Any) -> SyncReport:
        with Loader() as loader:
            given: dict[str, Any] = {"embedder": CountingEmbedder(), "chunker": LineChunker(), "loader": loader}
            return sync(tmp_path / "index", [tmp_path / root for root in roots], **given, **options)

    run("docs", "more")
    withdraw(tmp_path / "docs/inner")
    withdraw(tmp_path / "docs/inner/.smallholdignore")
    withdraw(tmp_path / "more/inner")
    patterns = Patterns(include=("*.txt", "*.zip"), exclude=("drafts/", "/inner/**/old.txt"))
    report = run("docs", patterns=patterns, rebuild=rebuild)
    kept = {"inner/a.txt": "a.txt", "inner/deep/c.txt": "deep/c.txt", "inner/all.zip/old.txt": "in an archive"}
    assert contents(tmp_path) == kept | {"more/inner/drafts/d.txt": "of another root"}
    gone = ["inner/deep/c.md", "inner/deep/old.txt", "inner/drafts/b.txt", "inner/old.txt", "one.md"]
    assert sorted(report.removed) == ([] if rebuild else gone)


@pytest.mark.parametrize("folder_too", [False, True])
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_disk_that_is_not_mounted_below_a_root_deletes_nothing(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, rebuild: bool, folder_too: bool
) -> None:
    write("docs/a.txt", "alpha")
    write("docs/disk/b.txt", "beta")
    write("docs/plain/c.txt", "gamma")
    look, disk = Path.lstat, tmp_path / "docs/disk"
    mounted = {disk}

    def lstat(path: Path) -> os.stat_result:
        status = look(path)
        if path in mounted:
            return os.stat_result([*status[:2], status.st_dev + 1, *status[3:]])
        return status

    monkeypatch.setattr(Path, "lstat", lstat)
    Run(tmp_path, "docs")
    assert Run(tmp_path).report.unchanged == ["a.txt", "disk/b.txt", "plain/c.txt"]
    mounted.clear()
    (disk / "b.txt").unlink()
    if folder_too:
        disk.rmdir()
    for path in (tmp_path / "docs/plain/c.txt", tmp_path / "docs/plain"):
        path.unlink() if path.is_file() else path.rmdir()
    for _ in range(2):
        report = Run(tmp_path, rebuild=rebuild).report
        ((name, reason),) = report.failed
        assert (name, report.kept, report.passing) == (str(disk), 1, 1)
        assert "a disk was mounted here and is not" in reason
        assert contents(tmp_path) == {"a.txt": "alpha", "disk/b.txt": "beta"}
    assert Run(tmp_path, allow_empty=True).report.removed == ["disk/b.txt"]
    assert Run(tmp_path).report.failed == []


def test_a_folder_that_takes_the_place_of_a_disk_is_a_folder(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.txt", "alpha")
    write("docs/disk/b.txt", "beta")
    look = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        status = look(path)
        elsewhere = path == tmp_path / "docs/disk"
        return os.stat_result([*status[:2], status.st_dev + 1, *status[3:]]) if elsewhere else status

    with monkeypatch.context() as patched:
        patched.setattr(Path, "lstat", lstat)
        Run(tmp_path, "docs")
        (tmp_path / "docs/disk/b.txt").rename(tmp_path / "docs/disk/c.txt")
        assert Run(tmp_path).report.renamed == [("disk/b.txt", "disk/c.txt")]  # on a disk that is mounted
    (tmp_path / "docs/disk/c.txt").rename(tmp_path / "docs/disk/d.txt")
    assert Run(tmp_path).report.renamed == [("disk/c.txt", "disk/d.txt")]
    (tmp_path / "docs/disk/d.txt").unlink()
    assert Run(tmp_path).report.removed == ["disk/d.txt"]


def test_a_folder_that_may_be_listed_and_not_entered_stops_no_run(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is a file of patterns in it nobody knows."""
    write("docs/a.txt", "alpha")
    write("docs/inner/b.txt", "beta")
    Run(tmp_path, "docs")
    look = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.parent.name == "inner":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    report = Run(tmp_path).report
    assert (report.failed, report.kept) == ([(str(tmp_path / "docs/inner"), "Permission denied")], 1)
    assert contents(tmp_path) == {"a.txt": "alpha", "inner/b.txt": "beta"}


def test_a_root_that_may_not_be_listed_any_more_stops_no_other(
    tmp_path: Path, write: Write, withdraw: Callable[[Path], None]
) -> None:
    write("one/a.txt", "alpha")
    write("two/b.txt", "beta")
    Run(tmp_path, "one", "two")
    write("one/c.txt", "gamma")
    withdraw(tmp_path / "two")
    report = Run(tmp_path).report
    assert (report.failed, report.kept) == ([(str(tmp_path / "two"), "Permission denied")], 1)
    assert contents(tmp_path) == {"a.txt": "alpha", "c.txt": "gamma", "two/b.txt": "beta"}


def test_what_cannot_be_read_for_a_while_stays_as_it_was(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for temporary files, too many open files: that says nothing of the document, changed or not."""
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    write("docs/a.txt", "alpha, changed")

    def crowded(self: TextLoader, path: Path, document_id: str, uri: str) -> Document:
        raise UnreadableDocument("cannot be read: Too many open files", passing=True)

    with monkeypatch.context() as patched:
        patched.setattr(TextLoader, "load_file", crowded)
        report = Run(tmp_path).report
    assert (len(report.failed), report.kept, report.published) == (1, 1, False)
    assert contents(tmp_path) == {"a.txt": "alpha"}
    with monkeypatch.context() as patched:
        patched.setattr(TextLoader, "load_file", crowded)
        report = Run(tmp_path, rebuild=True).report
    assert (len(report.failed), report.kept, report.published) == (1, 1, True)
    assert contents(tmp_path) == {"a.txt": "alpha"}
    assert Run(tmp_path).report.changed == ["a.txt"]


def test_ids_of_members_and_of_other_roots_do_not_clash(tmp_path: Path, write: Write) -> None:
    """Neither in one run, where the database would refuse the second, nor in two, where it took the other's place."""

    def run(*roots: str) -> SyncReport:
        with Loader() as loader:
            given: dict[str, Any] = {"embedder": CountingEmbedder(), "chunker": LineChunker(), "loader": loader}
            return sync(tmp_path / "index", [tmp_path / root for root in roots], **given)

    def pack(name: str, text: str) -> None:
        with zipfile.ZipFile(write(name, ""), "w") as archive:
            archive.writestr("b.txt", text)

    def clash(document_id: str, owner: str) -> str:
        return f"its id {document_id!r} belongs to {tmp_path / owner}; rename one of them"

    pack("docs/a.zip", "member")
    write("more/a.zip/b.txt", "file")
    report = run("docs", "more/a.zip")
    assert report.failed == [(str(tmp_path / "more/a.zip/b.txt"), clash("a.zip/b.txt", "docs/a.zip/b.txt"))]
    assert contents(tmp_path) == {"a.zip/b.txt": "member"}
    write("x/d.txt", "delta")
    run("x")
    pack("docs/x/c.zip", "of docs")
    pack("x/c.zip", "of x")
    assert run("docs").added == ["x/c.zip/b.txt"]
    assert run("x").failed == [(str(tmp_path / "x/c.zip/b.txt"), clash("x/c.zip/b.txt", "docs"))]
    assert contents(tmp_path) == {"a.zip/b.txt": "member", "x/d.txt": "delta", "x/c.zip/b.txt": "of docs"}


def test_a_file_with_the_id_of_a_streams_document_stops_no_rebuild(tmp_path: Path, write: Write) -> None:
    """The database refused the second of the two, and the run ended in a traceback."""
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    with Stream.read(io.BytesIO(b'{"id": "1.txt", "text": "streamed"}\n'), "tickets") as stream:
        Run(tmp_path, stream=stream)
    clash = write("docs/tickets/1.txt", "a file")
    for rebuild in (False, True):
        report = Run(tmp_path, "docs", rebuild=rebuild).report
        reason = "its id 'tickets/1.txt' belongs to stream:tickets; rename one of them"
        assert report.failed == [(str(clash), reason)]
        assert contents(tmp_path) == {"a.txt": "alpha", "tickets/1.txt": "streamed"}


def test_the_members_of_an_archive_that_may_not_be_read_stay(tmp_path: Path, withdraw: Callable[[Path], None]) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    with zipfile.ZipFile(docs / "all.zip", "w") as archive:
        archive.writestr("a.txt", "alpha")
    with Loader() as loader:
        given: dict[str, Any] = {"embedder": CountingEmbedder(), "chunker": LineChunker(), "loader": loader}
        sync(tmp_path / "index", [docs], **given)
        os.utime(docs / "all.zip", (0, 0))
        withdraw(docs / "all.zip")
        report = sync(tmp_path / "index", [docs], **given)
    assert (report.failed, report.kept) == ([(str(docs / "all.zip"), "Permission denied")], 1)
    assert contents(tmp_path) == {"all.zip/a.txt": "alpha"}


def test_a_root_behind_a_folder_that_may_not_be_entered_is_not_called_missing(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.txt", "alpha")

    def resolve(self: Path, strict: bool = False) -> Path:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "resolve", resolve)
    with pytest.raises(InvalidRequest, match="docs cannot be looked at: Permission denied"):
        plan_roots({}, [tmp_path / "docs"])


def test_hidden_linked_and_special_files_are_left_out(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("docs/.hidden.txt", "secret")
    write("docs/.git/b.txt", "secret")
    write("outside/c.txt", "elsewhere")
    (tmp_path / "docs/link.txt").symlink_to(tmp_path / "outside/c.txt")
    (tmp_path / "docs/folder").symlink_to(tmp_path / "outside")
    (tmp_path / "docs/loop").symlink_to(tmp_path / "docs")
    os.mkfifo(tmp_path / "docs/pipe.txt")
    run = Run(tmp_path, "docs")
    assert contents(tmp_path) == {"a.txt": "alpha"}
    assert [(Path(path).name, reason.split(";")[0]) for path, reason in run.report.skipped] == [
        ("folder", "it is a symbolic link"),
        ("link.txt", "it is a symbolic link"),
        ("loop", "it is a symbolic link"),
        ("pipe.txt", "it is not a regular file"),
    ]


def test_the_index_does_not_index_itself(tmp_path: Path, write: Write) -> None:
    write("a.txt", "alpha")
    for _ in range(2):
        assert Run(tmp_path, ".").report.failed == []
    assert contents(tmp_path) == {"a.txt": "alpha"}
    write("index/inside.txt", "text")
    with pytest.raises(InvalidRequest, match="lies in the index directory"):
        Run(tmp_path, "index/inside.txt")


def test_names_that_are_no_text_are_reported(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/docs/caf\xe9.txt")).write_text("text")
    run = Run(tmp_path, "docs")
    assert run.report.failed == [(f"{tmp_path}/docs/caf\\xe9.txt", "its name is not valid UTF-8; rename it")]
    assert contents(tmp_path) == {"a.txt": "alpha"}


def test_a_suffix_that_is_no_text_can_be_told(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/docs/b.\xff")).write_text("text")
    report = Run(tmp_path, "docs").report
    assert report.skipped == [(f"{tmp_path}/docs/b.\\xff", "no loader for files named *.\\xff")]
    assert report.added == ["a.txt"]


def test_what_is_too_large_is_told_before_it_is_read(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    for name in ("big.txt", "huge.md"):
        os.truncate(write(f"docs/{name}", ""), 2_000_000_000_000)  # a hole: to hash it would take an hour
    report = Run(tmp_path, "docs").report
    reason = "too large: 2000000 MB, the limit is 100 MB"
    assert report.failed == [(f"{tmp_path}/docs/big.txt", reason), (f"{tmp_path}/docs/huge.md", reason)]
    assert report.added == ["a.txt"]


def test_a_root_that_is_no_text_is_refused(tmp_path: Path, write: Write) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")).mkdir()
    with pytest.raises(InvalidRequest, match=r"caf\\xe9 is not valid UTF-8"):
        Run(tmp_path, os.fsdecode(b"caf\xe9"))
    with pytest.raises(InvalidRequest, match=r"no file or folder .*/\\xe9"):
        Run(tmp_path, os.fsdecode(b"\xe9"))


def test_a_tree_may_be_deeper_than_calls_may_nest(tmp_path: Path, write: Write) -> None:
    write("docs/z.txt", "omega")
    here = os.open(tmp_path / "docs", os.O_RDONLY)
    for _ in range(1200):  # 2,400 characters: the system takes paths of 4,095
        os.mkdir("d", dir_fd=here)
        here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    with os.fdopen(os.open("a.txt", os.O_WRONLY | os.O_CREAT, dir_fd=here), "w") as file:
        file.write("alpha")
    os.close(here)
    assert Run(tmp_path, "docs").report.added == ["d/" * 1200 + "a.txt", "z.txt"]
    top = tmp_path / "docs/d"  # `shutil.rmtree` of pytest's own cleaning nests calls as well
    while (top / "d").exists():
        (top / "d").rename(tmp_path / "below")
        top.rmdir()
        (tmp_path / "below").rename(top)


def test_a_file_that_may_not_be_looked_at_is_no_file_without_a_loader(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that may be listed and not entered: its documents are unknown to the index, and the run must say so."""
    write("docs/a.txt", "alpha")
    write("docs/b.txt", "beta")
    look = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        if self.name == "b.txt":
            raise PermissionError(13, "Permission denied")
        return look(self)

    monkeypatch.setattr(Path, "lstat", lstat)
    report = Run(tmp_path, "docs").report
    assert (report.failed, report.skipped) == ([(f"{tmp_path}/docs/b.txt", "Permission denied")], [])


def test_another_root_gets_a_label_and_leaves_the_first_alone(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("one/notes/a.txt", "first")
    write("two/notes/a.txt", "second")
    Run(tmp_path, "docs")
    run = Run(tmp_path, "one/notes")
    assert run.loader.loaded == ["notes/a.txt"]
    Run(tmp_path, "two/notes")
    assert contents(tmp_path) == {"a.txt": "alpha", "notes/a.txt": "first", "notes-2/a.txt": "second"}
    write("docs/a.txt", "omega")
    again = Run(tmp_path)
    assert (again.report.changed, again.loader.loaded) == (["a.txt"], ["a.txt"])
    assert sorted(again.report.unchanged) == ["notes-2/a.txt", "notes/a.txt"]


def test_a_label_does_not_take_the_ids_of_a_folder(tmp_path: Path, write: Write) -> None:
    write("docs/notes/a.txt", "in docs")
    write("notes/a.txt", "beside docs")
    Run(tmp_path, "docs")
    Run(tmp_path, "notes")
    assert contents(tmp_path) == {"notes/a.txt": "in docs", "notes-2/a.txt": "beside docs"}
    clash = write("docs/notes-2/a.txt", "made later")
    run = Run(tmp_path, "docs")
    assert [path for path, _ in run.report.failed] == [str(clash)]
    assert contents(tmp_path)["notes-2/a.txt"] == "beside docs"


def test_single_files_are_named_by_themselves(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("docs/b.txt", "beta")
    write("other/a.txt", "another")
    Run(tmp_path, "docs/a.txt", "docs/b.txt", "other/a.txt")
    assert contents(tmp_path) == {"a.txt": "alpha", "b.txt": "beta", "other/a.txt": "another"}


def test_a_path_inside_a_root_means_the_root_and_one_around_it_takes_its_place(tmp_path: Path, write: Write) -> None:
    write("docs/sub/a.txt", "alpha")
    write("docs/b.txt", "beta")
    Run(tmp_path, "docs/sub")
    run = Run(tmp_path, "docs/sub/a.txt")
    assert (run.report.unchanged, run.report.published) == (["a.txt"], False)
    run = Run(tmp_path, "docs")
    assert (run.report.renamed, run.report.added) == ([("a.txt", "sub/a.txt")], ["b.txt"])
    assert run.embedder.embedded == ["b\nbeta"]
    with Index.open(tmp_path / "index") as index:
        assert index.manifest.roots == {str(tmp_path / "docs"): ""}


def test_a_removed_root_takes_its_documents_along(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("notes/b.txt", "beta")
    Run(tmp_path, "docs", "notes")
    (tmp_path / "docs/a.txt").unlink()
    (tmp_path / "docs").rmdir()
    run = Run(tmp_path, remove=["docs"])
    assert (run.report.removed, run.loader.loaded) == (["a.txt"], [])
    assert contents(tmp_path) == {"notes/b.txt": "beta"}
    with pytest.raises(InvalidRequest, match="is not among the indexed paths"):
        Run(tmp_path, remove=["docs"])


def test_a_root_that_is_gone_is_named_and_nothing_happens(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    (tmp_path / "docs").rename(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match=r"no file or folder .*docs") as caught:
        Run(tmp_path)
    assert "--remove" in caught.value.hint
    assert contents(tmp_path) == {"a.txt": "alpha"}


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no such system")
def test_a_list_of_urls_is_a_file_that_stays(tmp_path: Path) -> None:
    """A pipe made a run wait for ever, and what came through one was a list that no later run could read."""
    with pytest.raises(InvalidRequest, match="is no regular file"):
        Run(tmp_path, lists=[Path("/dev/null")])
    assert not (tmp_path / "index" / CURRENT).exists()


def test_links_in_a_circle_lead_nowhere(tmp_path: Path, write: Write) -> None:
    """Python resolves no such path, but says so with a `RuntimeError`."""
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(InvalidRequest, match="there is no file or folder"):
        Run(tmp_path, "circle")
    with pytest.raises(InvalidRequest, match="is not among the indexed paths"):
        Run(tmp_path, remove=["circle"])
    with pytest.raises(InvalidRequest, match=r"the list of URLs .*circle cannot be read"):
        Run(tmp_path, lists=[tmp_path / "circle"])
    assert contents(tmp_path) == {"a.txt": "alpha"}


def test_a_root_that_goes_away_while_it_is_read_loses_no_documents(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is unplugged in the middle of a run: what had been read so far is not all that there is."""
    for name in "abc":
        write(f"docs/{name}.txt", name)
    Run(tmp_path, "docs")
    for name in "abc":
        write(f"docs/{name}.txt", f"{name}, changed")
    load = TextLoader.load_file

    def unplugged(self: TextLoader, path: Path, document_id: str, uri: str) -> Document:
        document = load(self, path, document_id, uri)
        (tmp_path / "docs").rename(tmp_path / "away")
        return document

    monkeypatch.setattr(TextLoader, "load_file", unplugged)
    with pytest.raises(SourceEmptied, match="docs went away while it was being read"):
        Run(tmp_path, "docs", allow_empty=True)
    monkeypatch.undo()
    assert contents(tmp_path) == {"a.txt": "a", "b.txt": "b", "c.txt": "c"}
    (tmp_path / "away").rename(tmp_path / "docs")
    assert Run(tmp_path).report.changed == ["a.txt", "b.txt", "c.txt"]


def test_nothing_to_index_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nothing to index"):
        Run(tmp_path)


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("left", ["nothing", "unreadable"])
def test_a_root_that_lost_all_its_documents_is_refused(tmp_path: Path, write: Write, left: str, rebuild: bool) -> None:
    gone = write("disk/a.txt", "alpha")
    write("docs/b.txt", "beta")
    Run(tmp_path, "disk", "docs")
    gone.unlink() if left == "nothing" else gone.write_text("broken")
    for roots in ((), ("disk",)):
        with pytest.raises(InvalidRequest, match=r"disk had documents and now has none") as caught:
            Run(tmp_path, *roots, rebuild=rebuild)
        assert "--allow-empty" in caught.value.hint
    assert contents(tmp_path) == {"a.txt": "alpha", "docs/b.txt": "beta"}
    run = Run(tmp_path, allow_empty=True, rebuild=rebuild)
    assert run.report.removed == ([] if rebuild else ["a.txt"])
    assert contents(tmp_path) == {"docs/b.txt": "beta"}
    assert not Run(tmp_path).report.published


def test_an_empty_folder_makes_an_empty_index(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    assert Run(tmp_path, "docs").report.published
    assert contents(tmp_path) == {}
    assert not Run(tmp_path).report.published


def test_another_chunker_cuts_again_what_was_read_already(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("notes/b.txt", "beta")
    Run(tmp_path, "docs", "notes")
    run = Run(tmp_path, "docs", tokens=50)
    assert (run.loader.loaded, run.chunker.chunked) == ([], ["notes/b.txt", "a.txt"])
    assert (run.report.published, run.embedder.embedded) == (True, [])
    with Index.open(tmp_path / "index") as index:
        assert index.manifest.chunker.tokens == 50
    assert contents(tmp_path) == {"a.txt": "alpha", "notes/b.txt": "beta"}


def test_another_loader_reads_again(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    run = Run(tmp_path, version="2")
    assert (run.loader.loaded, run.report.changed, run.embedder.embedded) == (["a.txt"], ["a.txt"], [])


def test_another_embedder_is_refused_until_it_is_built_again(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.txt", "alpha")
    write("notes/b.txt", "beta")
    Run(tmp_path, "docs", "notes")
    monkeypatch.setattr(CountingEmbedder, "fingerprint", "other")
    with pytest.raises(IndexIncompatible, match="counting-2") as caught:
        Run(tmp_path, "docs")
    assert "--rebuild" in caught.value.hint
    run = Run(tmp_path, "docs", rebuild=True)  # all roots come along
    assert (sorted(run.report.added), len(run.embedder.embedded)) == (["a.txt", "notes/b.txt"], 2)


@pytest.mark.parametrize("manifest_too", [False, True])
def test_a_damaged_index_is_built_again_on_demand(tmp_path: Path, write: Write, manifest_too: bool) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    generation = tmp_path / "index" / GENERATIONS / "000001"
    (tmp_path / "index" / SEGMENTS / "000001" / CATALOG).write_bytes(b"")
    if manifest_too:
        (generation / "manifest.json").write_bytes(b"{")
    with pytest.raises(IndexDamaged):
        Run(tmp_path, "docs")
    if manifest_too:
        with pytest.raises(InvalidRequest, match="what its label rules were"):
            Run(tmp_path, "docs", rebuild=True)
    run = Run(tmp_path, *(["docs"] if manifest_too else []), rebuild=True, labels=() if manifest_too else None)
    assert (run.report.generation, run.report.added) == ("000002", ["a.txt"])
    assert contents(tmp_path) == {"a.txt": "alpha"}


@pytest.mark.parametrize("change", ["", "gamma"])
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_lost_pointer_is_mended_by_the_next_run(tmp_path: Path, write: Write, change: str, rebuild: bool) -> None:
    """Without what other roots have being lost, nor for what else lies in the folder of the index."""
    write("docs/a.txt", "alpha")
    write("more/b.txt", "beta")
    Run(tmp_path, "docs", "more")
    (tmp_path / "index" / "fusion.toml").write_text("dense_weight = 0.5")
    (tmp_path / "index" / CURRENT).unlink()
    if change:
        write("docs/a.txt", change)
    report = Run(tmp_path, "docs", rebuild=rebuild).report
    name = "000002" if change or rebuild else "000001"
    assert (report.generation, report.published) == (name, name == "000002")
    assert [path.name for path in (tmp_path / "index" / GENERATIONS).iterdir()] == [name]
    assert contents(tmp_path) == {"a.txt": change or "alpha", "more/b.txt": "beta"}


def test_a_rebuild_takes_what_it_can_of_a_damaged_index(
    tmp_path: Path, write: Write, withdraw: Callable[[Path], None]
) -> None:
    """It was refused for the very damage that it was to mend, where a folder could not be looked into."""
    write("docs/a.txt", "alpha")
    write("docs/inner/b.txt", "beta")
    Run(tmp_path, "docs", policy=NEVER)
    write("docs/c.txt", "gamma")
    write("docs/inner/d.txt", "delta")
    Run(tmp_path, policy=NEVER)
    catalog = tmp_path / "index" / SEGMENTS / "000001" / CATALOG
    catalog.write_bytes(catalog.read_bytes()[:-1])
    withdraw(tmp_path / "docs/inner")
    report = Run(tmp_path, rebuild=True).report
    assert (report.failed, report.kept) == ([(str(tmp_path / "docs/inner"), "Permission denied")], 1)
    assert contents(tmp_path) == {"a.txt": "alpha", "c.txt": "gamma", "inner/d.txt": "delta"}


def test_a_lost_pointer_loses_no_stream(tmp_path: Path) -> None:
    """Its texts are in the index alone."""
    with Stream.read(io.BytesIO(b'{"id": "1", "text": "streamed"}\n'), "tickets") as stream:
        Run(tmp_path, stream=stream)
    for content in (None, "nonsense"):
        pointer = tmp_path / "index" / CURRENT
        pointer.unlink() if content is None else pointer.write_text(content)
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs/a.txt").write_text("alpha")
        Run(tmp_path, "docs", rebuild=content is not None)
        assert contents(tmp_path) == {"tickets/1": "streamed", "docs/a.txt": "alpha"}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    lines = "\n".join("x" * length for length in range(1, 601))
    write("docs/b.txt", lines)
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, "docs", dies_after=512)
    assert contents(tmp_path) == {"a.txt": "alpha"}
    assert not (tmp_path / "index" / ".staging").exists()
    run = Run(tmp_path, "docs")
    assert len(run.embedder.embedded) == run.report.embedded == 600 - 512
    assert (run.report.chunks, run.report.reused) == (601, 513)
    assert contents(tmp_path) == {"a.txt": "alpha", "b.txt": lines}
    assert not (tmp_path / "index" / ".embeddings").exists()


@pytest.mark.parametrize("damage", ["other embedder", "not a database", "no tables", "cut", "other column"])
def test_a_checkpoint_that_cannot_be_used_costs_only_time(tmp_path: Path, write: Write, damage: str) -> None:
    write("docs/a.txt", "\n".join("x" * length for length in range(1, 301)))
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, "docs", dies_after=256)
    path = tmp_path / "index" / ".embeddings"
    if damage == "not a database":
        path.write_bytes(b"nonsense" * 1000)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "other column":
        path.write_bytes(path.read_bytes().replace(b"vector BLOB", b"vectxr BLOB"))
    else:
        change = "UPDATE owner SET name = 'other 2'" if damage == "other embedder" else "DROP TABLE vectors"
        with sqlite3.connect(path) as connection:
            connection.execute(change)
        connection.close()
    run = Run(tmp_path, "docs")
    assert len(run.embedder.embedded) == 300
    contents(tmp_path)


def test_no_damage_to_a_checkpoint_stops_a_run_or_changes_a_vector(tmp_path: Path) -> None:
    keys = [bytes([number]) * 32 for number in range(64)]
    vectors_nd = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    with closing(Checkpoint(tmp_path, "x", 8)) as checkpoint:
        checkpoint.add(keys, vectors_nd)
    path, wanted = tmp_path / ".embeddings", dict(zip(keys, vectors_nd.tolist(), strict=True))
    whole, lost = path.read_bytes(), 0
    random = Random(1)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged if random.random() < 0.8 else damaged[: random.randrange(len(whole))])
        with closing(Checkpoint(tmp_path, "x", 8)) as checkpoint:
            found = checkpoint.vectors()
            assert all(vector_d.tolist() == wanted.get(key, vector_d.tolist()) for key, vector_d in found.items())
            checkpoint.keys()
            checkpoint.add(keys[:1], vectors_nd[:1])
            assert checkpoint.vectors()[keys[0]].tolist() == wanted[keys[0]]
            lost += len(found) < 64
    assert lost > 20


def test_what_an_abandoned_run_had_embedded_does_not_stay(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    draft = write("docs/b.txt", "\n".join("x" * length for length in range(1, 301)))
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, "docs", dies_after=256)
    draft.unlink()
    assert not Run(tmp_path, "docs").report.published
    assert not (tmp_path / "index" / ".embeddings").exists()


def record(document_id: str, text: str) -> Document:
    return Document(document_id, f"corpus#{document_id}", document_id.upper(), text, {"n": 1})


def make(tmp_path: Path, *documents: Document) -> tuple[SyncReport, CountingEmbedder]:
    embedder = CountingEmbedder()
    return build(tmp_path / "index", documents, embedder=embedder, chunker=LineChunker()), embedder


def test_records_are_indexed_and_cost_nothing_again(tmp_path: Path) -> None:
    make(tmp_path, record("b", "beta"), record("a", "alpha"))
    report, embedder = make(tmp_path, record("a", "alpha"), record("b", "beta"))
    assert (report.published, report.unchanged, embedder.embedded) == (False, ["a", "b"], [])
    report, embedder = make(tmp_path, record("a", "alpha"), record("c", "gamma"))
    assert (report.added, report.removed, embedder.embedded) == (["c"], ["b"], ["C\ngamma"])
    assert contents(tmp_path) == {"a": "alpha", "c": "gamma"}


def test_two_records_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two documents have the id 'a'"):
        make(tmp_path, record("a", "alpha"), record("a", "beta"))


def test_a_record_that_is_no_text_is_reported(tmp_path: Path) -> None:
    in_metadata = Document("c", "corpus#c", "C", "gamma", {"author": "\udc80"})
    report, _ = make(tmp_path, record("a", "alpha"), record("b", "half \ud83d"), in_metadata)
    assert [document_id for document_id, _ in report.failed] == ["b", "c"]
    assert contents(tmp_path) == {"a": "alpha"}


def test_files_and_records_do_not_mix(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    with pytest.raises(InvalidRequest, match="built from files"):
        make(tmp_path, record("a", "alpha"))
    other = tmp_path / "other"
    make(other, record("a", "alpha"))
    with pytest.raises(InvalidRequest, match="built from records"):
        Run(other, "../docs")


HR = (LabelRule(path="hr/**", labels=("hr",)),)
PUBLIC = View(labels=frozenset())


def public(tmp_path: Path) -> list[str]:
    """The documents that may be seen without any label."""
    with Index.open(tmp_path / "index", "counting-2") as index:
        return [entry.id for entry in index.documents() if index.masks.sees(entry.id, PUBLIC)]


@pytest.fixture
def with_rules(tmp_path: Path, write: Write) -> Path:
    write("docs/a.txt", "alpha")
    write("docs/hr/b.txt", "beta")
    run = Run(tmp_path, "docs", labels=HR)
    assert run.report.unused_rules == []
    assert public(tmp_path) == ["a.txt"]
    return tmp_path


def test_label_rules_stay_until_others_are_given(with_rules: Path, write: Write) -> None:
    write("docs/hr/c.txt", "gamma")
    assert Run(with_rules, "docs").report.added == ["hr/c.txt"]
    assert public(with_rules) == ["a.txt"]
    Run(with_rules, "docs", rebuild=True)
    assert public(with_rules) == ["a.txt"]
    run = Run(with_rules, labels=(LabelRule(path="a.txt", labels=("x",)), LabelRule(path="hs/**", labels=("hr",))))
    assert (run.loader.loaded, run.embedder.embedded, run.report.published) == ([], [], True)
    assert run.report.unused_rules == ["hs/**"]
    assert public(with_rules) == ["hr/b.txt", "hr/c.txt"]
    assert Run(with_rules, labels=()).report.published
    assert public(with_rules) == ["a.txt", "hr/b.txt", "hr/c.txt"]
    assert not Run(with_rules).report.published


def test_label_rules_outlive_a_lost_pointer_and_a_damaged_file(with_rules: Path) -> None:
    (with_rules / "index" / CURRENT).unlink()
    Run(with_rules, "docs")
    assert public(with_rules) == ["a.txt"]
    (with_rules / "index" / SEGMENTS / "000001" / VECTORS).write_bytes(b"")
    Run(with_rules, "docs", rebuild=True)
    assert public(with_rules) == ["a.txt"]


@pytest.mark.parametrize("manifest", [b"{", b'{"labels": 3}', b'{"labels": [{"path": "a//b", "labels": []}]}', None])
@pytest.mark.parametrize("pointer", [True, False])
def test_an_index_that_lost_its_label_rules_is_not_built_again_without(
    with_rules: Path, manifest: bytes | None, pointer: bool
) -> None:
    path = with_rules / "index" / GENERATIONS / "000001" / "manifest.json"
    path.unlink() if manifest is None else path.write_bytes(manifest)
    if not pointer:
        (with_rules / "index" / CURRENT).unlink()
    with pytest.raises(InvalidRequest, match="what its label rules were") as caught:
        Run(with_rules, "docs", rebuild=True)
    assert "--labels FILE" in caught.value.hint
    Run(with_rules, "docs", rebuild=True, labels=HR)
    assert public(with_rules) == ["a.txt"]


def test_a_file_is_described_when_it_is_read(tmp_path: Path, write: Write) -> None:
    os.utime(write("docs/a.txt", "alpha"), (1_700_000_000, 1_700_000_000))
    Run(tmp_path, "docs")
    with Index.open(tmp_path / "index") as index:
        assert index.document("a.txt").metadata == {"date": "2023-11-14"}
        with pytest.raises(InvalidRequest) as hidden:
            index.document("a.txt", View(parse_filter('{"date": {"from": "2023-11-15"}}')))
        with pytest.raises(InvalidRequest) as missing:
            index.document("b.txt", PUBLIC)
        assert hidden.value.message == missing.value.message.replace("b.txt", "a.txt")
        assert (
            index.document("a.txt", View(parse_filter('{"date": {"to": "2023-11-14"}}'), frozenset())).text == "alpha"
        )


# --- archives


def test_another_reading_of_front_matter_reads_what_may_have_some_again(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that labels that were overlooked shut away what was indexed before, without `--rebuild`."""
    write("docs/a.md", "alpha")
    write("docs/b.txt", "beta")
    Run(tmp_path, "docs")
    monkeypatch.setattr("indexer.describe._FRONT_MATTER_VERSION", 99)
    run = Run(tmp_path)
    assert (run.loader.loaded, run.report.changed, run.embedder.embedded) == (["a.md"], ["a.md"], [])
    assert Run(tmp_path).loader.loaded == []


def test_members_of_an_archive_are_documents(tmp_path: Path) -> None:
    def archive(name: str, **files: str) -> None:
        (tmp_path / "docs").mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / "docs" / name, "w") as file:
            for stem, text in files.items():
                file.writestr(f"in/{stem}.txt", text)
            file.writestr("in/picture.gif", b"x")

    def run() -> SyncReport:
        with Loader() as loader:
            return sync(
                tmp_path / "index",
                [tmp_path / "docs"],
                embedder=CountingEmbedder(),
                chunker=LineChunker(100),
                loader=loader,
            )

    archive("a.zip", one="alpha", two="beta")
    archive("b.zip", one="gamma")
    (tmp_path / "docs" / "broken.zip").write_bytes(b"PK")
    report = run()
    assert report.added == ["a.zip/in/one.txt", "a.zip/in/two.txt", "b.zip/in/one.txt"]
    assert report.failed == [(str(tmp_path / "docs" / "broken.zip"), "damaged archive")]
    assert report.skipped == [
        (str(tmp_path / "docs" / f"{name}.zip/in/picture.gif"), "no loader for files named *.gif") for name in "ab"
    ]
    archive("a.zip", one="alpha", two="delta", three="epsilon")
    (tmp_path / "docs" / "b.zip").unlink()
    report = run()
    assert (report.unchanged, report.changed) == (["a.zip/in/one.txt"], ["a.zip/in/two.txt"])
    assert (report.added, report.removed) == (["a.zip/in/three.txt"], ["b.zip/in/one.txt"])
    assert report.embedded == 2
    with Index.open(tmp_path / "index", "counting-2") as index:
        document = index.document("a.zip/in/three.txt")
        assert index.document("a.zip/in/one.txt").metadata["date"]
    assert document.text == "epsilon"
    assert document.uri == f"{(tmp_path / 'docs' / 'a.zip').as_uri()}#in/three.txt"


# --- stamps


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the source files that are hashed from now on."""
    found: list[str] = []
    describe = indexer.stamps.describe_file
    monkeypatch.setattr(indexer.stamps, "describe_file", lambda path: found.append(path.name) or describe(path))
    return found


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a minute ahead from now on, so that what is written now has settled."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 60_000_000_000)


def test_files_that_were_not_touched_are_not_hashed(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.txt", "alpha")
    write("docs/b.txt", "beta")
    write("notes/c.txt", "gamma")
    later(monkeypatch)
    Run(tmp_path, "docs", "notes")
    hashed = reads(monkeypatch)
    assert not Run(tmp_path).report.published
    assert hashed == []
    write("docs/a.txt", "omega")  # as long as before
    os.utime(tmp_path / "docs/b.txt")
    run = Run(tmp_path, "docs")
    assert (hashed, run.report.changed) == (["a.txt", "b.txt"], ["a.txt"])
    hashed.clear()
    Run(tmp_path)  # the stamps of notes have outlived a run without them
    assert hashed == []
    Run(tmp_path, rebuild=True)
    assert hashed == ["a.txt", "b.txt", "c.txt"]


def test_a_file_that_was_written_just_now_is_hashed_again(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been written twice within one tick of the clock."""
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    hashed = reads(monkeypatch)
    Run(tmp_path)
    assert hashed == ["a.txt"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{", b'{"PATH": 1}', b'{"PATH": {"times": TIMES, "bytes": 5, "sha256": "x"}}'),
        b'{"PATH": ' + b"[" * 100_000,
    ],
)
def test_damaged_stamps_cost_only_time(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    times = f"[{path.stat().st_mtime_ns}, {path.stat().st_ctime_ns}]".encode()
    (tmp_path / "index/.stamps").write_bytes(content.replace(b"PATH", bytes(path)).replace(b"TIMES", times))
    hashed = reads(monkeypatch)
    assert not Run(tmp_path).report.published
    assert hashed == ["a.txt"]


# --- renamed documents


def test_documents_that_moved_are_told_one_by_one(tmp_path: Path, write: Write) -> None:
    for name in ("a", "b", "c"):
        write(f"docs/{name}.txt", "same" if name < "c" else "other")
    Run(tmp_path, "docs")
    (tmp_path / "docs/a.txt").rename(tmp_path / "docs/z.txt")
    (tmp_path / "docs/b.txt").unlink()
    write("docs/c.txt", "changed")
    run = Run(tmp_path)
    assert run.report.renamed == [("a.txt", "z.txt")]
    assert (run.report.added, run.report.removed, run.report.changed) == ([], ["b.txt"], ["c.txt"])
    assert contents(tmp_path) == {"c.txt": "changed", "z.txt": "same"}


# --- dry runs


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_dry_run_tells_what_the_run_does_and_writes_nothing(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    for name in "bcde":
        write(f"docs/{name}.txt", name)
    assert Run(tmp_path, "docs", dry_run=True).report.added == [f"{name}.txt" for name in "abcde"]
    assert not (tmp_path / "index").exists()
    Run(tmp_path, "docs")
    write("docs/a.txt", "omega")
    write("docs/new.txt", "new")
    write("docs/bad.txt", "broken")
    write("docs/other.png", "...")
    (tmp_path / "docs/b.txt").rename(tmp_path / "docs/f.txt")
    (tmp_path / "docs/c.txt").unlink()
    write("docs/.smallholdignore", "d.txt\n")
    before = files_of(tmp_path / "index")
    dry = Run(tmp_path, dry_run=True)
    assert files_of(tmp_path / "index") == before
    assert dry.embedder.embedded == []
    assert (dry.report.published, dry.report.generation) == (False, "000001")
    real = Run(tmp_path)
    for kind in ("added", "changed", "renamed", "removed", "unchanged", "failed", "skipped", "excluded"):
        assert getattr(dry.report, kind) == getattr(real.report, kind) != [], kind
    assert (real.report.renamed, real.report.removed) == ([("b.txt", "f.txt")], ["c.txt", "d.txt"])


def test_a_dry_run_says_where_it_may_not_look(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("docs/a.txt", "alpha")
    exists = Path.exists

    def guarded(path: Path) -> bool:
        if path.name == CURRENT:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", guarded)
    with pytest.raises(Unavailable, match="index cannot be looked at: Permission denied"):
        Run(tmp_path, "docs", dry_run=True)


def test_a_dry_run_refuses_what_the_run_refuses(tmp_path: Path, write: Write) -> None:
    gone = write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    gone.unlink()
    with pytest.raises(InvalidRequest, match="had documents and now has none"):
        Run(tmp_path, dry_run=True)
    assert Run(tmp_path, dry_run=True, allow_empty=True).report.removed == ["a.txt"]
    with pytest.raises(InvalidRequest, match="is no index, and holds other things"):
        sync(
            tmp_path / "docs/..",
            [tmp_path / "docs"],
            embedder=CountingEmbedder(),
            chunker=LineChunker(),
            loader=TextLoader(),
            dry_run=True,
        )
    assert contents(tmp_path) == {"a.txt": "alpha"}


# --- dead letters


def letters(tmp_path: Path) -> list[tuple[str, str]]:
    return [(Path(letter.name).name, letter.reason) for letter in dead_letters(tmp_path / "index")]


def test_what_failed_is_tried_again_when_it_changes_or_on_demand(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    bad = write("docs/bad.txt", "broken")
    Run(tmp_path, "docs")
    assert letters(tmp_path) == [("bad.txt", "it is broken")]
    for options, loaded in (({}, []), ({"retry": True}, ["bad.txt"]), ({"version": "2"}, ["a.txt", "bad.txt"])):
        run = Run(tmp_path, **options)  # type: ignore[arg-type]
        assert (run.loader.loaded, run.report.untried) == (loaded, 0 if loaded else 1)
        assert run.report.failed == [(str(bad), "it is broken")]
    bad.write_text("broken again")
    assert Run(tmp_path, version="2").loader.loaded == ["bad.txt"]
    bad.write_text("whole")
    run = Run(tmp_path, version="2")
    assert (run.report.added, run.report.failed, letters(tmp_path)) == (["bad.txt"], [], [])


def test_dead_letters_of_other_roots_stay_and_go_with_their_root(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "broken")
    write("notes/a.txt", "alpha")
    write("notes/b.txt", "broken")
    Run(tmp_path, "docs", "notes")
    assert letters(tmp_path) == [("a.txt", "it is broken"), ("b.txt", "it is broken")]
    Run(tmp_path, "notes")
    assert len(letters(tmp_path)) == 2
    Run(tmp_path, remove=["docs"])
    assert letters(tmp_path) == [("b.txt", "it is broken")]


def test_what_may_pass_by_itself_is_tried_every_time(tmp_path: Path, write: Write) -> None:
    class Crowded(TextLoader):
        def load_file(self, path: Path, document_id: str, uri: str) -> Document:
            self.loaded.append(document_id)
            raise UnreadableDocument("cannot be read: Too many open files", passing=True)

    write("docs/a.txt", "alpha")
    for _ in range(2):
        loader = Crowded()
        sync(
            tmp_path / "index",
            [tmp_path / "docs"],
            embedder=CountingEmbedder(),
            chunker=LineChunker(),
            loader=loader,
        )
        assert loader.loaded == ["a.txt"]
    assert letters(tmp_path) == [("a.txt", "cannot be read: Too many open files")]


@pytest.mark.parametrize("content", [b"", b"[]", b'[{"root": 1}]', b"\xff", b"[" * 100_000])
def test_damaged_dead_letters_cost_only_that_they_are_tried_again(tmp_path: Path, write: Write, content: bytes) -> None:
    write("docs/a.txt", "broken")
    Run(tmp_path, "docs")
    (tmp_path / "index/.failed").write_bytes(content)
    assert letters(tmp_path) == []
    assert Run(tmp_path).loader.loaded == ["a.txt"]
    assert Run(tmp_path).loader.loaded == []


def test_a_damaged_archive_is_unpacked_once(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("docs/a.zip", "no archive")
    write("docs/b.txt", "beta")
    asked = []
    unpack = Loader.unpack

    def counted(self: Loader, path: Path, *, pictures: bool = False) -> object:
        asked.append(path.name)
        return unpack(self, path, pictures=pictures)

    monkeypatch.setattr(Loader, "unpack", counted)
    for expected in (["a.zip", "b.txt"], ["b.txt"]):
        asked.clear()
        with Loader() as loader:
            report = sync(
                tmp_path / "index",
                [tmp_path / "docs"],
                embedder=CountingEmbedder(),
                chunker=LineChunker(),
                loader=loader,
            )
        assert (asked, report.failed) == (expected, [(str(tmp_path / "docs/a.zip"), "damaged archive")])


def test_a_run_says_of_which_files_something_was_left_out(tmp_path: Path, write: Write) -> None:
    """Pages of a PDF that are pictures went without a word."""
    path, scanned = write("docs/a.txt", "alpha"), "3 of 7 pages scanned, without a text layer"
    write("docs/b.txt", "beta")

    class Half(TextLoader):
        def load_file(self, path: Path, document_id: str, uri: str) -> Document:
            document = super().load_file(path, document_id, uri)
            return replace(document, metadata={"warning": scanned} if path.name == "a.txt" else {})

    def warnings(**options: bool) -> list[tuple[str, str]]:
        fakes: dict[str, Any] = {"embedder": CountingEmbedder(), "chunker": LineChunker(), "loader": Half()}
        return sync(tmp_path / "index", [tmp_path / "docs"], **fakes, **options).warnings

    assert warnings(dry_run=True) == [(str(path), scanned)]
    assert warnings() == [(str(path), scanned)]
    assert warnings() == []  # it was not read again

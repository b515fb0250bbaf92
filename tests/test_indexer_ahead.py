"""Embedding while documents are still being read: what is embedded when, once, and what becomes of errors."""

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from indexer import ahead
from indexer.ahead import Ahead
from indexer.checkpoint import Checkpoint
from indexer.segment import context_key
from indexer.sync import sync
from indexer.update import SyncReport
from rag.datatypes import Chunk, Document, Span
from rag.errors import ModelLoadFailed
from rag.index import Generation, Index
from rag.protocols import FloatArray
from tests.test_indexer_sync import CountingEmbedder, LineChunker, Run, TextLoader, check_vectors

PATIENCE = 20.0  # seconds; far beyond what a loaded machine takes


class PacedEmbedder(CountingEmbedder):
    """Waits before each window until it may go on."""

    def __init__(self, dies_after: int = 1_000_000) -> None:
        super().__init__(dies_after)
        self.begun, self.may = threading.Event(), threading.Semaphore(0)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        self.begun.set()
        assert self.may.acquire(timeout=PATIENCE)
        return super().embed(texts)


class FailingEmbedder(CountingEmbedder):
    """Cannot be loaded."""

    def embed(self, texts: Sequence[str]) -> FloatArray:
        raise ModelLoadFailed("no weights")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of 4 texts, 6 of which may wait, in windows of 2."""
    monkeypatch.setattr(ahead, "_BEGIN", 4)
    monkeypatch.setattr(ahead, "_MOST", 6)
    monkeypatch.setattr(ahead, "WINDOW", 2)


def chunks(*texts: str) -> list[Chunk]:
    return [Chunk(f"d#{text}", "d", text, Span(0, len(text)), {}) for text in texts]


def kept(directory: Path) -> set[bytes]:
    with closing(Checkpoint(directory, "counting-2", 2)) as checkpoint:
        return checkpoint.keys()


def keys(*texts: str) -> set[bytes]:
    return {context_key(chunk) for chunk in chunks(*texts)}


def wait(running: Ahead) -> None:
    """Until the round is done, whatever came of it."""
    assert running._round is not None
    running._round.exception(PATIENCE)


def test_texts_are_embedded_once_the_longest_first_and_kept(tmp_path: Path) -> None:
    embedder = CountingEmbedder()
    with Ahead(None, embedder, tmp_path) as running:
        running.add(chunks("a", "ccc", "a"))
        assert running._round is None
        running.add(chunks("bb", "dddd", "ccc"))
        wait(running)
    assert embedder.embedded == ["d\ndddd", "d\nccc", "d\nbb", "d\na"]
    assert running.embedded == 4
    assert kept(tmp_path) == keys("a", "bb", "ccc", "dddd")


def test_reading_never_waits_and_what_waits_is_bounded(tmp_path: Path) -> None:
    embedder = PacedEmbedder()
    with Ahead(None, embedder, tmp_path) as running:
        running.add(chunks("1", "22", "333", "4444"))
        assert embedder.begun.wait(PATIENCE)
        for start in range(10, 100, 3):
            running.add(chunks(*(str(number) for number in range(start, start + 3))))
        assert len(running._waiting) == 6
        embedder.may.release()
    # The end of the block waits for the window under way and begins no other.
    assert running.embedded == 2
    assert kept(tmp_path) == keys("4444", "333")


def test_what_an_earlier_run_finished_is_not_embedded_again(tmp_path: Path) -> None:
    with closing(Checkpoint(tmp_path, "counting-2", 2)) as checkpoint:
        checkpoint.add([*keys("bb")], CountingEmbedder().embed(["bb"]))
    embedder = CountingEmbedder()
    with Ahead(None, embedder, tmp_path) as running:
        running.add(chunks("a", "bb", "ccc", "dddd"))
        wait(running)
    assert running.embedded == 3
    assert kept(tmp_path) == keys("a", "bb", "ccc", "dddd")


def test_an_error_of_the_thread_is_raised_at_the_end_of_the_block(tmp_path: Path) -> None:
    running = Ahead(None, FailingEmbedder(), tmp_path)
    running.add(chunks("a", "bb", "ccc", "dddd"))
    wait(running)
    with pytest.raises(ModelLoadFailed, match="no weights"):
        running.__exit__(None, None, None)
    running.__exit__(ValueError, ValueError("the reader's own"), None)


def test_an_error_of_the_thread_ends_reading_where_a_round_would_begin(tmp_path: Path) -> None:
    with Ahead(None, FailingEmbedder(), tmp_path) as running:
        running.add(chunks("a", "bb", "ccc", "dddd"))
        wait(running)
        with pytest.raises(ModelLoadFailed, match="no weights"):
            running.add(chunks("1", "2", "3", "4"))
        running._round = None


class WatchingChunker(LineChunker):
    """Cuts the last document only once embedding has begun."""

    def __init__(self, embedder: PacedEmbedder) -> None:
        super().__init__()
        self._embedder = embedder
        self.overlapped = False

    def chunk(self, document: Document) -> list[Chunk]:
        if document.id == "z.txt":
            self.overlapped = self._embedder.begun.wait(PATIENCE)
            self._embedder.may.release(1_000)
        return super().chunk(document)


def read(tmp_path: Path, embedder: PacedEmbedder, chunker: WatchingChunker) -> SyncReport:
    """Index 15 lines of three documents and one of a last, which is cut once embedding has begun."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in "abc":
        (docs / f"{name}.txt").write_text("\n".join(f"{name}{'x' * number}" for number in range(5)))
    (docs / "z.txt").write_text("the last")
    return sync(tmp_path / "index", [docs], embedder=embedder, chunker=chunker, loader=TextLoader())


def test_an_index_is_embedded_while_it_is_read(tmp_path: Path) -> None:
    embedder = PacedEmbedder()
    chunker = WatchingChunker(embedder)
    report = read(tmp_path, embedder, chunker)
    assert chunker.overlapped
    assert sorted(embedder.embedded) == sorted({*embedder.embedded})
    assert (report.chunks, report.embedded, report.reused) == (16, 16, 0)
    with Index.open(tmp_path / "index") as index:
        check_vectors(index)
    assert not (tmp_path / "index/.embeddings").exists()


def test_what_the_old_generation_has_is_not_embedded_again(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_text("1\n22\n333\n4444\n55555")
    Run(tmp_path, "docs")
    embedder = CountingEmbedder()
    with Generation.open(tmp_path / "index") as old, Ahead(old, embedder, tmp_path) as running:
        titled = [Chunk("a#0", "a", text, Span(0, 1), {"title": "a"}) for text in ("1", "22", "333", "new")]
        running.add(titled)
        wait(running)
    assert [text.split("\n")[-1] for text in embedder.embedded] == ["new"]


def test_a_run_that_dies_while_it_reads_goes_on_where_it_was(tmp_path: Path) -> None:
    embedder = PacedEmbedder(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path, embedder, WatchingChunker(embedder))
    run = Run(tmp_path, "docs")
    assert (run.report.chunks, run.report.embedded) == (16, 14)
    with Index.open(tmp_path / "index") as index:
        check_vectors(index)

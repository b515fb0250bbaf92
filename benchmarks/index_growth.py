"""What one more document costs an index that is large already: seconds, and bytes written of those that it has.

    python -m benchmarks.index_growth                       200,000 chunks, then 20 documents one after another
    python -m benchmarks.index_growth --chunks 20000 --keep /some/folder
    python -m benchmarks.index_growth --chunks 200000 --paragraphs 1 --dimension 16 --add 1     200,000 documents

Texts are words drawn by Zipf's law, ten paragraphs of 80 words a file unless told otherwise; vectors are random, of
length 1, so that no embedder's time is in the figures. Every addition is a sync of the whole folder by a new reader of
the index. Then the index is searched as it is and compacted, opened, and opened again from an index that is open, as a
server does that takes the next generation, while another thread searches.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from indexer.compact import compact
from indexer.sync import sync
from indexer.update import SyncReport
from rag.datatypes import Chunk, Document, Span
from rag.filter import View
from rag.index import Index
from rag.protocols import FloatArray
from rag.retrieve import best_rows
from rag.serve import listed

PARAGRAPHS, WORDS, VOCABULARY = 10, 80, 200_000


class RandomEmbedder:
    """Random unit vectors, another for each text that it is given."""

    name = "random"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.fingerprint = f"random-{dimension}"
        self._random = np.random.default_rng(time.time_ns())

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return `(n, d)`."""
        vectors = self._random.standard_normal((len(texts), self.dimension), dtype=np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class ParagraphChunker:
    """Every line is a chunk."""

    tokens = 100
    overlap = 0
    fingerprint = "paragraphs"

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the lines."""
        chunks, start = [], 0
        for number, line in enumerate(document.text.split("\n")):
            span = Span(start, start + len(line))
            chunks.append(Chunk(f"{document.id}#{number}", document.id, line, span, {"title": document.title}))
            start = span.end + 1
        return chunks


class PlainLoader:
    """Reads text."""

    version = "1"
    suffixes = frozenset({".txt"})

    def load_file(self, path: Path, document_id: str, uri: str) -> Document:
        """Return the file as it is."""
        return Document(document_id, uri, path.stem, path.read_text())

    def recogniser(self, name: str) -> str:
        """Nothing is recognised."""
        del name
        return ""

    def unpack(self, path: Path, *, pictures: bool = False) -> None:
        """Return nothing: no file is an archive."""
        del path, pictures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--add", type=int, default=20, help="documents added one after another")
    parser.add_argument("--paragraphs", type=int, default=PARAGRAPHS, help="chunks of a document")
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--keep", type=Path, help="a folder that is used again (default: a temporary one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        measure(folder, given.chunks, given.add, given.paragraphs, RandomEmbedder(given.dimension))


def measure(folder: Path, chunks: int, additions: int, paragraphs: int, embedder: RandomEmbedder) -> None:
    """Build, add, search, take the next generation, compact."""
    texts = zipf_texts(paragraphs)
    source, directory = folder / "source", folder / "index"
    source.mkdir(parents=True, exist_ok=True)
    for number in range(len(list(source.iterdir())), chunks // paragraphs):
        (source / f"{number:07d}.txt").write_text(next(texts))
    with timed("build"):
        update(source, directory, embedder)
    total = size(directory)
    print(f"{chunks} chunks, {total / 1e6:.0f} MB: {parts(directory)}")
    rows = []
    for number in range(additions):
        (source / f"added-{time.time_ns()}-{number}.txt").write_text(next(texts))
        written, cpu, start = bytes_written(), time.process_time(), time.perf_counter()
        report = update(source, directory, embedder)
        assert len(report.added) == 1
        rows.append((time.perf_counter() - start, time.process_time() - cpu, bytes_written() - written))
        if not number:
            print("the first: " + ", ".join(f"{stage} {took:.2f} s" for stage, took in report.seconds.items()))
    for what, values, unit in zip(("seconds", "of them CPU", "written"), np.array(rows).T, ("s", "s", ""), strict=True):
        if what == "written":
            values, unit = 100 * values / total, "% of the index"
        print(f"one document more, {what}: median {np.median(values):.2f}, most {values.max():.2f} {unit}")
    print(f"{parts(directory)}")
    with timed("open"):
        index = Index.open(directory)
    with closing(index):
        with timed("open again, nothing new"):
            Index.open(directory, before=index).close()
        search(index, next(texts), embedder)
    (source / f"reload-{time.time_ns()}.txt").write_text(next(texts))
    take_next(source, directory, embedder, next(texts))
    with timed("compact"):
        compact(directory)
    print(f"{parts(directory)}")
    with Index.open(directory) as index:
        search(index, next(texts), embedder)


def update(source: Path, directory: Path, embedder: RandomEmbedder) -> SyncReport:
    """Bring the index up to date with the folder."""
    return sync(directory, [source], embedder=embedder, chunker=ParagraphChunker(), loader=PlainLoader())


def take_next(source: Path, directory: Path, embedder: RandomEmbedder, text: str) -> None:
    """Print what a server does that takes a generation with one document more, and what another thread feels of it."""
    with Index.open(directory) as before:
        serve(before)
        update(source, directory, embedder)
        with searching(before, text, "alone"):
            time.sleep(2)
        with searching(before, text, "while the next generation is taken"):
            with timed("open the next generation"):
                after = Index.open(directory, before=before)
            with closing(after), timed("look up documents and labels"):
                serve(after)


def serve(index: Index) -> None:
    """Look up what `rag.serve` does before a generation is served."""
    listed(index)
    index.masks.rows(View(labels=frozenset()))


@contextmanager
def searching(index: Index, text: str, when: str) -> Iterator[None]:
    """Search by words in another thread while the block runs; print how long that took, and its longest pause."""
    took: list[float] = []
    gaps: list[float] = []
    stop = threading.Event()

    def search_on() -> None:
        asked = questions(text)
        while not stop.is_set():
            start = time.perf_counter()
            index.chunks(best_rows(index.lexical.scores(asked[len(took) % len(asked)]), 10).tolist())
            took.append(time.perf_counter() - start)
            start = time.perf_counter()
            time.sleep(0.001)
            gaps.append(time.perf_counter() - start)

    thread = threading.Thread(target=search_on)
    thread.start()
    yield
    stop.set()
    thread.join()
    found = 1000 * np.array(took)
    print(
        f"search by words {when}: median {np.median(found):.0f} ms, 99% {np.quantile(found, 0.99):.0f} ms, most "
        f"{found.max():.0f} ms; 1 ms of sleep takes {1000 * max(gaps):.0f} ms at most"
    )


def questions(text: str) -> list[str]:
    """Return questions of eight words."""
    words = text.split()
    return [" ".join(words[at : at + 8]) for at in range(0, min(400, len(words)), 8)]


def search(index: Index, text: str, embedder: RandomEmbedder) -> None:
    """Print the median time of a search of either kind."""
    asked = questions(text)
    queries_qd = embedder.embed(asked)
    few = np.zeros(len(index.vectors), np.bool_)
    few[::10] = True
    lexical = median_ms(lambda at: best_rows(index.lexical.scores(asked[at % len(asked)]), 100))
    dense = median_ms(lambda at: index.vectors.search(queries_qd[at % len(asked)], 100))
    masked = median_ms(lambda at: index.vectors.search(queries_qd[at % len(asked)], 100, few))
    print(
        f"search, median: lexical {lexical:.1f} ms, dense {dense:.1f} ms, dense in a tenth of the rows {masked:.1f} ms"
    )


def median_ms(call: Callable[[int], object], count: int = 50) -> float:
    """Return the median milliseconds of calls numbered from 0."""
    took = []
    for at in range(count):
        start = time.perf_counter()
        call(at)
        took.append(time.perf_counter() - start)
    return float(np.median(took)) * 1000


def parts(directory: Path) -> str:
    """Say what the segments are."""
    names = sorted((directory / "segments").iterdir())
    return f"{len(names)} segments of {', '.join(f'{size(path) / 1e6:.1f}' for path in names)} MB"


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bytes_written() -> int:
    """Return the bytes that this process has written to files so far, those that it has removed again included."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{os.getpid()}/io").read_text().splitlines())
    return int(fields["wchar"])


def zipf_texts(paragraphs: int = PARAGRAPHS) -> Iterator[str]:
    """Yield documents of so many paragraphs without end."""
    random = np.random.default_rng(1)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    weights /= weights.sum()
    while True:
        for drawn in random.choice(VOCABULARY, (100, paragraphs, WORDS), p=weights):
            yield "\n".join(" ".join(f"w{number:x}" for number in words) for words in drawn)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block takes."""
    start, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what}: {time.perf_counter() - start:.2f} s, {time.process_time() - cpu:.2f} s of CPU", flush=True)


if __name__ == "__main__":
    main()

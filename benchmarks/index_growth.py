"""What one more document costs an index that is large already: seconds, and bytes written of those that it has.

    python -m benchmarks.index_growth                       200,000 chunks, then 20 documents one after another
    python -m benchmarks.index_growth --chunks 20000 --keep /some/folder

Texts are words drawn by Zipf's law, ten paragraphs of 80 words a file; vectors are random, of length 1, so that no
embedder's time is in the figures. Every addition is a sync of the whole folder by a new reader of the index. Then the
index is searched as it is and compacted, opened, and opened again from an index that is open.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from indexer.compact import compact
from indexer.sync import sync
from indexer.update import SyncReport
from rag.datatypes import Chunk, Document, Span
from rag.index import Index
from rag.protocols import FloatArray
from rag.retrieve import best_rows

PARAGRAPHS, WORDS, VOCABULARY = 10, 80, 200_000


class RandomEmbedder:
    """Random unit vectors, another for each text that it is given."""

    name = "random"
    fingerprint = "random-384"
    dimension = 384

    def __init__(self) -> None:
        self._random = np.random.default_rng(time.time_ns())

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return `(n, d)`."""
        vectors = self._random.standard_normal((len(texts), self.dimension), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


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

    def unpack(self, path: Path) -> None:
        """Return nothing: no file is an archive."""
        del path


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--add", type=int, default=20, help="documents added one after another")
    parser.add_argument("--keep", type=Path, help="a folder that is used again (default: a temporary one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(given.keep or Path(temporary), given.chunks, given.add)


def measure(folder: Path, chunks: int, additions: int) -> None:
    """Build, add, search, compact."""
    texts = zipf_texts()
    source, directory = folder / "source", folder / "index"
    source.mkdir(parents=True, exist_ok=True)
    for number in range(len(list(source.iterdir())), chunks // PARAGRAPHS):
        (source / f"{number:07d}.txt").write_text(next(texts))
    with timed("build"):
        update(source, directory)
    total = size(directory)
    print(f"{chunks} chunks, {total / 1e6:.0f} MB: {parts(directory)}")
    rows = []
    for number in range(additions):
        (source / f"added-{time.time_ns()}-{number}.txt").write_text(next(texts))
        written, cpu, start = bytes_written(), time.process_time(), time.perf_counter()
        report = update(source, directory)
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
        search(index, next(texts))
    with timed("compact"):
        compact(directory)
    print(f"{parts(directory)}")
    with Index.open(directory) as index:
        search(index, next(texts))


def update(source: Path, directory: Path) -> SyncReport:
    """Bring the index up to date with the folder."""
    return sync(directory, [source], embedder=RandomEmbedder(), chunker=ParagraphChunker(), loader=PlainLoader())


def search(index: Index, text: str) -> None:
    """Print the median time of a search of either kind, with questions of eight words."""
    words = text.split()
    questions = [" ".join(words[at : at + 8]) for at in range(0, 400, 8)]
    queries_qd = RandomEmbedder().embed(questions)
    few = np.zeros(len(index.vectors), np.bool_)
    few[::10] = True
    lexical = median_ms(lambda at: best_rows(index.lexical.scores(questions[at]), 100))
    dense = median_ms(lambda at: index.vectors.search(queries_qd[at], 100))
    masked = median_ms(lambda at: index.vectors.search(queries_qd[at], 100, few))
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


def zipf_texts() -> Iterator[str]:
    """Yield documents without end."""
    random = np.random.default_rng(1)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    weights /= weights.sum()
    while True:
        for paragraphs in random.choice(VOCABULARY, (100, PARAGRAPHS, WORDS), p=weights):
            yield "\n".join(" ".join(f"w{number:x}" for number in words) for words in paragraphs)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block takes."""
    start, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what}: {time.perf_counter() - start:.2f} s, {time.process_time() - cpu:.2f} s of CPU", flush=True)


if __name__ == "__main__":
    main()

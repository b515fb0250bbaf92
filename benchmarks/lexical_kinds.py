"""What keeps the words of an index that grows: own postings, bm25s, or SQLite's FTS5, side by side on the same terms.

    python -m benchmarks.lexical_kinds --chunks 50000

Texts as in `index_growth.py`. Each kind gets the same terms; FTS5 gets them as text, joined by blanks. Measured are the
time to build, to add one chunk and be ready to search again, to search (questions of eight words, best 100 of all
scores; FTS5: its own best 100), the bytes on disk, and the largest difference of a score from one that is built anew
after one tenth of the chunks has been deleted.
"""

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.index_growth import median_ms, size, zipf_texts
from rag.lexical import LexicalIndex
from rag.postings import Postings
from rag.retrieve import best_rows
from rag.rows import Rows

Result = TypeVar("Result")


def main() -> None:
    """Print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=50_000)
    given = parser.parse_args()
    texts = [line for text in islice(zipf_texts(), given.chunks // 10) for line in text.split("\n")]
    terms = [text.split() for text in texts]
    questions = [" ".join(text.split()[:8]) for text in texts[:: len(texts) // 50]]
    print(f"{'':10}{'build s':>9}{'add ms':>9}{'search ms':>11}{'MB':>7}{'off by':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for measure in (own, peer, fts5):
            print(f"{measure.__name__:10}" + measure(Path(folder), terms, questions), flush=True)


def own(folder: Path, terms: list[list[str]], questions: list[str]) -> str:
    """Segments of counts."""
    build, postings = timed(lambda: Postings.build(terms))
    postings.save(folder / "own")
    parts = [Postings.load(folder / "own")]
    more: list[Postings] = []
    add, _ = timed(lambda: more.append(Postings.build(terms[:1])))
    kept = np.arange(len(terms)) % 10 > 0
    ready, grown = timed(lambda: LexicalIndex([*parts, *more], Rows([(len(terms), kept), (1, None)])))
    search = median_ms(lambda at: best_rows(grown.scores(questions[at]), 100))
    left = [row for row, keep in zip(terms, kept, strict=True) if keep]
    anew = LexicalIndex([Postings.build([*left, terms[0]])], Rows.whole(len(left) + 1))
    off = max(float(np.abs(grown.scores(q) - anew.scores(q)).max()) for q in questions[:10])
    return line(build, (add + ready) * 1000, search, size(folder / "own"), off)


def peer(folder: Path, terms: list[list[str]], questions: list[str]) -> str:
    """bm25s, which computes all weights beforehand: one chunk more is a new index."""
    import bm25s

    def index() -> bm25s.BM25:
        made = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        made.index(terms, show_progress=False)
        return made

    build, made = timed(index)
    made.save(folder / "peer")
    known = [[word for word in question.split() if word in made.vocab_dict] for question in questions]
    search = median_ms(lambda at: best_rows(made.get_scores(known[at]), 100))
    return line(build, build * 1000, search, size(folder / "peer"), 0.0)


def fts5(folder: Path, terms: list[list[str]], questions: list[str]) -> str:
    """SQLite's full-text index, without a copy of the texts."""
    path = folder / "fts5.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE VIRTUAL TABLE f USING fts5(t, content='', detail=column)")

    def index() -> None:
        with connection:
            rows = ((row, " ".join(found)) for row, found in enumerate(terms))
            connection.executemany("INSERT INTO f (rowid, t) VALUES (?, ?)", rows)

    def add() -> None:
        with connection:
            connection.execute("INSERT INTO f (t) VALUES (?)", [" ".join(terms[0])])

    def search(at: int) -> list[tuple[int, float]]:
        words = " OR ".join(f'"{word}"' for word in questions[at].split())
        return connection.execute(
            "SELECT rowid, rank FROM f WHERE f MATCH ? ORDER BY rank LIMIT 100", [words]
        ).fetchall()

    build, _ = timed(index)
    more, _ = timed(add)
    took = median_ms(search)
    connection.close()
    return line(build, more * 1000, took, path.stat().st_size, float("nan"))


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    made = call()
    return time.perf_counter() - start, made


def line(build: float, add: float, search: float, written: int, off: float) -> str:
    """Return the figures as a line of the table."""
    return f"{build:9.1f}{add:9.1f}{search:11.1f}{written / 1e6:7.1f}{off:9.1g}"


if __name__ == "__main__":
    main()

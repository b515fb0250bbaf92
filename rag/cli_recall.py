"""`smallhold store stats --recall`: how much of the exact nearest the search finds, and how fast."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from eval.files import read_bounded
from eval.statistics import estimate, with_width
from indexer.recall import Recall, clustered_share, measure, sample_queries
from rag.build import build_embedder, model_store
from rag.config import Settings
from rag.console import out
from rag.errors import DataError
from rag.index import Index
from rag.protocols import FloatArray

MOST_BYTES = 4_000_000
MOST_QUESTIONS = 10_000


def measure_recall(settings: Settings, sample: int, seed: int, questions: Path | None) -> list[dict[str, Any]]:
    """Return a record, plain values for JSON, for queries made of stored vectors, and one for the questions of a file.

    Raises `DataError` for a file of questions that cannot be used, and what opening an index raises.
    """
    asked_qd, fingerprint = (None, None) if questions is None else _embedded(settings, read_questions(questions))
    with closing(Index.open(settings.index.dir, fingerprint)) as index:
        share = clustered_share(index)
        queries = {f"{sample} stored vectors, perturbed, seed {seed}": sample_queries(index, sample, seed)}
        if asked_qd is not None:
            queries[str(questions)] = asked_qd
        return [
            _record(name, measure(index, queries_qd), share) for name, queries_qd in queries.items() if len(queries_qd)
        ]


def read_questions(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank. Raises `DataError`."""
    try:
        lines = read_bounded(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataError(f"{path} holds no questions", hint="Write one a line.")
    if len(found) > MOST_QUESTIONS:
        raise DataError(f"{path}: more than {MOST_QUESTIONS:,} questions", hint="Give a sample of them.")
    return found


def show_recall(records: Sequence[dict[str, Any]]) -> None:
    """Print a line for each record."""
    from rich.markup import escape

    for record in records:
        low, high = record["interval"]
        out.print(
            f"recall@{record['k']} {record['recall']:.3f} ({low:.3f} to {high:.3f}, 95%), n = {record['n']}, "
            f"{record['p50_ms']:.2f} ms a search (exact: {record['exact_p50_ms']:.2f} ms): {escape(record['queries'])}"
        )
    if records and not records[0]["clustered"]:
        out.print("every segment is small and compared vector by vector: nothing can be missed")


def _record(name: str, found: Recall, clustered: float) -> dict[str, Any]:
    shares_n = np.array(found.shares)
    (mean,) = estimate(shares_n[:, None])
    mean = with_width(mean, shares_n, np.arange(len(shares_n)), (0.0, 1.0))
    assert mean.value is not None and mean.low is not None and mean.high is not None
    return {
        "queries": name,
        "k": found.k,
        "n": mean.n,
        "recall": mean.value,
        "interval": [mean.low, min(1.0, mean.high)],
        "p50_ms": 1000 * found.seconds,
        "exact_p50_ms": 1000 * found.exact_seconds,
        "clustered": clustered,
    }


def _embedded(settings: Settings, questions: Sequence[str]) -> tuple[FloatArray, str]:
    embedder = build_embedder(settings, model_store(settings))
    return embedder.embed(questions), embedder.fingerprint

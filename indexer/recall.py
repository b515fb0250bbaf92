"""What the search by clusters misses of an index: recall against an exact search, and the time of both."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.ivf import perturbed, recall
from rag.index import Index
from rag.ivf import ClusteredVectors
from rag.protocols import FloatArray
from rag.vectors import SegmentedVectors

K = 10
SAMPLE = 200


@dataclass(frozen=True, slots=True)
class Recall:
    """Of each query the share of the exact `k` nearest that was found, and the median seconds of a search."""

    k: int
    shares: list[float]
    seconds: float
    exact_seconds: float


def sample_queries(index: Index, count: int, seed: int) -> FloatArray:
    """Return queries made of so many stored vectors, or of all where there are fewer (`indexer.ivf.perturbed`)."""
    random = np.random.default_rng(seed)
    rows = random.permutation(len(index.vectors))[:count]
    return perturbed(index.vectors.rows(np.sort(rows)), random)


def measure(index: Index, queries_qd: FloatArray, k: int = K) -> Recall:
    """Search for each query in both ways."""
    exact = index.vectors.exact()
    wanted = min(k, len(index.vectors))
    if not wanted:
        return Recall(k, [], 0.0, 0.0)
    shares, took, exact_took = [], [], []
    for query_d in queries_qd:
        scores, seconds = _timed(index.vectors, query_d, wanted)
        best, exact_seconds = _timed(exact, query_d, wanted)
        shares.append(recall(scores, float(best[-1]), wanted))
        took.append(seconds)
        exact_took.append(exact_seconds)
    return Recall(wanted, shares, _median(took), _median(exact_took))


def clustered_share(index: Index) -> float:
    """The share of the rows, deleted ones included, that stand in segments with clusters."""
    segments = index.vectors.segments
    inside = sum(len(segment) for segment in segments if isinstance(segment, ClusteredVectors))
    return inside / max(1, sum(map(len, segments)))


def _timed(vectors: SegmentedVectors, query_d: FloatArray, k: int) -> tuple[FloatArray, float]:
    start = time.perf_counter()
    scores, _ = vectors.search(query_d, k)
    return scores, time.perf_counter() - start


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0

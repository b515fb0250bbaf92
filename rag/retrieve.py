"""From a question to chunks: by meaning, by words, and by both together."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rag.datatypes import ScoredChunk
from rag.filter import EVERYTHING, View
from rag.index import Index
from rag.protocols import BoolArray, Embedder, FloatArray, IntArray

# Where so many of the best say the same that fewer than asked for are left, this much further is looked, twice.
_DEEPER = 4
_DEPTHS = 3


class Ranked(NamedTuple):
    """Rows `(m,)`, best first, with their scores, and those by meaning and by words where they were computed.

    `all` is whether there are no more.
    """

    rows: IntArray
    scores: FloatArray
    dense: FloatArray | None
    lexical: FloatArray | None
    all: bool


class DenseRetriever:
    """Nearest chunks by cosine similarity of embeddings. Always finds something where a view leaves anything."""

    def __init__(self, index: Index, embedder: Embedder) -> None:
        self._index = index
        self._embedder = embedder

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return at most `k` chunks, best first; `score` is the cosine similarity."""
        if k <= 0:
            return []
        allowed_n = self._index.masks.rows(view)
        query_d = self._embedder.embed([question])[0]

        def ranked(count: int) -> Ranked:
            scores, rows = self._index.vectors.search(query_d, count, allowed_n)
            return Ranked(rows, scores, scores, None, len(rows) < count)

        return distinct(self._index, question, k, allowed_n, ranked)


class LexicalRetriever:
    """Chunks that share terms with the question, by BM25. Empty where no term of the question occurs."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return at most `k` chunks, best first; `score` is the BM25 score."""
        allowed_n = self._index.masks.rows(view)
        all_scores = self._index.lexical.scores(question, allowed_n)

        def ranked(count: int) -> Ranked:
            rows = best_rows(all_scores, count)
            return Ranked(rows, all_scores[rows], None, all_scores[rows], len(rows) < count)

        return distinct(self._index, question, k, allowed_n, ranked)


class FusedRetriever:
    """Dense and lexical retrieval together, by a convex combination of their normalized scores.

    The best `candidates` of each are united and each candidate gets both scores exactly, so that none is fused, or
    later judged, on half of the evidence. Normalization is the theoretical min-max of Bruch, Gai and Ingber 2023
    ("An Analysis of Fusion Functions for Hybrid Retrieval"): a cosine is at least -1 and a BM25 score at least 0.
    Candidates come from what a view leaves alone, so that the best score among them is none of something hidden.
    """

    def __init__(self, index: Index, embedder: Embedder, candidates: int = 100, dense_weight: float = 0.75) -> None:
        self._index = index
        self._embedder = embedder
        self._candidates = candidates
        self._dense_weight = dense_weight

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return at most `k` chunks, best first; `score` lies in [0, 1], `dense` and `lexical` are both set."""
        if k <= 0:
            return []
        allowed_n = self._index.masks.rows(view)
        query_d = self._embedder.embed([question])[0]
        all_lexical = self._index.lexical.scores(question, allowed_n)

        def ranked(count: int) -> Ranked:
            _, nearest = self._index.vectors.search(query_d, count, allowed_n)
            rows = np.union1d(nearest, best_rows(all_lexical, count))
            dense, lexical = self._index.vectors.rows(rows) @ query_d, all_lexical[rows]
            fused = combine(dense, lexical, self._dense_weight)
            order = np.lexsort((rows, -fused))
            return Ranked(rows[order], fused[order], dense[order], lexical[order], len(nearest) < count)

        return distinct(self._index, question, k, allowed_n, ranked, max(k, self._candidates))


def distinct(
    index: Index,
    question: str,
    k: int,
    allowed_n: BoolArray | None,
    ranked: Callable[[int], Ranked],
    count: int | None = None,
) -> list[ScoredChunk]:
    """Return the best `k` chunks that say something of their own, each with those that say the same.

    `ranked` returns the best so many rows, or a few more; `count`, by default `k`, is with how many to begin.
    """
    count = count or k
    for _ in range(_DEPTHS):
        found = ranked(count)
        unfolded = index.duplicates.fold(question, found.rows, k, allowed_n)
        if len(unfolded) >= k or found.all:
            break
        count *= _DEEPER
    return [
        ScoredChunk(
            chunk,
            float(found.scores[at]),
            dense=None if found.dense is None else float(found.dense[at]),
            lexical=None if found.lexical is None else float(found.lexical[at]),
            also_in=also_in,
        )
        for at, chunk, also_in in unfolded
    ]


def best_rows(scores_n: FloatArray, k: int) -> IntArray:
    """Return the row numbers of the `k` highest scores above 0, best first; equal scores by row."""
    rows = np.flatnonzero(scores_n > 0)
    if 0 < k < len(rows):
        least = np.partition(scores_n[rows], -k)[-k]
        rows = rows[scores_n[rows] >= least]
    return rows[np.argsort(-scores_n[rows], kind="stable")][: max(k, 0)]


def combine(dense_m: FloatArray, lexical_m: FloatArray, dense_weight: float) -> FloatArray:
    """Return fused scores `(m,)` in [0, 1] of candidates with cosines and BM25 scores. A best score of 0 stays 0."""
    dense = _scaled(dense_m + 1)
    lexical = _scaled(lexical_m)
    return dense_weight * dense + (1 - dense_weight) * lexical


def _scaled(scores_m: FloatArray) -> FloatArray:
    best = float(scores_m.max(initial=0))
    return scores_m / best if best > 0 else np.zeros_like(scores_m)

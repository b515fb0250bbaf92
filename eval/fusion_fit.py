"""How much meaning weighs against words in an index, fitted to questions whose relevant documents are known.

Every question is searched once; the weights are then compared by nDCG@10 over the candidates that the product would
fuse. What a fitted weight gains is measured on questions that did not choose it: in each of `FOLDS` parts, clusters of
questions that share a relevant document kept together, the questions are asked with the weight that is best on the
other parts (cross-validation, Stone 1974). It is taken only where the 95% interval of that gain lies above 0: with a
few questions the best of 21 weights is mostly luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.qaset import Question
from eval.retrieval_metrics import ndcg_at_10
from eval.statistics import SEED, Estimate, Floats, Labels, bootstrap_means, clusters, estimate
from rag.errors import DataError
from rag.index import Index
from rag.protocols import Embedder, FloatArray
from rag.retrieve import best_rows, combine

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
FOLDS = 5
LEAST = 20  # questions; far fewer never tell one weight from another


@dataclass(frozen=True, slots=True)
class Candidates:
    """What would be fused for one question: the documents of m chunks, their cosines and BM25 scores `(m,)`."""

    documents: tuple[str, ...]
    dense: FloatArray
    lexical: FloatArray

    def ranking(self, weight: float) -> dict[str, float]:
        """Return each document with its best chunk's fused score."""
        ranking: dict[str, float] = {}
        for document, score in zip(self.documents, combine(self.dense, self.lexical, weight).tolist(), strict=True):
            ranking[document] = max(score, ranking.get(document, score))
        return ranking


@dataclass(frozen=True, slots=True)
class FusionFit:
    """The best weight on all n questions, and what choosing one gains over the weight of before.

    `by_weight` has the mean nDCG@10 of each of `WEIGHTS`, `cross_validated` and `before` those of the weights that the
    other parts choose and of the weight of before. `unknown` questions were left out: none of their documents is in
    the index.
    """

    weight: float
    old_weight: float
    by_weight: dict[float, float]
    cross_validated: float
    before: float
    gain: Estimate
    unknown: int

    @property
    def pays(self) -> bool:
        """Whether the gain is more than chance."""
        return self.weight != self.old_weight and self.gain.low is not None and self.gain.low > 0


def fit_fusion(
    index: Index, embedder: Embedder, questions: Sequence[Question], *, old_weight: float, count: int
) -> FusionFit:
    """Search an index with questions that name relevant documents, `count` candidates an arm, and choose a weight.

    Raises `DataError` where fewer than `LEAST` questions name a document of the index.
    """
    known = {entry.id for entry in index.documents_by_row()}
    labelled = [question for question in questions if question.relevant]
    usable = [question for question in labelled if known.intersection(question.relevant)]
    if len(usable) < LEAST:
        raise DataError(
            f"{len(usable)} of {len(questions)} questions name a relevant document of the index; {LEAST} are needed",
            hint="`relevant` takes the ids that `smallhold ask --json` shows, such as council/minutes.md.",
        )
    queries_qd = embedder.embed([question.question for question in usable])
    found = [find_candidates(index, q.question, v, count) for q, v in zip(usable, queries_qd, strict=True)]
    weights = sorted({*WEIGHTS, old_weight})
    relevant = [question.relevant for question in usable]
    scores_qw = np.array([ndcg_at_10([c.ranking(weight) for c in found], relevant) for weight in weights]).T
    return choose(scores_qw, weights, clusters(relevant), old_weight, unknown=len(labelled) - len(usable))


def find_candidates(index: Index, question: str, query_d: FloatArray, count: int) -> Candidates:
    """Return the best `count` chunks of each arm together, each with both of its scores."""
    lexical_n = index.lexical.scores(question)
    _, nearest = index.vectors.search(query_d, count)
    rows = np.union1d(nearest, best_rows(lexical_n, count))
    documents = tuple(chunk.document_id for chunk in index.chunks(rows.tolist()))
    return Candidates(documents, index.vectors.rows(rows) @ query_d, lexical_n[rows])


def choose(
    scores_qw: Floats, weights: Sequence[float], groups_q: Labels, old_weight: float, *, unknown: int = 0
) -> FusionFit:
    """Choose among `weights` by the nDCG of each question under each, and say what choosing so gains."""
    old = weights.index(old_weight)
    # Of equally good weights the one nearest to the old.
    nearest = sorted(range(len(weights)), key=lambda w: abs(w - old))

    def best(rows_q: Labels) -> int:
        means_w = scores_qw[rows_q].mean(axis=0)
        return max(nearest, key=lambda w: round(float(means_w[w]), 9))

    folds_q = _folds(groups_q)
    held_out_q = np.empty(len(scores_qw))
    for fold in np.unique(folds_q):
        inside = folds_q == fold
        rest = np.flatnonzero(~inside)
        held_out_q[inside] = scores_qw[inside, best(rest) if len(rest) else old]
    gains_q1 = (held_out_q - scores_qw[:, old])[:, None]
    (gain,) = estimate(gains_q1, bootstrap_means(gains_q1, groups_q))
    means_w = scores_qw.mean(axis=0)
    return FusionFit(
        weight=weights[best(np.arange(len(scores_qw)))],
        old_weight=old_weight,
        by_weight={weight: float(mean) for weight, mean in zip(weights, means_w, strict=True)},
        cross_validated=float(held_out_q.mean()),
        before=float(means_w[old]),
        gain=gain,
        unknown=unknown,
    )


def _folds(groups_q: Labels) -> Labels:
    """Return the part of each question; clusters stay together and go to the parts in a random order, one by one."""
    sizes = np.bincount(groups_q)
    order = np.random.default_rng(SEED).permutation(len(sizes))
    filled, fold_of = np.zeros(FOLDS), np.empty(len(sizes), np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[group] = int(np.argmin(filled))
        filled[fold_of[group]] += sizes[group]
    return fold_of[groups_q]

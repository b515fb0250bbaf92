"""How sure a figure is: percentile bootstrap over questions, and the paired difference of two systems.

Questions are drawn with replacement, each with everything that was scored on it; the metric is computed anew on
every draw (Efron and Tibshirani 1993, chapters 13 and 16). Two systems are compared on the same draws of the
questions that both were asked, which takes the difficulty of the questions out of the difference.

Questions about the same document are not independent: one badly cut document spoils them all. So whole clusters are
drawn (Davison and Hinkley 1997, section 3.8), a cluster being the questions that share a relevant document, directly
or through others. Without shared documents this is the ordinary bootstrap, draw for draw.

The trap: where all scored questions score alike the bootstrap sees no spread. `with_width` gives such an interval the
width that so few questions leave open.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 20_240_229

_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)

# Draws per block: 200 x 5,000 questions take 8 MB.
_BLOCK = 200


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval over `n` scored questions; None where nothing was scored."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def shows_a_difference(self) -> bool:
        """Whether the interval of a difference leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


NOTHING = Estimate(None, None, None, 0)


def clusters(documents: Sequence[Iterable[str]]) -> Labels:
    """Return `(n,)` cluster numbers of n questions, given the relevant documents of each; numbered as they appear.

    Questions are in one cluster where a chain of shared documents joins them; one without documents is alone.
    """
    parent = list(range(len(documents)))
    first: dict[str, int] = {}
    for question, ids in enumerate(documents):
        for id_ in ids:
            other = first.setdefault(id_, question)
            parent[_root(parent, question)] = _root(parent, other)
    return renumbered(np.array([_root(parent, question) for question in range(len(documents))], dtype=np.int64))


def renumbered(labels: Labels) -> Labels:
    """Return the same grouping, its groups numbered 0, 1, ... in the order in which they appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def bootstrap_means(
    scores_nm: Floats, groups_n: Labels | None = None, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Floats:
    """Return `(resamples, m)`: the mean of each column on each draw of the n rows, NaN cells left out.

    `groups_n` are cluster numbers from 0; whole clusters are drawn, by default every row is its own. A column without
    a scored cell in a draw gets NaN there. The same n, groups and seed give the same draws, so that two systems scored
    on the same questions in the same order are resampled together.
    """
    scored_nm = np.isfinite(scores_nm)
    totals_cm = _by_group(np.where(scored_nm, scores_nm, 0.0), groups_n)
    sizes_cm = _by_group(scored_nm.astype(np.float64), groups_n)
    random = np.random.default_rng(seed)
    blocks = []
    for begin in range(0, resamples, _BLOCK):
        counts_bc = _draw_counts(random, min(_BLOCK, resamples - begin), len(totals_cm))
        totals_bm, sizes_bm = counts_bc @ totals_cm, counts_bc @ sizes_cm
        with np.errstate(invalid="ignore", divide="ignore"):
            blocks.append(np.where(sizes_bm > 0, totals_bm / sizes_bm, np.nan))
    return np.concatenate(blocks)


def ratio(numerator_n: Floats, denominator_n: Floats, draws_b2: Floats) -> Estimate:
    """The sum of one column over the sum of another, with interval; `draws_b2` are `bootstrap_means` of both.

    Nothing where the denominator sums to 0. Draws in which it does make the upper bound infinite, told as None.
    """
    total = float(denominator_n.sum())
    if not len(numerator_n) or total <= 0:
        return NOTHING
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(draws_b2[:, 1] > 0, draws_b2[:, 0] / draws_b2[:, 1], np.inf)
    # `inverted_cdf` takes a value that was drawn: interpolating towards infinity gives NaN.
    low, high = np.quantile(ratios, _TAILS, method="inverted_cdf")
    return Estimate(
        float(numerator_n.sum()) / total,
        float(low) if np.isfinite(low) else None,
        float(high) if np.isfinite(high) else None,
        len(numerator_n),
    )


def bootstrap_p(draws_b: Floats) -> float:
    """Two-sided p of "the difference is 0": twice the share of draws on the rarer side of 0, at most 1.

    It is below 0.05 just where the 95% percentile interval leaves 0 out (up to ties), and never 0: one more draw than
    there were is taken to lie at 0 (Davison and Hinkley 1997, section 4.2).
    """
    drawn = draws_b[np.isfinite(draws_b)]
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))


def estimate(scores_nm: Floats, draws_bm: Floats | None = None) -> list[Estimate]:
    """Mean and percentile interval of each column of `(n, m)`; NaN cells are unscored.

    `draws_bm` are `bootstrap_means` of the same scores, where they are at hand already.
    """
    if not len(scores_nm):
        return [NOTHING] * scores_nm.shape[1]
    draws_bm = bootstrap_means(scores_nm) if draws_bm is None else draws_bm
    return [_summarise(column, draws_bm[:, m]) for m, column in enumerate(scores_nm.T)]


def paired_difference(
    a_nm: Floats, b_nm: Floats, a_draws_bm: Floats | None = None, b_draws_bm: Floats | None = None
) -> list[Estimate]:
    """Mean of `b` minus mean of `a` per column, with interval; row i of both is the same question.

    `n` counts the questions on which both or, as with ratios, either was scored.
    """
    if a_nm.shape != b_nm.shape:
        raise ValueError(f"not paired: {a_nm.shape} and {b_nm.shape}")
    if not len(a_nm):
        return [NOTHING] * a_nm.shape[1]
    a_draws_bm = bootstrap_means(a_nm) if a_draws_bm is None else a_draws_bm
    b_draws_bm = bootstrap_means(b_nm) if b_draws_bm is None else b_draws_bm
    draws_bm = b_draws_bm - a_draws_bm
    return [_difference(a_nm[:, m], b_nm[:, m], draws_bm[:, m]) for m in range(a_nm.shape[1])]


def with_width(found: Estimate, scores_n: Floats, groups_n: Labels, span: tuple[float, float]) -> Estimate:
    """Return an estimate whose interval allows for questions unlike those seen, where all of these scored alike.

    Of n clusters that are all alike the share of others is, with 97.5% confidence, at most 1 - 0.025^(1/n) (Clopper and
    Pearson 1934); these may score anything within `span`. Where scores differ the estimate stays as it is.
    """
    scored_n = np.isfinite(scores_n)
    values = np.unique(scores_n[scored_n])
    if len(values) != 1:
        return found
    others = 1 - _TAILS[0] ** (1 / len(np.unique(groups_n[scored_n])))
    value, (lowest, highest) = float(values[0]), span
    return Estimate(found.value, value - others * (value - lowest), value + others * (highest - value), found.n)


def score_matrix(rows: Sequence[Mapping[str, float | None]], names: Sequence[str]) -> Floats:
    """Return `(n, m)`, rows by questions and columns by `names`, NaN for what was not scored."""
    table = [[_number(row.get(name)) for name in names] for row in rows]
    return np.array(table, dtype=np.float64).reshape(len(rows), len(names))


def _by_group(values_nm: Floats, groups_n: Labels | None) -> Floats:
    """Sum the rows of each group."""
    if groups_n is None or not len(groups_n) or int(groups_n.max()) + 1 == len(groups_n):
        return values_nm
    sums_cm = np.zeros((int(groups_n.max()) + 1, values_nm.shape[1]))
    np.add.at(sums_cm, groups_n, values_nm)
    return sums_cm


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _draw_counts(random: np.random.Generator, draws: int, n: int) -> Floats:
    """Return `(draws, n)`: how often each of n questions was drawn in n draws with replacement."""
    picks = random.integers(0, n, size=(draws, n)) + np.arange(draws)[:, None] * n
    return np.bincount(picks.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def _summarise(column_n: Floats, draws_b: Floats) -> Estimate:
    scored = column_n[np.isfinite(column_n)]
    if not len(scored):
        return NOTHING
    return Estimate(float(scored.mean()), *_interval(draws_b), len(scored))


def _difference(a_n: Floats, b_n: Floats, draws_b: Floats) -> Estimate:
    a_scored, b_scored = np.isfinite(a_n), np.isfinite(b_n)
    if not a_scored.any() or not b_scored.any():
        return NOTHING
    value = float(b_n[b_scored].mean() - a_n[a_scored].mean())
    return Estimate(value, *_interval(draws_b), int((a_scored | b_scored).sum()))


def _interval(draws_b: Floats) -> tuple[float, float]:
    # Draws in which nothing was scored say nothing about the metric and are left out.
    low, high = np.quantile(draws_b[np.isfinite(draws_b)], _TAILS)
    return float(low), float(high)


def _number(score: float | None) -> float:
    return float("nan") if score is None else float(score)

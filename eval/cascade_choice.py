"""Which questions a cascade hands on: how a rule is fitted on some questions and applied to others.

A rule puts the questions in an order, likeliest to be worth asking the large model first, and hands on those before a
cut. By `confidence` the least sure answers come first, and nothing is fitted but the cut. By `gain` those come first
where the large model is likelier to be right than the small one, both chances fitted to the confidence (`rag.cascade`);
they are not always the least sure ones, since what the documents do not hold no model finds.

Nothing is claimed on the questions it was chosen on: they are split at random, what is found on one half decides on the
other, and the outcomes are averaged over several such splits, so that no lucky one counts (Chernozhukov et al. 2018).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eval.calibration import signed_logistic
from eval.cascade_pairs import Pairs
from eval.statistics import SEED, Floats, Labels
from rag.cascade import Chance, Gain, log_odds

BoolArray = npt.NDArray[np.bool_]

SPLITS = 20
POLICIES = ("confidence", "gain")

# Scores for questions, higher ones to be handed on first.
Order = Callable[[Floats], Floats]


class Curves(NamedTuple):
    """The chances of the small and of the large model to be right, by the small one's confidence."""

    small: Chance
    large: Chance

    def gain(self, confidence_n: Floats) -> Floats:
        """Return by how much likelier the large one is right."""
        return np.array([self.large.at(c) - self.small.at(c) for c in confidence_n.tolist()])


class Split(NamedTuple):
    """One half of the questions to learn from, `(n,)`, and what was fitted on it; the others are decided on."""

    seen_n: BoolArray
    curves: Curves


class Choice(NamedTuple):
    """Questions handed on, `(n,)`: the share of the splits in which each was, by a rule found without it."""

    policy: str
    handed_n: Floats


def fit_curves(pairs: Pairs, some_n: BoolArray) -> Curves:
    """Fit both chances on some of the questions; neither may fall as the confidence rises."""
    signals_n1 = np.array([[log_odds(c)] for c in pairs.confidence_n[some_n].tolist()])

    def fitted(column: int) -> Chance:
        right_n = pairs.good_n2[some_n, column] >= 0.5
        intercept, (slope,) = signed_logistic(signals_n1, right_n, np.ones(1))
        return Chance(intercept=round(intercept, 6), slope=round(float(slope), 6))

    return Curves(fitted(0), fitted(1))


def make_splits(pairs: Pairs, seed: int = SEED) -> list[Split]:
    """Return both halves of `SPLITS` random splits."""
    return [
        Split(seen_n, fit_curves(pairs, seen_n))
        for first_n in halves(pairs.groups_n, seed=seed)
        for seen_n in (first_n, ~first_n)
    ]


def order(policy: str, curves: Curves) -> Order:
    """Return the order of a policy; only by gain there is something fitted in it."""
    return curves.gain if policy == "gain" else np.negative


def least_cut(scores_n: Floats, small_n: Floats, large_n: Floats, keep: float) -> float:
    """Return the cut, at or above which questions are handed on, that hands on fewest and keeps the share `keep`.

    What is kept is the mean of `small_n` and, where handed on, `large_n` (NaN left out), as a share of the mean of
    `large_n`. The cut lies half-way between two scores; all are handed on where fewer do not do.
    """
    levels = np.unique(scores_n)[::-1]
    wanted = keep * float(np.nanmean(large_n)) - 1e-12
    for place in range(len(levels) + 1):
        cut = _between(levels, place)
        if float(np.nanmean(np.where(scores_n >= cut, large_n, small_n))) >= wanted:
            return cut
    return -np.inf


def cross_fitted(pairs: Pairs, splits: Sequence[Split], policy: str, metric: str, keep: float) -> Choice:
    """Hand on questions by cuts that keep the share `keep` of the large one's score on other questions."""
    small_n, large_n = pairs.scores[metric].T

    def decide(split: Split) -> Floats:
        scores, seen_n = order(policy, split.curves), split.seen_n
        cut = least_cut(scores(pairs.confidence_n[seen_n]), small_n[seen_n], large_n[seen_n], keep)
        return (scores(pairs.confidence_n[~seen_n]) >= cut).astype(np.float64)

    return Choice(policy, _over_splits(splits, decide))


def priced(pairs: Pairs, splits: Sequence[Split], error_price: float) -> Choice:
    """Hand on questions where the gain, fitted on others, is worth more than the mean cost of the large one there."""

    def decide(split: Split) -> Floats:
        gain_n = split.curves.gain(pairs.confidence_n[~split.seen_n])
        return (gain_n * error_price > float(pairs.extra["cost"][split.seen_n].mean())).astype(np.float64)

    return Choice("price", _over_splits(splits, decide))


def cross_fitted_order(pairs: Pairs, splits: Sequence[Split], policy: str) -> Floats:
    """Return the scores of all questions, `(n,)`, each by orders that were fitted without it."""
    return _over_splits(splits, lambda split: order(policy, split.curves)(pairs.confidence_n[~split.seen_n]))


def fit_gain(pairs: Pairs, policy_metric: str, keep: float, *, models: tuple[str, str], fitted_on: str) -> Gain:
    """Return what the query path takes (`rag.cascade`), fitted on all questions."""
    every_n = np.ones(pairs.n, dtype=bool)
    curves = fit_curves(pairs, every_n)
    small_n, large_n = pairs.scores[policy_metric].T
    cut = least_cut(-pairs.confidence_n, small_n, large_n, keep)
    cost = float(pairs.extra["cost"].mean()) if "cost" in pairs.axes else None
    return Gain(
        fitted_on=fitted_on,
        small=models[0],
        large=models[1],
        cost=None if cost is None else float(f"{cost:.6g}"),
        threshold=round(min(1.0, max(0.0, -cut)), 6),
        kept=keep,
        small_right=curves.small,
        large_right=curves.large,
    )


def halves(groups_n: Labels, *, splits: int = SPLITS, seed: int = SEED) -> Iterator[BoolArray]:
    """Yield `splits` times which questions are in the first half, `(n,)`; questions of one cluster stay together."""
    random = np.random.default_rng(seed)
    sizes = np.bincount(groups_n)
    for _ in range(splits):
        drawn = random.permutation(len(sizes))
        # Clusters differ in size: one goes into the first half where most of it lies before the middle.
        first = drawn[np.cumsum(sizes[drawn]) - sizes[drawn] / 2 < len(groups_n) / 2]
        yield np.isin(groups_n, first)


def _over_splits(splits: Sequence[Split], decide: Callable[[Split], Floats]) -> Floats:
    """Return the mean over splits of what is decided on each half by the other; every question is in half of them."""
    total_n = np.zeros(len(splits[0].seen_n))
    for split in splits:
        total_n[~split.seen_n] += decide(split)
    return total_n * 2 / len(splits)


def _between(levels: Floats, place: int) -> float:
    """Return a cut before which `place` of the falling levels lie."""
    if place == 0:
        return np.inf
    if place == len(levels):
        return -np.inf
    return float((levels[place - 1] + levels[place]) / 2)

"""Test which share of wrong answers a threshold keeps on new questions, at a stated confidence.

The share of wrong answers among those given (the selective risk, Geifman and El-Yaniv 2017, arXiv 1705.08500) is a
ratio, and need not fall where fewer answers are given. So "the risk is above the target" is tested threshold by
threshold, as Learn then Test has it (Angelopoulos et al. 2021, arXiv 2110.01052): in an order fixed beforehand, each
with an exact binomial p value, until the first that is not rejected. The chance that any of the thresholds passed
before that does not keep the target is at most that of one test: the first of those that do not keep it, which the
order fixes, would have to be rejected.

All that the tests depend on besides the answers they count comes from other answers, those that the estimate was
fitted to: the thresholds, their order, and the one to begin with. That one is where these answers bound the risk
lowest: the very strictest threshold gives too few answers for any test to reject.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.statistics import Floats
from rag.promise import Rung

CONFIDENCE = 0.95

# Thresholds that answer 5%, 10%, ... of the fitted answers. More would find finer ones, and more places to stop at.
RUNGS = 20

_SCALE = 1e6  # thresholds and bounds have six digits in the file


class Judged(NamedTuple):
    """Answers: `(n,)` how sure each is, and whether it is wrong, 1 or 0."""

    confidence_n: Floats
    wrong_n: Floats

    def given(self, thresholds: Sequence[float]) -> tuple[Floats, Floats]:
        """Return how many of the answers that reach each threshold are wrong, and how many reach it."""
        reach_tn = self.confidence_n[None, :] >= np.array(thresholds)[:, None]
        return (reach_tn * self.wrong_n).sum(axis=1), reach_tn.sum(axis=1).astype(np.float64)


def p_value(wrong: int, answered: int, risk: float) -> float:
    """Return the chance of at most `wrong` of `answered` where each is wrong with probability `risk`.

    A risk above that makes it smaller still, so it is a p value of "the risk is above `risk`".
    """
    from scipy.stats import binom

    return float(binom.cdf(wrong, answered, risk))


def upper_bounds(wrong_n: Floats, answered_n: Floats, confidence: float = CONFIDENCE) -> Floats:
    """Return the least risks whose p values are at most 1 - `confidence` (Clopper and Pearson 1934, one-sided)."""
    from scipy.special import betaincinv

    right_n = answered_n - wrong_n
    bounds_n: Floats = np.where(right_n > 0, betaincinv(wrong_n + 1, np.maximum(right_n, 1), confidence), 1.0)
    return bounds_n


def upper_bound(wrong: int, answered: int, confidence: float = CONFIDENCE) -> float:
    """Return one of `upper_bounds`."""
    return float(upper_bounds(np.array([float(wrong)]), np.array([float(answered)]), confidence)[0])


def lower_bound(wrong: int, answered: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest risk that so many wrong answers speak for with this confidence, one-sided."""
    return 1 - upper_bound(answered - wrong, answered, confidence) if answered else 0.0


def ladder(seen: Judged, unseen: Judged, confidence: float = CONFIDENCE) -> tuple[Rung, ...]:
    """Return the thresholds in the order of testing, with the counts of the `unseen` answers.

    `seen` are the answers that the estimate was fitted to: thresholds, order and beginning come from them alone.
    """
    thresholds = _thresholds(seen.confidence_n)
    start = int(upper_bounds(*seen.given(thresholds), confidence).argmin())
    tested = thresholds[start:]
    wrong_t, answered_t = unseen.given(tested)
    # Rounded up in the file, never down.
    bounds_t = np.minimum(1.0, np.ceil(upper_bounds(wrong_t, answered_t, confidence) * _SCALE) / _SCALE)
    return tuple(
        Rung(threshold=threshold, answered=int(answered), wrong=int(wrong), bound=float(bound))
        for threshold, answered, wrong, bound in zip(tested, answered_t, wrong_t, bounds_t, strict=True)
    )


def fewest_answers(risk: float, confidence: float = CONFIDENCE) -> int:
    """Return how many answers without a mistake it takes to promise a risk."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - risk))


def _thresholds(confidence_n: Floats) -> list[float]:
    """Return thresholds that give more and more of the answers, at last all."""
    ordered = np.sort(confidence_n)[::-1]
    places = [math.ceil(len(ordered) * rung / RUNGS) - 1 for rung in range(1, RUNGS)]
    return sorted({math.floor(float(ordered[place]) * _SCALE) / _SCALE for place in places} | {0.0}, reverse=True)

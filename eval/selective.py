"""Answering only when sure: risk against coverage, and intervals of shares and quantiles."""

import math
from typing import NamedTuple

import numpy as np

from eval.statistics import LEVEL, SEED, Floats

RESAMPLES = 1_000
MOST_POINTS = 200


class RiskCoverage(NamedTuple):
    """The share of wrong answers among the surest ones, as more are given.

    `points` are (coverage, risk), coverage over all `asked` questions; `area` is the mean of the risk over the
    coverage reached, with its 95% interval: 0 is best, and a confidence that tells nothing gives `risk`, that of all
    `n` answers.
    """

    points: tuple[tuple[float, float], ...]
    area: float
    low: float
    high: float
    risk: float
    n: int
    asked: int


def risk_coverage(confidence_n: Floats, wrong_n: Floats, asked: int) -> RiskCoverage | None:
    """Return the curve (El-Yaniv and Wiener 2010) and its area (Geifman et al. 2019); None without answers.

    Answers of equal confidence come in no order: each counts with their mean.
    """
    n = len(confidence_n)
    if not n:
        return None
    order = np.argsort(-confidence_n, kind="stable")
    wrong, ties = wrong_n[order], np.unique(-confidence_n[order], return_inverse=True)[1]
    risks = _risks(wrong, ties)
    random = np.random.default_rng(SEED)
    draws = [_risks(wrong[picks], ties[picks]).mean() for picks in _draws(random, n)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    shown = np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).round().astype(int))
    points = tuple((float(k + 1) / asked, float(risks[k])) for k in shown)
    return RiskCoverage(points, float(risks.mean()), float(low), float(high), float(wrong.mean()), n, asked)


def share_interval(right: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927), which has a width where all score alike, as few often do."""
    from scipy.stats import norm

    z2 = float(norm.ppf((1 + LEVEL) / 2)) ** 2
    share = right / n
    middle, half = share + z2 / (2 * n), math.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n**2))
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


def quantile_interval(values: Floats, quantile: float) -> tuple[float | None, float | None]:
    """Return the 95% interval of a quantile from the order of the values alone; None where they are too few for it.

    The bounds are the values whose ranks hold the quantile with that probability (Hahn and Meeker 1991, section 5.2).
    """
    from scipy.stats import binom

    ordered, n = np.sort(values), len(values)
    if not n:
        return None, None
    tail = (1 - LEVEL) / 2
    low, high = int(binom.ppf(tail, n, quantile)), int(binom.ppf(1 - tail, n, quantile)) + 1
    return (float(ordered[low - 1]) if low >= 1 else None), (float(ordered[high - 1]) if high <= n else None)


def _draws(random: np.random.Generator, n: int) -> "list[np.ndarray[tuple[int], np.dtype[np.int64]]]":
    return [np.sort(random.integers(0, n, size=n)) for _ in range(RESAMPLES)]


def _risks(wrong_n: Floats, ties_n: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Floats:
    """Return the risk after each answer, surest first; ties are numbered in that order."""
    sizes = np.bincount(ties_n)
    means = np.bincount(ties_n, weights=wrong_n) / np.maximum(sizes, 1)
    evened = means[ties_n]
    return np.cumsum(evened) / np.arange(1, len(evened) + 1)

"""What a number of questions can show: the smallest difference found four times of five, and how many would be needed.

Two-sided at 5%, power 80%. For scores of 0 and 1 the variance comes from the share of questions on which the systems
differ (Miettinen 1968, Connor 1987), for others from the standard deviation of the differences per question. Shared
documents make questions worth less than they count: their number is divided by the design effect (Kish 1965).

The formula is that of the test without correction; the exact one, which the report uses, is a little more cautious and
reaches 75% to 79% where this says 80%. It needs six clusters that differ, and fewer are never said to show anything.

The trap: these figures rest on the variance seen in this very run. They say how to plan the next one; they are no
second opinion on a difference that this one did or did not show.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eval.paired import ALPHA, discordant
from eval.statistics import Floats, Labels

POWER = 0.8

# With fewer clusters that differ no exact test comes below ALPHA, however they differ: 2 x (1/2)^5 is 0.06.
FEWEST = math.floor(math.log2(2 / ALPHA)) + 1

_Z_ALPHA = NormalDist().inv_cdf(1 - ALPHA / 2)
_Z_POWER = NormalDist().inv_cdf(POWER)


class Power(NamedTuple):
    """What `n` paired questions can show in one metric, given how the two systems differ on them.

    `spread` is the share of discordant questions (`binary`) or the standard deviation of the differences.
    `smallest_difference` is None where even differences in one direction alone would be too few to show,
    `questions_needed` (in all, to show the `observed` difference) where none was observed.
    """

    n: int
    binary: bool
    observed: float
    spread: float
    design_effect: float
    smallest_difference: float | None
    questions_needed: int | None

    @property
    def more_needed(self) -> int | None:
        """How many questions more than there were; 0 where there were enough."""
        return None if self.questions_needed is None else max(0, self.questions_needed - self.n)


def paired_power(a_n: Floats, b_n: Floats, groups_n: Labels | None = None) -> Power | None:
    """Return what the questions scored for both can show; None where there are fewer than two of them."""
    both = np.isfinite(a_n) & np.isfinite(b_n)
    a, b = a_n[both], b_n[both]
    n = len(a)
    if n < 2:
        return None
    differences = b - a
    observed = float(differences.mean())
    groups = groups_n[both] if groups_n is not None else np.arange(n)
    effect, clusters = design_effect(differences, groups), len(np.unique(groups))
    if bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all()):
        rate = sum(discordant(a, b)) / n
        smallest, needed = smallest_binary(n / effect, rate), needed_binary(rate, observed)
        smallest = smallest if clusters * rate >= FEWEST else None
        return Power(n, True, observed, rate, effect, smallest, _inflated(needed, effect, rate * clusters / n))
    spread = float(differences.std(ddof=1))
    smallest = smallest_continuous(n / effect, spread) if spread and clusters >= FEWEST else None
    needed = needed_continuous(spread, observed)
    return Power(n, False, observed, spread, effect, smallest, _inflated(needed, effect, clusters / n))


def smallest_continuous(n: float, spread: float) -> float:
    """Return the smallest mean difference that n questions show: (z_0.975 + z_0.8) x standard deviation / sqrt(n)."""
    return (_Z_ALPHA + _Z_POWER) * spread / math.sqrt(n)


def needed_continuous(spread: float, difference: float) -> float | None:
    """Return how many questions show a mean difference; None for a difference of 0."""
    return None if difference == 0 else ((_Z_ALPHA + _Z_POWER) * spread / difference) ** 2


def needed_binary(rate: float, difference: float) -> float | None:
    """Return how many questions show a difference of shares, where the systems differ on a share `rate` of them.

    n = (z_0.975 sqrt(rate) + z_0.8 sqrt(rate - difference^2))^2 / difference^2 (Connor 1987).
    """
    if difference == 0 or rate <= 0:
        return None
    spread = math.sqrt(max(0.0, rate - difference**2))
    return ((_Z_ALPHA * math.sqrt(rate) + _Z_POWER * spread) / difference) ** 2


def smallest_binary(n: float, rate: float) -> float | None:
    """Return the smallest difference of shares that n questions show: Connor's formula solved for the difference.

    None where the difference, which cannot exceed `rate`, would have to.
    """
    largest = needed_binary(rate, rate)
    if largest is None or largest > n:
        return None
    from scipy.optimize import brentq

    return float(brentq(lambda difference: (needed_binary(rate, difference) or 0.0) - n, 1e-9, rate))


def design_effect(values_n: Floats, groups_n: Labels) -> float:
    """Return how many times larger clusters make the variance of the mean, at least 1 (Kish 1965).

    The variance with clusters is that of the sums of deviations over clusters, the one without that of the deviations.
    """
    deviations = values_n - values_n.mean()
    alone = float((deviations**2).sum())
    if alone == 0:
        return 1.0
    sums = np.bincount(groups_n, weights=deviations)
    return max(1.0, float((sums**2).sum()) / alone)


def _inflated(needed: float | None, effect: float, differing: float) -> int | None:
    """Return the questions for clusters; `differing` is how many clusters differ for each question asked."""
    return None if needed is None else math.ceil(max(needed * effect, FEWEST / differing))

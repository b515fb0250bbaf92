"""Two systems on the same questions: how much one is ahead, and how likely chance alone makes that of it.

Right or wrong is compared by McNemar's exact test (McNemar 1947): only the questions on which the systems differ say
anything, and under "no difference" either is as likely to be the one that is right. Where questions share documents,
whole clusters change sides: the same test, its coins as heavy as the lead within a cluster (a randomisation test;
Edgington 1980). Other scores are compared on bootstrap draws. Several comparisons are corrected after Holm (1979),
which holds whatever depends on what.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eval.statistics import Estimate, Floats, Labels, bootstrap_p

ALPHA = 0.05
MOST_EXACT = 5_000


class Difference(NamedTuple):
    """System `b` minus system `a` in one metric. `p` is None where nothing was scored for both.

    `discordant` counts the questions that `a` alone and that `b` alone got right; None for scores other than 0 and 1.
    """

    metric: str
    a: str
    b: str
    figure: Estimate
    p: float | None
    discordant: tuple[int, int] | None
    p_holm: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the difference stands after the correction for several systems."""
        p = self.p if self.p_holm is None else self.p_holm
        return p is not None and p < ALPHA


def compare_scores(
    a_n: Floats, b_n: Floats, draws_b: Floats, groups_n: Labels | None = None
) -> tuple[float | None, tuple[int, int] | None]:
    """Return the two-sided p of "no difference" and, where the scores are 0 and 1, the discordant counts.

    `draws_b` are bootstrap draws of the difference of the means, `groups_n` the clusters of the questions. McNemar's
    test wants every question scored for both or neither; ratios such as abstention precision, over other questions for
    each system, are left to the bootstrap.
    """
    a_scored, b_scored = np.isfinite(a_n), np.isfinite(b_n)
    if not a_scored.any() or not b_scored.any():
        return None, None
    if np.array_equal(a_scored, b_scored) and _binary(a_n[a_scored]) and _binary(b_n[b_scored]):
        counts = discordant(a_n[a_scored], b_n[b_scored])
        p = mcnemar_p(*counts) if groups_n is None else clustered_p((b_n - a_n)[a_scored], groups_n[a_scored])
        return p, counts
    return bootstrap_p(draws_b), None


def discordant(a_n: Floats, b_n: Floats) -> tuple[int, int]:
    """Count the questions that only `a`, and that only `b`, got right."""
    return int(((a_n == 1) & (b_n == 0)).sum()), int(((a_n == 0) & (b_n == 1)).sum())


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test: binomial over the discordant questions; 1 where there are none."""
    if not only_a + only_b:
        return 1.0
    from statsmodels.stats.contingency_tables import mcnemar

    return float(min(1.0, mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue))


def clustered_p(differences_n: Floats, groups_n: Labels) -> float:
    """Exact two-sided p of "no difference" for differences of -1, 0 and 1 whose clusters change sides as a whole.

    It is that of McNemar's test where no two discordant questions share a cluster. Beyond `MOST_EXACT` discordant
    questions the normal distribution takes the place of the exact one.
    """
    leads = np.abs(np.bincount(groups_n, weights=differences_n)).round().astype(np.int64)
    differing = groups_n[differences_n != 0]
    if len(np.unique(differing)) == len(differing):
        return mcnemar_p(int((differences_n < 0).sum()), int((differences_n > 0).sum()))
    leads = leads[leads > 0]
    total, observed = int(leads.sum()), abs(round(float(differences_n.sum())))
    if not total:
        return 1.0
    if total > MOST_EXACT:
        return 2 * NormalDist().cdf(-observed / float(np.sqrt((leads.astype(np.float64) ** 2).sum())))
    # chances[total + t] is the chance that the heavy coins add up to t.
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for lead in leads.tolist():
        chances = (np.roll(chances, lead) + np.roll(chances, -lead)) / 2
    sums = np.abs(np.arange(-total, total + 1))
    return min(1.0, float(chances[sums >= observed].sum()))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return the p values corrected for how many there are (Holm 1979); what is None stays so and does not count."""
    known = [p for p in ps if p is not None]
    if len(known) < 2:  # nothing to correct for; statsmodels collects garbage on every call, 0.1 s each
        return list(ps)
    from statsmodels.stats.multitest import multipletests

    corrected = iter(multipletests(known, alpha=ALPHA, method="holm")[1])
    return [None if p is None else float(next(corrected)) for p in ps]


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences with `p_holm` filled in: corrected within each metric over the pairs of systems."""
    by_metric: dict[str, list[int]] = {}
    for place, difference in enumerate(differences):
        by_metric.setdefault(difference.metric, []).append(place)
    done = list(differences)
    for places in by_metric.values():
        for place, p in zip(places, holm([differences[place].p for place in places]), strict=True):
            done[place] = differences[place]._replace(p_holm=p)
    return done


def _binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())

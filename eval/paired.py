"""Two systems on the same questions: how much one is ahead, and how likely chance alone makes that of it.

Right or wrong is compared by McNemar's exact test (McNemar 1947): only the questions on which the systems differ say
anything, and under "no difference" either is as likely to be the one that is right. Other scores are compared by the
same thought (Fisher 1935; Edgington 1980): each difference may as well have the other sign. Where questions share
documents, whole clusters change sides. Unlike a p value from bootstrap draws this holds for few questions too: four
questions in favour have a p of 1/8, however large the differences. Only where the systems were scored on different
questions, as in ratios, nothing pairs up, and the bootstrap draws decide. Several comparisons are corrected after Holm
(1979), which holds whatever depends on what.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from eval.statistics import RESAMPLES, SEED, Estimate, Floats, Labels, bootstrap_p

ALPHA = 0.05
MOST_EXACT = 5_000
_BLOCK = 500


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


class Verdict(NamedTuple):
    """The two-sided p of "no difference", and the discordant counts where the scores are 0 and 1."""

    p: float | None
    discordant: tuple[int, int] | None = None


def compare_scores(a_nm: Floats, b_nm: Floats, draws_bm: Floats, groups_n: Labels) -> list[Verdict]:
    """Test "no difference" in each column of the scores of two systems, row i of both the same question.

    `draws_bm` are bootstrap draws of the differences of the means, `groups_n` `(n,)` the clusters of the questions.
    A column without a scored cell for either system has no p.
    """
    a_scored, b_scored = np.isfinite(a_nm), np.isfinite(b_nm)
    differences_nm = np.where(a_scored & b_scored, b_nm - a_nm, 0.0)
    ps_m = randomised_ps(differences_nm, groups_n)
    verdicts = []
    for m in range(a_nm.shape[1]):
        a_in, b_in = a_scored[:, m], b_scored[:, m]
        if not a_in.any() or not b_in.any():
            verdicts.append(Verdict(None))
        elif not np.array_equal(a_in, b_in):
            verdicts.append(Verdict(bootstrap_p(draws_bm[:, m])))
        elif _binary(a_nm[a_in, m]) and _binary(b_nm[a_in, m]):
            counts = discordant(a_nm[a_in, m], b_nm[a_in, m])
            verdicts.append(Verdict(clustered_p(differences_nm[:, m], groups_n), counts))
        else:
            verdicts.append(Verdict(float(ps_m[m])))
    return verdicts


def randomised_ps(differences_nm: Floats, groups_n: Labels, *, seed: int = SEED) -> Floats:
    """Return `(m,)` two-sided p of "the mean difference is 0" per column, when clusters change sides as a whole.

    The share of all ways to change sides in which the sum is as far from 0 as it was; of `RESAMPLES` random ways,
    itself one more, where there are more than that.
    """
    if not len(differences_nm):
        return np.ones(differences_nm.shape[1])
    sums_cm = np.zeros((int(groups_n.max()) + 1, differences_nm.shape[1]))
    np.add.at(sums_cm, groups_n, differences_nm)
    # Rounding must not make a way that is as far from 0 seem nearer.
    wanted_m = np.abs(sums_cm.sum(axis=0)) * (1 - 1e-9)
    clusters = len(sums_cm)
    if 2**clusters <= RESAMPLES:
        ways = (np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1
        return np.asarray((np.abs((2 * ways - 1) @ sums_cm) >= wanted_m).mean(axis=0))
    random = np.random.default_rng(seed)
    reached_m = np.zeros(differences_nm.shape[1])
    for begin in range(0, RESAMPLES, _BLOCK):
        sides = random.integers(0, 2, size=(min(_BLOCK, RESAMPLES - begin), clusters), dtype=np.int8)
        reached_m += (np.abs((2.0 * sides - 1) @ sums_cm) >= wanted_m).sum(axis=0)
    return np.asarray((reached_m + 1) / (RESAMPLES + 1))


def discordant(a_n: Floats, b_n: Floats) -> tuple[int, int]:
    """Count the questions that only `a`, and that only `b`, got right."""
    return int(((a_n == 1) & (b_n == 0)).sum()), int(((a_n == 0) & (b_n == 1)).sum())


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test: binomial over the discordant questions; 1 where there are none."""
    if not only_a + only_b:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)


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
    # Not statsmodels' multipletests: it collects garbage on every call, 0.1 s each and more beside other objects.
    known = np.array([p for p in ps if p is not None], dtype=np.float64)
    order = np.argsort(known)
    raised = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
    known[order] = np.minimum(raised, 1.0)
    corrected = iter(known.tolist())
    return [None if p is None else next(corrected) for p in ps]


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

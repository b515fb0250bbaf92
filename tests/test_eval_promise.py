"""Exact tests worked by hand, and simulations: the promise holds as often as it says."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from eval.promise import RUNGS, Judged, fewest_answers, ladder, lower_bound, p_value, upper_bound, upper_bounds
from eval.statistics import Floats
from rag.promise import Promise

REPETITIONS = 400
# 95% and three standard errors of a share over so many repetitions.
MOST_BROKEN = 0.05 + 3 * (0.05 * 0.95 / REPETITIONS) ** 0.5


@pytest.mark.parametrize(
    ("wrong", "answered", "risk", "p"),
    [
        (0, 1, 0.2, 0.8),
        (0, 14, 0.2, 0.8**14),  # 0.044: the fewest answers that can show a risk of 20%
        (0, 13, 0.2, 0.8**13),  # 0.055: too few
        (1, 10, 0.5, 11 / 1024),  # none of ten, or one: 1 + 10 of the 2^10 ways
        (2, 4, 0.5, 11 / 16),  # 1 + 4 + 6 of 16
        (3, 3, 0.5, 1.0),
        (0, 0, 0.2, 1.0),
    ],
)
def test_p_values_by_hand(wrong: int, answered: int, risk: float, p: float) -> None:
    assert p_value(wrong, answered, risk) == pytest.approx(p)


def test_bounds_by_hand() -> None:
    # Without a wrong answer the bound is where (1 - risk)^n = 0.05.
    assert upper_bound(0, 14) == pytest.approx(1 - 0.05 ** (1 / 14))
    assert upper_bound(10, 10) == upper_bound(0, 0) == 1.0
    # All wrong: the lower bound is where risk^n = 0.05.
    assert lower_bound(3, 3) == pytest.approx(0.05 ** (1 / 3))
    assert lower_bound(0, 9) == lower_bound(0, 0) == 0.0
    # Term by term: at the bound for 5 of 50, 0 to 5 wrong ones together have a chance of 5%.
    bound = upper_bound(5, 50)
    assert sum(math.comb(50, k) * bound**k * (1 - bound) ** (50 - k) for k in range(6)) == pytest.approx(0.05)


def test_a_bound_is_where_the_p_value_is_five_per_cent() -> None:
    for wrong, answered in ((0, 20), (3, 40), (17, 60)):
        assert p_value(wrong, answered, upper_bound(wrong, answered)) == pytest.approx(0.05)


def test_the_fewest_answers_that_can_show_a_risk() -> None:
    assert [fewest_answers(risk) for risk in (0.2, 0.1, 0.05, 0.01)] == [14, 29, 59, 299]


def test_the_ladder_depends_on_the_tested_answers_by_their_counts_alone() -> None:
    draw = np.random.default_rng(0)
    seen = Judged(draw.random(200), (draw.random(200) < 0.2).astype(float))
    sure, wrong = draw.random(200), (draw.random(200) < 0.2).astype(float)
    rungs, flipped = (ladder(seen, Judged(sure, labels)) for labels in (wrong, 1 - wrong))
    assert [(r.threshold, r.answered) for r in rungs] == [(r.threshold, r.answered) for r in flipped]
    assert [r.answered - r.wrong for r in rungs] == [r.wrong for r in flipped]
    assert rungs[-1].threshold == 0.0
    assert rungs[-1].answered == 200
    assert len(rungs) <= RUNGS
    assert all(r.bound >= upper_bound(r.wrong, r.answered) for r in rungs)  # rounded up, never down


def test_it_begins_where_the_fitted_answers_bound_the_risk_lowest() -> None:
    # Surest first: 40 right, then 60 wrong. The strictest threshold answers 5 and shows next to nothing.
    sure = np.linspace(1, 0.01, 100)
    rungs = ladder(Judged(sure, np.repeat([0.0, 1.0], [40, 60])), Judged(sure, np.repeat([0.0, 1.0], [40, 60])))
    assert (rungs[0].answered, rungs[0].wrong) == (40, 0)
    assert rungs[0].bound == pytest.approx(upper_bound(0, 40), abs=1e-6)


def test_few_answers_alike_make_one_threshold() -> None:
    rungs = ladder(Judged(np.full(6, 0.5), np.zeros(6)), Judged(np.full(4, 0.4), np.zeros(4)))
    assert [(r.threshold, r.answered) for r in rungs] == [(0.5, 0), (0.0, 4)]
    assert Promise(confidence=0.95, questions=4, rungs=rungs).rung(0.9) is None  # the first answers none: no evidence


Wrongness = Callable[[Floats], Floats]

# Chance of being wrong by how sure a system is, which is uniform. Only the first is what one hopes for.
SCORERS: dict[str, Wrongness] = {
    "better where surer": lambda s: 0.6 * (1 - s),
    "overconfident at the top, the risk falls and rises": lambda s: np.where(
        s > 0.85, 0.45, np.where(s > 0.4, 0.05, 0.7)
    ),
    "waves": lambda s: 0.2 + 0.15 * np.sin(25 * s),
    "just beyond the target": lambda s: np.full_like(s, 0.2001),
}


def simulated(wrongness: Wrongness, n: int, risk: float, repetitions: int = REPETITIONS) -> tuple[float, float]:
    """Return the share of calibrations that promised the risk and did not keep it, and that promised it at all."""
    grid = np.linspace(0, 1, 10_001)
    # The risk of all that is at least so sure: the mean of the chances from there on.
    true_risk = np.cumsum(wrongness(grid)[::-1])[::-1] / np.arange(len(grid), 0, -1)
    draw, broken, promised = np.random.default_rng(11), 0, 0
    for _ in range(repetitions):
        halves = []
        for _ in range(2):
            sure = draw.random(n)
            halves.append(Judged(sure, (draw.random(n) < wrongness(sure)).astype(float)))
        rung = Promise(confidence=0.95, questions=n, rungs=ladder(*halves)).rung(risk)
        if rung is not None:
            promised += 1
            broken += bool(true_risk[int(np.ceil(rung.threshold * 10_000))] > risk)
    return broken / repetitions, promised / repetitions


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize(("n", "risk"), [(60, 0.2), (200, 0.2), (200, 0.3)])
def test_the_promise_is_broken_no_more_often_than_it_says(name: str, n: int, risk: float) -> None:
    broken, _ = simulated(SCORERS[name], n, risk)
    assert broken <= MOST_BROKEN


def test_taking_the_best_looking_threshold_instead_would_break_it() -> None:
    """The same simulation can fail: without a fixed order the promise does not hold."""
    draw, broken = np.random.default_rng(3), 0
    for _ in range(REPETITIONS):
        answers = Judged(draw.random(200), (draw.random(200) < 0.2001).astype(float))
        broken += bool(upper_bounds(*answers.given(np.linspace(0, 0.9, 40).tolist())).min() <= 0.2)
    assert broken / REPETITIONS > MOST_BROKEN


def test_what_can_be_promised_mostly_is() -> None:
    _, promised = simulated(SCORERS["better where surer"], 300, 0.2, 100)
    assert promised > 0.7
    _, promised = simulated(SCORERS["overconfident at the top, the risk falls and rises"], 300, 0.3, 100)
    assert promised > 0.7


def test_a_hopeless_scorer_can_promise_nothing() -> None:
    assert simulated(lambda s: np.full_like(s, 0.4), 300, 0.2) == (0.0, 0.0)

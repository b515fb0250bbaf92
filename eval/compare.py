"""Two runs against each other: paired differences over the questions that both asked in the same words."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.measurements import (
    COLUMNS,
    COST,
    MEMORISED,
    SCORES,
    SECONDS,
    Measured,
    Measurements,
    Places,
    measure,
    score_differences,
)
from eval.paired import Difference, compare_scores, corrected
from eval.power import Power, paired_power
from eval.statistics import Estimate, Labels, bootstrap_means, estimate, renumbered
from rag.errors import DataError

_LESS_IS_BETTER = frozenset({COST, SECONDS, MEMORISED})


class Comparison(NamedTuple):
    """One metric of a system of run A and one of run B; `test` is B minus A over the `questions` in common.

    `power` says what so many questions can show; None where it cannot be told.
    """

    system_a: str
    system_b: str
    metric: str
    questions: int
    a: Estimate
    b: Estimate
    test: Difference
    power: Power | None

    @property
    def difference(self) -> Estimate:
        """B minus A with its interval."""
        return self.test.figure

    @property
    def worse(self) -> bool:
        """Whether B is worse than A beyond chance, after the correction for several systems."""
        change = self.difference.value
        if change is None or not self.test.significant:
            return False
        return change > 0 if self.metric in _LESS_IS_BETTER else change < 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "system_a": self.system_a,
            "system_b": self.system_b,
            "metric": self.metric,
            "questions": self.questions,
            "a": self.a.value,
            "b": self.b.value,
            "difference": {
                "value": self.difference.value,
                "low": self.difference.low,
                "high": self.difference.high,
                "n": self.difference.n,
            },
            "p": self.test.p,
            "p_holm": self.test.p_holm,
            "discordant": None if self.test.discordant is None else list(self.test.discordant),
            "smallest_difference": self.power.smallest_difference if self.power else None,
            "questions_needed": self.power.questions_needed if self.power else None,
            "more_needed": self.power.more_needed if self.power else None,
        }


def compare_runs(out_a: Path, out_b: Path, metrics: tuple[str, ...]) -> list[Comparison]:
    """Compare the systems of the same name in two runs, or the only system of each.

    What neither was scored in is left out.
    Raises `DataError` where a folder holds no run, or they have no system or no question in common.
    """
    for metric in metrics:
        if metric not in COLUMNS:
            raise DataError(f"there is no metric {metric!r}", hint=f"There are {', '.join(COLUMNS)}.")
    a, b = measure(out_a), measure(out_b)
    places_a, places_b = _common_questions(a, b)
    if not len(places_a):
        raise DataError(f"{out_a} and {out_b} have no question in common")
    comparisons = [
        comparison
        for name_a, name_b in _pairs(a, b)
        for comparison in _compare(a.systems[name_a], b.systems[name_b], places_a, places_b, metrics)
    ]
    tests = corrected([comparison.test for comparison in comparisons])
    return [comparison._replace(test=test) for comparison, test in zip(comparisons, tests, strict=True)]


def worsened(baseline: Path, out: Path) -> list[str]:
    """Return a sentence for every metric in which a system of `out` is worse than in `baseline`, beyond chance.

    Cost and seconds are no part of it: another machine or a busy one would fail every check. Raises as `compare_runs`.
    """
    metrics = tuple(metric for metric in scored_metrics(baseline) if metric not in (COST, SECONDS))
    return [_says_worse(found, baseline) for found in compare_runs(baseline, out, metrics) if found.worse]


def _says_worse(found: Comparison, baseline: Path) -> str:
    p = found.test.p if found.test.p_holm is None else found.test.p_holm
    return (
        f"{found.system_b}: {found.metric} is {found.b.value:.3f}, worse than the {found.a.value:.3f} of {baseline} by "
        f"{abs(found.difference.value or 0.0):.3f} (95% interval {found.difference.low:+.3f} to "
        f"{found.difference.high:+.3f}, p = {p:.2g}, {found.difference.n:,} questions)"
    )


def scored_metrics(out: Path) -> tuple[str, ...]:
    """Return the metrics that some system of a run was scored in."""
    measured = measure(out)
    values = np.concatenate([s.values[:, : len(SCORES)] for s in measured.systems.values()] or [np.empty((0, 0))])
    if not values.size:
        return ()
    return tuple(metric for m, metric in enumerate(SCORES) if np.isfinite(values[:, m]).any())


def _common_questions(a: Measured, b: Measured) -> tuple[Places, Places]:
    """Return the places in both runs of the questions that are the same, word for word, gold answers included."""
    in_b = {item: place for place, item in enumerate(b.run.questions.items())}
    pairs = [(place, in_b[item]) for place, item in enumerate(a.run.questions.items()) if item in in_b]
    table = np.array(pairs, dtype=np.int64).reshape(len(pairs), 2)
    return table[:, 0], table[:, 1]


def _pairs(a: Measured, b: Measured) -> list[tuple[str, str]]:
    names = [(name, name) for name in a.systems if name in b.systems]
    if names:
        return names
    if len(a.systems) == len(b.systems) == 1:
        return [(next(iter(a.systems)), next(iter(b.systems)))]
    raise DataError(
        f"the runs have no system in common: {', '.join(a.systems)} and {', '.join(b.systems)}",
        hint="Only runs of one system each are compared under different names.",
    )


def _compare(
    a: Measurements, b: Measurements, places_a: Places, places_b: Places, metrics: tuple[str, ...]
) -> list[Comparison]:
    both = np.isin(places_a, a.places) & np.isin(places_b, b.places)
    columns = [COLUMNS.index(metric) for metric in metrics]
    values_a, values_b = a.at(places_a[both])[:, columns], b.at(places_b[both])[:, columns]
    groups: Labels = renumbered(a.groups[places_a[both]])
    if not len(groups):
        return []
    draws_a, draws_b = bootstrap_means(values_a, groups), bootstrap_means(values_b, groups)
    figures_a, figures_b = estimate(values_a, draws_a), estimate(values_b, draws_b)
    changes = score_differences(metrics, values_a, values_b, (draws_a, draws_b), groups)
    verdicts = compare_scores(values_a, values_b, draws_b - draws_a, groups)
    return [
        Comparison(
            a.name,
            b.name,
            metric,
            int(both.sum()),
            figures_a[m],
            figures_b[m],
            Difference(metric, a.name, b.name, changes[m], *verdicts[m]),
            paired_power(values_a[:, m], values_b[:, m], groups),
        )
        for m, metric in enumerate(metrics)
        if figures_a[m].n or figures_b[m].n
    ]

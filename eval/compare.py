"""Two runs against each other: paired differences over the questions that both asked in the same words."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.measurements import COLUMNS, Measured, Measurements, Places, measure
from eval.metrics import METRICS
from eval.statistics import Estimate, estimate, paired_difference
from rag.errors import DataError


class Comparison(NamedTuple):
    """One metric of a system of run A and one of run B; `difference` is B minus A over the `questions` in common."""

    system_a: str
    system_b: str
    metric: str
    questions: int
    a: Estimate
    b: Estimate
    difference: Estimate

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
    return [
        comparison
        for name_a, name_b in _pairs(a, b)
        for comparison in _compare(a.systems[name_a], b.systems[name_b], places_a, places_b, metrics)
    ]


def scored_metrics(out: Path) -> tuple[str, ...]:
    """Return the metrics that some system of a run was scored in."""
    measured = measure(out)
    values = np.concatenate([system.values for system in measured.systems.values()] or [np.empty((0, len(COLUMNS)))])
    return tuple(metric for m, metric in enumerate(METRICS) if np.isfinite(values[:, m]).any())


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
    estimates = zip(metrics, estimate(values_a), estimate(values_b), paired_difference(values_a, values_b), strict=True)
    comparisons = [Comparison(a.name, b.name, metric, int(both.sum()), *figures) for metric, *figures in estimates]
    return [comparison for comparison in comparisons if comparison.a.n or comparison.b.n]

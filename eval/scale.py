"""Equivalent scale: how large a model without documents would have to be to match a small one that reads them.

Accuracy of the closed-book systems of a run is fitted against the logarithm of their parameters by a logistic curve
(a straight line in log-odds: accuracy has a floor and a ceiling, and within a family it climbs about evenly with every
doubling; Brown et al. 2020 plot it so for closed-book question answering). The size at which the curve reaches the
accuracy of a system with retrieval, over the size of that system, is its equivalent scale. Questions are drawn again,
by clusters, and the curve is fitted anew on every draw.

What the ladder does not support is not said: where the curve would have to be followed beyond the largest rung, the
figure is a *lower bound*, the largest rung that is shown to be less accurate, and the extrapolation stands apart.
Models of other families, trained on other data, are rungs of another ladder; a curve through both describes these
systems and no law. Sizes that nobody published are labelled as estimates.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.measurements import COLUMNS, RIGHT, Measurements, Places
from eval.statistics import LEVEL, Floats

MINIMUM_RUNGS = 3
_STEPS = 50
_RIDGE = 1e-6
_MAX_LOG = 18.0
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class Rung(NamedTuple):
    """A closed-book system of the ladder; `kind` says whether its size is `known` or `estimated`."""

    name: str
    parameters: int
    kind: str
    accuracy: float


def equivalent_scale(systems: Sequence[Measurements]) -> dict[str, Any] | None:
    """Return ladder, curve and the equivalent scale of every system with retrieval; None where there is no ladder.

    Only questions that every system involved was judged on count.
    """
    ladder = [system for system in systems if _on_ladder(system)]
    readers = [system for system in systems if _reads(system)]
    if not ladder or not readers:
        return None
    places = _judged_by_all([*ladder, *readers])
    if not len(places):
        return None
    column = COLUMNS.index(RIGHT)
    accuracy_k = np.array([system.at(places)[:, column].mean() for system in ladder])
    draws_bk = np.stack([system.draws(places)[:, column] for system in ladder], axis=1)
    sizes_k = np.log10([float(system.parameters or 0) for system in ladder])
    curve = Curve(sizes_k, accuracy_k, draws_bk)
    rungs = [
        Rung(system.name, int(system.parameters or 0), _kind(system), float(accuracy))
        for system, accuracy in zip(ladder, accuracy_k, strict=True)
    ]
    return {
        "method": "logistic regression of accuracy on log10(parameters), bootstrap over questions",
        "n": len(places),
        "ladder": [rung._asdict() for rung in sorted(rungs, key=lambda rung: rung.parameters)],
        "slope": {
            "value": curve.slope,
            "low": curve.slope_interval[0],
            "high": curve.slope_interval[1],
            "unit": "log-odds per factor of 10 in parameters",
        }
        if curve.fitted
        else None,
        "systems": [_equivalent(system, ladder, rungs, curve, places) for system in readers],
    }


class Curve:
    """log-odds of accuracy = intercept + slope x log10(parameters), for the data and for every bootstrap draw."""

    def __init__(self, sizes_k: Floats, accuracy_k: Floats, draws_bk: Floats) -> None:
        self.fitted = len(set(sizes_k.tolist())) >= 2
        if not self.fitted:
            return
        self.intercept, self.slope = (float(value) for value in fit_logistic(sizes_k, accuracy_k[None, :])[0])
        self._fits_b2 = fit_logistic(sizes_k, draws_bk)
        low, high = np.quantile(self._fits_b2[:, 1], _TAILS)
        self.slope_interval = (float(low), float(high))

    @property
    def rises(self) -> bool:
        """Whether larger models are shown to be more accurate, without which no size matches anything."""
        return self.fitted and self.slope_interval[0] > 0

    def size_at(self, accuracy: float, accuracy_b: Floats) -> tuple[float, float, float]:
        """Return log10(parameters) at an accuracy, with its interval; infinite where the curve does not get there."""
        value = _crossing(self.intercept, self.slope, accuracy)
        crossings = [
            _crossing(float(fit[0]), float(fit[1]), float(target))
            for fit, target in zip(self._fits_b2, accuracy_b, strict=True)
        ]
        low, high = np.quantile(np.array(crossings), _TAILS, method="inverted_cdf")
        return value, float(low), float(high)


def fit_logistic(x_k: Floats, shares_bk: Floats) -> Floats:
    """Return `(b, 2)` intercept and slope of the logistic curve of greatest likelihood through k shares, for each row.

    Newton's method (iteratively reweighted least squares; McCullagh and Nelder 1989, section 4.4), on centred x, all
    rows at once. A trace of ridge keeps shares that are all 0 or all 1, which no curve fits best, finite.
    """
    centre = x_k.mean()
    design_k2 = np.stack([np.ones_like(x_k), x_k - centre], axis=1)
    fit_b2 = np.zeros((len(shares_bk), 2))
    for _ in range(_STEPS):
        odds_bk = np.clip(fit_b2 @ design_k2.T, -30, 30)
        expected_bk = 1 / (1 + np.exp(-odds_bk))
        weight_bk = np.maximum(expected_bk * (1 - expected_bk), 1e-9)
        gradient_b2 = (shares_bk - expected_bk) @ design_k2 - _RIDGE * fit_b2
        hessian_b22 = np.einsum("bk,ki,kj->bij", weight_bk, design_k2, design_k2) + _RIDGE * np.eye(2)
        step_b2 = np.linalg.solve(hessian_b22, gradient_b2[:, :, None])[:, :, 0]
        # Far from the answer a full step overshoots; none needs more than this.
        fit_b2 = fit_b2 + np.clip(step_b2, -4, 4)
        if np.abs(step_b2).max() < 1e-9:
            break
    return np.stack([fit_b2[:, 0] - fit_b2[:, 1] * centre, fit_b2[:, 1]], axis=1)


def _equivalent(
    system: Measurements, ladder: Sequence[Measurements], rungs: Sequence[Rung], curve: Curve, places: Places
) -> dict[str, Any]:
    """What one system with retrieval is worth in parameters, with what may be said of it in words."""
    column = COLUMNS.index(RIGHT)
    accuracy = float(system.at(places)[:, column].mean())
    own = float(system.parameters or 0)
    beaten = [rung for rung, below in zip(rungs, ladder, strict=True) if _less_accurate(below, system, places)]
    bound = max((rung.parameters for rung in beaten), default=None)
    smallest, largest = (pick(rung.parameters for rung in rungs) for pick in (min, max))
    found: dict[str, Any] = {
        "system": system.name,
        "parameters": int(own),
        "accuracy": accuracy,
        "beats": [rung.name for rung in beaten],
        "lower_bound": None if bound is None else bound / own,
        "times": None,
        "extrapolated": None,
        "supported": False,
    }
    if not curve.rises:
        found["says"] = _says_no_curve(system.name, bound, own, curve)
        return found
    value, low, high = curve.size_at(accuracy, system.draws(places)[:, column])
    times = {name: _times(size, own) for name, size in (("value", value), ("low", low), ("high", high))}
    found["supported"] = len(rungs) >= MINIMUM_RUNGS and math.log10(smallest) <= value <= math.log10(largest)
    found["times" if found["supported"] else "extrapolated"] = times
    found["says"] = _says(system.name, found, len(rungs), largest, own)
    return found


def _says(name: str, found: dict[str, Any], rungs: int, largest: int, own: float) -> str:
    if found["supported"]:
        times = found["times"]
        high = _written(times["high"]) if times["high"] is not None else "more than can be told"
        low = _written(times["low"]) if times["low"] is not None else "less than can be told"
        return (
            f"A closed-book model would have to be {_written(times['value'])} times as large to match {name} "
            f"(95% interval {low} to {high}), by a curve through {rungs} closed-book systems."
        )
    if found["lower_bound"] is None:
        return (
            f"What {name} is worth in parameters cannot be told: none of {rungs} closed-book systems is shown to be "
            "less accurate."
        )
    return (
        f"A closed-book model would have to be more than {_written(found['lower_bound'])} times as large to match "
        f"{name}: a lower bound, as {rungs} closed-book systems of up to {_written(largest / own)} times its size "
        "support no estimate."
    )


def _says_no_curve(name: str, bound: int | None, own: float, curve: Curve) -> str:
    why = (
        "larger closed-book models are not shown to be more accurate on these questions"
        if curve.fitted
        else "one size of closed-book model makes no ladder"
    )
    if bound is None:
        return f"What {name} is worth in parameters cannot be told: {why}."
    return (
        f"A closed-book model would have to be more than {_written(bound / own)} times as large to match {name}: "
        f"a lower bound, as {why}."
    )


def _written(times: float) -> str:
    """Two figures, for no more are known."""
    return f"{float(f'{times:.2g}'):,.10g}"


def _less_accurate(below: Measurements, system: Measurements, places: Places) -> bool:
    """Whether the 95% interval of the difference, paired, leaves 0 out."""
    column = COLUMNS.index(RIGHT)
    draws_b = system.draws(places)[:, column] - below.draws(places)[:, column]
    return bool(np.quantile(draws_b, _TAILS[0]) > 0)


def _judged_by_all(systems: Sequence[Measurements]) -> Places:
    column = COLUMNS.index(RIGHT)
    places = systems[0].places
    for system in systems:
        places = np.intersect1d(places, system.places[np.isfinite(system.values[:, column])])
    return places


def _on_ladder(system: Measurements) -> bool:
    return system.closed_book and bool(system.parameters) and _judged(system)


def _reads(system: Measurements) -> bool:
    """Whether it retrieves by itself: one that is handed the right documents is no system that anybody has."""
    reads = bool(system.row.get("generator")) and bool(system.row.get("retrieval")) and not system.row.get("oracle")
    return reads and bool(system.parameters) and _judged(system)


def _judged(system: Measurements) -> bool:
    return bool(np.isfinite(system.column(RIGHT)).any())


def _kind(system: Measurements) -> str:
    return str(system.row["parameters_kind"]) if system.row.get("parameters") else "known"


def _crossing(intercept: float, slope: float, accuracy: float) -> float:
    """Return the log10 size at which the curve reaches an accuracy; infinite where it never does."""
    if accuracy <= 0:
        return -math.inf
    if accuracy >= 1 or slope <= 0:
        return math.inf
    return (math.log(accuracy / (1 - accuracy)) - intercept) / slope


def _times(log_size: float, own: float) -> float | None:
    """Return a ratio of sizes; None where it is without bound, or so large that it means nothing."""
    return 10**log_size / own if abs(log_size) < _MAX_LOG else None

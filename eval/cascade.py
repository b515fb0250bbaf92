"""Does a cascade pay: accuracy against cost and seconds as more questions are handed on to the large model.

The rows of a finished run tell what each system alone made of every question; a cascade's answer to a question is that
of the one it was left with. It costs what the small model cost and, where it was handed on, what the large one adds:
the passages are there already. Three things are told: the curve over all cuts; how far it lies above the line between
always-small and always-large, which a coin before asking reaches, and above the line of a coin after asking the small
one; and a cut that was chosen on one half of the questions and tried on the other. All with 95% bootstrap intervals
over clusters of questions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.cascade_choice import (
    POLICIES,
    Choice,
    Split,
    cross_fitted,
    cross_fitted_order,
    make_splits,
    priced,
)
from eval.cascade_pairs import COST, Pairs
from eval.files import write_text
from eval.statistics import LEVEL, SEED, Estimate, Floats, bootstrap_means, estimate, ratio
from rag.errors import DataError

RESULT = "cascade.json"
KEEP = 0.98

# Cuts of a curve: none handed on, 2% of the questions, ..., all.
STEPS = 50
# Prices of an error that are tried, in what handing a question on costs.
PRICES = (1, 3, 10, 30, 100, 300, 1000)


class Curve(NamedTuple):
    """One order of questions, cut at `STEPS + 1` places (s): the mean outcomes, and draws of them.

    `scores` by metric and `spent` by axis are means `(s,)`, `score_draws` and `spent_draws` bootstrap draws of them
    `(b, s)`. The first column is always-small.
    """

    policy: str
    shares: Floats
    scores: dict[str, Floats]
    spent: dict[str, Floats]
    score_draws: dict[str, Floats]
    spent_draws: dict[str, Floats]


def evaluate(pairs: Pairs, *, metric: str = "f1", keep: float = KEEP, seed: int = SEED) -> dict[str, Any]:
    """Return everything as JSON values. `keep` is the share of the large one's `metric` that a choice must keep.

    Raises `DataError` where the systems were not scored in the metric, or neither cost nor seconds are known.
    """
    if metric not in pairs.metrics:
        raise DataError(f"{pairs.small} and {pairs.large} were not both scored in {metric!r}")
    if not pairs.axes:
        raise DataError(
            "neither cost nor seconds of both systems are known, so nothing can be weighed",
            hint="State prices for the systems, and make their report anew with `smallhold eval report`.",
        )
    baselines, splits = _Baselines(pairs), make_splits(pairs, seed)
    curves = [_curve(pairs, policy, _places(cross_fitted_order(pairs, splits, policy))) for policy in POLICIES]
    return {
        "small": pairs.small,
        "large": pairs.large,
        "questions": pairs.n,
        "clusters": int(pairs.groups_n.max()) + 1,
        "left_out": pairs.left_out,
        "metric": metric,
        "keep": keep,
        "seed": seed,
        "always": baselines.to_json(),
        "best_possible": _best_possible(pairs),
        "curves": {curve.policy: _curve_json(curve, baselines, metric, keep) for curve in curves},
        "chosen": {policy: _chosen(pairs, cross_fitted(pairs, splits, policy, metric, keep)) for policy in POLICIES},
        "prices": _prices(pairs, splits) if COST in pairs.axes else [],
    }


def write_cascade(out: Path, found: dict[str, Any]) -> Path:
    """Write the figures beside the run, atomically; return the file."""
    write_text(out / RESULT, json.dumps(found, indent=1) + "\n")
    return out / RESULT


def _places(scores_n: Floats) -> Floats:
    """Return the share of questions that are handed on before each, `(n,)`, those of the highest score first."""
    order = np.argsort(-scores_n, kind="stable")
    places = np.empty(len(order))
    places[order] = np.arange(len(order)) / len(order)
    return places


class _Baselines:
    """Each system alone: means, and draws of them that belong to the same draws of questions as a curve's."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._columns = [pairs.scores[m] for m in pairs.metrics] + [pairs.spent[a] for a in pairs.axes]
        self._names = (*pairs.metrics, *pairs.axes)
        self._draws = bootstrap_means(np.hstack(self._columns), pairs.groups_n)

    def draws(self, name: str) -> Floats:
        """Return draws `(b, 2)` of the means of the small and the large one."""
        place = 2 * self._names.index(name)
        return self._draws[:, place : place + 2]

    def means(self, name: str) -> Floats:
        """Return the means of the small and the large one."""
        return np.asarray(np.nanmean(self._columns[self._names.index(name)], axis=0))

    def to_json(self) -> dict[str, Any]:
        """Return every mean with its interval, by system."""
        figures = estimate(np.hstack(self._columns), self._draws)
        sides = enumerate(("small", "large"))
        return {
            side: {name: _plain(figures[2 * place + column]) for place, name in enumerate(self._names)}
            for column, side in sides
        }


def _curve(pairs: Pairs, policy: str, places_n: Floats) -> Curve:
    shares = np.arange(STEPS + 1) / STEPS
    handed_ns = places_n[:, None] < shares - 1e-12
    outcome = {m: np.where(handed_ns, pairs.scores[m][:, 1:], pairs.scores[m][:, :1]) for m in pairs.metrics}
    spent = {a: pairs.spent[a][:, :1] + handed_ns * pairs.extra[a][:, None] for a in pairs.axes}
    draws = bootstrap_means(np.hstack([*outcome.values(), *spent.values()]), pairs.groups_n)
    parts = dict(zip((*outcome, *spent), np.split(draws, len(outcome) + len(spent), axis=1), strict=True))
    return Curve(
        policy,
        handed_ns.mean(axis=0),
        {m: np.nanmean(values, axis=0) for m, values in outcome.items()},
        {a: values.mean(axis=0) for a, values in spent.items()},
        {m: parts[m] for m in outcome},
        {a: parts[a] for a in spent},
    )


def _curve_json(curve: Curve, baselines: _Baselines, metric: str, keep: float) -> dict[str, Any]:
    points = []
    for s, share in enumerate(curve.shares.tolist()):
        figures = {m: _interval(curve.scores[m][s], curve.score_draws[m][:, s]) for m in curve.scores}
        figures |= {a: _interval(curve.spent[a][s], curve.spent_draws[a][:, s]) for a in curve.spent}
        points.append({"handed_on": share, **figures})
    wanted = keep * baselines.means(metric)[1] - 1e-12
    cheapest = next(point for point in points if point[metric]["value"] >= wanted)
    above = {m: {a: _above(curve, baselines, m, a) for a in curve.spent} for m in curve.scores}
    return {"points": points, "cheapest": cheapest, "above": above}


def _above(curve: Curve, baselines: _Baselines, metric: str, axis: str) -> dict[str, Any] | None:
    """Return by how much a curve lies above the lines: the mean difference in the metric over the costs in between.

    It is the area between the curve and the line, over its width. None where the large one costs no more than the small
    one: then there is nothing in between.
    """
    spent_2, ends_2 = baselines.means(axis)[None], baselines.means(metric)[None]
    if spent_2[0, 1] <= spent_2[0, 0]:
        return None
    value = _distances(curve.spent[axis][None], curve.scores[metric][None], spent_2, ends_2)
    draws = _distances(
        curve.spent_draws[axis], curve.score_draws[metric], baselines.draws(axis), baselines.draws(metric)
    )
    return {name: _interval(float(value[name][0]), draws[name]) for name in value}


def _distances(x_bs: Floats, y_bs: Floats, spent_b2: Floats, ends_b2: Floats) -> dict[str, Floats]:
    """Return for each draw the mean distance of a curve to the line between the systems, and to handing on at random.

    NaN where the large one costs no more in a draw.
    """
    end_b = spent_b2[:, 1]
    width_b = np.where(end_b > spent_b2[:, 0], end_b - spent_b2[:, 0], np.nan)
    reached_b = _area_under(x_bs, y_bs, end_b)
    line_b = width_b * ends_b2.mean(axis=1)
    random_b = _area_under(x_bs[:, [0, -1]], y_bs[:, [0, -1]], end_b)
    return {"line": (reached_b - line_b) / width_b, "random": (reached_b - random_b) / width_b}


def _area_under(x_bs: Floats, y_bs: Floats, end_b: Floats) -> Floats:
    """Return the area under each line through points, from its first point to `end_b`; behind its last it stays level.

    `x_bs` `(b, s)` must not fall along a line.
    """
    left, right, low, high = x_bs[:, :-1], x_bs[:, 1:], y_bs[:, :-1], y_bs[:, 1:]
    covered = np.clip(end_b[:, None], left, right) - left
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(right > left, (high - low) / (right - left), 0.0)
    behind_b = np.maximum(end_b - x_bs[:, -1], 0.0) * y_bs[:, -1]
    return np.asarray((covered * (low + slope * covered / 2)).sum(axis=1) + behind_b)


def _chosen(pairs: Pairs, choice: Choice) -> dict[str, Any]:
    """Return how a choice does on questions that it was made without, and as a share of the large one alone."""
    handed_n = choice.handed_n
    names, columns = [], []
    for m in pairs.metrics:
        names.append(m)
        columns += [_mixed(pairs.scores[m], handed_n), pairs.scores[m][:, 1], _line(pairs, m, handed_n)]
    for a in pairs.axes:
        names.append(a)
        spent_n = pairs.spent[a][:, 0] + handed_n * pairs.extra[a]
        columns += [spent_n, pairs.spent[a][:, 1], spent_n]
    table_nm = np.column_stack(columns)
    draws_bm = bootstrap_means(table_nm, pairs.groups_n)
    figures = estimate(table_nm, draws_bm)
    told: dict[str, Any] = {"handed_on": float(handed_n.mean())}
    for place, name in enumerate(names):
        own, large = 3 * place, 3 * place + 1
        scored_n = np.isfinite(table_nm[:, [own, large]]).all(axis=1)
        share = ratio(table_nm[scored_n, own], table_nm[scored_n, large], draws_bm[:, [own, large]])
        told[name] = {**_plain(figures[own]), "of_large": _plain(share)}
        if name in pairs.metrics:
            draws_b = draws_bm[:, own] - draws_bm[:, own + 2]
            told[name]["above_random"] = _interval(
                float(np.nanmean(table_nm[:, own]) - np.nanmean(table_nm[:, own + 2])), draws_b
            )
            told[name]["above_line"] = {a: _above_line(pairs, name, a, handed_n) for a in pairs.axes}
    return told


def _above_line(pairs: Pairs, metric: str, axis: str, handed_n: Floats) -> dict[str, float] | None:
    """Return by how much a choice is above the line between the systems at what it costs; None where there is none.

    Where it costs more than the large one, it is compared with that one.
    """
    columns = [_mixed(pairs.scores[metric], handed_n), pairs.spent[axis][:, 0] + handed_n * pairs.extra[axis]]
    table_n6 = np.column_stack([*columns, pairs.scores[metric], pairs.spent[axis]])
    value_16, draws_b6 = np.nanmean(table_n6, axis=0)[None], bootstrap_means(table_n6, pairs.groups_n)

    def above(means_b6: Floats) -> Floats:
        score, spent, small, large, begin, end = means_b6.T
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(end > begin, np.clip((spent - begin) / (end - begin), 0.0, 1.0), np.nan)
        return np.asarray(score - small - share * (large - small))

    value = float(above(value_16)[0])
    return _interval(value, above(draws_b6)) if np.isfinite(value) else None


def _mixed(scores_n2: Floats, handed_n: Floats) -> Floats:
    return (1 - handed_n) * scores_n2[:, 0] + handed_n * scores_n2[:, 1]


def _line(pairs: Pairs, metric: str, handed_n: Floats) -> Floats:
    """Return the outcome of handing on as many questions at random."""
    return _mixed(pairs.scores[metric], np.full(pairs.n, handed_n.mean()))


def _best_possible(pairs: Pairs) -> dict[str, float]:
    """Return the means if the better answer of both were always known: no cascade comes above it."""
    return {m: float(np.nanmean(pairs.scores[m].max(axis=1))) for m in pairs.metrics}


def _prices(pairs: Pairs, splits: Sequence[Split]) -> list[dict[str, Any]]:
    """Return, for several prices of an error, what a question costs with its errors: cascade, small and large alone."""
    rows = []
    for factor in PRICES:
        price = factor * float(pairs.extra[COST].mean())
        choice = priced(pairs, splits, price)
        wrong_n2 = 1 - pairs.good_n2
        alone_n2 = pairs.spent[COST] + price * wrong_n2
        own_n = pairs.spent[COST][:, 0] + choice.handed_n * pairs.extra[COST]
        own_n = own_n + price * _mixed(wrong_n2, choice.handed_n)
        table_n3 = np.column_stack([own_n, alone_n2])
        draws_b3 = bootstrap_means(table_n3, pairs.groups_n)
        own, small, large = estimate(table_n3, draws_b3)
        cheaper = 1 if (small.value or 0.0) <= (large.value or 0.0) else 2
        saved = _interval(
            float((table_n3[:, cheaper] - own_n).mean()),
            draws_b3[:, cheaper] - draws_b3[:, 0],
        )
        rows.append(
            {
                "error_price": price,
                "handed_on": float(choice.handed_n.mean()),
                "cascade": _plain(own),
                "small": _plain(small),
                "large": _plain(large),
                "saved": saved,
            }
        )
    return rows


def _interval(value: float, draws_b: Floats) -> dict[str, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws_b[np.isfinite(draws_b)], [tail, 1 - tail])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _plain(figure: Estimate) -> dict[str, float | None]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}

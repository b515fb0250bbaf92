"""The report of a run: `report.json` for programs, `report.md` and its picture for people.

`report.json` has the keys `data`, `machine`, `systems` and, beyond them, `statistics`, `differences` and `notes`;
docs/evaluation.md describes each. A figure over nothing is null.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from eval.files import write_text
from eval.html import write_html
from eval.markdown import report_markdown
from eval.measurements import COLUMNS, COST, SECONDS, Measured, Measurements, measure
from eval.metrics import METRICS
from eval.plot import PLOT, report_plot
from eval.results import Run
from eval.statistics import LEVEL, RESAMPLES, SEED, Estimate

REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"

Report = dict[str, Any]


def write_report(out: Path) -> Report:
    """Make the report of the run in `out` from its rows and write all its files; return what `report.json` holds.

    Raises `DataError` where there is no run.
    """
    report = build_report(measure(out))
    write_text(out / REPORT_JSON, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    plot = report_plot(report)
    if plot:
        write_text(out / PLOT, plot)
    write_text(out / REPORT_MARKDOWN, report_markdown(report, plot=PLOT if plot else ""))
    write_html(out, report)
    return report


def build_report(measured: Measured) -> Report:
    """Reduce the measurements of a run to its report."""
    run, systems = measured.run, measured.systems
    return {
        "data": run.data,
        "machine": _machine(run),
        "statistics": {
            "level": LEVEL,
            "method": "percentile bootstrap over questions, differences paired",
            "resamples": RESAMPLES,
            "seed": SEED,
        },
        "systems": {name: _system(system, len(run.questions)) for name, system in systems.items()},
        "differences": _differences(list(systems.values())),
        "notes": _notes(measured),
    }


def _machine(run: Run) -> dict[str, Any]:
    """The machine of the latest system, with its date."""
    latest = max(run.systems.values(), key=lambda system: system.date, default=None)
    return {} if latest is None else {**latest.machine, "date": latest.date}


def _system(measurements: Measurements, asked: int) -> dict[str, Any]:
    estimates = measurements.estimates()
    n = len(measurements.places)
    return {
        "n": n,
        "missing": asked - n,
        "errors": measurements.errors,
        "abstentions": measurements.abstentions,
        "metrics": {name: {**_interval(estimates[name], 6), "unscored": n - estimates[name].n} for name in METRICS},
        "cost_per_question": _rounded(estimates[COST].value, 10),
        "cost_per_question_interval": _interval(estimates[COST], 10),
        "seconds_per_question": {**_quantiles(measurements), **_bounds(estimates[SECONDS], 4)},
        "tokens": _tokens(measurements),
        "prices": {key: value for key, value in measurements.system.row.items() if key.startswith("price_")},
        "generator": measurements.system.row.get("generator", ""),
        "retrieval": measurements.system.row.get("retrieval"),
        "settings": measurements.system.settings,
        "date": measurements.system.date,
        "stopped": measurements.system.stopped,
        "fingerprint": measurements.system.fingerprint,
    }


def _quantiles(measurements: Measurements) -> dict[str, float | None]:
    seconds = measurements.values[:, COLUMNS.index(SECONDS)]
    seconds = seconds[np.isfinite(seconds)]
    if not len(seconds):
        return {"mean": None, "p50": None, "p95": None}
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    return {"mean": _rounded(float(seconds.mean()), 4), "p50": _rounded(float(p50), 4), "p95": _rounded(float(p95), 4)}


def _tokens(measurements: Measurements) -> dict[str, Any]:
    """Totals, and means per question."""
    names = ("prompt", "cached", "completion")
    n = len(measurements.places)
    totals = dict(zip(names, (int(total) for total in measurements.tokens.sum(axis=0)), strict=True))
    means = {name: _rounded(total / n, 2) if n else None for name, total in totals.items()}
    return {**totals, "per_question": means}


def _differences(systems: list[Measurements]) -> list[dict[str, Any]]:
    """Every pair, the later system minus the earlier, in every metric that was scored for both."""
    return [
        {"system": b.name, "baseline": a.name, "metric": metric, **_interval(difference, 10)}
        for a, b in itertools.combinations(systems, 2)
        for metric, difference in b.difference_from(a).items()
        if difference.value is not None
    ]


def _notes(measured: Measured) -> list[str]:
    run = measured.run
    notes = list(run.notes)
    notes += [f"{name} stopped before its end: {s.stopped}" for name, s in run.systems.items() if s.stopped]
    if len({json.dumps(system.machine, sort_keys=True) for system in run.systems.values()}) > 1:
        notes.append("the systems were measured on different machines or software: do not compare their seconds")
    if measured.damaged:
        notes.append(f"{measured.damaged} damaged lines of results.jsonl were passed over")
    return notes


def _interval(estimate: Estimate, digits: int) -> dict[str, Any]:
    return {"value": _rounded(estimate.value, digits), **_bounds(estimate, digits), "n": estimate.n}


def _bounds(estimate: Estimate, digits: int) -> dict[str, float | None]:
    return {"low": _rounded(estimate.low, digits), "high": _rounded(estimate.high, digits)}


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)

"""The report of a run: `report.json` for programs, `report.md` and its picture for people.

`report.json` has the keys `data`, `machine`, `systems` and, beyond them, `statistics`, `differences`, `power`,
`break_even`, `scale` and `notes`; docs/evaluation.md describes each. A figure over nothing is null.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.cost import HOURS_A_MONTH, break_even
from eval.energy import ACTIVE_WATTS, IDLE_WATTS
from eval.files import write_text
from eval.flops import Locate, locate_weights
from eval.html import write_html
from eval.latency import quantiles
from eval.markdown import report_markdown
from eval.measurements import (
    COLUMNS,
    COST,
    FIRST_TOKEN,
    FLOPS,
    JOULES,
    MEMORISED,
    RIGHT,
    SCORES,
    SECONDS,
    TOTAL,
    TRUST,
    Measured,
    Measurements,
    differences,
    measure,
)
from eval.paired import ALPHA, Difference
from eval.plot import PLOT, report_plot
from eval.power import POWER, Power, paired_power
from eval.report_risk import risks
from eval.results import Run
from eval.scale import equivalent_scale
from eval.statistics import LEVEL, RESAMPLES, SEED, Estimate, renumbered
from eval.system_row import SystemRow
from eval.verdict import too_few_questions, verdict

REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"

Report = dict[str, Any]


def write_report(out: Path, locate: Locate = locate_weights) -> Report:
    """Make the report of the run in `out` from its rows and write all its files; return what `report.json` holds.

    `locate` finds the weights of a local model, whose shape gives its operations.
    Raises `DataError` where there is no run.
    """
    report = build_report(measure(out, locate))
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
    found = differences(list(systems.values()))
    report: Report = {
        "data": run.data,
        "machine": _machine(run),
        "statistics": describe_statistics(measured),
        "systems": {name: _system(system, len(run.questions)) for name, system in systems.items()},
        "differences": [describe_difference(difference) for difference in found],
        "power": _power(list(systems.values()), found),
        "break_even": _break_even(list(systems.values())),
        "scale": equivalent_scale(list(systems.values())),
        "notes": _notes(measured),
    }
    report["notes"] += [
        f"{name} has rows for {n:,} of the {asked:,} questions, so that the verdict leaves it out"
        for name, (n, asked) in too_few_questions(report).items()
    ]
    return {"verdict": verdict(report), **report}


def describe_statistics(measured: Measured) -> dict[str, Any]:
    """Say how intervals and p values came about."""
    return {
        "level": LEVEL,
        "method": "percentile bootstrap over questions, differences paired",
        "resamples": RESAMPLES,
        "seed": SEED,
        "clusters": measured.clusters,
        "tests": "McNemar's exact test where scores are 0 and 1, else randomisation of signs; by cluster",
        "correction": "Holm, within each metric over the pairs of systems",
    }


def _machine(run: Run) -> dict[str, Any]:
    """The machine of the latest system, with its date."""
    latest = max(run.systems.values(), key=lambda system: system.date, default=None)
    return {} if latest is None else {**latest.machine, "date": latest.date}


def _system(measurements: Measurements, asked: int) -> dict[str, Any]:
    estimates = measurements.estimates()
    n = len(measurements.places)
    row = SystemRow.model_validate(measurements.system.row)
    return {
        "n": n,
        "missing": asked - n,
        "errors": measurements.errors,
        "abstentions": measurements.abstentions,
        "metrics": {name: {**_interval(estimates[name], 6), "unscored": n - estimates[name].n} for name in SCORES},
        "cost_per_question": _rounded(estimates[COST].value, 10),
        "cost_per_question_interval": _interval(estimates[COST], 10),
        "cost_per_right": _interval_or_none(measurements.cost_per_right(), 10),
        "joules_per_question": _joules(measurements, estimates[JOULES]),
        "flops_per_question": _rounded(estimates[FLOPS].value, 0),
        "trust": _trust([estimates[name] for name in TRUST]),
        "grounded_right_rate": _interval_or_none(estimates["right_grounded"], 6),
        "memorised_rate": _interval_or_none(estimates[MEMORISED], 6),
        "crag_score": _interval_or_none(estimates["crag"], 6),
        **risks(measurements),
        "latency": {
            name: {key: _rounded(value, 4) for key, value in quantiles(measurements.column(name)).items()}
            for name in (FIRST_TOKEN, TOTAL)
        },
        "seconds_per_question": {**_quantiles(measurements), **_bounds(estimates[SECONDS], 4)},
        "tokens": _tokens(measurements),
        "prices": _prices(row),
        "parameters": measurements.parameters,
        "parameters_kind": _parameters_kind(measurements),
        "recorded": bool(measurements.row.get("recorded")),
        "oracle": bool(measurements.row.get("oracle")),
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


def describe_difference(found: Difference) -> dict[str, Any]:
    """Return one difference as JSON: `b` minus `a`; `system` and `baseline` are other names of the two."""
    return {
        "system": found.b,
        "baseline": found.a,
        "metric": found.metric,
        "a": found.a,
        "b": found.b,
        **_interval(found.figure, 10),
        "p": found.p,
        "p_holm": found.p_holm,
        "discordant": None if found.discordant is None else list(found.discordant),
    }


def _joules(measurements: Measurements, figure: Estimate) -> dict[str, Any] | None:
    """Energy on this machine and where the figure comes from; None for what runs elsewhere."""
    if figure.value is None:
        return None
    if measurements.joules_measured:
        return {**_interval(figure, 4), "kind": "measured"}
    watts = {"idle": IDLE_WATTS, "active": ACTIVE_WATTS, **(measurements.row.get("watts") or {})}
    return {**_interval(figure, 4), "kind": "estimated", "watts_per_core": watts}


def _trust(figures: Sequence[Estimate]) -> dict[str, float | None] | None:
    """The six shares; None where no row has been judged so, as of systems that only retrieve."""
    if all(figure.value is None for figure in figures):
        return None
    return {name: _rounded(figure.value, 6) for name, figure in zip(TRUST, figures, strict=True)}


def _prices(row: SystemRow) -> dict[str, Any]:
    """Every price in force, with the table and the day where it is from a table."""
    prices, listed = row.prices, row.listed
    stated = {
        "price_per_hour": prices.per_hour,
        "price_per_million_prompt": prices.per_million_prompt,
        "price_per_million_cached": prices.per_million_cached,
        "price_per_million_completion": prices.per_million_completion,
        "utilisation": prices.utilisation if prices.utilisation != 1 else None,
        "source": listed.source if listed else None,
    }
    return {key: value for key, value in stated.items() if value is not None}


def _parameters_kind(measurements: Measurements) -> str | None:
    if measurements.parameters is None:
        return None
    stated = measurements.row.get("parameters") is not None
    return str(measurements.row["parameters_kind"]) if stated else "known"


def _power(systems: list[Measurements], told: Sequence[Difference]) -> dict[str, Any] | None:
    """What these questions can show for each pair, in rightness, or without it in nDCG@10; None without a pair.

    `smallest_difference` is the one that would show for every pair, `questions_needed` those that would show the
    differences that were observed and not shown.
    """
    metric = RIGHT if any(np.isfinite(system.column(RIGHT)).any() for system in systems) else "ndcg@10"
    shown = {(one.a, one.b) for one in told if one.metric == metric and one.significant}
    pairs = []
    for a, b in itertools.combinations(systems, 2):
        common = np.intersect1d(a.places, b.places)
        column = COLUMNS.index(metric)
        found = paired_power(a.at(common)[:, column], b.at(common)[:, column], renumbered(a.groups[common]))
        if found is not None:
            pairs.append({**_pair_power(a.name, b.name, found), "shown": (a.name, b.name) in shown})
    if not pairs:
        return None
    smallest = [pair["smallest_difference"] for pair in pairs]
    needed = [pair["questions_needed"] for pair in pairs if pair["questions_needed"] and not pair["shown"]]
    return {
        "metric": metric,
        "alpha": ALPHA,
        "power": POWER,
        "smallest_difference": None if None in smallest else max(smallest),
        "questions_needed": max(needed, default=None),
        "pairs": pairs,
    }


def _pair_power(a: str, b: str, found: Power) -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "n": found.n,
        "observed": _rounded(found.observed, 6),
        "discordant_rate" if found.binary else "standard_deviation": _rounded(found.spread, 6),
        "design_effect": _rounded(found.design_effect, 4),
        "smallest_difference": _rounded(found.smallest_difference, 6),
        "questions_needed": found.questions_needed,
        "more_needed": found.more_needed,
    }


def _break_even(systems: list[Measurements]) -> list[dict[str, Any]]:
    """Each machine paid by the hour against each system paid by the token."""
    costs = {system.name: system.estimates()[COST].value for system in systems}
    by_hour = [s for s in systems if s.local and s.prices.per_hour is not None and not s.prices.by_token]
    by_token = [system for system in systems if system.prices.by_token and costs[system.name] is not None]
    found = []
    for machine, endpoint in itertools.product(by_hour, by_token):
        seconds, per_hour, cost = _machine_seconds(machine), machine.prices.per_hour, costs[endpoint.name]
        if seconds is None or per_hour is None or cost is None:
            continue
        even = break_even(per_hour, cost, seconds)
        if even is not None:
            rounded = {key: value if isinstance(value, bool) else round(value, 8) for key, value in even.items()}
            found.append({"local": machine.name, "endpoint": endpoint.name, "hours": HOURS_A_MONTH, **rounded})
    return found


def _machine_seconds(system: Measurements) -> float | None:
    """How long a question occupies the whole machine, from what it costs; where that is nothing by the wall clock."""
    cost, per_hour = system.estimates()[COST].value, system.prices.per_hour
    if cost and per_hour:
        return cost * 3600 / per_hour * system.prices.utilisation
    return system.estimates()[SECONDS].value


def _notes(measured: Measured) -> list[str]:
    run = measured.run
    notes = list(run.notes)
    notes += [f"{name}: {s.prepared}" for name, s in run.systems.items() if s.prepared]
    notes += [f"{name} stopped before its end: {s.stopped}" for name, s in run.systems.items() if s.stopped]
    if len({json.dumps(system.machine, sort_keys=True) for system in run.systems.values()}) > 1:
        notes.append("the systems were measured on different machines or software: do not compare their seconds")
    notes += _cluster_note(measured)
    if measured.damaged:
        notes.append(f"{measured.damaged} damaged lines of results.jsonl were passed over")
    return notes


def _cluster_note(measured: Measured) -> list[str]:
    questions = len(measured.run.questions)
    if measured.clusters >= questions:
        return []
    return [
        f"{questions:,} questions share documents and fall into {measured.clusters:,} clusters: intervals and tests "
        "take these as the units"
    ]


def _interval(estimate: Estimate, digits: int) -> dict[str, Any]:
    return {"value": _rounded(estimate.value, digits), **_bounds(estimate, digits), "n": estimate.n}


def _interval_or_none(estimate: Estimate, digits: int) -> dict[str, Any] | None:
    return None if estimate.value is None else _interval(estimate, digits)


def _bounds(estimate: Estimate, digits: int) -> dict[str, float | None]:
    return {"low": _rounded(estimate.low, digits), "high": _rounded(estimate.high, digits)}


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits) if digits else float(round(number))

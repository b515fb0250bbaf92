"""The ablation of a run: what each part gives, as the paired difference of the systems with it and without it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.ablation_parts import Plan, Trial
from eval.files import write_text
from eval.measurements import CPU, READ, RIGHT, SECONDS, Measured, Measurements, Places, measure
from eval.paired import Difference, corrected
from eval.power import paired_power
from eval.report import describe_difference, describe_statistics
from eval.statistics import Floats, renumbered
from eval.wording import TITLES

ABLATION_JSON = "ablation.json"

PAYS, PAYS_NOT, UNTOLD = "pays", "does not pay", "cannot be told"

DECLINED, ANSWERED, CRAG = "abstention_recall", "coverage", "crag"

# What a part may lose and still be kept for the seconds that it saves, and gain and still not be worth those it takes.
NEGLIGIBLE = 0.01
# Processor seconds a question that nobody would notice, however surely they are there.
LEAST_SECONDS = 0.01

Ablation = dict[str, Any]


class Judgement(NamedTuple):
    """Whether a part pays, and why in a few words."""

    verdict: str
    because: str


class _Compared(NamedTuple):
    """One part: the systems with it and without it over their common questions, and its gain in every metric."""

    trial: Trial
    with_it: Measurements
    without: Measurements
    common: Places
    gains: dict[str, Difference]


def ablate(out: Path, plan: Plan) -> Ablation:
    """Compare the systems of a plan in the run in `out` and write `ablation.json`; return what it holds.

    The keys are `data`, `metric`, `statistics`, `parts` and `notes`; docs/evaluation.md describes each. Raises
    `DataError` where there is no run.
    """
    found = build_ablation(measure(out, _nowhere), plan)
    write_text(out / ABLATION_JSON, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return found


def _nowhere(name: str) -> None:
    """Find no weights: no operations are reckoned here, and reading a model's header takes seconds."""
    del name


def build_ablation(measured: Measured, plan: Plan) -> Ablation:
    """Reduce the measurements of a run to what each part gives."""
    systems = measured.systems
    metric = _headline(list(systems.values()))
    names = tuple(dict.fromkeys((metric, RIGHT, ANSWERED, DECLINED, CRAG, CPU, SECONDS, READ)))
    compared = _corrected([one for trial in plan.trials if (one := _compare(trial, systems, names)) is not None])
    told = {one.trial.part.name for one in compared}
    silent = [trial.part.name for trial in plan.trials if trial.part.name not in told]
    stopped = [
        f"{row.name} stopped before its end: {why}" for row in plan.rows if (why := _stopped(measured, row.name))
    ]
    return {
        "data": measured.run.data,
        "questions": len(measured.run.questions),
        "metric": metric,
        "statistics": describe_statistics(measured) | {"correction": "Holm, within each metric over the parts"},
        "parts": [_describe(one, metric) for one in compared],
        "notes": [*plan.notes, *stopped, *(f"{name} has no question in common with its rival" for name in silent)],
    }


def _headline(systems: Sequence[Measurements]) -> str:
    """Return F1 where some system answers questions that have answers, else nDCG@10."""
    return "f1" if any(np.isfinite(system.column("f1")).any() for system in systems) else "ndcg@10"


def _stopped(measured: Measured, name: str) -> str:
    return measured.run.systems[name].stopped if name in measured.run.systems else "it was not begun"


def _compare(trial: Trial, systems: Mapping[str, Measurements], names: Sequence[str]) -> _Compared | None:
    """Return the gains of a part, uncorrected; None where there is nothing to compare."""
    switched, other = systems.get(trial.row.name), systems.get(trial.against)
    if switched is None or other is None:
        return None
    with_it, without = (other, switched) if trial.part.turned == "off" else (switched, other)
    common = np.intersect1d(with_it.places, without.places)
    if not len(common):
        return None
    gains = {gain.metric: gain for gain in with_it.differences_from(without, names) if gain.figure.value is not None}
    return _Compared(trial, with_it, without, common, gains)


def _corrected(compared: Sequence[_Compared]) -> list[_Compared]:
    """Correct the p values within each metric over the parts."""
    done = iter(corrected([gain for one in compared for gain in one.gains.values()]))
    return [one._replace(gains={name: next(done) for name in one.gains}) for one in compared]


def _describe(one: _Compared, metric: str) -> dict[str, Any]:
    part, gains = one.trial.part, one.gains
    judgement = judge_part(gains, metric, same=_same(one, (metric, RIGHT, ANSWERED, DECLINED)))
    return {
        "name": part.name,
        "about": part.about,
        "turned": part.turned,
        "with": one.with_it.name,
        "without": one.without.name,
        "settings": part.settings,
        "n": len(one.common),
        "metrics": {name: _described_gain(one, name) for name in gains},
        "gain_per_second": _gain_per_second(gains, metric),
        "questions_needed": _needed(one, metric),
        "verdict": judgement.verdict,
        "because": judgement.because,
    }


def _described_gain(one: _Compared, name: str) -> dict[str, Any]:
    """The means over the common questions, and the gain with interval and p."""
    told = describe_difference(one.gains[name])
    gain = {key: told[key] for key in ("value", "low", "high", "n", "p", "p_holm", "discordant")}
    return {"with": _mean(one.with_it, name, one.common), "without": _mean(one.without, name, one.common), "gain": gain}


def _mean(system: Measurements, name: str, common: Places) -> float | None:
    scored = _scored(system, name, common)
    scored = scored[np.isfinite(scored)]
    return round(float(scored.mean()), 6) if len(scored) else None


def _scored(system: Measurements, name: str, common: Places) -> Floats:
    return system.column(name)[np.searchsorted(system.places, common)]


def _same(one: _Compared, names: Sequence[str]) -> bool:
    """Whether no question scores otherwise without the part."""
    return all(
        np.array_equal(_scored(one.with_it, name, one.common), _scored(one.without, name, one.common), equal_nan=True)
        for name in names
    )


def _gain_per_second(gains: Mapping[str, Difference], metric: str) -> float | None:
    """Return what a second of the processor gives; None where the part takes none."""
    gain, spent = (gains[name].figure.value if name in gains else None for name in (metric, CPU))
    return round(gain / spent, 6) if gain is not None and spent is not None and spent > 0 else None


def _needed(one: _Compared, metric: str) -> int | None:
    """Return how many questions would show the gain that was seen; None where none was."""
    groups = renumbered(one.with_it.groups[one.common])
    without, with_it = (_scored(system, metric, one.common) for system in (one.without, one.with_it))
    power = paired_power(without, with_it, groups)
    return None if power is None else power.questions_needed


def judge_part(gains: Mapping[str, Difference], metric: str, *, same: bool) -> Judgement:
    """Say whether a part pays, by its gains after Holm's correction. `same`: no question scored otherwise.

    It pays where it gains in `metric` or in declining unanswerable questions and loses in neither, whatever it takes;
    where it gains in one and loses in the other, the CRAG score decides, to which a wrong answer costs what a right one
    gives. Where neither is shown it pays by processor seconds saved, if it loses no more than `NEGLIGIBLE`, and does
    not by seconds spent, if it gains no more.
    """
    quality = [gains[name] for name in (metric, DECLINED) if name in gains]
    gained = [gain for gain in quality if gain.significant and _value(gain) > 0]
    lost = [gain for gain in quality if gain.significant and _value(gain) < 0]
    if gained and lost:
        both = f"{_said(gained[0])}, {_said(lost[0])}"
        crag = gains.get(CRAG)
        if crag is None or not crag.significant:
            return Judgement(UNTOLD, both)
        return Judgement(PAYS if _value(crag) > 0 else PAYS_NOT, f"{both}; {_said(crag)}")
    if gained or lost:
        return Judgement(PAYS if gained else PAYS_NOT, _said((gained or lost)[0]))
    return _judge_seconds(gains.get(CPU), quality, same=same)


def _judge_seconds(spent: Difference | None, quality: Sequence[Difference], *, same: bool) -> Judgement:
    scored = "no question scored otherwise" if same else f"no difference shown in {_titles(quality)}"
    if spent is None or not spent.significant or abs(_value(spent)) < LEAST_SECONDS:
        return Judgement(UNTOLD, scored)
    seconds = f"{scored}, {_value(spent):+.2f} processor seconds a question"
    if _value(spent) < 0:
        harmless = same or all(gain.figure.low is not None and gain.figure.low > -NEGLIGIBLE for gain in quality)
        return Judgement(PAYS if harmless else UNTOLD, seconds)
    useless = same or all(gain.figure.high is not None and gain.figure.high < NEGLIGIBLE for gain in quality)
    return Judgement(PAYS_NOT if useless else UNTOLD, seconds)


def _said(gain: Difference) -> str:
    return f"{_titles([gain])} {_value(gain):+.3f}"


def _titles(gains: Sequence[Difference]) -> str:
    names = {**TITLES, DECLINED: "unanswerable questions declined"}
    return " and ".join(names[gain.metric] for gain in gains) or "any score"


def _value(gain: Difference) -> float:
    return gain.figure.value or 0.0

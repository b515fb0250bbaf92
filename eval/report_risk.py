"""How a system's mistakes spread over its answers: the part of a report that tells what answering costs.

A question that ended in an error, or an answer that nobody can judge, is neither right nor wrong and counts in no risk.
"""

from typing import Any

import numpy as np

from eval.measurements import CONFIDENCE, WRONG, Measurements
from eval.promise import CONFIDENCE as LEVEL
from eval.promise import lower_bound, upper_bound
from eval.selective import risk_coverage

_DIGITS = 6


def risks(measured: Measurements) -> dict[str, Any]:
    """Return `selective_risk`, `risk_coverage` and `risk_target` of a system, each null where there is none.

    The first is the share of wrong answers among those given, with a 95% bootstrap interval; the second the curve of
    that share as less sure answers are given, and its area; the third what came of a risk target.
    """
    wrong_n = measured.column(WRONG)
    answered, wrong = int(np.isfinite(wrong_n).sum()), int(np.nansum(wrong_n))
    return {
        "selective_risk": _selective_risk(measured, wrong) if answered else None,
        "risk_coverage": _curve(measured),
        "risk_target": _target(measured, answered, wrong),
    }


def _selective_risk(measured: Measurements, wrong: int) -> dict[str, Any]:
    figure = measured.estimates()[WRONG]
    bounds = {"low": _rounded(figure.low), "high": _rounded(figure.high)}
    return {"value": _rounded(figure.value), **bounds, "n": figure.n, "wrong": wrong}


def _curve(measured: Measurements) -> dict[str, Any] | None:
    confidence_n, wrong_n = measured.column(CONFIDENCE), measured.column(WRONG)
    told = np.isfinite(confidence_n) & np.isfinite(wrong_n)
    # One confidence for all sorts nothing.
    if len(np.unique(confidence_n[told])) < 2:
        return None
    curve = risk_coverage(confidence_n[told], wrong_n[told], len(measured.places))
    if curve is None:
        return None
    return {
        "area": _rounded(curve.area),
        "low": _rounded(curve.low),
        "high": _rounded(curve.high),
        "n": curve.n,
        "asked": curve.asked,
        "risk": _rounded(curve.risk),
        "points": [[_rounded(coverage), _rounded(risk)] for coverage, risk in curve.points],
    }


def _target(measured: Measurements, answered: int, wrong: int) -> dict[str, Any] | None:
    """Return the target beside what was attained, with exact one-sided bounds (Clopper and Pearson 1934).

    `outcome` is "kept" where the upper bound is within the target, "broken" where the lower one is above it, else
    "undecided": so few answers could come of a risk on either side.
    """
    abstention = measured.system.settings.get("abstention", {})
    reads = bool(measured.row.get("generator")) and bool(measured.row.get("retrieval"))
    risk = abstention.get("risk") if reads and abstention.get("enabled") else None
    if risk is None:
        return None
    high, low = upper_bound(wrong, answered), lower_bound(wrong, answered)
    outcome = "kept" if high <= risk else "broken" if low > risk else "undecided"
    return {
        "target": risk,
        "confidence": LEVEL,
        "attainable": measured.unattainable == 0,
        "answered": answered,
        "wrong": wrong,
        "value": _rounded(wrong / answered) if answered else None,
        "at_most": _rounded(high) if answered else None,
        "at_least": _rounded(low) if answered else None,
        "outcome": outcome if answered else None,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, _DIGITS)

"""Conditions on a report, for `--fail-if`: `f1 < 0.6`, or of one system `small+retrieval: cost_per_right > 0.01`.

The grammar is one comparison: `[SYSTEM: ]METRIC OPERATOR NUMBER`, with `<`, `<=`, `>`, `>=`. Nothing is evaluated
but that.
"""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from eval.measurements import COST, JOULES, MEMORISED, SCORES, SECONDS
from rag.errors import InvalidRequest

MAX_CONDITION = 300

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_GRAMMAR = re.compile(
    r"(?:(?P<system>[^\s<>=]+):\s+)?"
    r"(?P<metric>[a-z][a-z0-9_@]*)\s*(?P<operator><=|>=|<|>)\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)",
    re.IGNORECASE,
)

# Where a name beyond those of `metrics` stands in a system of report.json.
_PLACES: dict[str, tuple[str, ...]] = {
    COST: (COST,),
    "cost_per_right": ("cost_per_right", "value"),
    SECONDS: ("seconds_per_question", "mean"),
    JOULES: ("joules_per_question", "value"),
    "joules_per_question": ("joules_per_question", "value"),
    "flops_per_question": ("flops_per_question",),
    "memorised_rate": ("memorised_rate", "value"),
    MEMORISED: ("memorised_rate", "value"),
    "grounded_right_rate": ("grounded_right_rate", "value"),
    "crag_score": ("crag_score", "value"),
    "selective_risk": ("selective_risk", "value"),
    "risk_coverage": ("risk_coverage", "area"),
    "risk_at_most": ("risk_target", "at_most"),
    "first_token_p95": ("latency", "first_token", "p95"),
    "total_p95": ("latency", "total", "p95"),
    "errors": ("errors",),
    "missing": ("missing",),
}

NAMES = tuple(dict.fromkeys((*SCORES, *_PLACES)))


class Condition(NamedTuple):
    """A comparison that makes a run fail where it holds; of every scored system where `system` is empty."""

    system: str
    metric: str
    operator: str
    number: float

    def __str__(self) -> str:
        head = f"{self.system}: " if self.system else ""
        return f"{head}{self.metric} {self.operator} {self.number:g}"


def parse_condition(text: str) -> Condition:
    """Parse one condition. Raises `InvalidRequest` saying what is wrong with it."""
    found = _GRAMMAR.fullmatch(text.strip()) if len(text) <= MAX_CONDITION else None
    if found is None:
        raise InvalidRequest(
            f"{text[:80]!r} is no condition", hint='Write one comparison, like "f1 < 0.6" or "small: f1 < 0.6".'
        )
    metric = found["metric"].lower()
    if metric not in NAMES:
        raise InvalidRequest(f"{text!r}: there is no metric {metric!r}", hint=f"There are {', '.join(NAMES)}.")
    return Condition(found["system"] or "", metric, found["operator"], float(found["number"]))


def failures(report: dict[str, Any], conditions: Sequence[Condition]) -> list[str]:
    """Return a sentence for each condition and system that holds; none is good news.

    Raises `InvalidRequest` where a condition cannot be judged, because no such system, or none it is about, has the
    figure: a check that checks nothing must not pass.
    """
    return [sentence for condition in conditions for sentence in _failures(report, condition)]


def _failures(report: dict[str, Any], condition: Condition) -> list[str]:
    systems = report["systems"]
    if condition.system and condition.system not in systems:
        raise InvalidRequest(
            f"{condition}: the run has no system {condition.system!r}", hint=f"It has {', '.join(systems)}."
        )
    names = [condition.system] if condition.system else list(systems)
    values = {name: _value(systems[name], condition.metric) for name in names}
    judged = {name: value for name, value in values.items() if value is not None}
    if not judged:
        raise InvalidRequest(f"{condition}: {condition.metric} was not scored, so the condition cannot be judged")
    return [
        f"{name}: {condition.metric} is {value:.4g}, which is {condition.operator} {condition.number:g}"
        for name, value in judged.items()
        if _OPERATORS[condition.operator](value, condition.number)
    ]


def _value(system: dict[str, Any], metric: str) -> float | None:
    place: Any = system
    for key in _PLACES.get(metric, ("metrics", metric, "value")):
        place = place.get(key) if isinstance(place, dict) else None
    return float(place) if isinstance(place, int | float) else None

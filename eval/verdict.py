"""The verdict of a report in three sentences: who is right most often, what that costs, and what to do about it.

Composed from the report's own figures. A difference counts as more than chance where its p value after Holm's
correction is below 0.05, or, where there is none, where its 95% interval leaves 0 out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from eval.wording import TITLES, dollars, headline_metric, per_thousand, times

Report = dict[str, Any]

RIGHT = "right"
ALPHA = 0.05

# A system that was asked fewer of the questions may have had the easy ones: it is told of, not ranked.
_ENOUGH = 0.9


class Difference(NamedTuple):
    """One metric of `name` minus that of `other`, paired, with its 95% interval over `n` questions.

    `discordant` counts the questions that only `name`, and that only `other`, got right.
    """

    name: str
    other: str
    value: float
    low: float | None
    high: float | None
    n: int
    p: float | None
    p_holm: float | None
    discordant: tuple[int, int] | None = None

    @property
    def shown(self) -> bool:
        """Whether it is more than chance."""
        p = self.p if self.p_holm is None else self.p_holm
        if p is not None:
            return p < ALPHA
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def seen_from(self, name: str) -> "Difference":
        """Return the same difference as `name` minus the other one."""
        if name == self.name:
            return self
        low, high = (None if bound is None else -bound for bound in (self.high, self.low))
        discordant = None if self.discordant is None else (self.discordant[1], self.discordant[0])
        return self._replace(
            name=self.other, other=self.name, value=-self.value, low=low, high=high, discordant=discordant
        )


def verdict(report: Report) -> list[str]:
    """Return three sentences. Where nothing was scored, or nothing has a price, they say so."""
    metric = accuracy_metric(report)
    partial = too_few_questions(report)
    candidates = [name for name in ranked(report, metric) if name not in partial]
    ranking = [name for name in candidates if not is_oracle(name, report["systems"][name])]
    if not ranking:
        return [
            "Nothing was scored, so no system can be said to be better than another.",
            "What right answers cost is not known.",
            "Ask questions whose answers or relevant documents are known, and report again.",
        ]
    return [_accuracy(report, metric, ranking), _cost(report, metric, ranking), _advice(report, metric, ranking)]


def too_few_questions(report: Report) -> dict[str, tuple[int, int]]:
    """Return the systems that have rows for much fewer questions than others, each with how many of how many.

    They were stopped, or nobody recorded their answers. Where all are like that none is named.
    """
    systems = report.get("systems", {})
    counts = {
        name: (int(s.get("n") or 0), int(s.get("n") or 0) + int(s.get("missing") or 0)) for name, s in systems.items()
    }
    partial = {name: count for name, count in counts.items() if count[0] < _ENOUGH * count[1]}
    return {} if len(partial) == len(counts) else partial


def accuracy_metric(report: Report) -> str:
    """Return `right` where some system was scored in it, else the report's headline metric."""
    systems = report.get("systems", {})
    return RIGHT if any(_value(system, RIGHT) is not None for system in systems.values()) else headline_metric(report)


def ranked(report: Report, metric: str) -> list[str]:
    """Return the systems scored in a metric, best first."""
    values = {name: _value(system, metric) for name, system in report.get("systems", {}).items()}
    return sorted((name for name, value in values.items() if value is not None), key=lambda name: -(values[name] or 0))


def differences(report: Report, metric: str) -> list[Difference]:
    """Return the report's differences in a metric."""
    return [
        Difference(
            d.get("system", d.get("b")),
            d.get("baseline", d.get("a")),
            d["value"],
            d.get("low"),
            d.get("high"),
            d.get("n") or 0,
            d.get("p"),
            d.get("p_holm"),
            _discordant(d),
        )
        for d in report.get("differences") or []
        if d.get("metric") == metric and d.get("value") is not None
    ]


def percent(share: float) -> str:
    """Write a share as per cent with one decimal."""
    return f"{share * 100:.1f}%"


def points(difference: float) -> str:
    """Write a difference of shares in percentage points, without sign."""
    return f"{abs(difference) * 100:.1f} points"


def _accuracy(report: Report, metric: str, ranking: list[str]) -> str:
    best = ranking[0]
    figure = report["systems"][best]["metrics"][metric]
    interval = f" (95% interval {percent(figure['low'])} to {percent(figure['high'])})" if _bounded(figure) else ""
    if metric == RIGHT:
        told = f"{best} is right on {percent(figure['value'])} of {figure.get('n', 0):,} questions{interval}"
    else:
        title = TITLES.get(metric, metric)
        told = f"{best} has the highest {title}, {percent(figure['value'])} over {figure.get('n', 0):,} questions"
        told += interval
    if len(ranking) == 1:
        return f"{told}; it was the only system scored."
    second = ranking[1]
    found = _between(report, metric, best, second)
    if found is None:
        lead = figure["value"] - (_value(report["systems"][second], metric) or 0.0)
        return f"{told}, {points(lead)} more than {second}; the two were not compared question by question."
    if not round(found.value, 3):
        return f"{told}, level with {second}{_figures(found)}."
    if found.shown:
        return f"{told}, {points(found.value)} more than the next best, {second}{_figures(found)}: more than chance."
    return f"{told}, but its lead of {points(found.value)} on {second} may be chance{_figures(found)}."


def _cost(report: Report, metric: str, ranking: list[str]) -> str:
    best = ranking[0]
    costs = _costs(report, ranking)
    if not costs:
        return "What right answers cost is not known, because no price was stated or no answer was right."
    cheapest = min(costs, key=lambda name: costs[name]["value"])
    if best not in costs:
        known = f"; of the others {cheapest} is the cheapest, at {_money(costs[cheapest])}" if cheapest else ""
        return f"What right answers of {best} cost is not known{known}."
    told = f"1,000 right answers of {best} cost {_money(costs[best])}"
    others = [name for name in ranking if name in costs and name != best]
    if not others:
        return f"{told}; no other system has a known cost."
    if cheapest == best:
        second = min(others, key=lambda name: costs[name]["value"])
        apart = _apart(report, costs, best, second)
        return f"{told}, the least of all: the next, {second}, takes {_money(costs[second])}{apart}."
    ratio = costs[best]["value"] / costs[cheapest]["value"] if costs[cheapest]["value"] > 0 else None
    factor = f", {times(ratio)} that" if ratio and ratio >= 1.05 else ""
    told += f"{factor} of the cheapest, {cheapest}, at {_money(costs[cheapest])}{_apart(report, costs, best, cheapest)}"
    found = _between(report, metric, best, cheapest)
    if found is None:
        return f"{told}."
    chance = "more than chance" if found.shown else "which may be chance"
    return f"{told}, and {cheapest} is {points(found.value)} less accurate{_figures(found)}, {chance}."


def _advice(report: Report, metric: str, ranking: list[str]) -> str:
    best = ranking[0]
    if len(ranking) == 1:
        return "One system alone decides nothing: run another one on the same questions."
    limits = _limits(report, metric, best, ranking[1])
    costs = _costs(report, ranking)
    unbeaten = [name for name in ranking[1:] if (d := _between(report, metric, best, name)) and not d.shown]
    if best in costs:
        rivals = [name for name in ranking[1:] if name in costs and costs[name]["value"] < costs[best]["value"]]
        as_good = [name for name in rivals if name in unbeaten]
        if as_good:
            choice = min(as_good, key=lambda name: costs[name]["value"])
            return (
                f"Take {choice}: its right answers cost less, {_money(costs[choice])} for 1,000, and these questions "
                f"do not show it to be less accurate than {best}; they do not show it to be as accurate either{limits}."
            )
        if rivals:
            return _trade(report, metric, best, min(rivals, key=lambda name: costs[name]["value"])) + f"{limits}."
    reason = "it is the most accurate, and no cheaper one is known" if best in costs else "it is the most accurate"
    open_ = f"; whether it is really better than {unbeaten[0]} these questions cannot decide" if unbeaten else ""
    return f"Take {best}: {reason}{open_}{limits}."


def _trade(report: Report, metric: str, best: str, cheap: str) -> str:
    """Say what the better system's further right answers cost each: the incremental cost-effectiveness ratio."""
    systems = report["systems"]
    more_right = (_value(systems[best], metric) or 0.0) - (_value(systems[cheap], metric) or 0.0)
    more_cost = (systems[best].get("cost_per_question") or 0.0) - (systems[cheap].get("cost_per_question") or 0.0)
    if metric == RIGHT and more_right > 0 and more_cost > 0:
        each = dollars(more_cost / more_right)
        return f"Take {best} where one more right answer is worth {each} to you, else {cheap}, which costs less"
    return f"Take {best} where accuracy counts more than cost, else {cheap}"


def _limits(report: Report, metric: str, a: str, b: str) -> str:
    """Say which difference these questions could not show, where the report knows it for this pair or in general."""
    power = report.get("power") or {}
    if not isinstance(power, Mapping) or power.get("metric", metric) != metric:
        return ""
    pair = next((p for p in power.get("pairs") or [] if {p.get("a"), p.get("b")} == {a, b}), power)
    smallest = pair.get("smallest_difference")
    if not isinstance(smallest, int | float):
        return ""
    return f" ({pair.get('n') or 'these'} questions cannot show a difference below about {points(smallest)})"


def is_oracle(name: str, system: Mapping[str, Any]) -> bool:
    """Whether the relevant documents were handed over: a bound for the others, and nothing that anybody can run."""
    return bool(system.get("oracle")) or "oracle" in name.lower()


def _between(report: Report, metric: str, best: str, other: str) -> Difference | None:
    found = (d for d in differences(report, metric) if {d.name, d.other} == {best, other})
    return next((d.seen_from(best) for d in found), None)


def _discordant(difference: Mapping[str, Any]) -> tuple[int, int] | None:
    counts = difference.get("discordant")
    return (counts[1], counts[0]) if counts else None


def _figures(found: Difference) -> str:
    parts = []
    if found.low is not None and found.high is not None:
        parts.append(f"95% interval {found.low * 100 + 0.0:+.1f} to {found.high * 100 + 0.0:+.1f}")
    if found.p_holm is not None:
        parts.append(f"p after Holm {written_p(found.p_holm)}")
    elif found.p is not None:
        parts.append(f"p {written_p(found.p)}")
    return f" ({', '.join(parts)})" if parts else ""


def written_p(p: float) -> str:
    """Write a p value with its sign of comparison."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def _costs(report: Report, names: list[str]) -> dict[str, dict[str, Any]]:
    """Costs per right answer that are known."""
    costs = {name: report["systems"][name].get("cost_per_right") or {} for name in names}
    return {name: cost for name, cost in costs.items() if cost.get("value") is not None}


def _money(cost: Mapping[str, Any]) -> str:
    interval = f" ({per_thousand(cost['low'])} to {per_thousand(cost['high'])})" if _bounded(cost) else ""
    return f"{per_thousand(cost['value'])}{interval}"


def _apart(report: Report, costs: Mapping[str, Mapping[str, Any]], a: str, b: str) -> str:
    """Say whether two costs differ by more than chance: by the paired difference, or whether their intervals meet."""
    found = _between(report, "cost_per_right", a, b)
    if found is not None:
        return ", more than chance" if found.shown else ", which may be chance"
    if not _bounded(costs[a]) or not _bounded(costs[b]):
        return ""
    apart = costs[a]["low"] > costs[b]["high"] or costs[b]["low"] > costs[a]["high"]
    return ", more than chance" if apart else ", which may be chance"


def _bounded(figure: Mapping[str, Any]) -> bool:
    return figure.get("low") is not None and figure.get("high") is not None


def _value(system: Mapping[str, Any], metric: str) -> float | None:
    value = (system.get("metrics") or {}).get(metric, {}).get("value")
    return None if value is None else float(value)

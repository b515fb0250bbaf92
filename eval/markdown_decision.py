"""The part of `report.md` that decisions rest on: what a right answer costs and takes, what the questions show."""

from collections.abc import Callable, Iterator
from typing import Any

from eval.measurements import HUMAN
from eval.wording import TITLES, UNKNOWN, dollars, interval, per_thousand, seconds, share

Report = dict[str, Any]

TRUST_TITLES = {
    "right_grounded": "right, by the cited text",
    "right_remembered": "right, but not by the cited text",
    "wrong_misread": "wrong, by the cited text",
    "wrong_made_up": "wrong, made up",
    "abstained_rightly": "abstained rightly",
    "abstained_wrongly": "abstained wrongly",
}


def further_rows(report: Report) -> Iterator[list[str]]:
    """What a right answer costs, takes and rests on: a row only where some system has it."""
    figures: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("right, by a person's verdict", lambda s: _score(s["metrics"][HUMAN])),
        ("cost of 1,000 right answers", lambda s: _priced(s["cost_per_right"])),
        ("energy a question", lambda s: _energy(s["joules_per_question"])),
        ("operations a question", lambda s: _operations(s["flops_per_question"])),
        ("wrong among the answers given", lambda s: _counted(s["selective_risk"])),
        ("area under risk against coverage", lambda s: _counted(s["risk_coverage"])),
        ("first token, median and 95th percentile", lambda s: _waits(s["latency"]["first_token"])),
        *((title, _share_of(name)) for name, title in TRUST_TITLES.items()),
    ]
    for title, write in figures:
        cells = [write(system) for system in report["systems"].values()]
        if any(cell != UNKNOWN for cell in cells):
            yield [title, *cells]


def risk_sentences(report: Report) -> Iterator[str]:
    """Say of each system with a risk target what came of it."""
    for name, system in report["systems"].items():
        if (target := system["risk_target"]) is not None:
            yield f"`{name}` was to have at most {target['target']:.0%} of its answers wrong: {_came_of(target)}."


def _came_of(target: dict[str, Any]) -> str:
    if not target["attainable"]:
        return "that is not attainable with this model and these documents, so that it answered nothing"
    if not target["answered"]:
        return "no answer was sure enough"
    counts = f"{target['wrong']:,} of {target['answered']:,} were ({target['value']:.1%})"
    bounds = f"with {target['confidence']:.0%} confidence each at least {target['at_least']:.1%}, at most "
    return f"{counts}, {bounds}{target['at_most']:.1%}: {target['outcome']}"


def _counted(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return UNKNOWN
    value = figure["area"] if "area" in figure else figure["value"]
    return f"{share(value)} ({share(figure['low'])} to {share(figure['high'])}), n = {figure['n']:,}"


def _priced(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return UNKNOWN
    high = "no bound" if figure["high"] is None else per_thousand(figure["high"])
    return f"{per_thousand(figure['value'])} ({per_thousand(figure['low'])} to {high})"


def _energy(figure: dict[str, Any] | None) -> str:
    return UNKNOWN if figure is None else f"{figure['value']:.3g} J {figure['kind']}"


def _operations(flops: float | None) -> str:
    return UNKNOWN if flops is None else f"{flops / 1e9:,.3g} G"


def _waits(quantiles: dict[str, float | None]) -> str:
    return UNKNOWN if quantiles["p50"] is None else f"{seconds(quantiles['p50'])}, {seconds(quantiles['p95'])}"


def _score(figure: dict[str, Any] | None) -> str:
    return UNKNOWN if figure is None or figure["value"] is None else interval(figure)


def _share_of(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda system: share(system["trust"][name]) if system["trust"] else UNKNOWN


def decision(report: Report) -> Iterator[str]:
    """What the questions can show, from how many questions a month the machine pays, what the small model is worth."""
    lines = [*_power_lines(report["power"]), *map(_break_even_line, report["break_even"])]
    lines += [f"- {entry['says']}" for entry in (report["scale"] or {}).get("systems", ())]
    if lines:
        yield "## What it takes"
        yield "\n".join(lines)
        ladder = (report["scale"] or {}).get("ladder", ())
        rungs = [f"`{r['name']}` {r['parameters'] / 1e6:,.0f} M ({r['kind']}) {share(r['accuracy'])}" for r in ladder]
        if rungs:
            yield f"Closed-book systems by size, with the share they have right: {', '.join(rungs)}."


def _power_lines(power: dict[str, Any] | None) -> Iterator[str]:
    if power is None:
        return
    title = TITLES.get(power["metric"], power["metric"])
    for pair in power["pairs"]:
        smallest, more = pair["smallest_difference"], pair["more_needed"]
        shows = "can show no difference" if smallest is None else f"can show a difference of {share(smallest)}"
        wanted = (
            f"; {more:,} more would show the observed {pair['observed']:+.3f}" if more and not pair["shown"] else ""
        )
        yield f"- {title}, `{pair['b']}` minus `{pair['a']}`: {pair['n']:,} questions {shows}{wanted}."


def _break_even_line(even: dict[str, Any]) -> str:
    told = (
        f"- The machine of `{even['local']}` at {dollars(even['monthly_price'])} a month costs less than "
        f"`{even['endpoint']}` from {even['questions_a_month']:,.0f} questions a month on"
    )
    if even["within_capacity"]:
        return f"{told}; it can answer {even['capacity_a_month']:,.0f}."
    return f"{told}, but can answer {even['capacity_a_month']:,.0f} only: it is never cheaper."

"""The sections of a report's page that are tables: systems, cost, differences, setting."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from markupsafe import Markup

from eval.html_page import Page, metric_title, percent
from eval.html_parts import (
    MOST_ROWS,
    Section,
    breakable,
    estimate,
    facts,
    figure,
    folded,
    paragraph,
    table,
    told,
    without_empty_columns,
)
from eval.markup import Child, joined, tag
from eval.measurements import COST, SECONDS
from eval.selective import quantile_interval
from eval.system_row import changed_settings
from eval.verdict import RIGHT, Difference, accuracy_metric, differences, written_p
from eval.wording import MEANINGS, UNKNOWN, dollars, per_thousand, seconds

_MONEY = (COST, "cost_per_right")


_SHORT = {"errors": "failed", "missing": "missing"}


def systems(page: Page) -> Section:
    """Compare the systems at a glance, then in every metric."""
    metric = accuracy_metric(page.report)
    head: list[Child] = [
        "system",
        metric_title(metric),
        "cost of 1,000 right answers",
        "cost of 1,000 questions",
        "seconds, median",
        "right and grounded",
        "CRAG score",
        "answered",
        "declined the un\u00adanswer\u00adable",
        "recall@5",
    ]
    rows = [_glance(page, name, metric) for name in page.systems]
    kept, cells = without_empty_columns(head, rows)
    names = list(page.systems)
    found = {m for system in page.systems.values() for m, f in system["metrics"].items() if f.get("value") is not None}
    # In the order that the report has them.
    metrics = [m for m in dict.fromkeys(m for s in page.systems.values() for m in s["metrics"]) if m in found]
    everything = table(
        "Every metric, with its 95% interval and the number of questions scored",
        ["metric", *names],
        [
            [metric_title(m), *(estimate(page.systems[name]["metrics"].get(m), _score) for name in names)]
            for m in metrics
        ],
    )
    meanings = tag(
        "dl", *(tag("div", tag("dt", metric_title(m)), tag("dd", MEANINGS[m])) for m in metrics if m in MEANINGS)
    )
    main = table("The systems, each figure with its 95% interval and number of questions", kept, cells)
    body = main + (folded("Every metric", everything, meanings) if metrics else paragraph("Nothing was scored."))
    return Section("systems", "The systems side by side", body)


def cost(page: Page) -> Section:
    """Show dollars, joules, floating-point operations and tokens."""
    head: list[Child] = [
        "system",
        "cost of 1,000 questions",
        "cost of 1,000 right answers",
        "energy of a question",
        "computing of a question",
        "tokens read + written",
        "prices",
    ]
    rows = [_cost_row(name, system) for name, system in page.systems.items()]
    kept, cells = without_empty_columns(head, rows)
    if len(kept) == 1:
        return Section("cost", "Cost, energy, computing", None, "no price was stated and no tokens were counted")
    note = paragraph(
        "Cost carries its 95% interval over the questions; whether energy was measured or estimated stands beside it. "
        "Computing is counted in floating-point operations, from the architecture and the tokens: a mean that has no "
        "interval beyond that of the tokens."
    )
    return Section("cost", "Cost, energy, computing", table("Cost, energy, computing", kept, cells) + note)


def compared(page: Page) -> Section:
    """List the paired differences, the headline metric first."""
    title = "Differences, paired by question"
    headline = accuracy_metric(page.report)
    metrics = list(dict.fromkeys(d["metric"] for d in page.report.get("differences") or []))
    metrics.sort(key=lambda metric: metric != headline)
    tables = [(metric, _difference_table(metric, differences(page.report, metric))) for metric in metrics]
    shown = [(metric, made) for metric, made in tables if made]
    if not shown:
        return Section("differences", title, None, "one system alone has nothing to be compared with")
    first, rest = shown[0], shown[1:]
    note = paragraph(
        "Both systems of a pair are compared on the same questions. p is the chance of such a difference or a larger "
        "one if there were none (McNemar's exact test for right and wrong, paired bootstrap otherwise); Holm's "
        "correction allows for the number of pairs. A difference not shown is not shown to be absent."
    )
    others = folded("The other metrics", *(made for _, made in rest)) if rest else Markup("")
    return Section("differences", title, first[1] + note + others)


def power(page: Page) -> Section:
    """Say which difference this number of questions can show."""
    title = "What this number of questions can show"
    found = page.report.get("power")
    if not found:
        return Section("power", title, None, "the smallest difference that could be shown was not computed")
    smallest = found.get("smallest_difference") if isinstance(found, dict) else None
    sentence = "Differences smaller than the smallest listed for a pair are not decided by this run."
    if smallest is not None:
        sentence = (
            f"Between any two of the systems a difference of {smallest * 100:.1f} points would most likely be shown; "
            "smaller ones this run may leave undecided."
        )
    return Section("power", title, paragraph(sentence) + facts(found, title))


def break_even(page: Page) -> Section:
    """Say from how many questions a month on the local machine is cheaper."""
    title = "From how many questions a machine of one's own is cheaper"
    found = page.report.get("break_even") or []
    records = [found] if isinstance(found, dict) else found
    if not records:
        why = "it takes a local system with a machine price and an endpoint with token prices"
        return Section("break_even", title, None, why)
    sentences = [paragraph(_break_even(record)) for record in records if record.get("questions_a_month") is not None]
    return Section("break_even", title, joined(sentences) + folded("The figures", facts(records, title)))


def scale(page: Page) -> Section:
    """Say how large a model without documents would have to be."""
    title = "How large a model without documents would have to be"
    found = page.report.get("scale")
    if not found:
        why = "it takes a ladder of closed-book systems of known size, and one with retrieval"
        return Section("scale", title, None, why)
    sentences = [paragraph(one["says"]) for one in found.get("systems") or [] if one.get("says")]
    return Section("scale", title, joined(sentences) + folded("The ladder and the figures", facts(found, title)))


def setting(page: Page) -> Section:
    """Say how all this was measured."""
    report = page.report
    machine, data, statistics = report.get("machine") or {}, report.get("data") or {}, report.get("statistics") or {}
    memory = machine.get("memory_bytes")
    terms: dict[str, Any] = {
        "data set": data.get("name"),
        "kind": data.get("kind"),
        "licence": data.get("license"),
        "source": data.get("source"),
        "questions": f"{data.get('questions', 0):,} ({data.get('answerable', 0):,} answerable, "
        f"{data.get('unanswerable', 0):,} not) over {data.get('documents', 0):,} documents",
        "digest of the questions": data.get("digest"),
        "date": machine.get("date"),
        "machine": f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores, "
        f"{f'{memory / 2**30:.1f} GiB of memory' if memory else 'unknown memory'}, {machine.get('system', '')}",
        "software": ", ".join(
            [f"Python {machine.get('python', '?')}", *(f"{k} {v}" for k, v in (machine.get("versions") or {}).items())]
        ),
        "intervals": f"{statistics.get('level', 0.95):.0%}; {statistics.get('method', '')}, "
        f"{statistics.get('resamples', 0):,} resamples, seed {statistics.get('seed', '')}",
    }
    known = {term: told for term, told in terms.items() if told is not None}
    rows: list[list[Child]] = [
        [name, _generator(system), "yes" if system.get("retrieval") else "no", _settings(system), system.get("date")]
        for name, system in page.systems.items()
    ]
    head: list[Child] = ["system", "model", "documents", "settings that differ from the built-in ones", "measured"]
    notes = [paragraph(tag("b", "Note: "), note) for note in report.get("notes") or []]
    body = facts(known, "Setting") + table("The systems and their settings", head, rows) + joined(notes)
    return Section("setting", "How it was measured", body)


def _glance(page: Page, name: str, metric: str) -> list[Child]:
    system = page.systems[name]
    metrics, n = system["metrics"], system.get("n") or 0
    crag = system.get("crag_score") or metrics.get("crag")
    counts = [f"{n:,} questions", *(f"{system[key]:,} {word}" for key, word in _SHORT.items() if system.get(key))]
    return [
        told(breakable(name), *counts),
        estimate(metrics.get(metric), percent),
        estimate(system.get("cost_per_right"), per_thousand, n),
        estimate(system.get("cost_per_question_interval"), per_thousand),
        _median(page, name),
        estimate(system.get("grounded_right_rate"), percent, n),
        estimate(crag, lambda value: f"{value:+.3f}", n),
        estimate(metrics.get("coverage"), percent),
        estimate(metrics.get("abstention_recall"), percent),
        estimate(metrics.get("recall@5"), percent) if metric != RIGHT else UNKNOWN,
    ]


def _median(page: Page, name: str) -> Markup:
    values = page.digest.column(name, "total")
    if not len(values):
        return joined([UNKNOWN])
    return figure(float(np.median(values)), *quantile_interval(values, 0.5), len(values), seconds)


def _score(value: float) -> str:
    return f"{value:.3f}"


def _cost_row(name: str, system: dict[str, Any]) -> list[Child]:
    n = system.get("n") or 0
    joules, flops = system.get("joules_per_question") or {}, system.get("flops_per_question")
    means = (system.get("tokens") or {}).get("per_question") or {}
    energy: Child = UNKNOWN
    if joules.get("value") is not None:
        energy = estimate(joules, _joules) + tag("small", str(joules.get("kind", "")), class_="beside")
    prices = ", ".join(
        f"{dollars(price)} {key.removeprefix('price_').replace('_', ' ')}"
        for key, price in (system.get("prices") or {}).items()
        if isinstance(price, int | float)
    )
    return [
        name,
        estimate(system.get("cost_per_question_interval"), per_thousand),
        estimate(system.get("cost_per_right"), per_thousand, n),
        energy,
        UNKNOWN if flops is None else _flops(flops),
        f"{means['prompt']:,.0f} + {means.get('completion') or 0:,.0f}" if means.get("prompt") else UNKNOWN,
        prices or UNKNOWN,
    ]


def _joules(value: float) -> str:
    return f"{value:,.0f} J" if value >= 100 else f"{value:.3g} J"


def _flops(value: float) -> str:
    for name, size in (("peta", 1e15), ("tera", 1e12), ("giga", 1e9), ("mega", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {name}FLOP"
    return f"{value:.3g} FLOP"


def _difference_table(metric: str, found: list[Difference]) -> Markup | None:
    if not found:
        return None
    write = _writer(metric)
    rows: list[list[Child]] = [
        [
            f"{d.name} minus {d.other}",
            figure(d.value, d.low, d.high, d.n, write),
            UNKNOWN if d.p is None else written_p(d.p).removeprefix("= "),
            UNKNOWN if d.p_holm is None else written_p(d.p_holm).removeprefix("= "),
            UNKNOWN if d.discordant is None else f"{d.discordant[0]:,} and {d.discordant[1]:,}",
            "yes" if d.shown else "not shown",
        ]
        for d in found[:MOST_ROWS]
    ]
    head: list[Child] = [
        "pair",
        "difference",
        "p",
        "p after Holm",
        "only the one, only the other right",
        "more than chance",
    ]
    return table(f"Differences in {_difference_title(metric)}", *without_empty_columns(head, rows))


def _difference_title(metric: str) -> str:
    if metric in _MONEY:
        return "cost of a question" if metric == COST else "cost of a right answer"
    return metric_title(metric)


def _writer(metric: str) -> Callable[[float], str]:
    if metric in _MONEY:
        return lambda value: _signed(value, dollars)
    if metric in (SECONDS, "first_token", "total"):
        return lambda value: _signed(value, seconds)
    if metric in (RIGHT, "grounded"):
        return lambda value: f"{value * 100:+.1f} points"
    return lambda value: f"{value:+.3f}" if abs(value) < 1e6 else _signed(value, _flops)


def _signed(value: float, write: Callable[[float], str]) -> str:
    return f"{'-' if value < 0 else '+'}{write(abs(value))}"


def _break_even(record: dict[str, Any]) -> str:
    local, endpoint = record.get("local", "the machine"), record.get("endpoint", "the endpoint")
    sentence = f"From {record['questions_a_month']:,.0f} questions a month on, {local} costs less than {endpoint}"
    if record.get("within_capacity") is False:
        capacity = record.get("capacity_a_month") or 0
        sentence += f"; one machine answers only {capacity:,.0f} a month, so it never does"
    return f"{sentence}."


def _generator(system: dict[str, Any]) -> str:
    generator = system.get("generator")
    if isinstance(generator, dict):
        return ", ".join(str(value) for key, value in generator.items() if key != "api_key_env")
    return str(generator) if generator else "no language model"


def _settings(system: dict[str, Any]) -> str:
    changed = changed_settings(system.get("settings") or {})
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in changed.items()) or "none"

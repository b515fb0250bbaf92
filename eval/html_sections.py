"""The pictured sections of a report's page: accuracy against cost, trust, risk, latency."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from eval import html_charts as charts
from eval.html_page import TRUST, Page, Trust, metric_title, percent
from eval.html_parts import Section, drawing, figure, figures_below, paragraph, table, told
from eval.markup import Child, joined, tag
from eval.plot import Frame, Point, draw, pareto_front, place_on_x
from eval.selective import quantile_interval, share_interval
from eval.svg import ON_PAGE
from eval.verdict import accuracy_metric, is_oracle
from eval.wording import UNKNOWN, dollars, seconds


def accuracy_against_cost(page: Page) -> Section:
    """Place the systems on the plane of cost and accuracy, with the front that nothing beats."""
    metric = accuracy_metric(page.report)
    priced = any(place_on_x(system, True) for system in page.systems.values())
    found, left_out = [], []
    for name, system in page.systems.items():
        y, x = system["metrics"].get(metric) or {}, place_on_x(system, priced)
        if x is None or any(y.get(key) is None for key in ("value", "low", "high")):
            left_out.append(name)
        else:
            found.append((page.series(name), Point(name, x, (y["value"], y["low"], y["high"]))))
    title = "Accuracy against cost" if priced else "Accuracy against seconds"
    if not found:
        return Section("plane", title, None, "no system has both an accuracy and a cost or a duration")
    points = [point for _, point in found]
    bounds = [point for point in points if is_oracle(point.name, page.systems[point.name])]
    front = pareto_front([point for point in points if point not in bounds])
    label = "US dollars per 1,000 questions" if priced else "seconds per question"
    ink = ON_PAGE._replace(series=tuple(ON_PAGE.of(i) for i, _ in found))

    def plane(width: int) -> Markup:
        wide = width == charts.WIDE
        frame = Frame(width, 430 if wide else 340, 64 if wide else 60, 20 if wide else 12, 14, 50)
        return draw(
            points,
            x_label=label,
            y_label=metric_title(metric),
            title=f"{title}: {_told(points, label)}",
            ink=ink,
            frame=frame,
            front=front,
            prefer_logarithmic=True,
        )

    caption = (
        f"Each system at its {metric_title(metric)} and its {label}; bars are 95% intervals. Up and to the left is "
        "better. "
    )
    if len(front) > 1:
        caption += "The dashed line joins those that no other beats in both: " + ", ".join(p.name for p in front) + "."
    elif front:
        caption += f"{front[0].name} is beaten by no other in either."
    if bounds:
        caption += f" Handed the right documents, and so a bound for the others: {', '.join(p.name for p in bounds)}."
    if left_out:
        caption += f" Left out, because accuracy or {'price' if priced else 'duration'} is unknown: "
        caption += ", ".join(left_out) + "."
    rows = [
        [
            p.name,
            figure(*p.y, _n(page, p.name, metric), percent),
            figure(*p.x, page.systems[p.name]["n"], dollars if priced else seconds),
            "a bound" if p in bounds else "yes" if p in front else "no",
        ]
        for p in points
    ]
    head = ["system", metric_title(metric), label, "unbeaten"]
    return Section("plane", title, drawing(charts.both_widths(plane), caption, figures_below(title, head, rows)))


def trust(page: Page) -> Section:
    """Show how answers come about: right or wrong, from the documents or not, declined rightly or wrongly."""
    title = "Can it be trusted?"
    known = {name: system["trust"] for name, system in page.systems.items() if system.get("trust")}
    if not known:
        return Section("trust", title, None, "no answers were judged for being supported by the cited text")
    bars = [
        charts.Stack(
            f"{name} (n = {_trust_n(page, name):,})",
            [charts.Part(shares.get(t.key) or 0.0, t.title, t.fill, f"on-{t.fill}") for t in TRUST],
        )
        for name, shares in known.items()
    ]
    told = "; ".join(
        f"{name}: " + ", ".join(f"{t.title} {shares.get(t.key) or 0.0:.0%}" for t in TRUST)
        for name, shares in known.items()
    )
    picture = charts.both_widths(lambda width: charts.stacks(bars, title=f"Trust split. {told}", width=width))
    rows: list[list[Child]] = [
        [name, *(_share(shares.get(t.key), _trust_n(page, name)) for t in TRUST)] for name, shares in known.items()
    ]
    legend = tag("ul", *(_legend_entry(t) for t in TRUST), class_="key")
    caption = "What became of every question. Supported means that the cited text holds the answer."
    memory = [
        [name, figure(rate.get("value"), rate.get("low"), rate.get("high"), rate.get("n"), percent)]
        for name, system in page.systems.items()
        if (rate := system.get("memorised_rate"))
    ]
    remembered = (
        table("Answers kept although the documents had been changed to say otherwise", ["system", "memorised"], memory)
        if memory
        else paragraph("How much is memorised was not measured: there is no counterfactual run.")
    )
    head = ["system", *(t.title for t in TRUST)]
    return Section(
        "trust", title, drawing(picture, caption, figures_below(title, head, rows), legend=legend) + remembered
    )


def risk(page: Page) -> Section:
    """Show the share of wrong answers among the surest, as more are given."""
    title = "What it costs to answer more"
    kept = _promises(page)
    found = [(name, curve) for name, system in page.systems.items() if (curve := system.get("risk_coverage"))]
    if not found:
        return Section("risk", title, kept, "no system says how sure it is of answers that were judged")
    lines = [charts.Curve(page.series(name), name, curve["points"]) for name, curve in found]
    told = ", ".join(f"{name}: area {curve['area']:.3f}" for name, curve in found)
    picture = charts.both_widths(
        lambda width: charts.curves(
            lines,
            title=f"Risk against coverage. {told}",
            x_label="share of the questions answered, surest first",
            y_label="wrong among them",
            width=width,
        )
    )
    rows: list[list[Child]] = [
        [
            name,
            _abstaining(page, name),
            figure(curve["area"], curve["low"], curve["high"], curve["n"], lambda value: f"{value:.3f}"),
            _share(curve["risk"], curve["n"]),
            _share(curve["n"] / curve["asked"], curve["asked"]),
        ]
        for name, curve in found
    ]
    caption = (
        "Answers are given from the surest on. The area is the mean height of the curve (0 is best); a confidence that "
        "tells nothing would give the last column but one, the share of wrong answers among all given. A question "
        "without an answer in the documents counts as wrong where it was answered. Where abstention was on, the curve "
        "ends at the answers that were given."
    )
    head = ["system", "abstention", "area under the curve", "wrong among all answers", "questions answered"]
    legend = charts.key([(page.series(name), name) for name, _ in found])
    shown = drawing(picture, caption, legend=legend) + table("Risk and coverage", head, rows)
    return Section("risk", title, shown + (kept or Markup("")))


_OUTCOMES = {
    "kept": "kept, by the upper bound",
    "broken": "broken, by the lower bound",
    "undecided": "undecided by so few answers",
}


def _promises(page: Page) -> Markup | None:
    """Show risk targets beside what came of them; None where no system had one."""
    targets = {name: target for name, system in page.systems.items() if (target := system.get("risk_target"))}
    if not targets:
        return None
    head: list[Child] = ["system", "target", "wrong among the answers given", "at least", "at most", "the target is"]
    rows: list[list[Child]] = [
        [
            name,
            percent(target["target"]),
            told(percent(target["value"]), f"{target['wrong']:,} of {target['answered']:,}"),
            percent(target["at_least"]),
            percent(target["at_most"]),
            _OUTCOMES[target["outcome"]],
        ]
        if target["answered"]
        else [
            name,
            percent(target["target"]),
            *[UNKNOWN] * 3,
            "no answer was sure enough" if target["attainable"] else "not attainable",
        ]
        for name, target in targets.items()
    ]
    note = paragraph(
        "A risk target is the largest share of wrong answers among those given that a system was allowed. The bounds "
        "are exact and one-sided, at 95% each (Clopper and Pearson), and take the questions as independent."
    )
    return table("Risk targets and what came of them", head, rows) + note


def latency(page: Page) -> Section:
    """Show how long answers take: to their first token, and in all."""
    title = "How long it takes"
    parts = [_durations(page, "first_token", "Seconds to the first token"), _durations(page, "total", "Seconds in all")]
    shown = [part for part in parts if part]
    if not shown:
        return Section("latency", title, None, "no durations were measured; answers from a file have none")
    note = paragraph("" if all(parts) else "The time to the first token was not measured.")
    return Section("latency", title, joined(shown) + (Markup("") if all(parts) else note))


def _durations(page: Page, name: str, title: str) -> Markup | None:
    columns = {system: values for system in page.systems if len(values := page.digest.column(system, name))}
    if not columns:
        return None
    rows: list[list[Child]] = []
    bars = []
    for system, values in columns.items():
        q5, q25, q50, q75, q95 = (float(q) for q in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]))
        told = f"{_brief(q50)} / {_brief(q95)}"
        bars.append(charts.Box(page.series(system), system, (q5, q25, q50, q75, q95), told))
        rows.append(
            [
                system,
                figure(q50, *quantile_interval(values, 0.5), len(values), seconds),
                figure(q95, *quantile_interval(values, 0.95), len(values), seconds),
            ]
        )
    words = "; ".join(f"{bar.name}: median {seconds(bar.quantiles[2])}" for bar in bars)
    picture = charts.both_widths(
        lambda width: charts.boxes(bars, title=f"{title}. {words}", unit="seconds", width=width)
    )
    caption = (
        f"{title}: the box holds the middle half of the questions, the whiskers run from 5% to 95%; beside it "
        "median / 95th percentile. Seconds of different machines must not be compared."
    )
    return drawing(picture, caption, table(title, ["system", "median", "95th percentile"], rows))


def _brief(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _share(share: float | None, n: int) -> Markup:
    if share is None or not n:
        return joined([UNKNOWN])
    return figure(share, *share_interval(share * n, n), n, percent)


def _legend_entry(kind: Trust) -> Markup:
    return tag(
        "li",
        tag("i", class_=f"swatch {kind.fill}", aria_hidden="true"),
        tag("span", tag("b", kind.title), f": {kind.meaning}"),
    )


def _abstaining(page: Page, name: str) -> str:
    enabled = ((page.systems[name].get("settings") or {}).get("abstention") or {}).get("enabled")
    return UNKNOWN if enabled is None else "on" if enabled else "off"


def _trust_n(page: Page, name: str) -> int:
    counted = sum(fact.trust is not None for fact in page.digest.facts.get(name, {}).values())
    return counted or int(page.systems[name].get("n") or 0)


def _n(page: Page, name: str, metric: str) -> int:
    return int((page.systems[name]["metrics"].get(metric) or {}).get("n") or 0)


def _told(points: Sequence[Point], label: str) -> str:
    return "; ".join(f"{point.name} {point.y[0]:.1%} at {point.x[0]:.3g} {label}" for point in points)

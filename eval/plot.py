"""The picture of a report: accuracy against cost, each system a point with the bars of its intervals, as plain SVG."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

from eval.wording import TITLES, headline_metric

PLOT = "accuracy.svg"

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 50, 60

# Distinct to the colour-blind as well (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

# From this ratio of dearest to cheapest on, cheap systems would sit on top of each other on a linear axis.
_LOGARITHMIC_FROM = 8.0


class Point(NamedTuple):
    """One system: `x` cost or seconds, `y` accuracy, each as value, low, high."""

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]


class Axis(NamedTuple):
    """Values to pixels, with the values that get a tick."""

    place: Callable[[float], float]
    ticks: Sequence[float]


def report_plot(report: dict[str, Any]) -> str:
    """Draw a report's headline metric against cost, or seconds where a cost is not known; "" without two figures."""
    systems = report["systems"]
    metric = headline_metric(report)
    by_cost = all(system["cost_per_question"] is not None for system in systems.values() if system["n"])
    points = [
        Point(name, x, (y["value"], y["low"], y["high"]))
        for name, system in systems.items()
        if (y := system["metrics"][metric])["value"] is not None and (x := _x(system, by_cost)) is not None
    ]
    x_label = "US dollars per 1,000 questions" if by_cost else "seconds per question"
    return draw(
        points, x_label=x_label, y_label=TITLES[metric], title=f"{TITLES[metric]} on {report['data'].get('name', '')}"
    )


def draw(points: Sequence[Point], *, x_label: str, y_label: str, title: str) -> str:
    """Return the SVG text; "" where there is nothing to draw."""
    if not points:
        return ""
    x = _x_axis([value for point in points for value in point.x])
    y = _linear(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#222222" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 28, f"{title}, bars: 95% intervals", weight=600),
        *(_horizontal(y.place(tick), f"{tick:g}") for tick in y.ticks),
        *(_vertical(x.place(tick), f"{tick:g}") for tick in x.ticks),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label, anchor="middle"),
        f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
        *(_marker(point, COLOURS[i % len(COLOURS)], x, y) for i, point in enumerate(points)),
        *_labels(points, x, y),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _x(system: dict[str, Any], by_cost: bool) -> tuple[float, float, float] | None:
    if by_cost:
        cost = system["cost_per_question_interval"]
        return None if cost["value"] is None else (cost["value"] * 1000, cost["low"] * 1000, cost["high"] * 1000)
    seconds = system["seconds_per_question"]
    return None if seconds["mean"] is None else (seconds["mean"], seconds["low"], seconds["high"])


def _x_axis(values: Sequence[float]) -> Axis:
    positive = [value for value in values if value > 0]
    if len(positive) == len(values) and max(values) / min(values) > _LOGARITHMIC_FROM:
        return _logarithmic(min(values) / 1.3, max(values) * 1.3, LEFT, WIDTH - RIGHT)
    return _linear(0.0, (max(positive) if positive else 1.0) * 1.15, LEFT, WIDTH - RIGHT)


def _linear(low: float, high: float, begin: float, end: float) -> Axis:
    step = _nice_step((high - low) / 5)
    ticks = [round(low + i * step, 12) for i in range(int((high - low) / step + 1e-9) + 1)]
    return Axis(lambda value: begin + (value - low) / (high - low) * (end - begin), ticks)


def _logarithmic(low: float, high: float, begin: float, end: float) -> Axis:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [tick for d in decades for f in factors if low <= (tick := round(f * 10.0**d, 12 - min(d, 0))) <= high]
    span = math.log(high / low)
    return Axis(lambda value: begin + math.log(value / low) / span * (end - begin), ticks)


def _nice_step(rough: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten above `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _marker(point: Point, colour: str, x: Axis, y: Axis) -> str:
    centre_x, low_x, high_x = (x.place(value) for value in point.x)
    centre_y, low_y, high_y = (y.place(value) for value in point.y)
    return (
        f'<g stroke="{colour}" stroke-width="2">'
        f'<line x1="{low_x:.1f}" x2="{high_x:.1f}" y1="{centre_y:.1f}" y2="{centre_y:.1f}"/>'
        f'<line x1="{centre_x:.1f}" x2="{centre_x:.1f}" y1="{low_y:.1f}" y2="{high_y:.1f}"/>'
        f'<circle cx="{centre_x:.1f}" cy="{centre_y:.1f}" r="5" fill="{colour}"/></g>'
    )


def _labels(points: Sequence[Point], x: Axis, y: Axis) -> list[str]:
    """Put each name beside its point, on the side with room, pushed down where names would overlap."""
    taken: list[tuple[float, float, float]] = []
    labels = []
    for i, point in sorted(enumerate(points), key=lambda item: -item[1].y[0]):
        centre, width = x.place(point.x[0]), 7.5 * len(point.name)
        leftwards = centre + 12 + width > WIDTH - RIGHT
        begin = centre - 10 - width if leftwards else centre + 10
        height = y.place(point.y[0]) - 8
        while any(begin < t_end and t_begin < begin + width and abs(height - t) < 15 for t_begin, t_end, t in taken):
            height += 15
        taken.append((begin, begin + width, height))
        anchor, place = ("end", centre - 10) if leftwards else ("start", centre + 10)
        labels.append(_text(place, height, point.name, anchor=anchor, colour=COLOURS[i % len(COLOURS)]))
    return labels


def _horizontal(place: float, label: str) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}" stroke="#e3e3e3"/>'
    return line + _text(LEFT - 8, place + 4, label, anchor="end")


def _vertical(place: float, label: str) -> str:
    line = f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e3e3e3"/>'
    return line + _text(place, HEIGHT - BOTTOM + 18, label, anchor="middle")


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: int = 400, colour: str = "#222222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )

"""The pictures of a report's page besides the plane: rows of bars, boxes and intervals, and curves.

Every picture is drawn twice, for wide and for narrow screens, so that its letters can be read on both.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from eval.markup import tag
from eval.svg import ON_PAGE, Axis, line, linear, logarithmic, path, picture, shortened, text

WIDE, NARROW = 760, 350

_ROW = 20
_SMALL = 12

# Lines of different systems are told apart by their dashes too.
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 4")


class Bar(NamedTuple):
    """A system's interval in a group: where it stands among the systems, value, low, high and a word beside it."""

    series: int
    name: str
    value: float
    low: float
    high: float
    told: str


class Group(NamedTuple):
    """Bars under one heading."""

    title: str
    bars: Sequence[Bar]


class Part(NamedTuple):
    """A piece of a stacked bar: a share, the style's colour names of its ground and of the text on it, its name."""

    share: float
    name: str
    fill: str
    ink: str


class Stack(NamedTuple):
    """A bar of parts that add up to 1."""

    name: str
    parts: Sequence[Part]


class Box(NamedTuple):
    """Quantiles of a system: 5%, 25%, 50%, 75%, 95%, and what is written beside it."""

    series: int
    name: str
    quantiles: tuple[float, float, float, float, float]
    told: str


class Curve(NamedTuple):
    """A line of a system through points of both axes."""

    series: int
    name: str
    points: Sequence[tuple[float, float]]


def both_widths(drawn: Callable[[int], Markup]) -> Markup:
    """Return a picture for wide screens and for paper, and one for narrow screens; the style sheet shows one."""
    return tag("div", drawn(WIDE), class_="wide") + tag("div", drawn(NARROW), class_="narrow")


def intervals(groups: Sequence[Group], *, title: str, width: int) -> Markup:
    """Draw shares between 0 and 1 with their intervals, a row for each bar."""
    left, right = _margins(width)
    height = sum(26 + _ROW * len(group.bars) for group in groups) + 28
    axis = linear(0.0, 1.0, left, width - right, ticks=5 if width == WIDE else 2)
    parts = [_grid(axis, 8, height - 24, lambda value: f"{value:.0%}")]
    y = 0.0
    for group in groups:
        y += 26
        parts.append(text(0, y - 6, group.title, weight=600, size=_SMALL + 1))
        for bar in group.bars:
            y += _ROW
            parts.append(_interval_row(bar, axis, y - 7, left, width))
    return picture(width, height, title, *parts, ink=ON_PAGE)


def stacks(bars: Sequence[Stack], *, title: str, width: int) -> Markup:
    """Draw bars of shares, each under its name, with the shares written in where there is room."""
    height = 50 * len(bars) + 26
    axis = linear(0.0, 1.0, 1, width - 22, ticks=5)
    parts = [_grid(axis, 6, height - 22, lambda value: f"{value:.0%}")]
    for i, bar in enumerate(bars):
        y = 50 * i
        parts.append(text(0, y + 14, shortened(bar.name, width - 20), weight=600, size=_SMALL + 1))
        begin = 0.0
        for part in bar.parts:
            parts.append(_stack_part(part, axis, begin, y + 20))
            begin += part.share
    return picture(width, height, title, *parts, ink=ON_PAGE)


def boxes(rows: Sequence[Box], *, title: str, unit: str, width: int) -> Markup:
    """Draw boxes from the 25% to the 75% quantile with a bar at the median, whiskers to 5% and 95%."""
    left, right = _margins(width)
    height = 34 * len(rows) + 46
    values = [value for row in rows for value in row.quantiles]
    axis = _positive_axis(min(values), max(values), left, width - right)
    parts = [_grid(axis, 6, height - 40, lambda value: f"{value:g}")]
    parts += [_box_row(row, axis, 34 * i + 22, left, width) for i, row in enumerate(rows)]
    parts.append(text((left + width - right) / 2, height - 4, unit, anchor="middle", size=_SMALL))
    return picture(width, height, title, *parts, ink=ON_PAGE)


def curves(lines: Sequence[Curve], *, title: str, x_label: str, y_label: str, width: int) -> Markup:
    """Draw lines over shares on both axes."""
    left, right, top, bottom = 52, 22, 12, 48
    height = 380 if width == WIDE else 300
    x = linear(0.0, 1.0, left, width - right, ticks=5)
    highest = max(y for curve in lines for _, y in curve.points)
    y = linear(0.0, min(1.0, math.ceil(highest * 10 + 0.5) / 10), height - bottom, top)
    parts = [
        *(line(left, y.place(tick), width - right, y.place(tick), stroke=ON_PAGE.grid) for tick in y.ticks),
        *(text(left - 6, y.place(tick) + 4, f"{tick:.0%}", anchor="end", size=_SMALL) for tick in y.ticks),
        _grid(x, top, height - bottom, lambda value: f"{value:.0%}"),
        *(
            path(
                [(x.place(a), y.place(b)) for a, b in curve.points],
                stroke=ON_PAGE.of(curve.series),
                dash=DASHES[curve.series % len(DASHES)],
            )
            for curve in lines
        ),
        text((left + width - right) / 2, height - 6, x_label, anchor="middle", size=_SMALL),
        tag(
            "text",
            y_label,
            transform=f"translate(12 {(top + height - bottom) / 2:.0f}) rotate(-90)",
            text_anchor="middle",
            font_size=_SMALL,
        ),
    ]
    return picture(width, height, title, *parts, ink=ON_PAGE)


def key(names: Sequence[tuple[int, str]]) -> Markup:
    """Return a legend of lines: the colour and dashes of each system."""
    entries = [
        tag(
            "li",
            tag(
                "svg",
                line(0, 6, 34, 6, stroke=ON_PAGE.of(i), width=3, dash=DASHES[i % len(DASHES)]),
                width=34,
                height=12,
                aria_hidden="true",
            ),
            name,
        )
        for i, name in names
    ]
    return tag("ul", *entries, class_="key")


def _margins(width: int) -> tuple[int, int]:
    """Room for the names to the left and for the figures to the right."""
    return (190, 190) if width == WIDE else (98, 104)


def _interval_row(bar: Bar, axis: Axis, y: float, left: int, width: int) -> Markup:
    colour = ON_PAGE.of(bar.series)
    return tag(
        "g",
        tag("title", f"{bar.name}: {bar.told}"),
        text(left - 8, y + 4, shortened(bar.name, left - 10, _SMALL), anchor="end", size=_SMALL),
        line(axis.place(bar.low), y, axis.place(bar.high), y, stroke=colour, width=3),
        tag("circle", cx=axis.place(bar.value), cy=y, r=5, fill=colour),
        text(width - _margins(width)[1] + 8, y + 4, bar.told, size=_SMALL),
    )


def _stack_part(part: Part, axis: Axis, begin: float, y: float) -> Markup:
    x, end = axis.place(begin), axis.place(begin + part.share)
    room = end - x
    label = f"{part.share:.0%}"
    return tag(
        "g",
        tag("title", f"{part.name}: {part.share:.1%}"),
        tag("rect", x=x, y=y, width=max(0.0, room), height=24, fill=f"var(--{part.fill})", stroke="var(--raised)"),
        text((x + end) / 2, y + 17, label, anchor="middle", fill=f"var(--{part.ink})") if room > 30 else None,
    )


def _box_row(row: Box, axis: Axis, y: float, left: int, width: int) -> Markup:
    low, first, middle, third, high = (axis.place(value) for value in row.quantiles)
    colour = ON_PAGE.of(row.series)
    return tag(
        "g",
        tag("title", f"{row.name}: {row.told}"),
        text(left - 8, y + 4, shortened(row.name, left - 10, _SMALL), anchor="end", size=_SMALL),
        line(low, y, high, y, stroke=colour, width=2),
        line(low, y - 5, low, y + 5, stroke=colour, width=2),
        line(high, y - 5, high, y + 5, stroke=colour, width=2),
        tag(
            "rect",
            x=first,
            y=y - 8,
            width=max(1.0, third - first),
            height=16,
            fill="var(--raised)",
            stroke=colour,
            stroke_width=2,
        ),
        line(middle, y - 8, middle, y + 8, stroke=colour, width=3),
        text(width - _margins(width)[1] + 8, y + 4, row.told, size=_SMALL),
    )


def _positive_axis(low: float, high: float, begin: float, end: float) -> Axis:
    most = max(3, int((end - begin) / 48))
    if low > 0:
        return logarithmic(low / 1.2, high * 1.2, begin, end, most=most)
    return linear(0.0, high * 1.1 or 1.0, begin, end, ticks=min(5, most))


def _grid(axis: Axis, top: float, bottom: float, written: Callable[[float], str]) -> Markup:
    lines = [line(axis.place(tick), top, axis.place(tick), bottom, stroke=ON_PAGE.grid) for tick in axis.ticks]
    labels = [
        text(axis.place(tick), bottom + 15, written(tick), anchor=_anchor(i, len(axis.ticks)), size=_SMALL)
        for i, tick in enumerate(axis.ticks)
    ]
    return Markup("").join([*lines, *labels])


def _anchor(place: int, count: int) -> str:
    return "start" if place == 0 and count > 1 else "middle"

"""Accuracy against cost: each system a point with the bars of its intervals, and the front that nothing beats."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from eval.markup import tag
from eval.svg import PRINTED, Axis, Ink, line, linear, logarithmic, path, picture, shortened, text
from eval.wording import TITLES, headline_metric

PLOT = "accuracy.svg"

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 50, 60

# From this ratio of dearest to cheapest on, cheap systems would sit on top of each other on a linear axis.
_LOGARITHMIC_FROM = 8.0

# How far from its point a name may stand, nearest first.
_SHIFTS = (-8.0, 16.0, 4.0, -22.0, 30.0, -36.0, 44.0, -50.0, 58.0, 72.0, -64.0, 86.0, 100.0, 114.0)


class Point(NamedTuple):
    """One system: `x` cost or seconds, `y` accuracy, each as value, low, high."""

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]


class _Room(NamedTuple):
    """The place of a line of text, or of a marker."""

    begin: float
    end: float
    baseline: float

    def meets(self, other: "_Room") -> bool:
        """Whether the two overlap."""
        return self.begin < other.end and other.begin < self.end and abs(self.baseline - other.baseline) < 14


class Frame(NamedTuple):
    """The picture's size and the margins around its plane, in pixels."""

    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def report_plot(report: dict[str, Any]) -> str:
    """Draw a report's headline metric against cost, or seconds where a cost is not known; "" without two figures."""
    systems = report["systems"]
    metric = headline_metric(report)
    by_cost = all(system["cost_per_question"] is not None for system in systems.values() if system["n"])
    points = [
        Point(name, x, (y["value"], y["low"], y["high"]))
        for name, system in systems.items()
        if (y := system["metrics"][metric])["value"] is not None and (x := place_on_x(system, by_cost)) is not None
    ]
    x_label = "US dollars per 1,000 questions" if by_cost else "seconds per question"
    return draw(
        points, x_label=x_label, y_label=TITLES[metric], title=f"{TITLES[metric]} on {report['data'].get('name', '')}"
    )


def place_on_x(system: dict[str, Any], by_cost: bool) -> tuple[float, float, float] | None:
    """Return a system's dollars per 1,000 questions, or seconds per question, as value, low, high."""
    figure = (system.get("cost_per_question_interval") if by_cost else system.get("seconds_per_question")) or {}
    value, low, high = figure.get("value" if by_cost else "mean"), figure.get("low"), figure.get("high")
    if value is None or low is None or high is None:
        return None
    factor = 1000 if by_cost else 1
    return value * factor, low * factor, high * factor


def draw(
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    title: str,
    ink: Ink = PRINTED,
    frame: Frame | None = None,
    front: Sequence[Point] = (),
    prefer_logarithmic: bool = False,
) -> Markup:
    """Return the SVG text; "" where there is nothing to draw. A line goes through `front`, cheapest first."""
    if not points:
        return Markup("")
    frame = frame or Frame()
    x = _x_axis([value for point in points for value in point.x], frame, prefer_logarithmic)
    y = linear(0.0, 1.0, frame.height - frame.bottom, frame.top)
    middle = (frame.top + frame.height - frame.bottom) / 2
    return picture(
        frame.width,
        frame.height,
        title,
        # On a page the caption says it.
        text(frame.left, 28, f"{title}, bars: 95% intervals", weight=600) if ink.ground else None,
        *(_horizontal(y.place(tick), f"{tick:g}", frame, ink) for tick in y.ticks),
        *(_vertical(x.place(tick), f"{tick:g}", frame, ink) for tick in x.ticks),
        text((frame.left + frame.width - frame.right) / 2, frame.height - 14, x_label, anchor="middle"),
        tag("text", y_label, transform=f"translate(18 {middle:.1f}) rotate(-90)", text_anchor="middle"),
        _front(front, x, y, ink),
        *(_marker(point, ink.of(i), x, y) for i, point in enumerate(points)),
        *_labels(points, x, y, frame),
        ink=ink,
    ) + Markup("\n")


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in accuracy at the same or a lower cost, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x[0], -point.y[0])):
        if not front or point.y[0] > front[-1].y[0]:
            front.append(point)
    return front


def _x_axis(values: Sequence[float], frame: Frame, prefer_logarithmic: bool) -> Axis:
    begin, end = frame.left, frame.width - frame.right
    positive = [value for value in values if value > 0]
    wanted = len(positive) == len(values) and (prefer_logarithmic or max(values) / min(values) > _LOGARITHMIC_FROM)
    most = (end - begin) // 42
    if wanted:
        return logarithmic(min(values) / 1.3, max(values) * 1.3, begin, end, most=most)
    return linear(0.0, (max(positive) if positive else 1.0) * 1.15, begin, end, ticks=min(5, most))


def _front(front: Sequence[Point], x: Axis, y: Axis, ink: Ink) -> Markup | None:
    if len(front) < 2:
        return None
    return path([(x.place(p.x[0]), y.place(p.y[0])) for p in front], stroke=ink.text, width=1, dash="5 4")


def _marker(point: Point, colour: str, x: Axis, y: Axis) -> Markup:
    centre_x, low_x, high_x = (x.place(value) for value in point.x)
    centre_y, low_y, high_y = (y.place(value) for value in point.y)
    return tag(
        "g",
        line(low_x, centre_y, high_x, centre_y, stroke=colour, width=2),
        line(centre_x, low_y, centre_x, high_y, stroke=colour, width=2),
        tag("circle", cx=centre_x, cy=centre_y, r=5, fill=colour),
    )


def _labels(points: Sequence[Point], x: Axis, y: Axis, frame: Frame) -> list[Markup]:
    """Put each name beside its point, to the right, else to the left, else further up or down where it is free."""
    taken = [_Room(x.place(p.x[0]) - 6, x.place(p.x[0]) + 6, y.place(p.y[0]) + 5) for p in points]
    labels = []
    for point in sorted(points, key=lambda point: -point.y[0]):
        name = shortened(point.name, (frame.width - frame.left - frame.right) * 0.4)
        centre, height, width = x.place(point.x[0]), y.place(point.y[0]), 7.5 * len(name)
        places = [
            (_Room(begin, begin + width, height + shift), anchor, at)
            for shift in _SHIFTS
            for begin, anchor, at in (
                (centre + 10, "start", centre + 10),
                (centre - 10 - width, "end", centre - 10),
            )
            if frame.left < begin and begin + width < frame.width and frame.top < height + shift
        ]
        fallback = (_Room(centre + 10, centre + 10 + width, height - 8), "start", centre + 10)
        room, anchor, at = next((p for p in places if not any(p[0].meets(t) for t in taken)), fallback)
        taken.append(room)
        labels.append(text(at, room.baseline, name, anchor=anchor))
    return labels


def _horizontal(place: float, label: str, frame: Frame, ink: Ink) -> Markup:
    grid = line(frame.left, place, frame.width - frame.right, place, stroke=ink.grid)
    return grid + text(frame.left - 8, place + 4, label, anchor="end")


def _vertical(place: float, label: str, frame: Frame, ink: Ink) -> Markup:
    grid = line(place, frame.top, place, frame.height - frame.bottom, stroke=ink.grid)
    return grid + text(place, frame.height - frame.bottom + 18, label, anchor="middle")

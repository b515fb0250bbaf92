"""A cascade's curve: accuracy against cost or seconds, between the two systems and above the lines of two coins."""

from typing import Any

from markupsafe import Markup

from eval.cascade_pairs import COST
from eval.markup import tag
from eval.svg import PRINTED, Axis, Ink, line, linear, path, picture, text
from eval.wording import TITLES

WIDTH, HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 50, 60
_LABELS = {COST: "US dollars per 1,000 questions", "seconds": "seconds per question"}
_COLOURS = {"confidence": PRINTED.series[0], "gain": PRINTED.series[2]}


def plot_name(axis: str) -> str:
    """Return the file name of the plot over an axis."""
    return f"cascade-{axis}.svg"


def cascade_plot(found: dict[str, Any], axis: str, *, ink: Ink = PRINTED) -> Markup:
    """Draw what `eval.cascade.evaluate` found over one axis: both curves, a 95% band, both lines, the choice."""
    metric, factor = found["metric"], 1000 if axis == COST else 1
    ends = [found["always"][side] for side in ("small", "large")]
    points = {policy: curve["points"] for policy, curve in found["curves"].items()}
    figures = [p[metric] for curve in points.values() for p in curve] + [end[metric] for end in ends]
    spent = [p[axis] for curve in points.values() for p in curve] + [end[axis] for end in ends]
    x = _axis([s["value"] * factor for s in spent], _LEFT, WIDTH - _RIGHT)
    y = _axis([f[key] for f in figures for key in ("low", "high")], HEIGHT - _BOTTOM, _TOP, most=1.0)

    def at(point: dict[str, Any], bound: str = "value") -> tuple[float, float]:
        return x.place(point[axis]["value"] * factor), y.place(point[metric][bound])

    last = points["confidence"][-1]
    chosen = found["chosen"]["confidence"]
    parts = [
        *(line(_LEFT, y.place(t), WIDTH - _RIGHT, y.place(t), stroke=ink.grid) for t in y.ticks),
        *(text(_LEFT - 8, y.place(t) + 4, f"{t:g}", anchor="end") for t in y.ticks),
        *(text(x.place(t), HEIGHT - _BOTTOM + 18, f"{t:g}", anchor="middle") for t in x.ticks),
        _band([at(p, "low") for p in points["confidence"]], [at(p, "high") for p in points["confidence"]]),
        path([at(ends[0]), at(ends[1])], stroke=ink.text, width=1, dash="5 4"),
        path([at(ends[0]), at(last)], stroke=ink.text, width=1, dash="2 3"),
        *(path([at(p) for p in curve], stroke=_COLOURS[policy]) for policy, curve in points.items()),
        *(_named(at(end), name) for end, name in zip(ends, (found["small"], found["large"]), strict=True)),
        _named(at(chosen), "chosen on other questions", fill=_COLOURS["confidence"]),
        text(_LEFT, 28, f"{TITLES[metric]} of a cascade, band: 95% interval", weight=600),
        text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 14, _LABELS[axis], anchor="middle"),
        *_legend(),
    ]
    title = f"{TITLES[metric]} of {found['small']} with {found['large']} behind it, against {_LABELS[axis]}"
    return picture(WIDTH, HEIGHT, title, *parts, ink=ink) + Markup("\n")


def _axis(values: list[float], begin: float, end: float, most: float = float("inf")) -> Axis:
    """Return an axis from just below the least value to just above the greatest; these lie close to each other."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    step_low, step_high = max(0.0, low - room), min(most, high + room)
    whole = linear(step_low, step_high, begin, end)
    return Axis(whole.place, [round(t, 12) for t in _round_ticks(step_low, step_high)])


def _round_ticks(low: float, high: float) -> list[float]:
    ticks = linear(0.0, high - low, 0.0, 1.0).ticks
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    first = -(-low // step)
    return [i * step for i in range(int(first), int(high / step + 1e-9) + 1)]


def _band(lows: list[tuple[float, float]], highs: list[tuple[float, float]]) -> Markup:
    written = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*lows, *reversed(highs)])
    return tag("polygon", points=written, fill=_COLOURS["confidence"], fill_opacity=0.12)


def _named(place: tuple[float, float], name: str, *, fill: str = PRINTED.text) -> Markup:
    right = place[0] > WIDTH * 0.6
    label = text(place[0] - 10 if right else place[0] + 10, place[1] + 16, name, anchor="end" if right else "start")
    return tag("circle", cx=place[0], cy=place[1], r=5, fill=fill) + label


def _legend() -> list[Markup]:
    rows = [
        ("least sure first", _COLOURS["confidence"], ""),
        ("largest gain first", _COLOURS["gain"], ""),
        ("a coin before asking", PRINTED.text, "5 4"),
        ("a coin after the small one", PRINTED.text, "2 3"),
    ]
    left, top = WIDTH - _RIGHT - 200, HEIGHT - _BOTTOM - 74
    return [
        part
        for i, (name, colour, dash) in enumerate(rows)
        for part in (
            line(left, top + 18 * i, left + 30, top + 18 * i, stroke=colour, width=2, dash=dash),
            text(left + 38, top + 18 * i + 4, name),
        )
    ]

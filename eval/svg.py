"""What our pictures are drawn with: axes, inks and a few shapes, as plain SVG that needs no script."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from eval.markup import Child, joined, tag

# Ticks of a logarithmic axis: the usual ones, powers of ten alone, and all that have one digit.
_FACTORS = ((1.0, 2.0, 5.0), (1.0,), tuple(float(factor) for factor in range(1, 10)))

# Distinct to the colour-blind as well (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


class Ink(NamedTuple):
    """The colours of a picture: text, lines behind, ground ("" for none), one for each system in turn."""

    text: str
    grid: str
    ground: str
    series: tuple[str, ...]

    def of(self, place: int) -> str:
        """Return the colour of the system at `place`; they repeat."""
        return self.series[place % len(self.series)]


# For a file of its own, and for a page whose style sheet gives each colour a light and a dark value.
PRINTED = Ink("#222222", "#e3e3e3", "#ffffff", COLOURS)
ON_PAGE = Ink("var(--text)", "var(--line)", "", tuple(f"var(--series-{i})" for i in range(len(COLOURS))))


class Axis(NamedTuple):
    """Values to pixels, with the values that get a tick."""

    place: Callable[[float], float]
    ticks: Sequence[float]


def linear(low: float, high: float, begin: float, end: float, *, ticks: int = 5) -> Axis:
    """Return an axis with about so many round ticks; `begin` and `end` are the pixels of `low` and `high`."""
    step = _nice_step((high - low) / ticks)
    values = [round(low + i * step, 12) for i in range(int((high - low) / step + 1e-9) + 1)]
    return Axis(lambda value: begin + (value - low) / (high - low) * (end - begin), values)


def logarithmic(low: float, high: float, begin: float, end: float, *, most: int = 9) -> Axis:
    """Return an axis of equal ratios, `low` above 0.

    Its at most `most` ticks are 1, 2, 5 times powers of ten where they fit.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    usual, tens, fine = (_decimal_ticks(low, high, decades, factors) for factors in _FACTORS)
    fits = (ticks for ticks in (usual, tens, fine) if 3 <= len(ticks) <= most)
    ticks = next(fits, usual[:: -(-len(usual) // most) or 1])
    span = math.log(high / low)
    return Axis(lambda value: begin + math.log(value / low) / span * (end - begin), ticks)


def picture(width: int, height: int, title: str, *parts: Child, ink: Ink, font_size: int = 13) -> Markup:
    """Return an `svg` element of that many pixels; `title` says in words what it shows."""
    ground = tag("rect", width=width, height=height, fill=ink.ground) if ink.ground else None
    return tag(
        "svg",
        tag("title", title),
        ground,
        joined(parts, "\n"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        font_family="system-ui, sans-serif",
        font_size=font_size,
        fill=ink.text,
        role="img",
        aria_label=title,
    )


def text(
    x: float,
    y: float,
    written: str,
    *,
    anchor: str = "start",
    weight: int = 400,
    fill: str | None = None,
    size: int | None = None,
) -> Markup:
    """Return a line of text; `anchor` says which of its ends stands at `x`."""
    return tag("text", written, x=x, y=y, text_anchor=anchor, font_weight=weight, fill=fill, font_size=size)


def line(x1: float, y1: float, x2: float, y2: float, *, stroke: str, width: float = 1.0, dash: str = "") -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, stroke_dasharray=dash or None)


def path(points: Sequence[tuple[float, float]], *, stroke: str, width: float = 2.0, dash: str = "") -> Markup:
    """Return a line through points."""
    written = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag(
        "polyline", points=written, fill="none", stroke=stroke, stroke_width=width, stroke_dasharray=dash or None
    )


def shortened(name: str, pixels: float, size: int = 13) -> str:
    """Cut a name to about so many pixels; letters of a sans-serif are little more than half as wide as high."""
    fits = max(4, int(pixels / (0.56 * size)))
    return name if len(name) <= fits else name[: fits - 1] + "…"


def _decimal_ticks(low: float, high: float, decades: range, factors: Sequence[float]) -> list[float]:
    return [tick for d in decades for f in factors if low <= (tick := round(f * 10.0**d, 12 - min(d, 0))) <= high]


def _nice_step(rough: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten above `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)

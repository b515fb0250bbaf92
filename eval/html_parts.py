"""What the sections of a report's page are put together from: figures, tables, and lists of facts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from eval.markup import Child, joined, tag
from eval.wording import UNKNOWN

MOST_ROWS = 200
_DEEPEST = 4

Write = Callable[[float], str]


class Section(NamedTuple):
    """A part of the page; where its data is missing there is no `body`, and `why` says what is missing."""

    id: str
    title: str
    body: Markup | None
    why: str = ""


def figure(value: float | None, low: float | None, high: float | None, n: int | None, write: Write) -> Markup:
    """Return a figure with its interval and number of questions, each where known."""
    if value is None:
        return joined([UNKNOWN])
    beside = [f"{write(low)} to {write(high)}"] if low is not None and high is not None else []
    beside += [f"n = {n:,}"] if n else []
    return told(write(value), *beside)


def breakable(name: str) -> Markup:
    """Return a system's name that may be broken where its parts are put together."""
    return tag("wbr").join(tag("span", part) for part in name.replace("+", "+\n").splitlines())


def told(value: Child, *beside: str) -> Markup:
    """Return a figure with what is to be known of it, each on a line of its own."""
    return tag("span", value, class_="value") + joined(tag("small", line, class_="beside") for line in beside)


def estimate(numbers: Mapping[str, Any] | None, write: Write, n: int | None = None) -> Markup:
    """Return a figure out of a report's `value`, `low`, `high`, `n`."""
    numbers = numbers or {}
    return figure(numbers.get("value"), numbers.get("low"), numbers.get("high"), numbers.get("n", n), write)


def table(caption: str, head: Sequence[Child], rows: Sequence[Sequence[Child]]) -> Markup:
    """Return a table with a caption; the first cell of each row heads it. Wide ones scroll on their own."""
    columns = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = [
        tag("tr", tag("th", _heading(first), scope="row"), *(tag("td", cell) for cell in rest)) for first, *rest in rows
    ]
    made = tag("table", tag("caption", caption), columns, tag("tbody", *body))
    # A region that scrolls must be reachable with the keyboard.
    return tag("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _heading(cell: Child) -> Child:
    return breakable(cell) if isinstance(cell, str) and not isinstance(cell, Markup) else cell


def without_empty_columns(
    head: Sequence[Child], rows: Sequence[Sequence[Child]]
) -> tuple[list[Child], list[list[Child]]]:
    """Leave out the columns in which nothing is known of any row."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] != UNKNOWN for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def drawing(picture: Markup, caption: str, numbers: Markup | None = None, *, legend: Markup | None = None) -> Markup:
    """Return a figure with its legend and caption, its numbers below."""
    return tag("figure", picture, legend, tag("figcaption", caption)) + joined([numbers])


def folded(summary: str, *inside: Child) -> Markup:
    """Return what opens on demand. Paper shows what is open when it is printed."""
    return tag("details", tag("summary", summary), *inside)


def figures_below(title: str, head: Sequence[Child], rows: Sequence[Sequence[Child]]) -> Markup:
    """Return the numbers of a picture as a table that opens on demand."""
    return folded("The figures as a table", table(title, head, rows))


def paragraph(*children: Child) -> Markup:
    """Return a paragraph."""
    return tag("p", *children)


def facts(value: Any, caption: str, depth: int = 0) -> Markup:
    """Return any JSON value: records as tables, other objects as lists of terms with their records below."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        if value and all(isinstance(item, Mapping) for item in value.values()):
            return _records([{"": key, **item} for key, item in value.items()], caption, depth)
        tables = {key: item for key, item in value.items() if _are_records(item)}
        pairs = [
            tag("div", tag("dt", _words(key)), tag("dd", facts(item, f"{caption}: {_words(key)}", depth + 1)))
            for key, item in value.items()
            if key not in tables
        ]
        return tag("dl", *pairs) + joined(_records(item, _words(key), depth) for key, item in tables.items())
    if _are_records(value):
        return _records(value, caption, depth)
    if isinstance(value, list | tuple):
        return joined([", ".join(_scalar(item) for item in value[:MOST_ROWS]) or UNKNOWN])
    return joined([_scalar(value)])


def _are_records(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _records(records: Sequence[Mapping[str, Any]], caption: str, depth: int) -> Markup:
    names = list(dict.fromkeys(name for record in records for name in record))
    rows = [
        [
            facts(record.get(name), f"{caption}: {_words(name)}", depth + 1) if name in record else UNKNOWN
            for name in names
        ]
        for record in records[:MOST_ROWS]
    ]
    return table(caption, [_words(name) for name in names], rows)


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _scalar(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)

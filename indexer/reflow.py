"""Lines of a page, with their places, to paragraphs.

Where a line goes on in the next is decided as a typesetter would: if the next line's first word had fitted on this one,
the break was meant. Cells of a table's row, far apart on one line, are kept apart by `CELLS`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from statistics import median
from typing import NamedTuple

CELLS = " | "
CELL_GAP = 1.8  # in font sizes; justified text stays below
_LIST_ITEM = re.compile(r"(?:[•‣◦▪·●○■□–*-]|\(?\d{1,3}(?:\.\d{1,3})*[.):]|\(?[a-z][.)]|\[\d{1,3}\])\s")
_MORE = ".!?,;"  # a line may end in one of these without having ended its paragraph, or need not be full
_WORD = re.compile(r"\w+(?:-\w+)*")
_FEWEST_LINES = 6  # a page of fewer is all edge
_ENDS = (".", "!", "?", ":", ";", "。", "！", "？", ".”", '."', ".)")


@dataclass(frozen=True, slots=True)
class Line:
    """One visual line. Coordinates are in points from the lower left corner; `size` is the font's, scaled."""

    text: str
    left: float
    right: float
    bottom: float
    top: float
    size: float
    hyphen: bool = False
    upright: bool = True
    bold: bool = False
    edge: float = 0.0  # right edge of the column that it stands in


def join_baselines(lines: Sequence[Line]) -> list[Line]:
    """Join what pdfium took apart because of a raised footnote mark or a change of font."""
    joined: list[Line] = []
    for line in lines:
        before = joined[-1] if joined else None
        if (
            before
            and not before.hyphen
            and min(before.top, line.top) - max(before.bottom, line.bottom) > 0.3 * min(before.size, line.size)
            and -before.size < line.left - before.right < 3 * before.size
        ):
            space = " " if line.left - before.right > 0.15 * before.size else ""
            bottom = before.bottom if before.size >= line.size else line.bottom
            joined[-1] = replace(
                before, text=before.text + space + line.text, right=line.right, bottom=bottom, hyphen=line.hyphen
            )
        else:
            joined.append(line)
    return joined


def with_edges(lines: Sequence[Line]) -> list[Line]:
    """Give each line the right edge of its column: the farthest that a line of its size reaches nearby."""
    edged = []
    for index, line in enumerate(lines):
        near = lines[max(0, index - 8) : index + 9]
        rights = [
            other.right
            for other in near
            if abs(other.size - line.size) < 0.1 * line.size and abs(other.left - line.left) < 4 * line.size
        ]
        edged.append(replace(line, edge=max(rights)))
    return edged


def without_running_lines(pages: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """Drop headers and footers after their first appearance: the same words (but for numbers) in the same place."""
    if len(pages) < 3:
        return [list(page) for page in pages]
    outer = [{id(line) for line in _outermost(page)} if len(page) > _FEWEST_LINES else set() for page in pages]
    seen = Counter(_place(line) for page, ids in zip(pages, outer, strict=True) for line in page if id(line) in ids)
    running = {place for place, count in seen.items() if count >= max(3, len(pages) // 2)}
    kept: list[list[Line]] = []
    met: set[tuple[str, int]] = set()
    for page, ids in zip(pages, outer, strict=True):
        lines = []
        for line in page:
            if id(line) in ids and (place := _place(line)) in running:
                if place in met:
                    continue
                met.add(place)
            lines.append(line)
        kept.append(lines)
    return kept


def _outermost(page: Sequence[Line]) -> list[Line]:
    by_height = sorted(page, key=lambda line: line.bottom)
    return by_height[:2] + by_height[-2:]


def _place(line: Line) -> tuple[str, int]:
    return re.sub(r"\d+", "0", line.text), round(line.bottom / 4)


def vocabulary(pages: Sequence[Sequence[Line]]) -> set[str]:
    """The words of all pages in lower case, without the halves of those divided at a line's end."""
    words: set[str] = set()
    for page in pages:
        divided = False
        for line in page:
            found = [word.lower() for word in _WORD.findall(line.text)]
            divides = line.hyphen or line.text.endswith("-")
            words.update(found[1 if divided else 0 : len(found) - 1 if divides else len(found)])
            divided = divides
    return words


class Row(NamedTuple):
    """A line of a page's text, of one visual line or several, with what ends it.

    `smallest` and `largest` are the sizes of print that it is in.
    """

    text: str
    end: str
    smallest: float
    largest: float
    upright: bool
    bold: bool


def page_rows(lines: Sequence[Line], words: set[str]) -> list[Row]:
    """The rows of one page; `words` (see `vocabulary`) tell which hyphens at the end of a line belong to the word."""
    if not lines:
        return []
    pitch = _pitch(lines)
    rows: list[Row] = []
    parts, here = [lines[0].text], [lines[0]]
    for before, line in pairwise(lines):
        if before.hyphen or _ends_in_hyphen(before, line):
            parts[-1] = parts[-1].removesuffix("-") + _hyphen(before.text.removesuffix("-"), line.text, words)
        elif "\n" in (separator := _separator(before, line, pitch)):
            rows.append(_row(parts, here, separator))
            parts, here = [], []
        else:
            parts.append(separator)
        parts.append(line.text)
        here.append(line)
    return [*rows, _row([*parts, "-" if lines[-1].hyphen else ""], here, "")]


def page_text(rows: Sequence[Row]) -> str:
    """The text of one page."""
    return "".join(row.text + row.end for row in rows)


def _row(parts: Sequence[str], lines: Sequence[Line], end: str) -> Row:
    sizes = [line.size for line in lines]
    upright, bold = all(line.upright for line in lines), all(line.bold for line in lines)
    return Row("".join(parts), end, min(sizes), max(sizes), upright, bold)


def _pitch(lines: Sequence[Line]) -> dict[int, float]:
    """The usual distance of lines, by font size in points."""
    drops: dict[int, list[float]] = {}
    for before, line in pairwise(lines):
        drop = before.bottom - line.bottom
        if _same_size(before, line) and 0.5 * line.size < drop < 3 * line.size:
            drops.setdefault(round(line.size), []).append(drop)
    return {size: median(values) for size, values in drops.items()}


def _separator(before: Line, line: Line, pitch: dict[int, float]) -> str:
    drop = before.bottom - line.bottom
    elsewhere = drop <= 0 or line.right < before.left or line.left > before.edge  # another column or box
    goes_on = not before.text.endswith(_ENDS) and line.text[0].islower()
    if elsewhere:
        return " " if goes_on and _same_size(before, line) else "\n\n"
    if not _same_size(before, line) or drop > 1.35 * pitch.get(round(line.size), 1.3 * line.size):
        return "\n\n"
    if _LIST_ITEM.match(line.text) or CELLS in before.text or CELLS in line.text:
        return "\n"
    first_word = line.text.split(maxsplit=1)[0]
    width = (line.right - line.left) * len(first_word) / len(line.text)
    filled = (before.right - before.left) / (before.edge - before.left or 1.0)
    fits = before.right + 0.3 * before.size + width < before.edge - 0.5 * before.size
    if (fits and not (goes_on and filled > 0.7)) or (filled < 0.94 and not goes_on and before.text[-1] not in _MORE):
        return "\n\n" if before.text.endswith(_ENDS) else "\n"
    if line.left > before.left + 0.8 * before.size and before.text.endswith(_ENDS):
        return "\n\n"  # the indented first line of a paragraph
    return "" if is_cjk(before.text[-1]) and is_cjk(line.text[0]) else " "


def _same_size(one: Line, other: Line) -> bool:
    return abs(one.size - other.size) < 0.08 * one.size


def is_cjk(char: str) -> bool:
    """Whether a character is one of those that are written without spaces between words."""
    return "\u3000" <= char <= "\u9fff" or "\uff00" <= char <= "\uffef"


def _ends_in_hyphen(before: Line, line: Line) -> bool:
    return len(before.text) > 2 and before.text[-1] == "-" and before.text[-2].isalpha() and line.text[0].islower()


def _hyphen(before: str, after: str, words: set[str]) -> str:
    """What stands between the halves of a word at a line's end: "" or "-", by what the document writes elsewhere."""
    first, second = _WORD.findall(before.lower())[-1:], _WORD.match(after)
    if not first or not second or not second.group()[0].islower():
        return "-"
    one, other = first[0], second.group().lower()
    if one + other in words:
        return ""
    if f"{one}-{other}" in words or len(one) == 1 or not one.isalpha() or {one, other} <= words:
        return "-"
    return ""


def largest_print(pages: Sequence[Sequence[Line]]) -> str:
    """The first lines in the largest print of the first page with text, "" where none stands out."""
    page = next((page for page in pages if page), [])
    page = [line for line in page if line.upright] or page  # a note along the margin is no title
    lettered = [line for line in page if any(char.isalpha() for char in line.text)]
    if not lettered:
        return ""
    largest = max(lettered, key=lambda line: line.size)  # the first of several
    if largest.size < 1.15 * median(line.size for line in page for _ in line.text):
        return ""
    lines = lettered[lettered.index(largest) :][:3]
    same = takewhile(lambda line: _same_size(largest, line), lines)
    return " ".join(line.text for line in same).partition(CELLS)[0]

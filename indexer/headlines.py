"""The headings of a PDF without bookmarks: lines in larger print than its text, or in bolder."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from indexer.bookmarks import Bookmark
from indexer.outline import TITLE_CHARACTERS
from indexer.reflow import CELLS, Row

_LARGER = 1.12  # times the print of the text; 12 points over 10.5, say
_ALIKE = 1.04  # times a size that is the same for the eye; larger than that and bold is a heading too
_NUMBERED = re.compile(r"\d{1,2}(?:\.\d{1,2})*\.?\s+[^\W\d_]")  # and so is what is bold and begins like 2.1 Tides
_BOLD_CHARACTERS = 100
_DEEPEST = 6
_MOST = 0.3  # of the text: more than that in large print is no headings


def headlines(pages: Sequence[Sequence[Row]], unsure: Collection[int] = ()) -> Iterator[Bookmark]:
    """Yield the headings on these pages, the larger the higher. Pages whose numbers are `unsure` are left out.

    Print is measured by characters: the text's is what most of them have.
    """
    sure = [(number, row) for number, rows in enumerate(pages) if number + 1 not in unsure for row in rows]
    sizes = Counter[float]()
    for _, row in sure:
        sizes[round(row.largest, 1)] += len(row.text)
    if not sizes:
        return
    text = max(sizes, key=lambda size: (sizes[size], -size))
    found = [(number, row) for number, row in sure if _is_headline(row, text)]
    if sum(len(row.text) for _, row in found) > _MOST * sizes.total():
        return
    levels = _levels(row.smallest for _, row in found)
    for number, row in found:
        level = sum(row.smallest < size / _ALIKE for size in levels) + 1
        if level <= _DEEPEST:
            yield Bookmark(level, row.text, number)


def _is_headline(row: Row, text: float) -> bool:
    """Whether a row, in larger print than the text's, is neither a paragraph, a row of a table, nor a figure alone."""
    return (
        (row.smallest >= _LARGER * text or _is_bold_headline(row, text))
        and row.upright
        and len(row.text) <= TITLE_CHARACTERS
        and CELLS not in row.text
        and not row.text.endswith((",", ";", "-"))
        and sum(map(str.isalpha, row.text)) > len(row.text) // 3
    )


def _is_bold_headline(row: Row, text: float) -> bool:
    larger = row.smallest >= _ALIKE * text or (row.smallest > text / _ALIKE and _NUMBERED.match(row.text) is not None)
    return row.bold and larger and len(row.text) <= _BOLD_CHARACTERS and not row.text.endswith(".")


def _levels(sizes: Iterator[float]) -> list[float]:
    """The sizes that the eye tells apart, the largest first."""
    levels: list[float] = []
    for size in sorted(sizes, reverse=True):
        if not levels or size < levels[-1] / _ALIKE:
            levels.append(size)
    return levels

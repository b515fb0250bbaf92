"""The headings of a PDF: what its bookmarks call its parts, found again as lines of its text.

The text stays as it was printed. Where its headings stand is told beside it, offset and level: "0:1,1834:2".
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple
from unicodedata import normalize

from indexer.outline import Heading, plain_title

_MOST = 5000
_OUTLINE = re.compile(r"\d{1,9}:\d{1,2}(?:,\d{1,9}:\d{1,2})*")
_NUMBER = re.compile(r"\s*(?:\d{1,3}|[IVXLC]{1,6}|[A-Z])(?:\.\d{1,3})*[.):]?\s+")


class Bookmark(NamedTuple):
    """A bookmark: its level, 1 the highest, what it says, and to which page it leads, from 0."""

    level: int
    title: str
    page: int


class _Line(NamedTuple):
    start: int
    whole: str
    bare: str  # without its number


def bookmarks(pdf: Any) -> Iterator[Bookmark]:
    """Yield the bookmarks of a pdfium document that lead to a page of it, `_MOST` at most."""
    import pypdfium2

    for mark in islice(pdf.get_toc(), _MOST):
        with suppress(pypdfium2.PdfiumError, UnicodeDecodeError):
            destination = mark.get_dest()
            page = None if destination is None else destination.get_index()
            if page is not None and page >= 0:
                yield Bookmark(mark.level + 1, mark.get_title(), page)


def outline_of(text: str, pages: Sequence[int], marks: Iterable[Bookmark]) -> str:
    """Return where in `text` the headings stand that bookmarks name, "" for none; `pages` are the pages' offsets.

    A heading is the line of its page that says what the bookmark says, numbers that only one of them has aside.
    """
    lines: dict[int, list[_Line]] = {}
    found: dict[int, int] = {}
    for level, title, page in marks:
        if page >= len(pages):
            continue
        if page not in lines:
            end = pages[page + 1] if page + 1 < len(pages) else len(text)
            lines[page] = [_Line(start, *_keys(line)) for start, line in _lines(text, pages[page], end)]
        whole, bare = _keys(title)
        free = [line for line in lines[page] if line.start not in found]
        same = next((line for line in free if line.whole == whole), None)
        same = same or next((line for line in free if whole == line.bare or bare == line.whole), None)
        if whole and same:
            found[same.start] = level
    return ",".join(f"{start}:{level}" for start, level in sorted(found.items()))


def told_headings(text: str, outline: str) -> list[Heading]:
    """Return the headings of `text` that `outline_of` has told; none where that is anything else."""
    if not _OUTLINE.fullmatch(outline):
        return []
    places = [tuple(map(int, place.split(":"))) for place in outline.split(",")]
    if sorted({start for start, _ in places}) != [start for start, _ in places]:
        return []
    headings = []
    for start, level in places:
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if title := plain_title(text[start:end]):
            headings.append(Heading(start, end, level, title))
    return headings


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    for line in text[start:end].split("\n"):
        if line.strip():
            yield start, line
        start += len(line) + 1


def _keys(line: str) -> tuple[str, str]:
    """A line as it is compared, with the number that it begins with and without."""
    return _key(line), _key(_NUMBER.sub("", line, count=1))


def _key(line: str) -> str:
    return "".join(filter(str.isalnum, normalize("NFKC", line).casefold()))

"""Tesseract's answers, to lines: what stands on a page, how sure that is, and which way it stands.

Tesseract answers in hOCR (T. Breuel, "The hOCR microformat for OCR workflow and results", ICDAR 2007), which, unlike
its TSV, says of each line how large its print is and where its baseline runs.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import log, sqrt
from statistics import median, mode
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from indexer.reflow import CELL_GAP, CELLS, Line, is_cjk
from rag.errors import UnreadableDocument

DPI = 300  # what Tesseract's manual asks for
# Tesseract's confidence, 0 to 100. Of 1,087 words on four pages of two scans the 13 below 30 are wrong, of the next 15,
# up to 60, most are right. Those pages have means of 90 to 95, one in rough print, at 60 dpi, has 92, upside down 37.
_SURE = 30.0  # words below are left out
_LEGIBLE = 50.0  # a page below it on average is no print
_FEWEST_LETTERS = 3  # fewer on a page are specks
_STEEP = 0.5  # slope of a baseline, which no slant of the paper has
_SAME_PRINT = sqrt(2)  # sizes are measured by what letters a line has: within this factor they are one
_STEP = 1.25
_TITLE = re.compile(r"\b(bbox|baseline|textangle|x_size|x_wconf|scan_res) ([-\d. ]+)")
_LEAST_DPI, _MOST_DPI = 50, 2400  # that a picture may say it has
_TURNS = (90.0, 180.0, 270.0)  # textangle: degrees by which the print in a picture is turned anticlockwise

Box = tuple[float, ...]
"""Left, top, right, bottom in pixels from the upper left corner."""


class Word(NamedTuple):
    """A word in pixels from the page's left edge, and how sure Tesseract is of it, 0 to 100."""

    text: str
    left: float
    right: float
    confidence: float


@dataclass(frozen=True, slots=True)
class _Row:
    """A line as hOCR has it, in pixels from the upper left corner. `slope` is the baseline's, `x`, `y` its middle."""

    words: Sequence[Word]
    size: float
    slope: float
    x: float
    y: float
    upright: bool


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was read on a page. `confidence` is the mean over all its letters, those of words left out included.

    `upright` is whether most of them stand on lines from left to right.
    """

    lines: list[Line]
    confidence: float
    upright: bool

    @property
    def is_text(self) -> bool:
        """Whether this is worth keeping, and not what Tesseract sees in a photograph."""
        letters = sum(char.isalnum() for line in self.lines for char in line.text)
        return letters >= _FEWEST_LETTERS and self.confidence >= _LEGIBLE


def read_hocr(hocr: bytes, scale: float) -> Recognised:
    """Return what Tesseract says of a page that was drawn with `scale` pixels a point.

    Raises `UnreadableDocument` where that is not hOCR.
    """
    with _as_unreadable():
        root = _parsed(hocr)
        height = _told(_parts(root, "ocr_page")[0])["bbox"][3]
        return _recognised([row for part in root.iter() if (row := _row(part))], height, scale)


def read_picture(hocr: bytes) -> Recognised:
    """The same of a picture that Tesseract has decoded, turned as it says that most of the print is."""
    with _as_unreadable():
        root = _parsed(hocr)
        page = _told(_parts(root, "ocr_page")[0])
        dpi = page.get("scan_res", (0.0,))[0]
        scale = (dpi if _LEAST_DPI <= dpi <= _MOST_DPI else DPI) / 72
        found = [told for part in root.iter() if "x_size" in (told := _told(part))]
        angle = mode([told.get("textangle", (0.0,))[0] for told in found] or [0.0])
        if angle not in _TURNS:
            return _recognised([row for part in root.iter() if (row := _row(part))], page["bbox"][3], scale)
        turned = partial(_turned, angle, page["bbox"])
        height = turned(page["bbox"])[3]
        return _recognised([row for part in root.iter() if (row := _row(part, angle, turned))], height, scale)


@contextmanager
def _as_unreadable() -> Iterator[None]:
    try:
        yield
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnreadableDocument("Tesseract's answer cannot be read") from error


def _parsed(hocr: bytes) -> Element:
    return ElementTree.fromstring(hocr)  # noqa: S314 (nothing of the file's is in it but escaped words)


def _turned(angle: float, page: Box, box: Box) -> Box:
    """Where a box lies once the picture is turned clockwise by the angle, so that its print stands upright."""
    width, height = page[2], page[3]
    left, top, right, bottom = box
    if angle == 90:
        return height - bottom, left, height - top, right
    if angle == 270:
        return top, width - right, bottom, width - left
    return width - right, height - bottom, width - left, height - top


def _recognised(rows: Sequence[_Row], height: float, scale: float) -> Recognised:
    letters = [len(word.text) for row in rows for word in row.words]
    sure = sum(len(word.text) * word.confidence for row in rows for word in row.words) / max(sum(letters), 1)
    upright = sum(len(word.text) for row in rows if row.upright for word in row.words)
    return Recognised(_lines(rows, height, scale), sure, 2 * upright >= sum(letters))


def _upright(box: Box) -> Box:
    return box


def _row(line: Element, angle: float = 0, turned: Callable[[Box], Box] = _upright) -> _Row | None:
    """A line of hOCR, None where the element is none, or nothing stands in it.

    `turned` turns boxes, in pictures whose print is turned by an angle.
    """
    told = _told(line)
    words = [_word(part, turned) for part in _parts(line, "ocrx_word")] if "x_size" in told else []
    words = [word for word in words if word.text]
    if not words:
        return None
    left, top, right, bottom = turned(told["bbox"])
    if angle and told.get("textangle", (0.0,))[0] == angle:  # then there is no baseline
        told["baseline"] = (0.0, -0.2 * told["x_size"][0])
    slope, offset = told.get("baseline", (0.0, 0.0))
    # Lines that run upwards or downwards have no baseline, or one that makes no sense.
    upright = abs(slope) < _STEEP and ("baseline" in told or len(words) == 1 or right - left > bottom - top)
    if not upright:
        slope = offset = 0.0
    y = bottom + offset + slope * (right - left) / 2
    return _Row(words, told["x_size"][0], slope, (left + right) / 2, y, upright)


def _word(part: Element, turned: Callable[[Box], Box]) -> Word:
    told = _told(part)
    left, _, right, _ = turned(told["bbox"])
    return Word("".join("".join(part.itertext()).split()), left, right, told["x_wconf"][0])


def _parts(element: Element, kind: str) -> list[Element]:
    return [part for part in element.iter() if part.get("class") == kind]


def _told(element: Element) -> dict[str, tuple[float, ...]]:
    """The numbers in an element's title, by name. Raises `ValueError`."""
    return {name: tuple(map(float, numbers.split())) for name, numbers in _TITLE.findall(element.get("title", ""))}


def _lines(rows: Sequence[_Row], height: float, scale: float) -> list[Line]:
    """Lines in points, of the words that are sure, on a page that is turned back where it was put in at a slant."""
    texts = [_text(row) for row in rows]
    body = median([row.size for row, text in zip(rows, texts, strict=True) for _ in text] or [1.0])
    skew = median([row.slope for row in rows if len(row.words) > 3 and row.upright] or [0.0])
    lines = []
    for row, text in zip(rows, texts, strict=True):
        if text:
            kept = [word for word in row.words if word.confidence >= _SURE]
            size = _size(row.size, body) / scale
            bottom = (height - row.y + skew * row.x) / scale - 0.2 * size  # below the baseline by what a "g" reaches
            left, right = min(word.left for word in kept) / scale, max(word.right for word in kept) / scale
            lines.append(Line(text, left, right, bottom, bottom + size, size, upright=row.upright))
    return lines


def _text(row: _Row) -> str:
    """The words that are sure, those of different cells with a mark between them."""
    pieces: list[str] = []
    gap, before = 0.0, row.words[0]
    for word in row.words:
        gap = max(gap, word.left - before.right)
        before = word
        if word.confidence < _SURE:
            continue
        if pieces:
            joined = is_cjk(pieces[-1][-1]) and is_cjk(word.text[0])
            pieces.append(CELLS if gap > CELL_GAP * row.size else "" if joined else " ")
        pieces.append(word.text)
        gap = 0.0
    return "".join(pieces)


def _size(size: float, body: float) -> float:
    """A line's size of print: that of the page's most letters, or so many steps above or below it."""
    if size <= 0 or body <= 0 or 1 / _SAME_PRINT < size / body < _SAME_PRINT:
        return body
    return float(body * _STEP ** round(log(size / body, _STEP)))

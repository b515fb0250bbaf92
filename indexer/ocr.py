"""Pages that are pictures, to lines: pdfium draws the page, Tesseract reads it in a process of its own.

Tesseract answers in hOCR (T. Breuel, "The hOCR microformat for OCR workflow and results", ICDAR 2007), which, unlike
its TSV, says of each line how large its print is and where its baseline runs.
"""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, log, sqrt
from statistics import median
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from indexer.reflow import CELL_GAP, CELLS, Line, is_cjk
from rag.errors import UnreadableDocument
from rag.tesseract import OUTPUT_BYTES, run

PAGES = 1000  # of a file; further ones stay pictures
_FILE_SECONDS = 7200.0  # by the clock: when they are over, the file's further pages stay pictures
_DPI = 300  # what Tesseract's manual asks for
_MOST_PIXELS = 25_000_000  # A4 has 8.7 million at 300 dpi
_FEWEST_PIXELS = 4_000_000  # of a page that says it is smaller than a postcard, where the picture has as many
_LONGEST_SIDE = 30_000  # Tesseract refuses 32,768
# Tesseract's confidence, 0 to 100. Of 1,087 words on four pages of two scans the 13 below 30 are wrong, of the next 15,
# up to 60, most are right. Those pages have means of 90 to 95, one in rough print, at 60 dpi, has 92, upside down 37.
_SURE = 30.0  # words below are left out
_DOUBTFUL = 60.0  # a page below it on average may stand on its head
_LEGIBLE = 50.0  # a page below it on average is no print
_FEWEST_LETTERS = 3  # fewer on a page are specks
_STEEP = 0.5  # slope of a baseline, which no slant of the paper has
_SAME_PRINT = sqrt(2)  # sizes are measured by what letters a line has: within this factor they are one
_STEP = 1.25
_TITLE = re.compile(r"\b(bbox|baseline|x_size|x_wconf) ([-\d. ]+)")


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


class Recogniser:
    """Reads pages of one file, up to the bounds of a file. `trouble` says why a page could not be tried or read.

    A run of Tesseract may take `seconds` of the processor, and `patience` by the clock; before and after each `alive`
    is called.
    """

    def __init__(self, languages: str, *, seconds: float, patience: float, alive: Callable[[], None]) -> None:
        self.trouble = ""
        self._languages = languages
        self._patience = patience
        self._alive = alive
        self._prepare = _leash(seconds) if os.name == "posix" else None
        self._pages = 0
        self._end = time.monotonic() + _FILE_SECONDS

    def lines(self, page: Any) -> list[Line]:
        """Return the lines of a pdfium page, in Tesseract's reading order, none where nothing can be made out.

        Raises `UnreadableDocument` where Tesseract does not start.
        """
        if self._pages >= PAGES or time.monotonic() > self._end:
            self.trouble = f"OCR ends after {PAGES:,} pages or {_FILE_SECONDS / 3600:g} hours"
            return []
        self._pages += 1
        try:
            seen = self._seen(page, 0)
            if (not seen.upright or seen.confidence < _DOUBTFUL) and (turn := self._turn(page)):
                seen = max(seen, self._seen(page, turn), key=lambda seen: (seen.upright, seen.confidence))
        except UnreadableDocument as error:
            if error.passing:
                raise
            self.trouble = error.message
            return []
        return seen.lines if seen.is_text else []

    def _seen(self, page: Any, turn: int) -> Recognised:
        scale = _scale(page)
        hocr = self._run(["-l", self._languages, "-c", "tessedit_create_hocr=1"], _picture(page, scale, turn))
        return read_hocr(hocr, scale)

    def _turn(self, page: Any) -> int:
        """Return by how many degrees the page must be turned clockwise, as Tesseract thinks; 0 where it cannot say."""
        try:
            found = self._run(["-l", "osd", "--psm", "0"], _picture(page, _scale(page), 0))
        except UnreadableDocument as error:
            if error.passing:
                raise
            return 0  # its data for that may be missing
        told = re.search(rb"^Rotate: (90|180|270)$", found, re.MULTILINE)
        return int(told[1]) if told else 0

    def _run(self, options: Sequence[str], picture: bytes) -> bytes:
        self._alive()
        try:
            return run(["stdin", "stdout", *options], picture, timeout=self._patience, prepare=self._prepare)
        except OSError as error:
            raise UnreadableDocument(f"Tesseract does not run: {error.strerror or error}", passing=True) from error
        finally:
            self._alive()


def _leash(seconds: float) -> Callable[[], None]:
    """What a new process does to itself: it takes bounds, and dies with the process that started it."""
    import resource

    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    parent, limit = os.getpid(), ceil(seconds)

    def bound(kind: int, most: int) -> None:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))

    def prepare() -> None:
        bound(resource.RLIMIT_CPU, limit)
        bound(resource.RLIMIT_FSIZE, OUTPUT_BYTES)
        if libc is not None:
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:  # it died in between
                os._exit(1)

    return prepare


def _scale(page: Any) -> float:
    """Return how many pixels a point of the page is drawn with."""
    from pypdfium2 import PdfiumError, raw

    width, height = (max(side, 1.0) for side in page.get_size())
    longest = 0
    for image in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3):
        with suppress(PdfiumError):
            longest = max(longest, *image.get_px_size())
    own = min(longest / max(width, height), sqrt(_FEWEST_PIXELS / (width * height)))
    most = min(sqrt(_MOST_PIXELS / (width * height)), _LONGEST_SIDE / max(width, height))
    return float(min(max(_DPI / 72, own), most))


def _picture(page: Any, scale: float, turn: int) -> bytes:
    """Return the page, turned clockwise by degrees, as a grey picture in PGM."""
    bitmap = page.render(scale=scale, rotation=turn, grayscale=True)
    try:
        width, height, stride, pixels = bitmap.width, bitmap.height, bitmap.stride, memoryview(bitmap.buffer)
        rows = [pixels[row * stride : row * stride + width] for row in range(height)]
        return b"".join([b"P5 %d %d 255\n" % (width, height), *rows])
    finally:
        bitmap.close()


def read_hocr(hocr: bytes, scale: float) -> Recognised:
    """Return what Tesseract says of a page that was drawn with `scale` pixels a point.

    Raises `UnreadableDocument` where that is not hOCR.
    """
    try:
        root = ElementTree.fromstring(hocr)  # noqa: S314 (nothing of the file's is in it but escaped words)
        height = _told(_parts(root, "ocr_page")[0])["bbox"][3]
        rows = [row for part in root.iter() if (row := _row(part))]
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnreadableDocument("Tesseract's answer cannot be read") from error
    letters = [len(word.text) for row in rows for word in row.words]
    sure = sum(len(word.text) * word.confidence for row in rows for word in row.words) / max(sum(letters), 1)
    upright = sum(len(word.text) for row in rows if row.upright for word in row.words)
    return Recognised(_lines(rows, height, scale), sure, 2 * upright >= sum(letters))


def _row(line: Element) -> _Row | None:
    """A line of hOCR, None where the element is none, or nothing stands in it."""
    told = _told(line)
    words = [_word(part) for part in _parts(line, "ocrx_word")] if "x_size" in told else []
    words = [word for word in words if word.text]
    if not words:
        return None
    left, top, right, bottom = told["bbox"]
    slope, offset = told.get("baseline", (0.0, 0.0))
    # Lines that run upwards or downwards have no baseline, or one that makes no sense.
    upright = abs(slope) < _STEEP and ("baseline" in told or len(words) == 1 or right - left > bottom - top)
    if not upright:
        slope = offset = 0.0
    y = bottom + offset + slope * (right - left) / 2
    return _Row(words, told["x_size"][0], slope, (left + right) / 2, y, upright)


def _word(part: Element) -> Word:
    told = _told(part)
    left, _, right, _ = told["bbox"]
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

"""Pages that are pictures, to lines: pdfium draws the page, Tesseract reads it in a process of its own.

Files that are pictures are given to Tesseract as they are, which decodes them there.
"""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil, sqrt
from typing import Any

from indexer.hocr import DPI, Recognised, read_hocr, read_picture
from indexer.reflow import Line
from rag.errors import UnreadableDocument
from rag.tesseract import OUTPUT_BYTES, run

PAGES = 1000  # of a file; further ones stay pictures
_FILE_SECONDS = 7200.0  # by the clock: when they are over, the file's further pages stay pictures
_MOST_PIXELS = 25_000_000  # A4 has 8.7 million at 300 dpi
_FEWEST_PIXELS = 4_000_000  # of a page that says it is smaller than a postcard, where the picture has as many
_LONGEST_SIDE = 30_000  # Tesseract refuses 32,768
_DOUBTFUL = 60.0  # a page below it on average may stand on its head


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

        def look() -> Recognised:
            seen = self._seen(page, 0)
            if (not seen.upright or seen.confidence < _DOUBTFUL) and (turn := self._turn(page)):
                seen = max(seen, self._seen(page, turn), key=lambda seen: (seen.upright, seen.confidence))
            return seen

        return self._bounded(look)

    def picture(self, content: bytes, page: int) -> list[Line]:
        """Return the lines of a page, from 0, of a PNG, JPEG or TIFF, which must be one; else as `lines`.

        What stands on its side is turned, as far as Tesseract notices by itself.
        """
        options = ["-l", self._languages, "--psm", "1", "-c", "tessedit_create_hocr=1"]
        return self._bounded(lambda: read_picture(self._run([*options, "-c", f"tessedit_page_number={page}"], content)))

    def _bounded(self, look: Callable[[], Recognised]) -> list[Line]:
        """Return what is seen on a page, within the bounds of a file."""
        if self._pages >= PAGES or time.monotonic() > self._end:
            self.trouble = f"OCR ends after {PAGES:,} pages or {_FILE_SECONDS / 3600:g} hours"
            return []
        self._pages += 1
        try:
            seen = look()
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
    return float(min(max(DPI / 72, own), most))


def _picture(page: Any, scale: float, turn: int) -> bytes:
    """Return the page, turned clockwise by degrees, as a grey picture in PGM."""
    bitmap = page.render(scale=scale, rotation=turn, grayscale=True)
    try:
        width, height, stride, pixels = bitmap.width, bitmap.height, bitmap.stride, memoryview(bitmap.buffer)
        rows = [pixels[row * stride : row * stride + width] for row in range(height)]
        return b"".join([b"P5 %d %d 255\n" % (width, height), *rows])
    finally:
        bitmap.close()

"""PDF to text: pdfium finds characters and lines, `reflow` joins lines to paragraphs.

pdfium gives lines in the order of the page's content stream, which is reading order with all common producers.
"""

import ctypes
import re
from collections.abc import Iterator, Sequence
from math import hypot
from typing import Any

from indexer.parsed import PDF_PAGES, Parsed, join_pages, printable, readable_stem, sensible_title
from indexer.reflow import (
    CELLS,
    Line,
    join_baselines,
    largest_print,
    page_text,
    vocabulary,
    with_edges,
    without_running_lines,
)
from rag.errors import UnreadableDocument

_SOFT_HYPHENS = (0x02, 0xFFFE)  # pdfium's marks for a hyphen at the end of a line
_LINE_BREAKS = (0x0A, 0x0D)
_GLYPHS = str.maketrans(
    {"\xa0": " ", "\xad": "", "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
)
_NO_TITLE = re.compile(r"(?i)(?:(?:table of )?contents|abstract|introduction)$|\d+(?:\.\d+)*\.? |.*://")
_CELL_GAP = 1.8  # in font sizes; justified text stays below


def parse_pdf(content: bytes, name: str) -> Parsed:
    """Return the text layer of a PDF, pages joined by a blank line; metadata `pages` holds their first offsets.

    Raises `UnreadableDocument` where a password is needed, the file is damaged or no page has a text layer.
    """
    import pypdfium2

    try:
        with pypdfium2.PdfDocument(content) as pdf:
            _check_pages(len(pdf))
            pages, scanned, damaged = _read_pages(pdf)
            title = sensible_title(pdf.get_metadata_value("Title"), name)
    except pypdfium2.PdfiumError as error:
        raise UnreadableDocument(_reason(error)) from error
    if not any(pages):
        raise UnreadableDocument(_why_no_text(len(pages), scanned, damaged))
    words = vocabulary(pages)
    text, offsets = join_pages([page_text(page, words) for page in without_running_lines(pages)])
    title = title or _printed_title(pages) or readable_stem(name)
    metadata = {"format": "pdf", "pages": offsets}
    if warning := _warning(len(pages), scanned, damaged):
        metadata["warning"] = warning
    return Parsed(text, title, metadata)


def _check_pages(count: int) -> None:
    if count > PDF_PAGES:
        raise UnreadableDocument(f"too long: {count} pages, the limit is {PDF_PAGES}")


def _reason(error: Any) -> str:
    from pypdfium2 import raw

    known = {
        raw.FPDF_ERR_PASSWORD: "encrypted PDF: a password is needed",
        raw.FPDF_ERR_SECURITY: "encrypted PDF: its encryption is not supported",
        raw.FPDF_ERR_FORMAT: "not a PDF file, or damaged beyond reading",
    }
    return known.get(error.err_code, f"damaged PDF: {' '.join(str(error).split())}")


def _plural(count: int) -> str:
    return f"{count} page" if count == 1 else f"{count} pages"


def _why_no_text(count: int, scanned: int, damaged: int) -> str:
    if scanned:
        return f"scanned PDF: {_plural(count)}, none with a text layer"
    if damaged:
        return f"damaged PDF: {damaged} of {_plural(count)} cannot be read"
    return f"empty: no text in it ({_plural(count)})"


def _warning(count: int, scanned: int, damaged: int) -> str:
    parts = []
    if scanned:
        parts.append(f"{scanned} of {_plural(count)} scanned, without a text layer")
    if damaged:
        parts.append(f"{damaged} of {_plural(count)} damaged")
    return "; ".join(parts)


def _read_pages(pdf: Any) -> tuple[list[list[Line]], int, int]:
    """Return the lines of each page, how many pages are pictures without text, and how many are damaged."""
    import pypdfium2
    from pypdfium2 import raw

    has_form = pdf.get_formtype() != raw.FORMTYPE_NONE
    if has_form:
        pdf.init_forms()
    pages: list[list[Line]] = []
    scanned = damaged = 0
    for number in range(len(pdf)):
        try:
            page = pdf[number]
            if has_form:
                page.flatten()  # what was typed into fields becomes part of the page, in memory only
                page.close()
                page = pdf[number]
            lines = _page_lines(page)
            if not lines and any(page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3)):
                scanned += 1
            page.close()
        except pypdfium2.PdfiumError:
            lines, damaged = [], damaged + 1
        pages.append(lines)
    return pages, scanned, damaged


def _page_lines(page: Any) -> list[Line]:
    textpage = page.get_textpage()
    try:
        left, bottom, right, top = page.get_bbox()
        lines = [
            line
            for line in _visual_lines(textpage)
            if line.left < right and line.right > left and line.bottom < top and line.top > bottom  # not cropped away
        ]
    finally:
        textpage.close()
    lines.sort(key=lambda line: not line.upright)  # a note along the margin comes last
    return with_edges(join_baselines(lines))


def _visual_lines(textpage: Any) -> Iterator[Line]:
    from pypdfium2 import raw

    chars: list[tuple[int, str]] = []
    count = textpage.count_chars()
    for index in range(count + 1):
        code = raw.FPDFText_GetUnicode(textpage, index) if index < count else 0x0A
        if code in _LINE_BREAKS or code in _SOFT_HYPHENS:
            if line := _line(textpage, chars, code in _SOFT_HYPHENS):
                yield line
            chars = []
        elif code:
            chars.append((index, chr(code)))


def _line(textpage: Any, chars: Sequence[tuple[int, str]], hyphen: bool) -> Line | None:
    from pypdfium2 import raw

    visible = [index for index, char in chars if not char.isspace()]
    if not visible:
        return None
    matrix = raw.FS_MATRIX()
    raw.FPDFText_GetMatrix(textpage, visible[0], ctypes.byref(matrix))
    first, last = _box(textpage, visible[0]), _box(textpage, visible[-1])
    size = raw.FPDFText_GetFontSize(textpage, visible[0]) * hypot(matrix.c, matrix.d) or first.top - first.bottom or 1.0
    text = _readable(_with_cells(textpage, chars, _CELL_GAP * size))
    if not text:
        return None
    left, right = min(first.left, last.left), max(first.right, last.right)
    upright = abs(matrix.b) <= abs(matrix.a)
    return Line(text, left, right, first.bottom, first.top, size, hyphen, upright)


def _box(textpage: Any, index: int) -> Any:
    from pypdfium2 import raw

    box = raw.FS_RECTF()
    raw.FPDFText_GetLooseCharBox(textpage, index, ctypes.byref(box))
    return box


def _with_cells(textpage: Any, chars: Sequence[tuple[int, str]], widest: float) -> str:
    """The characters as text, a space that is wider than `widest` points made a mark between two cells."""
    pieces: list[str] = []
    before = None  # the last visible character, if a space followed it
    for position, (index, char) in enumerate(chars):
        if char.isspace():
            if position and not chars[position - 1][1].isspace():
                before = chars[position - 1][0]
        elif before is not None:
            gap = _box(textpage, index).left - _box(textpage, before).right
            pieces[-1] = CELLS if gap > widest else " "
            before = None
        pieces.append(char)
    return "".join(pieces)


def _readable(text: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    return " ".join(printable(text.translate(_GLYPHS)).split())


def _printed_title(pages: Sequence[Sequence[Line]]) -> str:
    title = sensible_title(largest_print(pages), "")
    return "" if _NO_TITLE.match(title) else title

"""PDF to text: pdfium finds characters and lines, `reflow` joins lines to paragraphs.

pdfium gives lines in the order of the page's content stream, which is reading order with all common producers. Pages
that are pictures may be given to a reader of pictures (`indexer.ocr`); what it finds goes the same way.
"""

import ctypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from typing import Any, Protocol

from indexer.bookmarks import bookmarks, outline_of
from indexer.glyphs import Char, box_of, with_accents, with_exponents
from indexer.headlines import headlines
from indexer.parsed import PDF_PAGES, Parsed, join_pages, printable, readable_stem, sensible_title
from indexer.reflow import (
    CELL_GAP,
    CELLS,
    Line,
    join_baselines,
    largest_print,
    page_rows,
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
_DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)(\d\d)")  # ISO 32000-1, 7.9.4
# By the font's name: pdfium's own weight is 225 for Arial, 380 for Arial Bold and 645 for Arial Italic.
_BOLD = re.compile(r"(?i)bold|black|heavy|blk|cmbx|cmssbx|medi\b")
_NAME_BYTES = 200
_NO_TITLE = re.compile(r"(?i)(?:(?:table of )?contents|abstract|introduction)$|\d+(?:\.\d+)*\.? |.*://")


class PageReader(Protocol):
    """Reads pages that are pictures. `trouble` says why one could not be read, "" where none failed."""

    trouble: str

    def lines(self, page: Any) -> list[Line]:
        """Return the lines of a pdfium page, none where nothing can be made out."""
        ...


@dataclass(slots=True)
class Pages:
    """The lines of each page, the numbers of those that were pictures and were read, how many could not be read."""

    lines: list[list[Line]] = field(default_factory=list)
    recognised: list[int] = field(default_factory=list)
    scanned: int = 0
    damaged: int = 0

    def add(self, lines: list[Line], picture: bool) -> None:
        """Note the next page. Of a picture there are no lines where nothing could be made out."""
        self.lines.append(lines)
        if picture and lines:
            self.recognised.append(len(self.lines))
        elif picture:
            self.scanned += 1

    @property
    def count(self) -> str:
        """How many there are, in words."""
        return f"{len(self.lines)} page" if len(self.lines) == 1 else f"{len(self.lines)} pages"


def parse_pdf(content: bytes, name: str, ocr: PageReader | None = None) -> Parsed:
    """Return the text layer of a PDF, pages joined by a blank line; metadata `pages` holds their first offsets.

    Metadata `outline` says where its headings stand: those that its bookmarks name (`indexer.bookmarks`), where it has
    none those in larger print (`indexer.headlines`).
    Pages that are pictures are read by `ocr`, where it is given; metadata `ocr` holds the numbers of those, "1,4".
    Raises `UnreadableDocument` where a password is needed, the file is damaged or no page has text.
    """
    import pypdfium2

    try:
        with pypdfium2.PdfDocument(content) as pdf:
            check_pages(len(pdf))
            found = _read_pages(pdf, ocr)
            title = sensible_title(_property(pdf, "Title"), name)
            day, marks = _day(pdf), list(bookmarks(pdf))
    except pypdfium2.PdfiumError as error:
        raise UnreadableDocument(_reason(error)) from error
    if not any(found.lines):
        raise UnreadableDocument(_why_no_text(found, ocr))
    parsed = assembled(found, name, "pdf", ocr.trouble if ocr else "", title)
    outline = outline_of(parsed.text, _starts(parsed.metadata["pages"]), marks)
    known = {"date": day} if day else {}
    if outline and ("," in outline or "outline" not in parsed.metadata):  # a single bookmark is often that of the whole
        known["outline"] = outline
    return replace(parsed, metadata={**parsed.metadata, **known})


def assembled(found: Pages, name: str, kind: str, trouble: str, title: str = "") -> Parsed:
    """Return the text of pages, of a file of this name and format. `trouble` says why one could not be recognised."""
    pages = found.lines
    words = vocabulary(pages)
    rows = [page_rows(page, words) for page in without_running_lines(pages)]
    text, offsets = join_pages([page_text(page) for page in rows])
    title = title or _printed_title(pages) or readable_stem(name)
    metadata = {"format": kind}
    if len(pages) > 1 or kind == "pdf":
        metadata["pages"] = offsets
    if outline := outline_of(text, _starts(offsets), headlines(rows, found.recognised)):
        metadata["outline"] = outline
    if found.recognised:
        metadata["ocr"] = ",".join(map(str, found.recognised))
    if warning := _warning(found, trouble):
        metadata["warning"] = warning
    return Parsed(text, title, metadata)


def _starts(offsets: str) -> list[int]:
    return [int(start) for start in offsets.split(",")]


def check_pages(count: int) -> None:
    """Raise `UnreadableDocument` where a file has too many pages."""
    if count > PDF_PAGES:
        raise UnreadableDocument(f"too long: {count} pages, the limit is {PDF_PAGES}")


def _property(pdf: Any, name: str) -> str:
    try:
        return str(pdf.get_metadata_value(name))
    except UnicodeDecodeError:  # half of a surrogate pair; the pages may be whole
        return ""


def _day(pdf: Any) -> str:
    """When the file was changed or made, by its own words, "" where it says no such thing."""
    said = (_DATE.match(_property(pdf, name)) for name in ("ModDate", "CreationDate"))
    return next(("-".join(found.groups()) for found in said if found), "")


def _reason(error: Any) -> str:
    from pypdfium2 import raw

    known = {
        raw.FPDF_ERR_PASSWORD: "encrypted PDF: a password is needed",
        raw.FPDF_ERR_SECURITY: "encrypted PDF: its encryption is not supported",
        raw.FPDF_ERR_FORMAT: "not a PDF file, or damaged beyond reading",
    }
    return known.get(error.err_code, f"damaged PDF: {' '.join(str(error).split())}")


def _why_no_text(found: Pages, ocr: PageReader | None) -> str:
    if found.scanned:
        tried = "try --ocr eng" if ocr is None else ocr.trouble or "OCR finds no text"
        return f"scanned PDF: {found.count}, none with a text layer; {tried}"
    if found.damaged:
        return f"damaged PDF: {found.damaged} of {found.count} cannot be read"
    return f"empty: no text in it ({found.count})"


def _warning(found: Pages, trouble: str) -> str:
    parts = []
    if found.recognised:
        parts.append(f"{len(found.recognised)} of {found.count} recognised by OCR")
    if found.scanned:
        why = f" ({trouble})" if trouble else ""
        parts.append(f"{found.scanned} of {found.count} scanned, without a text layer{why}")
    if found.damaged:
        parts.append(f"{found.damaged} of {found.count} damaged")
    return "; ".join(parts)


def _read_pages(pdf: Any, ocr: PageReader | None) -> Pages:
    import pypdfium2
    from pypdfium2 import raw

    has_form = pdf.get_formtype() != raw.FORMTYPE_NONE
    if has_form:
        pdf.init_forms()
    found = Pages()
    for number in range(len(pdf)):
        try:
            page = pdf[number]
            if has_form:
                page.flatten()  # what was typed into fields becomes part of the page, in memory only
                page.close()
                page = pdf[number]
            lines = _page_lines(page)
            picture = not lines and any(page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=3))
            if picture and ocr:
                lines = recognised(ocr.lines(page))
            page.close()
        except pypdfium2.PdfiumError:
            lines, picture = [], False
            found.damaged += 1
        found.add(lines, picture)
    return found


def recognised(lines: Sequence[Line]) -> list[Line]:
    """Return lines that were read in a picture, as those of a text layer are."""
    return _in_order([replace(line, text=text) for line in lines if (text := _readable(line.text))])


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
    return _in_order(lines)


def _in_order(lines: list[Line]) -> list[Line]:
    lines.sort(key=lambda line: not line.upright)  # a note along the margin comes last
    return with_edges(join_baselines(lines))


def _visual_lines(textpage: Any) -> Iterator[Line]:
    from pypdfium2 import raw

    chars: list[Char] = []
    count = textpage.count_chars()
    for index in range(count + 1):
        code = raw.FPDFText_GetUnicode(textpage, index) if index < count else 0x0A
        if code in _LINE_BREAKS or code in _SOFT_HYPHENS:
            if line := _line(textpage, chars, code in _SOFT_HYPHENS):
                yield line
            chars = []
        elif code:
            chars.append((index, chr(code)))


def _line(textpage: Any, chars: Sequence[Char], hyphen: bool) -> Line | None:
    from pypdfium2 import raw

    chars = with_exponents(textpage, with_accents(textpage, chars))
    visible = [index for index, char in chars if not char.isspace()]
    if not visible:
        return None
    matrix = raw.FS_MATRIX()
    raw.FPDFText_GetMatrix(textpage, visible[0], ctypes.byref(matrix))
    first, last = box_of(textpage, visible[0]), box_of(textpage, visible[-1])
    size = raw.FPDFText_GetFontSize(textpage, visible[0]) * hypot(matrix.c, matrix.d) or first.top - first.bottom or 1.0
    text = _readable(_with_cells(textpage, chars, CELL_GAP * size))
    if not text:
        return None
    left, right = min(first.left, last.left), max(first.right, last.right)
    upright = abs(matrix.b) <= abs(matrix.a)
    bold = bool(_BOLD.search(_font_name(textpage, visible[0])))
    return Line(text, left, right, first.bottom, first.top, size, hyphen, upright, bold)


def _font_name(textpage: Any, index: int) -> str:
    from pypdfium2 import raw

    name = ctypes.create_string_buffer(_NAME_BYTES)
    raw.FPDFText_GetFontInfo(textpage, index, name, _NAME_BYTES, ctypes.byref(ctypes.c_int()))
    return name.value.decode("utf-8", "replace")


def _with_cells(textpage: Any, chars: Sequence[Char], widest: float) -> str:
    """The characters as text, a space that is wider than `widest` points made a mark between two cells."""
    pieces: list[str] = []
    before = None  # the last visible character, if a space followed it
    for position, (index, char) in enumerate(chars):
        if char.isspace():
            if position and not chars[position - 1][1].isspace():
                before = chars[position - 1][0]
        elif before is not None:
            gap = box_of(textpage, index).left - box_of(textpage, before).right
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

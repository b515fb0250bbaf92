"""Pictures of print, such as scanners and cameras save: PNG, JPEG and TIFF, one page or several.

Tesseract decodes them itself, in its process, with its limits. What is no such picture by its first bytes is never
shown to it: it would take any other file for a list of the names of files to read.
"""

import struct
from pathlib import PurePosixPath
from typing import Protocol

from indexer.load_pdf import Pages, assembled, check_pages, recognised
from indexer.parsed import PDF_PAGES, Parsed
from indexer.reflow import Line
from rag.errors import UnreadableDocument

PICTURES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff"))  # suffixes
NEEDS_OCR = "a picture: needs OCR; --ocr eng reads what is printed in it"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}  # with the byte order; BigTIFF is for files larger than are taken
_ENTRY_BYTES = 12


def is_picture(name: str) -> bool:
    """Whether a file of this name is one of print that only OCR reads."""
    return PurePosixPath(name).suffix.lower() in PICTURES


class PictureReader(Protocol):
    """Reads print in pictures. `trouble` says why a page could not be read, "" where none failed."""

    trouble: str

    def picture(self, content: bytes, page: int) -> list[Line]:
        """Return the lines of a page, from 0, of a picture file, none where nothing can be made out."""
        ...


def parse_image(content: bytes, name: str, ocr: PictureReader) -> Parsed:
    """Return what is printed in a picture, the pages of a TIFF joined by a blank line.

    The metadata are those of a PDF of pictures (`load_pdf.parse_pdf`), `pages` where there are several. Raises
    `UnreadableDocument` where the file is no PNG, JPEG or TIFF, or nothing can be made out on any page.
    """
    count = 1 if content.startswith((_PNG, _JPEG)) else _tiff_pages(content)
    check_pages(count)
    found = Pages()
    for page in range(count):
        found.add(recognised(ocr.picture(content, page)), picture=True)
    if not any(found.lines):
        raise UnreadableDocument(
            f"a picture that cannot be read: {ocr.trouble}" if ocr.trouble else "a picture: OCR finds no text in it"
        )
    return assembled(found, name, "image", ocr.trouble)


def _tiff_pages(content: bytes) -> int:
    """Count the pages of a TIFF, those before the first that is damaged. Raises `UnreadableDocument` for none."""
    order = _TIFF.get(content[:4], "")
    pages: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + "I", content, 4) if order else (0,)
        while at and at not in pages and len(pages) <= PDF_PAGES:
            (entries,) = struct.unpack_from(order + "H", content, at)
            (after,) = struct.unpack_from(order + "I", content, at + 2 + entries * _ENTRY_BYTES)
            pages.add(at)
            at = after
    except struct.error:
        pass
    if not pages:
        raise UnreadableDocument("no PNG, JPEG or TIFF picture, or damaged beyond reading")
    return len(pages)

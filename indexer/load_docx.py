"""DOCX to Markdown: mammoth makes HTML of it, `load_html` the rest.

The archive is checked before mammoth sees it: its size when unpacked, and that none of its parts declares a document
type, without which there are no XML entities to expand. Equations, which mammoth leaves out, become text.
"""

import io
import zipfile
import zlib
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from indexer.equations import equations_as_text
from indexer.load_html import html_to_markdown
from indexer.parsed import Parsed, sensible_title
from rag.errors import UnreadableDocument

_UNPACKED_BYTES = 1_000_000_000  # pictures included, which are never unpacked
_XML_BYTES = 100_000_000
_PARTS = 20_000
_OLE_MARK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
_CORE = "docProps/core.xml"
_DC_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
"""


def parse_docx(content: bytes, name: str) -> Parsed:
    """Return the text of a DOCX as Markdown; headers, footers, comments and pictures are left out.

    Raises `UnreadableDocument` where it is damaged, encrypted, not a DOCX, or unpacks to more than the bounds.
    """
    import mammoth

    if content.startswith(_OLE_MARK):
        raise UnreadableDocument("not a DOCX file: it is protected with a password, or in the older DOC format")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = _checked_parts(archive)
    except _DAMAGED as error:
        raise UnreadableDocument("not a DOCX file: damaged zip archive") from error
    except expat.ExpatError as error:
        raise UnreadableDocument(f"damaged DOCX: its XML is not well formed ({error})") from error
    if "word/document.xml" not in parts and not any(part.endswith("document.xml") for part in parts):
        raise UnreadableDocument("not a DOCX file: a zip archive without a text document in it")
    result = mammoth.convert_to_html(
        _rezipped(parts), style_map=_STYLES, convert_image=_no_image, include_embedded_style_map=False
    )
    parsed = html_to_markdown(result.value, name, "docx")
    return Parsed(parsed.text, _core_title(parts, name) or parsed.title, parsed.metadata)


def _no_image(image: Any) -> list[Any]:
    del image
    return []


def _checked_parts(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Return the XML parts of the archive, each well formed and without a document type."""
    infos = archive.infolist()
    xml = [info for info in infos if info.filename.lower().endswith((".xml", ".rels"))]
    if (
        len(infos) > _PARTS
        or sum(info.file_size for info in infos) > _UNPACKED_BYTES
        or sum(info.file_size for info in xml) > _XML_BYTES
    ):
        raise UnreadableDocument(f"too large: it unpacks to more than {_XML_BYTES // 1_000_000} MB of text")
    if any(info.flag_bits & 1 for info in infos):
        raise UnreadableDocument("encrypted DOCX: a password is needed")
    parts = {}
    for info in xml:
        parts[info.filename] = archive.read(info)
        _refuse_document_type(parts[info.filename])
    return parts


def _refuse_document_type(xml: bytes) -> None:
    def refuse(*_: Any) -> None:
        raise UnreadableDocument("refused: its XML declares a document type, which no DOCX needs and entity attacks do")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(xml, True)


def _rezipped(parts: dict[str, bytes]) -> io.BytesIO:
    """An archive of the XML parts alone, equations turned to text."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, xml in parts.items():
            archive.writestr(name, equations_as_text(xml) if b"oMath" in xml else xml)
    file.seek(0)
    return file


def _core_title(parts: dict[str, bytes], name: str) -> str:
    if _CORE not in parts:
        return ""
    properties = ElementTree.fromstring(parts[_CORE])  # noqa: S314  (document types, hence entities, are refused)
    return sensible_title(properties.findtext(_DC_TITLE) or "", name)

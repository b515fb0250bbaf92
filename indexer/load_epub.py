"""EPUB to Markdown: the chapters in reading order, each by way of `load_html`. Books under DRM are refused."""

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element
from xml.parsers import expat

from indexer.load_html import decode_html, html_to_markdown
from indexer.package import DAMAGED_ZIP, check_sizes, refuse_document_type, xml_root
from indexer.parsed import Parsed, readable_stem, sensible_title
from rag.errors import UnreadableDocument

_DAY = re.compile(r"\d{4}-\d\d-\d\d(?!\d)")
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_TEXT = (".xhtml", ".html", ".htm", ".xml", ".opf")
_PAGES = ("application/xhtml+xml", "text/html", "application/xml", "text/x-oeb1-document")


def parse_epub(content: bytes, name: str) -> Parsed:
    """Return the text of an EPUB as Markdown. Raises `UnreadableDocument`."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            check_sizes(infos, [info for info in infos if info.filename.lower().endswith(_TEXT)], "EPUB")
            title, day, pages = _book(archive)
    except DAMAGED_ZIP as error:
        raise UnreadableDocument("not an EPUB file: damaged zip archive") from error
    except expat.ExpatError as error:
        raise UnreadableDocument(f"damaged EPUB: its XML is not well formed ({error})") from error
    chapters = [html_to_markdown(decode_html(page), name, "epub") for page in pages]
    text = "\n\n".join(chapter.text for chapter in chapters if chapter.text)
    known = {"format": "epub"} | ({"date": day} if day else {})
    return Parsed(text, sensible_title(title, name) or readable_stem(name), known)


def _book(archive: zipfile.ZipFile) -> tuple[str, str, list[bytes]]:
    """The book's title, the day of its last change or else of its publication, and its pages as the spine has them."""
    names = set(archive.namelist())
    if _CONTAINER not in names:
        raise UnreadableDocument("not an EPUB file: a zip archive without a book in it")
    container = _read_xml(archive, _CONTAINER)
    package = next((found.get("full-path", "") for found in _all(container, "rootfile")), "")
    if package not in names:
        raise UnreadableDocument("damaged EPUB: its table of contents is missing")
    root = _read_xml(archive, package)
    locked = _locked(archive) if _ENCRYPTION in names else set()
    pages = []
    for page in dict.fromkeys(_spine(root, posixpath.dirname(package))):
        if page in locked:
            raise UnreadableDocument("encrypted EPUB: its chapters are locked (DRM)")
        if page in names:
            pages.append(archive.read(page))
    title = next((found.text or "" for found in _all(root, "title")), "")
    changed = [meta.text or "" for meta in _all(root, "meta") if meta.get("property") == "dcterms:modified"]
    days = (text.strip() for text in (*changed, *(found.text or "" for found in _all(root, "date"))))
    return title, next((text[:10] for text in days if _DAY.match(text)), ""), pages


def _spine(root: Element, folder: str) -> Iterator[str]:
    """The names of the book's pages in reading order; the table of contents, which repeats headings, is left out."""
    items: Mapping[str, Element] = {item.get("id", ""): item for item in _all(root, "item")}
    for reference in _all(root, "itemref"):
        item = items.get(reference.get("idref", ""))
        if item is None or item.get("media-type") not in _PAGES or "nav" in item.get("properties", "").split():
            continue
        yield posixpath.normpath(posixpath.join(folder, unquote(urlsplit(item.get("href", "")).path)))


def _locked(archive: zipfile.ZipFile) -> set[str]:
    return {unquote(found.get("URI", "")) for found in _all(_read_xml(archive, _ENCRYPTION), "CipherReference")}


def _read_xml(archive: zipfile.ZipFile, name: str) -> Element:
    xml = archive.read(name)
    refuse_document_type(xml, "EPUB")
    return xml_root(xml)


def _all(root: Element, tag: str) -> Iterator[Element]:
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == tag)

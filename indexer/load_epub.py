"""EPUB to Markdown: the chapters in reading order, each by way of `load_html`. Books under DRM are refused."""

import io
import posixpath
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element
from xml.parsers import expat

from indexer.load_html import decode_html, html_to_markdown, soup_of
from indexer.outline import find_headings, plain_title
from indexer.package import DAMAGED_ZIP, check_sizes, refuse_document_type, xml_root
from indexer.parsed import Parsed, readable_stem, sensible_title
from rag.errors import UnreadableDocument

_DAY = re.compile(r"\d{4}-\d\d-\d\d(?!\d)")
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_TEXT = (".xhtml", ".html", ".htm", ".xml", ".opf", ".ncx")
_NCX = "application/x-dtbncx+xml"
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
    chapters = [_headed(html_to_markdown(decode_html(page), name, "epub").text, label) for label, page in pages]
    text = "\n\n".join(filter(None, chapters))
    known = {"format": "epub"} | ({"date": day} if day else {})
    return Parsed(text, sensible_title(title, name) or readable_stem(name), known)


def _headed(text: str, label: str) -> str:
    """A chapter under what the table of contents calls it, where it has no headings of its own."""
    title = plain_title(label)
    if not text or not title or find_headings(text, "markdown"):
        return text
    first, _, rest = text.partition("\n")
    own = plain_title(first).casefold() == title.casefold()  # printed large, and no heading
    return f"## {title}\n\n{rest.lstrip() if own else text}".rstrip()


def _book(archive: zipfile.ZipFile) -> tuple[str, str, list[tuple[str, bytes]]]:
    """The book's title, the day of its last change or else of its publication, and its pages as the spine has them.

    Each page comes with what the table of contents calls it, "" where it does not.
    """
    names = set(archive.namelist())
    if _CONTAINER not in names:
        raise UnreadableDocument("not an EPUB file: a zip archive without a book in it")
    container = _read_xml(archive, _CONTAINER)
    package = next((found.get("full-path", "") for found in _all(container, "rootfile")), "")
    if package not in names:
        raise UnreadableDocument("damaged EPUB: its table of contents is missing")
    root = _read_xml(archive, package)
    folder = posixpath.dirname(package)
    labels = _labels(archive, root, folder, names)
    locked = _locked(archive) if _ENCRYPTION in names else set()
    pages = []
    for page in dict.fromkeys(_spine(root, folder)):
        if page in locked:
            raise UnreadableDocument("encrypted EPUB: its chapters are locked (DRM)")
        if page in names:
            pages.append((labels.get(page, ""), archive.read(page)))
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
        yield _place(folder, item.get("href", ""))


def _labels(archive: zipfile.ZipFile, root: Element, folder: str, names: Collection[str]) -> dict[str, str]:
    """What the tables of contents, of EPUB 3 and of EPUB 2, call the pages that they name, the first time that they do.

    They are read as pages: those of EPUB 2 declare a document type.
    """
    labels: dict[str, str] = {}
    for item in _all(root, "item"):
        is_nav = "nav" in item.get("properties", "").split()
        place = _place(folder, item.get("href", ""))
        if place not in names or not (is_nav or item.get("media-type") == _NCX):
            continue
        soup = soup_of(decode_html(archive.read(place)))
        for entry in soup.select('nav[epub\\:type~="toc"] a[href]') if is_nav else soup.find_all("navpoint"):
            source = entry if is_nav else entry.find("content", src=True)
            said = entry if is_nav else entry.find("text")
            if source is not None and said is not None:
                page = _place(posixpath.dirname(place), str(source["href" if is_nav else "src"]))
                labels.setdefault(page, said.get_text(" ", strip=True))
    return labels


def _place(folder: str, reference: str) -> str:
    return posixpath.normpath(posixpath.join(folder, unquote(urlsplit(reference).path)))


def _locked(archive: zipfile.ZipFile) -> set[str]:
    return {unquote(found.get("URI", "")) for found in _all(_read_xml(archive, _ENCRYPTION), "CipherReference")}


def _read_xml(archive: zipfile.ZipFile, name: str) -> Element:
    xml = archive.read(name)
    refuse_document_type(xml, "EPUB")
    return xml_root(xml)


def _all(root: Element, tag: str) -> Iterator[Element]:
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == tag)

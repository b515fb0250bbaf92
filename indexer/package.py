"""Office documents are zip archives of XML parts: reads the parts, with everything checked before a parser sees them.

A part that declares a document type is refused: without one there are no XML entities to expand. Pictures and other
parts that are no XML are never unpacked.
"""

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from indexer.parsed import sensible_title
from rag.errors import UnreadableDocument

UNPACKED_BYTES = 1_000_000_000  # pictures included
XML_BYTES = 100_000_000
_PARTS = 20_000
_OLE_MARK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
_CORE = "docProps/core.xml"
_DC_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_DC_TERMS = "{http://purl.org/dc/terms/}"
_DAY = re.compile(r"\d{4}-\d\d-\d\d(?!\d)")
_RELATIONSHIP = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_OLDER = {"DOCX": "DOC", "PPTX": "PPT", "XLSX": "XLS"}
# The root of the main part, and what a person calls it. The part is named like its root nearly always.
_MAIN = {
    "DOCX": ("document", "text document"),
    "PPTX": ("presentation", "presentation"),
    "XLSX": ("workbook", "workbook"),
}
# ISO/IEC 29500-4 has a year in the middle of each namespace and relationship, 29500-1 (strict) has not.
_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/")
_TRANSITIONAL = rb"http://schemas.openxmlformats.org/\1/2006/"


def office_parts(content: bytes, kind: str) -> tuple[dict[str, bytes], str]:
    """Return the XML parts of a DOCX, PPTX or XLSX by name, and the name of the part that makes it that `kind`.

    Files saved as "Strict Open XML" are given the namespaces of all others. Raises `UnreadableDocument` where it is
    damaged, encrypted, of another kind, or unpacks to more than the bounds.
    """
    article = "an" if kind[0] == "X" else "a"
    if content.startswith(_OLE_MARK):
        older = f"in the older {_OLDER[kind]} format"
        raise UnreadableDocument(f"not {article} {kind} file: it is protected with a password, or {older}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = _checked_parts(archive, kind)
    except DAMAGED_ZIP as error:
        raise UnreadableDocument(f"not {article} {kind} file: damaged zip archive") from error
    except expat.ExpatError as error:
        raise UnreadableDocument(f"damaged {kind}: its XML is not well formed ({error})") from error
    root, called = _MAIN[kind]
    said = [target for role, target in related(parts, "").values() if role == "officeDocument"]
    usual = (part for part in parts if part.endswith(f"{root}.xml"))
    main = next((part for part in (*said, *usual) if part in parts and _root_name(parts[part]) == root), "")
    if not main:
        raise UnreadableDocument(f"not {article} {kind} file: a zip archive without a {called} in it")
    return parts, main


def check_sizes(infos: list[zipfile.ZipInfo], text: list[zipfile.ZipInfo], kind: str) -> None:
    """Refuse what is locked or says it unpacks to too much; `zipfile` reads no more of a part than is said."""
    if (
        len(infos) > _PARTS
        or sum(info.file_size for info in infos) > UNPACKED_BYTES
        or sum(info.file_size for info in text) > XML_BYTES
    ):
        raise UnreadableDocument(f"too large: it unpacks to more than {XML_BYTES // 1_000_000} MB of text")
    if any(info.flag_bits & 1 for info in infos):
        raise UnreadableDocument(f"encrypted {kind}: a password is needed")


def refuse_document_type(xml: bytes, kind: str) -> None:
    """Raise `UnreadableDocument` where `xml` declares a document type, `ExpatError` where it is not well formed."""

    def refuse(*_: Any) -> None:
        raise UnreadableDocument(
            f"refused: its XML declares a document type, which no {kind} needs and entity attacks do"
        )

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(xml, True)


def core_title(parts: Mapping[str, bytes], name: str) -> str:
    """The title in the document's properties, "" where there is none that says anything."""
    if _CORE not in parts:
        return ""
    return sensible_title(xml_root(parts[_CORE]).findtext(_DC_TITLE) or "", name)


def core_date(content: bytes, parts: Mapping[str, bytes]) -> dict[str, str]:
    """The day on which an Office document was last changed, by its own words, as `date`; nothing where it says none.

    Programs that fill in a template leave the template's day: later then is that of the parts in the archive, in whose
    place others, Word among them, write 1980.
    """
    root = xml_root(parts[_CORE]) if _CORE in parts else None
    said = [] if root is None else [root.findtext(_DC_TERMS + name) or "" for name in ("modified", "created")]
    day = next((text.strip()[:10] for text in said if _DAY.match(text.strip())), "")
    if not day:
        return {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        packed = max(info.date_time[:3] for info in archive.infolist())
    return {"date": max(day, "{:04}-{:02}-{:02}".format(*packed))}


def xml_root(xml: bytes) -> ElementTree.Element:
    """The root element of a part from `office_parts`, which has no document type and hence no entities."""
    return ElementTree.fromstring(xml)  # noqa: S314


def related(parts: Mapping[str, bytes], part: str) -> dict[str, tuple[str, str]]:
    """What `part` refers to, the file itself where that is "": for each id the last word of its type and the part."""
    folder, name = posixpath.split(part)
    links = parts.get(posixpath.join(folder, "_rels", f"{name}.rels"))
    found = {}
    for link in xml_root(links).iter(_RELATIONSHIP) if links else ():
        if link.get("TargetMode") != "External":
            target = posixpath.normpath(posixpath.join("/", folder, link.get("Target", ""))).lstrip("/")
            found[link.get("Id", "")] = (link.get("Type", "").rpartition("/")[2], target)
    return found


def _root_name(xml: bytes) -> str:
    _, root = next(ElementTree.iterparse(io.BytesIO(xml), events=("start",)))  # noqa: S314  (no document type)
    return str(root.tag).rpartition("}")[2]


def _checked_parts(archive: zipfile.ZipFile, kind: str) -> dict[str, bytes]:
    infos = archive.infolist()
    xml = [info for info in infos if info.filename.lower().endswith((".xml", ".rels"))]
    check_sizes(infos, xml, kind)
    parts = {}
    for info in xml:
        content = archive.read(info)
        refuse_document_type(content, kind)
        parts[info.filename] = _STRICT.sub(_TRANSITIONAL, content)
    return parts

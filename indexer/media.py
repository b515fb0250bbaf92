"""From what a server says of a page to the suffix that decides which loader reads it."""

import codecs
from collections.abc import Collection
from email.message import Message
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from indexer import archive
from indexer.load import PLAIN
from indexer.load_image import NEEDS_OCR, PICTURES
from indexer.load_text import decode_as
from rag.errors import UnsupportedFormat

_SUFFIXES = {
    **dict.fromkeys(("text/html", "application/xhtml+xml"), ".html"),
    **dict.fromkeys(("application/pdf", "application/x-pdf"), ".pdf"),
    **dict.fromkeys(("text/markdown", "text/x-markdown"), ".md"),
    **dict.fromkeys(("text/csv", "application/csv"), ".csv"),
    "text/tab-separated-values": ".tsv",
    **dict.fromkeys(("text/xml", "application/xml"), ".xml"),
    **dict.fromkeys(("application/json", "text/json"), ".json"),
    **dict.fromkeys(("application/x-ndjson", "application/jsonl", "application/jsonlines"), ".jsonl"),
    **dict.fromkeys(("application/yaml", "application/x-yaml", "text/yaml"), ".yaml"),
    "application/toml": ".toml",
    "application/x-ipynb+json": ".ipynb",
    "application/epub+zip": ".epub",
    "message/rfc822": ".eml",
    "application/vnd.ms-outlook": ".msg",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    **dict.fromkeys(("application/zip", "application/x-zip-compressed"), ".zip"),
    "application/x-tar": ".tar",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/tiff": ".tiff",
}
# Types that say less than the address does.
_UNSAID = frozenset(
    (
        *("", "application/octet-stream", "binary/octet-stream", "application/download", "application/force-download"),
        *("application/gzip", "application/x-gzip", "application/x-bzip2", "application/x-xz"),
    )
)
_CODE = frozenset(("application/javascript", "application/x-sh", "application/sql"))
_NO_TEXT = (
    archive.SUFFIXES
    | PICTURES
    | frozenset((".pdf", ".epub", ".msg", ".docx", ".docm", ".pptx", ".pptm", ".ppsx", ".xlsx", ".xlsm"))
)
_TEXTS = PLAIN | {".html", ".csv", ".tsv"}  # what may be in any charset, unlike JSON


def split_type(content_type: str) -> tuple[str, str]:
    """Return the media type of a `Content-Type` in lower case and its charset, "" for what is not said."""
    if not content_type.strip():
        return "", ""
    message = Message()
    message["Content-Type"] = content_type.replace("\n", " ").replace("\r", " ")[:500]
    kind = content_type.partition(";")[0].strip().lower()
    return kind, str(message.get_content_charset() or "")


def suffix_of(kind: str, path: str, supported: Collection[str]) -> str:
    """Return the suffix, among the `supported`, for a media type and an address's path.

    Raises `UnsupportedFormat`, naming the type.
    """
    ending = PurePosixPath(unquote(path)).suffix.lower()
    ending = ending if ending in supported else ""
    if _SUFFIXES.get(kind) in supported:
        return _SUFFIXES[kind]
    if kind in _UNSAID:
        if not ending:
            said = kind or "no Content-Type"
            raise UnsupportedFormat(f"neither the server says what it is ({said}), nor does its address")
        return ending
    if kind.endswith(("+json", "+xml")):
        return "." + kind.rpartition("+")[2]
    if kind.startswith("text/") or kind in _CODE:
        # `text/plain` is what servers say of Markdown, source code and data too.
        return ".txt" if not ending or ending in _NO_TEXT else ending
    raise UnsupportedFormat(NEEDS_OCR if _SUFFIXES.get(kind) in PICTURES else f"no loader for {kind}")


def to_utf8(file: Path, suffix: str, charset: str) -> None:
    """Rewrite a text in the charset that its server names as UTF-8, with a mark that says so.

    As in browsers what the server says goes before what the page says, and after a byte order mark. Left alone where
    it is no text, is UTF-8 already, or is not what the server says.
    """
    try:
        name = codecs.lookup(charset).name if charset and suffix in _TEXTS else "utf-8"
    except (LookupError, ValueError):
        return
    content = b"" if name in ("utf-8", "ascii") else file.read_bytes()
    if not content or content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return
    if (text := decode_as(content, name)) is None:
        return
    file.write_bytes(codecs.BOM_UTF8 + text.encode("utf-8", "replace"))

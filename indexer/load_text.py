"""Plain text and its relatives: decoded, and otherwise left alone, so that spans point into the file's own text."""

import codecs
import json
import re
from pathlib import PurePath
from typing import Literal

from indexer.alphabets import latin_charset
from indexer.charset import told_charset
from indexer.outline import Markup, find_headings, front_matter, plain_title
from indexer.parsed import Parsed, readable_stem
from rag.errors import UnreadableDocument

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDER = {
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
_CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1a\x1c-\x1f]"
)  # without tab, line and page breaks, and the ESC of coloured logs
_NOT_TEXT = "not UTF-8, UTF-16 or Windows-1252 text, nor in another charset that can be told"
_ROW = re.compile(r"[^\x00-\x7f]{3,}")
_REPLACED = "\ufffd"
_RIGHT = 2  # characters that are no ASCII, to one that is in another charset
# Such as `<?xml encoding="iso-8859-2"?>`, `# -*- coding: latin-2 -*-`, `# vim: set fileencoding=cp1250`.
_DECLARED = re.compile(rb"coding[ \t]*[:=][ \t]*[\"']?([\w.-]+)", re.ASCII)
_INPUT_ENCODING = re.compile(rb"^[^%\n]*\\usepackage\[([\w-]+)\]\{inputenc\}", re.ASCII | re.MULTILINE)
_DECLARED_WITHIN = 10_000  # bytes
_TITLE_FIELD = re.compile(r"^title\s*[:=]\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_SAMPLE = 100_000  # characters looked through for control characters
_TITLE_WITHIN = 20_000  # characters

Plain = Literal["text"]


def parse_text(content: bytes, name: str, markup: Markup | Plain) -> Parsed:
    """Return the file's text, decoded. `markup` is "markdown", "rst", "asciidoc", "code" or "text".

    Raises `UnreadableDocument` where it is not UTF-8, UTF-16 with a byte order mark, what it says itself, plausible
    Windows-1252, or in another charset beyond doubt.
    """
    text = decode(content)
    title = PurePath(name).name if markup == "code" else _title(text, markup) or readable_stem(name)
    return Parsed(text, title, {"format": markup})


def decode(content: bytes) -> str:
    """Return `content` as text, without its byte order mark and with its own line ends."""
    text = decode_bom(content)
    if text is None and b"\x1b$" in content:  # ISO-2022-JP, which is ASCII with escapes
        text = decode_as(content, "iso2022_jp")
    if text is None:
        _refuse_binary(b"\0" in content)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = decode_unsure(content)
    sample = text[:_SAMPLE]
    _refuse_binary("\0" in text or len(_CONTROL.findall(sample)) > len(sample) // 1000)
    return text


def _refuse_binary(binary: bool) -> None:
    if binary:
        raise UnreadableDocument("binary data, not text")


def decode_as(content: bytes, charset: str) -> str | None:
    """Return `content` in the charset that its sender names, as browsers take that; None where it is not in it.

    Programs name the narrower charset and write the wider one: quotation marks of Windows-1252 under the name of
    ISO 8859-1, where they are control characters (https://encoding.spec.whatwg.org/#names-and-labels).
    """
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return None
    for encoding in (_WIDER.get(name, name), name):
        try:
            return content.decode(encoding)
        except (LookupError, ValueError):  # LookupError: a codec that is not for texts
            continue
    return None


def decode_nearly(content: bytes, charset: str) -> str | None:
    """Return `content` in a charset that most of it is in, U+FFFD in the place of what is not; None where it is not.

    A log that was cut in the middle of a character, or a line that another program has written, must not make another
    charset of the whole. What is in another one by and large is hardly ever right by chance.
    """
    try:
        name = codecs.lookup(charset).name
        text = content.decode(_WIDER.get(name, name), "replace")
    except (LookupError, ValueError):
        return None
    wrong = text.count(_REPLACED)
    right = sum(char > "\x7f" for char in text) - wrong
    return text if right >= _RIGHT * wrong else None


def decode_bom(content: bytes) -> str | None:
    """Return the text after a byte order mark, None where there is none. Raises `UnreadableDocument`."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise UnreadableDocument(
                    f"damaged text: not the {encoding.upper()} that its first bytes say"
                ) from error
    return None


def decode_unsure(content: bytes) -> str:
    """Return a text that is no UTF-8 throughout, by what it says of itself or by its letters.

    Raises `UnreadableDocument` where they do not tell.
    """
    text = decode_nearly(content, "utf-8")
    for charset_of in (_declared, latin_charset):
        if text is None and (charset := charset_of(content)):
            text = decode_nearly(content, charset)
    if text is None:
        text = _decode_cp1252(content)
    if text is None and (charset := told_charset(content)):
        text = decode_nearly(content, charset)
    if text is None:
        raise UnreadableDocument(_NOT_TEXT)
    return text


def _declared(content: bytes) -> str:
    """The charset that a text names, "" where it names none: XML, PEP 263 and what editors and LaTeX do alike."""
    # As in Python the first two lines count.
    said = _DECLARED.search(b"".join(content[:_DECLARED_WITHIN].splitlines(keepends=True)[:2]))
    said = said or _INPUT_ENCODING.search(content[:_DECLARED_WITHIN])
    name = said[1].decode() if said else ""
    return name if name and decode_as(b"ASCII", name) == "ASCII" else ""  # what spells that out is no UTF-16


def _decode_cp1252(content: bytes) -> str | None:
    """Windows-1252 takes nearly any bytes for letters: accept what looks like a Western language.

    There accents are few, and hardly ever three characters beyond ASCII side by side, unless it is a rule of dashes.
    """
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    high = [char for char in text if char > "\x7f"]
    letters = sum(char.isalpha() for char in text)
    accented = sum(char.isalpha() for char in high)
    usual = accented + sum(char in "‘’“”„«»‹›–—…•€£°§©®™·¡¿º\xa0½¼¾²³´×±" for char in high)
    in_rows = sum(len(row) for row in _ROW.findall(text) if any(map(str.isalpha, row)))
    if accented > 0.3 * letters or 2 * in_rows > len(high) or usual < 0.8 * len(high):
        return None
    return text


def _title(text: str, markup: Markup | Plain) -> str:
    if markup == "text":
        return ""
    preamble = front_matter(text)[0] if markup == "markdown" else ""
    if markup == "rst" and text.startswith(("PEP:", "Title:")):
        preamble = text[:_TITLE_WITHIN].partition("\n\n")[0]
    if preamble.startswith("{"):
        said = next((value for name, value in json.loads(preamble).items() if name.lower() == "title"), "")
        if isinstance(said, str) and (title := plain_title(said)):
            return title
    if preamble and (found := _TITLE_FIELD.search(preamble)):
        return plain_title(found.group(1).strip("\"'"))
    headings = find_headings(text[:_TITLE_WITHIN], markup)
    return headings[0].title if headings else ""

"""What every format's parser returns, and the bounds that all of them keep."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from indexer.outline import plain_title
from rag.errors import UnreadableDocument

FILE_BYTES = 100_000_000
TEXT_CHARACTERS = 20_000_000
PDF_PAGES = 10_000

# Control characters and lone surrogates: no reader wants them, and UTF-8 cannot hold the latter. Soft hyphens say where
# a word may be divided, and would divide it for whoever looks for it.
_UNPRINTABLE = re.compile(r"[\xad\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")
_NO_TITLE = re.compile(
    r"(?i)\W*(?:anonymous|untitled|unknown|no title|title|document\d*|microsoft \w+ - .*|dokument\d*|"
    # What PowerPoint calls every presentation, in the language that it speaks, or its first slide.
    r"(?:slide|folie|diapositiv[ae]) \d+|"
    r"powerpoint[ -]?(?:pr[eéä]sent\w+|演示文稿|簡報|プレゼンテーション|프레젠테이션)|"
    r"(?:pr[eé]sent\w+|apresenta\w+)(?: standard)?(?: d[eio])? powerpoint)\W*"
)
_FILE_NAME = re.compile(r"(?i)\S+\.(?:docx?|dot|odt|rtf|pdf|tex|dvi|html?|xlsx?|pptx?|indd|qxd|txt|jpe?g|png|tiff?)")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Text and title of one file.

    `metadata` is the loader's: `format`, and where they apply `pages` (their first offsets), `ocr` (the numbers of
    those whose text was recognised in a picture), `outline` (where headings stand), `date` and `warning`.
    """

    text: str
    title: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def excess(size: int, limit: int) -> str:
    """Say that a file of so many bytes is too large, "" where it is not."""
    return f"too large: {size / 1e6:.0f} MB, the limit is {limit // 1_000_000} MB" if size > limit else ""


def checked(parsed: Parsed) -> Parsed:
    """Return `parsed`; raise `UnreadableDocument` where there is no text in it or more than `TEXT_CHARACTERS`."""
    if not parsed.text or parsed.text.isspace():
        raise UnreadableDocument("empty: no text in it")
    if len(parsed.text) > TEXT_CHARACTERS:
        millions = len(parsed.text) / 1e6
        raise UnreadableDocument(
            f"too long: {millions:.1f} million characters of text, the limit is {TEXT_CHARACTERS // 1_000_000} million"
        )
    return parsed


def printable(text: str) -> str:
    """Text of a parser without control characters and soft hyphens; a form feed becomes a line break."""
    return _UNPRINTABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n"))


def join_pages(pages: Sequence[str]) -> tuple[str, str]:
    """Return the text of all pages and the offsets of their first characters, as "0,1834,3621"."""
    text, offsets, end = [], [], 0
    for page in pages:
        if page and end:
            text.append("\n\n")
            end += 2
        offsets.append(end)
        text.append(page)
        end += len(page)
    return "".join(text), ",".join(map(str, offsets))


def readable_stem(name: str) -> str:
    """A file's name as a title: `annual_report-2024.pdf` is `annual report-2024`."""
    stem = PurePath(name).stem
    return plain_title(printable(stem.replace("_", " "))) or stem or name


def sensible_title(title: str, name: str) -> str:
    """A title out of a file's properties, or "" where it is a placeholder or only repeats a file name."""
    title = plain_title(printable(title))
    if len(title) < 3 or not any(char.isalpha() for char in title):
        return ""
    if _NO_TITLE.fullmatch(title) or _FILE_NAME.fullmatch(title) or title == PurePath(name).stem:
        return ""
    return title

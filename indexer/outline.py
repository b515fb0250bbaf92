"""The headings of a text: where they stand, how deep they are, what they say.

Markdown (also what most other formats are turned into), reStructuredText and AsciiDoc are read; in source code the
lines that define classes and functions are the headings.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import takewhile
from typing import Literal, NamedTuple

from rag.datatypes import Span

Markup = Literal["markdown", "rst", "asciidoc", "code"]
MARKDOWN_SUFFIXES = frozenset((".md", ".markdown", ".mdown", ".mkd"))

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]|$)")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_NOT_SETEXT = re.compile(r"(?: {4}|\t| {0,3}(?:[-*+>|#]|\d{1,9}[.)]|`{3}|~{3}))")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}")
_ASCIIDOC = re.compile(r"(={1,6}|#{1,6})[ \t]+\S")
_ASCIIDOC_BLOCK = re.compile(r"(?:-{4,}|\.{4,}|\+{4,}|/{4,}|`{3,})")
# A definition in most languages: modifiers, a keyword, a name. Methods of C and Java, which have no keyword, stand
# under their class or file.
_DEFINITION = re.compile(
    r"([ \t]*)(?:(?:export|default|pub(?:\([a-z]+\))?|public|private|protected|internal|static|async|abstract|final|"
    r"sealed|open|data|override|inline|unsafe|const|local|partial)[ \t]+)*"
    r"(?:class|def|defp|defmodule|fn|func|fun|function|sub|struct|enum|trait|impl|interface|protocol|module|namespace|"
    r"object|package|CREATE[ \t]+(?:OR[ \t]+REPLACE[ \t]+)?(?:TABLE|VIEW|FUNCTION|PROCEDURE))\b"
    r"(?:[ \t]*(?:<[^<>]*>|\([^()]*\)|IF[ \t]+NOT[ \t]+EXISTS\b))?[ \t]+([A-Za-z_$`\"][\w$.:`\"]*)",
    re.IGNORECASE,
)
_FRONT_MATTER = re.compile(r"(---|\+\+\+)[ \t]*\r?\n(.*?)^(?:\1|\.\.\.)[ \t]*\r?$", re.DOTALL | re.MULTILINE)
JSON_OPENING = re.compile(r'\{\s*"')
_REST_OF_LINE = re.compile(r"[ \t]*(?:\r?\n|\Z)")
FRONT_MATTER_CHARACTERS = 20_000
_PATH_CHARACTERS = 200
_INLINE = (
    (re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s\"[^\"]*\")?\)"), r"\1"),  # [text](target)
    (re.compile(r"!?\[([^\[\]]*)\]\[[^\[\]]*\]"), r"\1"),  # [text][reference]
    (re.compile(r"</?[A-Za-z][^<>]*>"), ""),
    (re.compile(r"\s*\{#[^{}]*\}\s*$"), ""),
    (re.compile(r"(\*{1,3}|~~|`{1,2})(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<!\w)(_{1,3})(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
)
_DEFINITION_WITHIN = 300  # characters of a line
# Longer headings are paragraphs that someone marked as headings.
TITLE_CHARACTERS = 200


class Heading(NamedTuple):
    """A heading at `[start, end)` of the text (its underline included), level 1 the highest, `title` without markup."""

    start: int
    end: int
    level: int
    title: str


class _Line(NamedTuple):
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def find_headings(text: str, markup: Markup) -> list[Heading]:
    """Return the headings of `text` in order. Code blocks and front matter hold none."""
    if markup == "rst":
        return list(_rst_headings(text))
    if markup == "asciidoc":
        return list(_asciidoc_headings(text))
    if markup == "code":
        return list(_definitions(text))
    return list(_markdown_headings(text))


def heading_paths(headings: Sequence[Heading], title: str) -> list[tuple[str, ...]]:
    """For each heading the titles from the highest one down to it, without the document's own title."""
    stack: list[Heading] = []
    paths = []
    for heading in headings:
        while stack and stack[-1].level >= heading.level:
            stack.pop()
        stack.append(heading)
        path = tuple(above.title for above in stack)
        paths.append(path[1:] if path[0].casefold() == title.casefold() else path)
    return paths


def path_above(span: Span, headings: Sequence[Heading], paths: Sequence[tuple[str, ...]]) -> str:
    """The headings that all of the chunk's text stands under, joined with " > "."""
    first = bisect_right(headings, span.start, key=lambda heading: heading.start)
    last = bisect_right(headings, span.end - 1, key=lambda heading: heading.start)
    if first == 0:
        return ""
    path = reduce(_common_start, paths[first - 1 : last])
    while len(path) > 1 and len(" > ".join(path)) > _PATH_CHARACTERS:
        path = path[1:]
    return " > ".join(path)


def front_matter(text: str) -> tuple[str, int]:
    """Return the YAML, TOML or JSON block that opens a Markdown file, and where it ends; `("", 0)` where there is none.

    JSON is an object with nothing behind it on its last line; its braces are part of the block.
    """
    if JSON_OPENING.match(text):
        return _json_front_matter(text[:FRONT_MATTER_CHARACTERS])
    found = _FRONT_MATTER.match(text, 0, FRONT_MATTER_CHARACTERS)
    return (found.group(2), found.end()) if found else ("", 0)


def _json_front_matter(text: str) -> tuple[str, int]:
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return "", 0
    return (text[:end], end) if _REST_OF_LINE.match(text, end) else ("", 0)


def plain_title(markup: str) -> str:
    """A heading's words without emphasis, links, code marks and doubled spaces, cut to `TITLE_CHARACTERS`."""
    title = markup.strip()[: 5 * TITLE_CHARACTERS]
    for pattern, replacement in _INLINE:
        title = pattern.sub(replacement, title)
    title = " ".join(title.split())
    return title if len(title) <= TITLE_CHARACTERS else title[: TITLE_CHARACTERS - 1].rstrip() + "…"


def _lines(text: str, start: int = 0) -> Iterator[_Line]:
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield _Line(start, text[start:end].rstrip())
        start = end + 1


def _markdown_headings(text: str) -> Iterator[Heading]:
    fence = ""
    before, last = _Line(0, ""), _Line(0, "")
    for line in _lines(text, front_matter(text)[1]):
        opening = _FENCE.match(line.text)
        if fence:
            if opening and opening.group(1).startswith(fence) and not line.text[opening.end() :].strip():
                fence = ""
            line = _Line(line.start, "")  # code is no paragraph that an underline could make a heading of
        elif opening and "`" not in line.text[opening.end() :]:
            fence = opening.group(1)
            line = _Line(line.start, "")
        elif atx := _ATX.match(line.text):
            if title := plain_title(_without_closing_hashes(line.text[atx.end() :].strip())):
                yield Heading(line.start, line.end, len(atx.group(1)), title)
            line = _Line(line.start, "")
        elif last.text and not before.text and _SETEXT.fullmatch(line.text) and not _NOT_SETEXT.match(last.text):
            yield Heading(last.start, line.end, 1 if "=" in line.text else 2, plain_title(last.text))
            line = _Line(line.start, "")
        before, last = last, line


def _without_closing_hashes(title: str) -> str:
    bare = title.rstrip("#")
    return bare if not bare or bare[-1].isspace() else title


def _rst_headings(text: str) -> Iterator[Heading]:
    styles: list[tuple[str, bool]] = []  # in the order of their first use, which is what defines their levels
    above, before, last = _Line(0, ""), _Line(0, ""), _Line(0, "")
    for line in _lines(text):
        adornment = _ADORNMENT.fullmatch(line.text)
        over = bool(_ADORNMENT.fullmatch(before.text)) and before.text[:1] == line.text[:1]
        if (
            adornment
            and last.text
            and not _ADORNMENT.fullmatch(last.text)
            and (over or not (before.text or last.text[0].isspace()))
            and not (over and above.text)
            and len(line.text) >= len(last.text.strip())
        ):
            style = (line.text[0], over)
            if style not in styles:
                styles.append(style)
            start = before.start if over else last.start
            yield Heading(start, line.end, styles.index(style) + 1, plain_title(last.text))
            line = _Line(line.start, "")
        above, before, last = before, last, line


def _asciidoc_headings(text: str) -> Iterator[Heading]:
    block = ""
    for line in _lines(text):
        if _ASCIIDOC_BLOCK.fullmatch(line.text):
            if not block:
                block = line.text
            elif line.text == block:
                block = ""
        elif not block and (found := _ASCIIDOC.match(line.text)):
            yield Heading(line.start, line.end, len(found.group(1)), plain_title(line.text.lstrip("=#")))


def _definitions(text: str) -> Iterator[Heading]:
    """The deeper a definition is indented, the deeper its level."""
    for line in _lines(text):
        found = _DEFINITION.match(line.text[:_DEFINITION_WITHIN])
        if found and (name := found.group(2).strip('`":.')):
            indent = len(found.group(1).expandtabs(4))
            yield Heading(line.start, line.end, 1 + indent, name[:TITLE_CHARACTERS])


def _common_start(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(title for title, _ in pairs)

"""HTML to Markdown: the page's own content, without navigation, scripts and what is hidden.

The structure of blocks (headings, lists, tables, code) is kept; formatting within a line (bold, the targets of links)
is dropped: the text is embedded, cited and read by a small model, which stars and addresses only distract.
"""

import re
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from bs4 import BeautifulSoup, Tag
from bs4.dammit import EncodingDetector
from bs4.element import PreformattedString
from markdownify import ATX, MarkdownConverter

from indexer.load_text import decode_as, decode_bom, decode_nearly, decode_unsure
from indexer.mathml import formula_as_text
from indexer.numbering import spelled
from indexer.parsed import Parsed, printable, readable_stem, sensible_title
from indexer.tables import in_blocks
from rag.errors import UnreadableDocument

_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*>")
_NEVER_TEXT = frozenset(
    "script style noscript template svg canvas iframe object embed audio video map img "
    "button input select textarea datalist".split()
)
_NEVER_TEXT_CLASSES = frozenset(("headerlink", "mw-editsection", "noprint"))
_BOILERPLATE_ROLES = frozenset(
    ("navigation", "banner", "contentinfo", "search", "menu", "menubar", "complementary", "dialog")
)
_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6", "dt", "summary"]
_FURNITURE = ("header", "footer", "aside")  # of the page, unless they stand in one of:
_CONTENT = ["main", "article", "blockquote", "figure"]
# Of the metadata of a page: Open Graph's, Dublin Core's and others', the last change before the publication.
_DATE_NAMES = (
    *("article:modified_time", "og:updated_time", "dcterms.modified", "last-modified"),
    *("article:published_time", "dcterms.date", "dc.date", "date"),
)
_DIGIT_LAST = re.compile(r"\d\Z")
_EXPONENT = re.compile(r"[+\-−–]?\d+(?:[.,/]\d+)?")
_HASHES = re.compile(r"(?m)^ {0,3}#(?=#{0,5}(?:[ \t]|$))")
_IN_CELLS = re.compile(r"[^\s|-]")
_FORMS = {"a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}
_COUNTED = re.compile(r"\d+\. ")
_DATE = re.compile(r"^\s*\d{4}-\d{2}-\d{2}(?!\d)")
# Content of fewer characters was probably cut by mistake, if the page's body holds twice as many.
_NEARLY_EMPTY = 200
_WIDEST_SPAN = 200  # rows or columns of a cell; more is a mistake or an attack


class _Converter(MarkdownConverter):
    """markdownify without the marks inside lines."""

    def _plain(self, el: Any, text: str, parent_tags: Any) -> str:
        del el, parent_tags
        return text

    convert_a = convert_b = convert_strong = convert_em = convert_i = convert_del = convert_s = _plain

    def convert_br(self, el: Any, text: str, parent_tags: Any) -> str:
        """A line break is a line break, not two spaces before one."""
        del el, text
        return " " if "_inline" in parent_tags else "\n"

    def convert_sup(self, el: Any, text: str, parent_tags: Any) -> str:
        """A number that is raised behind a number is its exponent: 10^6, and not 106."""
        del parent_tags
        before = el.previous_sibling
        raised = isinstance(before, str) and _DIGIT_LAST.search(before) and _EXPONENT.fullmatch(text.strip())
        return f"^{text.strip()}" if raised else text

    def convert_li(self, el: Any, text: str, parent_tags: Any) -> str:
        """An item begins with its label, where it says which (`data-label`): c), or (iv)."""
        item: str = super().convert_li(el, text, parent_tags)  # type: ignore[misc]
        label = el.get("data-label")
        return _COUNTED.sub(lambda _: f"{label} ", item, count=1) if label else item

    def convert_p(self, el: Any, text: str, parent_tags: Any) -> str:
        """A paragraph that begins with a # is no heading."""
        return str(super().convert_p(el, _HASHES.sub(r"\\\g<0>", text), parent_tags))  # type: ignore[misc]

    def convert_table(self, el: Any, text: str, parent_tags: Any) -> str:
        """A long table is written in blocks, each under its head, one without words not at all."""
        del el, parent_tags
        if not _IN_CELLS.search(text):
            return ""
        return f"\n\n{in_blocks(text.strip())}\n\n"


def parse_html(content: bytes, name: str) -> Parsed:
    """Return the content of an HTML page as Markdown. Raises `UnreadableDocument` where it is no text."""
    return html_to_markdown(decode_html(content), name, "html")


def html_to_markdown(html: str, name: str, source: str) -> Parsed:
    """Return the Markdown of `html`; `source` becomes the metadata's `format`."""
    soup = soup_of(html)
    title = _title(soup, name)
    body = soup.body or soup
    if source == "html":
        whole = _length(body)
        opened = _openable(body)
        _drop(body, lambda tag: _is_boilerplate(tag) or (_is_hidden(tag) and tag.get("id") not in opened))
        if _length(body) < _NEARLY_EMPTY and whole > 2 * _length(body):
            body = soup_of(html).body or soup  # all of it: nearly nothing was left
    _label_items(body)
    _unwrap_layout_tables(body)
    _begin_with_rows(body)
    _repeat_spanning_cells(body)
    found = {"format": source}
    if source == "html" and (day := _date(soup)):
        found["date"] = day
    return Parsed(_markdown(body), title or readable_stem(name), found)


def soup_of(html: str) -> BeautifulSoup:
    """Return a page without what is never text."""
    soup = BeautifulSoup(_XML_DECLARATION.sub("", html, count=1), "lxml")  # XHTML is read as HTML, as browsers do
    for node in soup.find_all(string=lambda string: isinstance(string, PreformattedString)):
        node.extract()  # comments, declarations, processing instructions
    _write_out_formulas(soup)
    _drop(soup, _is_never_text)
    return soup


def decode_html(content: bytes) -> str:
    """Return a page as text, by its mark, its own declaration, as UTF-8, or by its letters.

    Raises `UnreadableDocument`.
    """
    if (text := decode_bom(content)) is not None:
        return text
    declared = EncodingDetector.find_declared_encoding(content, is_html=True)
    if declared and declared.lower().startswith("utf-16"):
        declared = None  # no bytes that spell out a declaration are UTF-16; browsers take UTF-8
    likely = list(filter(None, (declared, "utf-8")))
    late = EncodingDetector.find_declared_encoding(content, is_html=True, search_entire_document=True)
    last = list(filter(None, (late,)))
    for decoded, encodings in (
        (decode_as, likely),
        (decode_nearly, likely),
        (decode_as, last),
        (_guessed, ("cp1252",)),
    ):
        for encoding in encodings:
            text = decoded(content, encoding)
            if text is not None and "\0" not in text:
                return text
    raise UnreadableDocument("not an HTML file: binary data, or an unknown encoding")


def _guessed(content: bytes, otherwise: str) -> str | None:
    """Return a page that says nothing of its charset, by its letters or in the charset `otherwise`."""
    try:
        return decode_unsure(content)
    except UnreadableDocument:
        return decode_as(content, otherwise)


def _write_out_formulas(soup: BeautifulSoup) -> None:
    """Formulas become text, also where a page hides them behind a picture that says the same."""
    for math in soup.find_all("math"):
        shown, words = math, math.get_text().strip()
        while (above := shown.parent) is not None and above.name == "span" and above.get_text().strip() == words:
            shown = above
        text = formula_as_text(math) or " "
        shown.replace_with(f" {text} " if math.get("display") == "block" else text)


def _title(soup: BeautifulSoup, name: str) -> str:
    first = soup.h1 or soup.find(["h2", "h3", "h4", "h5", "h6"])
    heading = sensible_title(first.get_text(" "), name) if first else ""
    title = sensible_title(soup.title.get_text(" "), name) if soup.title else ""
    return heading if heading and heading in title else title or heading  # "Ducks - Encyclopedia" is "Ducks"


def _date(soup: BeautifulSoup) -> str:
    """When the page was changed or published, by its own words, "" where it says no such thing."""
    said: dict[str, str] = {}
    for meta in soup.find_all("meta", content=_DATE):
        said.setdefault(str(meta.get("property") or meta.get("name") or "").lower(), str(meta["content"]).strip()[:10])
    return next((said[name] for name in _DATE_NAMES if name in said), "")


def _drop(body: Tag, is_dropped: Callable[[Tag], bool]) -> None:
    # Plain functions: CSS selectors took five times as long on large pages, and asking a tag whether it is `decomposed`
    # searches all that is in it.
    for tag in [tag for tag in body.find_all(True) if is_dropped(tag)]:
        tag.extract()


def _is_never_text(tag: Tag) -> bool:
    if tag.name == "button":  # one in a heading opens what stands below it, such as the answer to its question
        return tag.find_parent(_HEADINGS) is None
    return tag.name in _NEVER_TEXT or not _NEVER_TEXT_CLASSES.isdisjoint(tag.get_attribute_list("class"))


def _is_boilerplate(tag: Tag) -> bool:
    if tag.name == "nav" or tag.get("role") in _BOILERPLATE_ROLES:
        return True
    return tag.name in _FURNITURE and not tag.find_parent(_CONTENT) and not (tag.name == "header" and tag.h1)


def _is_hidden(tag: Tag) -> bool:
    if tag.get("aria-hidden") == "true" or (tag.has_attr("hidden") and tag["hidden"] != "until-found"):
        return True
    return "display:none" in str(tag.get("style", "")).replace(" ", "").lower()


def _openable(body: Tag) -> set[str]:
    """The ids of what a heading opens and closes: closed as it may be, it is the page's content."""
    controls = (tag for tag in body.find_all(True, {"aria-controls": True}) if tag.find_parent(_HEADINGS))
    return {id_ for tag in controls for id_ in str(tag["aria-controls"]).split()}


def _label_items(body: Tag) -> None:
    """Items that are not numbered 1, 2, 3 say how."""
    for numbered in body.find_all("ol"):
        form = _FORMS.get(str(numbered.get("type", "")), "")
        labelled = bool(form)
        number = int(start) - 1 if (start := str(numbered.get("start", ""))).isdecimal() else 0
        for item in numbered.find_all("li", recursive=False):
            own = str(item.get("value", ""))
            number = int(own) if own.isdecimal() else number + 1
            labelled = labelled or own.isdecimal()
            if labelled:
                item["data-label"] = f"{spelled(number, form)}."


def _length(body: Tag) -> int:
    return len("".join(body.get_text().split()))


def _unwrap_layout_tables(body: Tag) -> None:
    """Make plain blocks of tables that arrange a page instead of data: nested ones and those of a single column."""
    for table in body.find_all("table"):
        if table.find("table") or all(len(row) < 2 for row in _rows(table)):
            parts = table.find_all(["tr", "td", "th", "caption", "thead", "tbody", "tfoot"])
            for part in [table, *(part for part in parts if part.find_parent("table") is table)]:
                part.name = "div"


def _begin_with_rows(body: Tag) -> None:
    """Take captions and columns out of tables: markdownify takes what comes first for the head."""
    for tag in body.find_all(["caption", "colgroup", "col"]):
        table = tag.find_parent("table")
        if tag.name == "caption" and table is not None:
            tag.name = "p"
            table.insert_before(tag)
        elif tag.name != "caption":
            tag.unwrap()  # where its end was left out, rows may stand in it


def _rows(table: Tag) -> Iterator[list[Tag]]:
    """The cells of each row of `table`, which has no tables inside it."""
    return (row.find_all(["td", "th"], recursive=False) for row in table.find_all("tr"))


def _repeat_spanning_cells(body: Tag) -> None:
    """Repeat a cell that spans several rows in each of them, so that every value stands in its own column."""
    for table in body.find_all("table"):
        if not table.find(["td", "th"], rowspan=True):
            continue
        hanging: dict[int, tuple[int, Tag]] = {}  # column: rows still to fill, cell
        for row in _rows(table):
            column, cells = 0, iter(row)
            before: Tag | None = None
            while True:
                if column in hanging:
                    left, spanning = hanging.pop(column)
                    cell = copy(spanning)
                    if before is not None:
                        before.insert_after(cell)
                    elif row:
                        row[0].insert_before(cell)
                    if left > 1:
                        hanging[column] = (left - 1, spanning)
                elif (following := next(cells, None)) is not None:
                    cell = following
                    if (rows := _span(cell, "rowspan")) > 1:
                        hanging[column] = (rows - 1, cell)
                else:
                    break
                before = cell
                column += _span(cell, "colspan")


def _span(cell: Tag, name: str) -> int:
    number = str(cell.get(name, "1"))
    return min(int(number), _WIDEST_SPAN) if number.isdecimal() and int(number) else 1


def _markdown(body: Tag) -> str:
    converter = _Converter(
        heading_style=ATX, bullets="-", escape_asterisks=False, escape_underscores=False, table_infer_header=True
    )
    try:
        text = converter.convert_soup(body)
    except RecursionError:  # nested thousands deep: the words without their structure
        text = body.get_text("\n")
    text = re.sub(r"(?<![ \t])[ \t]*+\xa0[ \t\xa0]*", " ", printable(text))
    text = re.sub(r"(?<![ \t])[ \t]++\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()

"""PPTX to Markdown: each slide a heading with its text, tables, the figures behind its charts, and the speaker's notes.

Read from the XML itself (ECMA-376, part 1, chapters 19 and 21): python-pptx would bring Pillow for pictures that are
not read here.
"""

from collections.abc import Iterator, Mapping
from xml.etree.ElementTree import Element

from indexer.charts import charts_in, diagram_points, elements, line_of, local_name
from indexer.outline import TITLE_CHARACTERS, plain_title
from indexer.package import core_date, core_title, office_parts, related, xml_root
from indexer.parsed import Parsed, join_pages, printable, readable_stem
from indexer.tables import markdown_table
from rag.errors import UnreadableDocument

_TITLES = ("title", "ctrTitle")
_FURNITURE = ("sldNum", "dt", "ftr", "hdr", "sldImg")  # placeholders of page number, date, footer, header, miniature
_DEEPEST = 50  # groups in groups


def parse_pptx(content: bytes, name: str) -> Parsed:
    """Return the text of a PPTX; metadata `pages` holds the offsets of its slides.

    Raises `UnreadableDocument` where it is damaged, encrypted, not a PPTX, or unpacks to more than the bounds.
    """
    parts, main = office_parts(content, "PPTX")
    slides = list(_slide_parts(parts, main))
    text, offsets = join_pages([printable(_slide(parts, part, number)) for number, part in enumerate(slides, start=1)])
    titles = (_slide_title(xml_root(parts[part])) for part in slides)
    title = core_title(parts, name) or next(filter(None, titles), "") or readable_stem(name)
    return Parsed(text, title, {"format": "pptx", "pages": offsets, **core_date(content, parts)})


def _slide_parts(parts: Mapping[str, bytes], main: str) -> Iterator[str]:
    """The names of the slides' parts, in the order of the presentation."""
    links = related(parts, main)
    for element in elements(xml_root(parts[main]), "sldId"):
        reference = next((value for key, value in element.attrib.items() if key.endswith("}id")), "")
        part = links.get(reference, ("", ""))[1]
        if part not in parts:
            raise UnreadableDocument("damaged PPTX: a slide is missing")
        yield part


def _slide(parts: Mapping[str, bytes], part: str, number: int) -> str:
    root = xml_root(parts[part])
    links = related(parts, part)
    blocks = [f"## {_slide_title(root) or f'Slide {number}'}"]
    tree = next(elements(root, "spTree"), None)
    if tree is not None:
        blocks += _shapes(tree, parts, links, 0)
    for kind, target in links.values():
        if kind == "notesSlide" and target in parts:
            notes = [text for shape in elements(xml_root(parts[target]), "sp") if (text := _body(shape))]
            blocks += [f"Notes: {text}" for text in notes]
        elif kind == "diagramData" and target in parts:
            blocks.append("\n".join(f"- {text}" for text in diagram_points(parts[target])))
    return "\n\n".join(filter(None, blocks))


def _slide_title(root: Element) -> str:
    for shape in elements(root, "sp"):
        if _placeholder(shape) in _TITLES and (title := plain_title(line_of(shape))):
            return title
    return ""


def _shapes(
    tree: Element, parts: Mapping[str, bytes], links: Mapping[str, tuple[str, str]], depth: int
) -> Iterator[str]:
    """The texts of the shapes in `tree`, which are in the order of the author's work, nearly always that of reading."""
    for shape in tree:
        kind = local_name(shape)
        if kind == "AlternateContent":  # the same thing twice, for newer and for older programs
            if len(shape) and depth < _DEEPEST:
                yield from _shapes(shape[0], parts, links, depth + 1)
        elif kind == "grpSp" and depth < _DEEPEST:
            yield from _shapes(shape, parts, links, depth + 1)
        elif kind == "sp" and (_placeholder(shape) not in _TITLES or len(line_of(shape)) > TITLE_CHARACTERS):
            yield _body(shape)  # of a title too, where the heading holds its beginning alone
        elif kind == "graphicFrame":
            yield from (_table(table) for table in elements(shape, "tbl"))
            for title, rows in charts_in(shape, parts, links):
                yield from (title, markdown_table(rows))


def _body(shape: Element) -> str:
    """The paragraphs of a shape, indented ones as a list; "" for page numbers and the like."""
    placeholder = _placeholder(shape)
    if placeholder in _FURNITURE:
        return ""
    texts = [
        (_level(paragraph), line_of(paragraph)) for body in elements(shape, "txBody") for paragraph in _paragraphs(body)
    ]
    texts = [(level, text) for level, text in texts if text]
    if placeholder in ("body", "obj", "") and len(texts) > 1:  # what a slide's own text area holds is a list
        return "\n".join(f"{'  ' * level}- {text}" for level, text in texts)
    return "\n".join(f"{'  ' * level}- {text}" if level else text for level, text in texts)


def _placeholder(shape: Element) -> str | None:
    """The type of placeholder that a shape fills ("" is a slide's main text), None where it fills none."""
    found = next(elements(shape, "ph"), None)
    return None if found is None else found.get("type", "")


def _paragraphs(body: Element) -> Iterator[Element]:
    return (child for child in body if local_name(child) == "p")


def _level(paragraph: Element) -> int:
    level = next((child.get("lvl", "0") for child in paragraph if local_name(child) == "pPr"), "0")
    return min(int(level), 8) if level.isdecimal() else 0


def _table(table: Element) -> str:
    rows = [[line_of(cell) for cell in row if local_name(cell) == "tc"] for row in table if local_name(row) == "tr"]
    return markdown_table(rows, under=2)

"""Charts of Office documents as the figures behind them; and how DrawingML is gone through.

Files saved as "Strict Open XML" use other namespaces: elements are compared by their local names.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from indexer.package import xml_root

_BINARY = re.compile(r"-?\d+\.\d{14,30}(?:E[+-]?\d{1,2})?")  # what a program makes of 4.4: 4.4000000000000004
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def local_name(element: Element) -> str:
    """The element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def elements(root: Element, name: str) -> Iterator[Element]:
    """All elements of that local name beneath `root`, itself included."""
    return (element for element in root.iter() if local_name(element) == name)


def line_of(element: Element) -> str:
    """The text of all runs beneath `element`, on one line."""
    pieces = []
    for child in element.iter():
        name = local_name(child)
        if name == "t":
            pieces.append(child.text or "")
        elif name in ("br", "p", "tab"):
            pieces.append(" ")
    return " ".join("".join(pieces).split())


def charts_in(
    root: Element, parts: Mapping[str, bytes], links: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, list[list[str]]]]:
    """The charts that `root` refers to, each as its title and rows: one a category, with a column for each series."""
    for chart in elements(root, "chart"):
        for key, reference in chart.attrib.items():
            part = links.get(reference, ("", ""))[1] if key.endswith("}id") else ""
            if part in parts:
                yield _chart(xml_root(parts[part]))


def charts_as_tables(xml: bytes, parts: Mapping[str, bytes], links: Mapping[str, tuple[str, str]]) -> bytes:
    """Return a part of a DOCX with the figures of each chart as a table below the paragraph that shows it."""
    root = xml_root(xml)
    for parent in list(root.iter()):
        for paragraph in [child for child in parent if local_name(child) == "p"]:
            below = list(parent).index(paragraph) + 1 if _shows_chart(paragraph) else 0
            for title, rows in charts_in(paragraph, parts, links) if below else ():
                table = Element(_WORD + "tbl")
                for cells in rows:
                    row = SubElement(table, _WORD + "tr")
                    for cell in cells:
                        SubElement(row, _WORD + "tc").append(_paragraph(cell))
                parent[below:below] = [_paragraph(title), table]
    return ElementTree.tostring(root)


def _shows_chart(paragraph: Element) -> bool:
    return next(elements(paragraph, "chart"), None) is not None


def _paragraph(text: str) -> Element:
    paragraph = Element(_WORD + "p")
    SubElement(SubElement(paragraph, _WORD + "r"), _WORD + "t").text = text
    return paragraph


def _chart(root: Element) -> tuple[str, list[list[str]]]:
    title = next((line_of(found) for found in elements(root, "title")), "")
    series = list(elements(root, "ser"))
    categories: list[str] = []
    columns, names = [], []
    for number, one in enumerate(series, start=1):
        points = {local_name(child): _points(child) for child in one}
        categories = categories or points.get("cat") or points.get("xVal") or []
        columns.append(points.get("val") or points.get("yVal") or [])
        names.append(" ".join(points.get("tx") or [f"Series {number}"]))
    if not any(columns):
        return title, []
    return title, [["", *names], *(list(row) for row in zip_longest(categories, *columns, fillvalue=""))]


def _points(data: Element) -> list[str]:
    values = [value.text or "" for point in elements(data, "pt") for value in point if local_name(value) == "v"]
    return [f"{float(value):.15g}" if _BINARY.fullmatch(value) else value for value in values]

"""Charts of Office documents as the figures behind them, diagrams as lists; and how DrawingML is gone through.

Elements are compared by their local names.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
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


def diagram_points(xml: bytes) -> list[str]:
    """The texts of a diagram (SmartArt), given the part that holds its data."""
    return [text for point in elements(xml_root(xml), "pt") if (text := line_of(point))]


def write_out_figures(root: Element, parts: Mapping[str, bytes], links: Mapping[str, tuple[str, str]]) -> None:
    """Put below each paragraph of a DOCX what it shows: the figures of charts as a table, what a diagram says."""
    for parent in list(root.iter()):
        for paragraph in [child for child in parent if local_name(child) == "p"]:
            shown: list[Element] = []
            for title, rows in charts_in(paragraph, parts, links) if _shows(paragraph, "chart") else ():
                shown += [_paragraph(title), _word_table(rows)]
            for text in _diagram_in(paragraph, parts, links) if _shows(paragraph, "relIds") else ():
                shown.append(_paragraph(f"- {text}"))
            below = list(parent).index(paragraph) + 1 if shown else 0
            parent[below:below] = shown


def _shows(paragraph: Element, name: str) -> bool:
    return next(elements(paragraph, name), None) is not None


def _diagram_in(paragraph: Element, parts: Mapping[str, bytes], links: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for relations in elements(paragraph, "relIds"):
        for reference in relations.attrib.values():
            kind, part = links.get(reference, ("", ""))
            if kind == "diagramData" and part in parts:
                yield from diagram_points(parts[part])


def _word_table(rows: list[list[str]]) -> Element:
    table = Element(_WORD + "tbl")
    for cells in rows:
        row = SubElement(table, _WORD + "tr")
        for cell in cells:
            SubElement(row, _WORD + "tc").append(_paragraph(cell))
    return table


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

"""The paragraph styles of a Word document: which of them are headings, and which are numbered."""

from collections.abc import Iterator
from typing import NamedTuple
from xml.etree.ElementTree import Element

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DEEPEST_HEADING = 6


class NumberedIn(NamedTuple):
    """The list that a paragraph stands in, "" for none, and how deep, 0 the highest."""

    list: str
    depth: int


class Styles:
    """The styles of the part `word/styles.xml`, where there is one. A style has what it does not say from its base."""

    def __init__(self, root: Element | None) -> None:
        found = () if root is None else root.iter(W + "style")
        self._styles = {style.get(W + "styleId", ""): style for style in found}

    def headings(self) -> dict[str, int]:
        """Return the names of the styles that stand in a document's outline, with their level, 1 the highest."""
        levels = {}
        for key, style in self._styles.items():
            level = next((said for at in self._lineage(key) if (said := value_of(at, "pPr/outlineLvl"))), "")
            if style.get(W + "type") == "paragraph" and level.isdecimal() and int(level) < _DEEPEST_HEADING:
                levels[value_of(style, "name")] = int(level) + 1
        return levels

    def numbered_in(self, key: str) -> NumberedIn:
        """Return the list in which paragraphs of the style `key` stand."""
        number = next((said for at in self._lineage(key) if (said := value_of(at, "pPr/numPr/numId"))), "")
        depth = next((said for at in self._lineage(key) if (said := value_of(at, "pPr/numPr/ilvl"))), "")
        return NumberedIn(number, int(depth) if depth.isdecimal() else 0)

    def _lineage(self, key: str) -> Iterator[Element]:
        """A style and what it is based on; damaged files have circles of those."""
        met: set[str] = set()
        while key in self._styles and key not in met:
            met.add(key)
            yield self._styles[key]
            key = value_of(self._styles[key], "basedOn")


def value_of(element: Element, path: str) -> str:
    """Return what the element at `path` (names of Word's, with slashes) has for its value, "" where there is none."""
    found = element.find("/".join(W + name for name in path.split("/")))
    return "" if found is None else found.get(W + "val", "")

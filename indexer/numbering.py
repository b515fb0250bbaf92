"""The numbers that Word makes up, those of headings among them, as text (ECMA-376, part 1, 17.9).

A document says of a paragraph only in which list it stands and how deep; what is printed follows from all before it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement

from indexer.styles import NumberedIn, Styles, W, value_of

# What encloses a label in the text of its paragraph, until the list that it stands in is known; no characters of texts.
OPENING, CLOSING = "\ufdd0", "\ufdd1"
_PLACE = re.compile(r"%([1-9])")
_NO_NUMBER = ("bullet", "none")
_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
          (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip
_MOST = 4000  # a number that is spelled in letters or Roman numerals


def label_paragraphs(root: Element, styles: Styles, numbering: Element | None) -> None:
    """Begin each numbered paragraph of a document with its label, in `OPENING` and `CLOSING`; empty ones only count."""
    if numbering is None:
        return
    lists = _Lists(styles, numbering)
    for paragraph in _paragraphs(root):
        label = lists.label(paragraph)
        if label and any((text.text or "").strip() for text in paragraph.iter(W + "t")):
            run = Element(W + "r")
            SubElement(run, W + "t").text = f"{OPENING}{label}{CLOSING}"
            paragraph.insert(0 if paragraph.find(W + "pPr") is None else 1, run)


def _paragraphs(root: Element) -> Iterator[Element]:
    """Paragraphs in order; of what stands there for newer and for older programs, the latter, which mammoth reads."""
    waiting = [root]
    while waiting:
        element = waiting.pop()
        if element.tag == W + "p":
            yield element
        waiting += [child for child in reversed(element) if not child.tag.endswith("}Choice")]


class _Level(NamedTuple):
    """How the paragraphs of one depth are numbered. `style` is that of the paragraphs which are, "" for any."""

    start: int
    format: str
    text: str
    legal: bool
    restarts: bool
    style: str

    @classmethod
    def of(cls, element: Element) -> "_Level":
        start = value_of(element, "start")
        return cls(
            int(start) if start.isdecimal() else 0,
            value_of(element, "numFmt") or "decimal",
            value_of(element, "lvlText"),
            element.find(W + "isLgl") is not None,
            value_of(element, "lvlRestart") != "0",
            value_of(element, "pStyle"),
        )


@dataclass(slots=True)
class _List:
    """A list as paragraphs name it: its levels, and where it begins anew. Lists of the same `family` count together."""

    family: str
    levels: Mapping[int, _Level]
    starts: dict[int, int] = field(default_factory=dict)


class _Lists:
    def __init__(self, styles: Styles, numbering: Element) -> None:
        self._styles = styles
        abstract = {found.get(W + "abstractNumId", ""): found for found in numbering.iter(W + "abstractNum")}
        families = {found.get(W + "numId", ""): value_of(found, "abstractNumId") for found in numbering.iter(W + "num")}
        self._lists: dict[str, _List] = {}
        for element in numbering.iter(W + "num"):
            family = value_of(element, "abstractNumId")
            if family in abstract and (link := value_of(abstract[family], "numStyleLink")):
                family = families.get(styles.numbered_in(link).list, family)
            levels = _levels(abstract[family]) if family in abstract else {}
            found = _List(family, levels)
            for override in element.iter(W + "lvlOverride"):
                depth = _depth(override)
                found.levels = {**found.levels, **_levels(override)}
                if (start := value_of(override, "startOverride")).isdecimal():
                    found.starts[depth] = int(start)
            self._lists[element.get(W + "numId", "")] = found
        self._counts: dict[str, dict[int, int]] = {}

    def label(self, paragraph: Element) -> str:
        """Count a paragraph, and return what is printed in front of it."""
        place = self._place(paragraph)
        numbered = self._lists.get(place.list)
        level = numbered.levels.get(place.depth) if numbered else None
        if numbered is None or level is None:
            return ""
        counts = self._counts.setdefault(numbered.family, {})
        before = counts.get(place.depth, level.start - 1)
        if place.depth in numbered.starts:
            before = numbered.starts.pop(place.depth) - 1  # it begins anew once
        counts[place.depth] = before + 1
        for depth in numbered.levels.keys() - counts.keys():
            if depth < place.depth:
                counts[depth] = numbered.levels[depth].start  # 1.1 with nothing above it is followed by 2
        for depth in [depth for depth in counts if depth > place.depth]:
            if depth not in numbered.levels or numbered.levels[depth].restarts:
                del counts[depth]
        return "" if level.format in _NO_NUMBER else _text(level, numbered.levels, counts)

    def _place(self, paragraph: Element) -> NumberedIn:
        """In which list a paragraph stands, by its own properties, else by its style's."""
        properties = paragraph.find(W + "pPr")
        style = "" if properties is None else value_of(properties, "pStyle")
        of_style = self._styles.numbered_in(style)
        own = None if properties is None else properties.find(W + "numPr")
        if own is None:
            levels = self._lists[of_style.list].levels if of_style.list in self._lists else {}
            depth = next((depth for depth, level in levels.items() if level.style == style), of_style.depth)
            return NumberedIn(of_style.list, depth)
        said = value_of(own, "ilvl")
        return NumberedIn(value_of(own, "numId") or of_style.list, int(said) if said.isdecimal() else of_style.depth)


def _levels(element: Element) -> dict[int, _Level]:
    return {_depth(level): _Level.of(level) for level in element.iter(W + "lvl")}


def _depth(element: Element) -> int:
    depth = element.get(W + "ilvl", "0")
    return int(depth) if depth.isdecimal() else 0


def _text(level: _Level, levels: Mapping[int, _Level], counts: Mapping[int, int]) -> str:
    def number(place: re.Match[str]) -> str:
        depth = int(place.group(1)) - 1
        above = levels.get(depth, level)
        return spelled(counts.get(depth, above.start), "decimal" if level.legal else above.format)

    return " ".join(_PLACE.sub(number, level.text).split())


def spelled(number: int, form: str) -> str:
    """A number as Word prints it; in figures where its form is that of another script."""
    if not 0 < number < _MOST:
        return str(number)
    if form.endswith("Letter"):  # z is followed by aa, bb and so on
        letters = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters.upper() if form.startswith("upper") else letters
    if form.endswith("Roman"):
        numerals = ""
        for size, numeral in _ROMAN:
            numerals += numeral * (number // size)
            number %= size
        return numerals.upper() if form.startswith("upper") else numerals
    return f"{number:02}" if form == "decimalZero" else str(number)

"""Characters of a PDF's page that mean more by their place than by themselves: accents, and exponents."""

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from math import hypot
from typing import Any
from unicodedata import normalize

Char = tuple[int, str]
"""A character of a line, with its number on pdfium's text page."""

_ACCENTS = dict(
    zip(
        "`´ˆ˜¨¯ˉ˘˙˚˝ˇ¸˛",
        "\u0300\u0301\u0302\u0303\u0308\u0304\u0304\u0306\u0307\u030a\u030b\u030c\u0327\u0328",
        strict=True,
    )
)
_MOST = 64  # in a line: a row of dots, say, has more, and no accents
_SIGNS = "+-−–"
_DOTTED = {"ı": "i", "ȷ": "j"}


def with_accents(textpage: Any, chars: Sequence[Char]) -> list[Char]:
    """Put accents that were set as characters of their own, as TeX's older fonts have them, on the letters below."""
    kept = list(chars)
    accents = [(index, char) for index, char in chars if char in _ACCENTS]
    for index, accent in accents if len(accents) <= _MOST else ():
        box = box_of(textpage, index)
        middle = (box.left + box.right) / 2
        for at, (below, letter) in enumerate(kept):
            whole = normalize("NFC", _DOTTED.get(letter, letter) + _ACCENTS[accent]) if letter.isalpha() else ""
            if len(whole) == 1 and _spans(box_of(textpage, below), middle):
                kept[at] = (below, whole)
                kept.remove((index, accent))
                break
    return kept


def with_exponents(textpage: Any, chars: Sequence[Char]) -> list[Char]:
    """Mark a number that is small and raised behind another one: 10^6, and not 106."""
    marked = list(chars[:1])
    for (before, digit), (index, char) in pairwise(chars):
        behind = digit.isdecimal() and (char.isdecimal() or char in _SIGNS) and index == before + 1
        marked.append((index, f"^{char}" if behind and _is_raised(textpage, index, before) else char))
    return marked


def _is_raised(textpage: Any, index: int, before: int) -> bool:
    from pypdfium2 import raw

    placed = []
    for at in (before, index):
        matrix = raw.FS_MATRIX()
        raw.FPDFText_GetMatrix(textpage, at, ctypes.byref(matrix))
        placed.append((raw.FPDFText_GetFontSize(textpage, at) * hypot(matrix.c, matrix.d), matrix.f))
    (size, base), (own_size, own_base) = placed
    return bool(own_size < 0.85 * size and own_base > base + 0.15 * size)


def _spans(box: Any, middle: float) -> bool:
    return bool(box.left <= middle <= box.right)


def box_of(textpage: Any, index: int) -> Any:
    """Return the box of a character, as large as its font makes it, with left, right, bottom and top in points."""
    from pypdfium2 import raw

    box = raw.FS_RECTF()
    raw.FPDFText_GetLooseCharBox(textpage, index, ctypes.byref(box))
    return box

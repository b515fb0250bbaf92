"""Ranges: 1914-1918, 5 to 10 minutes, between 20 and 30. One end alone is not the range."""

import re

from eval.folding import content, fold, is_number

_NUMBER = r"[£$€]?\d[\d,]*(?:\.\d+)?"
_UNIT = r"(?:\s?[^\W\d_]+|\s?%|\s?°\s?[CF])?"
_RANGE = re.compile(
    rf"(?<![\w.,/-])(?:{_NUMBER}{_UNIT}\s*(?:[-–—−]|\b(?:to|through|until|till|bis|à)\b)\s*{_NUMBER}"
    rf"|(?:between|zwischen|entre)\s+{_NUMBER}{_UNIT}\s+(?:and|und|et)\s+{_NUMBER})(?![\w.,/-]*\d)",
    re.IGNORECASE,
)
_YEAR_DIGITS = 4
_FEW = 1  # other words than numbers: a unit, a month, what is counted


def ends_of(text: str) -> tuple[str, ...]:
    """Return the two numbers of a text that is a range, as they are folded; none where it says anything else or more.

    A year and the next one, 1979-80, name a season, and either of them does.
    """
    found = list(_RANGE.finditer(text))
    if len(found) != 1:
        return ()
    ends = tuple(word for word in fold(found[0].group()) if is_number(word))
    others = [word for word in content(fold(_RANGE.sub(" ", text))) if not is_number(word)]
    if len(ends) != 2 or len(others) > _FEW or _are_season(*ends):
        return ()
    return ends


def _are_season(first: str, last: str) -> bool:
    years = len(first) == len(last) == _YEAR_DIGITS and first.isdecimal() and last.isdecimal()
    return years and int(last) - int(first) == 1

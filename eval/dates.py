"""Dates of an answer against the right one: with the month in letters, English, German or French, or 2002-05-14.

A bare year is a number like others, and 14/05/2002 is not read: in half of the world it is another day.

People take the year for the date, but they do not take another day of that year for it.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from eval.folding import tidy
from rag.text import STOP_WORDS

_MONTHS = "january february march april may june july august september october november december".split()
_GERMAN = "januar februar märz april mai juni juli august september oktober november dezember".split()
_FRENCH = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split()
_NUMBER = {name: number for number, month in enumerate(_MONTHS, 1) for name in (month, month[:3])} | {"sept": 9}
_NUMBER |= {name: number for months in (_GERMAN, _FRENCH) for number, name in enumerate(months, 1)}
_MONTH = rf"(?:{'|'.join(sorted(_NUMBER, key=len, reverse=True))})\b\.?"
_DAY = r"\d{1,2}(?:st|nd|rd|th|er|\.)?"
# 14 May 2002, the 14th of May, 2002, 14. Mai 2002, May 14, 2002, May 2002; 2002-05-14
_DATE = re.compile(
    rf"\b(?:(?P<day>{_DAY})(?:\s+of)?\s+(?P<month>{_MONTH})|(?P<first_month>{_MONTH})(?:\s+(?P<second_day>{_DAY}))?)"
    r",?(?:\s+of)?\s+(?P<year>1\d\d\d|20\d\d)(?!\d)"
    r"|\b(?P<iso>(?:1\d|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))\b",
    re.IGNORECASE,
)


class Date(NamedTuple):
    """A day, or a whole month where `day` is None."""

    year: int
    month: int
    day: int | None

    def differs(self, other: "Date") -> bool:
        """Whether the two cannot be the same; a day of a month does not differ from that month."""
        same_day = self.day is None or other.day is None or self.day == other.day
        return self.year != other.year or self.month != other.month or not same_day


@lru_cache(maxsize=20_000)
def as_date(text: str) -> Date | None:
    """Return the date that a text is, small words aside; None where it says anything else or more."""
    text = tidy(text)
    found = list(_DATE.finditer(text))
    if len(found) != 1:
        return None
    rest = f"{text[: found[0].start()]} {text[found[0].end() :]}".casefold()
    return _date(found[0]) if STOP_WORDS.issuperset(re.findall(r"\w+", rest)) else None


def without_other_dates(text: str, dates: Iterable[Date]) -> str:
    """Return the text without the dates that fall in a year of `dates` and are none of them.

    Of "May 2002" and "14 May 2002" the second is meant.
    """
    dates = set(dates)
    meant = [date for date in dates if date.day is not None or not any(_within(other, date) for other in dates)]
    return _DATE.sub(lambda found: " " if _is_other(_date(found), meant) else found[0], tidy(text)) if meant else text


def _is_other(date: Date, meant: Sequence[Date]) -> bool:
    that_year = [right for right in meant if right.year == date.year]
    return bool(that_year) and all(date.differs(right) for right in that_year)


def _within(day: Date, month: Date) -> bool:
    return day.day is not None and not day.differs(month)


def _date(found: re.Match[str]) -> Date:
    if found["iso"]:
        year, number, of_month = map(int, found["iso"].split("-"))
        return Date(year, number, of_month)
    day = found["day"] or found["second_day"]
    month = (found["month"] or found["first_month"]).casefold().rstrip(".")
    return Date(int(found["year"]), _NUMBER[month], int(re.sub(r"\D", "", day)) if day else None)

"""Dates of an answer against the right one: with the month in letters, English, German or French, or in numbers.

A bare year is a number like others. 3/4/2002 is the third of April in half of the world and the fourth of March in the
other half: it is read as either. Behind dots, as in 3.4.2002, stands the month.

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
_DAYS = 31
_DAY = r"\d{1,2}(?:st|nd|rd|th|er|\.)?"
# 14 May 2002, the 14th of May, 2002, 14. Mai 2002, May 14, 2002, May 2002; 2002-05-14; 14.05.2002, 05/14/2002
_DATE = re.compile(
    rf"\b(?:(?P<day>{_DAY})(?:\s+of)?\s+(?P<month>{_MONTH})|(?P<first_month>{_MONTH})(?:\s+(?P<second_day>{_DAY}))?)"
    r",?(?:\s+of)?\s+(?P<year>1\d\d\d|20\d\d)(?!\d)"
    r"|\b(?P<iso>(?:1\d|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))\b"
    r"|(?<![\d./-])(?P<one>[0-3]?\d)(?P<mark>[./-])\s?(?P<two>[0-3]?\d)(?P=mark)\s?(?P<in>1\d\d\d|20\d\d)(?![\d/-])",
    re.IGNORECASE,
)


class Date(NamedTuple):
    """A day, or a whole month where `day` is None. `either` is whether day and month may be the other way around."""

    year: int
    month: int
    day: int | None
    either: bool = False

    def differs(self, other: "Date") -> bool:
        """Whether the two cannot be the same; a day of a month does not differ from that month."""
        return not any(
            one.year == two.year and one.month == two.month and (one.day == two.day or None in (one.day, two.day))
            for one in self._readings()
            for two in other._readings()
        )

    def _readings(self) -> tuple["Date", ...]:
        return (self, Date(self.year, self.day, self.month)) if self.either and self.day else (self,)


@lru_cache(maxsize=20_000)
def as_date(text: str) -> Date | None:
    """Return the date that a text is, small words aside; None where it says anything else or more."""
    text = tidy(text)
    found = list(_DATE.finditer(text))
    date = _date(found[0]) if len(found) == 1 else None
    if date is None:
        return None
    rest = f"{text[: found[0].start()]} {text[found[0].end() :]}".casefold()
    return date if STOP_WORDS.issuperset(re.findall(r"\w+", rest)) else None


def without_other_dates(text: str, dates: Iterable[Date]) -> str:
    """Return the text without the dates that fall in a year of `dates` and are none of them.

    Of "May 2002" and "14 May 2002" the second is meant.
    """
    dates = set(dates)
    meant = [date for date in dates if date.day is not None or not any(_within(other, date) for other in dates)]
    return _DATE.sub(lambda found: " " if _is_other(_date(found), meant) else found[0], tidy(text)) if meant else text


def _is_other(date: Date | None, meant: Sequence[Date]) -> bool:
    if date is None:
        return False
    that_year = [right for right in meant if right.year == date.year]
    return bool(that_year) and all(date.differs(right) for right in that_year)


def _within(day: Date, month: Date) -> bool:
    return day.day is not None and not day.differs(month)


def _date(found: re.Match[str]) -> Date | None:
    """Return the date that was found, None where no month has such numbers."""
    if found["one"]:
        return _in_numbers(int(found["one"]), int(found["two"]), int(found["in"]), day_first=found["mark"] == ".")
    if found["iso"]:
        year, number, of_month = map(int, found["iso"].split("-"))
        return Date(year, number, of_month)
    day = found["day"] or found["second_day"]
    month = (found["month"] or found["first_month"]).casefold().rstrip(".")
    return Date(int(found["year"]), _NUMBER[month], int(re.sub(r"\D", "", day)) if day else None)


def _in_numbers(one: int, two: int, year: int, *, day_first: bool) -> Date | None:
    if (
        not (0 < one <= _DAYS and 0 < two <= _DAYS)
        or min(one, two) > len(_MONTHS)
        or (day_first and two > len(_MONTHS))
    ):
        return None
    if day_first or one > len(_MONTHS):
        return Date(year, two, one)
    return Date(year, one, two, either=two <= len(_MONTHS) and one != two)

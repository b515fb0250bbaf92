"""Dates of an answer against the right one."""

import pytest

from eval.dates import Date, as_date, without_other_dates

MAY = Date(2002, 5, None)
MAY_14 = Date(2002, 5, 14)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("14 May 2002", MAY_14),
        ("the 14th of May, 2002", MAY_14),
        ("May 14, 2002", MAY_14),
        ("on May 14th 2002.", MAY_14),
        ("May 2002", MAY),
        ("Sept. 2002", Date(2002, 9, None)),
        ("onNovember 29, 20161", Date(2016, 11, 29)),  # as pages copy it
        ("14. Mai 2002", MAY_14),
        ("14 mai 2002", MAY_14),
        ("2002-05-14", MAY_14),
        ("2002-13-14", None),
        ("14/05/2002", MAY_14),
        ("05/14/2002", MAY_14),
        ("14.5.2002", MAY_14),
        ("14-05-2002", MAY_14),
        ("03/04/2002", Date(2002, 3, 4, either=True)),
        ("03.04.2002", Date(2002, 4, 3)),
        ("14/14/2002", None),
        ("05.14.2002", None),
        ("version 1.14.2002.7", None),
        ("2002", None),
        ("May 14", None),
        ("May 14, 2002 in Paris", None),
        ("May 2002 to June 2003", None),
        ("Mayor 2002", None),
    ],
)
def test_what_is_a_date(text: str, date: Date | None) -> None:
    assert as_date(text) == date


def test_a_day_does_not_differ_from_its_month() -> None:
    assert not MAY_14.differs(MAY) and not MAY.differs(MAY_14)
    assert MAY_14.differs(Date(2002, 5, 15)) and MAY.differs(Date(2002, 6, None)) and MAY.differs(Date(2001, 5, None))


def test_a_date_in_numbers_may_be_either_of_two() -> None:
    either = Date(2002, 3, 4, either=True)
    for day in (Date(2002, 3, 4), Date(2002, 4, 3), Date(2002, 4, None)):
        assert not either.differs(day) and not day.differs(either)
    assert either.differs(Date(2002, 3, 5)) and Date(2003, 4, 3).differs(either)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("It came out on May 14, 2002.", "It came out on May 14, 2002."),
        ("It came out in May 2002.", "It came out in May 2002."),
        ("It came out in 2002.", "It came out in 2002."),
        ("It came out on 16 November 2002.", "It came out on  ."),
        ("It came out on 15/05/2002.", "It came out on  ."),
        ("It came out on 05/14/2002.", "It came out on 05/14/2002."),
        ("It came out on 99/99/2002.", "It came out on 99/99/2002."),
        ("It came out on 31/31/2002.", "It came out on 31/31/2002."),
        ("Written on 16 November 2001, out on May 14, 2002", "Written on 16 November 2001, out on May 14, 2002"),
    ],
)
def test_another_date_of_the_year_is_none(text: str, left: str) -> None:
    assert without_other_dates(text, [MAY_14]) == left


def test_of_a_month_and_a_day_of_it_the_day_is_meant() -> None:
    assert without_other_dates("May 20, 2002", [MAY, MAY_14]) == " "
    assert without_other_dates("May 20, 2002", [MAY]) == "May 20, 2002"
    assert without_other_dates("20 May 2002 or 2 June 2002", [MAY, Date(2002, 6, 2)]) == "20 May 2002 or 2 June 2002"


def test_without_dates_nothing_changes() -> None:
    assert without_other_dates("It’s 16 November 2002", []) == "It’s 16 November 2002"

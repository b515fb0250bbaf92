"""Amounts: the number, its sign and its unit."""

import pytest

from eval.amounts import Amount, amounts
from eval.folding import fold


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5 cm", [("5", "cm", False)]),
        ("five centimetres", [("5", "cm", False)]),
        ("180 °C (350 °F)", [("180", "c", False), ("350", "f", False)]),
        ("350 degrees Fahrenheit", [("350", "f", False)]),
        ("20 to 30 minutes", [("20", "minut", False), ("30", "minut", False)]),
        ("9:00 a.m.", [("9", "am", False), ("0", "am", False)]),
        ("-5 °C", [("5", "c", True)]),
        ("minus 5", [("5", "", True)]),
        ("pages 5-10", [("5", "", False), ("10", "", False)]),
        ("58 km²", [("58", "km", False)]),
        ("$5 million", [("5000000", "dollar", False)]),
        ("26,300 people in 3 days", [("26300", "", False), ("3", "day", False)]),
        ("no number", []),
    ],
)
def test_what_stands_in_a_text(text: str, found: list[tuple[str, str, bool]]) -> None:
    assert [amount[:3] for amount in amounts(fold(text))] == found


def test_amounts_differ_in_what_both_tell() -> None:
    metres = Amount("5", "m", negative=False)
    assert metres.may_be(Amount("5", "", negative=False))
    assert not metres.may_be(Amount("5", "km", negative=False))
    assert not metres.may_be(Amount("5", "m", negative=True))
    assert not metres.may_be(Amount("6", "m", negative=False))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2 hours", "120 minutes", True),
        ("2 km", "2,000 metres", True),
        ("1.67 hours", "100 minutes", True),
        ("3 km", "2,000 metres", False),
        ("-2 km", "2,000 metres", False),
        ("2 km²", "2,000,000 m²", True),
        ("2 km²", "2,000 m²", False),
        ("18 stones", "258 pounds", False),
        ("12 miles", "19.3 km", False),  # another system
        ("1 month", "30 days", False),
    ],
)
def test_the_same_in_another_unit_of_the_system(one: str, other: str, same: bool) -> None:
    (here,), (there,) = amounts(fold(one)), amounts(fold(other))
    assert here.may_be(there) == there.may_be(here) == same

"""Texts as comparable words."""

import pytest

from eval.folding import content, fold, same_number


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Breeders' Cups", ["the", "breeder", "cup"]),
        ("César’s", ["cesar"]),
        ("E. L. James, EL James", ["el", "jame", "el", "jame"]),
        ("1,132", ["1132"]),
        ("one thousand, one hundred and thirty-two", ["1132"]),
        ("18 million", ["18000000"]),
        ("seven or 8", ["7", "or", "8"]),
        ("forty two", ["42"]),
        ("Bob and 7 and Ann", ["bob", "and", "7", "and", "ann"]),
        ("the 2nd and third", ["the", "2", "and", "3"]),
        ("World War II", ["world", "war", "2"]),
        ("1979–80", ["1979", "1980"]),
        ("3.10", ["3.1"]),
        ("007", ["7"]),
        ("£50m, €1.5 bn, $20k", ["50000000", "pound", "1500000000", "euro", "20000", "dollar"]),
        ("$2.5 million", ["2500000", "dollar"]),
        ("1½ cups, 1 1/2 cups", ["1", "1", "2", "cup", "1", "1", "2", "cup"]),
        ("58 km², 58 km2 or 58 sq km", ["58", "squar", "km", "58", "squar", "km", "or", "58", "squar", "km"]),
        ("10⁶", ["10", "6"]),
        ("-5, 5-10 and 5 -10", ["minus", "5", "5", "10", "and", "5", "10"]),
        ("1990-95, 1990-12-31", ["1990", "1995", "1990", "12", "31"]),
        ("1500 m", ["1500", "m"]),  # no money
        ("the 1930s, 1930's", ["the", "1930", "1930"]),
        ("the United States, the USA and Great Britain", ["the", "us", "the", "us", "and", "uk"]),
        ("directed byWilliam Wyler12", ["direct", "by", "william", "wyler", "12"]),
        ("built in 15651.", ["built", "in", "1565"]),
        ("McDonald", ["mcdonald"]),  # no glued word
        ("", []),
    ],
)
def test_folding(text: str, words: list[str]) -> None:
    assert fold(text) == words


def test_content_leaves_out_small_words_and_titles_unless_nothing_else_is_there() -> None:
    assert content(["the", "sir", "walter"]) == ["walter"]
    assert content(["the", "who"]) == ["the", "who"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("7", "7", True),
        ("2180000000", "2200000000", True),  # rounded
        ("2180000000", "2100000000", True),  # cut, as in "over 2.1 billion"
        ("2180000000", "2300000000", False),
        ("2180000000", "2000000000", False),  # one digit is no figure
        ("96.5", "97", True),
        ("3.5", "3", False),
        ("206", "210", False),  # a count
        ("1998", "1990", False),  # a year
        ("24900", "24901", True),
        ("9" * 40, "9" * 39 + "8", False),
    ],
)
def test_rounded_numbers(one: str, other: str, same: bool) -> None:
    assert same_number(one, other) is same and same_number(other, one) is same

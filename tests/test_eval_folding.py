"""Texts as comparable words."""

import pytest

from eval.folding import content, fold


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

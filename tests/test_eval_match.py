"""What a person looks at when judging an answer, worked by hand."""

import pytest

from eval.match import match

ASKED = "Who was the man behind the mill?"


def test_a_short_answer_that_is_the_gold_one() -> None:
    assert match(ASKED, "Ada Lark", ["Ada Lark"]) == (1.0, 1.0, 1.0, 0.0, 0, 0)


def test_what_the_question_says_counts_neither_way() -> None:
    # Beyond the question the answer adds "ada lark": all of it gold.
    assert match(ASKED, "The man behind the mill was Ada Lark.", ["Ada Lark"]).exact == 1.0
    # "mill" of the gold answer is said by the question: found is about "lark" alone.
    assert match(ASKED, "Lark", ["Lark of the mill"]).found == 1.0


def test_a_middle_name_too_many() -> None:
    found = match(ASKED, "It was Ada Lark", ["Ada Maria Lark"])
    assert (found.whole, found.found) == (0.0, pytest.approx(2 / 3))


def test_spelling_counts_by_trigrams() -> None:
    # The stem ^jink$ has 4 trigrams, ^jinx$ as many, 2 in common: 4/8, too few. ^jinkx$ has 5, 3 in common: 6/9.
    assert match("Who?", "Jinks", ["Jinx"]).found == 0.0
    assert match("Who?", "Jinks", ["Jinkx"]).found == pytest.approx(6 / 9)
    assert match("Who?", "Johns", ["Jinkx"]).found == 0.0
    assert match("When?", "1066", ["1067"]).found == 0.0  # numbers are the same or different


def test_the_year_stands_for_the_date_but_no_other_day_does() -> None:
    assert match("When?", "In 2002", ["March 15, 2002"]).found == 1.0
    assert match("When?", "March 15, 2003", ["March 15, 2002"]).found == 0.0
    assert match("When?", "On 10 July 2002", ["2002", "March 15, 2002"])[:2] == (0.0, 0.0)
    # Where the question says the year, the day is asked for: of 15 and March one is there.
    assert match("Which day of 2002?", "2002, on the 15th", ["March 15, 2002"]).found == 0.5


def test_where_a_number_is_missing_words_count_for_that_much_less() -> None:
    # 5, 10 and people are wanted: 2 of 3 are there, and 1 of 2 numbers.
    assert match("How many?", "5 people", ["5 of 10 people"]).found == pytest.approx(2 / 3 * 1 / 2)
    assert match("How much?", "2%", ["8%"]).found == 0.0
    assert match("How long?", "Over 21,000 kilometres", ["21,196 km"]).found == 1.0


def test_of_several_things_the_one_that_is_found_least_counts() -> None:
    gold = ["War, Famine, Pestilence and Death"]
    assert match("Who?", "Death, Famine, War and Conquest", gold).found == 0.0
    assert match("Who?", "Death, War, Pestilence, Famine", gold).found == 1.0
    assert match("Who?", "Ann Lark", ["Ann Lark & Bob Moor"]).found == 0.0
    assert match("Where?", "Reims", ["Reims, France"]).found == 0.5  # a comma alone adds where a place lies
    assert match("How many?", "132", ["one hundred and thirty-two"]).found == 1.0


def test_a_right_answer_that_the_question_says_tells_nothing_beside_another() -> None:
    asked = "What is the border of Lark and Moor called?"
    gold = ["the Long Line", "Border of Lark and Moor"]
    assert match(asked, "The border of Lark and Moor is the Short Wall.", gold)[:2] == (0.0, 0.0)
    assert match(asked, "The border of Lark and Moor.", gold[1:]).whole == 1.0


def test_pronouns_count_neither_way_but_us_is_a_country() -> None:
    assert match("Where is it?", "On her arm", ["Her foot"]).found == 0.0
    assert match("Where is it?", "On my foot", ["Her foot"]).exact == 1.0
    assert match("Where is it?", "The United States", ["USA"]).whole == 1.0


def test_a_denied_answer_is_not_found() -> None:
    assert match("Where?", "Not Paris, but Lyon.", ["Paris"]).whole == 0.0
    assert match("Where?", "Not only Paris.", ["Paris"]).whole == 1.0
    assert match("Where?", "In 1932 (not 1934) it was Paris.", ["Paris"]).whole == 1.0
    assert match("Which play?", "Not Paris.", ["Not Paris"]).whole == 1.0


def test_a_refusal_is_seen() -> None:
    assert match("Where?", "I’m sorry, but I couldn’t find any information.", ["Paris"]).refused == 1.0


def test_options_are_the_rivals_in_the_list_that_holds_the_answer() -> None:
    gold = ["Paris"]
    assert match("Where?", "Lyon, Nice, Paris or Metz", gold).options == 3
    assert match("Where?", "- Lyon\n- Nice\n- Paris", gold).options == 2
    assert match("Where?", "It could be Lyon. It could be Nice. Perhaps Paris.", gold).options == 2
    # Something of another kind is no rival, and a clause that repeats the question commits itself.
    assert match("Where?", "Paris, 1990", gold).options == 0
    assert match("Where is the mill?", "The mill is in Paris. Others: Lyon, Nice, Metz.", gold).options == 0
    # All that is listed is asked for.
    assert match("Which?", "Lyon, Nice and Metz", ["Lyon, Nice and Metz"]).options == 0


def test_strays_are_sentences_about_something_else() -> None:
    stray = "Seven angry herons watched another barge sink slowly. "
    assert match("Where is the mill?", stray * 3 + "It is in Paris.", ["Paris"]).strays == 3


def test_nothing_matches_nothing() -> None:
    assert match("Where?", "", ["Paris"])[:3] == (0.0, 0.0, 0.0)
    assert match("Where?", "Paris", ["()"])[:3] == (0.0, 0.0, 0.0)


def test_a_unit_or_a_name_without_its_number_is_nothing_of_it() -> None:
    for answer, right in (("crowns", "26,300 crowns"), ("Apollo", "Apollo 11"), ("Henry", "Henry VIII")):
        found = match("What was it?", answer, [right])
        assert (found.found, found.exact) == (0, 0)
    assert match("What was it?", "26,300", ["26,300 crowns"]).exact == 1
    assert match("How many crowns was it?", "26,300", ["26,300 crowns"]).exact == 1

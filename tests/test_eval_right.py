"""The learnt rule: what it accepts, how it is read, written and learnt."""

import math
from pathlib import Path

import pytest

from eval.match import Match
from eval.right import Right, fit_rule, load_rule, right, shipped_rule, write_rule
from rag.errors import ConfigError, DataError

WEIGHTS = {"whole": 2.0, "found": 3.0, "exact": 1.0, "refused": -2.0}
RULE = Right(
    fitted_on='a "set"', threshold=0.5, intercept=-2.5, most_options=2, most_strays=1, weights=WEIGHTS,
    thresholds={"f1": 0.25},
)  # fmt: skip


def found(**changes: float) -> Match:
    return Match(**{**dict.fromkeys(Match._fields, 0), **changes})  # type: ignore[arg-type]


def test_the_probability_by_hand() -> None:
    # -2.5 + 2 + 3 x 0.5 + 1 - 2 x 1 = 0
    assert RULE.probability(found(whole=1, found=0.5, exact=1, refused=1)) == 0.5
    assert RULE.probability(found()) == pytest.approx(1 / (1 + math.exp(2.5)))


def test_both_limits_refuse_what_the_estimate_accepts() -> None:
    sure = {"whole": 1.0, "found": 1.0}
    assert RULE.accepts(found(**sure, options=2, strays=1))
    assert not RULE.accepts(found(**sure, options=3))
    assert not RULE.accepts(found(**sure, strays=2))
    assert not RULE.accepts(found())


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("It was founded in 1565 by Spain.", ["1565"], 1.0),
        ("It was founded in 1566.", ["1565"], 0.0),
        ("Seven years", ["7 years"], 1.0),
        ("Walter Bagehot's Saint Basil", ["St. Basil"], 1.0),
        ("Joseph N. Welch said it.", ["Joseph Nye Welch"], 1.0),
        ("I'm sorry, I could not find that.", ["Joseph Nye Welch"], 0.0),
        ("Lyon, Nice, Metz, Lille, Paris or Brest", ["Paris"], 0.0),
        ("Not Paris, but Lyon", ["Paris"], 0.0),
        ("In 1889", ["23 September 1889"], 1.0),
        ("November 16, 2002", ["14 May 2002"], 0.0),
        ("It made over 2.1 billion dollars.", ["$2.18 billion"], 1.0),
        ("2%", ["8%"], 0.0),
        ("5 mm", ["5 cm"], 0.0),
        ("3 hours", ["3 days"], 0.0),
        ("three days", ["3 days"], 1.0),
        ("12 miles", ["12 kilometres"], 0.0),
        ("2 tbsp", ["2 tablespoons"], 1.0),
        ("€5", ["$5"], 0.0),
        ("5 dollars", ["$5"], 1.0),
        ("9 p.m.", ["9 a.m."], 0.0),
        ("9 am", ["9:00 a.m."], 1.0),
        ("5 °C", ["-5 °C"], 0.0),
        ("-5 °C", ["5 °C"], 0.0),
        ("minus 5 degrees", ["-5 °C"], 1.0),
        ("350 °C", ["350 degrees Fahrenheit"], 0.0),
        ("58 square kilometres", ["58 km²"], 1.0),
        ("2020-03-02", ["2020-03-01"], 0.0),
        ("am 4. Oktober 1990", ["3. Oktober 1990"], 0.0),
        ("1790-07-14", ["14 juillet 1789"], 0.0),
        ("1914", ["1914-1918"], 0.0),
        ("The war began in 1914.", ["1914–18"], 0.0),
        ("from 1914 until 1918", ["1914–18"], 1.0),
        ("5 minutes", ["5 to 10 minutes"], 0.0),
        ("5-10", ["5 to 10 minutes"], 1.0),
        ("20%", ["between 20 and 30 percent"], 0.0),
        ("9 February 2018", ["9 to 25 February 2018"], 0.0),
        ("2018", ["9 to 25 February 2018"], 1.0),  # the year stands for the date
        ("1979", ["1979–80"], 1.0),  # a season
        ("The Long Parliament of 1640", ["Long Parliament 1640-1660"], 1.0),
        ("120 minutes", ["2 hours"], 1.0),
        ("2 km", ["2,000 metres"], 1.0),
        ("12 miles", ["19.3 km"], 0.0),
        ("15/05/2002", ["14 May 2002"], 0.0),
        ("05/14/2002", ["14 May 2002"], 1.0),
        ("15 May 2002", ["14/05/2002"], 0.0),
        ("Koeln", ["Köln"], 1.0),
        ("In Köln.", ["Koeln"], 1.0),
        ("Oel", ["Öl"], 1.0),
        ("Koln", ["Köln"], 1.0),
        ("Bars", ["Bären"], 0.0),
    ],
)
def test_the_shipped_rule(answer: str, gold: list[str], verdict: float) -> None:
    assert right("What is it?", answer, gold) == verdict


def test_a_rule_survives_writing_and_reading(tmp_path: Path) -> None:
    write_rule(tmp_path / "rule.toml", RULE)
    assert load_rule(tmp_path / "rule.toml") == RULE


def test_an_unusable_rule_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rule.toml"
    with pytest.raises(ConfigError, match="cannot be used"):
        load_rule(file)
    write_rule(file, RULE)
    file.write_text(file.read_text().replace("whole = ", "hole = "))
    with pytest.raises(ConfigError, match="wanted are weights for whole"):
        load_rule(file)
    file.write_text("#" * 200_000)
    with pytest.raises(ConfigError, match="larger than"):
        load_rule(file)


def test_learning_finds_what_people_look_at() -> None:
    matches = [found(whole=i % 2, found=0.5) for i in range(60)]
    rule = fit_rule(matches, [bool(m.whole) for m in matches], fitted_on="x", most_options=1, most_strays=1)
    assert rule.weights["whole"] > 1 and rule.weights["found"] == 0.0  # a column that never changes tells nothing
    assert [rule.accepts(m) for m in matches[:2]] == [False, True]


def test_too_little_to_learn_from() -> None:
    with pytest.raises(DataError, match="too few to learn from"):
        fit_rule([found()] * 60, [True] * 60, fitted_on="x", most_options=1, most_strays=1)


def test_the_shipped_rule_is_the_default() -> None:
    assert shipped_rule() == load_rule() and set(shipped_rule().thresholds) >= {"f1", "contains"}


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("Death", 0.0), ("War, Famine, Pestilence and Death", 1.0), ("death, pestilence, war, famine", 1.0)],
)
def test_one_item_of_a_list_is_not_the_list(answer: str, verdict: float) -> None:
    assert right("Who are the four horsemen?", answer, ["War, Famine, Pestilence and Death"]) == verdict


def test_one_of_two_may_be_what_people_take_for_the_answer() -> None:
    assert right("Which tough membrane covers what?", "Brain", ["The brain and spinal cord"])

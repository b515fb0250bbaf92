"""Counterfactual sets: what is swapped for what, where, and which questions are left."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval.counterfactual import Rewriter, Swaps, counterfactual_qaset
from rag.errors import DataError

CORPUS = [
    {"id": "d1", "title": "Mill", "text": "Ada Lark built the mill on 4 May 1652. Lark died in 1660. It has 2 wheels."},
    {"id": "d2", "title": "Ada Lark", "text": "Ada Lark had 2 geese in 1652; the larks had 14,000."},
]


def question(id_: str, answers: list[str], text: str = "What?", relevant: str = "d1") -> dict[str, Any]:
    return {"id": id_, "question": text, "answers": answers, "answerable": bool(answers), "relevant": [relevant]}


def write_set(folder: Path, questions: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for name, rows in (("corpus", CORPUS), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "meta.json").write_text(json.dumps({"name": "n", "kind": "k", "license": "l", "source": "s"}))
    return folder


def texts(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in map(json.loads, (folder / "corpus.jsonl").read_text().splitlines())}


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        ("1652", r"16\d\d"),  # a year stays in its century
        ("14,000", r"\d\d,\d\d\d"),
        ("$2.5 million", r"\$\d\.\d million"),
        ("12", r"1\d|2[0-8]"),
        ("seven", r"[a-z]+"),
        ("4 May 1652", r"\d [A-Z][a-z]+ 16\d\d"),
        ("Ada Lark", r"[A-Z][a-z]+ [A-Z][a-z]+"),
        ("the King of Norrin", r"the [A-Z][a-z]+ of [A-Z][a-z]+"),
        ("NATO", r"[A-Z]+"),
        ("Henry III", r"[A-Z][a-z]+ III"),
        ("builder Ada Lark", r"builder [A-Z][a-z]+ [A-Z][a-z]+"),
    ],
)
def test_an_answer_is_swapped_for_one_of_its_kind(answer: str, shape: str) -> None:
    made = Swaps(["Ada", "Lark"], 0).replacement(answer)
    assert made is not None and made != answer and re.fullmatch(shape, made)
    assert made == Swaps(["Ada", "Lark"], 0).replacement(answer) != Swaps(["Ada", "Lark"], 1).replacement(answer)


@pytest.mark.parametrize("answer", ["", "high pressure", "Increased pressure", "the", "A b c d e f g"])
def test_other_answers_are_not(answer: str) -> None:
    assert Swaps([], 0).replacement(answer) is None


def test_the_longest_phrase_goes_first_and_words_stay_whole() -> None:
    assert Rewriter({"Ada": "X", "Ada Lark": "Y Z"})("Ada Lark, Ada, Adam") == "Y Z, X, Adam"
    assert Rewriter({})("as it was") == "as it was"


def test_documents_and_gold_are_rewritten_alike(tmp_path: Path) -> None:
    source = write_set(tmp_path / "s", [question("who", ["Ada Lark"]), question("when", ["4 May 1652", "1652"])])
    made = counterfactual_qaset(source, tmp_path / "c")
    assert (made.kept, made.questions, made.left_out) == (2, 2, {})
    who, when = made.qaset.questions
    (name,), (date, year) = who.answers, when.answers
    assert (who.original_answers, when.original_answers) == (("Ada Lark",), ("4 May 1652", "1652"))
    surname = name.split()[1]
    mill, lark = texts(tmp_path / "c")["d1"], texts(tmp_path / "c")["d2"]
    assert mill["text"] == f"{name} built the mill on {date}. {surname} died in 1660. It has 2 wheels."
    # A name is swapped everywhere, a year only where the question looks for it.
    assert (lark["title"], lark["text"]) == (name, f"{name} had 2 geese in 1652; the larks had 14,000.")
    assert year != "1652" and date.endswith(year)


def test_which_questions_are_left_out_and_why(tmp_path: Path) -> None:
    asked = [
        question("kept", ["14,000"], relevant="d2"),
        question("none", []),
        question("clause", ["built the mill"]),
        question("elsewhere", ["15,000"]),
        question("named", ["Ada Lark"]),
        question("names it", ["1660"], "Did Ada Lark die in 1660?"),
    ]
    made = counterfactual_qaset(write_set(tmp_path / "s", asked), tmp_path / "c")
    assert [q.id for q in made.qaset.questions] == ["kept"]
    assert made.left_out == {
        "has no answer": 1,
        "an answer is no number, date or name": 1,
        "no relevant document says the answer": 1,
        "a question names the answer": 2,
    }
    with pytest.raises(DataError, match="no question has an answer that can be swapped"):
        counterfactual_qaset(write_set(tmp_path / "t", asked[1:3]), tmp_path / "d")
    assert not (tmp_path / "d").exists()

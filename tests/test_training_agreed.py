"""Lessons of questions of which several people agreed on the answer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
REVIEW = (
    "I bought the kettle in March. It boils a litre in four minutes, which is fast. "
    "The lid came loose after a week, and the maker sent another one without a word. "
    "I still use it every day, for tea and for soup."
)
PAPER = ["On kettles", "We weighed 40 kettles. " * 12, "The heaviest kettle was made of copper by a smith. " * 6]


def asked(identity: str, question: str, *answers: str) -> dict[str, object]:
    return {"id": identity, "question": question, "answers": [{"text": a, "answer_start": 0} for a in answers]}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    review = [
        asked("a", "How long does a litre take?", "four minutes", "Four minutes, ", "a litre"),
        asked("b", "What came loose?", "The lid", "lid", "after a week"),
        asked("c", "Is the kettle fast?", "fast", "fast"),
        asked("d", "Why is it used?", "every day", "boils a litre", "March"),
    ]
    paper = [asked("e", "How many kettles were weighed?", "40", "40"), asked("f", "Who made it?", "a smith", "a smith")]
    for name, context, questions in (("reviews", REVIEW, review), ("papers", "\n\n".join(PAPER * 3), paper)):
        data = [{"title": name, "paragraphs": [{"context": context, "qas": questions}]}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": data}), encoding="utf-8")
    return [tmp_path / "reviews.json", tmp_path / "papers.json"]


def agreed(*options: object) -> str:
    command = [sys.executable, "-m", "training.agreed", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout


def paragraphs(file: Path) -> list[dict[str, list[dict[str, object]]]]:
    return [p for article in json.loads(file.read_bytes())["data"] for p in article["paragraphs"]]


def test_questions_are_kept_that_two_people_answered_alike_with_the_shortest_spelling(
    files: list[Path], tmp_path: Path
) -> None:
    agreed(files[0], "--out", tmp_path / "out.json")
    (paragraph,) = paragraphs(tmp_path / "out.json")
    assert paragraph["context"] == REVIEW
    assert {q["id"]: q["answers"] for q in paragraph["qas"]} == {
        "a": [{"text": "four minutes", "answer_start": REVIEW.index("four")}],
        "b": [{"text": "lid", "answer_start": REVIEW.index("lid")}],
    }


def test_long_contexts_are_cut_into_paragraphs_that_keep_their_own_questions(files: list[Path], tmp_path: Path) -> None:
    assert len("\n\n".join(PAPER * 3)) < 3000
    long = json.loads(files[1].read_bytes())
    long["data"][0]["paragraphs"][0]["context"] = "\n\n".join(PAPER * 8)
    files[1].write_text(json.dumps(long), encoding="utf-8")
    agreed(files[1], "--out", tmp_path / "out.json")
    kept = paragraphs(tmp_path / "out.json")
    assert {(p["context"][:12], p["qas"][0]["id"]) for p in kept} == {("We weighed 4", "e"), ("The heaviest", "f")}


def test_paragraphs_kept_apart_come_with_and_without_the_sentence_that_answers(
    files: list[Path], tmp_path: Path
) -> None:
    told = agreed(files[0], "--hold", 1, "--out", tmp_path / "out.json", "--held", tmp_path / "held.json")
    assert "out.json: 0 questions" in told
    whole, *without = paragraphs(tmp_path / "held.json")
    assert [q["id"] for q in whole["qas"]] == ["a", "b"]
    assert [p["qas"][0]["id"] for p in without] == ["a-", "b-"]
    assert "four minutes" not in without[0]["context"]
    assert "The lid" in without[0]["context"]
    assert all(p["qas"][0]["is_impossible"] and p["qas"][0]["answers"] == [] for p in without)

"""The converter from QED."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.convert_qed import qed_to_qaset, untokenize
from rag.errors import DataError

PARAGRAPH = "Ada Brandt 's mill ( built 1840 -- 1842 ) did n't burn . She called it `` Tolmen '' ."


def published(answers: list[str], kind: str = "single_sentence", **changes: Any) -> dict[str, Any]:
    spans = [{"paragraph_reference": {"string": a}, "sentence_reference": {"string": a}} for a in answers]
    row = {
        "example_id": 1,
        "title_text": "Mill",
        "question_text": " what is the mill called ",
        "paragraph_text": PARAGRAPH,
    }
    return {**row, "annotation": {"explanation_type": kind, "answer": spans}, **changes}


def shard(answers: list[str], kind: str = "single_sentence", **changes: Any) -> dict[str, Any]:
    row = published([], **changes)
    return {**row, "annotation": [], "answer_type": kind, "answer_text": answers}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("form", [published, shard])
def test_questions_that_one_sentence_answers(tmp_path: Path, form: Any) -> None:
    rows = [
        form(["`` Tolmen ''"], example_id=7),
        form(["1840 -- 1842"], question_text="when was it built", example_id=8),
        form(["She"], example_id=9),
        form(["Ada", "Tolmen"], example_id=10),
        form(["Ada"], kind="multi_sentence", example_id=11),
        form(["nowhere"], example_id=12),
        form(["word " * 13], example_id=13),
        form(["The lake"], example_id=14, paragraph_text="The lake is salty ."),
    ]
    first, second = write(tmp_path / "a.jsonl", rows[:4]), write(tmp_path / "b.jsonl", rows[4:])
    qaset = qed_to_qaset([first, second], tmp_path / "out", license_="CC")
    assert [(d.id, d.title, d.text) for d in qaset.documents()] == [
        ("Mill#0", "Mill", "Ada Brandt's mill (built 1840–1842) didn't burn. She called it \"Tolmen\"."),
        ("Mill#1", "Mill", "The lake is salty."),
    ]
    assert [(q.id, q.question, q.answers, q.relevant) for q in qaset.questions] == [
        ("qed-7", "what is the mill called", ('"Tolmen"',), ("Mill#0",)),
        ("qed-8", "when was it built", ("1840–1842",), ("Mill#0",)),
        ("qed-14", "what is the mill called", ("The lake",), ("Mill#1",)),
    ]
    assert qaset.source == "QED, a.jsonl, b.jsonl"


def test_marks_between_words_stay() -> None:
    assert untokenize("the dogs ' bowl , $ 5 - a pair -- cheap") == "the dogs' bowl, $5-a pair – cheap"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"title_text": "Mill"}, "a.jsonl:1: the key 'paragraph_text' is missing"),
        (published([], annotation=None), "a.jsonl:1: not a row of QED"),
        (published([], annotation={"explanation_type": "single_sentence", "answer": [{}]}), "not a row of QED"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        qed_to_qaset([write(tmp_path / "a.jsonl", [row])], tmp_path / "out")
    assert not (tmp_path / "out").exists()

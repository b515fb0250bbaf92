"""Answers that were given elsewhere."""

import json
from pathlib import Path

import pytest

from eval.measurements import SECONDS, measure
from eval.qaset import Question
from eval.recorded import RecordedSystem, estimate_tokens
from eval.report import write_report
from eval.results import read_rows, read_run
from eval.runner import run
from eval.system_row import SystemRow
from eval.systems import OpenSystem
from rag.config import Settings
from rag.datatypes import Message, Usage
from rag.errors import DataError
from tests.test_eval_runner import write_qaset


def question(id_: str, text: str = "Where?", history: tuple[Message, ...] = ()) -> Question:
    return Question(id_, text, ("mill",), True, (), history)


def write(tmp_path: Path, *rows: object) -> Path:
    file = tmp_path / "answers.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def test_answers_verdicts_and_tokens_are_looked_up_by_id(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"id": "b", "answer": " Die Mühle. ", "judged_right": False, "usage": {"prompt": 9, "completion": 4}},
        "",
        {"id": "a", "answer": "By the river", "judged_right": True, "further": "passed over"},
        {"id": "c", "answer": " "},
    )
    system = RecordedSystem(file)
    system.prepare()
    a, b, c = (system.ask(question(id_)) for id_ in "abc")
    assert a is not None and b is not None and c is not None
    assert (a.answer.text, a.human_right, a.usage_estimated, a.recorded) == ("By the river", True, True, True)
    assert a.answer.usage == Usage(prompt=2, completion=3)  # 6 and 12 characters
    assert (b.answer.text, b.human_right, b.usage_estimated) == ("Die Mühle.", False, False)
    assert b.answer.usage == Usage(prompt=9, completion=4)
    assert (c.answer.abstained, c.answer.text, c.human_right) == (True, "", None)
    assert system.ask(question("d")) is None
    assert system.retrieve(question("a")) == []


def test_tokens_are_counted_with_the_tokenizer_that_is_given(tmp_path: Path) -> None:
    file = write(tmp_path, {"id": "a", "answer": "by the river"})
    system = RecordedSystem(file, lambda: lambda text: len(text.split()))
    system.prepare()
    history = (Message("user", "one two three"), Message("assistant", "four"))
    reply = system.ask(question("a", "Where is it?", history))
    assert reply is not None and reply.answer.usage == Usage(prompt=7, completion=3)
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    first = write(tmp_path, {"id": "a", "answer": "mill"})
    before = RecordedSystem(first).fingerprint
    moved = first.rename(tmp_path / "moved.jsonl")
    assert RecordedSystem(moved).fingerprint == before
    assert RecordedSystem(write(tmp_path, {"id": "a", "answer": "ford"})).fingerprint != before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "answers.jsonl:2: a JSON object is wanted"),
        ('{"id": 1, "answer": "x"}', "answers.jsonl:2: 'id' must be a string"),
        ('{"id": "b"}', "answers.jsonl:2: 'answer' must be a string"),
        ('{"id": "b", "answer": "x", "judged_right": 1}', "answers.jsonl:2: 'judged_right' must be true, false"),
        ('{"id": "b", "answer": "x", "usage": {"prompt": 1}}', "answers.jsonl:2: 'usage' must hold counts"),
        ('{"id": "b", "answer": "x", "usage": {"prompt": 1, "completion": true}}', "'usage' must hold counts"),
        ('{"id": "b", "answer": "x", "usage": {"prompt": 1, "cached": 2, "completion": 1}}', "'usage' must hold"),
        ('{"id": "a", "answer": "x"}', "answers.jsonl:2: the id 'a' was used on line 1 already"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        RecordedSystem(write(tmp_path, {"id": "a", "answer": "x"}, line))
    assert message in caught.value.message


def test_a_file_without_answers_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no answer"):
        RecordedSystem(write(tmp_path, ""))
    with pytest.raises(DataError, match="cannot be read"):
        RecordedSystem(tmp_path / "none.jsonl")


def test_a_run_over_recorded_answers(tmp_path: Path) -> None:
    """q0 is answered rightly, q1 wrongly, q2 not at all, q3 (unanswerable) by an empty answer."""
    file = write(
        tmp_path,
        {"id": "q0", "answer": "answer 0", "judged_right": True},
        {"id": "q1", "answer": "nothing", "judged_right": False},
        {"id": "q3", "answer": ""},
        {"id": "of another set", "answer": "x"},
    )
    row = SystemRow(
        name="big",
        retrieval=False,
        recorded=str(file),
        price_per_million_prompt=1000.0,
        price_per_million_completion=2000.0,
    )
    opener = opener_of(RecordedSystem(file))
    out, qaset = tmp_path / "out", write_qaset(tmp_path / "set")
    run(qaset, [row], out, opener, settings=Settings())
    rows = {answered.question_id: answered for answered in read_rows(out)}
    assert list(rows) == ["q0", "q1", "q3"]
    assert [rows[id_].human_right for id_ in rows] == [True, False, None]
    assert (rows["q0"].generates, rows["q0"].retrieves, rows["q0"].error) == (True, False, None)
    # "question 0" and "answer 0" have 10 and 8 characters: 3 and 2 tokens
    assert rows["q0"].cost == pytest.approx((3 * 1000 + 2 * 2000) / 1e6)
    assert read_run(out).notes == ("big: no answer is recorded to 1 of the questions",)
    report = write_report(out)
    figures = report["systems"]["big"]
    assert (figures["n"], figures["missing"], figures["errors"]) == (3, 1, 0)
    assert figures["metrics"]["exact_match"]["value"] == 0.5 and figures["metrics"]["abstention_recall"]["value"] == 1.0
    assert figures["seconds_per_question"]["mean"] is None  # of no machine of ours
    assert measure(out).systems["big"].estimates()[SECONDS].n == 0
    again = run(qaset, [row], out, opener, settings=Settings(evidence={"passages": 3}))  # type: ignore[arg-type]
    assert len(list(read_rows(out))) == 3 and again.notes == read_run(out).notes


def opener_of(system: RecordedSystem) -> OpenSystem:
    from contextlib import nullcontext

    return lambda row: nullcontext(system)

"""A language model as a judge, with a fake generator; and the scores it adds to a run."""

import math
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest

from eval.dear import add_scores
from eval.judge import ModelJudge, open_judge, yes_probability
from eval.results import ResultsWriter, Run, RunSystem, read_rows, row_fingerprint, write_run
from eval.rows import CitedSpan, Row
from eval.system_row import SystemRow
from rag.config import Settings
from rag.datatypes import Message, Piece, Sampling
from rag.errors import EndpointFailed, InvalidRequest
from rag.protocols import FloatArray


class Says:
    """A generator with one reply, which remembers what it was asked."""

    def __init__(self, *pieces: Piece, failure: Exception | None = None) -> None:
        self.pieces, self.failure = pieces, failure
        self.asked: list[str] = []

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        self.asked.append(messages[-1].content)
        if self.failure:
            raise self.failure
        yield from self.pieces


class OneVector:
    def __init__(self) -> None:
        self.calls = 0

    def embed(self, texts: Sequence[str]) -> FloatArray:
        self.calls += 1
        return np.ones((len(texts), 1), np.float32)


@pytest.mark.parametrize(
    ("said", "logprob", "probability"),
    [
        ("Yes.", math.log(0.8), 0.8),
        ("no", math.log(0.8), 0.2),
        (" YES", None, 1.0),
        ("No, it", None, 0.0),
        ("Nobody", math.log(0.8), None),
        ("maybe", math.log(0.8), None),
        ("", None, None),
        ("yes", 0.5, 1.0),  # no logarithm of a probability: bounded
    ],
)
def test_the_probability_of_yes(said: str, logprob: float | None, probability: float | None) -> None:
    assert yes_probability(said, logprob) == (None if probability is None else pytest.approx(probability))


def test_the_first_token_that_is_not_blank_decides() -> None:
    generator = Says(Piece("\n", logprob=-5.0), Piece("Yes", logprob=math.log(0.9)), Piece(".", logprob=-3.0))
    judge = ModelJudge(generator)
    assert judge.right("Where {x}?", "In {gold}.", ["Lyon", "Lyons"]) == pytest.approx(0.9)
    assert "Question: Where {x}?\nRight answer: Lyon or Lyons\nAnswer of a student: In {gold}." in generator.asked[0]
    assert judge.grounded("Where?", "Lyon", ["The mill is in Lyon."]) == pytest.approx(0.9)
    assert "Text: The mill is in Lyon." in generator.asked[1]
    assert judge.grounded("Where?", "Lyon", [" "]) == 0.0 and len(generator.asked) == 2


def test_what_the_judge_does_not_say_is_unscored() -> None:
    assert ModelJudge(Says(Piece("Well"))).right("Where?", "Lyon", ["Lyon"]) is None
    assert ModelJudge(Says(failure=EndpointFailed("down"))).right("Where?", "Lyon", ["Lyon"]) is None


def test_a_system_without_a_generator_cannot_judge() -> None:
    with (
        pytest.raises(InvalidRequest, match="no generator to judge with"),
        open_judge(SystemRow(name="r", retrieval=True), Settings()),
    ):
        pass


def row(number: int, answer: str) -> Row:
    return Row(
        system="s", question_id=f"q{number}", question="Where?", answerable=True, gold=("Lyon",), relevant=(),
        generates=True, retrieves=True, answer=answer, abstained=not answer,
        citations=(CitedSpan(document_id="d", span=(0, 4), text="In Lyon"),),
        system_fingerprint="s", fingerprint=row_fingerprint("s", "d"),
    )  # fmt: skip


def test_scores_are_added_to_a_run_once_and_survive_judging_anew(tmp_path: Path) -> None:
    system = RunSystem(fingerprint="s", row={"name": "s", "retrieval": True}, machine={}, date="")
    write_run(tmp_path, Run(data={}, questions={"q0": "d", "q1": "d"}, systems={"s": system}))
    with ResultsWriter(tmp_path) as writer:
        for one in (row(0, "Lyon"), row(1, "")):
            writer.append(one)
    generator, embedder = Says(Piece("yes", logprob=math.log(0.7))), OneVector()
    counts = add_scores(tmp_path, embedder=embedder, judge=ModelJudge(generator))
    assert counts == {"similarity": 1, "right_judge": 1, "grounded_judge": 1}  # an abstention is not judged
    again = add_scores(tmp_path, embedder=embedder, judge=ModelJudge(generator))
    assert (again, len(generator.asked), embedder.calls) == (counts, 2, 1)
    other = Says(Piece("no", logprob=math.log(0.6)))
    add_scores(tmp_path, judge=ModelJudge(other, "another"))
    assert len(other.asked) == 2  # its verdicts take the place of the first one's
    assert next(read_rows(tmp_path)).scores["right_judge"] == pytest.approx(0.4)
    add_scores(tmp_path, embedder=embedder, embedder_name="another", judge=ModelJudge(generator))
    assert (len(generator.asked), embedder.calls) == (4, 2)
    answered, abstained = read_rows(tmp_path)
    kept = answered.judged(SystemRow(name="s", retrieval=True).prices).scores
    assert (kept["similarity"], kept["right_judge"], kept["right"]) == (1.0, pytest.approx(0.7), 1.0)
    assert abstained.scores.get("similarity") is None

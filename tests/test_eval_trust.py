"""The six outcomes, what CRAG gives for them, and how a sample comes to its outcome."""

import pytest

from eval.metrics import Sample, judge, judge_trust
from eval.trust import CRAG, Trust, trust_of


@pytest.mark.parametrize(
    ("answerable", "answered", "abstained", "right", "grounded", "outcome", "crag"),
    [
        (True, True, False, True, True, "right_grounded", 1),
        (True, True, False, True, False, "right_remembered", 1),
        (True, True, False, False, True, "wrong_misread", -1),
        (True, True, False, False, False, "wrong_made_up", -1),
        (False, True, False, False, True, "wrong_misread", -1),
        (False, True, False, True, False, "wrong_made_up", -1),  # any answer to an unanswerable question is wrong
        (True, False, True, False, False, "abstained_wrongly", 0),
        (False, False, True, False, False, "abstained_rightly", 1),
        (True, False, False, False, False, "abstained_wrongly", 0),  # an error
        (False, False, False, False, False, "abstained_wrongly", 0),  # an error never helps
    ],
)
def test_outcomes(
    answerable: bool, answered: bool, abstained: bool, right: bool, grounded: bool, outcome: str, crag: int
) -> None:
    found = trust_of(answerable=answerable, answered=answered, abstained=abstained, right=right, grounded=grounded)
    assert (found, CRAG[found]) == (outcome, crag)


def sample(answer: str, text: str = "", *, retrieves: bool = True, gold: tuple[str, ...] = ("1652",)) -> Sample:
    return Sample(
        answerable=True, gold=gold, relevant=("d",), generates=True, retrieves=retrieves, question="When was it built?",
        answer=answer, cited=("d",) if text else (), cited_texts=(text,) if text else (), original=("1700",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "outcome", "grounded"),
    [
        (sample("In 1652", "It was built in 1652."), Trust.RIGHT_GROUNDED, 1.0),
        (sample("1652", "A mill."), Trust.RIGHT_REMEMBERED, 0.0),
        (sample("1652"), Trust.RIGHT_REMEMBERED, 0.0),  # cites nothing although it could
        (sample("1652", retrieves=False), Trust.RIGHT_REMEMBERED, None),  # cannot cite
        (sample("1653", "Burnt in 1653."), Trust.WRONG_MISREAD, 1.0),
    ],
)
def test_from_a_sample_to_its_outcome(one: Sample, outcome: Trust, grounded: float | None) -> None:
    scores = judge(one)
    assert (judge_trust(one, scores), scores["grounded"]) == (outcome, grounded)
    assert scores["crag"] == CRAG[outcome]


def test_nothing_to_answer_has_no_outcome() -> None:
    assert judge_trust(sample("x", gold=()), {}) is None
    assert judge(sample("x", gold=()))["crag"] is None


def test_memory_against_documents() -> None:
    follows, remembers, neither = (judge(sample(answer)) for answer in ("1652", "1700", "1800"))
    assert [(s["followed"], s["memorised"]) for s in (follows, remembers, neither)] == [(1, 0), (0, 1), (0, 0)]

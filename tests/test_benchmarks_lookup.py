"""The arithmetic of benchmarks/engine_lookup.py, from made-up answers."""

from typing import Any

import pytest

from benchmarks.engine_lookup import Difference, Engine, Written, figures_of, find_differences, turns
from eval.qaset import Question
from eval.tune_tasks import Task
from rag.datatypes import Message, Sampling
from rag.engine.lookup import LookupCounters
from tests.conftest import QueueGenerator


def engine(lookup: int, *answers: tuple[str, float]) -> Engine:
    """An engine whose answers took a second to read and the given seconds to write."""
    told = [Written((*text, ""), 1.0, rest) for text, rest in answers]
    return Engine(lookup, QueueGenerator(), told)  # type: ignore[arg-type]


PLAIN = engine(0, ("abcd", 0.4), ("xy", 0.2), ("kl", 0.2))
GUESSING = engine(3, ("abcd", 0.1), ("xy", 0.2), ("km", 0.1))


def test_figures_by_hand() -> None:
    told = figures_of(GUESSING, PLAIN, LookupCounters(10, 4))
    assert told["tokens"] == 5 + 3 + 3
    assert told["tokens_per_second"] == pytest.approx((4 + 2 + 2) / 0.4)  # without each answer's first
    assert told["seconds_per_answer"] == pytest.approx((1.1 + 1.2 + 1.1) / 3)
    # The third answer is another one and not compared: 0.3 of 0.6 seconds; a quarter and the whole.
    assert told["time_of_writing"] == pytest.approx(0.5)
    assert told["median_time_of_writing"] == pytest.approx((0.25 + 1) / 2)
    assert (told["acceptance"], told["steps_saved"]) == (0.4, 0.5)
    assert told["same_answers"] == pytest.approx(2 / 3)
    assert figures_of(PLAIN, PLAIN, LookupCounters())["acceptance"] is None


class Gaps:
    """Stands for the plain sequence: says how many texts came before."""

    def gap(self, messages: Any, without: tuple[str, ...], with_it: tuple[str, ...]) -> float:
        return float(next(i for i, (a, b) in enumerate(zip(without, with_it, strict=False)) if a != b))


def test_answers_that_differ_are_told_with_their_gap() -> None:
    tasks = [Task(q, Question(q, q, ("a",), True, (), ()), ()) for q in ("one", "two", "three")]
    found = find_differences([PLAIN, GUESSING], tasks, Gaps())  # type: ignore[arg-type]
    assert found == [Difference("three", 3, "kl", "km", 1.0)]
    assert find_differences([PLAIN, PLAIN], tasks, Gaps()) == []  # type: ignore[arg-type]


def test_the_engines_take_turns() -> None:
    assert [e.lookup for e in turns([PLAIN, GUESSING], 0)] == [0, 3]
    assert [e.lookup for e in turns([PLAIN, GUESSING], 1)] == [3, 0]


def test_an_answer_is_its_tokens_and_its_seconds() -> None:
    asked = Engine(0, QueueGenerator("two words"))  # type: ignore[arg-type]
    asked.ask([Message("user", "?")], Sampling())
    (answer,) = asked.answers
    assert answer.texts == ("two", " words")
    assert answer.first >= 0 and answer.rest >= 0

"""Limits on what answers may cost."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from eval.qaset import Question
from eval.results import read_rows, read_run
from eval.rows import Row, Tokens, empty_row
from eval.runner import run
from eval.spending import LimitReached, Spending
from eval.system_row import Endpoint, SystemRow
from eval.systems import PipelineSystem
from rag.config import Settings
from rag.datatypes import Answer, Message, ScoredChunk, Usage
from tests.test_eval_runner import write_qaset

# 1,000 prompt tokens or 500 of an answer cost a dollar.
PRICES = {"price_per_million_prompt": 1000.0, "price_per_million_completion": 2000.0}


def remote(name: str = "gpt", budget: float | None = None, **more: object) -> SystemRow:
    generator = Endpoint(endpoint="https://host/v1", model="m", budget=budget)
    return SystemRow.model_validate({"name": name, "generator": generator, "retrieval": False, **PRICES, **more})


QUESTIONS = [Question("q", "Where?", ("mill",), True, ())]


def answered(system: str, cost: float | None, **more: object) -> Row:
    row = empty_row(QUESTIONS[0], system, generates=True, retrieves=False, fingerprints=("s", "f"))
    return row.model_copy(update={"cost": cost, "usage": Tokens(prompt=1), **more})


def begun(row: SystemRow, limit: float | None = None) -> Spending:
    spending = Spending(limit)
    spending.begin(row, Settings(), QUESTIONS)
    return spending


def test_the_next_question_may_cost_as_much_as_the_dearest() -> None:
    spending = begun(remote(), limit=10.0)
    for cost in (1.0, 4.0, 0.5):
        spending.add(answered("gpt", cost))
    spending.check(remote())  # 5.5 and 4 make 9.5
    spending.add(answered("gpt", 0.75))
    with pytest.raises(LimitReached, match=r"the limit of \$10 would be passed: \$6.25 spent, .* may cost \$4"):
        spending.check(remote())
    assert spending.reached


def test_a_question_may_cost_what_the_token_budgets_allow() -> None:
    # 64 for the instructions, 2 for the six letters of the question, 96 for the answer.
    most = (64 + 2) / 1000 + 96 / 500
    begun(remote(), limit=most + 1e-9).check(remote())
    with pytest.raises(LimitReached):
        begun(remote(), limit=most - 1e-9).check(remote())
    # Three passages are read one by one, 1,536 tokens in all, each with instructions and an answer.
    reading = remote(retrieval=True)
    most = (3 * (512 + 2) + 1536) / 1000 + 3 * 96 / 500
    begun(reading, limit=most + 1e-9).check(reading)
    with pytest.raises(LimitReached):
        begun(reading, limit=most - 1e-9).check(reading)
    together = remote(retrieval=True, settings={"evidence": {"mode": "joint"}})
    begun(together, limit=(512 + 2 + 1536) / 1000 + 96 / 500 + 1e-9).check(together)


def test_a_cascade_of_the_configuration_is_billed_like_one_of_the_row() -> None:
    cascade = {"generator": "large", "endpoint": "https://host/v1", "threshold": 0.5}
    row = SystemRow.model_validate({"name": "small", "generator": "small", "retrieval": True})
    settings = Settings.model_validate({"cascade": cascade})
    assert row.endpoints(settings) == {"large"}
    assert row.endpoints(Settings()) == frozenset()
    assert remote().endpoints(settings) == {"m", "large"}
    own = row.model_copy(update={"settings": {"cascade": {"generator": "other", "endpoint": ""}}})
    assert own.endpoints(settings) == frozenset()


def test_a_cascades_endpoint_without_prices_keeps_no_limit() -> None:
    cascade = {"generator": "large", "endpoint": "https://host/v1", "threshold": 0.5}
    row = SystemRow.model_validate(
        {"name": "both", "generator": "small", "retrieval": True, "settings": {"cascade": cascade}}
    )
    with pytest.raises(LimitReached, match="both states no prices per million tokens, so that no limit can be kept"):
        begun(row, limit=1.0).check(row)
    begun(row).check(row)
    priced = row.model_copy(update=PRICES)
    spending = begun(priced, limit=100.0)
    spending.check(priced)
    spending.add(answered("both", None))
    with pytest.raises(LimitReached, match="the endpoint of both tells no tokens"):
        spending.check(priced)


def test_cheap_answers_so_far_do_not_make_the_next_one_cheap() -> None:
    spending = begun(remote(), limit=0.25)
    spending.add(answered("gpt", 0.001))
    with pytest.raises(LimitReached, match=r"may cost \$0.258"):
        spending.check(remote())


def test_near_a_limit_questions_are_asked_one_by_one() -> None:
    spending = begun(remote(), limit=10.0)
    spending.add(answered("gpt", 1.0))
    assert [spending.allows(remote(), under_way) for under_way in (0, 1, 3, 4)] == [True, True, True, False]
    spending.add(answered("gpt", 1.0, error="broke off"))
    for _ in range(5):
        spending.add(answered("gpt", 1.0))
    assert spending.allows(remote(), 0) and not spending.allows(remote(), 1)
    assert not spending.reached, "asking alone is no stop"


def test_what_cost_nothing_now_is_not_counted_but_tells_the_next() -> None:
    spending = begun(remote(), limit=2.0)
    spending.add(answered("gpt", 0.9, timings={"replayed": 3.0}))
    spending.add(answered("gpt", 0.0))  # abstained before the model was asked
    spending.check(remote())
    spending.add(answered("gpt", 0.9))
    spending.check(remote())  # 0.9 spent, 0.9 next
    spending.add(answered("gpt", 0.3))
    with pytest.raises(LimitReached, match=r"\$1.2 spent"):
        spending.check(remote())


def test_a_failure_counts_like_the_dearest() -> None:
    spending = begun(remote(), limit=3.0)
    spending.add(answered("gpt", 1.0))
    spending.add(answered("gpt", None, error="broke off"))
    spending.check(remote())
    spending.add(answered("gpt", None, error="broke off"))
    with pytest.raises(LimitReached, match=r"\$3 spent"):
        spending.check(remote())


def test_a_budget_is_of_one_endpoint_and_the_limit_of_all() -> None:
    spending = Spending(5.0)
    tight, other = remote("tight", budget=2.0), remote("other")
    for row in (tight, other):
        spending.begin(row, Settings(), QUESTIONS)
        spending.add(answered(row.name, 1.5))
    with pytest.raises(LimitReached, match=r"the budget of \$2 would be passed: \$1.5 spent"):
        spending.check(tight)
    spending.check(other)  # 3 and 1.5 make 4.5
    spending.add(answered("other", 1.0))
    with pytest.raises(LimitReached, match=r"the limit of \$5 would be passed: \$4 spent"):
        spending.check(other)


def test_an_endpoint_whose_cost_cannot_be_known_is_not_asked_under_a_limit() -> None:
    free = SystemRow(name="gpt", generator=Endpoint(endpoint="https://host/v1", model="m"), retrieval=False)
    with pytest.raises(LimitReached, match="gpt states no prices per million tokens"):
        begun(free, limit=1e9).check(free)
    begun(free).check(free)  # without a limit it is
    spending = begun(remote(), limit=1e9)
    spending.add(answered("gpt", None))
    with pytest.raises(LimitReached, match="the endpoint of gpt tells no tokens"):
        spending.check(remote())


def test_recorded_answers_and_free_machines_know_no_limit() -> None:
    recorded = SystemRow.model_validate({"name": "gpt", "recorded": "x.jsonl", **PRICES})
    spending = begun(recorded, limit=0.0)
    spending.add(answered("gpt", 9.0, recorded=True))
    spending.check(recorded)
    local = SystemRow(name="local", generator="tiny", retrieval=False)
    begun(local, limit=0.0).check(local)


class Paid:
    """A pipeline whose answers take 250, 500, 250 and 500 prompt tokens: a quarter and half a dollar."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.prepared = 0

    @contextmanager
    def __call__(self, row: SystemRow) -> Iterator[PipelineSystem]:
        yield PipelineSystem("weights", self._build)

    def _build(self) -> "Paid":
        self.prepared += 1
        return self

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        self.asked.append(question)
        return Answer("answer", usage=Usage(prompt=500 if question[-1] in "13" else 250))

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        return []


def test_a_run_stops_before_the_limit_keeps_its_rows_and_goes_on_with_a_higher_one(tmp_path: Path) -> None:
    qaset, out = write_qaset(tmp_path / "set"), tmp_path / "out"
    first, spending = Paid(), Spending(1.3)
    run(qaset, [remote()], out, first, settings=Settings(), spending=spending)
    # After the first, 0.25, two are asked together, and no third: it might cost 0.5. Then 1 + 0.5 does not fit 1.3.
    assert sorted(first.asked) == ["question 0", "question 1", "question 2"]
    assert sum(row.cost or 0 for row in read_rows(out)) == 1.0
    assert spending.reached and read_run(out).systems["gpt"].stopped.startswith("the limit of $1.3 would be passed")
    same, spending = Paid(), Spending(1.3)
    run(qaset, [remote()], out, same, settings=Settings(), spending=spending)
    assert (same.asked, same.prepared, spending.reached) == ([], 0, True)  # what was spent before counts
    higher, spending = Paid(), Spending(1.5)
    run(qaset, [remote()], out, higher, settings=Settings(), spending=spending)
    assert higher.asked == ["question 3"] and not spending.reached
    assert read_run(out).systems["gpt"].stopped == "" and len(list(read_rows(out))) == 4


def test_a_stopped_system_lets_the_next_one_go_on(tmp_path: Path) -> None:
    paid, out = Paid(), tmp_path / "out"
    row = remote("tight", budget=0.0)
    run(write_qaset(tmp_path / "set"), [row, remote("other")], out, paid, settings=Settings(), spending=Spending())
    assert len(paid.asked) == 4 and {r.system for r in read_rows(out)} == {"other"}
    assert json.loads((out / "run.json").read_text())["systems"]["tight"]["stopped"].startswith("the budget of $0")

"""The grammar of --fail-if, and what it makes of a report."""

from typing import Any

import pytest

from eval.conditions import Condition, failures, parse_condition
from rag.errors import InvalidRequest

REPORT: dict[str, Any] = {
    "systems": {
        "small": {
            "metrics": {"f1": {"value": 0.5}, "recall@5": {"value": None}},
            "cost_per_question": 0.002,
            "cost_per_right": {"value": 0.004},
            "latency": {"first_token": {"p95": 1.5}},
            "memorised_rate": None,
        },
        "small+retrieval": {
            "metrics": {"f1": {"value": 0.7}, "recall@5": {"value": 0.9}},
            "cost_per_question": None,
            "cost_per_right": None,
        },
    }
}


def check(text: str) -> list[str]:
    return failures(REPORT, [parse_condition(text)])


def test_the_grammar() -> None:
    assert parse_condition("f1 < 0.6") == Condition("", "f1", "<", 0.6)
    assert parse_condition(" F1<=.6 ") == Condition("", "f1", "<=", 0.6)
    assert parse_condition("small+retrieval: recall@5 >= 1e-3") == Condition("small+retrieval", "recall@5", ">=", 0.001)
    assert parse_condition("host:8000/m: cost_per_right > 0.01").system == "host:8000/m"
    assert str(parse_condition("small:  f1<0.60")) == "small: f1 < 0.6"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f1",
        "f1 <",
        "f1 = 0.6",
        "f1 == 0.6",
        "0.6 > f1",
        "f1 < 0.6 and recall@5 < 1",
        "f1 < __import__('os')",
        "f1 < nan",
        "f1 < 0.6; exit",
        "f1 < 0.6\nf1 < 0.7",
        "a b: f1 < 0.6",
        "f1 < " + "9" * 400,
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no condition"):
        parse_condition(text)


def test_an_unknown_metric_is_refused_naming_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match="no metric 'f2'") as refused:
        parse_condition("f2 < 0.6")
    assert "ndcg@10" in refused.value.hint and "cost_per_right" in refused.value.hint


def test_a_condition_holds_of_every_system_that_has_the_figure() -> None:
    assert check("f1 < 0.6") == ["small: f1 is 0.5, which is < 0.6"]
    assert check("f1 <= 0.7") == [
        "small: f1 is 0.5, which is <= 0.7",
        "small+retrieval: f1 is 0.7, which is <= 0.7",
    ]
    assert check("f1 < 0.5") == []
    assert check("recall@5 < 0.95") == ["small+retrieval: recall@5 is 0.9, which is < 0.95"]
    assert check("cost_per_right > 0.003") == ["small: cost_per_right is 0.004, which is > 0.003"]
    assert check("first_token_p95 >= 1.5") == ["small: first_token_p95 is 1.5, which is >= 1.5"]


def test_a_condition_on_one_system() -> None:
    assert check("small+retrieval: f1 < 0.6") == []
    with pytest.raises(InvalidRequest, match="no system 'large'") as refused:
        check("large: f1 < 0.6")
    assert "small+retrieval" in refused.value.hint


def test_a_check_that_checks_nothing_does_not_pass() -> None:
    with pytest.raises(InvalidRequest, match="cannot be judged"):
        check("memorised_rate > 0.1")
    with pytest.raises(InvalidRequest, match="cannot be judged"):
        check("small: recall@5 < 0.5")

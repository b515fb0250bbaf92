"""What a report says of the answers given: how many are wrong, how that grows, and what came of a risk target."""

from pathlib import Path
from typing import Any

import pytest

from eval.conditions import failures, parse_condition
from eval.promise import upper_bound
from eval.report import write_report
from eval.results import read_run, write_run
from eval.rows import Row
from tests.test_eval_report import SYSTEMS, row, write_rows

CLOSED, READING = SYSTEMS


def rows(confidences: list[float | None]) -> list[Row]:
    """Six answers of the reading system: 0, 2 and 3 right, 1 wrong, 4 and 5 to questions without an answer."""
    said = ["word 0", "no idea", "word 2", "word 3", "no idea", "no idea"]
    return [row(READING, i, said[i], 1.0, confidence=c) for i, c in enumerate(confidences)]


def report(out: Path, made: list[Row], **abstention: Any) -> dict[str, Any]:
    write_rows(out, made)
    run = read_run(out)
    told = run.systems[READING.name].model_copy(update={"settings": {"abstention": abstention}})
    write_run(out, run.with_system(READING.name, told))
    return write_report(out)


def test_the_curve_and_its_area_by_hand(tmp_path: Path) -> None:
    # Surest first: right, wrong, right, wrong (unanswerable), right; one abstention.
    answered = rows([0.9, 0.8, 0.7, 0.3, 0.5, 0.1])
    made = [*answered[:5], row(READING, 5, "", 1.0, confidence=0.1)]
    system = report(tmp_path, made, enabled=True)["systems"][READING.name]
    curve = system["risk_coverage"]
    risks = [0, 1 / 2, 1 / 3, 2 / 4, 2 / 5]
    assert [risk for _, risk in curve["points"]] == pytest.approx(risks, abs=1e-6)
    assert [coverage for coverage, _ in curve["points"]] == pytest.approx([i / 6 for i in range(1, 6)], abs=1e-6)
    assert curve["area"] == pytest.approx(sum(risks) / 5, abs=1e-6)
    assert (curve["n"], curve["asked"], curve["risk"]) == (5, 6, 0.4)
    assert 0 <= curve["low"] <= curve["area"] <= curve["high"] <= 1
    risk = system["selective_risk"]
    assert (risk["value"], risk["n"], risk["wrong"]) == (0.4, 5, 2)
    assert risk["low"] <= 0.4 <= risk["high"]
    assert system["risk_target"] is None
    assert "| area under risk against coverage | - | 0.347 (" in (tmp_path / "report.md").read_text()


def test_without_confidence_there_is_no_curve_but_still_a_risk(tmp_path: Path) -> None:
    made = [*rows([None] * 6), *(row(CLOSED, i, "", 1.0) for i in range(6))]
    systems = report(tmp_path, made)["systems"]
    assert systems[READING.name]["risk_coverage"] is None
    assert systems[READING.name]["selective_risk"]["value"] == 0.5
    assert systems[CLOSED.name]["selective_risk"] is None  # it answered nothing


def test_failures_count_in_no_risk(tmp_path: Path) -> None:
    made = rows([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    made[1] = row(READING, 1, "", 1.0, abstained=False, error="down", confidence=0.8)
    assert report(tmp_path, made)["systems"][READING.name]["selective_risk"]["n"] == 5


@pytest.mark.parametrize(
    ("target", "outcome"),
    [
        (0.97, "kept"),  # three of six: the upper bound is 0.85
        (0.5, "undecided"),
        (0.1, "broken"),  # the lower bound is 0.15
    ],
)
def test_a_target_stands_beside_what_came_of_it(tmp_path: Path, target: float, outcome: str) -> None:
    made = report(tmp_path, rows([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), enabled=True, risk=target)
    told = made["systems"][READING.name]["risk_target"]
    assert (told["target"], told["answered"], told["wrong"], told["value"]) == (target, 6, 3, 0.5)
    assert told["at_most"] == pytest.approx(upper_bound(3, 6), abs=1e-6)
    assert told["at_least"] == pytest.approx(1 - upper_bound(3, 6), abs=1e-6)
    assert (told["outcome"], told["attainable"], told["confidence"]) == (outcome, True, 0.95)
    page = (tmp_path / "report.md").read_text()
    assert f"was to have at most {target:.0%} of its answers wrong: 3 of 6 were (50.0%)" in page
    assert f": {outcome}." in page
    html = (tmp_path / "report.html").read_text()
    assert "Risk targets and what came of them" in html and f"{outcome}" in html
    limit = parse_condition("risk_at_most > 0.8")
    assert len(failures(made, [limit])) == 1


def test_a_target_that_is_not_attainable_is_no_broken_one(tmp_path: Path) -> None:
    refused = [row(READING, i, "", 1.0, unattainable=True) for i in range(6)]
    told = report(tmp_path, refused, enabled=True, risk=0.05)["systems"][READING.name]["risk_target"]
    assert (told["attainable"], told["answered"], told["value"], told["outcome"]) == (False, 0, None, None)
    assert told["at_most"] is None
    assert "is not attainable with this model and these documents" in (tmp_path / "report.md").read_text()
    assert "not attainable" in (tmp_path / "report.html").read_text()


def test_no_answer_sure_enough_is_told_apart_from_not_attainable(tmp_path: Path) -> None:
    told = report(tmp_path, [row(READING, i, "", 1.0) for i in range(6)], enabled=True, risk=0.2)
    assert told["systems"][READING.name]["risk_target"]["attainable"] is True
    assert "no answer was sure enough" in (tmp_path / "report.md").read_text()


def test_a_target_counts_where_something_was_withheld(tmp_path: Path) -> None:
    made = report(tmp_path, rows([0.9] * 6), enabled=False, risk=0.2)
    assert made["systems"][READING.name]["risk_target"] is None

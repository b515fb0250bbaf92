import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from eval.cascade import RESULT, _area_under, evaluate
from eval.cascade_choice import (
    POLICIES,
    SPLITS,
    cross_fitted,
    fit_curves,
    halves,
    least_cut,
    make_splits,
    priced,
)
from eval.cascade_gain import gain_of, write_gain
from eval.cascade_pairs import COST, SECONDS, Pairs, read_pairs
from eval.cascade_plot import cascade_plot
from eval.cli import make_app
from eval.results import Run, RunSystem, encode_row, row_fingerprint, write_run
from eval.rows import Row, Tokens
from rag.cascade import load_gain
from rag.errors import DataError

SMALL, LARGE = "small+retrieval", "large+retrieval"
ROWS: dict[str, dict[str, Any]] = {
    SMALL: {"name": SMALL, "generator": "s", "retrieval": True, "price_per_hour": 3.6},
    LARGE: {"name": LARGE, "generator": "l", "retrieval": True, "price_per_hour": 3.6},
}


def row(system: str, number: int, **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "system": system,
        "question_id": str(number),
        "question": f"question {number}",
        "answerable": True,
        "gold": ("the mill",),
        "relevant": (f"d{number}",),
        "generates": True,
        "retrieves": True,
        "answer": "the mill",
        "confidence": 0.5 if system == SMALL else None,
        "seconds": 1.0 if system == SMALL else 3.0,
        "timings": {"retrieve": 0.5, "generate": 0.5},
        "system_fingerprint": "f",
        "fingerprint": row_fingerprint("f", f"digest {number}"),
    }
    return Row(**{**fields, **changes})


def run_folder(folder: Path, rows: list[Row], systems: dict[str, dict[str, Any]] = ROWS) -> Path:
    folder.mkdir(exist_ok=True)
    described = {
        name: RunSystem(fingerprint="f", row=line, settings={}, machine={}, date="2026-01-01")
        for name, line in systems.items()
    }
    questions = {r.question_id: f"digest {r.question_id}" for r in rows}
    write_run(folder, Run(data={"name": "hand"}, questions=questions, systems=described))
    (folder / "results.jsonl").write_bytes(b"".join(encode_row(r) for r in rows))
    return folder


def both(count: int, small: Callable[[int], dict[str, Any]], large: Callable[[int], dict[str, Any]]) -> list[Row]:
    rows = [(row(SMALL, i, **small(i)), row(LARGE, i, **large(i))) for i in range(count)]
    return [r for pair in rows for r in pair]


def knowing(i: int) -> dict[str, Any]:
    """The small system is wrong on every fourth question, and knows it: its confidence is low there."""
    wrong = i % 4 == 0
    return {"answer": "lake" if wrong else "the mill", "confidence": (0.1 if wrong else 0.8) + i / 10_000}


def always_right(_i: int) -> dict[str, Any]:
    return {}


def test_what_the_large_one_adds_is_without_the_retrieval_that_was_done_already(tmp_path: Path) -> None:
    pairs = read_pairs(run_folder(tmp_path / "run", both(40, knowing, always_right)), SMALL, LARGE)
    assert pairs.n == 40
    assert pairs.metrics == ("f1", "right")
    assert pairs.axes == (COST, SECONDS)
    assert pairs.spent[SECONDS][0].tolist() == [1.0, 3.0]
    assert pairs.extra[SECONDS][0] == pytest.approx(2.5)
    # 3.6 dollars an hour are a thousandth of a dollar a second.
    assert pairs.spent[COST][0].tolist() == pytest.approx([0.001, 0.003])
    assert pairs.extra[COST][0] == pytest.approx(0.0025)
    assert pairs.scores["f1"][:2].tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert pairs.confidence_n[1] == pytest.approx(0.8001)


def test_an_unanswerable_question_is_good_where_none_was_given_an_answer(tmp_path: Path) -> None:
    def unanswerable(i: int, *, silent: bool) -> dict[str, Any]:
        if i % 2:
            return {}
        kept = {"answer": "", "abstained": True} if silent else {}
        return {"answerable": False, "gold": (), **kept}

    rows = both(40, lambda i: unanswerable(i, silent=True), lambda i: unanswerable(i, silent=False))
    pairs = read_pairs(run_folder(tmp_path / "run", rows), SMALL, LARGE)
    assert pairs.good_n2[:2].tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert np.isnan(pairs.scores["f1"][0]).all()


def test_a_small_one_that_knows_its_mistakes_costs_little_and_loses_nothing(tmp_path: Path) -> None:
    found = evaluate(read_pairs(run_folder(tmp_path / "run", both(200, knowing, always_right)), SMALL, LARGE))
    assert found["always"]["small"]["f1"]["value"] == 0.75
    assert found["always"]["large"]["f1"]["value"] == 1.0
    assert found["best_possible"]["f1"] == 1.0
    curve = found["curves"]["confidence"]
    # 13 of 50 steps hand on 26%, which takes in all wrong quarters; 98% are there with 24%, 0.75 + 0.24.
    assert curve["cheapest"]["handed_on"] == pytest.approx(0.24)
    assert curve["cheapest"]["f1"]["value"] == pytest.approx(0.99)
    assert curve["cheapest"]["seconds"]["value"] == pytest.approx(1 + 0.24 * 2.5)
    # From 1 to 3 seconds: F1 rises from 0.75 to 1 at 1 + 0.25 x 2.5 = 1.625 s and stays. The area under it is
    # 0.625 x 0.875 + 1.375 = 1.9219, that under the line 2 x 0.875 = 1.75; divided by the 2 seconds 0.0859. Handing on
    # at random comes to 1 at 3.5 s: 0.95 at 3 s, 2 x 0.85 = 1.7, so 0.1109.
    assert curve["above"]["f1"]["seconds"]["line"]["value"] == pytest.approx(0.0859, abs=0.002)
    assert curve["above"]["f1"]["seconds"]["random"]["value"] == pytest.approx(0.1109, abs=0.002)
    assert curve["above"]["f1"]["seconds"]["line"]["low"] > 0.05
    chosen = found["chosen"]["confidence"]
    assert chosen["handed_on"] == pytest.approx(0.25, abs=0.03)
    assert chosen["f1"]["of_large"]["value"] > 0.95
    assert chosen["seconds"]["of_large"]["value"] == pytest.approx((1 + chosen["handed_on"] * 2.5) / 3)
    assert chosen["f1"]["above_random"]["low"] > 0.1
    share = chosen["handed_on"]  # at its seconds the line is at 0.75 + share x 2.5 / 2 x 0.25
    above = chosen["f1"]["above_line"]["seconds"]
    assert above["value"] == pytest.approx(chosen["f1"]["value"] - 0.75 - share * 2.5 / 2 * 0.25)
    assert above["low"] > 0.1


def test_a_confidence_that_says_nothing_is_no_better_than_a_coin(tmp_path: Path) -> None:
    draw = random.Random(5)

    def guess(_i: int) -> dict[str, Any]:
        return {"answer": draw.choice(["lake", "the mill"]), "confidence": draw.uniform(0.1, 0.9)}

    found = evaluate(read_pairs(run_folder(tmp_path / "run", both(300, guess, always_right)), SMALL, LARGE))
    for policy in POLICIES:
        above = found["curves"][policy]["above"]["f1"]["seconds"]["random"]
        assert above["low"] < 0 < above["high"]
        chosen = found["chosen"][policy]["f1"]["above_random"]
        assert chosen["low"] < 0.0 < chosen["high"]


def test_the_price_of_an_error_decides_how_many_are_handed_on(tmp_path: Path) -> None:
    pairs = read_pairs(run_folder(tmp_path / "run", both(200, knowing, always_right)), SMALL, LARGE)
    splits = make_splits(pairs)
    # Handing on adds 0.0025 dollars: never worth it below that, and no certain answer is worth it at any near price.
    assert priced(pairs, splits, 0.002).handed_n.sum() == 0
    handed_n = priced(pairs, splits, 0.01).handed_n
    assert handed_n[::4].tolist() == [1.0] * 50
    assert handed_n.sum() == 50
    prices = evaluate(pairs)["prices"]
    assert [p["error_price"] for p in prices][:3] == pytest.approx([0.0025, 0.0075, 0.025])
    # At 0.0075: small 0.001 + 0.25 x 0.0075 = 0.002875, large 0.003, the cascade 0.001 + 0.25 x 0.0025 = 0.001625.
    assert prices[1]["small"]["value"] == pytest.approx(0.002875)
    assert prices[1]["large"]["value"] == pytest.approx(0.003)
    assert prices[1]["cascade"]["value"] == pytest.approx(0.001625)
    assert prices[1]["saved"]["value"] == pytest.approx(0.00125)


def test_the_least_cut_hands_on_fewest_and_lies_between_two_scores() -> None:
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    small, large = np.array([0.0, 1.0, 0.0, 1.0]), np.ones(4)
    assert least_cut(scores, small, large, 0.5) == np.inf
    assert least_cut(scores, small, large, 0.75) == 3.5
    assert least_cut(scores, small, large, 1.0) == 1.5
    assert least_cut(scores, np.zeros(4), large, 1.0) == -np.inf
    unscored = np.array([np.nan, 1.0, 0.0, 1.0])
    assert least_cut(scores, unscored, np.array([np.nan, 1.0, 1.0, 1.0]), 1.0) == 1.5


def test_halves_are_halves_of_whole_clusters_and_come_again_with_the_seed() -> None:
    groups = np.repeat(np.arange(30), [1, 2, 3] * 10)
    drawn = list(halves(groups))
    assert len(drawn) == SPLITS
    for first in drawn:
        assert abs(int(first.sum()) - 30) <= 2
        assert not set(groups[first]) & set(groups[~first])
    assert all(np.array_equal(a, b) for a, b in zip(drawn, halves(groups), strict=True))
    assert not np.array_equal(drawn[0], drawn[1])


def test_nothing_about_a_question_decides_on_it(tmp_path: Path) -> None:
    """Its scores turned round, a question is handed on as often as before."""
    pairs = read_pairs(run_folder(tmp_path / "run", both(60, knowing, always_right)), SMALL, LARGE)
    turned = {name: values.copy() for name, values in pairs.scores.items()}
    good = pairs.good_n2.copy()
    for values in (*turned.values(), good):
        values[7] = 1 - values[7]
    other: Pairs = pairs._replace(scores=turned, good_n2=good)
    for policy in POLICIES:
        before = cross_fitted(pairs, make_splits(pairs), policy, "f1", 0.98).handed_n
        after = cross_fitted(other, make_splits(other), policy, "f1", 0.98).handed_n
        assert before[7] == after[7]


def test_the_gain_is_largest_where_the_small_one_alone_is_wrong(tmp_path: Path) -> None:
    draw = random.Random(3)

    def confident(_i: int) -> dict[str, Any]:
        sure = draw.random()
        return {"answer": "the mill" if draw.random() < sure else "lake", "confidence": min(max(sure, 0.02), 0.98)}

    pairs = read_pairs(run_folder(tmp_path / "run", both(400, confident, always_right)), SMALL, LARGE)
    curves = fit_curves(pairs, np.ones(400, dtype=bool))
    low, middle, high = curves.gain(np.array([0.1, 0.5, 0.9]))
    assert low == pytest.approx(0.9, abs=0.07)
    assert middle == pytest.approx(0.5, abs=0.07)
    assert high == pytest.approx(0.1, abs=0.07)


def test_recorded_answers_have_a_cost_and_no_seconds(tmp_path: Path) -> None:
    systems = {
        SMALL: ROWS[SMALL],
        "gpt": {
            "name": "gpt",
            "recorded": "gpt.jsonl",
            "retrieval": False,
            "price_per_million_prompt": 30.0,
            "price_per_million_completion": 60.0,
        },
    }
    rows = [row(SMALL, i, **knowing(i)) for i in range(40)]
    rows += [
        row("gpt", i, recorded=True, retrieves=False, seconds=0.0, usage=Tokens(prompt=100, completion=10))
        for i in range(40)
    ]
    pairs = read_pairs(run_folder(tmp_path / "run", rows, systems), SMALL, "gpt")
    assert pairs.axes == (COST,)
    # 100 x 30 + 10 x 60 dollars for a million questions, on top of the small one's second.
    assert pairs.extra[COST].tolist() == pytest.approx([0.0036] * 40)
    found = evaluate(pairs)
    assert "seconds" not in found["always"]["large"]
    assert set(found["chosen"]["confidence"]) == {"handed_on", "f1", "right", "cost"}
    assert "US dollars per 1,000 questions" in cascade_plot(found, COST)
    with pytest.raises(DataError, match="recorded answers, and nobody can ask it"):
        gain_of(pairs, tmp_path / "run", metric="f1", keep=0.98)


def test_a_large_system_that_takes_no_more_leaves_nothing_to_save(tmp_path: Path) -> None:
    rows = both(40, knowing, lambda _i: {"seconds": 0.9, "timings": {"retrieve": 0.5}})
    found = evaluate(read_pairs(run_folder(tmp_path / "run", rows), SMALL, LARGE))
    assert found["curves"]["confidence"]["above"]["f1"]["seconds"] is None
    assert found["chosen"]["confidence"]["f1"]["above_line"]["seconds"] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"small": "tiny"}, "holds no system 'tiny'"),
        ({"count": 10}, "have 10 questions in common"),
        ({"first": {"confidence": None}}, "does not tell how sure it is"),
        ({"first": {"relevant": ("d",)}}, "share their documents"),
        ({"second": {"error": "down"}}, "have 0 questions in common"),
    ],
)
def test_a_run_that_does_not_suit(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = both(change.get("count", 40), lambda _i: change.get("first", {}), lambda _i: change.get("second", {}))
    out = run_folder(tmp_path / "run", rows)
    with pytest.raises(DataError, match=said):
        read_pairs(out, change.get("small", SMALL), LARGE)


def test_failures_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = both(40, knowing, lambda i: {"error": "down"} if i == 3 else {})
    pairs = read_pairs(run_folder(tmp_path / "run", rows), SMALL, LARGE)
    assert (pairs.n, pairs.left_out) == (39, 1)


def test_without_prices_and_seconds_nothing_can_be_weighed(tmp_path: Path) -> None:
    pairs = read_pairs(run_folder(tmp_path / "run", both(40, knowing, always_right)), SMALL, LARGE)
    unknown = {axis: np.full((40, 2), np.nan) for axis in pairs.spent}
    with pytest.raises(DataError, match="neither cost nor seconds"):
        evaluate(pairs._replace(spent=unknown))
    with pytest.raises(DataError, match="not both scored in 'rouge'"):
        evaluate(pairs, metric="rouge")


def test_the_command_writes_figures_plots_and_the_file_that_the_query_path_takes(tmp_path: Path) -> None:
    out, file = run_folder(tmp_path / "run", both(80, knowing, always_right)), tmp_path / "cascade.toml"
    app = make_app(lambda *_: pytest.fail("nothing is asked"))
    done = CliRunner().invoke(app, ["cascade", str(out), "--write", str(file), "--seed", "7"])
    assert done.exit_code == 0, done.output
    assert "98% of the large one's F1 is reached with" in done.output
    found = json.loads((out / RESULT).read_text())
    assert (found["seed"], found["questions"]) == (7, 80)
    assert (out / "cascade-cost.svg").read_text().startswith("<svg")
    assert "seconds per question" in (out / "cascade-seconds.svg").read_text()
    gain = load_gain(file)
    assert (gain.small, gain.large, gain.fitted_on, gain.kept) == ("s", "l", "80 questions of hand", 0.98)
    assert gain.cost == pytest.approx(0.0025)
    # Enough of the wrong ones, which have a confidence of 0.1 and a little, are below the threshold; no other one is.
    assert 0.1 < gain.threshold < 0.8
    assert gain.at(0.1) > 0.7 > 0.2 > gain.at(0.8)


def test_a_written_file_is_read_as_it_was_fitted(tmp_path: Path) -> None:
    out = run_folder(tmp_path / "run", both(40, knowing, always_right))
    gain = gain_of(read_pairs(out, SMALL, LARGE), out, metric="f1", keep=0.98)
    write_gain(tmp_path / "g.toml", gain)
    assert load_gain(tmp_path / "g.toml") == gain


def test_the_area_under_a_line_ends_where_it_is_told_to() -> None:
    x, y = np.array([[1.0, 2.0, 2.0, 4.0]] * 3), np.array([[0.0, 1.0, 2.0, 4.0]] * 3)
    # 0.5 up to 2, then from 2 to 3 (3, half way up) 2.5; up to 4 it is 0.5 + 6, and level behind: 4 for each more.
    assert _area_under(x, y, np.array([3.0, 4.0, 5.0])).tolist() == [3.0, 6.5, 10.5]

import random
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.calibration import BEST, _keeping, calibrate, calibrate_answers, calibration_json, described, write_abstention
from eval.calibration import _drawn as drawn
from eval.calibration_answers import Answers, read_answers
from eval.promise import fewest_answers
from eval.results import Run, RunSystem, encode_row, row_fingerprint, write_run
from eval.rows import Row
from rag.abstain import Abstention, load_abstention
from rag.errors import DataError

SETTINGS: dict[str, Any] = {
    "abstention": {"enabled": False},
    "evidence": {"passages": 3, "mode": "each"},
    "generator": {"model": "m", "threads": 2},
}


def row(number: int, *, right: bool, cosine: float, **changes: Any) -> Row:
    signals = dict.fromkeys(BEST, 0.5) | {"cosine": cosine}
    fields: dict[str, Any] = {
        "system": "s",
        "question_id": str(number),
        "question": f"question {number}",
        "answerable": right,
        "gold": ("a",) if right else (),
        "relevant": (),
        "generates": True,
        "retrieves": True,
        "answer": "a",
        "signals": signals,
        "scores": {"right": 1.0} if right else {},
        "system_fingerprint": "f",
        "fingerprint": row_fingerprint("f", f"digest {number}"),
    }
    return Row(**{**fields, **changes})


def run_folder(folder: Path, rows: list[Row], settings: dict[str, Any] | None = None, *names: str) -> Path:
    """A run of the systems `names`, "s" by default, named after its folder."""
    folder.mkdir()
    system = RunSystem(
        fingerprint="f",
        row={"name": "s", "generator": "m", "retrieval": True},
        settings=settings or SETTINGS,
        machine={},
        date="2026-01-01",
    )
    questions = {r.question_id: f"digest {r.question_id}" for r in rows}
    write_run(
        folder, Run(data={"name": folder.name}, questions=questions, systems=dict.fromkeys(names or ("s",), system))
    )
    (folder / "results.jsonl").write_bytes(b"".join(encode_row(r) for r in rows))
    return folder


def separable(count: int) -> list[Row]:
    """Right answers have a cosine about 0.7, wrong ones about 0.3; they hardly overlap."""
    draw = random.Random(1)
    return [row(i, right=bool(i % 2), cosine=(0.7 if i % 2 else 0.3) + draw.uniform(-0.15, 0.15)) for i in range(count)]


def answers(rows: list[Row]) -> Answers:
    return Answers(("set",), {}, tuple(rows))


def test_a_fitted_file_tells_right_from_wrong_and_is_loaded_by_the_query_path(tmp_path: Path) -> None:
    found = calibrate([run_folder(tmp_path / "run", separable(200))], keep_right=0.9)
    assert (found.rows, found.right) == (200, 100)
    assert found.auc > 0.99
    assert found.refused_wrong == 1.0
    write_abstention(tmp_path / "a.toml", found)
    loaded = load_abstention(tmp_path / "a.toml")
    assert loaded == found.abstention
    assert loaded.signals["cosine"].weight > 5
    assert loaded.signals["coverage"].weight == 0  # it never varied, so it says nothing
    rest = dict.fromkeys(BEST, 0.5)
    assert loaded.trusts({**rest, "cosine": 0.75})
    assert not loaded.trusts({**rest, "cosine": 0.35})


def test_the_file_has_the_tested_thresholds_and_what_they_hold_for(tmp_path: Path) -> None:
    unanswered = [row(300 + i, right=False, cosine=0.1, answer="", abstained=True, signals={}) for i in range(20)]
    found = calibrate([run_folder(tmp_path / "run", [*separable(200), *unanswered])], keep_right=0.9)
    write_abstention(tmp_path / "a.toml", found)
    promise = load_abstention(tmp_path / "a.toml").promise
    assert promise is not None and promise == found.promise
    assert (promise.confidence, promise.questions) == (0.95, 110)
    assert promise.settings == {"evidence.passages": 3, "evidence.mode": "each", "generator.model": "m"}
    # Half of the 220 questions were fitted on; the last threshold gives every answer to the other half.
    last = promise.rungs[-1]
    assert last.threshold == 0.0
    assert last.answered + int(found.abstention.fitted_on.split()[0]) == 200
    best = promise.rung(0.1)
    assert best is not None and best.wrong <= 1 and best.answered > fewest_answers(0.1)
    assert promise.rung(0.01) is None
    assert tomllib.loads((tmp_path / "a.toml").read_text())["fitted_on"].endswith("answers of run")


def test_keeping_more_of_the_right_lowers_the_threshold(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", separable(200))
    strict, lenient = (calibrate([run], keep_right=k).abstention.threshold for k in (0.5, 0.99))
    assert lenient < strict


def test_no_more_of_the_right_are_lost_than_asked_for() -> None:
    draw = random.Random(4)
    for count in range(80, 90):  # so few answers that one counts
        rows = [row(i, right=i % 3 > 0, cosine=draw.random()) for i in range(count)]
        estimate = calibrate_answers(answers(rows), keep_right=0.9).abstention
        tested = _unseen_right(rows, estimate)
        assert sum(confidence >= estimate.threshold for confidence in tested) >= 0.9 * len(tested)


def _unseen_right(rows: list[Row], estimate: Abstention) -> list[float]:
    """How sure the estimate is of the right answers that it was not fitted to."""
    unseen = [r for r, seen in zip(rows, drawn(rows), strict=True) if not seen and r.answerable]
    return [estimate.confidence({k: v for k, v in r.signals.items() if v is not None}) for r in unseen]


def test_a_question_that_is_asked_twice_counts_once() -> None:
    """Twice the same answers are no more evidence for a promise."""
    rows = separable(200)
    once = calibrate_answers(answers(rows), keep_right=0.9)
    again = [r.model_copy(update={"question_id": f"again {r.question_id}"}) for r in rows]
    assert calibrate_answers(answers([*rows, *again]), keep_right=0.9) == once
    other = [r.model_copy(update={"signals": {**r.signals, "coverage": 0.4}}) for r in rows]  # of other documents
    assert calibrate_answers(answers([*rows, *other]), keep_right=0.9).rows == 400


def test_too_little_to_fit_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of 10 answers with signals 5 are right: it takes 50"):
        calibrate([run_folder(tmp_path / "a", separable(10))], keep_right=0.9)


@pytest.mark.parametrize(
    ("right", "told", "hint"),
    [
        (True, "of 100 .* 100 are right: too few are wrong", "do not answer"),
        (False, "0 are right: too few", "answer, "),
    ],
)
def test_answers_of_one_kind_alone_are_told_with_what_is_missing(
    tmp_path: Path, right: bool, told: str, hint: str
) -> None:
    with pytest.raises(DataError, match=told) as error:
        calibrate([run_folder(tmp_path / "b", [r for r in separable(200) if r.answerable is right])], keep_right=0.9)
    assert hint in (error.value.hint or "")


def test_how_near_a_model_came_to_declining_is_fitted_where_every_row_tells_it() -> None:
    draw = random.Random(2)
    rows = [row(i, right=bool(i % 2), cosine=0.5) for i in range(200)]
    told = [
        r.model_copy(update={"signals": {**r.signals, "decline": (-4 if r.answerable else 4) + draw.uniform(-1, 1)}})
        for r in rows
    ]
    found = calibrate_answers(answers(told), keep_right=0.9)
    assert found.auc == 1.0
    assert found.abstention.signals["decline"].weight < -0.5
    assert found.abstention.signals["decline"].best == -12.0
    partly = calibrate_answers(answers([*told[:199], rows[199]]), keep_right=0.9)
    assert "decline" not in partly.abstention.signals


def test_no_weight_speaks_for_an_answer_where_its_signal_is_worse() -> None:
    """Only then is what is refused early, unknown signals at their best, refused in the end as well."""
    rows = [
        r.model_copy(update={"signals": {**r.signals, "echo": float(r.answerable), "grounding": 1.0 - r.answerable}})
        for r in separable(200)
    ]
    signals = calibrate_answers(answers(rows), keep_right=0.9).abstention.signals
    assert signals["echo"].weight == signals["grounding"].weight == 0.0
    assert signals["cosine"].weight > 5


def test_a_signal_that_an_answer_lacks_is_fitted_as_it_will_count() -> None:
    rows = [
        r.model_copy(update={"signals": {k: v for k, v in r.signals.items() if k != "first_logprob"}})
        for r in separable(200)
    ]
    found = calibrate_answers(answers(rows), keep_right=0.9)
    assert found.abstention.signals["first_logprob"].weight == 0.0
    assert found.rows == 200


def test_a_question_asked_of_several_sets_is_fitted_on_or_tested_with_but_not_both(tmp_path: Path) -> None:
    first = run_folder(tmp_path / "first", separable(200))
    others = [r.model_copy(update={"signals": {**r.signals, "coverage": 0.4}}) for r in separable(200)]
    again = run_folder(tmp_path / "again", others)
    once, twice = calibrate([first], keep_right=0.9), calibrate([first, again], keep_right=0.9)
    assert twice.promise.questions == 2 * once.promise.questions
    assert twice.promise.rungs[-1].wrong == 2 * once.promise.rungs[-1].wrong
    assert twice.abstention.fitted_on.endswith("of first, again")


def test_rows_that_are_not_of_the_run_or_that_nobody_judged_are_left_out(tmp_path: Path) -> None:
    stale = row(0, right=False, cosine=0.9, fingerprint="old")
    unjudged = row(500, right=True, cosine=0.9, scores={})
    read = read_answers([run_folder(tmp_path / "run", [*separable(60), stale, unjudged])])
    assert len(read.rows) == 60
    assert read.rows[0].signals["cosine"] != 0.9


def test_what_cannot_be_calibrated_on_is_refused(tmp_path: Path) -> None:
    withheld = run_folder(tmp_path / "withheld", separable(60), {"abstention": {"enabled": True}})
    with pytest.raises(DataError, match="withheld answers"):
        calibrate([withheld], keep_right=0.9)
    several = run_folder(tmp_path / "several", separable(60), None, "s", "t")
    with pytest.raises(DataError, match="not clear which system"):
        calibrate([several], keep_right=0.9)
    assert calibrate([several], keep_right=0.9, system="s").rows == 60
    with pytest.raises(DataError, match="u does not answer from documents"):
        calibrate([several], keep_right=0.9, system="u")
    other = run_folder(tmp_path / "other", separable(60), {**SETTINGS, "evidence": {"passages": 1, "mode": "each"}})
    with pytest.raises(DataError, match=r"other settings than .*evidence\.passages"):
        calibrate([several, other], keep_right=0.9, system="s")
    with pytest.raises(DataError, match="holds no run"):
        calibrate([tmp_path / "none"], keep_right=0.9)


def test_what_is_promised_is_said_in_words_and_as_values(tmp_path: Path) -> None:
    found = calibrate_answers(answers(separable(200)), keep_right=0.9)
    told = described(found, (0.02, 0.1, 0.3))
    rung, all_of_it = found.promise.rung(0.1), found.promise.rungs[-1]
    assert rung is not None
    share = rung.answered / found.promise.questions
    assert (
        f"at most 10% wrong while answering {share:.0%} of the questions ({rung.wrong} of {rung.answered} were" in told
    )
    assert "at most 2% wrong: not attainable: it takes 149 tested answers without a mistake, and there were" in told
    assert f"and there were {all_of_it.answered}" in told
    values = calibration_json(found, (0.02, 0.1))
    assert [t["attainable"] for t in values["targets"]] == [False, True]
    assert values["targets"][1]["coverage"] == pytest.approx(share)


def test_names_with_quotes_survive_the_file(tmp_path: Path) -> None:
    found = calibrate_answers(answers(separable(200))._replace(names=('my "set" \\ 1\n',)), keep_right=0.9)
    write_abstention(tmp_path / "a.toml", found)
    assert load_abstention(tmp_path / "a.toml").fitted_on.endswith('of my "set" \\ 1 ')


# Chance of being wrong by a signal, uniform in [0, 1]: the best looking answers are near misses, so that the risk
# falls and rises again as fewer are given, which no logistic curve can follow.
def near_misses(cosine: float) -> float:
    return 0.5 if cosine > 0.85 else 0.05 if cosine > 0.4 else 0.8


def test_the_promise_of_the_whole_procedure_is_kept_as_often_as_it_says() -> None:
    """Fitting included: 150 calibrations on 160 questions each, judged by the true risk of what they would answer."""
    repetitions, target, draw = 150, 0.3, random.Random(7)
    grid = [(i + 0.5) / 200 for i in range(200)]
    blank = [row(i, right=True, cosine=0.0) for i in range(160)]
    broken = promised = 0
    for _ in range(repetitions):
        rows = []
        for one in blank:
            cosine = draw.random()
            right = draw.random() >= near_misses(cosine)
            changed = {"signals": {**one.signals, "cosine": cosine}, "scores": {"right": float(right)}}
            rows.append(one.model_copy(update=changed))
        estimate = calibrate_answers(answers(rows), keep_right=0.9).abstention.at_risk(target)
        rest = dict.fromkeys(BEST, 0.5)
        given = [c for c in grid if estimate.trusts({**rest, "cosine": c})]
        if given:
            promised += 1
            broken += float(np.mean([near_misses(c) for c in given])) > target
    assert broken / repetitions <= 0.05 + 3 * (0.05 * 0.95 / repetitions) ** 0.5
    assert promised / repetitions > 0.3


def test_a_scorer_without_a_clue_promises_nothing() -> None:
    draw = random.Random(5)
    rows = [row(i, right=draw.random() < 0.5, cosine=draw.random()) for i in range(300)]
    found = calibrate_answers(answers(rows), keep_right=0.9)
    assert not found.abstention.at_risk(0.2).attainable
    assert "at most 20% wrong: not attainable" in described(found)


def test_the_threshold_lies_amid_those_that_keep_the_same_right_answers() -> None:
    right_n = np.array([0.9, 0.8, 0.7, 0.5, 0.4, 0.35, 0.32, 0.3, 0.2, 0.1])
    assert _keeping(0.8, right_n) == pytest.approx(0.15)  # 0.2 is kept, 0.1 is not
    assert _keeping(0.99, right_n) == pytest.approx(0.05)  # all are

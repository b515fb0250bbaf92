"""The report and the comparison of runs, from rows written by hand."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from eval.compare import compare_runs, scored_metrics, worsened
from eval.measurements import rightness
from eval.plot import Point, draw
from eval.report import write_report
from eval.results import ResultsWriter, Run, RunSystem, row_fingerprint, write_run
from eval.rows import CitedSpan, RankedDocument, Row, Tokens, Work
from eval.system_row import SystemRow, Watts
from eval.wording import dollars, per_thousand, seconds
from rag.errors import DataError

MACHINE = {
    "cpu": "Test CPU | 9000",
    "cores": 2,
    "memory_bytes": 8 * 2**30,
    "system": "Linux x86_64",
    "python": "3.11.9",
    "versions": {"smallhold": "0.1.0"},
}
DATA = {
    "name": "tiny",
    "kind": "short answers",
    "license": "CC0",
    "source": "made up",
    "documents": 6,
    "questions": 6,
    "answerable": 4,
    "unanswerable": 2,
    "retrieval_only": False,
    "digest": "d",
    "corpus_digest": "c",
}
SYSTEMS = (
    SystemRow(name="small", generator="tiny-model", retrieval=False, price_per_hour=0.36),
    SystemRow(name="small+retrieval", generator="tiny-model", retrieval=True, price_per_hour=0.36),
)


def row(system: SystemRow, number: int, answer: str, seconds_taken: float, **changes: Any) -> Row:
    """Question `number` asks for "word N"; 4 and 5 are unanswerable. An answer "" is an abstention."""
    answerable = number < 4
    fields: dict[str, Any] = {
        "system": system.name,
        "question_id": f"q{number}",
        "question": f"question {number}",
        "answerable": answerable,
        "gold": (f"word {number}",) if answerable else (),
        "relevant": (f"d{number}",) if answerable else (),
        "generates": bool(system.generator),
        "retrieves": system.retrieval,
        "answer": answer,
        "abstained": not answer,
        "usage": Tokens(prompt=100 * (number + 1), cached=0, completion=4),
        "seconds": seconds_taken,
        "timings": {"generate": seconds_taken},
        "system_fingerprint": system.name,
        "fingerprint": row_fingerprint(system.name, f"digest {number}"),
    }
    if system.retrieval:
        fields["citations"] = (CitedSpan(document_id=f"d{number}", span=(0, 4), text="word"),) if answer else ()
        fields["retrieved"] = (RankedDocument(document_id=f"d{number if number < 3 else 9}", score=1.0),)
    return Row(**{**fields, **changes})


def write_rows(out: Path, rows: list[Row], systems: tuple[SystemRow, ...] = SYSTEMS, **run_changes: Any) -> Path:
    out.mkdir(exist_ok=True)
    entries = {
        system.name: RunSystem(
            fingerprint=system.name,
            row=system.model_dump(exclude_none=True),
            machine=MACHINE,
            date=f"2026-01-0{place + 1}T10:00:00+00:00",
        )
        for place, system in enumerate(systems)
    }
    questions = {f"q{number}": f"digest {number}" for number in range(6)}
    write_run(out, Run(**{"data": DATA, "questions": questions, "systems": entries, **run_changes}))
    with ResultsWriter(out) as writer:
        for one in rows:
            writer.append(one)
    return out


def golden_rows() -> list[Row]:
    small, retrieval = SYSTEMS
    return [
        row(small, 0, "word 0", 1.0),
        row(small, 1, "no idea", 1.0),
        row(small, 2, "no idea", 1.0),
        row(small, 3, "no idea", 1.0),
        row(small, 4, "no idea", 1.0),
        row(small, 5, "no idea", 1.0),
        row(retrieval, 0, "word 0", 2.0),
        row(retrieval, 1, "the word 1!", 2.0),
        row(retrieval, 2, "maybe word 2", 2.0),
        row(retrieval, 3, "", 2.0),
        row(retrieval, 4, "", 2.0),
        row(retrieval, 5, "no idea", 5.0),
    ]


def test_golden_json(tmp_path: Path) -> None:
    report = write_report(write_rows(tmp_path, golden_rows()))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert list(report) == [
        "verdict",
        "data",
        "machine",
        "statistics",
        "systems",
        "differences",
        "power",
        "break_even",
        "scale",
        "notes",
    ]
    assert report["data"] == DATA
    assert report["machine"] == {**MACHINE, "date": "2026-01-02T10:00:00+00:00"}
    small, retrieval = report["systems"]["small"], report["systems"]["small+retrieval"]
    # Answerable: right, right, F1 of 2 of 3 tokens against 2 = 0.8, abstained. Abstentions: one of two rightly.
    values = {
        "right": 0.75,
        "exact_match": 0.5,
        "f1": pytest.approx((1 + 1 + 0.8 + 0) / 4),
        "contains": 0.75,
        # The third of four: two of "maybe word 2" against "word 2" in order, F of 2/3 and 1.
        "rouge_l": pytest.approx((1 + 1 + 0.8 + 0) / 4),
        # "word" is cited, and the number is in the question already; "no idea" stands nowhere.
        "grounded": 0.75,
        # Three right, an abstention needless and one rightly, a made-up answer.
        "crag": pytest.approx((3 + 0 + 1 - 1) / 6),
        "memorised": None,
        "followed": None,
        "coverage": 0.75,
        "abstention_precision": 0.5,
        "abstention_recall": 0.5,
        "citation_precision": 1.0,
        "citation_recall": 1.0,
        # The cited "word" holds neither "one" nor any other expected answer.
        "sentence_precision": 0.0,
        "sentence_recall": 0.0,
        "recall@1": 0.75,
        "recall@5": 0.75,
        "recall@10": 0.75,
        "mrr": 0.75,
        "ndcg@10": 0.75,
        "similarity": None,
        "right_judge": None,
        "grounded_judge": None,
    }
    assert {name: retrieval["metrics"][name]["value"] for name in values} == values
    f1 = retrieval["metrics"]["f1"]
    assert f1["low"] < f1["value"] < f1["high"] and (f1["n"], f1["unscored"]) == (4, 2)
    assert {name: small["metrics"][name]["value"] for name in values} == {
        **dict.fromkeys(values),
        "right": 0.25,
        "exact_match": 0.25,
        "f1": 0.25,
        "contains": 0.25,
        "rouge_l": 0.25,
        "crag": pytest.approx((1 - 5) / 6),
        "coverage": 1.0,
        "abstention_recall": 0.0,
    }
    assert small["metrics"]["recall@5"] == {"value": None, "low": None, "high": None, "n": 0, "unscored": 6}
    # 0.36 dollars an hour are 0.0001 a second; 15 seconds over 6 questions.
    assert retrieval["cost_per_question"] == pytest.approx(0.00025)
    seconds_told = retrieval["seconds_per_question"]
    assert (seconds_told["mean"], seconds_told["p50"], seconds_told["p95"]) == (2.5, 2.0, 4.25)
    assert seconds_told["low"] < 2.5 < seconds_told["high"]
    assert retrieval["tokens"] == {
        "prompt": 2100,
        "cached": 0,
        "completion": 24,
        "per_question": {"prompt": 350.0, "cached": 0.0, "completion": 4.0},
    }
    assert (retrieval["n"], retrieval["missing"], retrieval["errors"], retrieval["abstentions"]) == (6, 0, 0, 2)
    assert retrieval["prices"] == {"price_per_hour": 0.36}
    (difference,) = [d for d in report["differences"] if d["metric"] == "f1"]
    assert (difference["system"], difference["baseline"], difference["n"]) == ("small+retrieval", "small", 4)
    assert difference["value"] == pytest.approx(0.45)
    assert {d["metric"] for d in report["differences"]} >= {
        "right",
        "exact_match",
        "f1",
        "contains",
        "rouge_l",
        "crag",
        "coverage",
        "abstention_recall",
        "cost_per_question",
        "seconds",
    }


GOLDEN_MARKDOWN = """\
# Evaluation on tiny

6 questions (4 answerable, 2 not) over 6 documents. Kind: short answers. Licence: CC0. Source: made up.

## What it says

small+retrieval is right on 75.0% of 4 questions (95% interval 25.0% to 100.0%), but its lead of 50.0 points on small may be chance (95% interval +0.0 to +100.0, p after Holm = 0.50). 1,000 right answers of small+retrieval cost $0.500 ($0.240 to $2.10), the least of all: the next, small, takes $0.600. Take small+retrieval: it is the most accurate, and no cheaper one is known; whether it is really better than small these questions cannot decide.

`small+retrieval` has the highest F1: 0.700 (0.250 to 1.000), over 4 questions.

- No difference in F1 is shown between `small+retrieval` and `small`: +0.450 (+0.000 to +0.933); it costs 2.5 times as much.

`small` declined 0% of the 2 unanswerable questions and answered 100% of the 4 answerable ones. `small+retrieval` declined 50% of the 2 unanswerable questions and answered 75% of the 4 answerable ones.

![F1 against cost](accuracy.svg)

## Systems

Each figure stands with its 95% interval; `-` says that the metric does not apply.

|  | `small` | `small+retrieval` |
|---|---|---|
| right | 0.250 (0.000 to 0.750) | 0.750 (0.250 to 1.000) |
| exact match | 0.250 (0.000 to 0.750) | 0.500 (0.000 to 1.000) |
| F1 | 0.250 (0.000 to 0.750) | 0.700 (0.250 to 1.000) |
| answer contained | 0.250 (0.000 to 0.750) | 0.750 (0.250 to 1.000) |
| ROUGE-L | 0.250 (0.000 to 0.750) | 0.700 (0.250 to 1.000) |
| grounded | - | 0.750 (0.250 to 1.000) |
| CRAG score | -0.667 (-1.000 to 0.000) | 0.500 (-0.167 to 1.000) |
| coverage | 1.000 (0.398 to 1.000) | 0.750 (0.250 to 1.000) |
| abstention precision | - | 0.500 (0.000 to 1.000) |
| abstention recall | 0.000 (0.000 to 0.842) | 0.500 (0.000 to 1.000) |
| citation precision | - | 1.000 (0.292 to 1.000) |
| citation recall | - | 1.000 (0.292 to 1.000) |
| cited sentences, precision | - | 0.000 (0.000 to 0.708) |
| cited sentences, recall | - | 0.000 (0.000 to 0.708) |
| recall@1 | - | 0.750 (0.250 to 1.000) |
| recall@5 | - | 0.750 (0.250 to 1.000) |
| recall@10 | - | 0.750 (0.250 to 1.000) |
| MRR | - | 0.750 (0.250 to 1.000) |
| nDCG@10 | - | 0.750 (0.250 to 1.000) |
| cost of 1,000 questions | $0.100 | $0.250 |
| cost of 1,000 right answers | $0.600 ($0.200 to no bound) | $0.500 ($0.240 to $2.10) |
| energy a question | 7 J estimated | 17.5 J estimated |
| wrong among the answers given | 0.833 (0.500 to 1.000), n = 6 | 0.250 (0.000 to 0.750), n = 4 |
| right, by the cited text | 0.000 | 0.500 |
| right, but not by the cited text | 0.167 | 0.000 |
| wrong, by the cited text | 0.000 | 0.000 |
| wrong, made up | 0.833 | 0.167 |
| abstained rightly | 0.000 | 0.167 |
| abstained wrongly | 0.000 | 0.167 |
| seconds, mean | 1.00 s | 2.50 s |
| seconds, median | 1.00 s | 2.00 s |
| seconds, 95th percentile | 1.00 s | 4.25 s |
| tokens a question, read + written | 350 + 4 | 350 + 4 |
| questions (failed, missing) | 6 (0, 0) | 6 (0, 0) |

- right: share of the answerable questions that a person would call rightly answered (an abstention counts 0)
- exact match: share of the answerable questions answered word for word as expected (an abstention counts 0)
- F1: overlap in words of answer and expected answer, over the answerable questions (an abstention counts 0)
- answer contained: share of the answerable questions whose answer holds the expected one
- ROUGE-L: longest common subsequence of answer and expected answer, for long answers (an abstention counts 0)
- grounded: share of the answers given whose words, numbers and names stand in the text that they cite
- CRAG score: mean of +1 for a right answer or abstention, 0 for a needless abstention, -1 for a wrong answer
- coverage: share of the answerable questions that got an answer
- abstention precision: share of the abstentions that were on unanswerable questions
- abstention recall: share of the unanswerable questions on which the system abstained
- citation precision: share of the cited documents that are relevant, over the answers to answerable questions
- citation recall: share of the relevant documents that were cited, over the answers to answerable questions
- cited sentences, precision: share of the cited sentences that hold the expected answer, in a relevant document
- cited sentences, recall: share of the answers' sentences that point to a sentence which does
- recall@1: share of the relevant documents that are the first one found
- recall@5: share of the relevant documents among the first 5 found
- recall@10: share of the relevant documents among the first 10 found
- MRR: 1 / rank of the first relevant document
- nDCG@10: how far up the relevant documents stand among the first 10 found; 1 is the best order

## Differences, paired by question

| pair | F1 | p | cost of 1,000 questions | seconds |
|---|---|---|---|---|
| `small+retrieval` minus `small` | +0.450 (+0.000 to +0.933) | 0.500 | +$0.150 (+$0.100 to +$0.250) | +1.50 s (+1.00 s to +2.50 s) |

Both systems of a pair are resampled on the same questions. An interval that holds 0 shows no difference. The p values are corrected for the number of pairs (Holm), the intervals are not.

## What it takes

- right, `small+retrieval` minus `small`: 4 questions can show no difference; 10 more would show the observed +0.500.

## Setting

- Machine: Test CPU | 9000, 2 cores, 8.0 GiB of memory, Linux x86_64
- Software: Python 3.11.9, smallhold 0.1.0
- Date: 2026-01-02T10:00:00+00:00
- `small`: tiny-model; closed-book; $0.360 per hour
- `small+retrieval`: tiny-model; with retrieval; $0.360 per hour
- Intervals: percentile bootstrap over questions, differences paired, 10,000 resamples, seed 20240229. Where all questions score alike, where the bootstrap sees no spread, they are those of Clopper and Pearson.
- Seconds are those of the answering alone, without loading, an endpoint's among others under way; cost is what the prices above make of them. A machine that idles costs more per question.
- Energy that is estimated is what a power model makes of processor seconds; operations are 2 x parameters x tokens, and attention.

## The rows

Every question with its answer, citations, scores, tokens and seconds is a line of [results.jsonl](results.jsonl); every figure of this page is in [report.json](report.json). `smallhold eval report` makes both anew from the rows.
"""  # noqa: E501


def test_golden_markdown(tmp_path: Path) -> None:
    write_report(write_rows(tmp_path, golden_rows()))
    assert (tmp_path / "report.md").read_text() == GOLDEN_MARKDOWN


def test_the_picture_is_well_formed_and_names_every_system(tmp_path: Path) -> None:
    write_report(write_rows(tmp_path, golden_rows()))
    svg = ElementTree.fromstring((tmp_path / "accuracy.svg").read_text())
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"small", "small+retrieval", "F1", "US dollars per 1,000 questions"} <= set(texts)


def test_a_picture_places_points_where_they_belong() -> None:
    cheap, dear = Point("a&b", (1.0, 1.0, 1.0), (0.0, 0.0, 0.1)), Point("c", (4.0, 3.0, 5.0), (1.0, 0.9, 1.0))
    svg = ElementTree.fromstring(draw([cheap, dear], x_label="x", y_label="y", title="<t>"))
    circles = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in svg.iter("{http://www.w3.org/2000/svg}circle")]
    # The plane is 620 wide from 70, 330 high from 50; x runs to 1.15 times the largest value, 5.75.
    assert circles == [
        (pytest.approx(70 + 620 / 5.75, abs=0.06), 380.0),
        (pytest.approx(70 + 620 * 4 / 5.75, abs=0.06), 50.0),
    ]
    assert draw([], x_label="x", y_label="y", title="t") == ""


def test_a_picture_of_prices_far_apart_is_logarithmic() -> None:
    points = [Point(name, (x, x, x), (0.5, 0.5, 0.5)) for name, x in (("a", 0.01), ("b", 0.1), ("c", 1.0))]
    svg = ElementTree.fromstring(draw(points, x_label="x", y_label="y", title="t"))
    a, b, c = (float(circle.get("cx", "")) for circle in svg.iter("{http://www.w3.org/2000/svg}circle"))
    assert b - a == pytest.approx(c - b, abs=0.2)
    assert len(draw([Point("a", (0.0, 0.0, 0.0), (0.5, 0.5, 0.5))], x_label="x", y_label="y", title="t")) > 0


def test_failed_missing_and_unpriced(tmp_path: Path) -> None:
    free = SystemRow(name="free", generator="m", retrieval=True)
    rows = [
        row(free, 0, "word 0", 1.0),
        row(free, 1, "", 60.0, abstained=False, error="down", timings={}, retrieved=()),
    ]
    report = write_report(write_rows(tmp_path, rows, (free,)))
    system = report["systems"]["free"]
    assert (system["n"], system["missing"], system["errors"], system["abstentions"]) == (2, 4, 1, 0)
    assert system["cost_per_question"] is None
    assert system["seconds_per_question"]["mean"] == 1.0  # waiting for a failure is no answering time
    assert system["metrics"]["f1"]["value"] == system["metrics"]["recall@1"]["value"] == 0.5
    assert system["metrics"]["abstention_precision"]["value"] is None
    page = (tmp_path / "report.md").read_text()
    assert "| cost of 1,000 questions | - |" in page
    assert "| questions (failed, missing) | 2 (1, 4) |" in page
    assert "free`: m; with retrieval; no price stated" in page
    assert "seconds per question" in (tmp_path / "accuracy.svg").read_text()


def test_rows_of_another_fingerprint_do_not_count_and_the_last_row_does(tmp_path: Path) -> None:
    small = SYSTEMS[0]
    rows = [
        row(small, 0, "", 1.0, abstained=False, error="down"),
        row(small, 0, "word 0", 1.0),
        row(small, 0, "wrong", 1.0, fingerprint="of other settings"),
        row(small, 1, "word 1", 1.0).model_copy(update={"system": "unknown"}),
    ]
    system = write_report(write_rows(tmp_path, rows, (small,)))["systems"]["small"]
    assert (system["n"], system["errors"], system["metrics"]["f1"]["value"]) == (1, 0, 1.0)


def test_scores_are_those_of_the_scorers_of_now(tmp_path: Path) -> None:
    stale = row(SYSTEMS[0], 0, "word 0", 1.0, scores={"f1": 0.123}, cost=99.0)
    system = write_report(write_rows(tmp_path, [stale], SYSTEMS[:1]))["systems"]["small"]
    assert system["metrics"]["f1"]["value"] == 1.0
    assert system["cost_per_question"] == pytest.approx(0.0001)


def test_an_empty_run_reports_nothing_rather_than_zero(tmp_path: Path) -> None:
    report = write_report(write_rows(tmp_path, []))
    assert {m["value"] for s in report["systems"].values() for m in s["metrics"].values()} == {None}
    assert report["differences"] == []
    assert "Nothing was scored." in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "accuracy.svg").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        write_report(tmp_path)


def test_a_note_warns_of_different_machines_and_damage(tmp_path: Path) -> None:
    write_rows(tmp_path, golden_rows(), notes=("mind the gap",))
    state = json.loads((tmp_path / "run.json").read_text())
    state["systems"]["small"]["machine"]["cpu"] = "another"
    state["systems"]["small"]["stopped"] = "down\nMend it."
    (tmp_path / "run.json").write_text(json.dumps(state))
    with (tmp_path / "results.jsonl").open("a") as results:
        results.write('{"system": "sma')
    notes = write_report(tmp_path)["notes"]
    assert notes[0] == "mind the gap"
    assert notes[1].startswith("small stopped before its end: down")
    assert "different machines" in notes[2]
    assert notes[3].startswith("1 damaged lines")


def test_a_right_answer_costs_what_all_questions_cost(tmp_path: Path) -> None:
    report = write_report(write_rows(tmp_path, golden_rows()))
    small, retrieval = report["systems"]["small"], report["systems"]["small+retrieval"]
    # One of six is right at 0.0001 a question; of the other three of 15 seconds' worth, unanswerable ones included.
    assert small["cost_per_right"]["value"] == pytest.approx(0.0006)
    assert retrieval["cost_per_right"]["value"] == pytest.approx(0.0015 / 3)
    assert small["cost_per_right"]["high"] is None  # too often none is right
    assert retrieval["cost_per_right"]["low"] < 0.0005 < retrieval["cost_per_right"]["high"]


def test_right_falls_back_on_f1_and_a_failure_is_wrong(tmp_path: Path) -> None:
    assert rightness({"right": 0.0, "f1": 1.0}) == 0.0
    assert [rightness({"f1": f1}) for f1 in (0.5, 0.49)] == [1.0, 0.0]
    assert rightness({"f1": None, "right": None}) is None and rightness({}) is None
    rows = [row(SYSTEMS[0], 0, "", 9.0, abstained=False, error="down"), row(SYSTEMS[0], 1, "word 1", 1.0)]
    system = write_report(write_rows(tmp_path, rows, SYSTEMS[:1]))["systems"]["small"]
    assert system["metrics"]["right"]["value"] == 0.5
    assert system["cost_per_right"]["value"] == pytest.approx(0.0001)


def test_work_measured_is_what_is_paid_for_and_drawn(tmp_path: Path) -> None:
    # 3 core-seconds on 2 cores: the machine to itself for 1.5 s, at 0.0001 a second.
    work = Work(cpu_seconds=3.0, cores=2)
    report = write_report(write_rows(tmp_path, [row(SYSTEMS[0], 0, "word 0", 2.0, work=work)], SYSTEMS[:1]))
    small = report["systems"]["small"]
    assert small["cost_per_question"] == pytest.approx(0.00015)
    # 2 cores x 2 s x 0.74 W, and 3 s x 2.76 W.
    assert small["joules_per_question"]["value"] == pytest.approx(2.96 + 8.28)
    assert small["joules_per_question"]["kind"] == "estimated"
    measured = row(SYSTEMS[0], 0, "word 0", 2.0, work=work.model_copy(update={"joules": 20.0}))
    report = write_report(write_rows(tmp_path / "b", [measured], SYSTEMS[:1]))
    assert report["systems"]["small"]["joules_per_question"]["kind"] == "measured"
    assert report["systems"]["small"]["joules_per_question"]["value"] == 20.0


def test_watts_utilisation_and_size_of_the_row_count(tmp_path: Path) -> None:
    own = SystemRow(
        name="own",
        generator="tiny-model",
        retrieval=False,
        price_per_hour=0.36,
        utilisation=0.5,
        watts=Watts(idle=10.0, active=20.0),
        parameters=0.5,
        parameters_kind="known",
    )
    answer = row(own, 0, "word 0", 1.0, work=Work(cpu_seconds=1.0, cores=1))
    system = write_report(write_rows(tmp_path, [answer], (own,)))["systems"]["own"]
    assert system["cost_per_question"] == pytest.approx(0.0002)
    assert system["joules_per_question"]["value"] == 20.0
    assert system["joules_per_question"]["watts_per_core"] == {"idle": 10.0, "active": 20.0}
    # 2 x half a billion x (100 read + 4 written); without layers no quadratic term.
    assert system["flops_per_question"] == 104e9
    assert (system["parameters"], system["parameters_kind"]) == (500_000_000, "known")
    assert system["prices"] == {"price_per_hour": 0.36, "utilisation": 0.5}
    assert "$0.360 per hour, used 50% of the time" in (tmp_path / "report.md").read_text()


def test_latency_by_hand(tmp_path: Path) -> None:
    timings = [{"retrieve": 0.1, "read": 0.1 * (i + 1), "generate": 1.0, "total": 1.1} for i in range(3)]
    rows = [row(SYSTEMS[1], i, f"word {i}", 1.1 + i, timings=timings[i]) for i in range(3)]
    latency = write_report(write_rows(tmp_path, rows, SYSTEMS[1:]))["systems"]["small+retrieval"]["latency"]
    assert latency == {"first_token": {"p50": 0.3, "p95": 0.39}, "total": {"p50": 2.1, "p95": 3.0}}


ENDPOINT = SystemRow.model_validate(
    {
        "name": "gpt",
        "generator": {"endpoint": "https://api.openai.com/v1", "model": "gpt-4"},
        "retrieval": False,
        "parameters": 1760.0,
        "parameters_kind": "estimated",
    }
)


def test_an_endpoint_has_listed_prices_and_no_joules_of_ours(tmp_path: Path) -> None:
    rows = [row(SYSTEMS[0], 0, "word 0", 1.0), row(ENDPOINT, 0, "word 0", 1.0)]
    report = write_report(write_rows(tmp_path, rows, (SYSTEMS[0], ENDPOINT)))
    gpt = report["systems"]["gpt"]
    # 100 tokens at 30 and 4 at 60 dollars a million.
    assert gpt["cost_per_question"] == pytest.approx(0.00324)
    assert gpt["joules_per_question"] is None
    assert gpt["prices"]["price_per_million_prompt"] == 30.0 and "openai/gpt-4" in gpt["prices"]["source"]
    (even,) = report["break_even"]
    assert (even["local"], even["endpoint"], even["within_capacity"]) == ("small", "gpt", True)
    # 0.36 x 730 = 262.8 dollars a month; a second a question makes 2,628,000 of them.
    assert even["questions_a_month"] == pytest.approx(262.8 / 0.00324)
    assert even["capacity_a_month"] == pytest.approx(2_628_000)
    page = (tmp_path / "report.md").read_text()
    assert "The machine of `small` at $262.80 a month costs less than `gpt` from 81,111 questions a month on" in page


def test_pairs_are_tested_corrected_and_weighed(tmp_path: Path) -> None:
    third = SystemRow(name="third", generator="tiny-model", retrieval=False)
    rows = [*golden_rows(), *(row(third, i, f"word {i}", 1.0) for i in range(4))]
    report = write_report(write_rows(tmp_path, rows, (*SYSTEMS, third)))
    tests = {(d["a"], d["b"]): d for d in report["differences"] if d["metric"] == "right"}
    assert [(d["p"], d["discordant"]) for d in tests.values()] == [(0.5, [0, 2]), (0.25, [0, 3]), (1.0, [0, 1])]
    # Holm: 0.25 x 3, 0.5 x 2, 1.
    assert [d["p_holm"] for d in tests.values()] == [1.0, 0.75, 1.0]
    assert tests["small", "third"]["system"] == "third" and tests["small", "third"]["baseline"] == "small"
    power = report["power"]
    assert (power["metric"], power["alpha"], power["power"]) == ("right", 0.05, 0.8)
    assert [pair["n"] for pair in power["pairs"]] == [4, 4, 4]
    assert power["smallest_difference"] is None  # four questions show nothing
    assert power["pairs"][0]["discordant_rate"] == power["pairs"][0]["observed"] == 0.5
    # (1.95996 sqrt 0.5 + 0.84162 sqrt 0.25)^2 / 0.25 = 13.06
    assert (power["pairs"][0]["questions_needed"], power["pairs"][0]["more_needed"]) == (14, 10)
    assert [pair["shown"] for pair in power["pairs"]] == [False, False, False]
    assert power["questions_needed"] == max(pair["questions_needed"] for pair in power["pairs"])


def test_shared_documents_make_clusters_and_a_note(tmp_path: Path) -> None:
    one = [row(SYSTEMS[0], i, f"word {i}" if i < 2 else "no", 1.0, relevant=(f"d{i // 2}",)) for i in range(4)]
    report = write_report(write_rows(tmp_path, one, SYSTEMS[:1]))
    assert report["statistics"]["clusters"] == 4  # two pairs, and two questions without documents
    assert any("share documents and fall into 4 clusters" in note for note in report["notes"])


def test_the_six_fates_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fates = ["right_grounded", "right_grounded", "wrong_made_up", "abstained_rightly", "abstained_wrongly", None]
    monkeypatch.setattr(Row, "trust", property(lambda self: fates[int(self.question_id[1:])]), raising=False)
    system = write_report(write_rows(tmp_path, golden_rows()))["systems"]["small"]
    assert system["trust"] == {
        "right_grounded": 0.4,
        "right_remembered": 0.0,
        "wrong_misread": 0.0,
        "wrong_made_up": 0.2,
        "abstained_rightly": 0.2,
        "abstained_wrongly": 0.2,
    }
    assert system["grounded_right_rate"]["value"] == 0.4 and system["grounded_right_rate"]["n"] == 5
    assert "| right, by the cited text | 0.400 | 0.400 |" in (tmp_path / "report.md").read_text()


def test_the_small_model_is_weighed_against_the_ladder(tmp_path: Path) -> None:
    sizes = {"a": 0.1, "b": 1.0, "c": 10.0}
    rungs = [
        SystemRow(name=name, generator=name, retrieval=False, parameters=size, parameters_kind="known")
        for name, size in sizes.items()
    ]
    reader = SystemRow(name="r", generator="a", retrieval=True, parameters=0.1, parameters_kind="known")
    rows = [row(rung, i, f"word {i}" if i < place else "no", 1.0) for place, rung in enumerate(rungs) for i in range(4)]
    rows += [row(reader, i, f"word {i}", 1.0) for i in range(4)]
    scale = write_report(write_rows(tmp_path, rows, (*rungs, reader)))["scale"]
    assert [rung["accuracy"] for rung in scale["ladder"]] == [0.0, 0.25, 0.5]
    assert scale["systems"][0]["system"] == "r" and not scale["systems"][0]["supported"]
    assert scale["systems"][0]["says"] in (tmp_path / "report.md").read_text()


def test_retrieval_alone_is_reported_by_ndcg(tmp_path: Path) -> None:
    only = SystemRow(name="retrieval", retrieval=True, price_per_hour=0.36)
    rows = [row(only, number, "", 0.01, abstained=False, citations=()) for number in range(4)]
    report = write_report(write_rows(tmp_path, rows, (only,)))
    assert report["systems"]["retrieval"]["metrics"]["ndcg@10"]["value"] == 0.75
    assert report["systems"]["retrieval"]["metrics"]["f1"]["value"] is None
    page = (tmp_path / "report.md").read_text()
    assert "`retrieval` has the highest nDCG@10: 0.750" in page
    assert "no language model; with retrieval; $0.360 per hour" in page
    assert "One system alone" in page


def test_two_runs_are_compared_over_the_questions_in_common(tmp_path: Path) -> None:
    small = SYSTEMS[:1]
    a = write_rows(tmp_path / "a", [row(small[0], i, "word 0", 1.0) for i in range(4)], small)
    # Run B asked q0..q2, of them q2 in other words, and answered q1 rightly too.
    changed = {"q0": "digest 0", "q2": "other", "q1": "digest 1"}
    b = write_rows(tmp_path / "b", [row(small[0], i, f"word {i}", 1.0) for i in range(2)], small, questions=changed)
    (f1,) = compare_runs(a, b, ("f1",))
    assert (f1.system_a, f1.system_b, f1.metric, f1.questions) == ("small", "small", "f1", 2)
    # A: 1 and, with one of two words right, 0.5. B: 1 and 1.
    assert (f1.a.value, f1.b.value, f1.difference.value) == (0.75, 1.0, 0.25)
    assert (f1.difference.low, f1.difference.high, f1.difference.n) == (0.0, 0.5, 2)
    assert f1.to_json()["difference"] == {"value": 0.25, "low": 0.0, "high": 0.5, "n": 2}
    assert scored_metrics(a) == ("right", "exact_match", "f1", "contains", "rouge_l", "crag", "coverage")


def test_a_comparison_tells_chance_and_what_it_takes(tmp_path: Path) -> None:
    small = SYSTEMS[:1]
    a = write_rows(tmp_path / "a", [row(small[0], i, "no", 1.0) for i in range(4)], small)
    b = write_rows(tmp_path / "b", [row(small[0], i, f"word {i}" if i else "no", 1.0) for i in range(4)], small)
    (right,) = compare_runs(a, b, ("right",))
    told = right.to_json()
    # Three against none: 2 / 2^3.
    assert (told["p"], told["p_holm"], told["discordant"]) == (0.25, 0.25, [0, 3])
    # (1.95996 sqrt 0.75 + 0.84162 sqrt (0.75 - 0.5625))^2 / 0.5625 = 7.55
    assert (told["questions_needed"], told["more_needed"]) == (8, 4)
    assert not right.worse and worsened(a, b) == worsened(b, a) == []


def test_a_run_that_is_worse_beyond_chance_is_named(tmp_path: Path) -> None:
    small = SYSTEMS[:1]
    questions = {f"q{number}": f"digest {number}" for number in range(20)}
    good, bad = (
        write_rows(
            tmp_path / name,
            [row(small[0], i, answer, 1.0, answerable=True, gold=("word",), relevant=()) for i in range(20)],
            small,
            questions=questions,
        )
        for name, answer in (("good", "word"), ("bad", "no"))
    )
    reasons = worsened(good, bad)
    told = {reason.split(" is ")[0]: reason for reason in reasons}
    assert set(told) >= {"small: exact_match", "small: f1", "small: contains", "small: right"}
    assert "small: coverage" not in told
    assert f"is 0.000, worse than the 1.000 of {good} by 1.000" in told["small: f1"]
    assert worsened(bad, good) == []


def test_single_systems_are_compared_under_any_name(tmp_path: Path) -> None:
    a = write_rows(tmp_path / "a", [row(SYSTEMS[0], 0, "word 0", 1.0)], SYSTEMS[:1])
    b = write_rows(tmp_path / "b", [row(SYSTEMS[1], 0, "no", 1.0)], SYSTEMS[1:])
    (comparison,) = compare_runs(a, b, ("exact_match",))
    assert (comparison.system_a, comparison.system_b, comparison.difference.value) == ("small", "small+retrieval", -1.0)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    a = write_rows(tmp_path / "a", golden_rows())
    renamed = SystemRow(name="other", generator="m", retrieval=False)
    b = write_rows(tmp_path / "b", [], (renamed,))
    c = write_rows(tmp_path / "c", [], questions={"q0": "other words"})
    with pytest.raises(DataError, match="no metric 'f2'"):
        compare_runs(a, a, ("f2",))
    with pytest.raises(DataError, match="no system in common"):
        compare_runs(a, b, ("f1",))
    with pytest.raises(DataError, match="no question in common"):
        compare_runs(a, c, ("f1",))


def test_small_amounts_are_written_to_three_figures() -> None:
    assert [dollars(x) for x in (None, 0.0, 0.0000213, 0.0213, 0.36, 1.5, 1234.5)] == [
        "-",
        "$0",
        "$0.0000213",
        "$0.0213",
        "$0.360",
        "$1.50",
        "$1,234.50",
    ]
    assert per_thousand(0.0000213) == "$0.0213"
    assert [seconds(x) for x in (None, 0.0042, 3.14159)] == ["-", "4.2 ms", "3.14 s"]


def test_a_system_that_was_asked_few_of_the_questions_is_told_of_and_not_ranked(tmp_path: Path) -> None:
    few = [one for one in golden_rows() if one.system != SYSTEMS[1].name][:1]
    whole = [one for one in golden_rows() if one.system == SYSTEMS[1].name]
    report = write_report(write_rows(tmp_path, few + whole))
    said = f"{SYSTEMS[0].name} has rows for 1 of the {len(whole)} questions, so that the verdict leaves it out"
    assert said in report["notes"]
    assert report["verdict"][0].startswith(SYSTEMS[1].name) and "only system scored" in report["verdict"][0]


def test_where_nothing_can_be_answered_declining_decides(tmp_path: Path) -> None:
    rows = [
        row(system, i, "", 1.0, answerable=False, gold=(), relevant=(), abstained=declined)
        for system, declined in zip(SYSTEMS, (True, False), strict=True)
        for i in range(3)
    ]
    report = write_report(write_rows(tmp_path, rows))
    assert report["verdict"][0].startswith(f"{SYSTEMS[0].name} has the highest abstention recall, 100.0%")

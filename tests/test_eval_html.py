"""The page of a report: what it says, what it leaves out, and that nothing said by others becomes markup."""

import math
import os
import random
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.html import write_html
from eval.html_digest import Fact, digest, most_telling
from eval.markup import tag
from eval.measurements import rightness
from eval.plot import Point, pareto_front
from eval.question_types import question_type
from eval.report import write_report
from eval.results import ResultsWriter, Run, RunSystem, row_fingerprint, write_run
from eval.rows import CitedSpan, RankedDocument, Row, Tokens
from eval.selective import quantile_interval, risk_coverage, share_interval
from eval.system_row import Endpoint, SystemRow
from eval.verdict import verdict

MACHINE = {
    "cpu": "Test CPU 9000",
    "cores": 2,
    "memory_bytes": 8 * 2**30,
    "system": "Linux x86_64",
    "python": "3.11.9",
    "versions": {"smallhold": "0.1.0", "numpy": "2.2.0"},
}
EVIL = '"><script>window.hacked=1</script><img src=x onerror=window.hacked=1>'
GPT = Endpoint(endpoint="https://api.example.com/v1", model="large-model", api_key_env="KEY")

# Name, row, share right where the answer is known, seconds, whether it is sure of what it says.
MADE_UP = (
    (SystemRow(name="small", generator="qwen-0.5b", retrieval=False, price_per_hour=0.08), 0.18, 0.9),
    (SystemRow(name="large", generator="qwen-1.5b", retrieval=False, price_per_hour=0.08), 0.27, 2.2),
    (SystemRow(name="small+retrieval", generator="qwen-0.5b", retrieval=True, price_per_hour=0.08), 0.66, 1.8),
    (SystemRow(name="large+retrieval", generator="qwen-1.5b", retrieval=True, price_per_hour=0.08), 0.72, 5.1),
    (SystemRow(name="small+oracle", generator="qwen-0.5b", retrieval=True, price_per_hour=0.08), 0.81, 1.5),
    (
        SystemRow(
            name="gpt-4-recorded",
            generator=GPT,
            retrieval=False,
            price_per_million_prompt=30.0,
            price_per_million_completion=60.0,
        ),
        0.79,
        2.8,
    ),
)
STARTS = (
    "Who first described the",
    "When was the first",
    "Where lies the",
    "How many people saw the",
    "Why did the",
    "What is the",
    "In which year came the",
    "Name the",
    "How did the",
)
THINGS = "harbour lantern bridge ferry orchard charter museum comet treaty canal observatory mill lighthouse".split()


def made_up_run(out: Path, questions: int = 200, systems=MADE_UP, *, word: str = "") -> Path:
    """A run of systems that are right at their rates, more often where they are surer. `word` stands in every text."""
    out.mkdir(parents=True, exist_ok=True)
    entries = {
        system.name: RunSystem(
            fingerprint=system.name,
            row=system.model_dump(exclude_none=True),
            settings={"abstention": {"enabled": system.name.startswith("small")}},
            machine=MACHINE,
            date="2026-02-01T10:00:00+00:00",
        )
        for system, *_ in systems
    }
    answerable = sum(number % 4 != 3 for number in range(questions))
    data = {
        "name": f"made-up {word}".strip(),
        "kind": "short answers",
        "license": "CC0",
        "source": "made up by a test",
        "documents": 646,
        "questions": questions,
        "answerable": answerable,
        "unanswerable": questions - answerable,
        "retrieval_only": False,
        "digest": "d" * 12,
        "corpus_digest": "c" * 12,
    }
    write_run(out, Run(data=data, questions={f"q{i}": f"digest {i}" for i in range(questions)}, systems=entries))
    with ResultsWriter(out) as writer:
        for place, (system, rate, pace) in enumerate(systems):
            draw = random.Random(place)
            for number in range(questions):
                writer.append(_made_up_row(draw, system, number, rate, pace, word))
    return out


def _made_up_row(draw: random.Random, system: SystemRow, number: int, rate: float, pace: float, word: str) -> Row:
    thing = THINGS[number % len(THINGS)]
    answerable = number % 4 != 3
    gold = ("Ada Bell", f"{1800 + number}", f"the {thing} keeper of Norrin", f"it was {thing} " * 3)[number % 3]
    hard = random.Random(number).random()
    right = answerable and hard * 0.6 + draw.random() * 0.4 < rate
    confidence = min(0.99, max(0.01, (0.45 + 0.4 * right + draw.gauss(0, 0.18))))
    abstained = system.name.startswith("small+") and confidence < 0.35
    answer = "" if abstained else gold if right else f"Signe of the {thing} {word}".strip()
    seconds = pace * math.exp(draw.gauss(0, 0.4))
    quote = f"The {thing} was, as the letters of {1800 + number} say, {gold}; the harbour master kept the book. {word}"
    retrieves = system.retrieval
    recorded = isinstance(system.generator, Endpoint)
    return Row(
        system=system.name,
        question_id=f"q{number}",
        question=f"{STARTS[number % len(STARTS)]} {thing} of Norrin number {number} {word}".strip() + "?",
        answerable=answerable,
        gold=(gold,) if answerable else (),
        relevant=tuple(f"d{number + i}{word}" for i in range(1 + number % 3)) if answerable else (),
        generates=True,
        retrieves=retrieves,
        answer=answer,
        abstained=abstained,
        confidence=None if recorded else confidence,
        citations=(CitedSpan(document_id=f"d{number}{word}", span=(0, 9), text=quote),) if retrieves and answer else (),
        retrieved=tuple(
            RankedDocument(document_id=f"d{number + i - (draw.random() < 0.8)}{word}", score=1.0 - i / 10)
            for i in range(2)
        )
        if retrieves
        else (),
        usage=Tokens(prompt=900 if retrieves else 60, completion=12),
        seconds=0.0 if recorded else seconds,
        timings={} if recorded else {"retrieve": 0.02, "read": seconds * 0.4, "generate": seconds * 0.9},
        system_fingerprint=system.name,
        fingerprint=row_fingerprint(system.name, f"digest {number}"),
    )


def with_contract(report: dict[str, Any]) -> dict[str, Any]:
    """Put in the fields that other parts of the evaluation compute, with made-up numbers."""
    for place, system in enumerate(report["systems"].values()):
        f1 = system["metrics"]["f1"]
        system["metrics"]["right"] = dict(f1)
        per_question = system["cost_per_question"]
        value = per_question / f1["value"] if per_question and f1["value"] else None
        system["cost_per_right"] = None if value is None else {"value": value, "low": value * 0.85, "high": value * 1.2}
        system["joules_per_question"] = {"value": 12.5 * (place + 1), "kind": "estimated"}
        system["flops_per_question"] = 3.1e11 * (place + 1)
        right, rest = f1["value"] * 0.75, 1 - f1["value"] * 0.75
        grounded = right * 0.85 if system["retrieval"] else 0.0
        system["trust"] = {
            "right_grounded": grounded,
            "right_remembered": right - grounded,
            "abstained_rightly": rest * 0.15,
            "abstained_wrongly": rest * 0.05,
            "wrong_misread": rest * 0.2,
            "wrong_made_up": rest * 0.6,
        }
        system["grounded_right_rate"] = {"value": grounded, "low": max(0, grounded - 0.05), "high": grounded + 0.05}
        system["memorised_rate"] = {"value": 0.1, "low": 0.06, "high": 0.15, "n": 120} if place % 2 else None
        system["crag_score"] = {"value": right - rest, "low": right - rest - 0.1, "high": right - rest + 0.1}
    report["differences"] = [
        {
            "metric": "right" if d["metric"] == "f1" else d["metric"],
            "a": d["baseline"],
            "b": d["system"],
            "value": d["value"],
            "low": d["low"],
            "high": d["high"],
            "p": 0.004,
            "p_holm": 0.03 if abs(d["value"]) > 0.1 else 0.4,
            "n": d["n"],
            "discordant": [11, 25] if d["metric"] == "f1" else None,
        }
        for d in report["differences"]
        if d["metric"] in ("f1", "cost_per_question", "seconds")
    ]
    report["power"] = {
        "metric": "right",
        "smallest_difference": 0.083,
        "questions_needed": 1240,
        "pairs": [{"a": "small", "b": "large", "n": 150, "smallest_difference": 0.083, "more_needed": 1090}],
    }
    report["break_even"] = [
        {"local": "small+retrieval", "endpoint": "gpt-4-recorded", "questions_a_month": 18_400, "utilisation": 0.4}
    ]
    report["scale"] = {
        "times": 9.4,
        "low": 4.1,
        "high": None,
        "lower_bound": True,
        "ladder": [{"system": "small", "parameters": 494_000_000, "accuracy": 0.18}],
    }
    return report


class Structure(HTMLParser):
    """What a page is made of: its tags with their attributes, its text, and whether every element is closed."""

    void = frozenset({"meta", "br", "line", "circle", "rect", "polyline", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}


def page_of(out: Path, report: dict[str, Any]) -> str:
    write_html(out, report)
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = made_up_run(tmp_path_factory.mktemp("full"), 200)
    write_html(out, with_contract(write_report(out)))
    return out


def test_the_page_has_all_sections_in_order_and_is_well_formed(full: Path) -> None:
    page = Structure((full / "report.html").read_text())
    assert page.open == []
    sections = [attributes.get("id") for tag, attributes in page.tags if tag == "section"]
    assert sections == [
        "verdict",
        "systems",
        "plane",
        "trust",
        "questions",
        "risk",
        "latency",
        "disagreements",
        "cost",
        "differences",
        "power",
        "break_even",
        "scale",
        "setting",
    ]
    text = " ".join(page.words)
    assert "Left out" not in text.replace("Left out, because", "")
    assert "nan" not in text.lower().replace("finance", "").split()
    assert "None" not in text
    assert page.names & {"script", "img", "link", "iframe"} == set()


def test_the_page_asks_nobody_for_anything(full: Path) -> None:
    text = (full / "report.html").read_text()
    page = Structure(text)
    addresses = [a.get(name) for _, a in page.tags for name in ("src", "href", "srcset", "data")]
    assert all(address is None or address.startswith("#") for address in addresses)
    assert "url(" not in text and "@import" not in text
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def test_pictures_and_tables_say_what_they_are(full: Path) -> None:
    page = Structure((full / "report.html").read_text())
    pictures = [a for tag, a in page.tags if tag == "svg"]
    assert len(pictures) > 10
    assert all(a.get("aria-hidden") == "true" or (a.get("role") == "img" and a.get("aria-label")) for a in pictures)
    counts = [[tag for tag, _ in page.tags].count(name) for name in ("table", "caption")]
    assert counts[0] == counts[1] > 5
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_nothing_said_by_others_becomes_markup(tmp_path: Path) -> None:
    out = made_up_run(tmp_path, 12, word=EVIL)
    report = with_contract(write_report(out))
    report["notes"] = [f"a note {EVIL}"]
    report["machine"]["cpu"] = EVIL
    report["verdict"] = [EVIL, "second", "third"]
    report["scale"]["systems"] = [{"says": EVIL}]
    text = page_of(out, report)
    page = Structure(text)
    assert page.open == []
    assert page.names & {"script", "img"} == set()
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    # In the question, an answer, the document's id, the cited text: there, and escaped.
    assert text.count("&lt;script&gt;window.hacked=1&lt;/script&gt;") > 20
    assert "<script" not in text


def test_a_run_is_told_without_the_figures_that_nobody_computed(tmp_path: Path) -> None:
    out = made_up_run(tmp_path, 40, MADE_UP[2:4])
    report = write_report(out)
    del report["verdict"], report["power"]
    for system in report["systems"].values():
        system |= {"cost_per_right": None, "trust": None}
    text = " ".join(Structure(page_of(out, report)).words)
    assert "small+retrieval is right on" in text or "large+retrieval is right on" in text
    assert "What right answers cost is not known" in text
    assert "Left out: no answers were judged for being supported by the cited text." in text
    assert "Left out: the smallest difference that could be shown was not computed." in text
    assert "Handed the right documents" not in text


def test_an_empty_run_and_one_for_retrieval_alone_are_told_as_such(tmp_path: Path) -> None:
    empty = made_up_run(tmp_path / "empty", 0)
    text = " ".join(Structure(page_of(empty, write_report(empty))).words)
    assert "Nothing was scored" in text and "nan" not in text.lower().split()
    only = SystemRow(name="retrieval", retrieval=True)
    out = made_up_run(tmp_path / "only", 0, ((only, 0.0, 0.1),))
    state = Run.model_validate_json((out / "run.json").read_text())
    write_run(out, state.model_copy(update={"questions": {"q0": "digest 0"}}))
    with ResultsWriter(out) as writer:
        row = _made_up_row(random.Random(0), only, 0, 0.5, 0.1, "")
        writer.append(row.model_copy(update={"generates": False, "answer": "", "citations": ()}))
    text = " ".join(Structure(page_of(out, write_report(out))).words)
    assert "retrieval has the highest nDCG@10" in text
    assert "Left out: no answers were judged to be right or wrong." in text
    assert "Seconds in all" in text


def test_right_falls_back_to_f1_and_unscored_stays_unscored() -> None:
    assert rightness({"right": 0.0, "f1": 0.9}) == 0.0
    assert rightness({"f1": 0.5}) == 1.0
    assert rightness({"right": None, "f1": 0.49}) == 0.0
    assert rightness({"right": None, "f1": None}) is None


def fact(outcome: float | None, f1: float = 0.0) -> Fact:
    return Fact(outcome, outcome, f1, None, None, None)


def test_the_most_telling_questions_split_the_systems_evenly() -> None:
    facts = {
        "a": {0: fact(1.0), 1: fact(1.0), 2: fact(1.0), 3: fact(1.0), 4: fact(0.0)},
        "b": {0: fact(1.0), 1: fact(0.0), 2: fact(1.0), 3: fact(1.0, 1.0), 4: fact(None)},
        "c": {0: fact(1.0), 1: fact(0.0), 2: fact(0.0), 3: fact(0.0)},
        "d": {0: fact(1.0), 1: fact(0.0), 2: fact(0.0), 3: fact(0.0)},
    }
    # All right on 0 and none on 4; 2 and 3 split two to two, 3 with a spread of F1 besides; 1 splits one to three.
    assert most_telling(facts) == [3, 2, 1]
    assert most_telling(facts, most=1) == [3]


def test_the_digest_keeps_texts_of_few_questions_and_cuts_them(tmp_path: Path) -> None:
    out = made_up_run(tmp_path, 200, word="long " * 130)
    found = digest(out)
    assert len(found.disagreements) == 50
    assert all(len(one.question) <= 600 and len(one.said) == 6 for one in found.disagreements)
    assert all(len(q.text) <= 400 for one in found.disagreements for said in one.said for q in said.quotes)
    first = found.facts["small+retrieval"][0]
    recorded = found.facts["gpt-4-recorded"][0]
    assert recorded.total is None and recorded.first_token is None
    assert first.total is not None
    assert first.first_token == pytest.approx(0.02 + first.total * 0.4)


def test_an_abstention_on_an_unanswerable_question_is_the_right_outcome(tmp_path: Path) -> None:
    system = MADE_UP[2][0]
    out = made_up_run(tmp_path, 4, ((system, 0.0, 1.0),))
    rows = [_made_up_row(random.Random(0), system, 3, 0.0, 1.0, "")]
    with ResultsWriter(out) as writer:
        for row in rows:
            writer.append(row.model_copy(update={"abstained": True, "answer": ""}))
    assert digest(out).facts[system.name][3].outcome == 1.0
    with ResultsWriter(out) as writer:
        writer.append(rows[0].model_copy(update={"abstained": False, "answer": "yes"}))
    last = digest(out).facts[system.name][3]
    assert (last.outcome, last.right) == (0.0, None)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Who wrote it?", "who"),
        ("To whom was it sold?", "who"),
        ("When did it open?", "when"),
        ("In what year did it open?", "when"),
        ("Where is it?", "where"),
        ("In which country is it?", "where"),
        ("How many are there?", "how many"),
        ("how long does it take", "how many"),
        ("How does it work?", "how"),
        ("Why did it close?", "why"),
        ("What is it?", "what, which"),
        ("It was painted by which painter?", "what, which"),
        ("The tower has how many steps?", "how many"),
        ("Is it true that it was who he said?", "yes or no"),
        ("Name the ferry.", "other"),
        ("", "other"),
        ("???", "other"),
    ],
)
def test_questions_are_sorted_by_what_they_ask_for(question: str, kind: str) -> None:
    assert question_type(question) == kind


def test_risk_and_coverage_worked_by_hand() -> None:
    # Surest first: right, wrong, right, right. Risks 0, 1/2, 1/3, 1/4; their mean is 13/48.
    curve = risk_coverage(np.array([0.4, 0.9, 0.8, 0.2]), np.array([0.0, 0.0, 1.0, 0.0]), asked=5)
    assert curve is not None
    assert curve.points == ((0.2, 0.0), (0.4, 0.5), (0.6, pytest.approx(1 / 3)), (0.8, 0.25))
    assert curve.area == pytest.approx(13 / 48)
    assert (curve.risk, curve.n, curve.asked) == (0.25, 4, 5)
    assert 0 <= curve.low <= curve.area <= curve.high <= 1


def test_a_confidence_that_says_nothing_has_the_area_of_its_errors() -> None:
    curve = risk_coverage(np.full(4, 0.7), np.array([1.0, 0.0, 0.0, 0.0]), asked=4)
    assert curve is not None and curve.area == pytest.approx(0.25)
    assert risk_coverage(np.array([]), np.array([]), asked=4) is None


def test_intervals_of_shares_and_quantiles() -> None:
    # Wilson for 8 of 10, as tables have it; a share of 0 still has a width: z^2 / (n + z^2).
    assert share_interval(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    low, high = share_interval(0, 10)
    assert low == 0.0 and high == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    # Binomial(10, 1/2): P(X <= 1) = 0.011, so the ranks 2 and 9 hold the median with 97.9%.
    assert quantile_interval(np.arange(1.0, 11.0), 0.5) == (2.0, 9.0)
    assert quantile_interval(np.arange(1.0, 11.0), 0.95)[1] is None
    assert quantile_interval(np.array([]), 0.5) == (None, None)


def test_the_front_is_what_nothing_beats() -> None:
    def at(name: str, cost: float, accuracy: float) -> Point:
        return Point(name, (cost, cost, cost), (accuracy, accuracy, accuracy))

    points = [at("dear", 9.0, 0.8), at("cheap", 1.0, 0.5), at("beaten", 5.0, 0.5), at("tied", 1.0, 0.4)]
    assert [point.name for point in pareto_front(points)] == ["cheap", "dear"]
    assert pareto_front([]) == []


def test_elements_escape_whatever_is_no_markup() -> None:
    assert tag("td", "<b>", tag("i", "&"), None, 3, title='"x"', open=True, hidden=False) == (
        '<td title="&#34;x&#34;" open="">&lt;b&gt;<i>&amp;</i>3</td>'
    )
    assert tag("line", x1=1.0, stroke_width=1.25, class_="a") == '<line x1="1" stroke-width="1.25" class="a"/>'


def system_figures(right: float, cost: float | None, per_right: float | None, **more: Any) -> dict[str, Any]:
    return {
        "metrics": {
            "right": {"value": right, "low": right - 0.05, "high": right + 0.05, "n": 400},
            "f1": {"value": right, "low": right, "high": right, "n": 400},
        },
        "cost_per_question": cost,
        "cost_per_right": None
        if per_right is None
        else {"value": per_right, "low": per_right * 0.9, "high": per_right * 1.1},
        **more,
    }


def figures_of(p: float, value: float = 0.1) -> dict[str, Any]:
    return {
        "systems": {
            "big": system_figures(0.8, 0.0021, 0.0026),
            "small": system_figures(0.8 - value, 0.00005, 0.00007),
        },
        # b minus a, as everywhere.
        "differences": [
            {
                "metric": "right",
                "a": "big",
                "b": "small",
                "value": -value,
                "low": -value - 0.05,
                "high": 0.05 - value,
                "p": p / 2,
                "p_holm": p,
                "n": 400,
                "discordant": [60, 20],
            }
        ],
    }


def test_the_verdict_trades_accuracy_for_cost_where_both_differ() -> None:
    first, second, third = verdict(figures_of(0.004))
    assert first == (
        "big is right on 80.0% of 400 questions (95% interval 75.0% to 85.0%), 10.0 points more than the next best, "
        "small (95% interval +5.0 to +15.0, p after Holm = 0.004): more than chance."
    )
    assert second == (
        "1,000 right answers of big cost $2.60 ($2.34 to $2.86), 37 times that of the cheapest, small, at $0.0700 "
        "($0.0630 to $0.0770), more than chance, and small is 10.0 points less accurate (95% interval +5.0 to +15.0, "
        "p after Holm = 0.004), more than chance."
    )
    # 0.00205 dollars a question more for a tenth of a right answer more.
    assert third == "Take big where one more right answer is worth $0.0205 to you, else small, which costs less."


def test_the_verdict_takes_the_cheaper_one_where_no_difference_is_shown() -> None:
    report = figures_of(0.3)
    report["power"] = {
        "metric": "right",
        "smallest_difference": 0.2,
        "pairs": [{"a": "big", "b": "small", "n": 400, "smallest_difference": 0.123}],
    }
    first, second, third = verdict(report)
    assert "but its lead of 10.0 points on small may be chance" in first
    assert second.endswith("which may be chance.")
    assert third == (
        "Take small: its right answers cost less, $0.0700 ($0.0630 to $0.0770) for 1,000, and these questions do not "
        "show it to be less accurate than big; they do not show it to be as accurate either "
        "(400 questions cannot show a difference below about 12.3 "
        "points)."
    )


def test_the_verdict_keeps_to_what_can_be_had_and_is_known() -> None:
    report = figures_of(0.004)
    report["systems"]["small+oracle"] = system_figures(0.95, 0.00001, 0.00001)
    assert "oracle" not in " ".join(verdict(report))
    report["systems"]["big"]["cost_per_right"] = None
    assert verdict(report)[1] == (
        "What right answers of big cost is not known; of the others small is the cheapest, at $0.0700 "
        "($0.0630 to $0.0770)."
    )
    assert verdict(report)[2] == "Take big: it is the most accurate."
    report["systems"] = {"big": report["systems"]["big"]}
    assert verdict(report)[2].startswith("One system alone decides nothing")
    assert len(verdict({"systems": {}})) == 3


FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SHOTS = os.environ.get("SMALLHOLD_PAGE_SHOTS")  # a folder for screenshots, for people to look at


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium was found: install one (Debian: apt-get install chromium) to test the page")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_its_screen_and_needs_nothing(browser: Any, full: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    address = (full / "report.html").as_uri()
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("svg:visible").count() > 8
    assert page.evaluate(CONTRAST) == []
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.reload()
        page.screenshot(path=str(Path(SHOTS) / f"report-{width}-{scheme}.png"))
    context.close()
    assert complaints == []
    assert set(requests) == {address}


# Lists the texts whose colour differs too little from the first opaque background behind them (WCAG 2 AA: 4.5).
CONTRAST = """() => {
  const numbers = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    const bar = element.tagName === "text" && element.parentElement.querySelector("rect[fill^='var(--']");
    if (bar && element.getAttribute("fill")) return numbers(getComputedStyle(bar).fill);
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || e.tagName === "title" || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const ink = numbers(e.tagName === "text" ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${text.slice(0, 40)}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
  }
  return low;
}"""

"""The page of a report: what it says, what it leaves out, and that nothing said by others becomes markup."""

import math
import random
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.cost import question_cost
from eval.html import write_html
from eval.html_digest import Fact, digest, most_telling, right_of
from eval.markup import tag
from eval.plot import Point, pareto_front
from eval.question_types import question_type
from eval.report import write_report
from eval.results import ResultsWriter, Run, RunSystem, row_fingerprint, write_run
from eval.rows import CitedSpan, RankedDocument, Row, Tokens
from eval.selective import quantile_interval, risk_coverage, share_interval
from eval.systems import Endpoint, SystemRow
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

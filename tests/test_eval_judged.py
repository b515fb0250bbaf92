"""Judged answers and how far scorers agree with them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from eval import cli_scorers
from eval.agreement import (
    Embedded,
    agreement_and_kappa,
    agreement_table,
    best_threshold,
    learn_rule,
    text_scorers,
)
from eval.judged import JudgedAnswer, load_judged, option_lists
from eval.results import ResultsWriter, Run, RunSystem, row_fingerprint, write_run
from eval.right import load_rule, shipped_rule
from eval.rows import Row
from rag.errors import ConfigError, DataError
from rag.protocols import FloatArray
from tests.conftest import SHARED

EVOUNA: list[dict[str, Any]] = [
    {"question": "Where?", "golden_answer": "Lyon/Lyons/", "answer_a": "In Lyon.", "judge_a": True, "answer_b": "Nice",
     "judge_b": False, "improper": False},
    {"question": "When?", "golden_answer": "1652", "answer_a": "1653", "judge_a": False, "answer_b": "1652",
     "judge_b": "nan"},
]  # fmt: skip


def write_json(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def write_set(folder: Path, recorded: list[dict[str, Any]]) -> Path:
    (folder / "recorded").mkdir(parents=True)
    question = {"id": "q", "question": "Where?", "answers": ["Lyon"], "answerable": True, "relevant": []}
    (folder / "corpus.jsonl").write_text('{"id": "d", "title": "", "text": "x"}\n')
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")
    write_json(folder / "meta.json", {"name": "n", "kind": "k", "license": "l", "source": "s"})
    (folder / "recorded" / "big.jsonl").write_text("".join(json.dumps(row) + "\n" for row in recorded))
    return folder


def test_of_a_run_the_answers_that_count_are_compared(tmp_path: Path) -> None:
    system = RunSystem(fingerprint="new", row={"name": "s", "retrieval": False, "generator": "m"}, machine={}, date="")
    write_run(tmp_path, Run(data={}, questions={"q0": "d", "q1": "d"}, systems={"s": system}))
    with ResultsWriter(tmp_path) as writer:
        for fingerprint, id_, answer in (
            ("old", "q1", "Nice"),
            ("new", "q1", "Lille"),
            ("new", "q1", "Lyon"),
            ("old", "q0", "Metz"),
        ):
            writer.append(
                Row(
                    system="s", question_id=id_, question="Where?", answerable=True, gold=("Lyon",), relevant=(),
                    generates=True, retrieves=False, answer=answer, human_right=answer == "Lyon",
                    system_fingerprint=fingerprint, fingerprint=row_fingerprint(fingerprint, "d"),
                )
            )  # fmt: skip
    assert load_judged(tmp_path) == [JudgedAnswer(1, "s", "Where?", ("Lyon",), "Lyon", True)]


def many(count: int = 60) -> list[JudgedAnswer]:
    """Right and wrong in turns; the right ones in a sentence."""
    return [
        JudgedAnswer(
            i, "ab"[i % 4 // 2], f"Where is {i}?", ("Lyon",), "It is in Lyon." if i % 2 else "Nice", i % 2 == 1
        )
        for i in range(count)
    ]


def test_evouna_is_read_and_what_nobody_judged_is_passed_over(tmp_path: Path) -> None:
    assert load_judged(write_json(tmp_path / "e.json", EVOUNA)) == [
        JudgedAnswer(0, "a", "Where?", ("Lyon", "Lyons"), "In Lyon.", True),
        JudgedAnswer(0, "b", "Where?", ("Lyon", "Lyons"), "Nice", False),
        JudgedAnswer(1, "a", "When?", ("1652",), "1653", False),
    ]


def test_recorded_answers_of_a_set_are_read(tmp_path: Path) -> None:
    row = {"id": "q", "answer": "Lyon", "judged_right": True}
    folder = write_set(tmp_path / "s", [row, {**row, "judged_right": None}])
    assert load_judged(folder) == [JudgedAnswer(0, "big", "Where?", ("Lyon",), "Lyon", True)]
    with pytest.raises(DataError, match=r"big.jsonl:1: the id of a question"):
        load_judged(write_set(tmp_path / "t", [{**row, "id": "other"}]))


def test_sources_without_verdicts_are_refused(tmp_path: Path) -> None:
    for source, words in (
        (tmp_path, "holds no judged answers"),
        (write_json(tmp_path / "o.json", {}), "a list of questions"),
        (write_json(tmp_path / "l.json", [{}]), r"\[0\]: the key 'question'"),
        (write_json(tmp_path / "n.json", EVOUNA[:0]), "no answer has a person's verdict"),
    ):
        with pytest.raises(DataError, match=words):
            load_judged(source)


def test_agreement_and_kappa_by_hand() -> None:
    # 20 both, 5 scorer alone, 10 people alone, 15 neither: observed 0.7, expected 0.5 x 0.6 + 0.5 x 0.4 = 0.5.
    agreement, kappa = agreement_and_kappa(np.array([[20.0, 5, 10, 15], [4, 0, 0, 0]]))
    assert agreement == pytest.approx([0.7, 1.0])
    assert kappa == pytest.approx([0.4, 0.0])  # all right by both: chance alone explains it


def test_the_table_has_every_scorer_and_system() -> None:
    table = agreement_table(many(), shipped_rule(), text_scorers(), judge=lambda a: 0.9 if a.place < 30 else None)
    found = {(row.scorer, row.system): row for row in table}
    assert [row.scorer for row in table[::3]] == ["right", "exact_match", "contains", "f1", "rouge_l", "judge"]
    right, exact = found["right", "all"], found["exact_match", "all"]
    assert (right.agreement, right.kappa, right.low, right.n, right.unscored) == (1.0, 1.0, 1.0, 60, 0)
    assert (exact.agreement, exact.kappa) == (0.5, 0.0)  # calls everything wrong
    assert exact.low is not None and exact.low < 0.5
    assert (found["judge", "all"].n, found["judge", "all"].unscored, found["judge", "all"].agreement) == (30, 30, 0.5)


class Letters:
    """Counts of a and b, at unit length."""

    def embed(self, texts: Sequence[str]) -> FloatArray:
        counts = np.array([[text.count("a"), text.count("b")] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)  # type: ignore[no-any-return]


def test_similarity_joins_the_table_where_there_is_an_embedder() -> None:
    answers = [JudgedAnswer(0, "x", "?", ("aa",), "a", True), JudgedAnswer(1, "x", "?", ("aab",), "b", False)]
    scorers = text_scorers(Embedded(Letters(), answers))
    assert [scorers["similarity"](a) for a in answers] == pytest.approx([1.0, 1 / np.sqrt(5)])


def test_the_best_threshold() -> None:
    # From 0.4 on: 4 of 5 as people have it; from 0.2 on only 3, from 0.9 on 3.
    assert best_threshold([0.1, 0.2, 0.4, 0.5, 0.9, None], [False, False, True, False, True, True]) == 0.4


def test_option_lists_hold_the_right_answer_among_others_of_its_kind() -> None:
    answers = [JudgedAnswer(i, "a", "Where?", (f"Town{chr(65 + i)}",), "", False) for i in range(20)]
    lists = option_lists(answers)
    assert len(lists) == 20 and lists == option_lists(answers)
    for answer, made in zip(answers, lists, strict=True):
        assert answer.gold[0] in made.answer and made.answer.count("Town") in (4, 6, 8, 12) and not made.right


def app() -> typer.Typer:
    main = typer.Typer()
    cli_scorers.add_commands(main)
    return main


def test_the_command_prints_and_learns(tmp_path: Path) -> None:
    rows = [{"question": a.question, "golden_answer": "Lyon", "answer_x": a.answer, "judge_x": a.right} for a in many()]
    source = write_json(tmp_path / "e.json", rows)
    learnt = CliRunner().invoke(app(), ["judged", str(source), "--fit", "--out", str(tmp_path / "r.toml"), "--json"])
    told = json.loads(learnt.stdout)
    assert load_rule(tmp_path / "r.toml").fitted_on == "60 judged answers of e.json"
    assert told["agreement"][0]["scorer"] == "right" and told["agreement"][0]["agreement"] == 1.0
    shown = CliRunner().invoke(app(), ["judged", str(source), "--rule", str(tmp_path / "r.toml")])
    assert "right" in shown.stdout and "rouge_l" in shown.stdout
    refused = CliRunner().invoke(app(), ["judged", str(source), "--fit"])
    assert isinstance(refused.exception, ConfigError)


@pytest.mark.shared
def test_the_shipped_rule_is_what_the_first_thousand_questions_teach_and_agrees_on_the_others() -> None:
    source = SHARED / "judged" / "triviaqa-judged.json"
    if not source.is_file():
        pytest.skip(f"there is no {source}")
    answers = load_judged(source)
    learnt = learn_rule([a for a in answers if a.place < 1000], fitted_on="", scorers={}, kept={})
    assert learnt.weights == pytest.approx(shipped_rule().weights, abs=0.01)
    others = [a for a in answers if a.place >= 1000]
    for row in agreement_table(others, shipped_rule(), {}):
        assert row.agreement is not None and row.agreement >= 0.94, row

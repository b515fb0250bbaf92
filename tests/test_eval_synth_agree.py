"""Whether two sets rank systems alike, and the commands of `eval synth`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eval.cli import make_app
from eval.results import Run, RunSystem, encode_row, row_fingerprint, write_run
from eval.rows import Row
from eval.synth import Source
from eval.synth_agree import Agreement, agreement, kendall
from rag.config import Settings
from rag.errors import DataError
from tests.test_eval_synth import Writer, source


def run_of(folder: Path, answers: dict[str, list[bool]]) -> Path:
    """A run in which each system was right or wrong on each question."""
    folder.mkdir()
    rows = [
        Row(
            system=name,
            question_id=f"q{i}",
            question="?",
            answerable=True,
            gold=("mill",),
            relevant=(),
            generates=True,
            retrieves=False,
            answer="mill" if right else "ford",
            system_fingerprint=name,
            fingerprint=row_fingerprint(name, "digest"),
        )
        for name, rights in answers.items()
        for i, right in enumerate(rights)
    ]
    (folder / "results.jsonl").write_bytes(b"".join(map(encode_row, rows)))
    systems = {
        name: RunSystem(fingerprint=name, row={"name": name, "generator": "g", "retrieval": False}, machine={}, date="")
        for name in answers
    }
    questions = {f"q{i}": "digest" for i in range(4)}
    write_run(folder, Run(data={"name": "s"}, questions=questions, systems=systems))
    return folder


def right(count: int) -> list[bool]:
    return [i < count for i in range(4)]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    synthetic = {"a": right(1), "b": right(2), "c": right(3), "d": right(4), "only": right(0)}
    human = {"d": right(3), "a": right(1), "b": right(0), "c": right(2)}
    return run_of(tmp_path / "synthetic", synthetic), run_of(tmp_path / "human", human)


def test_tau_counts_pairs_in_the_same_order(runs: tuple[Path, Path]) -> None:
    (found,) = agreement(*runs, ("f1",))
    assert found.systems == {"a": (0.25, 0.25), "b": (0.5, 0.0), "c": (0.75, 0.5), "d": (1.0, 0.75)}
    assert found.tau == pytest.approx((5 - 1) / 6)  # of six pairs only a and b are swapped
    # Of the 24 orders 4 have at most one swap, and as many at most one pair in order: p = 8 / 24.
    assert found.p == pytest.approx(8 / 24)
    assert "4 systems are few" in found.warning and "once in 24" in found.warning
    assert "moves tau by 0.33" in found.warning  # one pair of six from right to wrong


def test_ties_and_lone_systems_have_no_order() -> None:
    assert kendall([1, 2, 2], [1, 2, 3])[0] == pytest.approx(2 / 6**0.5)  # tau-b: 2 of sqrt(2 * 3)
    assert kendall([1, 1], [1, 2]) == kendall([1], [1]) == (None, None)
    assert "no order" in Agreement("f1", {"a": (1, 1)}, None, None).warning
    many = {str(i): (float(i), float(i)) for i in range(10)}
    assert Agreement("f1", many, 1.0, 0.0).warning == ""


def test_runs_without_a_common_system_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no system in common"):
        agreement(runs[0], run_of(tmp_path / "other", {"x": right(1)}))
    with pytest.raises(DataError, match="no metric 'beauty'"):
        agreement(*runs, ("beauty",))


@pytest.fixture
def app() -> typer.Typer:
    @contextmanager
    def open_source(path: Path, settings: Settings) -> Iterator[Source]:
        assert settings.generator.model == "large" if path.name == "large" else True
        yield source(Writer(stop_after=3 if path.name == "cut" else 10**9))

    main = typer.Typer()
    main.add_typer(make_app(lambda *_: pytest.fail("no system is run"), open_source=open_source), name="eval")
    return main


def invoke(app: typer.Typer, *args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["eval", "synth", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def test_make_is_the_default_and_says_what_survived(app: typer.Typer, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "set", "--questions", 2, "--seed", 3)
    result = invoke(app, tmp_path / "docs", *options)
    line = next(line for line in result.stdout.splitlines() if "self_contained" in line)
    assert "%" in line and "2 of " in result.stdout
    assert "review.html" in result.stderr
    report = json.loads(invoke(app, "make", tmp_path / "docs", *options, "--json").stdout)
    assert report["kept"] == 2
    assert invoke(app, "--out", tmp_path / "set", "--questions", 2, "--seed", 3, tmp_path / "docs")


def test_too_few_questions_are_a_failed_check(app: typer.Typer, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "set", "--questions", 3, "--max-attempts", 1, "--model", "large")
    assert "of 3 questions passed" in invoke(app, tmp_path / "large", *options, code=1).stderr


def test_an_interruption_says_how_to_go_on(app: typer.Typer, tmp_path: Path) -> None:
    result = invoke(app, tmp_path / "cut", "--out", tmp_path / "set", code=130)
    assert "goes on from there" in result.stderr


def test_apply_and_agree_speak_plainly(app: typer.Typer, runs: tuple[Path, Path], tmp_path: Path) -> None:
    invoke(app, tmp_path / "docs", "--out", tmp_path / "set", "--questions", 2, "--seed", 3)
    first = json.loads((tmp_path / "set" / "questions.jsonl").read_text().splitlines()[0])
    decision = {"id": first["id"], "question": first["question"], "decision": "strike"}
    (tmp_path / "said.json").write_text(json.dumps({"set": "set", "decisions": [decision]}))
    told = invoke(app, "apply", tmp_path / "set", tmp_path / "said.json").stdout
    assert "0 accepted, 1 struck, 1 questions left" in told
    agreed = invoke(app, "agree", *runs, "--metric", "f1")
    assert "+0.67" in agreed.stdout and "4 systems are few" in agreed.stderr
    assert json.loads(invoke(app, "agree", *runs, "--metric", "f1", "--json").stdout)[0]["n"] == 4


@pytest.mark.parametrize("command", ["make", "apply", "agree"])
def test_help_teaches_with_an_example(app: typer.Typer, command: str) -> None:
    assert "Example: smallhold eval synth" in invoke(app, command, "--help").stdout

"""`smallhold calibrate` over a fake pipeline: what it asks, what it keeps, and what it says."""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval.qaset import QASet
from eval.system_row import SystemRow
from eval.systems import OpenSystem, PipelineSystem
from rag import cli_eval
from rag.abstain import load_abstention
from rag.cli import app
from rag.config import Settings
from rag.datatypes import Answer, Message, ScoredChunk
from rag.errors import DataError, IndexMissing, Unavailable


class FakeSystems:
    """Opens a pipeline that is right in three of four cases and surer then; remembers how it was opened."""

    def __init__(self) -> None:
        self.opened: list[tuple[SystemRow, Settings, Path | None]] = []
        self.asked: list[str] = []
        self.missing = False

    def __call__(
        self, qaset: QASet, settings: Settings, out: Path, cache: Path | None = None, index: Path | None = None
    ) -> OpenSystem:
        @contextmanager
        def open_system(row: SystemRow) -> Iterator[PipelineSystem]:
            if self.missing:
                raise Unavailable("no weights", hint="Fetch them.")
            self.opened.append((row, row.apply(settings), index))
            yield PipelineSystem("weights", lambda: self)

        return open_system

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        self.asked.append(question)
        draw = random.Random(question)
        right = draw.random() < 0.75
        signals = {"cosine": min(1.0, 0.3 + 0.5 * right + draw.uniform(-0.1, 0.1)), "coverage": 0.5, "grounding": 1.0}
        text = question.removeprefix("What is ") if right else "nonsense"
        return Answer(text, signals={**signals, "echo": 0.0, "first_logprob": -0.1, "mean_logprob": -0.1})

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        return []


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeSystems:
    fake = FakeSystems()
    monkeypatch.setattr(cli_eval, "open_systems", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def qa_set(folder: Path, count: int, *, begin: int = 0, answers: bool = True) -> Path:
    folder.mkdir(parents=True)
    questions = [
        {
            "id": f"q{i}",
            "question": f"What is word{begin + i}",
            "answers": [f"word{begin + i}"] if answers else [],
            "answerable": True,
            "relevant": ["d"],
        }
        for i in range(count)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "corpus.jsonl").write_text(json.dumps({"id": "d", "title": "", "text": "Words."}) + "\n")
    meta = {"name": folder.name, "kind": "k", "license": "l", "source": "s"}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def calibrate(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_asks_fits_writes_and_says_what_it_can_promise(systems: FakeSystems, tmp_path: Path) -> None:
    done = calibrate("--data", qa_set(tmp_path / "mine", 110), "--out", "own.toml")
    assert len(systems.asked) == 110
    ((row, settings, index),) = systems.opened
    assert (row.generator, row.retrieval, index) == (Settings().generator.model, True, None)
    assert (settings.abstention.enabled, settings.abstention.file) == (False, None)
    promise = load_abstention(tmp_path / "own.toml").promise
    assert promise is not None
    assert promise.settings["generator.model"] == Settings().generator.model
    rung = promise.rung(0.2)
    assert rung is not None
    assert f"at most 20% wrong while answering {promise.coverage(rung):.0%} of the questions" in done.stdout
    assert (
        "at most 5% wrong: not attainable: it takes 59 tested answers without a mistake, and there were 55"
        in done.stdout
    )
    assert "own.toml" in done.stderr


def test_the_same_command_goes_on_where_it_stopped(systems: FakeSystems, tmp_path: Path) -> None:
    data = qa_set(tmp_path / "mine", 160)
    calibrate("--data", data, "--out", "own.toml", "--limit", 100)
    systems.asked.clear()
    told = json.loads(calibrate("--data", data, "--out", "own.toml", "--json").stdout)
    assert len(systems.asked) == 60
    assert (told["file"], told["answers"]) == ("own.toml", 160)
    assert [target["risk"] for target in told["targets"]] == [0.05, 0.1, 0.2, 0.3]


def test_sets_of_one_name_are_kept_apart_and_an_index_of_ones_own_is_asked(
    systems: FakeSystems, tmp_path: Path
) -> None:
    one, other = qa_set(tmp_path / "a" / "set", 60), qa_set(tmp_path / "b" / "set", 60, begin=60)
    calibrate(
        "--data", one, "--data", other, "--out", "own.toml", "--index", "notes", "--model", "m.gguf", "--runs", "r"
    )
    assert len(set(systems.asked)) == 120
    assert [(row.generator, index) for row, _, index in systems.opened] == [("m.gguf", Path("notes"))] * 2
    assert len([folder for folder in (tmp_path / "r").iterdir() if folder.name.startswith("set-")]) == 2


def test_settings_that_withhold_do_not_reach_the_run(systems: FakeSystems, tmp_path: Path) -> None:
    """The file that is being made is often the one that the settings name already."""
    (tmp_path / "smallhold.toml").write_text('[abstention]\nfile = "own.toml"\nrisk = 0.1\n[evidence]\npassages = 2\n')
    calibrate("--data", qa_set(tmp_path / "mine", 160), "--out", "own.toml")
    ((_, settings, _),) = systems.opened
    assert (settings.abstention.risk, settings.abstention.file, settings.evidence.passages) == (None, None, 2)
    promise = load_abstention(tmp_path / "own.toml").promise
    assert promise is not None and promise.settings["evidence.passages"] == 2


def test_what_cannot_be_calibrated_on_is_told_before_anything_is_asked(systems: FakeSystems, tmp_path: Path) -> None:
    good, without = qa_set(tmp_path / "good", 60), qa_set(tmp_path / "without", 60, answers=False)
    with pytest.raises(DataError, match="without has no answers"):
        calibrate("--data", good, "--data", without, "--out", "own.toml")
    with pytest.raises(DataError, match="9 questions are too few to calibrate on: it takes 50"):
        calibrate("--data", qa_set(tmp_path / "few", 9), "--out", "own.toml")
    assert systems.asked == []
    systems.missing = True
    with pytest.raises(Unavailable, match="no weights"):
        calibrate("--data", good, "--out", "own.toml")
    assert not (tmp_path / "own.toml").exists()


def test_an_index_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="nowhere"):
        cli_eval._published(tmp_path / "nowhere")

"""`smallhold models tune` from its options to the file in effect; once with llama.cpp, else with a made-up machine."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.tune import Measurer, Plan
from eval.tune_choice import REGISTRY, Candidate, Shape
from eval.tune_lookup import Guesses
from eval.tune_notes import Notes
from eval.tune_tasks import Task, best_passage, given_passages
from eval.tune_workbench import Workbench
from rag import cli_tune
from rag.build import build_generator, local_model, model_store
from rag.cli_tune import Prepared, Wishes, prepare, reset, tune
from rag.cli_tune_show import outcome_json, outcome_lines, outcome_table, plan_json, plan_lines
from rag.config import Settings, load_settings
from rag.datatypes import Chunk, Document, Message, Sampling, Span
from rag.errors import DataError, InvalidRequest, Unavailable
from rag.models import ModelStore
from rag.probe import Finding
from rag.prompt import load_prompt
from rag.registry import ModelSpec, Registry
from rag.speed import Sample
from rag.tuned import find_tuned
from rag.tuning import Tuning
from tests.conftest import REPOSITORY, located

EXAMPLES = REPOSITORY / "examples" / "qa"
CONTENT = b"the registry's"


def quiet(stage: str, done: int, total: int) -> None:
    pass


class Copier:
    """Stands for `Quantizer`: makes a file that names its quantization."""

    own = "Q4_1"

    def about_bytes(self, name: str) -> int:
        return 1000

    def make(self, name: str, out: Path, done: Callable[[int], None]) -> None:
        out.write_bytes(name.encode())
        done(len(name))


class Machine:
    """Stands between search and machine: files are made for real, seconds and answers are made up."""

    def __init__(self, bench: Workbench, *, interrupted: bool = False) -> None:
        self.bench = bench
        self.interrupted = interrupted

    def speed(self, candidate: Candidate) -> Sample:
        assert self.bench.file(candidate.quantization).is_file()
        return Sample(1.0 if candidate.quantization == "Q8_0" else 2.0, 0.5)

    def f1(self, candidate: Candidate, question: int) -> float:
        if self.interrupted:
            raise KeyboardInterrupt
        return 1.0

    def steps(self, candidate: Candidate, widths: Sequence[int]) -> Mapping[int, float]:
        return dict.fromkeys(widths, 0.03)  # guesses cost nothing

    def guesses(self, candidate: Candidate, question: int) -> Guesses:
        return Guesses(4, candidate.tuning.lookup, 1)

    def drop(self, quantization: str) -> None:
        self.bench.drop(quantization)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    (tmp_path / "w.gguf").write_bytes(CONTENT)
    spec = ModelSpec.model_validate(
        {
            "name": "m", "kind": "generator", "license": "Apache-2.0", "about": "",
            "files": [{"path": "m.gguf", "sha256": hashlib.sha256(CONTENT).hexdigest()}],
            "source": [{"path": str(tmp_path / "w.gguf")}],
        }
    )  # fmt: skip
    store = ModelStore(Registry(model=(spec,)), tmp_path / "store")
    plan = Plan(("Q4_0", "Q8_0"), [], [], [], Shape(256, 8, 16), ("q0", "q1"), np.arange(2))
    return Prepared(
        model=store.locate("m"),
        store=store,
        settings=load_settings(),
        quantizer=Copier(),  # type: ignore[arg-type]
        tasks=[],
        plan=plan,
        data="made up",
        keep=False,
    )


def names(prepared: Prepared) -> list[str]:
    return sorted(p.name for p in prepared.model.path.iterdir())


def test_the_best_is_put_into_effect_and_nothing_else_stays(prepared: Prepared) -> None:
    outcome, tuned = tune(prepared, quiet, Machine)
    assert outcome.chosen == Candidate("Q8_0")
    assert tuned is not None
    assert names(prepared) == sorted(["m.gguf", "verified.json", "tune.json", tuned.file, "tuned.json", "tuned.toml"])
    assert (prepared.model.path / tuned.file).read_bytes() == b"Q8_0"
    assert find_tuned(prepared.model.path, prepared.model.fingerprint) == tuned
    assert tuned.measured["seconds_per_answer"] == 1.25
    assert tuned.measured["seconds_per_answer_of_registry"] == 2.25


def test_interrupted_nothing_is_in_effect_and_the_same_command_goes_on(prepared: Prepared) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(prepared, quiet, lambda bench: Machine(bench, interrupted=True))
    assert names(prepared) == ["m.gguf", "tune.json", "verified.json"]

    class NoStopwatch(Machine):
        def speed(self, candidate: Candidate) -> Sample:
            raise AssertionError("measured again")

    _, tuned = tune(prepared, quiet, NoStopwatch)
    assert tuned is not None
    assert (prepared.model.path / tuned.file).read_bytes() == b"Q8_0"


def test_what_was_made_can_be_kept(prepared: Prepared) -> None:
    class Content(Machine):
        def speed(self, candidate: Candidate) -> Sample:
            super().speed(candidate)
            return Sample(1.0, 0.5)

        def drop(self, quantization: str) -> None:
            pass

    _, tuned = tune(replace(prepared, keep=True), quiet, Content)
    assert tuned is None
    assert sorted(p.name for p in prepared.workshop.iterdir()) == ["Q4_0.gguf", "Q8_0.gguf"]
    assert prepared.bytes_needed == 0


def test_where_the_registry_s_file_is_the_best_an_earlier_choice_is_dropped(prepared: Prepared) -> None:
    tune(prepared, quiet, Machine)
    (prepared.model.path / "tune.json").unlink()

    class Even(Machine):
        def speed(self, candidate: Candidate) -> Sample:
            return Sample(1.0, 0.5)

    outcome, tuned = tune(prepared, quiet, Even)
    assert (outcome.chosen, tuned) == (REGISTRY, None)
    assert names(prepared) == ["m.gguf", "tune.json", "verified.json"]


def test_guessing_ahead_may_be_all_that_helps(prepared: Prepared) -> None:
    class Even(Machine):
        def speed(self, candidate: Candidate) -> Sample:
            return Sample(1.0, 0.5)

    guessing = replace(prepared, plan=replace(prepared.plan, lookups=(2, 3)))
    outcome, tuned = tune(guessing, quiet, Even)
    assert tuned is not None
    assert (outcome.chosen, tuned.file, tuned.settings) == (REGISTRY, "", Tuning(lookup=2))
    assert tuned.measured["lookup_saves_of_writing"] == 0.25
    assert find_tuned(prepared.model.path, prepared.model.fingerprint) == tuned
    assert "Guessing up to 2 tokens ahead saves 25% of the writing." in outcome_lines(guessing, outcome, tuned)
    assert outcome_json(guessing, outcome, tuned)["lookup"] == {"tokens": 2, "saves_of_writing": 0.25}


def test_a_full_disk_is_told_before_anything_is_made(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(prepared.model.path)
    monkeypatch.setattr(cli_tune.shutil, "disk_usage", lambda path: usage._replace(free=cli_tune.SPARE_BYTES + 1999))
    with pytest.raises(Unavailable, match="take about"):
        tune(prepared, quiet, Machine)
    assert names(prepared) == ["m.gguf", "verified.json"]


def test_two_at_once_are_refused(prepared: Prepared) -> None:
    def second(bench: Workbench) -> Measurer:
        with pytest.raises(Unavailable, match="another process is tuning m"):
            tune(prepared, quiet, Machine)
        return Machine(bench)

    _, tuned = tune(prepared, quiet, second)
    assert tuned is not None


def test_what_is_shown(prepared: Prepared) -> None:
    assert "Q4_0 (0 MB), Q8_0 (0 MB)" in plan_lines(prepared)[1]
    assert plan_json(prepared)["samples"] == 15
    outcome, tuned = tune(prepared, quiet, Machine)
    table = outcome_table(prepared, outcome)
    assert [next(iter(column.cells)) for column in table.columns] == [
        "Q8_0", "all", "128/128", "auto", "f16", "0", "256 (256 to 256)", "32 (32 to 32)", "1.25 (1.25 to 1.25)",
        "1.000", "+0.000 (+0.000 to +0.000)", "chosen",
    ]  # fmt: skip
    shown = json.loads(json.dumps(outcome_json(prepared, outcome, tuned)))
    assert [row["quantization"] for row in shown["candidates"]] == ["Q8_0", "", "Q4_0"]
    assert shown["candidates"][0]["bytes"] == 4
    assert shown["candidates"][0]["f1"] == 1.0
    assert "1.80 times as fast" in outcome_lines(prepared, outcome, tuned)[0]


def chunk(text: str, n: int) -> Chunk:
    return Chunk(f"d#{n}", "d", text, Span(0, len(text)), {"title": "T"})


def cut(document: Document) -> list[Chunk]:
    return [chunk(text, n) for n, text in enumerate(document.text.split("\n"))]


def qaset_folder(folder: Path, *questions: dict[str, object]) -> Path:
    folder.mkdir()
    document = {"id": "d", "title": "T", "text": "The mill was built by Ada.\nAda has a cat.\nThe mill is old."}
    rows = [{"id": f"q{i}", "relevant": ["d"], **question} for i, question in enumerate(questions)]
    (folder / "corpus.jsonl").write_text(json.dumps(document) + "\n")
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    meta = {"name": "mills", "kind": "k", "license": "l", "source": "s"}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def tasks(folder: Path) -> list[Task]:
    from eval.qaset import load_qaset

    return given_passages(load_qaset(folder), cut, load_prompt("reader"))


def test_a_question_is_given_the_passage_that_holds_its_answer(tmp_path: Path) -> None:
    folder = qaset_folder(
        tmp_path / "set",
        {"question": "Who built the mill?", "answers": ["Ada"], "answerable": True},
        {"question": "Who painted the mill?", "answers": [], "answerable": False},
    )
    (task,) = tasks(folder)
    assert "The mill was built by Ada." in task.messages[-1].content
    assert "cat" not in task.messages[-1].content
    assert "Who built the mill?" in task.messages[-1].content


def test_without_an_answer_in_it_the_passage_that_shares_most_words_is_taken(tmp_path: Path) -> None:
    folder = qaset_folder(tmp_path / "set", {"question": "How old is it?", "answers": ["300"], "answerable": True})
    (task,) = tasks(folder)
    assert best_passage(task.question, cut(Document("d", "", "T", "Ada has a cat.\nThe mill is old."))).id == "d#1"


def test_a_set_without_an_answerable_question_is_refused(tmp_path: Path) -> None:
    folder = qaset_folder(tmp_path / "set", {"question": "Who painted it?", "answers": [], "answerable": False})
    with pytest.raises(DataError, match="no question has both"):
        tasks(folder)


def test_an_answer_is_scored_against_the_right_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.conftest import QueueGenerator

    folder = qaset_folder(tmp_path / "set", {"question": "Who?", "answers": ["Ada Byron"], "answerable": True})
    opened: list[tuple[Path, Tuning, bool]] = []

    class Generator(QueueGenerator):
        def __init__(self, file: Path, *, context: int, extra_buffers: bool, int8: bool, tuning: Tuning) -> None:
            super().__init__("Ada", "Ada Byron", "nobody")
            opened.append((file, tuning, int8))

        def close(self) -> None:
            pass

    monkeypatch.setattr("eval.tune_workbench.LlamaGenerator", Generator)
    monkeypatch.setattr("eval.tune_workbench.look", lambda file, memory: Finding(repacked=True, int8=True))
    bench = Workbench(
        tmp_path / "own.gguf", tmp_path / "made", Copier().make, probes=tmp_path / "probes.json",
        shape=Shape(256, 8, 16), tasks=tasks(folder), sampling=Sampling(), context=256, int8=True,
        made=lambda name, n: None,
    )  # fmt: skip
    fast = Candidate("", Tuning(threads=1))
    # One of two words: precision 1, recall 1/2.
    assert [bench.f1(fast, 0) for _ in range(3)] == [pytest.approx(2 / 3), 1.0, 0.0]
    assert bench.f1(Candidate("Q4_0"), 0) == pytest.approx(2 / 3)
    plain = Candidate("", Tuning(flash_attention="off"))  # keys and values stand as only llama.cpp writes them
    assert bench.f1(plain, 0) == pytest.approx(2 / 3)
    assert opened == [
        (tmp_path / "own.gguf", fast.tuning, True),
        (tmp_path / "made" / "Q4_0.gguf", Tuning(), True),
        (tmp_path / "own.gguf", plain.tuning, False),
    ]


def settings_for(name: str, folder: Path) -> Settings:
    return load_settings(flags={"generator": {"model": name, "context": 1024}, "models": {"dir": folder}})


@pytest.mark.model
def test_a_small_model_is_tuned_used_and_reset(tmp_path: Path) -> None:
    name = "smollm2-135m-instruct"
    for model in (located(name), located("all-MiniLM-L6-v2")):
        shutil.copytree(model.path, tmp_path / model.spec.name)
    settings = settings_for(name, tmp_path)
    before = local_model(settings, model_store(settings))
    prepared = prepare(settings, Wishes(limit=2, prompt=16, quantizations=("Q8_0",), tolerance=1.0))
    plan = replace(prepared.plan, threads=[{"threads": 1}], batches=[], attention=[], rounds=1, lookups=(2,))

    class Handicap(Machine):
        """Times llama.cpp and adds seconds to the registry's file, so that the outcome is not the machine's mood."""

        def speed(self, candidate: Candidate) -> Sample:
            sample = self.bench.speed(candidate)
            slower = 0 if candidate == Candidate("Q8_0", Tuning(threads=1)) else 3600
            return Sample(sample.read + slower, sample.write)

        def f1(self, candidate: Candidate, question: int) -> float:
            return self.bench.f1(candidate, question)

        def steps(self, candidate: Candidate, widths: Sequence[int]) -> Mapping[int, float]:
            steps = self.bench.steps(candidate, widths)
            assert sorted(steps) == [1, 3] and min(steps.values()) > 0
            return steps

        def guesses(self, candidate: Candidate, question: int) -> Guesses:
            guesses = self.bench.guesses(candidate, question)
            assert 0 <= guesses.accepted <= guesses.drafted
            assert guesses.accepted <= guesses.steps
            return guesses

    outcome, tuned = tune(replace(prepared, plan=plan), quiet, Handicap)
    assert outcome.chosen == Candidate("Q8_0", Tuning(threads=1))
    assert tuned is not None
    generator = build_generator(settings, model_store(settings))
    assert generator.path == tmp_path / name / tuned.file  # type: ignore[union-attr]
    assert generator.tuning == Tuning(threads=1, lookup=outcome.lookup)  # type: ignore[union-attr]
    assert list(generator.stream([Message("user", "Hello")], Sampling(max_tokens=1)))
    generator.close()
    assert Notes(tmp_path / name / "tune.json", {}).samples("any") == []
    assert reset(settings)
    assert local_model(settings, model_store(settings)) == before
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == [before.file.name, "verified.json"]


@pytest.mark.model
def test_quantizations_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    located("smollm2-135m-instruct")
    settings = load_settings(flags={"generator": {"model": "smollm2-135m-instruct"}})
    with pytest.raises(InvalidRequest, match="cannot be made Q4_1"):  # it is that already
        prepare(settings, Wishes(data=EXAMPLES, quantizations=("Q4_1",)))

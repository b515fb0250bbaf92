"""What opens the systems of a run: answers and indexes in the run's folder, or in one that is shared."""

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eval.qaset import QASet, load_qaset
from eval.results import read_rows, read_run
from eval.rows import Row
from eval.runner import run
from eval.system_row import Endpoint, SystemRow
from rag.build import build_generator
from rag.cli_eval import open_systems
from rag.config import AbstentionSettings, Settings
from rag.datatypes import Message, Piece, Sampling, Usage
from rag.embedder import SentenceEmbedder
from rag.errors import ConfigError
from tests.conftest import CORPUS, REPOSITORY
from tests.test_eval_runner import N, write_qaset

GPT = SystemRow(
    name="gpt",
    generator=Endpoint(endpoint="https://host/v1", model="m"),
    retrieval=False,
    price_per_million_prompt=1.0,
    price_per_million_completion=1.0,
)


WARM = {
    "generator": {"prefix_disk_mb": 500, "max_tokens": 8},
    "abstention": {"enabled": False},
    "answer": {"long": "never"},
    "evidence": {"passages": 1},
}


class Model:
    """Answers every request with "answer 0"; counts the requests of all its kind."""

    asked = 0
    closed = 0

    def count(self, text: str) -> int:
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        Model.asked += 1
        yield Piece("answer 0", -0.1, 2)
        yield Piece("", finish_reason="stop", usage=Usage(10, 0, 2))

    def close(self) -> None:
        Model.closed += 1


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    Model.asked = Model.closed = 0
    monkeypatch.setattr("rag.cli_eval.build_generator", lambda settings, store: Model())


def go(tmp_path: Path, out: str, row: SystemRow = GPT, cache: str = "", settings: Settings | None = None) -> list[Row]:
    qaset, settings = write_qaset(tmp_path / "set"), settings or Settings()
    opener = open_systems(qaset, settings, tmp_path / out, tmp_path / cache if cache else None)
    run(qaset, [row], tmp_path / out, opener, settings=settings)
    return list(read_rows(tmp_path / out))


def test_runs_with_a_common_cache_ask_once_and_cost_the_same(tmp_path: Path) -> None:
    first = go(tmp_path, "one", cache="cache")
    second = go(tmp_path, "two", cache="cache")
    assert (Model.asked, Model.closed) == (N, 2)
    assert [row.cost for row in second] == [row.cost for row in first] == [pytest.approx(12e-6)] * N
    assert [row.usage for row in second] == [row.usage for row in first]
    assert all("replayed" in row.timings for row in second) and not any("replayed" in row.timings for row in first)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"answers.sqlite"}


def test_runs_of_their_own_ask_for_themselves(tmp_path: Path) -> None:
    go(tmp_path, "one")
    go(tmp_path, "two")
    assert Model.asked == 2 * N
    assert (tmp_path / "one" / "answers.sqlite").is_file()


def test_rows_that_are_lost_or_belong_to_other_settings_come_out_of_the_cache(tmp_path: Path) -> None:
    go(tmp_path, "out")
    (tmp_path / "out" / "results.jsonl").unlink()
    assert len(go(tmp_path, "out")) == N and Model.asked == N
    go(tmp_path, "out", settings=Settings(abstention={"enabled": False}))  # type: ignore[arg-type]
    assert Model.asked == N
    go(tmp_path, "out", settings=Settings(generator={"max_tokens": 7}))  # type: ignore[arg-type]
    assert Model.asked == 2 * N


def test_another_endpoint_is_another_model(tmp_path: Path) -> None:
    go(tmp_path, "out", cache="cache")
    other = GPT.model_copy(update={"generator": Endpoint(endpoint="https://other/v1", model="m")})
    go(tmp_path, "out", other, cache="cache")
    assert Model.asked == 2 * N


def test_recorded_answers_load_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLHOLD_CACHE", str(tmp_path / "no-models"))
    (tmp_path / "r.jsonl").write_text('{"id": "q0", "answer": "answer 0", "judged_right": true}\n')
    row = SystemRow(name="big", retrieval=False, recorded=str(tmp_path / "r.jsonl"))
    elsewhere = Settings(generator={"endpoint": "https://host/v1"})  # type: ignore[arg-type]
    (answered,) = go(tmp_path, "out", row, settings=elsewhere)
    assert (answered.scores["exact_match"], answered.human_right, Model.asked) == (1.0, True, 0)
    assert answered.usage.prompt == 3 and answered.usage.completion == 2  # a quarter of 10 and of 8 characters


def _first_documents(folder: Path, count: int) -> QASet:
    """The example set cut to its first documents and the questions about them."""
    folder.mkdir()
    source = REPOSITORY / "examples" / "qa"
    corpus = (source / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    known = {json.loads(line)["id"] for line in corpus}
    questions = [json.loads(line) for line in (source / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [
        json.dumps(question)
        for question in questions
        if set(question["relevant"]) and set(question["relevant"]) <= known
    ]
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    (folder / "questions.jsonl").write_text("\n".join(kept[:2]) + "\n", encoding="utf-8")
    (folder / "meta.json").write_text((source / "meta.json").read_text(encoding="utf-8"), encoding="utf-8")
    return load_qaset(folder)


@pytest.mark.model
def test_an_oracle_reads_the_relevant_document_of_a_real_index(tmp_path: Path, embedder: SentenceEmbedder) -> None:
    from eval.qaset import load_qaset

    qaset = load_qaset(REPOSITORY / "examples" / "qa").limited(3)
    row = GPT.model_copy(update={"retrieval": True, "oracle": True})
    settings = Settings(abstention={"enabled": False})  # type: ignore[arg-type]
    out, cache = tmp_path / "out", tmp_path / "cache"
    run(qaset, [row], out, open_systems(qaset, settings, out, cache), settings=settings)
    rows = list(read_rows(out))
    assert len(rows) == 3
    for answered in rows:
        assert {document.document_id for document in answered.retrieved} == set(answered.relevant)
    assert (cache / "index").is_dir() and not (out / "index").exists()


@pytest.mark.model
def test_a_warm_system_reads_nothing_but_the_questions(
    tmp_path: Path, tiny_model: Path, embedder: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.cli_eval.build_generator", build_generator)
    monkeypatch.setattr("rag.build._prefix_folder", lambda store: tmp_path / "prefixes")
    row = SystemRow(name="warm", generator=str(tiny_model), retrieval=True, warm=True, settings=WARM)
    cold = row.model_copy(update={"name": "cold", "warm": False, "settings": {**WARM, "generator": {}}})
    qaset, out = _first_documents(tmp_path / "set", 2), tmp_path / "out"
    for system in (row, cold):
        run(qaset, [system], out, open_systems(qaset, Settings(), out), settings=Settings())
    rows = {(answered.system, answered.question_id): answered for answered in read_rows(out)}
    first = qaset.questions[0].id
    warm, unread = rows["warm", first], rows["cold", first]
    assert (warm.error, unread.error) == (None, None)
    assert warm.usage.prompt - warm.usage.cached < 40 < unread.usage.prompt - unread.usage.cached
    assert "passages were read before the first question, 0 of them by an earlier run" in (
        read_run(out).systems["warm"].prepared
    )


def test_what_is_read_ahead_must_be_of_use(tmp_path: Path) -> None:
    row = SystemRow(name="warm", generator="a.gguf", retrieval=True, warm=True, settings={"evidence": {"window": 80}})
    qaset = write_qaset(tmp_path / "set")
    with pytest.raises(ConfigError, match="warm: what is read ahead would not be used"):
        run(qaset, [row], tmp_path / "out", open_systems(qaset, Settings(), tmp_path / "out"), settings=Settings())


@pytest.mark.model
def test_an_index_of_ones_own_is_asked_and_what_it_holds_is_part_of_a_row(
    tmp_path: Path, example_index: Path, embedder: SentenceEmbedder
) -> None:
    from eval.qaset import load_qaset

    qaset = load_qaset(REPOSITORY / "examples" / "qa").limited(2)
    row = GPT.model_copy(update={"retrieval": True})
    settings = Settings(abstention={"enabled": False})  # type: ignore[arg-type]
    out = tmp_path / "out"
    run(qaset, [row], out, open_systems(qaset, settings, out, index=example_index), settings=settings)
    rows = list(read_rows(out))
    assert all((CORPUS / document.document_id).is_file() for document in rows[0].retrieved)
    assert not (out / "index").exists()
    # Nothing is withheld, and yet each row says how likely it is right.
    assert [answered.confidence is not None for answered in rows] == [True, True]
    run(qaset, [row], tmp_path / "set", open_systems(qaset, settings, tmp_path / "set"), settings=settings)
    assert next(iter(read_rows(tmp_path / "set"))).system_fingerprint != rows[0].system_fingerprint


class Named(Model):
    """A model that answers with its name."""

    def __init__(self, name: str, *, remote: bool) -> None:
        self.name, self.remote = name, remote

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        Model.asked += 1
        yield Piece(self.name, -0.1, 1)
        yield Piece("", finish_reason="stop", usage=Usage(1000, 0, 1) if self.remote else Usage(10, 0, 1))


def cascade_row(**cascade: Any) -> SystemRow:
    return SystemRow(
        name="both",
        generator="little.gguf",
        retrieval=True,
        price_per_million_prompt=1000.0,
        price_per_million_completion=1000.0,
        settings={"cascade": {"generator": "big", "endpoint": "https://host/v1", **cascade}},
    )


@pytest.mark.usefixtures("embedder")
def test_a_cascade_is_a_system_and_its_endpoint_alone_is_paid_by_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(settings: Settings, store: object) -> Named:
        return Named(settings.generator.model, remote=bool(settings.generator.endpoint))

    monkeypatch.setattr("rag.cli_eval.build_generator", build)
    off = Settings(abstention=AbstentionSettings(enabled=False))
    asked = go(tmp_path, "one", cascade_row(threshold=1.0), settings=off)
    assert [r.answer for r in asked] == ["big"] * N
    assert [r.model for r in asked] == ["big"] * N
    assert [(a.model, a.billed, a.usage.prompt) for a in asked[0].asked] == [
        ("little", False, 10),
        ("big", True, 1000),
    ]
    assert asked[0].usage.prompt == 1010
    assert [r.cost for r in asked] == pytest.approx([1.001] * N)
    assert Model.closed == 2
    kept = go(tmp_path, "two", cascade_row(threshold=0.0), settings=off)
    assert [(r.answer, r.model, r.cost) for r in kept] == [("little.gguf", "little", 0.0)] * N
    assert kept[0].system_fingerprint != asked[0].system_fingerprint


def test_a_cascade_needs_documents_to_be_unsure_about() -> None:
    with pytest.raises(ValidationError, match="needs a generator and retrieval"):
        SystemRow(name="x", generator="m", retrieval=False, settings={"cascade": {"generator": "big"}})


def test_rows_of_before_there_was_a_cascade_still_count() -> None:
    assert "cascade" not in GPT.identity(Settings())["settings"]
    assert cascade_row(threshold=0.5).identity(Settings())["settings"]["cascade"]["threshold"] == 0.5

"""The commands, over a fake pipeline."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eval.cli import make_app
from eval.metrics import METRICS
from eval.qaset import QASet
from eval.system_file import load_systems
from eval.system_row import SystemRow
from eval.systems import OpenSystem, PipelineSystem
from rag.config import Settings
from rag.datatypes import Answer, Chunk, Message, ScoredChunk, Span, Usage
from rag.errors import ConfigError, DataError, EndpointFailed, InvalidRequest, UnknownModel


class FakePipelines:
    """Answers every question with "mill" and finds document d1 first; remembers how it was opened."""

    def __init__(self) -> None:
        self.settings: list[Settings] = []
        self.outs: list[Path] = []
        self.caches: list[Path | None] = []
        self.rows: list[SystemRow] = []
        self.failure: BaseException | None = None
        self.text = "mill"
        self.usage = Usage()

    def __call__(self, qaset: QASet, settings: Settings, out: Path, cache: Path | None = None) -> OpenSystem:
        self.settings.append(settings)
        self.caches.append(cache)
        self.outs.append(out)

        @contextmanager
        def opened(row: SystemRow) -> Iterator[PipelineSystem]:
            self.rows.append(row)
            yield PipelineSystem("weights", lambda: self)

        def open_system(row: SystemRow) -> AbstractContextManager[PipelineSystem]:
            return opened(row)

        return open_system

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        if self.failure is not None:
            raise self.failure
        return Answer(self.text, retrieved=tuple(self.retrieve(question)), usage=self.usage)

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        return [ScoredChunk(Chunk("d1/0", "d1", "The mill.", Span(0, 9)), 1.0)]


@pytest.fixture
def pipelines() -> FakePipelines:
    return FakePipelines()


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the header of real weights takes seconds."""
    monkeypatch.setenv("SMALLHOLD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def app(pipelines: FakePipelines) -> typer.Typer:
    main = typer.Typer()
    main.add_typer(make_app(pipelines), name="eval")
    return main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", [["mill"], ["ford"]])


def write_set(folder: Path, answers: list[list[str]]) -> Path:
    folder.mkdir()
    questions = [
        {"id": f"q{i}", "question": f"Question {i}?", "answers": gold, "answerable": True, "relevant": [f"d{i + 1}"]}
        for i, gold in enumerate(answers)
    ]
    corpus = [{"id": f"d{i + 1}", "title": "", "text": "The mill."} for i in range(len(answers))]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "meta.json").write_text(json.dumps({"name": "set", "kind": "k", "license": "l", "source": "s"}))
    return folder


def invoke(app: typer.Typer, *args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["eval", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def test_run_writes_everything_and_prints_the_table(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(
        app, "run", "--data", data, "--system", "small,small+retrieval", "--system", "retrieval", "--out", out
    )
    assert {p.name for p in out.iterdir()} >= {"results.jsonl", "run.json", "report.json", "report.md", "accuracy.svg"}
    assert len((out / "results.jsonl").read_text().splitlines()) == 6
    line = next(line for line in result.stdout.splitlines() if "F1" in line)
    assert line.count("0.500 (0.000 to 1.000)") == 2
    assert "small: 2 questions, 0 of them answered before" in result.stderr
    assert str(out / "report.md") in result.stderr.replace("\n", "")


def test_json_is_the_report_and_nothing_else(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    result = invoke(app, "run", "--data", data, "--out", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    assert list(report["systems"]) == ["small+retrieval"]  # the default
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    again = invoke(app, "report", tmp_path / "out", "--json")
    assert json.loads(again.stdout) == report


def test_limit_and_no_abstain_reach_the_run(
    app: typer.Typer, pipelines: FakePipelines, data: Path, tmp_path: Path
) -> None:
    result = invoke(app, "run", "--data", data, "--out", tmp_path / "out", "--limit", 1, "--no-abstain", "--json")
    report = json.loads(result.stdout)
    assert report["systems"]["small+retrieval"]["n"] == report["data"]["questions"] == 1
    assert pipelines.settings[0].abstention.enabled is False
    assert pipelines.outs == [tmp_path / "out"]
    assert "abstention.enabled = false" in (tmp_path / "out" / "report.md").read_text()


def test_a_risk_target_reaches_the_run_and_the_report(
    app: typer.Typer, pipelines: FakePipelines, data: Path, tmp_path: Path
) -> None:
    report = json.loads(invoke(app, "run", "--data", data, "--out", tmp_path / "out", "--risk", 0.2, "--json").stdout)
    assert pipelines.settings[0].abstention.risk == 0.2
    target = report["systems"]["small+retrieval"]["risk_target"]
    assert (target["target"], target["answered"], target["wrong"], target["outcome"]) == (0.2, 2, 1, "undecided")
    result = CliRunner().invoke(
        app, ["eval", "run", "--data", str(data), "--out", str(tmp_path / "b"), "--risk", "0.2", "--no-abstain"]
    )
    assert isinstance(result.exception, ConfigError)


def test_a_set_without_answers_runs_retrieval_by_default(
    app: typer.Typer, pipelines: FakePipelines, tmp_path: Path
) -> None:
    data = write_set(tmp_path / "set", [[], []])
    report = json.loads(invoke(app, "run", "--data", data, "--out", tmp_path / "out", "--json").stdout)
    assert report["systems"]["retrieval"]["metrics"]["recall@1"]["value"] == 0.5
    assert [row.generator for row in pipelines.rows] == [""]


def test_a_systems_file_adds_a_system(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[[system]]\nname = "mine"\ngenerator = "m"\nretrieval = false\n')
    result = invoke(
        app, "run", "--data", data, "--out", tmp_path / "out", "--systems", file, "--system", "mine", "--json"
    )
    assert list(json.loads(result.stdout)["systems"]) == ["mine"]


def test_an_unknown_system_and_bad_data_are_errors_of_ours(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    unknown = invoke(app, "run", "--data", data, "--out", tmp_path / "out", "--system", "huge", code=1)
    assert isinstance(unknown.exception, UnknownModel)
    missing = invoke(app, "run", "--data", tmp_path / "no", "--out", tmp_path / "out", code=1)
    assert isinstance(missing.exception, DataError)
    assert not (tmp_path / "out").exists()


def test_an_interrupt_says_how_to_go_on(app: typer.Typer, pipelines: FakePipelines, data: Path, tmp_path: Path) -> None:
    pipelines.failure = KeyboardInterrupt()
    result = invoke(app, "run", "--data", data, "--out", tmp_path / "out", code=130)
    assert "the same command goes on from there" in result.stderr


def test_a_stopped_system_is_reported_with_exit_code_3(
    app: typer.Typer, pipelines: FakePipelines, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.asking.FAILURES_IN_A_ROW", 2)
    pipelines.failure = EndpointFailed("the endpoint is down")
    result = invoke(app, "run", "--data", data, "--out", tmp_path / "out", code=3)
    assert "the endpoint is down" in result.stderr and "Not finished: small+retrieval" in result.stderr
    assert "2 failed" in result.stdout
    pipelines.failure = None
    invoke(app, "run", "--data", data, "--out", tmp_path / "out")


def test_max_cost_stops_with_exit_code_1_and_keeps_what_is_done(
    app: typer.Typer, pipelines: FakePipelines, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    file = tmp_path / "mine.toml"
    prices = "price_per_million_prompt = 1000\nprice_per_million_completion = 1000\n"
    file.write_text(
        '[[system]]\nname = "gpt"\nretrieval = false\ngenerator = {endpoint = "https://h/v1", model = "m"}\n' + prices
    )
    arguments = ("run", "--data", data, "--out", out, "--systems", file, "--system", "gpt")
    pipelines.usage = Usage(prompt=900, completion=100)  # a dollar; the first one might cost 1.12
    stopped = invoke(app, *arguments, "--max-cost", 1.5, code=1)
    assert "the limit of $1.5 would be passed: $1 spent, and the next question may cost $1" in stopped.stderr
    assert "Not finished: gpt. The same command with a higher limit goes on from there." in stopped.stderr
    assert "1 missing" in stopped.stdout  # the report covers what there is
    assert len((out / "results.jsonl").read_text().splitlines()) == 1
    invoke(app, *arguments, "--max-cost", 2)
    invoke(app, *arguments, "--max-cost", -1, code=2)


def test_the_cache_is_the_folder_that_is_named(
    app: typer.Typer, pipelines: FakePipelines, data: Path, tmp_path: Path
) -> None:
    invoke(app, "run", "--data", data, "--out", tmp_path / "out")
    invoke(app, "run", "--data", data, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert pipelines.caches == [None, tmp_path / "cache"]


def test_recorded_answers_are_checked_before_anything_is_asked(
    app: typer.Typer, pipelines: FakePipelines, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text('[[system]]\nname = "gpt"\nrecorded = "gpt.jsonl"\n')
    (tmp_path / "gpt.jsonl").write_text('{"id": "q0"}\n')
    arguments = ("run", "--data", data, "--out", tmp_path / "out", "--systems", tmp_path / "mine.toml")
    refused = invoke(app, *arguments, "--system", "small,gpt", code=1)
    assert isinstance(refused.exception, DataError) and "gpt.jsonl:1: 'answer'" in refused.exception.message
    assert pipelines.rows == []


def test_compare_prints_differences(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        invoke(app, "run", "--data", data, "--out", tmp_path / name)
    result = invoke(app, "compare", tmp_path / "a", tmp_path / "b", "--metric", "f1,recall@1", "--json")
    assert [(c["metric"], c["difference"]["value"]) for c in json.loads(result.stdout)] == [("f1", 0), ("recall@1", 0)]
    table = invoke(app, "compare", tmp_path / "a", tmp_path / "b").stdout
    assert "+0.000 (-0.842 to +0.842)" in table and "nDCG@10" in table  # two questions: 1 - 0.025^(1/2)
    assert "p (Holm)" in table and "1.000" in table and "more needed" in table


def test_a_condition_that_holds_fails_the_run(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    run = ("run", "--data", data, "--out", tmp_path / "out")
    failed = invoke(app, *run, "--fail-if", "f1 < 0.6", "--fail-if", "small+retrieval: recall@1 > 0.9", code=1)
    assert failed.stderr.count("Failed:") == 1
    assert "Failed: small+retrieval: f1 is 0.5, which is < 0.6" in failed.stderr
    assert "0.500 (0.000 to 1.000)" in failed.stdout  # the table is there all the same
    invoke(app, *run, "--fail-if", "f1 < 0.5")
    invoke(app, "report", tmp_path / "out", "--fail-if", "f1 <= 0.5", code=1)


def test_a_wrong_condition_is_refused_before_anything_is_asked(
    app: typer.Typer, pipelines: FakePipelines, data: Path, tmp_path: Path
) -> None:
    run = ("run", "--data", data, "--out", tmp_path / "out")
    assert isinstance(invoke(app, *run, "--fail-if", "f1 = 1", code=1).exception, InvalidRequest)
    assert isinstance(invoke(app, *run, "--fail-if-worse-than", tmp_path, code=1).exception, DataError)
    assert pipelines.rows == []


def test_a_run_that_is_worse_than_an_earlier_one_fails(
    app: typer.Typer, pipelines: FakePipelines, tmp_path: Path
) -> None:
    data = write_set(tmp_path / "set", [["mill"]] * 12)
    invoke(app, "run", "--data", data, "--out", tmp_path / "good")
    pipelines.text = "ford"
    failed = invoke(
        app, "run", "--data", data, "--out", tmp_path / "bad", "--fail-if-worse-than", tmp_path / "good", code=1
    )
    assert "Failed: small+retrieval: f1 is 0.000, worse than the 1.000" in failed.stderr
    assert "recall@1" not in failed.stderr
    invoke(app, "report", tmp_path / "good", "--fail-if-worse-than", tmp_path / "bad")


def test_convert_makes_a_set_that_runs(app: typer.Typer, tmp_path: Path) -> None:
    squad = {"data": [{"title": "T", "paragraphs": [{"context": "The mill.", "qas": []}]}]}
    squad["data"][0]["paragraphs"][0]["qas"] = [{"id": "a", "question": "What?", "answers": [{"text": "mill"}]}]  # type: ignore[index]
    (tmp_path / "dev.json").write_text(json.dumps(squad))
    converted = invoke(app, "convert", "squad", tmp_path / "dev.json", tmp_path / "set", "--license", "CC0")
    assert "1 questions over 1 documents" in converted.stdout
    report = json.loads(invoke(app, "run", "--data", tmp_path / "set", "--out", tmp_path / "out", "--json").stdout)
    assert (report["data"]["license"], report["systems"]["small+retrieval"]["metrics"]["f1"]["value"]) == ("CC0", 1.0)


@pytest.mark.parametrize("command", ["run", "report", "compare", "convert"])
def test_help_teaches_with_an_example(app: typer.Typer, command: str) -> None:
    helped = invoke(app, command, "--help").stdout
    assert ("squad" in helped and "beir" in helped) if command == "convert" else "Example: smallhold eval" in helped


def test_everything_is_documented(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text()
    invoke(app, "run", "--data", data, "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    row = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])
    names = {*METRICS, *report, *report["systems"]["small+retrieval"], *row, *SystemRow.model_fields} - {"name"}
    assert {name for name in names if f"`{name}`" not in page and f"{name} = " not in page} == set()
    for command in ("run", "report", "compare", "convert squad", "convert beir"):
        assert f"smallhold eval {command} " in page


def test_the_system_row_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text()
    example = page[page.index("    [[system]]") : page.index("Any OpenAI-compatible endpoint will do.")]
    (tmp_path / "systems.toml").write_text(example)
    rows = load_systems(tmp_path / "systems.toml")
    assert rows["gpt"].prices.by_token and rows["three-passages"].apply(Settings()).evidence.passages == 3


def test_importing_the_commands_loads_nothing_heavy() -> None:
    code = (
        "import sys, eval.cli; print([m for m in ('numpy', 'scipy', 'pydantic', 'httpx', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_recorded_systems_of_the_documentation_are_systems(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text()
    example = page[page.index('    [[system]]\n    name = "GPT-3.5"') : page.index("and then\n")]
    (tmp_path / "systems.toml").write_text(example)
    rows = load_systems(tmp_path / "systems.toml")
    assert rows["GPT-4"].recorded == str(tmp_path / "recorded" / "gpt4.jsonl") and rows["GPT-4"].prices.by_token
    assert (rows["GPT-3.5"].parameters_kind, rows["Bing"].prices.stated) == ("estimated", False)


def test_export_reads_back_what_a_run_wrote(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    invoke(app, "run", "--data", data, "--out", tmp_path / "out")
    told = invoke(app, "export", "trec", tmp_path / "out", tmp_path / "trec").stdout
    assert "2 questions, small+retrieval.run" in told
    assert (tmp_path / "trec" / "small+retrieval.run").read_text().startswith("q0 Q0 d1 1 1.0 small+retrieval\n")
    for form, file in (("ragas", "small+retrieval.jsonl"), ("ragchecker", "small+retrieval.json")):
        invoke(app, "export", form, tmp_path / "out", tmp_path / form, "--data", data, "--depth", 1)
        assert "The mill." in (tmp_path / form / file).read_text()

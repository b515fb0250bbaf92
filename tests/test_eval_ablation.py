"""The ablation: which systems it makes, what it says of them, and the command over a fake pipeline."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eval.ablation import PAYS, PAYS_NOT, UNTOLD, judge_part
from eval.ablation_parts import FULL, Part, choose_parts, load_parts, plan
from eval.cli import make_app
from eval.paired import Difference
from eval.qaset import QASet
from eval.statistics import Estimate
from eval.system_row import Endpoint, SystemRow
from eval.systems import OpenSystem, PipelineSystem
from rag.config import Settings, load_settings
from rag.datatypes import Answer, Chunk, Message, ScoredChunk, Span, Usage, Verdict
from rag.errors import ConfigError, InvalidRequest
from rag.registry import load_registry

BASE_OF = load_registry().base_of
PARTS = load_parts()
NAMES = [part.name for part in PARTS]


def rows(settings: Settings, *names: str) -> dict[str, SystemRow]:
    planned = plan(choose_parts(names, PARTS), PARTS, settings, BASE_OF)
    return {row.name: row for row in planned.rows}


# Parts and plans


def test_every_shipped_part_changes_what_its_system_runs_with() -> None:
    settings = load_settings()
    planned = plan(PARTS, PARTS, settings, BASE_OF)
    assert planned.notes == ()
    assert [trial.part.name for trial in planned.trials] == NAMES
    assert planned.rows[0].name == FULL
    identities = [json.dumps(row.identity(settings), sort_keys=True) for row in planned.rows]
    assert len(set(identities)) == len(planned.rows) == 1 + len(PARTS)


def test_a_part_off_is_the_settings_in_force_with_its_own_on_top() -> None:
    settings = load_settings(flags={"evidence": {"passages": 5, "window": 80}})
    one = rows(settings, "several-passages")["without:several-passages"].apply(settings)
    assert (one.evidence.passages, one.evidence.window) == (1, 80)
    assert one.generator == settings.generator


def test_without_the_reader_its_base_answers_with_its_own_prompt_and_estimate() -> None:
    flags = {"generator": {"prompt": "reader"}, "abstention": {"file": "own.toml", "threshold": 0.5}}
    settings = load_settings(flags=flags)
    without = rows(settings, "reader")["without:reader"]
    assert without.generator == "qwen2.5-coder-0.5b-instruct"
    applied = without.apply(settings)
    assert (applied.generator.prompt, applied.abstention.file, applied.abstention.threshold) == ("", None, None)


def test_reasoning_is_tried_on_the_plain_model_and_compared_with_it() -> None:
    settings = load_settings()
    planned = plan(choose_parts(["reasoning"], PARTS), PARTS, settings, BASE_OF)
    assert [row.name for row in planned.rows] == [FULL, "without:reader", "with:reasoning"]
    (trial,) = planned.trials
    assert (trial.against, trial.row.generator) == ("without:reader", "qwen2.5-coder-0.5b-instruct")
    assert trial.row.apply(settings).deliberation.reason_tokens == 48
    plain = load_settings(flags={"generator": {"model": "qwen2.5-coder-0.5b-instruct"}})
    (trial,) = plan(choose_parts(["reasoning"], PARTS), PARTS, plain, BASE_OF).trials
    assert trial.against == FULL  # the model in force has no adapter to do without


def test_what_is_switched_so_already_is_left_out_with_a_note() -> None:
    settings = load_settings(flags={"evidence": {"hops": 0, "window": 100}})
    planned = plan(choose_parts(["second-search", "window", "words"], PARTS), PARTS, settings, BASE_OF)
    assert [trial.part.name for trial in planned.trials] == ["words"]
    assert planned.notes == (
        "second-search is left out: it is off already",
        "window is left out: it is on already",
    )
    with pytest.raises(InvalidRequest, match="nothing is left to compare"):
        plan(choose_parts(["window"], PARTS), PARTS, settings, BASE_OF)


def test_an_endpoint_is_a_system_too_and_has_no_adapter() -> None:
    settings = load_settings(flags={"generator": {"endpoint": "http://host/v1", "model": "m", "api_key_env": "K"}})
    planned = plan(choose_parts(["reader", "words"], PARTS), PARTS, settings, BASE_OF)
    assert planned.rows[1].generator == Endpoint(endpoint="http://host/v1", model="m", api_key_env="K")
    assert planned.notes == ("reader is left out: the model in force was adapted from none",)


def test_on_a_set_without_answers_only_retrieval_has_parts() -> None:
    planned = plan(PARTS, PARTS, load_settings(), BASE_OF, retrieval_only=True)
    assert [trial.part.name for trial in planned.trials] == ["words", "meaning"]
    assert len(planned.notes) == len(PARTS) - 2


def test_an_unknown_part_names_those_that_there_are() -> None:
    with pytest.raises(InvalidRequest, match="no part 'nope'") as refused:
        choose_parts(["nope"], PARTS)
    assert refused.value.hint is not None and "second-search" in refused.value.hint


ROW = '[[part]]\nname = "a"\nabout = "b"\nturned = "off"\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a list of [[part]]"),
        ("x = 1", "a list of [[part]]"),
        ("[[part]", "cannot be used"),
        (ROW, "neither `settings` nor `base`"),
        (ROW + "base = true\ncolour = 1", "colour"),
        (ROW + 'settings = {evidence = {hops = "one"}}', "hops"),
        (ROW + "settings = {nowhere = {x = 1}}", "settings.nowhere is not a section"),
        (ROW + "settings = {index = {dir = 'x'}}", "settings.index is not a section"),
        (ROW + "base = true\n" + ROW + "base = true", "two parts 'a'"),
        (ROW + 'base = true\nagainst = "b"', "no part before it"),
        (ROW.replace('"a"', '"A b"') + "base = true", "name"),
        ("#" * 200_000, "larger than"),
    ],
)
def test_a_file_of_parts_is_refused_with_its_fault(text: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "parts.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_parts(file)
    assert fault in str(refused.value) and str(file) in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"parts\.toml cannot be read"):
        load_parts(tmp_path / "parts.toml")


# Verdicts


def gain(metric: str, value: float, p: float, *, low: float = -1.0, high: float = 1.0) -> tuple[str, Difference]:
    return metric, Difference(metric, "without", "with", Estimate(value, low, high, 50), p, None, p)


@pytest.mark.parametrize(
    ("gains", "same", "verdict", "because"),
    [
        ([gain("f1", 0.1, 0.01)], False, PAYS, "F1 +0.100"),
        ([gain("f1", -0.1, 0.01)], False, PAYS_NOT, "F1 -0.100"),
        ([gain("f1", 0.1, 0.2)], False, UNTOLD, "no difference shown in F1"),
        ([gain("f1", 0.1, 0.2), gain("abstention_recall", 0.3, 0.01)], False, PAYS, "declined +0.300"),
        # Gains in one and loses in the other: the CRAG score decides.
        (
            [gain("f1", -0.1, 0.01), gain("abstention_recall", 0.3, 0.01), gain("crag", 0.1, 0.02)],
            False, PAYS, "CRAG score +0.100",
        ),
        (
            [gain("f1", -0.1, 0.01), gain("abstention_recall", 0.3, 0.01), gain("crag", -0.1, 0.02)],
            False, PAYS_NOT, "CRAG score -0.100",
        ),
        ([gain("f1", -0.1, 0.01), gain("abstention_recall", 0.3, 0.01), gain("crag", 0.1, 0.3)], False, UNTOLD, "F1"),
        # It saves seconds: enough only where a loss can be ruled out.
        ([gain("f1", 0.0, 1.0, low=-0.005), gain("cpu_seconds", -0.5, 0.01)], False, PAYS, "-0.50 processor seconds"),
        ([gain("f1", 0.0, 1.0, low=-0.05), gain("cpu_seconds", -0.5, 0.01)], False, UNTOLD, "-0.50"),
        ([gain("f1", 0.0, 1.0), gain("cpu_seconds", -0.5, 0.01)], True, PAYS, "no question scored otherwise"),
        # It takes seconds: too many only where a gain can be ruled out.
        ([gain("f1", 0.0, 1.0, high=0.005), gain("cpu_seconds", 0.5, 0.01)], False, PAYS_NOT, "+0.50"),
        ([gain("f1", 0.0, 1.0, high=0.05), gain("cpu_seconds", 0.5, 0.01)], False, UNTOLD, "+0.50"),
        ([gain("f1", 0.0, 1.0), gain("cpu_seconds", 0.5, 0.5)], True, UNTOLD, "no question scored otherwise"),
    ],
)  # fmt: skip
def test_whether_a_part_pays(gains: list[tuple[str, Difference]], same: bool, verdict: str, because: str) -> None:
    judged = judge_part(dict(gains), "f1", same=same)
    assert judged.verdict == verdict
    assert because in judged.because


# The command


class Switched:
    """Answers rightly with several passages, wrongly with one; declines what has no answer where it may."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.asked: list[str] = []
        self.interrupt_after: int | None = None

    def __call__(self, qaset: QASet, settings: Settings, out: Path, cache: Path | None = None) -> OpenSystem:
        del qaset, out, cache

        @contextmanager
        def opened(row: SystemRow) -> Iterator[PipelineSystem]:
            own = row.apply(settings)
            if own.deliberation.reason_tokens:
                raise ConfigError("it does not reason")
            self.opened.append(row.name)
            yield PipelineSystem(f"weights of {row.generator}", lambda: Answering(self, row.name, own))

        def open_system(row: SystemRow) -> AbstractContextManager[PipelineSystem]:
            return opened(row)

        return open_system


class Answering:
    def __init__(self, switched: Switched, name: str, settings: Settings) -> None:
        self._switched, self._name, self._settings = switched, name, settings

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        del history
        if self._switched.interrupt_after is not None and len(self._switched.asked) >= self._switched.interrupt_after:
            raise KeyboardInterrupt
        self._switched.asked.append(f"{self._name} {question}")
        several = self._settings.evidence.passages > 1
        if "nothing" in question and self._settings.abstention.enabled:
            return Answer("", verdict=Verdict.ABSTAINED, usage=Usage(30, 10, 1), timings={"generate": 1.0})
        return Answer("mill" if several else "ford", usage=Usage(300 if several else 110, 10, 1))

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        del question, history
        return [ScoredChunk(Chunk("d0/0", "d0", "The mill.", Span(0, 9)), 1.0)]


@pytest.fixture
def switched() -> Switched:
    return Switched()


@pytest.fixture
def app(switched: Switched) -> typer.Typer:
    main = typer.Typer()
    main.add_typer(make_app(switched), name="eval")
    return main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten questions with an answer and four without."""
    folder = tmp_path / "set"
    folder.mkdir()
    questions = [
        {"id": f"q{i}", "question": f"Question {i}?", "answers": ["mill"], "answerable": True, "relevant": [f"d{i}"]}
        for i in range(10)
    ] + [
        {"id": f"n{i}", "question": f"Of nothing {i}?", "answers": [], "answerable": False, "relevant": []}
        for i in range(4)
    ]
    corpus = [{"id": f"d{i}", "title": "", "text": "The mill."} for i in range(10)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "meta.json").write_text(json.dumps({"name": "set", "kind": "k", "license": "l", "source": "s"}))
    return folder


def invoke(app: typer.Typer, *args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["eval", "ablate", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def by_name(out: Path) -> Mapping[str, Any]:
    return {part["name"]: part for part in json.loads((out / "ablation.json").read_text())["parts"]}


def test_the_command_tells_what_pays_and_writes_everything(
    app: typer.Typer, data: Path, tmp_path: Path, switched: Switched
) -> None:
    out = tmp_path / "out"
    asked = "several-passages,abstention,long-answers"
    result = invoke(app, "--data", data, "--part", asked, "--part", "abstention", "--out", out)
    assert {"ablation.json", "ablation.md", "ablation.svg", "results.jsonl"} <= {file.name for file in out.iterdir()}
    parts = by_name(out)
    assert list(parts) == ["several-passages", "abstention", "long-answers"]

    several = parts["several-passages"]
    assert (several["with"], several["without"], several["n"]) == ("full", "without:several-passages", 14)
    f1 = several["metrics"]["f1"]
    assert (f1["with"], f1["without"], f1["gain"]["value"], f1["gain"]["n"]) == (1.0, 0.0, 1.0, 10)
    # Ten questions of their own that all differ alike: 2 x (1/2)^10, three times for three parts by Holm.
    assert f1["gain"]["p"] == pytest.approx(2 / 1024, rel=0.01)
    assert f1["gain"]["p_holm"] == pytest.approx(6 / 1024, rel=0.01)
    assert several["metrics"]["tokens_read"]["gain"]["value"] == pytest.approx(190 * 10 / 14)
    assert several["verdict"] == PAYS

    # Four unanswerable questions, all declined: 2 x (1/2)^4 shows nothing.
    abstention = parts["abstention"]["metrics"]["abstention_recall"]
    assert (abstention["with"], abstention["without"], abstention["gain"]["p"]) == (1.0, 0.0, 0.125)
    assert parts["abstention"]["verdict"] == UNTOLD

    assert parts["long-answers"]["because"] == "no question scored otherwise"
    page = (out / "ablation.md").read_text()
    assert "| several-passages | 1.000 / 0.000 | +1.000 (" in page
    assert "cannot be told with 14 questions" in page and "ablation.svg" in page
    assert "several-passages" in result.stdout and "pays" in result.stdout
    assert (out / "ablation.svg").read_text().startswith("<svg")
    assert len(switched.asked) == 4 * 14


def test_the_same_command_asks_nothing_twice_and_goes_on_after_an_interruption(
    app: typer.Typer, data: Path, tmp_path: Path, switched: Switched
) -> None:
    arguments = ("--data", data, "--part", "several-passages", "--limit", 6, "--out", tmp_path / "out")
    switched.interrupt_after = 8
    assert "goes on from there" in invoke(app, *arguments, code=130).output
    switched.interrupt_after = None
    invoke(app, *arguments)
    assert len(switched.asked) == len(set(switched.asked)) == 12
    invoke(app, *arguments)
    assert len(switched.asked) == 12


def test_a_part_that_does_not_go_with_the_settings_is_left_out_before_anything_is_asked(
    app: typer.Typer, data: Path, tmp_path: Path, switched: Switched
) -> None:
    out = tmp_path / "out"
    result = invoke(app, "--data", data, "--part", "reasoning,words", "--limit", 2, "--out", out, "--json")
    told = json.loads(result.stdout)
    assert [part["name"] for part in told["parts"]] == ["words"]
    assert "reasoning is left out: it does not reason" in told["notes"]
    assert "with:reasoning" not in switched.opened


def test_a_dry_run_asks_nothing_and_reckons_with_what_was_timed(
    app: typer.Typer, data: Path, tmp_path: Path, switched: Switched
) -> None:
    arguments = ("--data", data, "--part", "words,abstention", "--out", tmp_path / "out")
    told = invoke(app, *arguments, "--dry-run").stdout
    assert "full: 14 of 14 questions left" in told
    assert "42 answers, about 1 min (at 2 s" in told
    assert (switched.opened, (tmp_path / "out").exists()) == ([], False)
    invoke(app, "--data", data, "--part", "words", "--limit", 5, "--out", tmp_path / "out")
    work = json.loads(invoke(app, *arguments, "--dry-run", "--json").stdout)
    assert [(system["name"], system["left"]) for system in work["systems"]] == [
        ("full", 9), ("without:words", 9), ("without:abstention", 14),
    ]  # fmt: skip
    assert work["timed"] and work["seconds"] < 1.0


def test_parts_of_ones_own(app: typer.Typer, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "parts.toml"
    file.write_text(ROW + "settings = {evidence = {passages = 1}}")
    invoke(app, "--data", data, "--parts", file, "--limit", 3, "--out", tmp_path / "out")
    assert by_name(tmp_path / "out")["a"]["metrics"]["f1"]["gain"]["value"] == 1.0


def test_a_part_names_its_system() -> None:
    assert Part(name="a", about="b", turned="on", base=True).system == "with:a"
    assert Part(name="a", about="b", turned="off", base=True).system == "without:a"

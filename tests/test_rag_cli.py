"""The command line as a user types it: real processes on the example documents, real weights."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rag.cli import app
from rag.errors import ConfigError
from rag.filter import View, parse_filter
from rag.index import Index
from rag.pipeline import RagPipeline
from rag.prompt import Prompt
from tests.conftest import CORPUS, REPOSITORY, Command, ListRetriever, QueueGenerator, located, scored, smallhold


def test_what_the_system_refuses_is_no_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    is_dir = Path.is_dir

    def refused(path: Path) -> bool:
        if path.name == "generations":
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refused)
    done = command("store", "repair", "--index", "private")
    assert done.returncode == 3
    assert "private/generations: Permission denied" in done.stderr


def test_the_module_is_the_command(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "rag.cli"]
    for arguments, code in ((["--version"], 0), (["store", "stats", "--index", str(tmp_path / "none")], 3)):
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert done.stdout if code == 0 else "no index" in done.stderr


@pytest.mark.parametrize(
    "name", ["index", "warm", "ask", "chat", "serve", "top", "keys", "calibrate", "eval", "models", "doctor"]
)
def test_help_teaches_every_command(command: Command, name: str) -> None:
    done = command(name, "--help")
    assert done.returncode == 0
    assert "Usage: smallhold" in done.stdout
    assert done.stderr == ""


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = "torch faiss llama_cpp transformers sentence_transformers bm25s pypdfium2 fastapi sklearn".split()
    code = (
        "import sys\nsys.argv = ['smallhold', '--help']\nfrom rag.cli import main\n"
        f"try:\n    main()\nexcept SystemExit:\n    pass\nprint('LOADED', [m for m in {heavy} if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ask",), 2, "Missing argument"),
        (("ask", "why?", "--config", "none.toml"), 2, "there is no configuration file none.toml"),
        (("nonsense",), 2, "No such command"),
        (("models", "pull", "gpt-17"), 2, "Known models"),
        (("serve", "--port", "99999"), 2, "server.port"),
        (("ask", "why?", "--risk", "1.5"), 2, "abstention.risk"),
        (("ask", "why?", "--risk", "0.2", "--no-abstain"), 2, "exclude each other"),
        (("ask", "why?", "--filter", '{"date": {"from": "May"}}'), 2, "date.from: a date is written as YYYY-MM-DD"),
        (("chat", "--filter", "type=pdf"), 2, "the filter is not understood"),
        (("index", ".", "--labels", "none.toml"), 2, "the label rules in none.toml cannot be read"),
        (("index", "--urls", "none.txt"), 2, "fetching pages from the network is not allowed"),
        (("index", ".", "--ocr", "eng --psm 0"), 2, "index.ocr: Value error, languages are written as"),
        (("index", "-", "--watch"), 2, "--watch is for folders and lists of URLs"),
        (("calibrate", "--data", "none", "--out", "a.toml"), 2, "there is no QA-set folder none"),
    ],
)
def test_bad_usage_is_exit_2_and_says_why(command: Command, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = command(*arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_promise_that_nobody_tested_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('fitted_on = "hand"\nthreshold = 0.5\nintercept = 0.0\n[signals]\n')
    done = smallhold("ask", "why?", "--risk", "0.2", cwd=tmp_path, SMALLHOLD_ABSTENTION__FILE="a.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a risk of 0.2 cannot be promised: the estimate a.toml was fitted without a test" in done.stderr
    assert "smallhold calibrate --data QA_SET --out abstention.toml" in done.stderr


def test_missing_weights_are_exit_3_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nSomething.\n")
    registry = tmp_path / "own.toml"
    registry.write_text(
        '[[model]]\nname="elsewhere"\nkind="embedder"\nlicense="mine"\nabout=""\n'
        'files=[{path="config.json"}]\nsource=[{path="nowhere"}]\n'
    )
    variables = {"SMALLHOLD_MODELS__REGISTRY": str(registry), "SMALLHOLD_EMBEDDER__MODEL": "elsewhere"}
    done = smallhold("index", "docs", cwd=tmp_path, SMALLHOLD_CACHE=str(tmp_path / "cache"), **variables)
    assert done.returncode == 3
    assert "smallhold models pull elsewhere" in done.stderr


@pytest.mark.model
def test_indexing_again_does_nothing(example_index: Path, tmp_path: Path) -> None:
    report = json.loads(smallhold("index", CORPUS, "--index", example_index, "--json", cwd=tmp_path).stdout)
    assert (report["published"], report["embedded"], report["unchanged"]) == (False, 0, 37)


@pytest.mark.model
def test_label_rules_are_kept_and_slips_in_them_told(tmp_path: Path) -> None:
    located("all-MiniLM-L6-v2")
    for name in ("hr/pay.md", "open.md"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text("---\ntags: [a, b]\ndate: 2024-03-01\n---\n# Pay\n\nMuch.\n")
    rules = '[[rule]]\npath = "hr/**"\nlabels = ["hr"]\n[[rule]]\npath = "hrr/**"\nlabels = ["hr"]\n'
    (tmp_path / "labels.toml").write_text(rules)
    done = smallhold("index", "docs", "--labels", "labels.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no document has its labels from 'hrr/**'" in done.stderr
    again = json.loads(smallhold("index", "--json", cwd=tmp_path).stdout)
    assert (again["published"], again["unused_rules"]) == (False, ["hrr/**"])
    with Index.open(tmp_path / ".smallhold" / "index") as index:
        public = View(labels=frozenset())
        assert [index.masks.sees(name, public) for name in ("hr/pay.md", "open.md")] == [False, True]
        assert index.masks.sees("hr/pay.md", View(parse_filter('{"tags": {"all": ["a", "b"]}}')))
        assert index.document("open.md").metadata == {"format": "markdown", "tags": "a\nb", "date": "2024-03-01"}


@pytest.mark.model
def test_an_answer_with_its_source(example_index: Path, tmp_path: Path) -> None:
    model = located("qwen2.5-coder-0.5b-reader").spec.name
    question = "How much money did the Moot approve in 2023 for clearing the sand off Norrin Slip?"
    done = smallhold("ask", question, "--index", example_index, "--model", model, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "26,300 crowns" in answer["answer"]
    (citation, *_) = answer["citations"]
    assert citation["document_id"] == "council/minutes-2023-03-16.txt"
    start, end = citation["span"]
    assert (CORPUS / citation["document_id"]).read_text(encoding="utf-8")[start:end] == citation["text"]
    shown = smallhold("ask", question, "--index", example_index, cwd=tmp_path).stdout
    assert "26,300 crowns" in shown
    assert "council/minutes-2023-03-16.txt" in shown


@pytest.mark.model
def test_a_question_from_another_world_gets_no_answer(example_index: Path, tmp_path: Path) -> None:
    question = "Which quarterback won the most Super Bowl rings?"
    done = smallhold("ask", question, "--index", example_index, "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert (answer["verdict"], answer["answer"]) == ("abstained", "The documents do not say.")
    assert answer["citations"] == []
    assert answer["reason"]


@pytest.mark.model
def test_another_embedder_is_refused_with_the_command_that_mends_it(example_index: Path, tmp_path: Path) -> None:
    manifest = next((example_index / "generations").iterdir()) / "manifest.json"
    original = manifest.read_text(encoding="utf-8")
    found = json.loads(original)
    found["embedder"]["fingerprint"] = "0" * 16
    try:
        manifest.write_text(json.dumps(found))
        done = smallhold("ask", "Who?", "--index", example_index, cwd=tmp_path)
    finally:
        manifest.write_text(original)
    assert done.returncode == 3
    assert "--rebuild" in done.stderr


@pytest.mark.model
def test_the_doctor_is_content_and_complains_about_a_missing_index(example_index: Path, tmp_path: Path) -> None:
    located("qwen2.5-coder-0.5b-reader")
    well = smallhold("doctor", "--index", example_index, "--json", cwd=tmp_path)
    assert well.returncode == 0, well.stdout
    assert {"embedder", "index", "generator"} <= {f["check"] for f in json.loads(well.stdout)}
    ill = smallhold("doctor", "--index", "nowhere", cwd=tmp_path)
    assert ill.returncode == 1
    assert "smallhold index" in ill.stdout


def test_no_index_is_exit_3_before_anything_is_loaded(tmp_path: Path) -> None:
    located("all-MiniLM-L6-v2")
    done = smallhold("ask", "Who?", "--index", tmp_path / "none", cwd=tmp_path)
    assert done.returncode == 3
    assert "smallhold index PATH" in done.stderr


def test_a_chat_shows_on_request_how_a_follow_up_was_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, retriever = QueueGenerator("in 1874", "in 1902", "salty"), ListRetriever(scored("Built in 1874."))
    prompt = Prompt(name="test", system="", passage="{text}", user="{passages} {question}", closed_book="")
    pipeline = RagPipeline(generator=generator, counter=generator, prompt=prompt, retriever=retriever)
    monkeypatch.setattr("rag.cli._pipeline", lambda settings: nullcontext(pipeline))
    turns = "When was the mill built?\nAnd when did it burn?\nHow does Lake Orrin taste?\n/quit\n"
    done = CliRunner().invoke(app, ["chat", "--show-question"], input=turns)
    assert done.exit_code == 0, done.output
    assert done.output.count("understood as: And when did the mill burn?") == 1
    assert done.output.count("understood as") == 1
    assert retriever.questions[1:] == ["And when did the mill burn?", "How does Lake Orrin taste?"]


@pytest.mark.parametrize(("flag", "value"), [("--length", "50"), ("--filter", '{"type": "pdf"}')])
def test_a_promise_is_not_given_for_answers_that_were_not_tested(flag: str, value: str) -> None:
    done = CliRunner().invoke(app, ["ask", "Who?", "--risk", "0.2", flag, value])
    assert isinstance(done.exception, ConfigError)
    assert f"--risk and {flag} exclude each other" in str(done.exception)


def test_a_line_of_other_bytes_is_told_and_the_chat_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter([UnicodeDecodeError("utf-8", b"caf\xe9", 3, 4, "invalid"), "/quit"])

    def read(prompt: str) -> str:
        line = next(lines)
        if isinstance(line, Exception):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("rag.cli._pipeline", lambda settings: nullcontext(None))
    done = CliRunner().invoke(app, ["chat"])
    assert done.exit_code == 0, done.output
    assert "no UTF-8" in done.stderr

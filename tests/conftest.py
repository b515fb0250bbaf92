"""Fakes at the seams, and fixtures that give the real weights where they are kept."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest

# Before numpy is loaded: threads that share a small problem, or a core, mostly wait for one another. Fits of five
# weights took ten times as long with two of OpenBLAS's; and where tests run side by side, each process has one core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import standin
from rag import cli
from rag.build import model_store
from rag.config import load_settings
from rag.datatypes import Chunk, Message, Piece, Sampling, ScoredChunk, Span, Usage
from rag.embedder import SentenceEmbedder
from rag.engine.generator import LlamaGenerator
from rag.errors import ModelMissing
from rag.filter import EVERYTHING, View
from rag.models import Model
from rag.protocols import FloatArray

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"
CORPUS = REPOSITORY / "examples" / "corpus"

# How far a logit of the 135M may lie below the greatest for its token to be a near-tie. llama.cpp's sums depend on the
# shape of a batch: 30 prompts read in chunks of 16, 37, 64 or 100 instead of 128 moved single logits by up to 1.1,
# those of the 20 likeliest tokens by 0.5, and the gap between the first of these and another by 0.6. Company and reused
# prefixes change the same sums.
ROUNDING = 1.5

# A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class WordEmbedder(standin.WordEmbedder):
    """One that keeps what it was given."""

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> FloatArray:
        self.embedded.extend(texts)
        return super().embed(texts)


class QueueGenerator:
    """A language model that says what it was given, word by word, and keeps what it was asked."""

    def __init__(self, *answers: str, logprob: float = -0.1) -> None:
        self.answers = list(answers)
        self.logprob = logprob
        self.asked: list[list[Message]] = []
        self.samplings: list[Sampling] = []
        self.closed_early = 0

    def count(self, text: str) -> int:
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        self.asked.append(list(messages))
        self.samplings.append(sampling)
        read = sum(self.count(m.content) for m in messages)
        words = re.findall(r"\s*\S+", self.answers.pop(0))
        try:
            yield Piece("", usage=Usage(read, 0, 0))
            for word in words[: sampling.max_tokens]:
                yield Piece(word, self.logprob, 1)
            cut = len(words) > sampling.max_tokens
            yield Piece(
                "",
                finish_reason="length" if cut else "stop",
                usage=Usage(read, 0, min(len(words), sampling.max_tokens)),
            )
        except GeneratorExit:
            self.closed_early += 1
            raise


class ListRetriever:
    """Returns the chunks it was given and keeps the questions and views."""

    def __init__(self, *found: ScoredChunk) -> None:
        self.found = list(found)
        self.questions: list[str] = []
        self.views: list[View] = []

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        self.questions.append(question)
        self.views.append(view)
        return self.found[:k]


def scored(text: str, *, document: str = "d", title: str = "T", start: int = 0, dense: float = 0.8) -> ScoredChunk:
    """A chunk that stands at `start` in its document."""
    span = Span(start, start + len(text))
    chunk = Chunk(f"{document}#0", document, text, span, {"title": title, "uri": f"file:///{document}"})
    return ScoredChunk(chunk, dense, dense=dense, lexical=1.0)


def located(name: str) -> Model:
    """The real weights of a model, or a skip that says how to get them."""
    try:
        return model_store(load_settings()).locate(name)
    except ModelMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def embedder() -> SentenceEmbedder:
    model = located("all-MiniLM-L6-v2")
    return SentenceEmbedder(model.path, model.spec.name, model.fingerprint)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The GGUF file of the smallest model."""
    return located("smollm2-135m-instruct").file


@pytest.fixture(scope="session")
def tiny_llama(tiny_model: Path) -> Iterator[LlamaGenerator]:
    generator = LlamaGenerator(tiny_model, context=1024)
    yield generator
    generator.close()


def smallhold(*arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from rag.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "120", **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`smallhold` in `tmp_path` without a process of its own, for what needs none: its exit code and what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(cli.app, "registered_groups", [*cli.app.registered_groups])  # `main` adds to them

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["smallhold", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def example_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example documents, indexed by the real command."""
    located("all-MiniLM-L6-v2")
    folder = tmp_path_factory.mktemp("example")
    done = smallhold("index", CORPUS, "--index", folder / "index", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["added"]) == 37
    assert report["failed"] == []
    return folder / "index"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own settings file and variables must not reach the tests."""
    for name in ("SMALLHOLD_CONFIG",):
        monkeypatch.delenv(name, raising=False)

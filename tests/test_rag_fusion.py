"""`smallhold store tune`: a weight is fitted to labelled questions, kept with the index, and used where none is set."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.stage import LineChunker
from eval.fusion_fit import choose
from indexer.sync import build
from rag import cli_fusion
from rag.build import local_pipeline
from rag.cli import app
from rag.config import RetrievalSettings, load_settings
from rag.datatypes import Document
from rag.errors import ConfigError, DataError, IndexMissing, InvalidRequest, Unavailable
from rag.fusion import FUSION, Fusion, read_fusion, with_fusion, write_fusion
from rag.protocols import FloatArray
from rag.serve import load_service

N = 40


class LyingEmbedder:
    """Text n has the direction n; question n that of text n + 1. So the right text has cosine 0, a wrong one 1."""

    name = "lying"
    fingerprint = "lying-1"
    dimension = N

    def embed(self, texts: Sequence[str]) -> FloatArray:
        vectors = np.zeros((len(texts), N), np.float32)
        for row, text in enumerate(texts):
            number = int(text.split("word")[1])
            vectors[row, (number + text.startswith("Where")) % N] = 1
        return vectors


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_fusion, "build_embedder", lambda settings, store: LyingEmbedder())
    publish(tmp_path / "index")
    return tmp_path / "index"


def publish(directory: Path, fingerprint: str = "lying-1", rebuild: bool = False) -> None:
    embedder = LyingEmbedder()
    embedder.fingerprint = fingerprint
    documents = [Document(f"d{n}", "", f"T{n}", f"Here word{n}") for n in range(N)]
    build(directory, documents, embedder=embedder, chunker=LineChunker(), rebuild=rebuild)


def qa_set(folder: Path, relevant: Sequence[Sequence[str]]) -> Path:
    folder.mkdir()
    rows = [
        {"id": f"q{n}", "question": f"Where is word{n}", "answers": [], "answerable": True, "relevant": list(ids)}
        for n, ids in enumerate(relevant)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = sorted({id_ for found in relevant for id_ in found} | {"d0"})
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"id": i, "title": "", "text": "t"}) + "\n" for i in ids))
    (folder / "meta.json").write_text(json.dumps({"name": folder.name, "kind": "k", "license": "l", "source": "s"}))
    return folder


def tune(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["store", "tune", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def own(count: int) -> list[list[str]]:
    return [[f"d{n}"] for n in range(count)]


def test_a_weight_that_pays_is_kept_and_used(directory: Path, tmp_path: Path) -> None:
    """Fused, the right text has w/2 + 1 - w and the wrong one w: right for w < 2/3, else second, nDCG 1/log2(3)."""
    data = qa_set(tmp_path / "mine", own(30))
    assert json.loads(tune("--data", data, "--index", directory, "--dry-run", "--json").stdout)["taken"] is False
    assert not (directory / FUSION).exists()
    found = json.loads(tune("--data", data, "--index", directory, "--json").stdout)
    assert (found["taken"], found["dense_weight"], found["dense_weight_before"]) == (True, 0.65, 0.75)
    assert (found["ndcg"], found["ndcg_before"], found["questions"]) == (1.0, pytest.approx(0.63093), 30)
    assert found["interval"] == [pytest.approx(0.36907)] * 2
    assert found["ndcg_by_weight"]["0.7"] == pytest.approx(0.63093)
    settings = load_settings(None, {"index": {"dir": directory}})
    assert with_fusion(settings).retrieval.dense_weight == 0.65
    publish(directory, rebuild=True)  # what was tuned stays with the documents
    assert with_fusion(settings).retrieval.dense_weight == 0.65
    again = tune("--data", data, "--index", directory)
    assert "0.65 stays: that another weight is better may be chance" in again.stdout
    assert "the default is back" in tune("--reset", "--index", directory).stdout
    assert "nothing was tuned" in tune("--reset", "--index", directory).stdout
    assert with_fusion(settings).retrieval.dense_weight == 0.75


def test_a_weight_that_is_set_stays(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fusion(directory, fusion())
    for wanted in ({"dense_weight": 0.75}, {"dense_weight": 0.2, "candidates": 9}):
        settings = load_settings(None, {"index": {"dir": directory}, "retrieval": wanted})
        assert with_fusion(settings) == settings
    monkeypatch.setenv("SMALLHOLD_RETRIEVAL__DENSE_WEIGHT", "0.75")
    settings = load_settings(None, {"index": {"dir": directory}})
    assert with_fusion(settings).retrieval.dense_weight == 0.75
    monkeypatch.setenv("SMALLHOLD_RETRIEVAL__CANDIDATES", "9")
    monkeypatch.delenv("SMALLHOLD_RETRIEVAL__DENSE_WEIGHT")
    settings = load_settings(None, {"index": {"dir": directory}})
    assert with_fusion(settings).retrieval == RetrievalSettings(candidates=9, dense_weight=0.3)


def test_a_promise_of_another_weight_is_none(directory: Path) -> None:
    """Neither on the command line nor by a server: both take the weight of the index."""
    write_fusion(directory, fusion())
    settings = load_settings(None, {"index": {"dir": directory}, "abstention": {"risk": 0.2}})
    with pytest.raises(ConfigError, match=r"retrieval\.dense_weight is 0\.3, not 0\.75"), local_pipeline(settings):
        pass
    with pytest.raises(ConfigError, match=r"retrieval\.dense_weight is 0\.3, not 0\.75"):
        load_service(settings)


@pytest.mark.parametrize(
    "content", [b"dense_weight = 2", b"\xff", b"dense_weight = 0.3\n" * 9000, b"unheard = 1"], ids=range(4)
)
def test_a_damaged_file_is_left_alone(directory: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (directory / FUSION).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert read_fusion(directory) is None
    assert "is ignored" in caplog.text


def test_a_weight_of_another_embedder_does_not_count(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_fusion(directory, fusion())
    assert read_fusion(directory) == fusion()
    publish(directory, "lying-2", rebuild=True)
    assert read_fusion(directory) is None
    assert "another embedder" in caplog.text


def test_questions_that_cannot_be_used_are_told(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 33 questions name a relevant document"):
        tune("--data", qa_set(tmp_path / "strange", [*own(3), *[["x"]] * 30]), "--index", directory)
    with pytest.raises(DataError, match="no question names"):
        tune("--data", qa_set(tmp_path / "none", [[]] * 30), "--index", directory)
    with pytest.raises(InvalidRequest, match="no questions were given"):
        tune("--index", directory)
    with pytest.raises(InvalidRequest, match="--reset goes with neither"):
        tune("--index", directory, "--reset", "--dry-run")
    with pytest.raises(IndexMissing):
        tune("--index", tmp_path / "nowhere", "--reset")
    done = tune("--data", qa_set(tmp_path / "some", [*own(25), ["x"]]), "--index", directory)
    assert "1 more questions name documents that are not in the index" in done.stderr


def test_a_disk_that_refuses_is_told(directory: Path, tmp_path: Path) -> None:
    (directory / f".{FUSION}").mkdir()
    with pytest.raises(Unavailable, match=r"cannot write .*fusion\.toml"):
        tune("--data", qa_set(tmp_path / "mine", own(30)), "--index", directory)
    assert not (directory / FUSION).exists()


def test_a_gain_by_chance_is_not_taken() -> None:
    """Of 21 columns of noise one is best; questions that did not choose it do not say so."""
    noise_qw = np.random.default_rng(3).uniform(0, 1, (40, 21))
    weights = [round(0.05 * n, 2) for n in range(21)]
    found = choose(noise_qw, weights, np.arange(40), 0.75)
    assert found.by_weight[found.weight] == max(found.by_weight.values()) > found.before
    assert not found.pays
    same_qw = np.ones((40, 21))
    assert choose(same_qw, weights, np.arange(40), 0.75).weight == 0.75


def test_questions_of_one_document_choose_for_others_only() -> None:
    """Two documents with ten questions each, each best with another weight: each is asked with the other's."""
    scores_qw = np.zeros((20, 2))
    scores_qw[:10, 0] = scores_qw[10:, 1] = 1
    found = choose(scores_qw, [0.5, 0.75], np.repeat([0, 1], 10), 0.75)
    assert (found.cross_validated, found.before) == (0.0, 0.5)
    assert not found.pays


def fusion() -> Fusion:
    return Fusion(
        dense_weight=0.3,
        embedder="lying-1",
        questions=30,
        sets=("mine",),
        ndcg=0.9,
        ndcg_before=0.8,
        gain_low=0.05,
        gain_high=0.15,
    )

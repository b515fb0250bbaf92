"""Finding chunks: by meaning, by words, by both, with numbers worked by hand."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from indexer.sync import build
from rag.datatypes import Chunk, Document, ScoredChunk, Span
from rag.index import Index
from rag.protocols import FloatArray
from rag.retrieve import DenseRetriever, FusedRetriever, LexicalRetriever, best_rows, combine


class TableEmbedder:
    """Texts to the unit vectors of a table; what is not listed points away from all of them."""

    name = "table"
    fingerprint = "table-3"
    dimension = 3

    def __init__(self, **directions: Sequence[float]) -> None:
        self._directions = directions

    def embed(self, texts: Sequence[str]) -> FloatArray:
        rows = [next((v for key, v in self._directions.items() if key in text), (0, 0, 1)) for text in texts]
        return np.array(rows, np.float32).reshape(-1, 3)


class WholeChunker:
    """Every document is one chunk."""

    tokens = 100
    overlap = 0
    fingerprint = "whole"

    def chunk(self, document: Document) -> list[Chunk]:
        span = Span(0, len(document.text))
        return [Chunk(f"{document.id}#0", document.id, document.text, span, {"title": document.title})]


# Rows follow the ids. Cosines with the question "river": a 0.6, b 0.8, c 0, d 0.
TEXTS = {"a": "alpha mill", "b": "bravo stone", "c": "charlie river", "d": "delta river river"}
EMBEDDER = TableEmbedder(
    alpha=(0.6, 0.8, 0), bravo=(0.8, 0.6, 0), charlie=(0, 1, 0), delta=(0, 0.6, 0.8), river=(1, 0, 0)
)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    documents = [Document(id_, f"file:///{id_}", "page", text) for id_, text in TEXTS.items()]
    build(tmp_path / "index", documents, embedder=EMBEDDER, chunker=WholeChunker())
    with Index.open(tmp_path / "index") as opened:
        yield opened


def ids(found: Sequence[ScoredChunk]) -> list[str]:
    return [scored.chunk.document_id for scored in found]


def river_scores() -> tuple[float, float]:
    """BM25 of "river" in c and d: terms (page, charlie, river) and (page, delta, river, river); mean length 3.25."""
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    c = idf * 1 / (1 + 1.2 * (0.25 + 0.75 * 3 / 3.25))
    d = idf * 2 / (2 + 1.2 * (0.25 + 0.75 * 4 / 3.25))
    return c, d


def test_dense_ranks_by_cosine(index: Index) -> None:
    found = DenseRetriever(index, EMBEDDER).retrieve("river", 3)
    assert ids(found) == ["b", "a", "c"]
    assert [scored.score for scored in found] == pytest.approx([0.8, 0.6, 0.0])
    assert [scored.dense for scored in found] == [scored.score for scored in found]
    assert [scored.lexical for scored in found] == [None, None, None]


def test_lexical_ranks_by_bm25_and_leaves_out_what_does_not_match(index: Index) -> None:
    found = LexicalRetriever(index).retrieve("Rivers?", 10)
    assert ids(found) == ["d", "c"]
    assert [scored.score for scored in found] == pytest.approx(river_scores()[::-1], abs=1e-6)
    assert [scored.lexical for scored in found] == [scored.score for scored in found]
    assert [scored.dense for scored in found] == [None, None]


def test_fusion_adds_weighted_normalized_scores(index: Index) -> None:
    c, d = river_scores()
    # The best cosine is 0.8, the best BM25 score d: dense (1 + cosine) / 1.8, lexical score / d.
    expected = {"a": 0.4 * 1.6 / 1.8, "b": 0.4, "c": 0.4 / 1.8 + 0.6 * c / d, "d": 0.4 / 1.8 + 0.6}
    found = FusedRetriever(index, EMBEDDER, candidates=10, dense_weight=0.4).retrieve("river", 10)
    assert ids(found) == ["d", "c", "b", "a"]
    assert {s.chunk.document_id: s.score for s in found} == pytest.approx(expected, abs=1e-6)


def test_every_candidate_has_both_scores_also_the_one_that_did_not_find_it(index: Index) -> None:
    # One candidate of each: b by meaning, d by words. The other two are no candidates.
    found = FusedRetriever(index, EMBEDDER, candidates=1, dense_weight=0.4).retrieve("river", 1)
    assert ids(found) == ["d"]
    both = FusedRetriever(index, EMBEDDER, candidates=2, dense_weight=0.9).retrieve("river", 2)
    assert ids(both) == ["b", "a"]
    assert [(s.dense, s.lexical) for s in both] == [(pytest.approx(0.8), 0.0), (pytest.approx(0.6), 0.0)]
    all_found = FusedRetriever(index, EMBEDDER, candidates=2).retrieve("river", 4)
    by_id = {s.chunk.document_id: s for s in all_found}
    assert by_id["d"].dense == pytest.approx(0.0)
    assert by_id["d"].lexical == pytest.approx(river_scores()[1], abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 50])
def test_more_is_asked_for_than_candidates(index: Index, k: int) -> None:
    assert len(FusedRetriever(index, EMBEDDER, candidates=1).retrieve("river", k)) == min(k, 4)


@pytest.mark.parametrize(("weight", "order"), [(0.0, ["d", "c", "a", "b"]), (1.0, ["b", "a", "c", "d"])])
def test_a_weight_of_all_or_nothing_is_one_retriever_with_ties_by_row(
    index: Index, weight: float, order: list[str]
) -> None:
    assert ids(FusedRetriever(index, EMBEDDER, dense_weight=weight).retrieve("river", 4)) == order


@pytest.mark.parametrize("question", ["", " ", "the of what", "🌾", "\ud83d", "?!", "x" * 10_000, "river " * 2_000])
def test_odd_questions_are_answered(index: Index, question: str) -> None:
    matching = 2 if "river" in question else 0
    assert len(LexicalRetriever(index).retrieve(question, 10)) == matching
    assert len(DenseRetriever(index, EMBEDDER).retrieve(question, 10)) == 4
    fused = FusedRetriever(index, EMBEDDER).retrieve(question, 10)
    assert len(fused) == 4
    assert all(0 <= scored.score <= 1 for scored in fused)


@pytest.mark.parametrize("k", [0, -1])
def test_nothing_asked_for_is_nothing_found(index: Index, k: int) -> None:
    assert DenseRetriever(index, EMBEDDER).retrieve("river", k) == []
    assert LexicalRetriever(index).retrieve("river", k) == []
    assert FusedRetriever(index, EMBEDDER).retrieve("river", k) == []


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    build(tmp_path / "index", [], embedder=EMBEDDER, chunker=WholeChunker())
    with Index.open(tmp_path / "index") as empty:
        assert DenseRetriever(empty, EMBEDDER).retrieve("river", 5) == []
        assert LexicalRetriever(empty).retrieve("river", 5) == []
        assert FusedRetriever(empty, EMBEDDER).retrieve("river", 5) == []


def test_best_rows_takes_the_first_of_equals() -> None:
    scores = np.array([1, 0, 2, 1, 2, 1, -1], np.float32)
    assert [best_rows(scores, k).tolist() for k in (1, 3, 9)] == [[2], [2, 4, 0], [2, 4, 0, 3, 5]]


def test_scores_that_say_nothing_add_nothing() -> None:
    # No term matched, and every cosine is -1: nothing to divide by.
    assert combine(np.array([-1, -1], np.float32), np.zeros(2, np.float32), 0.5).tolist() == [0, 0]

"""Systems that are handed the relevant documents."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread

import pytest

from eval.oracle import OracleRetriever, OracleSystem
from eval.qaset import Question
from indexer.sync import build
from rag.datatypes import Chunk, Document, ScoredChunk, Span
from rag.index import Index
from rag.pipeline import RagPipeline
from rag.prompt import load_prompt
from tests.conftest import QueueGenerator
from tests.test_rag_retrieve import EMBEDDER, TEXTS, WholeChunker, river_scores


class HalfChunker(WholeChunker):
    """Every document is one chunk, but "two" is two: its halves at the slash."""

    fingerprint = "halves"

    def chunk(self, document: Document) -> list[Chunk]:
        at = document.text.find("/") + 1
        spans = [Span(0, at), Span(at, len(document.text))] if at else [Span(0, len(document.text))]
        return [
            Chunk(f"{document.id}#{n}", document.id, document.text[slice(*span)], span, {"title": document.title})
            for n, span in enumerate(spans)
        ]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    texts = {**TEXTS, "two": "nothing/bravo"}
    documents = [Document(id_, f"file:///{id_}", "page", text) for id_, text in texts.items()]
    build(tmp_path / "index", documents, embedder=EMBEDDER, chunker=HalfChunker())
    with Index.open(tmp_path / "index") as opened:
        yield opened


def ids(found: Sequence[ScoredChunk]) -> list[str]:
    return [scored.chunk.id for scored in found]


def test_relevant_chunks_alone_come_best_first_with_the_usual_scores(index: Index) -> None:
    retriever = OracleRetriever(index, EMBEDDER, 0.75)
    retriever.relevant = ("c", "a")
    found = retriever.retrieve("river", 10)
    assert ids(found) == ["a#0", "c#0"]
    # Cosines 0.6 and 0 give 1 and 1/1.6 of the best; only c has the word.
    assert [scored.score for scored in found] == pytest.approx([0.75, 0.75 / 1.6 + 0.25])
    assert [scored.dense for scored in found] == pytest.approx([0.6, 0.0])
    assert found[0].lexical == 0 and found[1].lexical is not None and found[1].lexical > 0
    assert ids(retriever.retrieve("river", 1)) == ["a#0"]
    assert river_scores()[0] > 0


def test_what_a_thread_hands_over_is_its_own(index: Index) -> None:
    retriever = OracleRetriever(index, EMBEDDER, 0.75)
    retriever.relevant = ("a",)
    found: list[list[str]] = []

    def ask() -> None:
        found.append(ids(retriever.retrieve("river", 10)))
        retriever.relevant = ("c",)
        found.append(ids(retriever.retrieve("river", 10)))

    other = Thread(target=ask)
    other.start()
    other.join()
    assert found == [[], ["c#0"]] and ids(retriever.retrieve("river", 10)) == ["a#0"]


def test_all_chunks_of_a_relevant_document_are_ranked(index: Index) -> None:
    retriever = OracleRetriever(index, EMBEDDER, 1.0)
    retriever.relevant = ("two",)
    assert ids(retriever.retrieve("river", 10)) == ["two#1", "two#0"]  # bravo has cosine 0.8, nothing 0


def test_nothing_is_found_where_nothing_is_relevant(index: Index) -> None:
    retriever = OracleRetriever(index, EMBEDDER, 0.75)
    assert retriever.retrieve("river", 10) == []
    retriever.relevant = ("not in the index",)
    assert retriever.retrieve("river", 10) == []
    retriever.relevant = ("a",)
    assert retriever.retrieve("river", 0) == []


def question(text: str, *relevant: str) -> Question:
    return Question(text, text, ("mill",), True, relevant)


def test_each_question_is_answered_from_its_own_documents(index: Index) -> None:
    model = QueueGenerator("mill", "stone")
    retriever = OracleRetriever(index, EMBEDDER, 0.75)
    pipeline = RagPipeline(generator=model, counter=model, prompt=load_prompt("extractive"), retriever=retriever)
    system = OracleSystem("weights", lambda: (pipeline, retriever))
    system.prepare()
    first, second = system.ask(question("river one", "a")), system.ask(question("river two", "b"))
    assert (first.answer.text, ids(first.answer.retrieved)) == ("mill", ["a#0"])
    assert (second.answer.text, ids(second.answer.retrieved)) == ("stone", ["b#0"])
    none = system.ask(question("river three"))
    assert (none.answer.abstained, none.answer.reason) == (True, "no passage was found")
    assert ids(system.retrieve(question("river", "d"))) == ["d#0"]

"""Passages that say the same are shown once, with all their sources, and none of it is lost or leaked."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from indexer.compact import compact
from indexer.merge import MergePolicy
from indexer.sync import build
from indexer.verify import verify
from rag.cite import cite
from rag.datatypes import Document, ScoredChunk, Span
from rag.errors import IndexDamaged
from rag.filter import EVERYTHING, View, parse_filter
from rag.index import Index
from rag.labels import LabelRule
from rag.manifest import GENERATIONS, MANIFEST, MANIFEST_SUM, SEGMENTS, STORE, describe_file, manifest_sum, read_current
from rag.minhash import BANDS, say_the_same, signature
from rag.protocols import Retriever
from rag.retrieve import DenseRetriever, FusedRetriever, LexicalRetriever
from tests.conftest import WordEmbedder
from tests.test_indexer_segments import NEVER, LineChunker
from tests.test_rag_access_labels import load
from tests.test_rag_app import serving
from tests.test_rag_minhash import LEASE

COPY = LEASE.replace("mended", "fixed")
NEXT_YEAR = LEASE.replace("100 crowns", "120 crowns").replace("2023", "2024")
ASKED = "What does the tenant of the mill pay?"


def make(
    directory: Path,
    texts: dict[str, str],
    *,
    titles: dict[str, str] | None = None,
    labels: tuple[LabelRule, ...] | None = None,
    policy: MergePolicy = NEVER,
) -> None:
    documents = [Document(id_, f"file:///{id_}", (titles or {}).get(id_, "Page"), text) for id_, text in texts.items()]
    build(directory, documents, embedder=WordEmbedder(), chunker=LineChunker(), labels=labels, policy=policy)


def retrievers(index: Index) -> list[Retriever]:
    return [
        DenseRetriever(index, WordEmbedder()),
        LexicalRetriever(index),
        FusedRetriever(index, WordEmbedder(), candidates=2),
    ]


def told(found: Sequence[ScoredChunk]) -> list[tuple[str, list[str]]]:
    """The documents shown, best first, each with those in which the same stands."""
    return [(s.chunk.document_id, sorted(other.document_id for other in s.also_in)) for s in found]


def groups(directory: Path, question: str = ASKED, view: View = EVERYTHING, k: int = 10) -> set[frozenset[str]]:
    """The documents that are named together, the same by every retriever."""
    with closing(Index.open(directory)) as index:
        answers = [
            {frozenset([shown, *others]) for shown, others in told(retriever.retrieve(question, k, view))}
            for retriever in retrievers(index)
        ]
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A lease, its copy with a word changed, the next year's, and something else; the copy came in a later segment."""
    texts = {"lease": LEASE, "next": NEXT_YEAR, "other": "The tenant of the smithy pays the mill nothing."}
    make(tmp_path / "index", texts)
    make(tmp_path / "index", {**texts, "copy": COPY})
    assert len(list((tmp_path / "index" / SEGMENTS).iterdir())) == 2
    return tmp_path / "index"


def test_what_says_the_same_is_shown_once_with_all_its_sources(directory: Path) -> None:
    assert groups(directory) == {frozenset({"lease", "copy"}), frozenset({"next"}), frozenset({"other"})}


def test_the_one_that_has_the_words_of_the_question_is_shown(tmp_path: Path) -> None:
    make(tmp_path / "index", {"lease": LEASE, "copy": COPY})
    with closing(Index.open(tmp_path / "index")) as index:
        for retriever in retrievers(index):
            assert told(retriever.retrieve("What is mended?", 10)) == [("lease", ["copy"])]
            assert told(retriever.retrieve("What is fixed?", 10)) == [("copy", ["lease"])]
            # Each has a word that the other one lacks: neither stands for the other.
            both = told(retriever.retrieve("What is mended and what is fixed?", 10))
            assert sorted(both) == [("copy", []), ("lease", [])]


def test_a_title_that_the_question_names_is_not_hidden(tmp_path: Path) -> None:
    make(tmp_path / "index", {"a": LEASE, "b": LEASE}, titles={"a": "Ardal mill", "b": "Vossen mill"})
    assert groups(tmp_path / "index", "the lease of the mill") == {frozenset({"a", "b"})}
    both = "Is the lease of Ardal that of Vossen?"
    with closing(Index.open(tmp_path / "index")) as index:
        found = FusedRetriever(index, WordEmbedder()).retrieve(both, 10)
    # The text names Ardal, so that the page of Ardal has nothing that the other one lacks.
    assert told(found)[0][0] == "b"


def test_a_deleted_document_hides_nothing(directory: Path) -> None:
    make(directory, {"copy": COPY, "next": NEXT_YEAR})
    assert groups(directory) == {frozenset({"copy"}), frozenset({"next"})}
    make(directory, {"copy": COPY, "next": NEXT_YEAR, "again": LEASE})
    assert groups(directory) == {frozenset({"copy", "again"}), frozenset({"next"})}
    make(directory, {"next": NEXT_YEAR, "again": LEASE.replace("Ardal", "Vossen")})
    assert groups(directory) == {frozenset({"next"}), frozenset({"again"})}


def test_merged_segments_fold_as_before(directory: Path) -> None:
    before = groups(directory)
    assert compact(directory)
    assert groups(directory) == before
    assert verify(directory).problems == []


def test_nothing_is_folded_into_what_may_not_be_seen(tmp_path: Path) -> None:
    rules = (LabelRule(path="hr/**", labels=("hr",)),)
    texts = {"hr/lease": LEASE, "copy": COPY, "third": LEASE.replace("rooms", "chambers")}
    make(tmp_path / "index", texts, labels=rules)
    everybody = View(labels=frozenset())
    assert groups(tmp_path / "index", view=everybody) == {frozenset({"copy", "third"})}
    assert groups(tmp_path / "index", view=View(labels=frozenset({"hr"}))) == {frozenset(texts)}
    assert groups(tmp_path / "index") == {frozenset(texts)}
    only = View(filter=parse_filter('{"path": {"glob": "third"}}'))
    assert groups(tmp_path / "index", view=only) == {frozenset({"third"})}


def test_the_ends_of_a_chain_are_not_folded(tmp_path: Path) -> None:
    """Each link says what the next one says, the ends do not say the same: one family, but no group of three."""
    places = [
        i for i, word in enumerate(LEASE.split()) if word in {"runs", "pays", "wheel", "rooms", "mended", "smithy"}
    ]
    links = [LEASE.split() for _ in range(3)]
    for place in places[:3]:
        links[1][place] = links[2][place] = "willow"
    for place in places[3:]:
        links[2][place] = "birch"
    a, b, c = map(" ".join, links)
    assert (say_the_same(a, b), say_the_same(b, c), say_the_same(a, c)) == (True, True, False)
    make(tmp_path / "index", {"a": a, "b": b, "c": c})
    with closing(Index.open(tmp_path / "index")) as index:
        assert len(index.duplicates) == 3
        for ranked, shown in (([0, 1, 2], {"a": ["b"], "c": ["b"]}), ([1, 0, 2], {"b": ["a", "c"]})):
            found = index.duplicates.fold("lease", np.array(ranked), 10)
            assert {u.chunk.document_id: [o.document_id for o in u.also_in] for u in found} == shown
        # Without the middle both ends are shown.
        found = index.duplicates.fold("lease", np.array([0, 2]), 10, np.array([True, False, True]))
        assert [(u.position, u.chunk.document_id, u.also_in) for u in found] == [(0, "a", ()), (1, "c", ())]


def test_copies_by_the_dozen_do_not_crowd_out_what_else_there_is(tmp_path: Path) -> None:
    texts = {f"copy-{n:02d}": LEASE for n in range(60)}
    make(tmp_path / "index", {**texts, "next": NEXT_YEAR})
    with closing(Index.open(tmp_path / "index")) as index:
        for retriever in retrievers(index):
            found = told(retriever.retrieve(ASKED, 5))
            assert len(found) == 2
            assert {document[:4] for document, _ in found} == {"copy", "next"}
            # Everything that was folded is told, and never more than so many.
            assert max(len(others) for _, others in found) in range(49, 51)


def test_ranks_and_scores_are_those_of_what_is_shown(directory: Path) -> None:
    with closing(Index.open(directory)) as index:
        found = FusedRetriever(index, WordEmbedder()).retrieve(ASKED, 10)
        scores, rows = index.vectors.search(WordEmbedder().embed([ASKED])[0], 10)
        cosines = {c.id: s for c, s in zip(index.chunks(rows.tolist()), scores.tolist(), strict=True)}
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    assert all(s.dense == pytest.approx(cosines[s.chunk.id], abs=1e-6) for s in found)


def test_a_citation_names_the_documents_in_which_the_same_sentence_stands(directory: Path) -> None:
    with closing(Index.open(directory)) as index:
        found = FusedRetriever(index, WordEmbedder()).retrieve(ASKED, 10)
        passage = next(s for s in found if s.also_in)
        cited = cite(ASKED, "The tenant pays a fee of 100 crowns.", [passage])
        (citation,) = cited.citations
        (place,) = citation.also_in
        assert {citation.document_id, place.document_id} == {"lease", "copy"}
        text = index.document(place.document_id).text
        assert text[place.span.start : place.span.end] == citation.text
        assert isinstance(place.span, Span)
        # The sentence in which the two differ stands in one of them alone.
        (citation,) = cite(ASKED, "What is broken is mended within a month by whoever broke it.", [passage]).citations
        assert citation.also_in == ()


def test_the_endpoint_tells_the_other_sources_that_may_be_seen(tmp_path: Path) -> None:
    rules = (LabelRule(path="hr/**", labels=("hr",)),)
    make(tmp_path / "index", {"hr/lease": LEASE, "copy": COPY, "third": COPY, "next": NEXT_YEAR}, labels=rules)
    with closing(Index.open(tmp_path / "index")) as index, serving(lambda: load(index)) as client:
        hits = client.post("/v1/search", json={"query": ASKED, "k": 10}).json()["data"]
        found = {hit["document_id"]: hit["also_in"] for hit in hits}
        assert (len(hits), found.keys(), found["next"]) == (2, {"copy", "next"}, [])
        (place,) = found["copy"]
        assert place == {
            "document_id": "third",
            "title": "Page",
            "uri": "",
            "chunk_id": "third#0",
            "span": [0, len(COPY)],
            "page": None,
        }
        asked = {"messages": [{"role": "user", "content": "What is fixed within a month?"}], "abstain": False}
        reply = client.post("/v1/chat/completions", json=asked)
        assert reply.status_code == 200
        assert "hr/lease" not in reply.text
        named = {p["document_id"] for source in reply.json()["citations"] for p in source["also_in"]}
        assert named == ({"third"} if reply.json()["citations"][0]["document_id"] == "copy" else set())


def test_an_index_that_was_written_without_signatures_is_read_and_extended(directory: Path) -> None:
    without_signatures(directory)
    assert groups(directory) == {frozenset([name]) for name in ("lease", "copy", "next", "other")}
    texts = {"lease": LEASE, "next": NEXT_YEAR, "copy": COPY, "new": NEXT_YEAR + " Amen."}
    make(directory, texts)
    make(directory, {**texts, "newest": texts["new"]})
    assert groups(directory) == {frozenset(g) for g in ({"lease"}, {"copy"}, {"next"}, {"new", "newest"})}
    assert compact(directory)
    assert groups(directory) == {frozenset(g) for g in ({"lease", "copy"}, {"next"}, {"new", "newest"})}
    assert verify(directory).problems == []


def test_an_index_with_a_signature_too_few_is_damaged(directory: Path) -> None:
    change_stores(directory, "DELETE FROM signatures WHERE row = 0")
    with pytest.raises(IndexDamaged, match="not one signature a chunk"):
        Index.open(directory)
    assert "not one signature a chunk" in verify(directory).problems[0]


def test_signatures_of_texts_are_stored(directory: Path) -> None:
    with closing(Index.open(directory)) as index:
        rows, bands = index.store.signatures()
        chunks = index.chunks(rows.tolist())
        assert len(index.duplicates) == 2
    assert bands.shape == (4, BANDS)
    assert np.array_equal(bands, [signature(chunk.text) for chunk in chunks])


def without_signatures(directory: Path) -> None:
    """Make an index what versions before this one have written."""
    change_stores(directory, "DROP TABLE signatures")


def change_stores(directory: Path, statement: str) -> None:
    generation = directory / GENERATIONS / read_current(directory)
    manifest = json.loads((generation / MANIFEST).read_text())
    for segment in manifest["segments"]:
        store = directory / SEGMENTS / segment["name"] / STORE
        with closing(sqlite3.connect(store)) as database:
            database.execute(statement)
            database.commit()
        segment["files"][STORE] = describe_file(store).model_dump()
    content = json.dumps(manifest).encode()
    (generation / MANIFEST).write_bytes(content)
    (generation / MANIFEST_SUM).write_text(manifest_sum(content))

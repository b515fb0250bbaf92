"""An index of many segments answers as one that is built anew, and grows without being rewritten."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.stage import FINE, LineChunker
from indexer.compact import compact
from indexer.merge import MergePolicy, Size
from indexer.sync import build
from rag.datatypes import Chunk, Document, Span
from rag.errors import IndexDamaged, InvalidRequest
from rag.index import Index
from rag.manifest import GENERATIONS, SEGMENTS, read_current, read_deleted, read_manifest
from rag.postings import Postings
from rag.rows import Rows
from rag.vectors import FlatVectors
from tests.conftest import WordEmbedder

NEVER = MergePolicy(small=0, factor=10**6)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make(directory: Path, texts: dict[str, str], policy: MergePolicy = NEVER) -> None:
    documents = [Document(id_, f"file:///{id_}", id_, text) for id_, text in texts.items()]
    build(directory, documents, embedder=WordEmbedder(), chunker=LineChunker(), policy=policy)


def segments(directory: Path) -> list[tuple[int, int]]:
    """Documents of each segment of the current generation, and how many of them are deleted."""
    generation = directory / GENERATIONS / read_current(directory)
    manifest = read_manifest(generation)
    deleted = read_deleted(generation, manifest)
    assert {path.name for path in (directory / SEGMENTS).iterdir()} == {segment.name for segment in manifest.segments}
    return [(segment.documents, len(deleted.get(segment.name, ()))) for segment in manifest.segments]


def found(index: Index, question: str) -> tuple[dict[str, float], dict[str, float], list[tuple[str, float]]]:
    """BM25 of every chunk, cosine of every chunk, and the best ten by cosine among chunks of even length."""
    chunks = list(index.store.all_chunks())
    query_d = WordEmbedder().embed([question])[0]
    lexical = {chunk.id: float(score) for chunk, score in zip(chunks, index.lexical.scores(question), strict=True)}
    scores, rows = index.vectors.search(query_d, len(chunks))
    assert index.vectors.rows(rows) @ query_d == pytest.approx(scores, abs=1e-6)
    dense = {chunk.id: float(score) for chunk, score in zip(index.chunks(rows.tolist()), scores, strict=True)}
    even = np.array([len(chunk.text) % 2 == 0 for chunk in chunks], np.bool_)
    scores, rows = index.vectors.search(query_d, 10, even)
    assert len(scores) == min(10, even.sum())
    assert all(even[rows])
    return lexical, dense, [(chunks[row].id, float(score)) for row, score in zip(rows, scores, strict=True)]


def write_texts(rng: random.Random) -> str:
    words = [f"w{int(rng.paretovariate(0.7)) % 40}" for _ in range(rng.randint(0, 60))]
    return "\n".join(" ".join(words[at : at + 7]) for at in range(0, len(words), 7))


@pytest.mark.parametrize("policy", [NEVER, FINE, MergePolicy()], ids=["never merged", "merged by tiers", "as shipped"])
@pytest.mark.parametrize("seed", [1, 2])
def test_segments_answer_as_an_index_that_is_built_anew(tmp_path: Path, policy: MergePolicy, seed: int) -> None:
    """Documents come, change and go at random; every few runs all scores are compared."""
    rng = random.Random(seed)
    texts: dict[str, str] = {}
    most = 0
    for step in range(24):
        for _ in range(rng.randint(1, 3)):
            name = f"d{rng.randrange(12)}"
            if name in texts and rng.random() < 0.4:
                del texts[name]
            else:
                texts[name] = write_texts(rng)
        make(tmp_path / "index", texts, policy)
        most = max(most, len(segments(tmp_path / "index")))
        if step % 8 == 7:
            make(tmp_path / f"anew-{step}", texts)
            with Index.open(tmp_path / "index") as grown, Index.open(tmp_path / f"anew-{step}") as anew:
                assert grown.documents() == anew.documents()
                assert {d.id: grown.document(d.id) for d in grown.documents()} == {
                    d.id: anew.document(d.id) for d in anew.documents()
                }
                for name in texts:
                    assert grown.store.chunks_of(name) == anew.store.chunks_of(name)
                for question in ("w1 w2 w3", "w17", "w1 w1 w39 nothing", "d3 w5", ""):
                    for mine, theirs in zip(found(grown, question)[:2], found(anew, question)[:2], strict=True):
                        assert mine == pytest.approx(theirs, abs=1e-6)
                    best = [[score for _, score in found(index, question)[2]] for index in (grown, anew)]
                    assert best[0] == pytest.approx(best[1], abs=1e-6)
    assert most > 3 or policy == MergePolicy()


def test_scores_are_those_of_bm25s(tmp_path: Path) -> None:
    """An independent implementation, over a corpus that changed."""
    import bm25s

    from rag.lexical import Analyzer

    rng = random.Random(3)
    texts = {f"d{n}": write_texts(rng) for n in range(30)}
    make(tmp_path, texts)
    texts = {name: text for name, text in texts.items() if name != "d7"} | {"d3": write_texts(rng), "e": "w1 new words"}
    make(tmp_path, texts)
    with Index.open(tmp_path) as index:
        rows = [Analyzer().terms(chunk.context_text) for chunk in index.store.all_chunks()]
        peer = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        peer.index(rows, show_progress=False)
        for question in ("w1 w2", "w3 new", "d3 w39"):
            expected = peer.get_scores(Analyzer().terms(question))
            assert index.lexical.scores(question) == pytest.approx(expected, abs=1e-5)


def test_one_more_document_leaves_published_segments_alone(tmp_path: Path) -> None:
    texts = {f"d{n}": f"line {n}\nanother" for n in range(5)}
    make(tmp_path, texts)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (tmp_path / SEGMENTS).rglob("*.*")}
    make(tmp_path, texts | {"e": "new", "d1": "changed"})
    assert segments(tmp_path) == [(5, 1), (2, 0)]
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in before} == before


def test_a_document_that_went_is_not_found_and_one_that_came_back_is(tmp_path: Path) -> None:
    make(tmp_path, {"a": "alpha beta", "b": "beta"})
    make(tmp_path, {"b": "beta"})
    assert segments(tmp_path) == [(2, 1)]
    with Index.open(tmp_path) as index:
        assert index.manifest.counts.model_dump() == {"documents": 1, "chunks": 1}
        assert len(index.vectors) == len(index.lexical) == 1
        with pytest.raises(InvalidRequest, match="no document 'a'"):
            index.document("a")
        with pytest.raises(InvalidRequest, match="no chunk in row 1"):
            index.chunk(1)
        assert index.store.chunks_of("a") == []
        assert index.chunk(0).text == "beta"
        assert index.lexical.scores("alpha").tolist() == [0]
    make(tmp_path, {"a": "alpha beta", "b": "beta"})
    assert segments(tmp_path) == [(2, 1), (1, 0)]
    with Index.open(tmp_path) as index:
        assert index.document("a").text == "alpha beta"
        assert [chunk.document_id for chunk in index.store.all_chunks()] == ["b", "a"]


def test_a_segment_of_which_nothing_is_left_is_dropped(tmp_path: Path) -> None:
    make(tmp_path, {"a": "alpha"})
    make(tmp_path, {"a": "alpha", "b": "beta"})
    make(tmp_path, {"b": "beta"})
    assert segments(tmp_path) == [(1, 0)]
    make(tmp_path, {})
    assert segments(tmp_path) == []


def holds(directory: Path, word: str) -> list[str]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [path.name for path in files if word.encode() in path.read_bytes()]


def test_compaction_leaves_one_segment_and_nothing_of_what_is_deleted(tmp_path: Path) -> None:
    texts = {f"d{n}": f"line {n}\nanother" for n in range(5)}
    make(tmp_path, texts | {"secret": "zorblatt " * 100})
    make(tmp_path, texts)
    make(tmp_path, texts | {"e": "new"})
    assert holds(tmp_path, "zorblatt") == ["terms.txt", "store.sqlite"]
    assert holds(tmp_path, "secret") != []
    with Index.open(tmp_path) as index:
        before = {d.id: index.document(d.id) for d in index.documents()}
    assert compact(tmp_path)
    assert segments(tmp_path) == [(6, 0)]
    assert holds(tmp_path, "zorblatt") == holds(tmp_path, "secret") == []
    with Index.open(tmp_path) as index:
        assert {d.id: index.document(d.id) for d in index.documents()} == before
    assert not compact(tmp_path)


def test_a_small_index_is_rewritten_whole(tmp_path: Path) -> None:
    for texts in ({"a": "x"}, {"a": "x", "b": "y"}, {"b": "y", "c": "z"}):
        make(tmp_path, texts, MergePolicy())
        assert segments(tmp_path) == [(len(texts), 0)]


def test_another_cut_starts_from_the_texts_in_all_segments(tmp_path: Path) -> None:
    make(tmp_path, {"a": "one\ntwo"})
    make(tmp_path, {"a": "one\ntwo", "b": "three"})

    class WholeChunker(LineChunker):
        fingerprint = "whole"

        def chunk(self, document: Document) -> list[Chunk]:
            return [Chunk(f"{document.id}#", document.id, document.text, Span(0, len(document.text)), {})]

    documents = [Document(id_, f"file:///{id_}", id_, text) for id_, text in {"a": "one\ntwo", "b": "three"}.items()]
    build(tmp_path, documents, embedder=WordEmbedder(), chunker=WholeChunker(), policy=NEVER)
    assert segments(tmp_path) == [(2, 0)]
    with Index.open(tmp_path) as index:
        assert [chunk.text for chunk in index.store.all_chunks()] == ["one\ntwo", "three"]


def test_an_open_index_lends_its_segments_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {"a": "alpha"})
    with Index.open(tmp_path) as old:
        make(tmp_path, {"a": "alpha", "b": "beta"})
        read: list[str] = []
        load = FlatVectors.load
        monkeypatch.setattr(FlatVectors, "load", lambda path: read.append(path.parent.name) or load(path))
        new = Index.open(tmp_path, before=old)
    assert read == ["000002"]
    assert [chunk.text for chunk in new.store.all_chunks()] == ["alpha", "beta"]  # though the old one is closed
    new.close()


def test_a_writer_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    """And what it does read, it verifies first: vectors to take over are not taken from a damaged file."""
    make(tmp_path, {"a": "alpha"})
    vectors = tmp_path / SEGMENTS / "000001" / "vectors.faiss"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    make(tmp_path, {"a": "alpha", "b": "beta"})
    with pytest.raises(IndexDamaged, match=r"vectors\.faiss"):
        Index.open(tmp_path)
    with pytest.raises(IndexDamaged, match=r"vectors\.faiss"):
        make(tmp_path, {"a": "alpha\nmore", "b": "beta"})


@pytest.mark.parametrize("texts", [[], ["", ""], ["b a b", "", "c"], ["é z", "水 z z"]])
def test_postings_come_back_as_they_were(tmp_path: Path, texts: Sequence[str]) -> None:
    Postings.build(text.split() for text in texts).save(tmp_path / "lexical")
    postings = Postings.load(tmp_path / "lexical")
    assert postings.lengths.tolist() == [len(text.split()) for text in texts]
    for term in ("a", "b", "c", "z", "é", "水", "x", "", "\ud83d", "a\nb"):
        rows, counts = postings.of(term)
        assert dict(zip(rows.tolist(), counts.tolist(), strict=True)) == {
            row: text.split().count(term) for row, text in enumerate(texts) if term in text.split()
        }


def test_counts_are_as_wide_as_they_must_be() -> None:
    assert Postings.build([["a"] * 255]).counts.dtype == np.uint8
    assert Postings.build([["a"] * 256]).of("a")[1].tolist() == [256]


def test_rows_are_numbered_over_segments_without_the_deleted() -> None:
    rows = Rows([(3, np.array([True, False, True])), (0, None), (2, None)])
    assert len(rows) == 4
    places = {
        int(at): (segment, int(place))
        for segment, positions, inside in rows.places([3, 1, 0, 2, 1])
        for at, place in zip(positions, inside, strict=True)
    }
    assert [places[at] for at in range(5)] == [(2, 1), (0, 2), (0, 0), (2, 0), (0, 2)]
    assert rows.number(0, np.array([2, 0])).tolist() == [1, 0]
    assert rows.number(2, np.array([1])).tolist() == [3]
    mask = np.array([True, False, True, True])
    spread = [rows.spread(segment, mask) for segment in (0, 2)]
    assert spread[0] is not None and spread[0].tolist() == [True, False, False]
    assert spread[1] is None


def test_the_policy_merges_little_ones_and_tiers() -> None:
    policy = MergePolicy(small=10, factor=3, share=0.2)

    def choose(*live: int, added: int = 1, rows: dict[int, int] | None = None) -> list[list[int]]:
        return policy.choose([Size((rows or {}).get(at, n), n) for at, n in enumerate(live)], added)

    assert choose(1000, 5) == []
    assert choose(1000, 5, 1) == [[1, 2]]
    assert choose(1000, 5, rows={1: 6}) == [[1]]  # what is deleted in a small one goes at once
    assert choose(1000, 20, 21) == []
    assert choose(1000, 22, 20, 21) == [[1, 2, 3]]
    assert choose(100, 22, 20, 19) == [[2, 3]]  # within 40 chunks: a fifth is 32, four times the smallest 40
    assert choose(100, 22, 20, 19, added=61) == [[1, 2, 3]]
    assert choose(100, rows={0: 200}) == []
    assert choose(100, rows={0: 201}) == [[0]]


@pytest.mark.parametrize("largest", [1, 30, 3000])
def test_segments_stay_few_and_little_is_rewritten(largest: int) -> None:
    """20,000 runs of random size against the policy alone, documents being deleted as well."""
    rng = random.Random(largest)
    policy = MergePolicy(small=100)
    live: list[tuple[int, int]] = []
    added = written = 0
    for _ in range(20_000 // (1 if largest < 100 else 10)):
        new = rng.randint(1, largest)
        live.append((new, new))
        for _ in range(rng.randint(0, 2)):
            at = rng.randrange(len(live))
            live[at] = (live[at][0], max(1, live[at][1] - rng.randint(1, 1 + largest // 10)))
        added += new
        groups = policy.choose([Size(*size) for size in live], new)
        merged = [sum(live[at][1] for at in group) for group in groups]
        tiers = [count for count, group in zip(merged, groups, strict=True) if len(group) > 1 and count > 400]
        assert sum(tiers) <= max(0.04 * sum(kept for _, kept in live), new, 400)
        written += sum(merged)
        gone = {at for group in groups for at in group}
        live = [size for at, size in enumerate(live) if at not in gone] + [(count, count) for count in merged]
        assert len(live) <= 60
        assert sum(rows for rows, _ in live) <= 2 * sum(kept for _, kept in live) + 200
    print(f"{len(live)} segments, each chunk written {1 + written / added:.1f} times")

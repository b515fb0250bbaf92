"""Opening an index: what comes back is what went in, and nothing damaged is ever parsed."""

import hashlib
import json
import math
import shutil
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import rag.index
from indexer.sync import build
from rag.datatypes import Chunk, Document, Span
from rag.errors import IndexDamaged, IndexIncompatible, IndexMissing, InvalidRequest
from rag.index import Index
from rag.lexical import Analyzer, LexicalIndex
from rag.manifest import (
    CURRENT,
    DELETED,
    FORMAT_VERSION,
    GENERATIONS,
    MANIFEST,
    MANIFEST_SUM,
    SEGMENT_FILES,
    SEGMENTS,
    VECTORS,
    Counts,
    manifest_sum,
    read_manifest,
)
from rag.postings import Postings
from rag.protocols import FloatArray
from rag.rows import Rows
from rag.segment import Segment, open_all
from rag.text import STOP_WORDS
from rag.vectors import FlatVectors


class LengthEmbedder:
    """Maps a text to the direction (number of words, 1), so that cosines can be worked by hand."""

    name = "length"
    fingerprint = "length-2"
    dimension = 2

    def embed(self, texts: Sequence[str]) -> FloatArray:
        vectors = np.array([[len(text.split()), 1] for text in texts], np.float32).reshape(-1, 2)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class LineChunker:
    """Every line is a chunk."""

    tokens = 100
    overlap = 0
    fingerprint = "lines"

    def chunk(self, document: Document) -> list[Chunk]:
        chunks, start = [], 0
        for number, line in enumerate(document.text.split("\n")):
            span = Span(start, start + len(line))
            metadata = {"title": document.title, "uri": document.uri, "page": number + 1}
            chunks.append(Chunk(f"{document.id}#{number}", document.id, line, span, metadata))
            start = span.end + 1
        return chunks


MILL = Document("mill.md", "file:///mill.md", "The mill", "Ada built it.\nIt grinds rye 🌾 since 1802.", {"lang": "en"})
WEIR = Document("weir.md", "file:///weir.md", "The weir", "Water falls.")


def make_index(directory: Path, *documents: Document) -> Path:
    build(directory, documents, embedder=LengthEmbedder(), chunker=LineChunker())
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_index(tmp_path / "index", WEIR, MILL)


def generation_of(directory: Path) -> Path:
    return directory / GENERATIONS / (directory / CURRENT).read_text().strip()


def segment_of(directory: Path) -> Path:
    """The folder of the only segment."""
    (segment,) = read_manifest(generation_of(directory)).segments
    return directory / SEGMENTS / segment.name


def write_manifest(generation: Path, manifest: object) -> None:
    content = json.dumps(manifest).encode()
    (generation / MANIFEST).write_bytes(content)
    (generation / MANIFEST_SUM).write_text(manifest_sum(content))


def test_documents_and_chunks_come_back_as_they_were(directory: Path) -> None:
    with Index.open(directory, "length-2") as index:
        assert [entry[:5] for entry in index.documents()] == [
            ("mill.md", "The mill", "file:///mill.md", 2, index.documents()[0].bytes),
            ("weir.md", "The weir", "file:///weir.md", 1, index.documents()[1].bytes),
        ]
        assert index.document("mill.md") == MILL
        assert index.manifest.counts == Counts(documents=2, chunks=3)
        chunks = index.chunks([1, 0, 1])
        assert [chunk.text for chunk in chunks] == [
            "It grinds rye 🌾 since 1802.",
            "Ada built it.",
            "It grinds rye 🌾 since 1802.",
        ]
        for chunk in chunks:
            assert MILL.text[chunk.span.start : chunk.span.end] == chunk.text
        assert index.chunk(1) == LineChunker().chunk(MILL)[1]
        assert index.chunk(2).title == "The weir"


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there_is_refused(directory: Path, row: int) -> None:
    with Index.open(directory) as index, pytest.raises(InvalidRequest, match=f"no chunk in row {row}"):
        index.chunks([0, row])


def test_a_document_that_is_not_there_is_refused(directory: Path) -> None:
    with Index.open(directory) as index, pytest.raises(InvalidRequest, match=r"no document 'tower\.md'"):
        index.document("tower.md")


def test_inner_product_is_the_cosine_after_save_and_load(directory: Path) -> None:
    # The context texts have 5, 8 and 4 words: "The mill\nAda built it." and so on.
    query = np.array([0.6, 0.8], np.float32)
    expected = [(0.6 * words + 0.8) / math.hypot(words, 1) for words in (5, 8, 4)]
    with Index.open(directory) as index:
        scores, rows = index.vectors.search(query, 10)
        assert rows.tolist() == [2, 0, 1]
        assert scores.tolist() == pytest.approx([expected[row] for row in (2, 0, 1)], abs=1e-6)
        assert index.vectors.rows([1, 2]) @ query == pytest.approx([expected[1], expected[2]], abs=1e-6)


def test_search_takes_any_k(directory: Path) -> None:
    query = np.array([1, 0], np.float32)
    with Index.open(directory) as index:
        assert [len(index.vectors.search(query, k)[1]) for k in (-1, 0, 1, 3, 1000)] == [0, 0, 1, 3, 3]


def test_equal_vectors_are_found_in_row_order() -> None:
    vectors = FlatVectors.build(np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32))
    assert vectors.search(np.array([1, 0], np.float32), 3)[1].tolist() == [0, 2, 3]


def test_lexical_scores_are_bm25(tmp_path: Path) -> None:
    # Terms: [mill, grind, rye], [mill, mill], [weir]; N = 3, mean length 2. A term counts once however often asked.
    texts = ["The mill grinds rye", "mills, a mill", "weir"]
    Postings.build(map(Analyzer().terms, texts)).save(tmp_path / "lexical")
    postings = Postings.load(tmp_path / "lexical")
    scores = LexicalIndex([postings], Rows.whole(3)).scores("Which MILL is a mill?")
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))

    def weight(count: int, length: int) -> float:
        return idf * count / (count + 1.2 * (1 - 0.75 + 0.75 * length / 2))

    assert scores.tolist() == pytest.approx([weight(1, 3), weight(2, 2), 0.0], abs=1e-6)


def test_of_very_many_terms_the_rarest_count() -> None:
    """A text that is pasted as a question; and what is rare because it is hidden decides nothing."""
    names = [f"w{n}" for n in range(300)]
    rows = [["mill", *names], ["mill", "weir", *names], [*names[:44], "hidden"]]
    index = LexicalIndex([Postings.build(rows)], Rows.whole(3))
    long = f"mill {' '.join(names)} weir unknown hidden"
    assert index.scores(f"{' '.join(names[-254:])} weir hidden").tolist() == index.scores(long).tolist()
    seen = np.array([True, True, False])
    assert index.scores(f"{' '.join(names[:254])} mill weir", seen).tolist() == index.scores(long, seen).tolist()
    few = " ".join(names[:254])
    assert index.scores(f"{few} mill weir")[0] > index.scores(few)[0]


@pytest.mark.parametrize("question", ["", "the of and", "🌾🌾", "xyzzy", "\ud83d", "tower " * 5000, "\x00"])
def test_odd_questions_score_nothing(directory: Path, question: str) -> None:
    with Index.open(directory) as index:
        assert index.lexical.scores(question).tolist() == [0, 0, 0]


def test_a_word_is_the_same_term_in_any_form() -> None:
    terms = Analyzer().terms("Grinding, the GRINDS grind_stone 1802 naïve NAIVE Straße ёлка")
    assert terms == ["grind", "grind", "grind_ston", "1802", "naiv", "naiv", "straße", "елка"]


def test_text_without_spaces_is_matched_by_its_characters() -> None:
    assert Analyzer().terms("水車が回るmill") == ["水", "車", "が", "回", "る", "mill"]


def test_terms_stay_what_the_format_says() -> None:
    # Indexes in the field were written with these: whoever changes them raises FORMAT_VERSION and docs/format.md.
    digest = hashlib.sha256(" ".join(sorted(STOP_WORDS)).encode()).hexdigest()
    assert (FORMAT_VERSION, digest[:16]) == (3, "e18954928d8b14bd")


def test_the_format_page_lists_the_stop_words() -> None:
    page = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
    listed = page.partition("The stop words:")[2].partition("\n## ")[0].split()
    assert listed == sorted(STOP_WORDS)


def test_another_program_reads_it_by_the_format_page(directory: Path) -> None:
    import faiss

    generation = directory / "generations" / (directory / "CURRENT").read_text().strip()
    assert subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=generation, capture_output=True).returncode == 0
    (segment,) = json.loads((generation / "manifest.json").read_text())["segments"]
    folder = directory / "segments" / segment["name"]
    vectors = faiss.read_index(str(folder / "vectors.faiss"))
    terms = (folder / "lexical/terms.txt").read_text().splitlines()
    starts, rows, counts, lengths = (
        np.load(folder / f"lexical/{name}.npy", allow_pickle=False) for name in ("starts", "rows", "counts", "lengths")
    )
    with closing(sqlite3.connect(f"file:{folder}/store.sqlite?mode=ro&immutable=1", uri=True)) as store:
        texts = dict(store.execute("SELECT number, text FROM documents ORDER BY number"))
        chunks = store.execute('SELECT row, number, start, "end", text, context, metadata FROM chunks').fetchall()
    with closing(sqlite3.connect(f"file:{folder}/catalog.sqlite?mode=ro&immutable=1", uri=True)) as catalog:
        assert catalog.execute("SELECT id, chunks FROM documents ORDER BY number").fetchall() == [
            ("mill.md", 2),
            ("weir.md", 1),
        ]
        contexts = dict(catalog.execute("SELECT row, context FROM contexts"))
    assert [row for row, *_ in chunks] == [0, 1, 2]
    for row, number, start, end, text, context, metadata in chunks:
        assert texts[number][start:end] == text
        context_text = f"{json.loads(metadata)['title']}\n{text}"
        assert hashlib.sha256(context_text.encode()).digest() == context == contexts[row]
        assert vectors.reconstruct(row) == pytest.approx(LengthEmbedder().embed([context_text])[0])
        found = {
            term: int(counts[at])
            for i, term in enumerate(terms)
            for at in range(starts[i], starts[i + 1])
            if rows[at] == row
        }
        assert found == Counter(Analyzer().terms(context_text))
        assert sum(found.values()) == lengths[row]
    assert terms == sorted(terms, key=str.encode)


def test_an_empty_index_opens(tmp_path: Path) -> None:
    with Index.open(make_index(tmp_path / "empty")) as index:
        assert index.manifest.counts == Counts(documents=0, chunks=0)
        assert index.documents() == []
        assert index.lexical.scores("mill").shape == (0,)
        assert index.vectors.search(np.array([1, 0], np.float32), 5)[1].shape == (0,)


def test_no_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing) as caught:
        Index.open(tmp_path / "nowhere")
    assert "smallhold index PATH" in caught.value.hint


@pytest.mark.parametrize("name", sorted(SEGMENT_FILES))
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_file_is_named_before_it_is_parsed(
    directory: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parser in (FlatVectors, Postings):
        monkeypatch.setattr(parser, "load", lambda path: pytest.fail(f"{path} was parsed"))
    path = segment_of(directory) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-1]), "empty": b""}[damage])
    with pytest.raises(IndexDamaged, match=path.name) as caught:
        Index.open(directory)
    assert "--rebuild" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format_version": 1}', b'{"format_version": "1"}', b"\xff\xfe", b"[" * 100_000, None],
    ids=["empty", "cut", "list", "bare", "text", "bytes", "deep", "removed"],
)
def test_a_damaged_manifest_is_named(directory: Path, content: bytes | None) -> None:
    path = generation_of(directory) / MANIFEST
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(IndexDamaged, match=r"manifest\.json") as caught:
        Index.open(directory)
    assert "--rebuild" in caught.value.hint


def test_a_manifest_cannot_point_elsewhere(directory: Path) -> None:
    path = generation_of(directory) / MANIFEST
    manifest = json.loads(path.read_text())
    files = manifest["segments"][0]["files"]
    files["../../../etc/passwd"] = files.pop(VECTORS)
    write_manifest(path.parent, manifest)
    with pytest.raises(IndexDamaged, match="has other files"):
        Index.open(directory)
    manifest["segments"][0]["name"] = "../../etc"
    write_manifest(path.parent, manifest)
    with pytest.raises(IndexDamaged, match=r"segments\.0\.name"):
        Index.open(directory)


def test_the_manifest_is_what_was_published(directory: Path) -> None:
    path = generation_of(directory) / MANIFEST
    path.write_text(path.read_text().replace("length-2", "length-3"))
    with pytest.raises(IndexDamaged, match=r"manifest\.json: its content differs"):
        Index.open(directory)
    (generation_of(directory) / MANIFEST_SUM).unlink()
    with pytest.raises(IndexDamaged, match=r"manifest\.sha256: it is missing"):
        Index.open(directory)


@pytest.mark.parametrize(
    "content", ['{"000001": [2]}', '{"000009": [0]}', '{"000001": [1, 0]}', '{"000001": "0"}', "[]"]
)
def test_deletions_of_what_is_not_there_are_refused(directory: Path, content: str) -> None:
    generation = generation_of(directory)
    manifest = json.loads((generation / MANIFEST).read_text())
    (generation / DELETED).write_text(content)
    manifest["deleted"] = {"sha256": hashlib.sha256(content.encode()).hexdigest(), "bytes": len(content)}
    write_manifest(generation, manifest)
    with pytest.raises(IndexDamaged, match=r"deleted\.json"):
        Index.open(directory)


def test_parts_of_two_generations_do_not_pass_for_one(directory: Path, tmp_path: Path) -> None:
    other = make_index(tmp_path / "other", WEIR)
    shutil.copy(segment_of(other) / VECTORS, segment_of(directory) / VECTORS)
    mine, theirs = (json.loads((generation_of(d) / MANIFEST).read_text()) for d in (directory, other))
    mine["segments"][0]["files"][VECTORS] = theirs["segments"][0]["files"][VECTORS]
    write_manifest(generation_of(directory), mine)
    with pytest.raises(IndexDamaged, match="do not fit together"):
        Index.open(directory)


@pytest.mark.parametrize("name", ["../../elsewhere", "", "7", "000009", "٠٠٠٠٠١"])
def test_a_damaged_pointer_is_refused(directory: Path, name: str) -> None:
    (directory / CURRENT).write_text(name, encoding="utf-8")
    with pytest.raises(IndexDamaged):
        Index.open(directory)


@pytest.mark.parametrize(("version", "age"), [(1, "an older"), (4, "a newer")])
def test_another_format_is_refused_with_the_command_that_mends_it(directory: Path, version: int, age: str) -> None:
    write_manifest(generation_of(directory), {"format_version": version, "unknown": True})
    if version == 1:  # it had no such file
        (generation_of(directory) / MANIFEST_SUM).unlink()
    with pytest.raises(IndexIncompatible, match=age) as caught:
        Index.open(directory)
    assert "smallhold index PATH... --rebuild" in caught.value.hint


def test_another_embedder_is_refused_naming_both(directory: Path) -> None:
    with pytest.raises(IndexIncompatible, match=r"length \(fingerprint length-2\).*fingerprint other") as caught:
        Index.open(directory, "other")
    assert "--rebuild" in caught.value.hint


def test_a_reader_outlives_its_generation(directory: Path) -> None:
    with Index.open(directory) as index:
        make_index(directory, WEIR)
        assert not (directory / GENERATIONS / "000001").exists()
        assert index.chunk(0).text == "Ada built it."
        assert index.document("mill.md") == MILL
        assert index.lexical.scores("rye")[1] > 0


def test_a_generation_that_goes_while_it_is_opened_is_replaced_by_its_successor(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish_in_between(segments: list[Segment]) -> None:
        monkeypatch.setattr(rag.index, "open_all", open_all)
        make_index(directory, WEIR)
        open_all(segments)

    monkeypatch.setattr(rag.index, "open_all", publish_in_between)
    with Index.open(directory) as index:
        assert index.generation == "000002"
        assert [entry.id for entry in index.documents()] == ["weir.md"]


def test_readers_beside_a_writer_always_see_one_whole_generation(tmp_path: Path) -> None:
    directory = make_index(tmp_path / "index", Document("d", "u", "0", "text 0"))
    done = threading.Event()
    seen: list[tuple[str, str, str]] = []

    def read() -> None:
        while not done.is_set():
            with Index.open(directory) as index:
                seen.append((index.generation, index.document("d").text, index.chunk(0).text))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for version in range(1, 8):
            make_index(directory, Document("d", "u", str(version), f"text {version}"))
        done.set()
        for reader in readers:
            reader.result()
    assert seen
    for generation, document, chunk in seen:
        assert document == chunk == f"text {int(generation) - 1}"


def test_an_index_is_read_by_several_threads(directory: Path) -> None:
    query = np.array([1, 0], np.float32)
    with Index.open(directory) as index, ThreadPoolExecutor(4) as pool:

        def ask(row: int) -> tuple[str, int, bool]:
            found = index.vectors.search(query, 1)[1][0]
            return index.chunk(row % 3).id, int(found), bool(index.lexical.scores("rye")[1] > 0)

        answers = list(pool.map(ask, range(300)))
    assert answers == [(["mill.md#0", "mill.md#1", "weir.md#0"][row % 3], 1, True) for row in range(300)]

"""Looking after an index: what is damaged is found and named, what is whole is kept, and it can be carried away."""

import errno
import io
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import indexer.transfer
from indexer.compact import compact
from indexer.load import Loader
from indexer.repair import repair
from indexer.stats import stats
from indexer.store import IndexWriter
from indexer.stream import Stream
from indexer.sync import build, sync
from indexer.transfer import export_index, import_index
from indexer.update import SyncReport
from indexer.verify import verify
from rag.cli import app
from rag.datatypes import Document
from rag.errors import DataError, IndexDamaged, IndexIncompatible, IndexMissing, InvalidRequest, Unavailable
from rag.index import Generation, Index
from rag.manifest import CURRENT, GENERATIONS, MANIFEST, MANIFEST_SUM, SEGMENTS, Counts, manifest_sum
from tests.conftest import WordEmbedder
from tests.test_indexer_segments import LineChunker, make, segments

TEXTS = {"a": "alpha beta\nmill", "b": "beta gamma", "c": "", "d": "delta mill\nrye"}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three segments: a, b and c; d and the former e, which is deleted; a new version of b."""
    made = tmp_path / "index"
    make(made, {"a": TEXTS["a"], "b": "another", "c": ""})
    make(made, {"a": TEXTS["a"], "b": "another", "c": "", "d": TEXTS["d"], "e": "zorblatt"})
    make(made, TEXTS)
    assert segments(made) == [(3, 1), (2, 1), (1, 0)]
    return made


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def contents(directory: Path) -> dict[str, str]:
    with Index.open(directory) as index:
        return {entry.id: index.document(entry.id).text for entry in index.documents()}


def test_a_whole_index_is_found_whole(directory: Path) -> None:
    findings = verify(directory)
    assert (findings.generation, findings.problems, findings.leftovers) == ("000003", [], [])
    assert verify_an_empty_one(directory.parent / "empty") == []


def verify_an_empty_one(directory: Path) -> list[str]:
    make(directory, {})
    (directory / SEGMENTS).rmdir()  # which some copying programs leave out where nothing is in it
    return verify(directory).problems


def test_every_damaged_file_is_named(directory: Path) -> None:
    first, second = directory / SEGMENTS / "000001", directory / SEGMENTS / "000002"
    flip(first / "store.sqlite")
    flip(second / "lexical/rows.npy")
    (second / "vectors.faiss").unlink()
    assert [problem.split(": ")[0] for problem in verify(directory).problems] == [
        str(first / "store.sqlite"),
        str(second / "lexical/rows.npy"),
        str(second / "vectors.faiss"),
    ]


@pytest.mark.parametrize("name", ["CURRENT", "generations/000003/manifest.json", "generations/000003/deleted.json"])
def test_a_damaged_generation_is_named(directory: Path, name: str) -> None:
    (directory / name).write_bytes(b"?")
    (problem,) = verify(directory).problems
    assert name in problem


def rewrite(segment: Path, change: Callable[[], None]) -> None:
    """Change files of a segment and give them new checksums, as a faulty program would have written them."""
    from indexer.segment import describe_segment

    change()
    (generation,) = (segment.parent.parent / GENERATIONS).iterdir()
    manifest = json.loads((generation / MANIFEST).read_text())
    for info in manifest["segments"]:
        if info["name"] == segment.name:
            info["files"] = describe_segment(segment, info["documents"], info["chunks"]).model_dump()["files"]
    content = json.dumps(manifest).encode()
    (generation / MANIFEST).write_bytes(content)
    (generation / MANIFEST_SUM).write_text(manifest_sum(content))


def sql(path: Path, statement: str) -> Callable[[], None]:
    import sqlite3

    def run() -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()

    return run


@pytest.mark.parametrize(
    ("file", "statement", "said"),
    [
        ("store.sqlite", "UPDATE documents SET id = 'x' WHERE number = 0", "not those of the catalog"),
        ("store.sqlite", "UPDATE chunks SET text = 'beta alpha' WHERE row = 0", "not what stands in its document"),
        ("store.sqlite", "UPDATE chunks SET context = zeroblob(32) WHERE row = 0", "another context"),
        ("store.sqlite", "UPDATE chunks SET number = 1 WHERE row = 1", "not those that the catalog counts"),
        ("store.sqlite", "DELETE FROM chunks WHERE row = 2", "not one signature a chunk"),
        ("catalog.sqlite", "DELETE FROM contexts", "lists other contexts"),
        ("catalog.sqlite", "UPDATE documents SET chunks = 1", "not those that the catalog counts"),
    ],
)
def test_parts_that_disagree_are_found_though_their_checksums_hold(
    directory: Path, file: str, statement: str, said: str
) -> None:
    segment = directory / SEGMENTS / "000001"
    rewrite(segment, sql(segment / file, statement))
    assert any(said in problem for problem in verify(directory).problems), verify(directory).problems


def test_vectors_and_postings_that_disagree_are_found(directory: Path) -> None:
    from rag.postings import Postings
    from rag.vectors import FlatVectors

    segment = directory / SEGMENTS / "000001"

    def change() -> None:
        FlatVectors.build(np.full((3, 64), 0.5, np.float32)).save(segment / "vectors.faiss")
        shutil.rmtree(segment / "lexical")
        found = Postings.build([["x"], ["x", "y"], []])
        found.lengths[0] = 9
        found.save(segment / "lexical")

    rewrite(segment, change)
    said = " ".join(verify(directory).problems)
    assert "not of length 1" in said
    assert "postings are not those" in said


def test_a_document_that_is_there_twice_is_found(directory: Path) -> None:
    generation = directory / GENERATIONS / "000003"
    (generation / "deleted.json").write_text("{}")
    manifest = json.loads((generation / MANIFEST).read_text())
    from rag.manifest import describe_file

    manifest["deleted"] = describe_file(generation / "deleted.json").model_dump()
    content = json.dumps(manifest).encode()
    (generation / MANIFEST).write_bytes(content)
    (generation / MANIFEST_SUM).write_text(manifest_sum(content))
    problems = verify(directory).problems
    assert "document 'b' is there more than once" in problems[0]
    with pytest.raises(IndexDamaged, match="do not fit together"):
        Index.open(directory)


def test_what_is_whole_is_left_alone(directory: Path) -> None:
    done = repair(directory)
    assert (done.done, done.generation, done.lost) == ("nothing", "000003", [])
    assert contents(directory) == TEXTS


def test_terms_are_counted_anew(directory: Path) -> None:
    with Index.open(directory) as index:
        before = index.lexical.scores("mill beta")
    flip(directory / SEGMENTS / "000001" / "lexical/rows.npy")
    done = repair(directory)
    assert (done.done, done.generation, done.mended, done.lost, done.dropped) == (
        "rebuilt",
        "000004",
        ["000001"],
        [],
        [],
    )
    assert verify(directory).problems == []
    assert contents(directory) == TEXTS
    with Index.open(directory) as index:
        assert index.lexical.scores("mill beta").tolist() == before.tolist()


def test_vectors_are_made_anew_from_texts_that_are_whole(tmp_path: Path) -> None:
    """What came as a stream has its text nowhere else."""
    directory, told = tmp_path / "index", []
    lines = b'{"id": "1", "text": "alpha beta"}\n{"id": "2", "text": "gamma"}\n'
    with Stream.read(io.BytesIO(lines), "tickets") as stream:
        sync(directory, [], stream=stream, embedder=WordEmbedder(), chunker=LineChunker(), loader=Loader())
    with Index.open(directory) as index:
        before = index.vectors.rows([0, 1])
    flip(directory / SEGMENTS / "000001" / "vectors.faiss")
    (directory / SEGMENTS / "000001" / "lexical/rows.npy").unlink()
    other = WordEmbedder()
    other.fingerprint = "others-64"
    with pytest.raises(IndexIncompatible, match="must be made by the embedder words") as caught:
        repair(directory, embedder=lambda: other)
    assert "Configure the embedder words" in caught.value.hint
    done = repair(directory, None, WordEmbedder, lambda *seen: told.append(seen))
    assert (done.done, done.mended, done.lost, done.dropped) == ("rebuilt", ["000001"], [], [])
    assert told == [("embed", 0, 2), ("embed", 2, 2)]
    assert verify(directory).problems == []
    assert contents(directory) == {"tickets/1": "alpha beta", "tickets/2": "gamma"}
    with Index.open(directory) as index:
        assert index.vectors.rows([0, 1]).tolist() == before.tolist()
    assert not (directory / ".embeddings").exists()


def test_a_catalog_is_told_again_by_texts_that_are_whole(tmp_path: Path) -> None:
    """What came as a stream is recognised as before, files are read again."""
    directory, docs = tmp_path / "index", tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("alpha\nmill")
    (docs / "gone.txt").write_text("gone")
    lines = b'{"id": "1", "text": "beta", "tags": ["x"], "metadata": {"n": 1.5}}\n'

    def run(*roots: Path, again: bool = True) -> SyncReport:
        with Stream.read(io.BytesIO(lines), "tickets") as stream, Loader() as loader:
            given: dict[str, Any] = {"embedder": WordEmbedder(), "chunker": LineChunker(), "loader": loader}
            return sync(directory, roots, stream=stream if again else None, **given)

    run(docs)
    (docs / "gone.txt").unlink()
    run(docs)
    before = contents(directory)
    (segment,) = (directory / SEGMENTS).iterdir()
    flip(segment / "catalog.sqlite")
    flip(segment / "vectors.faiss")
    done = repair(directory, embedder=WordEmbedder)
    assert (done.mended, done.lost, done.dropped) == ([segment.name], [], [])
    assert (verify(directory).problems, contents(directory)) == ([], before)
    report = run(docs)
    assert (report.changed, report.unchanged, report.embedded) == (["a.txt"], ["tickets/1"], 0)
    assert contents(directory) == before == {"a.txt": "alpha\nmill", "tickets/1": "beta"}
    assert run(again=False).removed == []


def test_records_whose_catalog_is_damaged_are_read_no_more_than_others(directory: Path) -> None:
    flip(directory / SEGMENTS / "000001" / "catalog.sqlite")
    assert repair(directory).mended == ["000001"]
    assert (verify(directory).problems, contents(directory)) == ([], TEXTS)
    make(directory, TEXTS)
    assert [path.name for path in (directory / GENERATIONS).iterdir()] == ["000004"]  # there was nothing to do


@pytest.mark.parametrize(
    ("files", "lost", "unnamed"),
    [
        (["vectors.faiss"], ["a", "c"], 0),
        (["vectors.faiss", "lexical/terms.txt"], ["a", "c"], 0),
        (["store.sqlite"], ["a", "c"], 0),
        (["store.sqlite", "catalog.sqlite"], [], 2),
    ],
)
def test_what_cannot_be_saved_is_dropped_and_named(
    directory: Path, files: list[str], lost: list[str], unnamed: int
) -> None:
    for name in files:
        flip(directory / SEGMENTS / "000001" / name)
    done = repair(directory)
    assert (done.done, done.lost, done.unnamed, done.dropped) == ("rebuilt", lost, unnamed, ["000001"])
    assert contents(directory) == {"b": TEXTS["b"], "d": TEXTS["d"]}
    assert not (directory / SEGMENTS / "000001").exists()
    make(directory, TEXTS)  # the next run reads them again
    assert contents(directory) == TEXTS
    assert verify(directory).problems == []


def test_a_repair_goes_back_to_a_generation_that_is_whole(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # killed after the switch: the old generation is still there
        patch.setattr(IndexWriter, "_remove_leftovers", lambda self: None)
        make(directory, TEXTS | {"f": "new"})
    assert [path.split("/")[-1] for path in verify(directory).leftovers] == ["000003"]
    flip(directory / SEGMENTS / "000004" / "store.sqlite")
    done = repair(directory)
    assert (done.done, done.generation) == ("went back", "000003")
    assert contents(directory) == TEXTS
    assert not (directory / SEGMENTS / "000004").exists()


def test_a_repair_does_not_go_back_where_it_can_mend(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published last would be lost for a list of terms that can be counted anew."""
    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "_remove_leftovers", lambda self: None)
        make(directory, TEXTS | {"f": "new"})
    flip(directory / SEGMENTS / "000004" / "lexical/rows.npy")
    flip(directory / SEGMENTS / "000004" / "vectors.faiss")
    done = repair(directory, embedder=WordEmbedder)
    assert (done.done, done.generation, done.mended) == ("rebuilt", "000005", ["000004"])
    assert contents(directory) == TEXTS | {"f": "new"}
    assert verify(directory).leftovers == []


@pytest.mark.parametrize("name", ["store.sqlite", "manifest.json", "CURRENT"])
def test_what_may_not_be_read_is_not_damaged(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A repair by somebody who may not read a segment dropped it, and so did one with too many open files."""
    real_open, real_read = Path.open, Path.read_bytes

    def refused(path: Path) -> None:
        if path.name == name:
            raise OSError(errno.EMFILE if name == "CURRENT" else errno.EACCES, "not now", str(path))

    def opened(path: Path, *args: Any, **kwargs: Any) -> Any:
        refused(path)
        return real_open(path, *args, **kwargs)

    def read(path: Path) -> bytes:
        refused(path)
        return real_read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        patched.setattr(Path, "read_bytes", read)
        for call in (repair, Index.open, verify):
            with pytest.raises(Unavailable, match=rf"the index cannot be read: .*{name}: not now") as caught:
                call(directory)
            assert not isinstance(caught.value, IndexDamaged)
            assert "repair" not in caught.value.hint
    assert (verify(directory).problems, contents(directory)) == ([], TEXTS)


def test_a_lost_pointer_is_found_again(directory: Path) -> None:
    (directory / CURRENT).unlink()
    with pytest.raises(IndexMissing, match="has lost its file CURRENT") as caught:
        Index.open(directory)
    assert "store repair" in caught.value.hint
    assert repair(directory).done == "went back"
    assert contents(directory) == TEXTS


@pytest.mark.parametrize("name", [MANIFEST, "deleted.json"])
def test_what_cannot_be_told_is_not_guessed(directory: Path, name: str) -> None:
    """Without the list of deletions, deleted documents would come back."""
    flip(directory / GENERATIONS / "000003" / name)
    with pytest.raises(IndexDamaged) as caught:
        repair(directory)
    assert "--rebuild" in caught.value.hint
    make_again = build(
        directory,
        [Document("a", "u", "a", "text")],
        embedder=WordEmbedder(),
        chunker=LineChunker(),
        rebuild=True,
        labels=() if name == MANIFEST else None,  # its label rules are lost with the manifest
    )
    assert make_again.published
    assert contents(directory) == {"a": "text"}


@pytest.mark.parametrize("damage", ["lost", "cut", "emptied", "a digit", "no text"])
def test_a_damaged_checksum_of_the_manifest_costs_nothing(directory: Path, damage: str) -> None:
    path = directory / GENERATIONS / "000003" / MANIFEST_SUM
    whole = path.read_bytes()
    digit = b"1" if whole[10:11] != b"1" else b"2"
    left = {"cut": whole[:30], "emptied": b"", "a digit": whole[:10] + digit + whole[11:], "no text": b"\xff" * 79}
    path.unlink() if damage == "lost" else path.write_bytes(left[damage])
    assert verify(directory).problems
    done = repair(directory)
    assert (done.done, done.mended, done.lost) == ("nothing", [MANIFEST_SUM], [])
    assert (verify(directory).problems, contents(directory), path.read_bytes()) == ([], TEXTS, whole)


def test_a_manifest_that_is_not_what_its_checksum_says_is_not_believed(directory: Path) -> None:
    generation = directory / GENERATIONS / "000003"
    manifest = (generation / MANIFEST).read_bytes()
    (generation / MANIFEST).write_bytes(manifest.replace(b'"overlap": 0', b'"overlap": 1'))
    with pytest.raises(IndexDamaged):
        repair(directory)


def test_no_index_is_no_damage(tmp_path: Path) -> None:
    for call in (verify, repair, stats):
        with pytest.raises(IndexMissing):
            call(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_an_old_format_is_not_touched(directory: Path) -> None:
    generation = directory / GENERATIONS / "000003"
    (generation / MANIFEST).write_text('{"format_version": 1}')
    (generation / MANIFEST_SUM).unlink()
    with pytest.raises(IndexIncompatible):
        verify(directory)
    with pytest.raises(IndexDamaged):
        repair(directory)
    assert (generation / "deleted.json").exists()


def test_compacting_gives_a_single_segment_what_older_programs_did_not_write(tmp_path: Path) -> None:
    """It said that there was nothing to do, and near-duplicates went on being shown twice."""
    directory = tmp_path / "index"
    make(directory, TEXTS)
    segment = directory / SEGMENTS / "000001"
    rewrite(segment, sql(segment / "store.sqlite", "DROP TABLE signatures"))
    assert compact(directory)
    with Index.open(directory) as index:
        assert len(index.store.signatures()[0]) == 5
    assert not compact(directory)
    assert (verify(directory).problems, contents(directory)) == ([], TEXTS)


def test_stats_count_what_is_there(directory: Path) -> None:
    found = stats(directory)
    assert (found["documents"], found["chunks"]) == (4, 5)
    assert (found["deleted_documents"], found["deleted_chunks"]) == (2, 2)
    assert [segment["chunks"] for segment in found["segments"]] == [3, 3, 1]
    files = [p for p in directory.rglob("*") if p.is_file() and p.name not in {"lock", CURRENT}]
    assert found["bytes"]["total"] == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("call", [verify, stats])
def test_what_another_process_publishes_meanwhile_is_no_damage(
    directory: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Path], Any]
) -> None:
    """The generation that was opened is gone when its files are looked at."""
    opened = Generation.open

    def overtaken(*args: Any, **kwargs: Any) -> Generation:
        found = opened(*args, **kwargs)
        monkeypatch.setattr(Generation, "open", opened)
        make(directory, {"a": "another"})
        return found

    monkeypatch.setattr(Generation, "open", overtaken)
    found = call(directory)
    assert found.problems == [] if call is verify else found["documents"] == 1
    assert (found.generation if call is verify else found["generation"]) == "000004"


def test_an_export_is_imported_as_it_was(directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "index.zip"
    export_index(directory, archive)
    import_index(archive, tmp_path / "copy")
    assert contents(tmp_path / "copy") == TEXTS
    assert verify(tmp_path / "copy").problems == []
    with Index.open(directory) as mine, Index.open(tmp_path / "copy") as theirs:
        assert mine.documents() == theirs.documents()
        assert mine.manifest.embedder == theirs.manifest.embedder
        chunks = [
            {c.id: (c, v.tolist()) for c, v in zip(i.store.all_chunks(), i.vectors.rows(range(5)), strict=True)}
            for i in (mine, theirs)
        ]
        assert chunks[0] == chunks[1]
        assert sorted(mine.lexical.scores("mill beta")) == pytest.approx(sorted(theirs.lexical.scores("mill beta")))
    make(tmp_path / "copy", TEXTS)
    assert segments(tmp_path / "copy") == [(4, 0)]  # nothing had to be read again
    with zipfile.ZipFile(archive) as opened:  # and nothing deleted was carried away
        assert b"zorblatt" not in opened.read("documents.jsonl")


def test_an_index_or_a_file_that_is_there_is_not_overwritten(directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "index.zip"
    export_index(directory, archive)
    with pytest.raises(InvalidRequest, match="there already"):
        export_index(directory, archive)
    with pytest.raises(InvalidRequest, match="holds an index already"):
        import_index(archive, directory)
    assert contents(directory) == TEXTS
    (directory / CURRENT).unlink()  # an index still
    with pytest.raises(InvalidRequest, match="holds an index already"):
        import_index(archive, directory)
    repair(directory)
    assert contents(directory) == TEXTS


def test_an_export_is_on_disk_before_it_has_its_name(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses power leaves an empty file of that name."""
    done: list[str] = []
    replace = Path.replace

    def replaced(path: Path, target: Path) -> Path:
        done.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("fsync"))
    monkeypatch.setattr(Path, "replace", replaced)
    export_index(directory, tmp_path / "index.zip")
    assert done == ["fsync", "index.zip"]


def test_two_exports_of_one_name_leave_a_whole_archive(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that ends first must not take away what the other one is writing; nor must one that was killed."""
    (tmp_path / ".index.zip.part").write_bytes(b"half")
    killed = tmp_path / ".smallhold-pages-killed"
    killed.mkdir()
    (killed / "documents.jsonl").write_bytes(b"half")
    written, go_on, write = threading.Event(), threading.Event(), indexer.transfer._write

    def slow(index: Index, path: Path) -> None:
        write(index, path)
        if threading.current_thread() is first:
            written.set()
            assert go_on.wait(10)

    monkeypatch.setattr(indexer.transfer, "_write", slow)
    found: list[Counts] = []
    first = threading.Thread(target=lambda: found.append(export_index(directory, tmp_path / "index.zip")))
    first.start()
    assert written.wait(10)
    export_index(directory, tmp_path / "index.zip")
    go_on.set()
    first.join()
    assert [counts.documents for counts in found] == [len(TEXTS)]
    import_index(tmp_path / "index.zip", tmp_path / "copy")
    assert contents(tmp_path / "copy") == TEXTS
    assert sorted(path.name for path in tmp_path.iterdir()) == [".index.zip.part", "copy", "index", "index.zip"]


def repacked(archive: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(archive) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return target


def altered(line: int, **fields: object) -> Callable[[dict[str, bytes]], None]:
    """Change fields of a line of the documents, and the head so that sizes and checksum hold."""

    def change(files: dict[str, bytes]) -> None:
        import hashlib

        lines = [json.loads(text) for text in files["documents.jsonl"].splitlines()]
        lines[line].update(fields)
        content = "".join(json.dumps(record) + "\n" for record in lines).encode()
        head = json.loads(files["index.json"])
        head |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        files |= {"documents.jsonl": content, "index.json": json.dumps(head).encode()}

    return change


def replaced(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files.update({"../evil": b"x"}), "holds other files"),
        (lambda files: files.pop("index.json"), "holds other files"),
        (replaced("index.json", b"smallhold-archive-1", b"smallhold-archive-9"), "index.json: format"),
        (replaced("index.json", b'"bytes": ', b'"bytes": 1'), "another size"),
        (replaced("documents.jsonl", b"alpha", b"alphi"), "differs from its checksum"),
        (altered(0, chunks=1), r"line 3: uri"),
        (altered(1, end=5000), "no part of its document"),
        (altered(1, start=-1), "line 2: start"),
        (altered(1, vector="AAAA"), "no vector of length 1"),
        (altered(1, vector="nonsense!"), "no vector of length 1"),
        (altered(1, metadata={"x": [1]}), "line 2: metadata.x"),
        (altered(1, metadata={"page": "iv"}), "pages that are no numbers"),
        (altered(1, metadata={"page": 1, "page_breaks": "4,five"}), "pages that are no numbers"),
        (altered(1, metadata={"x": float("nan")}), "line 2: metadata.x"),
        (altered(2, id="a#0"), "id is there already"),
        (altered(0, id="d"), "'d' is there twice"),
        (altered(0, more=1), "line 1: more"),
        (altered(0, original={"root": "", "sha256": "", "bytes": 2**63, "loader": ""}), "line 1: original.bytes"),
        (altered(0, title="\ud83d"), "line 1"),
    ],
)
def test_an_archive_that_is_not_one_of_ours_is_refused(
    directory: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    export_index(directory, tmp_path / "index.zip")
    archive = repacked(tmp_path / "index.zip", tmp_path / "other.zip", change)
    with pytest.raises(DataError, match=said):
        import_index(archive, tmp_path / "copy")
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) in ([], ["lock"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "index", "index.zip", "other.zip"]


def test_damaged_archives_are_refused(directory: Path, tmp_path: Path) -> None:
    export_index(directory, tmp_path / "index.zip")
    data = (tmp_path / "index.zip").read_bytes()
    for number in range(0, len(data), 97):
        damaged = data[:number] if number % 2 else data[:number] + bytes([data[number] ^ 4]) + data[number + 1 :]
        (tmp_path / "damaged.zip").write_bytes(damaged)
        try:
            import_index(tmp_path / "damaged.zip", tmp_path / f"copy-{number}")
        except (DataError, Unavailable):
            continue
        assert contents(tmp_path / f"copy-{number}") == TEXTS  # a bit that zip does not mind
    with pytest.raises(InvalidRequest, match="there is no file"):
        import_index(tmp_path / "nowhere.zip", tmp_path / "copy")
    with pytest.raises(InvalidRequest, match="index cannot be read: Is a directory"):
        import_index(directory, tmp_path / "copy")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_archive_that_says_it_is_packed_otherwise_is_refused(directory: Path, tmp_path: Path, method: int) -> None:
    export_index(directory, tmp_path / "index.zip")
    data = bytearray((tmp_path / "index.zip").read_bytes())
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.index(mark)
        data[at + place] = method
    (tmp_path / "index.zip").write_bytes(data)
    with pytest.raises(DataError, match="another method than Deflate"):
        import_index(tmp_path / "index.zip", tmp_path / "copy")


def test_an_archive_whose_parts_lie_outside_of_it_is_refused(directory: Path, tmp_path: Path) -> None:
    export_index(directory, tmp_path / "index.zip")
    data = bytearray((tmp_path / "index.zip").read_bytes())
    end = data.rindex(b"PK\x05\x06")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    data[end + 16 : end + 20] = (start + 1000).to_bytes(4, "little")  # all that is before it seems to begin earlier
    (tmp_path / "index.zip").write_bytes(data)
    with pytest.raises(DataError, match="is not where it should be"):
        import_index(tmp_path / "index.zip", tmp_path / "copy")


def test_an_archive_that_would_fill_the_disk_is_refused(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_index(directory, tmp_path / "index.zip")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(Unavailable, match="more than there is room for"):
        import_index(tmp_path / "index.zip", tmp_path / "copy")


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["store", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_commands_say_what_they_found_and_did(directory: Path, tmp_path: Path) -> None:
    assert run("verify", "--index", directory) == (0, f"{directory}: generation 000003 is whole\n")
    code, said = run("stats", "--index", directory)
    assert code == 0
    assert "4 documents, 5 chunks" in said
    assert "2 deleted documents" in said
    assert json.loads(run("stats", "--json", "--index", directory)[1]) == stats(directory)
    assert "4 documents, 5 chunks" in run("export", tmp_path / "x.zip", "--index", directory)[1]
    assert "4 documents, 5 chunks" in run("import", tmp_path / "x.zip", "--index", tmp_path / "copy")[1]
    assert "one segment" in run("compact", "--index", directory)[1]
    assert "nothing to do" in run("compact", "--index", directory)[1]
    flip(directory / SEGMENTS / "000004" / "store.sqlite")
    code, said = run("verify", "--json", "--index", directory)
    assert code == 1
    assert "store.sqlite" in json.loads(said)["problems"][0]
    code, said = run("repair", "--index", directory)
    assert code == 1
    assert "must be read again: a\n" in said
    assert run("repair", "--index", directory)[0] == 0

"""Access labels outlive whatever is done to an index: what a rule or a document hides stays hidden."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import compress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from indexer.compact import compact
from indexer.merge import MergePolicy
from indexer.repair import repair
from indexer.store import IndexWriter
from indexer.sync import build
from indexer.transfer import export_index, import_index
from indexer.verify import verify
from rag.cli import app
from rag.datatypes import Document, Metadata
from rag.docstore import DocumentStore
from rag.errors import DataError, IndexDamaged, InvalidRequest
from rag.filter import View, parse_filter
from rag.index import Index
from rag.labels import LabelRule
from rag.manifest import GENERATIONS, MANIFEST, MANIFEST_SUM, SEGMENTS, manifest_sum
from rag.serve import listed
from tests.conftest import WordEmbedder
from tests.test_indexer_maintain import altered, flip, repacked
from tests.test_indexer_segments import FINE, NEVER, LineChunker, segments

HR = (LabelRule(path="hr/**", labels=("hr",)),)
PUBLIC = View(labels=frozenset())
OWN = {"labels": "board", "tags": "budget", "date": "2024-05-01"}


def make(
    directory: Path,
    *names: str,
    own: str = "minutes",
    labels: tuple[LabelRule, ...] | None = None,
    policy: MergePolicy = NEVER,
) -> None:
    """Make the index hold documents, of which the one called `own` names its own label, tag and date."""
    documents = [Document(n, f"file:///{n}", n, f"mill {n}", OWN if n == own else {}) for n in names]
    build(directory, documents, embedder=WordEmbedder(), chunker=LineChunker(), labels=labels, policy=policy)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two segments, a deleted document in the first. `hr/pay` is hidden by a rule, `minutes` by its own label."""
    made = tmp_path / "index"
    make(made, "hr/old", "hr/pay", "open", labels=HR)
    make(made, "hr/pay", "minutes", "open")
    assert segments(made) == [(3, 1), (1, 0)]
    return made


def seen(directory: Path, view: View = PUBLIC) -> list[str]:
    """The documents that a view leaves, as searching, listing and asking for each one have it."""
    with Index.open(directory) as index:
        one_by_one = [entry.id for entry in index.documents() if index.masks.sees(entry.id, view)]
        rows, documents = index.masks.rows(view), index.masks.documents(view)
        every = [entry.id for entry in index.documents_by_row()]
        assert sorted(every if documents is None else compress(every, documents)) == one_by_one
        scores = index.lexical.scores("mill", rows)
        found = [chunk.document_id for chunk, score in zip(index.store.all_chunks(), scores, strict=True) if score > 0]
        assert sorted(found) == one_by_one
        _, near = index.vectors.search(WordEmbedder().embed(["mill"])[0], 100, rows)
        assert sorted(chunk.document_id for chunk in index.chunks(near.tolist())) == one_by_one
    return one_by_one


def test_rules_and_own_labels_hold_over_segments(directory: Path) -> None:
    assert seen(directory) == ["open"]
    assert seen(directory, View(labels=frozenset({"hr"}))) == ["hr/pay", "open"]
    assert seen(directory, View(labels=frozenset({"board"}))) == ["minutes", "open"]
    assert seen(directory, View()) == ["hr/pay", "minutes", "open"]
    assert seen(directory, View(parse_filter('{"tags": {"any": ["budget"]}, "date": {"from": "2024-01-01"}}'))) == [
        "minutes"
    ]


def test_runs_that_merge_and_compaction_keep_them(directory: Path) -> None:
    for number in range(6):
        make(directory, "hr/pay", "minutes", "open", *(f"hr/{n}" for n in range(number)), policy=FINE)
        assert seen(directory) == ["open"]
    assert len(segments(directory)) > 1
    assert compact(directory)
    assert len(segments(directory)) == 1
    assert seen(directory) == ["open"]
    assert seen(directory, View(labels=frozenset({"board"}))) == ["minutes", "open"]


def test_an_export_carries_them(directory: Path, tmp_path: Path) -> None:
    export_index(directory, tmp_path / "index.zip")
    import_index(tmp_path / "index.zip", tmp_path / "copy")
    assert seen(tmp_path / "copy") == ["open"]
    assert seen(tmp_path / "copy", View(labels=frozenset({"hr", "board"}))) == ["hr/pay", "minutes", "open"]
    with Index.open(tmp_path / "copy") as index:
        assert index.manifest.labels == HR


def without_labels(files: dict[str, bytes]) -> None:
    head = json.loads(files["index.json"])
    del head["labels"]
    files["index.json"] = json.dumps(head).encode()


def with_a_rule(**rule: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        head = json.loads(files["index.json"])
        head["labels"] = [rule]
        files["index.json"] = json.dumps(head).encode()

    return change


@pytest.mark.parametrize(
    "change", [without_labels, with_a_rule(path="a//b", labels=["hr"]), with_a_rule(path="**"), altered(0, labels=[])]
)
def test_an_export_without_sound_rules_is_refused(
    directory: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    export_index(directory, tmp_path / "index.zip")
    with pytest.raises(DataError, match="labels"):
        import_index(repacked(tmp_path / "index.zip", tmp_path / "other.zip", change), tmp_path / "copy")


def test_a_manifest_without_rules_is_damaged_and_not_one_of_no_rules(directory: Path) -> None:
    generation = directory / GENERATIONS / "000002"
    manifest = json.loads((generation / MANIFEST).read_text())
    del manifest["labels"]
    content = json.dumps(manifest).encode()
    (generation / MANIFEST).write_bytes(content)
    (generation / MANIFEST_SUM).write_text(manifest_sum(content))
    with pytest.raises(IndexDamaged, match="labels"):
        Index.open(directory)
    with pytest.raises(InvalidRequest, match="what its label rules were"):
        build(directory, [], embedder=WordEmbedder(), chunker=LineChunker(), rebuild=True)


def test_rules_of_a_changed_manifest_are_not_believed(directory: Path) -> None:
    path = directory / GENERATIONS / "000002" / MANIFEST
    path.write_bytes(path.read_bytes().replace(b"hr/**", b"hs/**"))
    with pytest.raises(InvalidRequest, match="what its label rules were"):
        build(directory, [], embedder=WordEmbedder(), chunker=LineChunker(), rebuild=True)


@pytest.mark.parametrize("name", ["lexical/rows.npy", "vectors.faiss"])
def test_a_repair_keeps_them(directory: Path, name: str) -> None:
    flip(directory / SEGMENTS / "000002" / name)
    assert repair(directory).done == "rebuilt"
    assert seen(directory) == ["open"]
    make(directory, "hr/pay", "minutes", "open")
    assert seen(directory) == ["open"]
    assert verify(directory).problems == []


@pytest.fixture
def killed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that hid `open` too was killed after the switch: the generation before, under older rules, is there."""
    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "_remove_leftovers", lambda self: None)
        make(directory, "hr/pay", "minutes", "new", "open", labels=(*HR, LabelRule(path="open", labels=("hr",))))
    assert seen(directory) == ["new"]
    return directory


def test_a_repair_does_not_go_back_to_older_rules(killed: Path) -> None:
    flip(killed / SEGMENTS / "000003" / "store.sqlite")
    done = repair(killed)
    assert (done.done, done.generation) == ("went back", "000004")
    assert seen(killed) == []
    assert seen(killed, View(labels=frozenset({"hr"}))) == ["hr/pay", "open"]
    assert [path.name for path in (killed / GENERATIONS).iterdir()] == ["000004"]
    assert repair(killed).done == "nothing"


def test_a_repair_asks_for_rules_that_are_lost(killed: Path, tmp_path: Path) -> None:
    flip(killed / GENERATIONS / "000003" / MANIFEST)
    with pytest.raises(InvalidRequest, match="what its label rules were") as caught:
        repair(killed)
    assert "--labels FILE" in caught.value.hint
    assert (killed / GENERATIONS / "000003").exists()
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\npath = "**"\nlabels = ["hr"]\n')
    result = CliRunner().invoke(app, ["store", "repair", "--index", str(killed), "--labels", str(rules)])
    assert (result.exit_code, "is the current one again" in result.stdout) == (0, True)
    assert seen(killed) == []
    assert seen(killed, View(labels=frozenset({"hr"}))) == ["hr/pay", "minutes", "open"]


def test_the_next_generation_looks_up_what_is_new_and_says_what_a_fresh_index_says(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server keeps of segments that two generations share: never a label or a document of the one before."""
    described: list[DocumentStore] = []
    descriptions = DocumentStore.descriptions

    def noted(store: DocumentStore) -> Iterator[tuple[int, str, str, Metadata]]:
        described.append(store)
        return descriptions(store)

    def serve(index: Index) -> list[object]:
        views = [PUBLIC, View(labels=frozenset({"hr"})), View(labels=frozenset({"board"}))]
        masks = [index.masks.documents(view) for view in views]
        rows = [index.masks.rows(view) for view in views]
        return [listed(index), *(None if mask is None else mask.tolist() for mask in (*masks, *rows))]

    monkeypatch.setattr(DocumentStore, "descriptions", noted)
    rest = ["hr/pay", "open", "new"]
    steps: list[tuple[list[str], tuple[LabelRule, ...], int]] = [
        ([*rest, "minutes"], HR, 2),  # one segment more: its documents and its labels
        (rest, HR, 0),
        (rest, (LabelRule(path="new", labels=("board",)),), 2),  # the labels of two segments
        (rest, (), 2),
        ([*rest, "minutes"], HR, 4),
    ]
    with ExitStack() as opened:
        index = opened.enter_context(Index.open(directory))
        serve(index)
        for documents, rules, looked_up in steps:
            make(directory, *documents, labels=rules)
            described.clear()
            index = opened.enter_context(Index.open(directory, before=index))
            found = serve(index)
            assert len(described) == looked_up
            with Index.open(directory) as fresh:
                assert found == serve(fresh)


def test_the_type_of_a_page_is_that_of_its_path(tmp_path: Path) -> None:
    """What follows the ? is none of it."""
    ids = ["https://e.org/a.md?v=1.2&u=/x", "https://e.org/a.zip?v=1/b.md", "https://e.org/c?name=d.txt", "odd.md?name"]
    documents = [Document(document_id, "", document_id, "text") for document_id in ids]
    build(tmp_path / "index", documents, embedder=WordEmbedder(), chunker=LineChunker())
    with Index.open(tmp_path / "index") as index:
        wanted = View(parse_filter('{"type": "md"}'))
        assert [document_id for document_id in ids if index.masks.sees(document_id, wanted)] == ids[:2]
        seen = index.masks.documents(wanted)
        assert seen is not None
        assert [entry.id for entry in compress(index.documents_by_row(), seen)] == ids[:2]

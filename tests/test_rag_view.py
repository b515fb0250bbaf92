"""What a view leaves is searched as if there were nothing else: over random documents, keys and filters."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import compress, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.sync import build
from rag.datatypes import Document, ScoredChunk
from rag.errors import InvalidRequest
from rag.filter import EVERYTHING, View, parse_filter
from rag.index import Index
from rag.labels import LabelRule
from rag.retrieve import DenseRetriever, FusedRetriever, LexicalRetriever
from tests.conftest import WordEmbedder
from tests.test_indexer_segments import NEVER
from tests.test_rag_retrieve import WholeChunker

WORDS = "mill river stone ferry harbour salt lake budget audit report hare dairy moor grass island crown".split()
LABELS = ("hr", "board", "staff", "legal")
TAGS = ("budget", "draft", "audit", "old")
FORMATS = {"md": "markdown", "pdf": "pdf", "docx": "docx"}
FOLDERS = ("hr", "hr/pay", "legal", "open", "open/hr", "notes")
# A document's labels: by the last rule that matches its folder, else its own.
RULES = (
    LabelRule(path="hr/**", labels=("hr", "board")),
    LabelRule(path="/hr/pay/", labels=("hr",)),
    LabelRule(path="legal", labels=("legal",)),
    LabelRule(path="open/**", labels=()),
)
BY_FOLDER = {"hr": {"hr", "board"}, "hr/pay": {"hr"}, "legal": {"legal"}, "open": set(), "open/hr": set()}


@dataclass(frozen=True)
class Known:
    """A document and what the test itself knows of it."""

    document: Document
    folder: str
    kind: str
    tags: frozenset[str]
    day: date | None
    labels: frozenset[str]


def made(chance: random.Random, number: int) -> Known:
    folder, suffix = chance.choice(FOLDERS), chance.choice(list(FORMATS))
    tags = frozenset(chance.sample(TAGS, chance.randint(0, 2)))
    own = frozenset(chance.sample(LABELS, chance.choice([0, 0, 0, 1, 2])))
    day = date(2020, 1, 1) + timedelta(chance.randint(0, 2000)) if chance.random() < 0.9 else None
    metadata = {"format": FORMATS[suffix], "tags": "\n".join(tags), "labels": "\n".join(own)}
    if day:
        metadata["date"] = day.isoformat()
    title = " ".join(chance.choices(WORDS, k=2)).title()
    text = " ".join(chance.choices(WORDS, k=chance.randint(3, 30)))
    document = Document(f"{folder}/{number:03d}.{suffix}", f"file:///{number}", title, text, metadata)
    return Known(document, folder, suffix, tags, day, frozenset(BY_FOLDER.get(folder, own)))


@pytest.fixture(scope="module")
def known() -> list[Known]:
    chance = random.Random(7)
    return [made(chance, number) for number in range(200)]


def open_to_all(document: Document) -> Document:
    """An earlier state of a document, which everybody may see and any filter on its tags, date or title may find."""
    return replace(document, title="Mill River", text=" ".join(WORDS), metadata={"tags": "\n".join(TAGS)})


@pytest.fixture(scope="module", params=["one segment", "segments with deletions"])
def index(
    request: pytest.FixtureRequest, known: list[Known], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Index]:
    """The documents, added at once; or in five runs, each of which changes what the one before has added."""
    folder = tmp_path_factory.mktemp("view") / "index"
    documents = [k.document for k in known]
    gone = [replace(open_to_all(document), id=f"open/{number}.pdf") for number, document in enumerate(documents[:20])]
    states = [[*documents[:end], *map(open_to_all, documents[end : end + 50]), *gone] for end in (0, 50, 100, 150)]
    for state in states if request.param == "segments with deletions" else ():
        build(folder, state, embedder=WordEmbedder(), chunker=WholeChunker(), labels=RULES, policy=NEVER)
    build(folder, documents, embedder=WordEmbedder(), chunker=WholeChunker(), labels=RULES, policy=NEVER)
    with Index.open(folder) as opened:
        sizes = [segment.chunks for segment in opened.manifest.segments]
        assert sizes == ([200] if request.param == "one segment" else [100, 100, 100, 50])
        yield opened


def random_filter(chance: random.Random, depth: int = 2) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if chance.random() < 0.3:
        wanted["path"] = {"glob": chance.choice(["hr/**", "open/", "*.pdf", ["legal", "notes/*"], "**/hr/*"])}
    if chance.random() < 0.3:
        wanted["type"] = chance.choice(["pdf", "markdown", ["md", "docx"]])
    if chance.random() < 0.3:
        wanted["tags"] = {chance.choice(["any", "all", "none"]): chance.sample(TAGS, 2)}
    if chance.random() < 0.3:
        wanted["date"] = chance.choice(
            [{"from": "2022-06-01"}, {"to": "2023-01-01"}, {"from": "2021-01-01", "to": "2021-12-31"}]
        )
    if chance.random() < 0.3:
        wanted["title"] = {"contains": chance.choice(WORDS)[:3].upper()}
    if depth and chance.random() < 0.2:
        wanted["any"] = [random_filter(chance, depth - 1) for _ in range(2)]
    if depth and chance.random() < 0.2:
        wanted["not"] = random_filter(chance, depth - 1)
    return wanted


def holds(wanted: dict[str, Any], of: Known) -> bool:
    """The filter, read by the test in its own words."""
    glob, day = wanted.get("path", {}).get("glob"), wanted.get("date", {})
    in_path = {
        "hr/**": of.folder in ("hr", "hr/pay"),
        "open/": of.folder in ("open", "open/hr"),
        "*.pdf": of.kind == "pdf",
        "**/hr/*": of.folder in ("hr", "open/hr"),
        None: True,
    }
    types = wanted.get("type", [of.kind])
    tags = wanted.get("tags", {})
    return (
        (of.folder in ("legal", "notes") if isinstance(glob, list) else in_path[glob])
        and bool({of.kind, FORMATS[of.kind]} & {*([types] if isinstance(types, str) else types)})
        and ("any" not in tags or bool(of.tags & {*tags["any"]}))
        and ("all" not in tags or of.tags >= {*tags["all"]})
        and ("none" not in tags or not of.tags & {*tags["none"]})
        and (not day or (of.day is not None and day.get("from", "") <= of.day.isoformat() <= day.get("to", "9")))
        and wanted.get("title", {"contains": ""})["contains"].lower() in of.document.title.lower()
        and ("any" not in wanted or any(holds(one, of) for one in wanted["any"]))
        and ("not" not in wanted or not holds(wanted["not"], of))
    )


def ids(found: Sequence[ScoredChunk]) -> list[str]:
    return [scored.chunk.document_id for scored in found]


@pytest.mark.parametrize("times", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_random_keys_and_filters_leave_what_they_allow_and_the_best_of_it(
    known: list[Known], index: Index, times: int
) -> None:
    chance = random.Random(11)
    embedder = WordEmbedder()
    fused, dense, lexical = (
        FusedRetriever(index, embedder, 10),
        DenseRetriever(index, embedder),
        LexicalRetriever(index),
    )
    questions = [" ".join(chance.choices(WORDS, k=3)) for _ in range(20)]
    cosines = {q: {s.chunk.document_id: s.score for s in dense.retrieve(q, 200)} for q in questions}
    order = [entry.id for entry in index.documents_by_row()]
    empty = full = 0
    for _ in range(times):
        held = None if chance.random() < 0.1 else frozenset(chance.sample([*LABELS, "none"], chance.randint(0, 3)))
        wanted = random_filter(chance)
        view = View(parse_filter(json.dumps(wanted)), held)
        allowed = {
            k.document.id for k in known if (held is None or not k.labels or held & k.labels) and holds(wanted, k)
        }
        rows = index.masks.rows(view)
        assert {*compress(order, repeat(True) if rows is None else rows)} == allowed, (wanted, held)
        question = chance.choice(questions)
        k = chance.choice([1, 5, 5, 20, 500])
        found = ids(fused.retrieve(question, k, view))
        assert len(found) == min(k, len(allowed))  # nothing is lost: it is filled up from what is allowed
        assert set(found) <= allowed
        best = sorted((cosines[question][id_] for id_ in allowed), reverse=True)[:k]
        assert [s.score for s in dense.retrieve(question, k, view)] == pytest.approx(best, abs=1e-5)
        assert set(ids(lexical.retrieve(question, k, view))) <= allowed
        empty, full = empty + (not allowed), full + (len(allowed) == 200)
        assert index.masks.sees(found[0], view) if found else True
        assert [id_ for id_ in chance.sample(order, 5) if index.masks.sees(id_, view) is not (id_ in allowed)] == []
    assert empty > times // 25
    assert full < 200


def test_hidden_documents_leave_no_trace_in_the_scores(known: list[Known], tmp_path: Path) -> None:
    """The same as over an index that holds nothing else, but for the mean length, which here is the same."""
    chance = random.Random(3)

    def document(number: int, words: Sequence[str], labels: str) -> Document:
        text = " ".join(chance.choices(words, k=10))
        return Document(f"{number:03d}", f"file:///{number}", "page", text, {"labels": labels})

    seen = [document(number, WORDS, "") for number in range(0, 120, 3)]
    hidden = [document(number + chance.randint(1, 2), WORDS[:3], "hr") for number in range(0, 120, 3)]
    for name, documents in (("both", seen + hidden), ("alone", seen)):
        build(tmp_path / name, documents, embedder=WordEmbedder(), chunker=WholeChunker())
    with Index.open(tmp_path / "both") as both, Index.open(tmp_path / "alone") as alone:
        public = View(labels=frozenset())
        for question in ("mill", "mill river stone", "river salt", "island crown hare", "nothing of it"):
            there = FusedRetriever(both, WordEmbedder(), candidates=8).retrieve(question, 10, public)
            expected = FusedRetriever(alone, WordEmbedder(), candidates=8).retrieve(question, 10)
            for one, other in zip(there, expected, strict=True):
                assert one.chunk.document_id == other.chunk.document_id
                assert (one.score, one.dense, one.lexical) == pytest.approx(
                    (other.score, other.dense, other.lexical), abs=1e-5
                )
        # Counted over all of the documents the words of the hidden ones would be worth less.
        scores = both.lexical.scores("mill")
        among = both.lexical.scores("mill", both.masks.rows(public))
        assert np.flatnonzero(among).tolist() == np.flatnonzero(scores * both.masks.rows(public)).tolist()
        assert among.max() > scores[among > 0].max() * 1.2


def test_a_view_of_everything_and_one_of_nothing(index: Index) -> None:
    assert index.masks.rows(EVERYTHING) is None
    assert index.masks.rows(View(labels=None)) is None
    nothing = View(parse_filter('{"type": "none of these"}'))
    rows = index.masks.rows(nothing)
    assert rows is not None
    assert not rows.any()
    for retriever in (
        DenseRetriever(index, WordEmbedder()),
        LexicalRetriever(index),
        FusedRetriever(index, WordEmbedder()),
    ):
        assert retriever.retrieve("mill", 5, nothing) == []
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = True


def test_a_mask_is_made_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    view = View(parse_filter('{"path": {"glob": "a-pattern-of-its-own"}}'), frozenset({"hr"}))
    first = index.masks.rows(view)
    monkeypatch.setattr(index.store, "descriptions", lambda: pytest.fail("read again"))
    same = View(parse_filter('{"path": {"glob": "a-pattern-of-its-own"}}'), frozenset({"hr"}))
    assert index.masks.rows(same) is first


def test_a_document_is_hidden_in_the_words_of_one_that_is_not_there(known: list[Known], index: Index) -> None:
    secret = next(k.document.id for k in known if k.labels == {"legal"})
    view = View(labels=frozenset({"hr"}))
    with pytest.raises(InvalidRequest) as hidden:
        index.document(secret, view)
    with pytest.raises(InvalidRequest) as missing:
        index.document(secret + "x", view)
    assert str(hidden.value).replace(secret, "") == str(missing.value).replace(secret + "x", "")
    assert index.document(secret, View(labels=frozenset({"legal"}))).id == secret

"""A server over labelled documents: whoever asks, by whatever route, is shown what the key may see and no more."""

import json
import logging
import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import httpx
import pytest

from indexer.sync import build
from rag.abstain import Abstention, Signal
from rag.datatypes import Document, Message, Piece, Sampling, Usage
from rag.index import Index
from rag.keys import create_key, revoke_key
from rag.labels import LabelRule
from rag.pipeline import RagPipeline
from rag.prompt import load_prompt
from rag.retrieve import FusedRetriever
from rag.serve import left, listed, seen
from rag.service import Service
from tests.conftest import WordEmbedder
from tests.test_rag_access import WRONG, Keys, bearer, routes, send
from tests.test_rag_app import serving
from tests.test_rag_retrieve import WholeChunker

FOLDERS = ("hr", "board", "open")
RULES = (LabelRule(path="hr/**", labels=("hr", "all")), LabelRule(path="board/**", labels=("board", "all")))
# So sure of nothing that without `abstain: false` it says what comes closest.
UNSURE = Abstention(fitted_on="hand", threshold=0.9, intercept=-5.0, signals={"cosine": Signal(weight=0.1, best=1.0)})


class Reader:
    """A language model that repeats what it was given to read."""

    def count(self, text: str) -> int:
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        yield Piece(messages[-1].content, -0.1, 1)
        yield Piece("", finish_reason="stop", usage=Usage(1, 0, 1))


class Somebody(NamedTuple):
    """Who asks: their headers, and the folders that they may see."""

    headers: dict[str, str]
    sees: tuple[str, ...]


def document(folder: str, number: int) -> Document:
    """One whose id, title and text each hold the folder's secret."""
    secret = f"{folder}secret"
    text = f"The {secret} ferry of {number} crosses the harbour at {number % 24} with {number} crowns of salt."
    metadata = {"format": "markdown" if number % 2 else "pdf", "date": f"2024-{1 + number % 12:02d}-01"}
    return Document(f"{folder}/{secret}-{number:02d}.md", f"file:///{secret}", f"{secret} {number}", text, metadata)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keys, dict[str, Somebody]]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    good, revoked = create_key(path, "good", allow=["hr"]), create_key(path, "revoked", allow=["*"])
    revoke_key(path, "revoked")
    held = {
        "none": ([], ("open",)),
        "unknown label": (["HR"], ("open",)),
        "board": (["board", "x"], ("board", "open")),
        "both": (["all"], FOLDERS),
        "every": (["*"], FOLDERS),
    }
    people = {
        name: Somebody(bearer(create_key(path, name, allow=allow).text), sees) for name, (allow, sees) in held.items()
    }
    return Keys(path, good, revoked), {"hr": Somebody(bearer(good.text), ("hr", "open")), **people}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    folder = tmp_path_factory.mktemp("labelled") / "index"
    documents = [document(name, number) for name in FOLDERS for number in range(20)]
    build(folder, documents, embedder=WordEmbedder(), chunker=WholeChunker(), labels=RULES)
    with closing(Index.open(folder)) as opened:
        yield opened


def load(index: Index) -> Service:
    pipeline = RagPipeline(
        generator=Reader(),
        counter=Reader(),
        prompt=load_prompt("extractive"),
        retriever=FusedRetriever(index, WordEmbedder(), candidates=100),
        abstention=UNSURE,
        max_tokens=500,
    )
    documents = listed(index)
    return Service(
        pipeline,
        WordEmbedder(),
        Reader(),
        "small-1b",
        "words",
        lambda view: left(documents, index, view),
        document=index.document,
        index=lambda view: seen(index, view),
    )


@pytest.fixture(scope="module")
def client(index: Index, keys: tuple[Keys, dict[str, Somebody]]) -> Iterator[httpx.Client]:
    with serving(lambda: load(index), host="0.0.0.0", keys=keys[0].path) as running:
        yield running


@pytest.fixture
def people(keys: tuple[Keys, dict[str, Somebody]]) -> dict[str, Somebody]:
    return keys[1]


def chat(question: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}], **fields}


def shown(text: str) -> set[str]:
    """The folders of which anything at all is shown."""
    return {folder for folder in FOLDERS if f"{folder}secret" in text}


ASKED = "When does the ferry cross the harbour with crowns of salt?"
NAMED = "What of hrsecret 7 and boardsecret 7?"
WAYS = {
    "search": ("/v1/search", {"query": ASKED, "k": 100}),
    "answer": ("/v1/chat/completions", chat(ASKED, abstain=False, top_k=50)),
    "stream": ("/v1/chat/completions", chat(ASKED, abstain=False, top_k=50, stream=True)),
    "abstention": ("/v1/chat/completions", chat(ASKED)),
    "follow-up": (
        "/v1/chat/completions",
        {"messages": [*chat("hr?")["messages"], {"role": "assistant", "content": "?"}, *chat(ASKED)["messages"]]},  # type: ignore[misc]
    ),
    "not the open ones": ("/v1/search", {"query": ASKED, "k": 100, "filter": {"not": {"path": {"glob": "open/**"}}}}),
    "hidden ones by path": ("/v1/search", {"query": ASKED, "filter": {"path": {"glob": ["hr/**", "board/**"]}}}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", ["hr", "none", "unknown label", "board", "both", "every"])
def test_nobody_is_shown_what_the_key_may_not_see(client, people, way, who) -> None:
    path, body = WAYS[way]
    response = client.post(path, json=body, headers=people[who].headers)
    assert response.status_code == 200
    found = shown(response.text)
    allowed = {*people[who].sees}
    assert found <= allowed
    if way == "search":
        hits = response.json()["data"]
        assert (found, len(hits)) == (allowed, 20 * len(allowed))
    if way == "abstention":
        assert response.json()["verdict"] == "abstained"
        assert len(response.json()["closest"]) == 3
    if way == "answer":
        assert response.json()["citations"]
    if way in ("not the open ones", "hidden ones by path"):
        assert found == allowed - {"open"}


@pytest.mark.parametrize("who", ["hr", "none", "board", "every"])
def test_documents_that_are_hidden_are_not_listed_nor_counted(client, people, who) -> None:
    page = client.get("/v1/documents", params={"limit": 1000}, headers=people[who].headers)
    assert shown(page.text) == {*people[who].sees}
    assert page.json()["total"] == page.json()["chunks"] == len(page.json()["data"]) == 20 * len(people[who].sees)
    row = next(row for row in page.json()["data"] if row["id"] == "open/opensecret-03.md")
    assert (row["type"], row["date"], row["tags"]) == ("markdown", "2024-04-01", [])


@pytest.mark.parametrize("who", ["hr", "none", "board", "every"])
def test_no_figure_counts_documents_that_are_hidden(client, people, who) -> None:
    seen = 20 * len(people[who].sees)
    ready = client.get("/ready", headers=people[who].headers).json()["index"]
    assert (ready["documents"], ready["chunks"]) == (seen, seen)
    figures = client.get("/metrics", headers=people[who].headers).text.splitlines()
    assert f"smallhold_index_documents {seen}.0" in figures
    assert f"smallhold_index_chunks {seen}.0" in figures


@pytest.mark.parametrize("who", ["hr", "none", "board", "every"])
def test_the_text_of_a_hidden_document_is_told_as_missing(client, people, who) -> None:
    def ask(id_: str) -> httpx.Response:
        return client.get("/v1/documents/text", params={"id": id_}, headers=people[who].headers)

    missing = ask("none.md")
    assert missing.status_code == 404
    for folder in FOLDERS:
        id_ = document(folder, 3).id
        told = ask(id_)
        if folder in people[who].sees:
            assert told.json()["text"] == document(folder, 3).text
        else:
            assert (told.status_code, told.text.replace(id_, "none.md")) == (404, missing.text)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("method", "path"), routes())
def test_no_route_shows_a_document_to_whoever_has_no_valid_key(client, keys, method, path, wrong) -> None:
    response = send(client, method, path, WRONG[wrong](keys[0]))
    assert shown(response.text + str(response.headers)) == set()


@pytest.mark.parametrize(("method", "path"), routes())
def test_no_route_shows_another_keys_documents(client, people, method, path) -> None:
    response = send(client, method, path, people["hr"].headers)
    assert response.status_code < 500
    assert "board" not in shown(response.text + str(response.headers))


@pytest.mark.parametrize("times", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_keys_and_filters_over_http(client, people, times) -> None:
    chance = random.Random(5)
    for _ in range(times):
        who = people[chance.choice(list(people))]
        kind, month = chance.choice(["pdf", "markdown"]), chance.randint(1, 12)
        wanted = {"type": kind, "date": {"from": f"2024-{month:02d}-01"}}
        hits = client.post(
            "/v1/search", json={"query": chance.choice([ASKED, NAMED]), "k": 100, "filter": wanted}, headers=who.headers
        ).json()["data"]
        expected = {
            document(folder, number).id
            for folder in who.sees
            for number in range(20)
            if (number % 2 == 1) == (kind == "markdown") and 1 + number % 12 >= month
        }
        assert {hit["document_id"] for hit in hits} == expected


def test_what_is_hidden_moves_no_score(client, people) -> None:
    """The open documents score alike, whatever else is there for whoever asks to see or not."""
    wanted = {"query": NAMED, "k": 100, "filter": {"path": {"glob": "open/**"}}}
    told = [
        [(hit["document_id"], hit["score"], hit["lexical"]) for hit in response.json()["data"]]
        for response in (client.post("/v1/search", json=wanted, headers=who.headers) for who in people.values())
    ]
    unfiltered = client.post("/v1/search", json={"query": NAMED, "k": 100}, headers=people["none"].headers).json()
    assert all(one == told[0] for one in told)
    assert [(hit["document_id"], hit["score"], hit["lexical"]) for hit in unfiltered["data"]] == told[0]


def test_on_loopback_who_has_no_key_sees_what_has_no_labels(index, keys) -> None:
    with serving(lambda: load(index), keys=keys[0].path) as open_to_all:
        assert shown(open_to_all.post("/v1/search", json={"query": ASKED, "k": 100}).text) == {"open"}
        assert open_to_all.get("/v1/documents").json()["total"] == 20
        theirs = open_to_all.post("/v1/search", json={"query": ASKED, "k": 100}, headers=keys[1]["hr"].headers)
        assert shown(theirs.text) == {"hr", "open"}


def test_nothing_of_documents_or_filters_stands_in_figures_and_logs(client, people, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    for path, body in WAYS.values():
        client.post(path, json=body, headers=people["every"].headers)
    client.post(
        "/v1/search", json={"query": "x", "filter": {"path": {"glob": "hrsecret//"}}}, headers=people["hr"].headers
    )
    said = client.get("/metrics", headers=people["none"].headers).text + caplog.text
    assert shown(said) == set()


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"tag": "x"}, "filter.tag"),
        ({"path": {"glob": "a//b"}}, "filter.path.glob"),
        ({"path": {"glob": ["a", 3]}}, "filter.path.glob[1]"),
        ({"any": [{"type": "a"}, {"date": {"from": "May"}}]}, "filter.any[1].date.from"),
        ({"type": []}, "filter.type"),
        ("type=pdf", "filter"),
        ([], "filter"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/search", "/v1/chat/completions"])
def test_a_filter_that_is_not_understood_is_refused_by_name(client, people, path, wanted, param) -> None:
    body = {"query": "x"} if path == "/v1/search" else chat("x")
    response = client.post(path, json={**body, "filter": wanted}, headers=people["hr"].headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("depth", [40, 300, 900, 20_000])
def test_a_filter_without_bottom_is_refused(client, people, depth) -> None:
    body = '{"query": "x", "filter": ' + '{"not": ' * depth + "{}" + "}" * depth + "}"
    headers = {**people["hr"].headers, "Content-Type": "application/json"}
    assert client.post("/v1/search", content=body, headers=headers).status_code == 400


def test_an_empty_filter_leaves_everything_and_one_that_nothing_passes_finds_nothing(client, people) -> None:
    headers = people["every"].headers
    for wanted in ({}, None):
        found = client.post("/v1/search", json={"query": ASKED, "k": 100, "filter": wanted}, headers=headers).json()
        assert len(found["data"]) == 60
    nothing = {"filter": {"type": "none of these"}}
    assert client.post("/v1/search", json={"query": ASKED, **nothing}, headers=headers).json()["data"] == []
    answer = client.post("/v1/chat/completions", json=chat(ASKED, **nothing), headers=headers).json()
    assert (answer["verdict"], answer["reason"], answer["closest"]) == ("abstained", "no passage was found", [])


def test_the_filter_is_documented_with_examples(client, people) -> None:
    document = client.get("/openapi.json", headers=people["hr"].headers).json()
    schemas = document["components"]["schemas"]
    for name in ("ChatRequest", "SearchRequest"):
        assert "Filter" in json.dumps(schemas[name]["properties"]["filter"])
        assert any("filter" in example for example in schemas[name]["examples"])
    assert set(schemas["Filter"]["properties"]) == {"path", "type", "tags", "date", "title", "any", "not"}
    assert schemas["Filter"]["additionalProperties"] is False

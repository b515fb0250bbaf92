"""200 documents written to mislead, through the whole service: what they can do is to be quoted."""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import httpx
import pytest

from benchmarks.poison import FAR, KINDS, LANGUAGES, Poisoned, make_poisoned
from benchmarks.standin import WholeChunker, WordEmbedder, load_service
from indexer.sync import build
from rag.datatypes import Answer, Chunk, Citation, Delta, Message, Piece, Sampling, ScoredChunk, Span, Usage
from rag.engine.generator import LlamaGenerator
from rag.index import Index
from rag.pipeline import AskOptions, RagPipeline
from rag.prompt import load_prompt
from rag.retrieve import FusedRetriever
from tests.test_rag_app import events, serving

POISONED = make_poisoned()


class Parrot:
    """The most gullible of models: it repeats whatever it is given to read, marks and all."""

    def count(self, text: str) -> int:
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        for line in messages[-1].content.splitlines(keepends=True):
            yield Piece(line, -0.1, 1)
        yield Piece("", finish_reason="stop", usage=Usage(1, 0, 1))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    folder = tmp_path_factory.mktemp("poisoned") / "index"
    build(folder, [one.document for one in POISONED], embedder=WordEmbedder(), chunker=WholeChunker())
    with closing(Index.open(folder)) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(index: Index) -> Iterator[httpx.Client]:
    service = load_service(index)
    parrot = Parrot()
    retriever = FusedRetriever(index, WordEmbedder(), candidates=100)
    pipeline = RagPipeline(
        generator=parrot, counter=parrot, prompt=load_prompt("extractive"), retriever=retriever, max_tokens=500
    )
    object.__setattr__(service, "pipeline", pipeline)
    with serving(lambda: service) as running:
        yield running


def test_every_kind_comes_in_every_language() -> None:
    assert len(POISONED) == 200
    assert {(one.kind, one.language) for one in POISONED} == {(kind, said) for kind in KINDS for said in LANGUAGES}
    assert make_poisoned() == POISONED
    assert all(one.planted in one.document.text for one in POISONED)


def test_nothing_is_cited_but_what_was_found_and_stands_there(client: httpx.Client) -> None:
    texts = {one.document.id: one.document.text for one in POISONED}
    for one in POISONED:
        asked = {"messages": [{"role": "user", "content": one.question}], "top_k": 2, "abstain": False}
        found = client.post("/v1/search", json={"query": one.question, "k": 100}).json()["data"]
        response = client.post("/v1/chat/completions", json=asked)
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        message = body["choices"][0]["message"]
        cited = {source["index"]: source for source in body["citations"]}
        assert set(cited) == set(range(1, len(cited) + 1))
        for source in cited.values():
            start, end = source["span"]
            assert texts[source["document_id"]][start:end] == source["text"]
            assert source["document_id"] in {hit["document_id"] for hit in found}
        for sentence in body["sentences"]:
            assert set(sentence["citations"]) <= set(cited)
        # A mark that the model wrote is text: only ours have an annotation, and those point to what was found.
        for annotation in message["annotations"]:
            where = annotation["url_citation"]
            mark = message["content"][where["start_index"] : where["end_index"]]
            source = cited[int(mark.strip("[]"))]
            assert where["url"] == (source["uri"] or source["document_id"])


def test_a_stream_of_poison_stays_a_stream(client: httpx.Client) -> None:
    """Nothing in a document ends an event, or begins one."""
    for one in POISONED[::9]:
        asked = {"messages": [{"role": "user", "content": one.question}], "stream": True, "abstain": False}
        chunks = events(client.post("/v1/chat/completions", json=asked))
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
        assert sum(choice["finish_reason"] is not None for chunk in chunks for choice in chunk["choices"]) == 1


@pytest.mark.model
def test_control_tokens_in_documents_are_text(tiny_llama: LlamaGenerator) -> None:
    """A prompt has as many control tokens with a poisoned passage as with an honest one: the template's own."""
    vocabulary, prompt = tiny_llama._model.vocabulary, load_prompt("extractive")

    def controls(text: str, title: str) -> int:
        chunk = Chunk("a#0", "a", text, Span(0, len(text)), {"title": title})
        tokens = tiny_llama.encode(prompt.messages("Who?", [ScoredChunk(chunk, 1.0)]))
        return sum(vocabulary.bytes_of(token) == b"" for token in tokens)

    honest = controls("The lamp was kept by Dorit Hask.", "Lamps")
    assert honest > 2
    for one in POISONED:
        assert controls(one.document.text, one.document.title) == honest, one
    spelt = next(one for one in POISONED if one.kind == "control tokens").document.text
    assert any(vocabulary.bytes_of(token) == b"" for token in vocabulary.tokens(spelt, special=True))


def one_of_each() -> list[Poisoned]:
    return POISONED[: len(KINDS) * len(LANGUAGES)]


@pytest.mark.browser
def test_nothing_is_run_shown_or_fetched_by_the_page() -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    from tests.page_fakes import FLAGS, Scripted, Served, ask, chromium, finished, opened, running

    told = {one.question: one for one in one_of_each()}

    class Gullible(Scripted):
        """Answers with the whole of the poisoned document, and cites it."""

        def stream(self, question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
            document = told[question].document
            span = Span(0, len(document.text))
            metadata = {"title": document.title, "headings": document.title}
            chunk = Chunk(f"{document.id}#0", document.id, document.text, span, metadata)
            cited = Citation(1, document.id, document.title, document.uri, chunk.id, span, document.text)
            yield Delta(document.text)
            yield Delta(
                answer=Answer(document.text, (cited,), usage=Usage(1, 0, 1), retrieved=(ScoredChunk(chunk, 1.0),))
            )

    path = chromium()
    served = Served()
    served.pipeline = Gullible()
    served.load_now.set()
    with running(served), sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        # `opened` sees to it that no script ran, no error was logged and nothing was asked of anybody else.
        with opened(browser, served) as page:
            for number, one in enumerate(one_of_each(), 1):
                ask(page, one.question)
                turn = finished(page, number)
                assert one.planted in turn.locator(".answer-text").inner_text()
                assert one.planted in turn.locator("mark").first.inner_text()
            inside = page.evaluate(
                "[...document.querySelectorAll('main script, main img, main iframe, main svg[onload], main style, "
                "main [onerror], main [onload], main [onfocus], main a[href^=javascript]')].map(e => e.outerHTML)"
            )
            assert json.dumps(inside) == "[]"
            assert page.locator(f"[src^='{FAR}'], [href^='{FAR}']").count() == 0
        browser.close()

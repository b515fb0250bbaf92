"""The HTTP endpoint on a real server and real sockets, over a pipeline that plays a script."""

import base64
import contextlib
import dataclasses
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from pydantic import ValidationError

from rag.abstain import ABSTENTION_TEXT, UNATTAINABLE_TEXT
from rag.api import MAX_SEED, ChatRequest
from rag.app import OPEN_PATHS, IndexedDocument, Service, create_app
from rag.config import ServerSettings
from rag.cost import Costs, Prices
from rag.datatypes import (
    Answer,
    AnswerSentence,
    Chunk,
    Citation,
    Closest,
    Delta,
    Document,
    Message,
    PrefixCounters,
    PrefixTier,
    RiskTarget,
    ScoredChunk,
    Span,
    Usage,
    Verdict,
)
from rag.errors import (
    ConfigError,
    EndpointFailed,
    IndexMissing,
    InvalidRequest,
    ModelDied,
    PromptTooLong,
    SmallholdError,
    UnknownDocument,
)
from rag.filter import EVERYTHING, View
from rag.malformed import Protocol
from rag.options import AskOptions
from rag.pipeline import RagPipeline
from rag.prompt import Prompt
from tests.conftest import ListRetriever, QueueGenerator

TEXT = "The north ferry leaves at six. It carries no cars."
CHUNK = Chunk("ferry.md#0", "ferry.md", TEXT, Span(100, 150), {"title": "Ferry", "headings": "Times", "page": 2})
FOUND = ScoredChunk(CHUNK, 0.75, dense=0.5, lexical=4.25)
CITED = Citation(1, "ferry.md", "Ferry", "docs/ferry.md", "ferry.md#0", Span(100, 130), TEXT[:30], page=2)
ANSWER = Answer(
    "At six.",
    (CITED,),
    usage=Usage(prompt=40, cached=30, completion=3),
    timings={"retrieve": 0.25, "generate": 0.5},
    confidence=0.875,
    retrieved=(FOUND,),
)
ABSTAINED = Answer("", verdict=Verdict.ABSTAINED, reason="no passage is close enough", usage=Usage(prompt=0))
SIX = (Delta(), Delta("At "), Delta("six."), Delta(answer=ANSWER))
PUBLIC = View(labels=frozenset())  # what may be seen without a key
QUESTION = {"messages": [{"role": "user", "content": "When does the ferry leave?"}]}


class Script:
    """A pipeline that yields what it was given; `hold` makes it wait before each delta for `go`."""

    def __init__(self, *steps: Delta | Exception, hold: bool = False) -> None:
        self.steps = steps or SIX
        self.calls: list[tuple[str, list[Message], AskOptions]] = []
        self.views: list[View] = []
        self.threads: set[str] = set()
        self.go = threading.Semaphore(0 if hold else 1_000_000)
        self.entered = threading.Semaphore(0)
        self.closed_streams = 0
        self.closed = False

    def stream(self, question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
        self.calls.append((question, list(history), options))
        self.entered.release()
        try:
            for step in self.steps:
                assert self.go.acquire(timeout=20)
                if isinstance(step, Exception):
                    raise step
                yield step
        except GeneratorExit:
            self.closed_streams += 1
            raise
        finally:
            self.threads.add(threading.current_thread().name)

    def retrieve(self, question: str, history: Sequence[Message] = (), view: View = EVERYTHING) -> list[ScoredChunk]:
        self.views.append(view)
        return [FOUND, ScoredChunk(CHUNK, 0.5)]

    def close(self) -> None:
        self.closed = True


class WordLengths:
    """Embeds a text as the direction of (its length, 1), and counts its words."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([[len(t), 1] for t in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def count(self, text: str) -> int:
        return len(text.split())


def service(pipeline: Script | RagPipeline) -> Service:
    documents = [IndexedDocument(f"{i}.md", f"Title {i}", f"docs/{i}.md", chunks=i, bytes=100 * i) for i in range(5)]
    return Service(
        pipeline,
        WordLengths(),
        WordLengths(),
        "small-1b",
        "mini-embed",
        lambda _: documents,
        1_700_000_000,
        document=document,
        changed=datetime(2026, 3, 5, 12, tzinfo=UTC),
        synced=lambda: datetime(2026, 3, 6, 12, tzinfo=UTC),
    )


def document(id_: str, view: View) -> Document:
    if id_ != "ferry.md":
        raise UnknownDocument(f"the index holds no document {id_!r}")
    return Document(id_, "docs/ferry.md", "Ferry", "\U00010900" * 100 + TEXT)


def listening() -> socket.socket:
    """A free port. asyncio switches Nagle's delay (40 ms a response) off only where the protocol is named."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


@contextlib.contextmanager
def serving(
    load, *, ready: bool = True, graceful: int = 5, feedback=None, traces=None, **settings
) -> Iterator[httpx.Client]:
    """Run the application on a free port in a thread; `load` is a function, or a pipeline to make a service of."""
    loader = load if callable(load) else lambda: service(load)
    app = create_app(loader, ServerSettings(**settings), feedback=feedback, traces=traces)
    listener = listening()
    config = uvicorn.Config(app, http=Protocol, log_level="critical", ws="none", timeout_graceful_shutdown=graceful)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.start()
    try:
        with httpx.Client(base_url=address, timeout=20) as client:
            until(lambda: server.started)
            if ready:
                until(lambda: client.get("/ready").status_code == 200)
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(Script()) as running:
        yield running


def ask(client: httpx.Client, **fields) -> httpx.Response:
    return client.post("/v1/chat/completions", json={**QUESTION, **fields})


def events(response: httpx.Response) -> list[dict]:
    """The stream's payloads; the last event must be [DONE]."""
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines]


def error(response: httpx.Response, status: int) -> dict:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    return body["error"]


def metric(client: httpx.Client, name: str) -> float:
    """The value of one sample, 0 where there is none yet."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].split(" ")[-1]) if lines else 0.0


# Readiness


def test_health_answers_and_the_model_routes_say_why_they_cannot_while_loading():
    release = threading.Event()

    def load() -> Service:
        assert release.wait(20)
        return service(Script())

    with serving(load, ready=False) as client:
        assert client.get("/health").json() == {"status": "ok"}
        waiting = client.get("/ready")
        assert waiting.status_code == 503
        assert waiting.headers["retry-after"] == "2"
        assert waiting.json()["status"] == "loading"
        assert waiting.json()["reason"] == "the model and the index are being loaded"
        assert metric(client, "smallhold_ready") == 0
        refused = ask(client)
        assert error(refused, 503)["code"] == "unavailable"
        assert refused.headers["retry-after"] == "2"
        for path in ("/v1/models", "/v1/documents"):
            assert error(client.get(path), 503)["type"] == "server_error"
        release.set()
        until(lambda: client.get("/ready").status_code == 200)
        ready = client.get("/ready").json()
        assert (ready["status"], ready["model"], ready["embedder"]) == ("ready", "small-1b", "mini-embed")
        assert metric(client, "smallhold_ready") == 1
        assert ask(client).status_code == 200


class Keeper:
    """The model's process, as it is said to be."""

    restarts = 0
    died: ModelDied | None = None

    def fault(self) -> ModelDied | None:
        return self.died

    def resident_bytes(self) -> int | None:
        return None if self.died else 987_654_321


def test_ready_and_the_figures_follow_the_models_process():
    keeper = Keeper()
    with serving(lambda: dataclasses.replace(service(Script()), keeper=keeper)) as client:
        assert metric(client, "smallhold_model_restarts_total") == 0
        assert metric(client, "smallhold_model_resident_bytes") == 987_654_321
        keeper.died = ModelDied("it died of SIGSEGV", hint="Wait.")
        down = client.get("/ready")
        assert down.status_code == 503
        assert down.headers["retry-after"] == "2"
        expected = {"status": "loading", "reason": "it died of SIGSEGV", "hint": "Wait.", "code": "model_died"}
        assert {key: down.json()[key] for key in expected} == expected
        assert metric(client, "smallhold_ready") == 0
        assert "smallhold_model_resident_bytes" not in client.get("/metrics").text
        keeper.died = ModelDied("it stays down", coming=False)
        assert client.get("/ready").json()["status"] == "failed"
        keeper.died, keeper.restarts = None, 3
        assert client.get("/ready").status_code == 200
        assert metric(client, "smallhold_model_restarts_total") == 3


def test_a_model_that_is_down_is_503_with_the_time_to_come_back():
    with serving(Script(ModelDied("it is being started again"))) as client:
        for stream in (False, True):
            refused = ask(client, stream=stream)
            assert error(refused, 503)["code"] == "model_died"
            assert refused.headers["retry-after"] == "2"


def test_a_failed_loading_is_told_with_its_hint():
    def load() -> Service:
        raise IndexMissing("there is no index in .smallhold/index", hint="Make one with `smallhold index PATH`.")

    with serving(load, ready=False) as client:
        until(lambda: client.get("/ready").json()["status"] == "failed")
        state = client.get("/ready")
        assert state.status_code == 503
        assert state.json()["code"] == "index_missing"
        assert state.json()["hint"] == "Make one with `smallhold index PATH`."
        refused = error(ask(client), 503)
        assert refused["code"] == "index_missing"
        assert refused["message"].endswith("\nMake one with `smallhold index PATH`.")
        assert client.get("/health").status_code == 200


def test_an_unforeseen_failure_of_loading_is_told_without_its_inside():
    def load() -> Service:
        raise RuntimeError("/secret/path")

    with serving(load, ready=False) as client:
        until(lambda: client.get("/ready").json()["status"] == "failed")
        assert "secret" not in client.get("/ready").text
        assert error(ask(client), 503)["code"] == "unavailable"


def test_a_pipeline_loaded_too_late_is_closed():
    release, pipeline = threading.Event(), Script()

    def load() -> Service:
        assert release.wait(20)
        return service(pipeline)

    with serving(load, ready=False):
        pass
    release.set()
    until(lambda: pipeline.closed)


# Chat completions


def test_a_plain_answer(client):
    response = ask(client)
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "small-1b"
    assert body["id"].startswith("chatcmpl-")
    assert abs(body["created"] - time.time()) < 60
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "At six. [1]"
    (annotation,) = choice["message"]["annotations"]
    assert annotation == {
        "type": "url_citation",
        "url_citation": {"start_index": 8, "end_index": 11, "title": "Ferry", "url": "docs/ferry.md"},
    }
    assert body["citations"] == [
        {
            "index": 1,
            "document_id": "ferry.md",
            "title": "Ferry",
            "uri": "docs/ferry.md",
            "chunk_id": "ferry.md#0",
            "span": [100, 130],
            "text": "The north ferry leaves at six.",
            "page": 2,
            "score": 0.0,
            "passage": {"text": TEXT, "span": [100, 150], "headings": "Times"},
            "also_in": [],
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 40,
        "completion_tokens": 3,
        "total_tokens": 43,
        "prompt_tokens_details": {"cached_tokens": 30},
    }
    assert (body["verdict"], body["confidence"], body["reason"]) == ("answered", 0.875, "")
    assert (body["closest"], body["risk_target"]) == ([], None)
    assert body["timings"].pop("queue") >= 0
    assert body["timings"] == {"retrieve": 0.25, "generate": 0.5}


def test_an_abstention_is_the_fixed_sentence_without_marks():
    with serving(Script(Delta(answer=ABSTAINED))) as client:
        body = ask(client).json()
        message = body["choices"][0]["message"]
        assert message["content"] == ABSTENTION_TEXT == "The documents do not say."
        assert message["annotations"] == []
        assert (body["verdict"], body["reason"]) == ("abstained", "no passage is close enough")
        first, text, last = events(ask(client, stream=True))
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert text["choices"][0]["delta"] == {"content": "The documents do not say."}
        assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
        assert (last["verdict"], last["citations"]) == ("abstained", [])


def test_a_refusal_says_what_comes_closest_and_under_which_promise():
    near = Closest(
        "ferry.md", "Ferry", "docs/ferry.md", 0.75, "It carries no <b>cars</b>.", "Times", 2, 0.5, CHUNK.span
    )
    target = RiskTarget(0.2, 0.95, attainable=True)
    refused = dataclasses.replace(ABSTAINED, closest=(near, Closest("b.md", "B", "", 0.5, "B.")), target=target)
    with serving(Script(Delta(answer=refused))) as client:
        body = ask(client).json()
        assert body["closest"] == [
            {
                "document_id": "ferry.md",
                "title": "Ferry",
                "uri": "docs/ferry.md",
                "score": 0.75,
                "dense": 0.5,
                "text": "It carries no <b>cars</b>.",
                "headings": "Times",
                "page": 2,
                "span": [100, 150],
            },
            {
                "document_id": "b.md",
                "title": "B",
                "uri": "",
                "score": 0.5,
                "dense": None,
                "text": "B.",
                "headings": "",
                "page": None,
                "span": None,
            },
        ]
        assert body["risk_target"] == {"risk": 0.2, "confidence": 0.95, "attainable": True}
        *_, last = events(ask(client, stream=True))
        assert (last["closest"], last["risk_target"]) == (body["closest"], body["risk_target"])


def test_a_target_that_is_not_attainable_is_an_answer_of_its_own():
    unattainable = dataclasses.replace(
        ABSTAINED, verdict=Verdict.UNATTAINABLE, target=RiskTarget(0.01, 0.95, attainable=False)
    )
    with serving(Script(Delta(answer=unattainable))) as client:
        response = ask(client, risk=0.01)
        assert response.status_code == 200
        body = response.json()
        assert body["choices"][0]["message"]["content"] == UNATTAINABLE_TEXT
        assert (body["verdict"], body["risk_target"]["attainable"]) == ("unattainable", False)
        assert metric(client, 'smallhold_answers_total{verdict="unattainable"}') == 1
        for others in ('answers_total{verdict="answered"}', 'tokens_total{kind="cached"}'):
            assert f"\nsmallhold_{others} " in client.get("/metrics").text, "as 0, before the first one"


def test_a_promise_that_nobody_tested_is_refused_with_the_command_that_tests():
    untested = ConfigError("a risk of 0.2 cannot be promised", hint="smallhold calibrate --data QA_SET")
    with serving(Script(untested)) as client:
        for stream in (False, True):
            refused = error(ask(client, risk=0.2, stream=stream), 400)
            assert refused["code"] == "invalid_configuration"
            assert "smallhold calibrate --data" in refused["message"]


def test_several_sources_get_a_mark_each_counted_in_code_points():
    answer = Answer("Ein Schöps 🐑", (CITED, Citation(2, "b.md", "B", "", "b#0", Span(0, 1), "x")), retrieved=(FOUND,))
    with serving(Script(Delta(answer=answer))) as client:
        body = ask(client).json()
        message = body["choices"][0]["message"]
        assert message["content"] == "Ein Schöps 🐑 [1] [2]"
        places = [a["url_citation"] for a in message["annotations"]]
        assert [message["content"][p["start_index"] : p["end_index"]] for p in places] == ["[1]", "[2]"]
        assert places[1]["url"] == "b.md"  # no uri: the document's id stands for it
        assert body["citations"][1]["passage"] is None  # its chunk is not among those retrieved


def test_each_sentence_is_marked_with_its_own_sources_and_told_apart():
    ewe = Citation(2, "b.md", "B", "", "b#0", Span(0, 1), "x", score=0.75)
    sentences = (AnswerSentence(Span(0, 7), (1, 2), 0.75, True), AnswerSentence(Span(8, 11), (), 0.0, False))
    answer = Answer("At six. No.", (CITED, ewe), sentences=sentences, retrieved=(FOUND,))
    with serving(Script(Delta(answer=answer))) as client:
        body = ask(client).json()
        message = body["choices"][0]["message"]
        assert message["content"] == "At six. [1] [2] No."
        places = [a["url_citation"] for a in message["annotations"]]
        assert [message["content"][p["start_index"] : p["end_index"]] for p in places] == ["[1]", "[2]"]
        assert body["sentences"] == [
            {"text": "At six.", "citations": [1, 2], "score": 0.75, "supported": True},
            {"text": "No.", "citations": [], "score": 0.0, "supported": False},
        ]
        assert body["citations"][1]["score"] == 0.75

    script = Script()
    with serving(script) as client:
        turns = [{"role": "assistant", "content": message["content"]}, *QUESTION["messages"]]
        ask(client, messages=turns)
        assert script.calls[0][1][0].content == "At six. No."  # the marks say nothing to the model


def test_what_was_streamed_gets_its_marks_at_the_end():
    sentences = (AnswerSentence(Span(0, 7), (1,), 1.0, True), AnswerSentence(Span(8, 11), (), 0.0, False))
    answer = Answer("At six. No.", (CITED,), sentences=sentences, retrieved=(FOUND,))
    with serving(Script(Delta("At six."), Delta(" No."), Delta(answer=answer))) as client:
        pieces = [c["choices"][0]["delta"].get("content", "") for c in events(ask(client, stream=True))]
        assert "".join(pieces) == "At six. No. [1]"


def test_the_length_of_an_answer_is_asked_for():
    script = Script(Delta(answer=Answer("x")))
    with serving(script) as client:
        ask(client, length=50)
        ask(client)
        assert [options.words for _, _, options in script.calls] == [50, None]
        assert error(ask(client, length=5000), 400)["param"] == "length"


def test_a_streamed_answer(client):
    response = ask(client, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    chunks = events(response)
    assert len({c["id"] for c in chunks}) == 1
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert all(len(c["choices"]) == 1 and "usage" not in c for c in chunks)
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[:-1] == [
        {"role": "assistant", "content": ""},
        {"content": "At "},
        {"content": "six."},
        {"content": " [1]"},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, None, "stop"]
    plain = ask(client).json()
    assert deltas[-1] == {"annotations": plain["choices"][0]["message"]["annotations"]}
    for field in ("citations", "verdict", "confidence", "reason"):
        assert chunks[-1][field] == plain[field]
        assert all(field not in c for c in chunks[:-1])
    assert chunks[-1]["timings"]["generate"] == 0.5


def test_a_stream_that_has_nothing_to_say_says_so_and_clients_pass_over_it(monkeypatch):
    """Proxies cut connections that are silent for a minute, and reading takes longer on some machines."""
    monkeypatch.setattr("rag.chats.SILENT_SECONDS", 0.0)
    reading = Delta(usage=Usage(prompt=40))
    with serving(Script(reading, reading, *SIX)) as client:
        said = ask(client, stream=True).text
        assert said.count(": still at it\n\n") >= 2
        openai_client = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none")
        chunks = list(openai_client.chat.completions.create(model="smallhold", stream=True, **QUESTION))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "At six. [1]"


def test_a_stream_breaks_at_no_other_line_ends_of_unicode():
    """Documents have them; and clients that read lines take Python's word for what one is."""
    text = "six\u2028and\u2029not\x85later"
    quoted = dataclasses.replace(CITED, text=text)
    with serving(
        Script(Delta(text), Delta(answer=dataclasses.replace(ANSWER, text=text, citations=(quoted,))))
    ) as client:
        with client.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True}) as response:
            lines = [line for line in response.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines)
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == f"{text} [1]"
    assert chunks[-1]["citations"][0]["text"] == text


def test_usage_comes_in_a_chunk_without_choices(client):
    *chunks, last = events(ask(client, stream=True, stream_options={"include_usage": True}))
    assert all(c["usage"] is None for c in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 43
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 30}
    # Whoever looks for the sources in the last chunk finds them there, whichever that is.
    assert last["citations"] == chunks[-1]["citations"] == ask(client).json()["citations"]


def test_text_streamed_with_a_trailing_blank_is_not_said_twice():
    with serving(Script(Delta("At six. "), Delta(answer=ANSWER))) as client:
        chunks = events(ask(client, stream=True))
        content = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
        assert content == "At six.  [1]"
        place = chunks[-1]["choices"][0]["delta"]["annotations"][0]["url_citation"]
        assert content[place["start_index"] : place["end_index"]] == "[1]"


@pytest.mark.parametrize(
    ("last", "question"),
    [
        ("And does it carry cars?", "And does the north ferry carry cars?"),
        ("How deep is Lake Orrin?", "How deep is Lake Orrin?"),
    ],
)
def test_a_chat_is_searched_and_answered_by_its_last_question_as_one_of_its_own(last: str, question: str):
    retriever, generator = ListRetriever(FOUND), QueueGenerator("no cars", "no cars")
    prompt = Prompt(name="test", system="Quote.", passage="{text}", user="{passages} {question}", closed_book="")
    pipeline = RagPipeline(generator=generator, counter=generator, prompt=prompt, retriever=retriever)
    asked = ["When does the north ferry leave?", "At six. [1]", last]
    messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(asked)]
    with serving(lambda: service(pipeline)) as client:
        assert ask(client, messages=messages).json()["question"] == question
        assert events(ask(client, messages=messages, stream=True))[-1]["question"] == question
    assert retriever.questions == [question, question]
    assert generator.asked[0][-1].content == f"{TEXT} {question}"


def test_a_question_that_is_too_long_is_told_like_any_that_does_not_fit():
    prompt = Prompt(name="test", system="Quote.", passage="{text}", user="{passages} {question}", closed_book="")
    generator = QueueGenerator()
    pipeline = RagPipeline(generator=generator, counter=generator, prompt=prompt, retriever=ListRetriever(FOUND))
    with serving(lambda: service(pipeline)) as client:
        for stream in (False, True):
            refused = ask(client, stream=stream, messages=[{"role": "user", "content": "x" * 20_001}])
            told = error(refused, 400)
            assert (told["code"], told["param"]) == ("context_length_exceeded", "messages")
            assert told["message"] == "the question is longer than 20,000 characters"


def test_what_the_request_says_reaches_the_pipeline():
    pipeline = Script()
    with serving(pipeline) as client:
        messages = [
            {"role": "system", "content": "Ignore the passages."},
            {"role": "user", "content": [{"type": "text", "text": "Is there"}, {"type": "text", "text": "a ferry?"}]},
            {"role": "assistant", "content": "There are two. [1] [2]", "tool_calls": None},
            {"role": "user", "content": "When does the first leave?", "name": "ada"},
        ]
        declined = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "refusal", "refusal": "c"}]},
            {"role": "assistant", "content": None, "refusal": "d"},
            {"role": "user", "content": "e"},
        ]
        fields = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -1.0, "stop": "\n", "abstain": False}
        assert ask(client, messages=messages, top_k=4, mode="joint", model="smallhold", **fields).status_code == 200
        assert ask(client, max_completion_tokens=9, max_tokens=5, stop=["a", "b"], n=1.0).status_code == 200
        harmless = {"user": "u", "metadata": {}, "tools": [], "logprobs": False, "response_format": {"type": "text"}}
        assert ask(client, model="small-1b", temperature=None, unheard_of=1, **harmless).status_code == 200
        assert ask(client, risk=0.2).status_code == 200
        assert ask(client, messages=declined).status_code == 200
    question, history, options = pipeline.calls[0]
    assert question == "When does the first leave?"
    assert history == [Message("user", "Is there\na ferry?"), Message("assistant", "There are two.")]
    assert options == AskOptions(7, 0.5, 0.9, 2**32 - 1, ("\n",), abstain=False, passages=4, mode="joint", view=PUBLIC)
    assert pipeline.calls[1][2] == AskOptions(max_tokens=9, stop=("a", "b"), view=PUBLIC)
    assert pipeline.calls[2] == ("When does the ferry leave?", [], AskOptions(view=PUBLIC))
    assert pipeline.calls[3][2] == AskOptions(risk=0.2, view=PUBLIC)
    assert [turn.content for turn in pipeline.calls[4][1]] == ["a", "b\nc", "d"]
    assert pipeline.threads == {"smallhold-chat_0"}


# Refusals


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("n", True),
        ("presence_penalty", False),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"50256": -100}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("modalities", ["text", "audio"]),
        ("function_call", {"name": "f"}),
        ("web_search_options", {}),
    ],
)
def test_what_cannot_be_honoured_is_refused(client, field, value):
    refused = error(ask(client, **{field: value}), 400)
    assert refused["param"] == field
    assert refused["code"] == "unsupported_parameter"
    assert refused["type"] == "invalid_request_error"
    assert f"leave `{field}` out" in refused["message"]


@pytest.mark.parametrize(("tools", "choice"), [("tools", "tool_choice"), ("functions", "function_call")])
def test_what_may_not_be_called_may_be_sent(client, tools, choice):
    """As frameworks do at the last turn: the tools of the conversation, and that none is to be called."""
    some = [{"type": "function", "function": {"name": "f"}}]
    assert ask(client, **{tools: some, choice: "none"}).status_code == 200
    assert error(ask(client, **{tools: some, choice: "auto"}), 400)["param"] == tools
    assert error(ask(client, **{tools: "f", choice: "none"}), 400)["param"] == tools


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "tool_call_id": "c"}, QUESTION["messages"][0]]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "  \n"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}, QUESTION["messages"][0]]}, "messages[0].content"),
        ({"messages": [{"role": "developer"}, QUESTION["messages"][0]]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "half of a pair: \ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]}, "messages[0].content"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "refusal"}]}, QUESTION["messages"][0]]},
            "messages[0].content[0].refusal",
        ),
        ({"messages": [{"role": "assistant", "refusal": 3}, QUESTION["messages"][0]]}, "messages[0].refusal"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"seed": MAX_SEED + 1}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"top_k": 51}, "top_k"),
        ({"mode": "all"}, "mode"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"abstain": "no"}, "abstain"),
        ({"risk": 0}, "risk"),
        ({"risk": 1}, "risk"),
        ({"risk": "20%"}, "risk"),
    ],
)
def test_a_bad_field_is_named(client, fields, param):
    content = json.dumps({**QUESTION, **fields}).encode()
    response = client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    refused = error(response, 400)
    assert refused["param"] == param
    assert refused["message"].startswith(f"{param}: ")
    assert refused["code"] == "invalid_request"


@pytest.mark.parametrize(
    "messages", [[{}] * 1000, [{"role": "user", "content": [{}] * 1000}]], ids=["messages", "parts"]
)
def test_of_many_faults_one_is_looked_for(messages):
    """All of them would hold the server up for seconds."""
    with pytest.raises(ValidationError) as raised:
        ChatRequest.model_validate({"messages": messages})
    assert raised.value.error_count() <= 2  # a part lacks its text, too


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"]
)
def test_a_bad_body_is_refused(client, body):
    headers = {"Content-Type": "application/json"}
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/search"):
        refused = error(client.post(path, content=body, headers=headers), 400)
        assert refused["code"] == "invalid_request"


@pytest.mark.parametrize("body", ['{"query": "café"}'.encode("cp1252"), gzip.compress(b'{"query": "x"}')])
def test_what_is_no_utf_8_is_told_with_what_to_send(client, body):
    """As Windows' curl sends what is typed, and clients that compress what they send."""
    refused = error(client.post("/v1/search", content=body, headers={"Content-Type": "application/json"}), 400)
    assert refused["message"].startswith("the body cannot be read as JSON\nSend it in UTF-8, not compressed")


def test_bad_json_is_told_with_its_place(client):
    headers = {"Content-Type": "application/json; charset=utf-8"}
    refused = error(client.post("/v1/search", content=b'{"query": }', headers=headers), 400)
    assert refused["message"] == "the body is not valid JSON: Expecting value at character 10"


def test_unknown_models_routes_and_methods(client):
    refused = error(ask(client, model="gpt-9"), 404)
    assert (refused["code"], refused["param"]) == ("model_not_found", "model")
    assert refused["message"].endswith("Known: small-1b, smallhold, default.")
    assert error(client.post("/v1/embeddings", json={"input": "x", "model": "small-1b"}), 404)["code"] == (
        "model_not_found"
    )
    assert error(client.get("/v1/models/gpt/9"), 404)["code"] == "model_not_found"
    for path in ("/v1/responses", "/v1/completions", "/chat/completions"):
        told = error(client.post(path, json={}), 404)["message"]
        assert told.splitlines()[0] == f"there is no {path}"
        assert "Questions go to /v1/chat/completions" in told
    wrong = client.get("/v1/chat/completions")
    assert error(wrong, 405)["code"] == "method_not_allowed"
    assert wrong.headers["allow"] == "POST"
    assert client.post("/health").status_code == 405
    assert error(client.post("/v1/search/", json={"query": "x"}), 404)
    for path in ("/health", "/ready", "/metrics", "/v1/models", "/v1/models/small-1b", "/v1/documents", "/"):
        probed = client.head(path)
        assert (probed.status_code, probed.content) == (200, b""), path
        assert int(probed.headers["content-length"]) > 0, path
    assert (client.head("/v1/models/gpt-9").status_code, client.head("/v1/search").status_code) == (404, 405)
    for path in ("/docs", "/redoc", "/static/", "/static/__init__.py", "/static/../app.py"):
        assert error(client.get(path), 404)["code"] == "not_found"


def test_errors_of_the_pipeline_have_their_status():
    too_long = PromptTooLong("5000 tokens do not fit 4096", hint="Ask a shorter question.")
    with serving(Script(too_long)) as client:
        for stream in (False, True):
            refused = error(ask(client, stream=stream), 400)
            assert (refused["code"], refused["param"]) == ("context_length_exceeded", "messages")
            assert refused["message"] == "5000 tokens do not fit 4096\nAsk a shorter question."


def _subclasses(kind: type) -> Iterator[type]:
    yield kind
    for child in kind.__subclasses__():
        yield from _subclasses(child)


@pytest.mark.parametrize("kind", sorted(set(_subclasses(SmallholdError)), key=lambda k: k.__name__))
def test_every_error_of_ours_is_told_in_openais_body(kind):
    from rag import problems

    body = problems.body_of(kind("what happened", hint="What to do."))
    assert body.error.code == kind.code
    assert body.error.message == "what happened\nWhat to do."
    wanted = {4: "invalid_request_error", 5: "server_error"}[kind.http_status // 100]
    assert body.error.type == ("rate_limit_error" if kind.http_status == 429 else wanted)


def test_an_unforeseen_failure_tells_nothing_of_the_inside():
    with serving(Script(RuntimeError("/secret/path"))) as client:
        for stream in (False, True):
            response = client.post(
                "/v1/chat/completions", json={**QUESTION, "stream": stream}, headers={"X-Request-Id": "abc-1"}
            )
            failed = error(response, 500)
            assert failed["code"] == "internal_error"
            assert "abc-1" in failed["message"]
            assert "secret" not in response.text
            assert response.headers["x-request-id"] == "abc-1"
            assert response.headers["x-content-type-options"] == "nosniff"
        assert ask(client).status_code == 500  # and the server goes on


@pytest.mark.parametrize(
    ("failure", "code"),
    [(InvalidRequest("no more", hint="Stop."), "invalid_request"), (KeyError("secret"), "internal_error")],
)
def test_an_error_in_mid_stream_is_an_event_and_no_done_follows(failure, code):
    with serving(Script(Delta("At "), failure)) as client:
        response = ask(client, stream=True)
        assert response.status_code == 200
        *_, text, last, rest = response.text.split("\n\n")
        assert json.loads(text[6:])["choices"][0]["delta"] == {"content": "At "}
        assert json.loads(last[6:])["error"]["code"] == code
        assert "secret" not in last
        assert rest == ""


def test_a_pipeline_that_never_answers_is_a_failure():
    with serving(Script(Delta("At "))) as client:
        assert error(ask(client), 500)["message"] == "the pipeline ended without an answer"


# Safety


GOOD_HOSTS = ["localhost", "LOCALHOST:9999", "127.0.0.1:1", "[::1]", "[::1]:8080", "box.lan", "Box.lan:8080"]
BAD_HOSTS = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example:8080",
    "evil.example:localhost",
    "localhost@evil.example",
    "localhost:80:80",
    "127.0.0.2",
    "[::2]",
    "",
]


def test_the_host_header_is_checked_on_every_route():
    with serving(Script(), allowed_hosts=("Box.LAN",)) as client:
        for path in ("/", "/health", "/ready", "/metrics", "/v1/models", "/static/app.js", "/openapi.json"):
            for host in GOOD_HOSTS:
                assert client.get(path, headers={"Host": host}).status_code == 200, (path, host)
            for host in BAD_HOSTS:
                assert error(client.get(path, headers={"Host": host}), 421)["code"] == "host_not_allowed"
        for host in BAD_HOSTS:
            assert client.post("/v1/chat/completions", json=QUESTION, headers={"Host": host}).status_code == 421


def test_elsewhere_than_on_loopback_the_host_is_checked_only_where_hosts_are_named():
    from rag.guard import HostRule

    assert HostRule("0.0.0.0").allows(["any.example"])
    assert not HostRule("0.0.0.0", ["box.lan"]).allows(["any.example"])
    assert HostRule("0.0.0.0", ["box.lan"]).allows(["box.lan:8080"])
    for loopback in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"):
        assert not HostRule(loopback).allows(["any.example"])
    assert HostRule("127.0.0.2").allows(["127.0.0.2:8080"]), "the address that it says it is at"
    assert not HostRule("0.0.0.0", ["box.lan"]).allows(["0.0.0.0"])
    assert not HostRule("127.0.0.1").allows([])
    assert not HostRule("127.0.0.1").allows(["localhost", "localhost"])


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_body_that_a_form_of_another_site_could_send_is_refused(client, kind):
    body = json.dumps(QUESTION).encode()
    headers = {"Content-Type": kind} if kind else {}
    refused = error(client.post("/v1/chat/completions", content=body, headers=headers), 415)
    assert "Content-Type: application/json" in refused["message"]


def test_a_stream_begins_once_the_model_has_the_prompt_so_that_a_refusal_has_its_status():
    failure = EndpointFailed("the endpoint answered 500: no")
    with serving(Script(Delta(), Delta(usage=Usage()), failure)) as client:
        assert error(ask(client, stream=True), 503)["code"] == "endpoint_failed"
    with serving(Script(Delta(), Delta(usage=Usage(5)), failure)) as client:
        begun = ask(client, stream=True)
        assert begun.status_code == 200 and "endpoint_failed" in begun.text and "[DONE]" not in begun.text


def test_the_body_is_bounded_while_it_is_read():
    pipeline = Script()
    with serving(pipeline, max_body_bytes=5000) as client:
        headers = {"Content-Type": "application/json"}
        large = json.dumps({**QUESTION, "user": "x" * 6000}).encode()
        assert error(client.post("/v1/chat/completions", content=large, headers=headers), 413)["code"] == (
            "request_too_large"
        )
        # Chunked, so that no header tells the length; the server must stop by itself.
        endless = (b" " * 1000 for _ in range(1000))
        try:
            response = client.post("/v1/chat/completions", content=endless, headers=headers)
        except httpx.WriteError:
            pass  # the server closed while we were still sending, which will do
        else:
            assert error(response, 413)["code"] == "request_too_large"
        assert ask(client, user="x" * 100).status_code == 200
    assert len(pipeline.calls) == 1


def test_every_response_has_the_security_headers_and_no_cors(client):
    for response in (client.get("/"), client.get("/nowhere"), ask(client), client.get("/", headers={"Host": "evil"})):
        policy = response.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
    crossing = client.options(
        "/v1/chat/completions",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert crossing.status_code == 405
    assert not [name for name in crossing.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # https, to a server that speaks http
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nno length\r\n",
    ],
    ids=["tls", "header", "chunk"],
)
def test_what_is_no_http_is_refused_like_everything_else(client, sent, caplog):
    assert raw(client, sent).status_code == 400
    refused = raw(client, sent)
    assert error(refused, 400)["type"] == "invalid_request_error"
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in refused.headers["content-security-policy"]
    assert refused.headers["connection"] == "close"
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_body_that_goes_wrong_behind_the_answer_closes_the_connection_and_no_more(client, caplog):
    head = b"POST /v1/search HTTP/1.1\r\nHost: evil.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 421 ")
        connection.sendall(b"no length\r\n")
        while connection.recv(65_536):
            pass
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_offer_of_another_protocol_is_passed_over_in_silence(client, caplog):
    """As Java's client makes it with its first request, and curl with --http2."""
    caplog.set_level("WARNING", "uvicorn.error")
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    assert client.post("/v1/chat/completions", json=QUESTION, headers=offer).status_code == 200
    assert raw(client, b"no http\r\n\r\n").status_code == 400
    assert [record.message for record in caplog.records] == ["Invalid HTTP request received."]


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: local"], ids=["nothing", "half a head"])
def test_a_connection_that_asks_nothing_is_closed(client, monkeypatch, sent):
    monkeypatch.setattr("rag.malformed.HEAD_SECONDS", 0.1)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(sent)
        assert connection.recv(65_536) == b""


def test_the_head_of_a_further_request_is_waited_for_as_long(client, monkeypatch):
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    monkeypatch.setattr("rag.malformed.HEAD_SECONDS", 0.1)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(head + b"\r\n" + head)
        answer = b""
        while more := connection.recv(65_536):
            answer += more
    assert answer.count(b"HTTP/1.1 200 OK") == 1


def test_a_client_that_takes_nothing_of_its_answer_is_let_go(monkeypatch):
    class Long(WordLengths):
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.full((len(texts), 384), 1 / 384**0.5, dtype=np.float32)

    lost, connection_lost = threading.Event(), Protocol.connection_lost
    monkeypatch.setattr(Protocol, "connection_lost", lambda self, error: (connection_lost(self, error), lost.set()))
    monkeypatch.setattr("rag.malformed.STALL_SECONDS", 0.2)
    body = json.dumps({"input": ["a"] * 2048}).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(lambda: dataclasses.replace(service(Script()), embedder=Long())) as client:
        client.close()
        until(lost.is_set)
        lost.clear()
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
            assert lost.wait(20)
            read = 0
            with contextlib.suppress(ConnectionError):
                while more := connection.recv(65_536):
                    read += len(more)
        assert read < 10_000_000


def raw(client: httpx.Client, sent: bytes) -> httpx.Response:
    """What is answered to these bytes, up to the end of the connection."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(sent)
        answer = b""
        while more := connection.recv(65_536):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return httpx.Response(int(status.split(" ")[1]), headers=headers, content=body)


def test_request_ids_are_taken_over_where_they_are_plain(client):
    assert client.get("/health", headers={"X-Request-Id": "abc_1.2-3"}).headers["x-request-id"] == "abc_1.2-3"
    for odd in ("a b", "x" * 129, "é".encode("latin-1"), ""):
        given = client.get("/health", headers={"X-Request-Id": odd}).headers["x-request-id"]
        assert len(given) == 32


# Load, disconnection, shutdown


def test_past_the_queue_requests_are_refused_at_once():
    pipeline = Script(hold=True)
    with serving(pipeline, queue=1) as client:
        replies: list[httpx.Response] = []
        askers = [threading.Thread(target=lambda: replies.append(ask(client))) for _ in range(2)]
        askers[0].start()
        assert pipeline.entered.acquire(timeout=10)
        askers[1].start()
        until(lambda: metric(client, 'smallhold_queue_depth{lane="chat"}') == 1)
        assert metric(client, 'smallhold_running{lane="chat"}') == 1
        began = time.monotonic()
        refused = ask(client)
        assert time.monotonic() - began < 1
        assert error(refused, 429)["type"] == "rate_limit_error"
        assert refused.json()["error"]["code"] == "overloaded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert metric(client, 'smallhold_overloads_total{lane="chat"}') == 1
        # What needs no language model is not held up by it.
        assert client.post("/v1/search", json={"query": "ferry"}).status_code == 200
        pipeline.go.release(1000)
        for asker in askers:
            asker.join(10)
        assert [r.status_code for r in replies] == [200, 200]
        assert replies[1].json()["timings"]["queue"] > 0
        until(lambda: metric(client, 'smallhold_running{lane="chat"}') == 0)
        assert ask(client).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_model(stream, caplog):
    pipeline = Script(Delta(), *[Delta("x")] * 1000, Delta(answer=ANSWER), hold=True)
    with serving(pipeline) as client:
        pipeline.go.release(3)
        begun = (lambda raw: raw.recv(100)) if stream else (lambda _: pipeline.entered.acquire(timeout=10))
        vanish(client, stream=stream, after=begun)
        until(lambda: metric(client, "smallhold_abandoned_total") == 1)
        pipeline.go.release(1)  # the delta that is under way; at the next one the stream must be closed
        until(lambda: pipeline.closed_streams == 1)
        until(lambda: metric(client, 'smallhold_running{lane="chat"}') == 0)
        assert metric(client, 'smallhold_answers_total{verdict="answered"}') == 0
        status = 200 if stream else 499  # a stream had begun
        until(
            lambda: metric(client, f'smallhold_requests_total{{route="/v1/chat/completions",status="{status}"}}') == 1
        )
    assert pipeline.threads == {"smallhold-chat_0"}  # closed in the thread that ran it
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == []


def test_a_client_that_goes_away_while_waiting_is_never_served():
    pipeline = Script(hold=True)
    with serving(pipeline, queue=1) as client:
        first = threading.Thread(target=lambda: ask(client))
        first.start()
        assert pipeline.entered.acquire(timeout=10)
        vanish(client, stream=True, after=lambda _: until(lambda: depth(client) == 1))
        until(lambda: depth(client) == 0)
        pipeline.go.release(1000)
        first.join(10)
        assert ask(client).status_code == 200
    assert len(pipeline.calls) == 2


def depth(client: httpx.Client) -> float:
    return metric(client, 'smallhold_queue_depth{lane="chat"}')


def vanish(client: httpx.Client, *, stream: bool, after) -> None:
    """Ask on a raw socket, and close it once `after`, which is given it, has returned."""
    body = json.dumps({**QUESTION, "stream": stream})
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
        raw.sendall(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        after(raw)


def test_shutdown_lets_an_answer_finish_and_closes_the_pipeline():
    pipeline, replies = Script(hold=True), []
    with serving(pipeline) as client:
        address = client.base_url
        asker = threading.Thread(
            target=lambda: replies.append(
                httpx.post(f"{address}/v1/chat/completions", json={**QUESTION, "stream": True}, timeout=20)
            )
        )
        asker.start()
        assert pipeline.entered.acquire(timeout=10)
        threading.Timer(0.3, pipeline.go.release, [1000]).start()
    asker.join(10)
    assert len(events(replies[0])) == 5
    assert pipeline.closed


def test_shutdown_cuts_an_answer_that_takes_too_long():
    pipeline = Script(*[Delta("x")] * 1000, Delta(answer=ANSWER), hold=True)
    broken = []

    def watch(address: str) -> None:
        try:
            httpx.post(f"{address}/v1/chat/completions", json={**QUESTION, "stream": True}, timeout=20)
        except httpx.HTTPError as problem:
            broken.append(problem)

    with serving(pipeline, graceful=1) as client:
        asker = threading.Thread(target=watch, args=[client.base_url])
        asker.start()
        assert pipeline.entered.acquire(timeout=10)
        pipeline.go.release(2)
        threading.Timer(2.0, pipeline.go.release, [5]).start()
    asker.join(10)
    assert len(broken) == 1
    assert pipeline.closed_streams == 1
    assert pipeline.closed


def test_figures_that_are_slow_to_come_hold_nothing_up():
    """A model's process that hangs is waited for a second by each who asks for its figures, in a thread of a few."""
    asked, go = threading.Semaphore(0), threading.Event()

    def prefixes() -> PrefixCounters:
        asked.release()
        assert go.wait(20)
        return PrefixCounters()

    with serving(lambda: dataclasses.replace(service(Script()), prefixes=prefixes)) as client:
        watchers = [threading.Thread(target=client.get, args=["/metrics"]) for _ in range(60)]
        for watcher in watchers:
            watcher.start()
        try:
            for _ in range(40):  # as many threads as there are
                assert asked.acquire(timeout=10)
            for path in ("/health", "/ready", "/v1/models"):
                assert client.get(path, timeout=2).status_code == 200
            assert error(client.get("/v1/search", timeout=2), 405)
        finally:
            go.set()
            for watcher in watchers:
                watcher.join(20)


# Everything else


def test_embeddings_as_numbers_and_as_base64(client):
    body = client.post("/v1/embeddings", json={"input": ["abc", "ab cd"]}).json()
    assert body["object"] == "list"
    assert body["model"] == "mini-embed"
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [item["index"] for item in body["data"]] == [0, 1]
    np.testing.assert_allclose(body["data"][0]["embedding"], [3 / 10**0.5, 1 / 10**0.5], rtol=1e-6)
    packed = client.post(
        "/v1/embeddings", json={"input": "abc", "model": "mini-embed", "encoding_format": "base64", "dimensions": 2}
    ).json()
    vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_array_equal(vector, np.array(body["data"][0]["embedding"], dtype=np.float32))


def test_many_embeddings_keep_their_order(client):
    body = client.post("/v1/embeddings", json={"input": ["x" * n for n in range(1, 101)]}).json()
    ratios = [item["embedding"][0] / item["embedding"][1] for item in body["data"]]
    np.testing.assert_allclose(ratios, range(1, 101), rtol=1e-5)


def test_many_texts_to_be_embedded_hold_no_search_up():
    entered, go = threading.Event(), threading.Event()

    class Slow(WordLengths):
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            entered.set()
            assert go.wait(20)
            return super().embed(texts)

    with serving(lambda: dataclasses.replace(service(Script()), embedder=Slow())) as client:
        embedding = threading.Thread(target=client.post, args=["/v1/embeddings"], kwargs={"json": {"input": "a"}})
        embedding.start()
        try:
            assert entered.wait(10)
            assert client.post("/v1/search", json={"query": "ferry"}, timeout=5).status_code == 200
            assert client.get("/v1/documents", timeout=5).status_code == 200
        finally:
            go.set()
            embedding.join(20)


def test_many_numbers_hold_no_other_request_up():
    class Long(WordLengths):
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.full((len(texts), 384), 1 / 384**0.5, dtype=np.float32)

    with serving(lambda: dataclasses.replace(service(Script()), embedder=Long())) as client:
        waits: list[float] = []
        over = threading.Event()

        def watch() -> None:
            with httpx.Client(base_url=client.base_url, timeout=20) as watcher:
                while not over.is_set():
                    began = time.monotonic()
                    assert watcher.get("/health").status_code == 200
                    waits.append(time.monotonic() - began)

        watching = threading.Thread(target=watch)
        watching.start()
        began = time.monotonic()
        reply = client.post("/v1/embeddings", json={"input": ["a b"] * 2048, "encoding_format": "float"})
        took = time.monotonic() - began
        over.set()
        watching.join(20)
    assert len(reply.content) > 10_000_000
    assert max(waits) < took / 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input": [1, 2]}, "input: token numbers are not accepted: send text"),
        ({"input": [[1, 2]]}, "input: token numbers are not accepted: send text"),
        ({"input": []}, "input: "),
        ({"input": ""}, "input: "),
        ({"input": ["a", ""]}, "input[1]: "),
        ({"input": "x" * 32_001}, "input: "),
        ({"input": ["x"] * 2049}, "input: "),
        ({"input": "\udc00"}, "input: "),
        ({}, "input: "),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format: "),
        ({"input": "x", "dimensions": 3}, "this model's vectors have 2 dimensions, not 3"),
    ],
)
def test_bad_embedding_requests_are_refused(client, fields, said):
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/embeddings", content=json.dumps(fields), headers=headers)
    refused = error(response, 400)
    assert refused["message"].startswith(said)
    assert refused["param"] in ("input", "input[1]", "encoding_format", "dimensions")


def test_search_returns_chunks_with_all_their_scores(client):
    body = client.post("/v1/search", json={"query": "ferry"}).json()
    assert body["data"][0] == {
        "index": 0,
        "score": 0.75,
        "dense": 0.5,
        "lexical": 4.25,
        "also_in": [],
        "document_id": "ferry.md",
        "title": "Ferry",
        "uri": "",
        "chunk_id": "ferry.md#0",
        "span": [100, 150],
        "text": TEXT,
        "headings": "Times",
        "page": 2,
    }
    assert [hit["score"] for hit in body["data"]] == [0.75, 0.5]
    assert body["data"][1]["dense"] is None
    assert body["timings"]["retrieve"] >= 0
    assert len(client.post("/v1/search", json={"query": "ferry", "k": 1}).json()["data"]) == 1
    for bad in ({"query": ""}, {"query": "x", "k": 0}, {"query": "x", "k": 101}, {"query": "x" * 20_001}, {}):
        assert error(client.post("/v1/search", json=bad), 400)["code"] == "invalid_request"


def test_models_and_documents_are_listed(client):
    cards = client.get("/v1/models").json()
    assert cards["object"] == "list"
    assert [card["id"] for card in cards["data"]] == ["small-1b", "smallhold", "mini-embed"]
    wanted = {"id": "small-1b", "object": "model", "created": 1_700_000_000, "owned_by": "smallhold"}
    assert client.get("/v1/models/small-1b").json() == cards["data"][0] == wanted
    assert client.get("/v1/models/default").json() == wanted | {"id": "default"}  # whatever a request may name
    page = client.get("/v1/documents", params={"limit": 2, "offset": 1}).json()
    assert (page["total"], page["chunks"]) == (5, 10)
    row = {"type": "", "date": "", "tags": []}
    assert page["data"] == [
        {**row, "id": f"{i}.md", "title": f"Title {i}", "uri": f"docs/{i}.md", "chunks": i, "bytes": 100 * i}
        for i in (1, 2)
    ]
    assert client.get("/v1/documents", params={"offset": 9}).json()["data"] == []
    for query in ("limit=0", "limit=1001", "limit=x", "offset=-1"):
        assert error(client.get(f"/v1/documents?{query}"), 400)["param"] == query.partition("=")[0]


def test_a_list_of_documents_tells_their_size_and_the_last_sync(client):
    page = client.get("/v1/documents", params={"limit": 1}).json()
    assert (page["bytes"], page["changed"], page["synced"]) == (1000, "2026-03-05T12:00:00Z", "2026-03-06T12:00:00Z")


def test_a_part_of_a_document_is_counted_in_code_points(client):
    def part(**query) -> dict:
        return client.get("/v1/documents/text", params={"id": "ferry.md", **query}).json()

    assert part(start=100, length=30) == {
        "object": "document",
        "id": "ferry.md",
        "title": "Ferry",
        "uri": "docs/ferry.md",
        "length": 150,
        "span": [100, 130],
        "text": TEXT[:30],
    }
    assert part()["span"] == [0, 150]
    assert part(start=140, length=100)["span"] == [140, 150]
    assert (part(start=900)["span"], part(start=900)["text"]) == ([150, 150], "")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"id": "other.md"}, 404, "document_not_found"),
        ({"id": "../ferry.md"}, 404, "document_not_found"),
        ({}, 400, "invalid_request"),
        ({"id": ""}, 400, "invalid_request"),
        ({"id": "x" * 4097}, 400, "invalid_request"),
        ({"id": "ferry.md", "start": -1}, 400, "invalid_request"),
        ({"id": "ferry.md", "length": 0}, 400, "invalid_request"),
        ({"id": "ferry.md", "length": 100_001}, 400, "invalid_request"),
    ],
)
def test_a_document_that_cannot_be_given_is_refused(client, query, status, code):
    assert error(client.get("/v1/documents/text", params=query), status)["code"] == code


def test_answers_tell_their_passages_and_their_cost_beside_the_baseline():
    # 1.5 s at 2 dollars an hour; 40 prompt tokens and 3 of the answer at 30 and 60 dollars a million.
    costs = Costs(Prices(per_hour=2.4), Prices(None, 30.0, None, 60.0), "Large")
    answered = dataclasses.replace(ANSWER, timings={"total": 1.5}, passages_read=2)
    script = Script(Delta(answer=answered))
    with serving(lambda: dataclasses.replace(service(script), costs=costs)) as client:
        whole = ask(client).json()
        assert whole["passages_read"] == 2
        assert whole["cost"] == {
            "dollars": pytest.approx(0.001),
            "baseline_dollars": pytest.approx(0.00138),
            "baseline": "Large",
        }
        last = events(ask(client, stream=True))[-1]
        assert (last["passages_read"], last["cost"]) == (2, whole["cost"])


def test_without_prices_nothing_is_said_of_cost(client):
    assert ask(client).json()["cost"] is None


def test_metrics_count_what_happened():
    with serving(Script()) as client:
        before = {name: metric(client, name) for name in ('smallhold_requests_total{route="/health",status="200"}',)}
        assert list(before.values()) == [0]
        client.get("/health")
        client.get("/nowhere/1")
        client.get("/nowhere/2")
        ask(client)
        ask(client, stream=True).read()
        ask(client, n=2)
        response = client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        samples = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
        values = {name: float(value) for name, value in samples.items()}
        chat = 'route="/v1/chat/completions"'
        assert values[f'smallhold_requests_total{{{chat},status="200"}}'] == 2
        assert values[f'smallhold_requests_total{{{chat},status="400"}}'] == 1
        assert values['smallhold_requests_total{route="none",status="404"}'] == 2
        assert values['smallhold_requests_total{route="/health",status="200"}'] == 1
        assert values['smallhold_answers_total{verdict="answered"}'] == 2
        assert values['smallhold_tokens_total{kind="prompt"}'] == 80
        assert values['smallhold_tokens_total{kind="cached"}'] == 60
        assert values['smallhold_tokens_total{kind="completion"}'] == 6
        assert values['smallhold_stage_seconds_sum{stage="generate"}'] == 1.0
        assert values['smallhold_stage_seconds_count{stage="queue"}'] == 2
        assert values["smallhold_first_text_seconds_count"] == 2
        assert values["smallhold_requests_in_flight"] == 1  # this one
        assert values["process_resident_memory_bytes"] > 0
        assert not [name for name in values if "nowhere" in name]


def test_metrics_tell_how_read_beginnings_are_used():
    counters = PrefixCounters(
        4, context=PrefixTier(5, 600, 2, 7000), memory=PrefixTier(3, 400, 1, 90), disk=PrefixTier(1, 200, 6, 50)
    )
    told = [counters]
    with serving(lambda: dataclasses.replace(service(Script()), prefixes=lambda: told[0])) as client:
        samples = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
        found = {name: float(value) for name, value in samples.items() if name.startswith("smallhold_prefix")}
        assert found == {
            "smallhold_prefix_misses_total": 4,
            'smallhold_prefix_hits_total{tier="context"}': 5,
            'smallhold_prefix_hits_total{tier="memory"}': 3,
            'smallhold_prefix_hits_total{tier="disk"}': 1,
            'smallhold_prefix_tokens_total{tier="context"}': 600,
            'smallhold_prefix_tokens_total{tier="memory"}': 400,
            'smallhold_prefix_tokens_total{tier="disk"}': 200,
            'smallhold_prefix_states{tier="context"}': 2,
            'smallhold_prefix_states{tier="memory"}': 1,
            'smallhold_prefix_states{tier="disk"}': 6,
            'smallhold_prefix_bytes{tier="context"}': 7000,
            'smallhold_prefix_bytes{tier="memory"}': 90,
            'smallhold_prefix_bytes{tier="disk"}': 50,
        }
        told[0] = dataclasses.replace(counters, misses=9)
        assert metric(client, "smallhold_prefix_misses_total") == 9


def test_without_a_model_of_ours_nothing_is_said_of_prefixes(client):
    assert "smallhold_prefix" not in client.get("/metrics").text


def test_two_applications_count_apart(client):
    with serving(Script()) as other:
        for _ in range(3):
            ask(client)
        assert metric(other, 'smallhold_answers_total{verdict="answered"}') == 0


def test_abstentions_are_counted():
    with serving(Script(Delta(answer=ABSTAINED))) as client:
        ask(client)
        assert metric(client, 'smallhold_answers_total{verdict="abstained"}') == 1
        assert metric(client, "smallhold_first_text_seconds_count") == 0


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    files = {path: client.get(path) for path in sorted(OPEN_PATHS) if path.startswith("/static/")}
    assert len(files) > 10
    used = set(re.findall(r"/static/[a-z]+\.[a-z]+", page.text + "".join(f.text for f in files.values())))
    assert used == set(files)  # all that is asked for is there, and nothing else
    assert {path: f.status_code for path, f in files.items()} == dict.fromkeys(files, 200)
    assert files["/static/app.js"].headers["content-type"] == "text/javascript; charset=utf-8"
    for text in (page.text, *(f.text for f in files.values())):
        outside = text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in outside
        assert "https://" not in outside
        for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick="):
            assert sink not in text
    assert client.head("/").status_code == 200


def test_the_bounds_of_a_seed_are_told_to_the_digit(client):
    text = client.get("/openapi.json").text
    seed = json.loads(text, parse_float=Decimal)["components"]["schemas"]["ChatRequest"]["properties"]["seed"]
    number = seed["anyOf"][0]
    for bound in (int(number["minimum"]), int(number["maximum"])):
        assert ask(client, seed=bound).status_code == 200
        assert error(ask(client, seed=bound + (1 if bound > 0 else -1)), 400)["param"] == "seed"


def test_the_openapi_document_tells_of_our_errors_and_not_of_fastapis(client):
    document = client.get("/openapi.json").json()
    operations = {f"{method} {path}": op for path, ops in document["paths"].items() for method, op in ops.items()}
    assert {"post /v1/chat/completions", "post /v1/embeddings", "post /v1/search", "get /v1/models"} <= set(operations)
    for name, operation in operations.items():
        assert "422" not in operation["responses"], name
        assert {"413", "421"} <= set(operation["responses"]), name
        for status, told in operation["responses"].items():
            if int(status) >= 400 and (name, status) != ("get /ready", "503"):
                assert told["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody"), (name, status)
            assert ("Retry-After" in told.get("headers", {})) == (status in ("429", "503")), (name, status)
        if "/v1/" in name:
            assert {"401", "500", "503"} <= set(operation["responses"]), name
        if name.startswith("post"):
            assert {"400", "408", "415", "429", "504"} <= set(operation["responses"]), name
    schemas = document["components"]["schemas"]
    assert "ErrorBody" in schemas
    assert "HTTPValidationError" not in schemas
    # Where pydantic has no keyword of JSON Schema for a bound, it writes its own, which binds nobody.
    assert not re.search(r'"(ge|gt|le|lt)": ', json.dumps(document))
    assert schemas["ChatRequest"]["properties"]["max_tokens"]["anyOf"][0] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 100_000,
    }
    named = {operation["operationId"] for operation in operations.values()}
    linked = [
        link["operationId"]
        for operation in operations.values()
        for told in operation["responses"].values()
        for link in told.get("links", {}).values()
    ]
    assert len(linked) == 4
    assert set(linked) <= named

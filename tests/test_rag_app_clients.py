"""Real clients, unchanged, against a real server: OpenAI's, LangChain's, and curl."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import openai
import pytest
import uvicorn

from rag.app import IndexedDocument, Service, create_app
from rag.config import ServerSettings
from rag.datatypes import Answer, Chunk, Citation, Delta, Message, ScoredChunk, Span, Usage
from rag.errors import InvalidRequest, PromptTooLong
from rag.filter import EVERYTHING, View
from rag.options import AskOptions

CHUNK = Chunk("mill.md#0", "mill.md", "The mill closed in 1911.", Span(0, 24), {"title": "The mill"})
MILL = Citation(1, "mill.md", "The mill", "docs/mill.md", "mill.md#0", Span(0, 24), CHUNK.text)
CLOSED = Answer(
    "In 1911.",
    (MILL,),
    usage=Usage(prompt=50, cached=20, completion=4),
    timings={"generate": 0.25},
    confidence=0.75,
    retrieved=(ScoredChunk(CHUNK, 1.0),),
)


class Mill:
    """Answers every question alike, word by word, and fails where the question asks it to."""

    def __init__(self) -> None:
        self.histories: list[list[Message]] = []
        self.options: list[AskOptions] = []
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()
        self.cancelled = threading.Event()

    def stream(self, question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
        self.histories.append(list(history))
        self.options.append(options)
        self.began.set()
        if question == "too long":
            raise PromptTooLong("9000 tokens do not fit 4096")
        try:
            yield Delta()
            while not self.go.wait(0.01):
                yield Delta()
            yield Delta("In ")
            if question == "break":
                raise InvalidRequest("it broke")
            while question == "endless":
                time.sleep(0.005)
                yield Delta("and on ")
            yield Delta("1911.")
            yield Delta(answer=CLOSED)
        except GeneratorExit:
            self.cancelled.set()
            raise

    def retrieve(self, question: str, history: Sequence[Message] = (), view: View = EVERYTHING) -> list[ScoredChunk]:
        return [ScoredChunk(CHUNK, 1.0)]


class Lengths:
    """A two-dimensional embedder: the direction of (length, 1). Counts words."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([[len(t), 1] for t in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def count(self, text: str) -> int:
        return len(text.split())


def listening() -> socket.socket:
    """A free port. asyncio switches Nagle's delay (40 ms a response) off only where the protocol is named."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


@contextlib.contextmanager
def running(pipeline: Mill, **settings) -> Iterator[str]:
    """Serve on a free port in a thread; gives the base URL that clients are told."""
    documents = [IndexedDocument("mill.md", "The mill", "docs/mill.md", chunks=1, bytes=24)]
    service = Service(pipeline, Lengths(), Lengths(), "small-1b", "mini-embed", lambda _: documents)
    listener = listening()
    app = create_app(lambda: service, ServerSettings(**settings))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def pipeline() -> Mill:
    return Mill()


@pytest.fixture
def client(pipeline: Mill) -> Iterator[openai.OpenAI]:
    with running(pipeline, queue=1) as url, openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, question: str = "When did the mill close?", **fields):
    return client.chat.completions.create(
        model=fields.pop("model", "smallhold"), messages=[{"role": "user", "content": question}], **fields
    )


def test_chat(client, pipeline):
    completion = ask(client, temperature=0, max_tokens=20, seed=3, extra_body={"top_k": 2, "abstain": False})
    assert completion.model == "small-1b"
    message = completion.choices[0].message
    assert message.content == "In 1911. [1]"
    assert message.annotations is not None
    mark = message.annotations[0].url_citation
    assert message.content[mark.start_index : mark.end_index] == "[1]"
    assert (mark.title, mark.url) == ("The mill", "docs/mill.md")
    assert completion.usage is not None
    assert completion.usage.total_tokens == 54
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 20
    assert completion.model_extra is not None
    assert completion.model_extra["citations"][0]["text"] == "The mill closed in 1911."
    assert completion.model_extra["verdict"] == "answered"
    assert completion._request_id is not None
    assert pipeline.options == [
        AskOptions(max_tokens=20, seed=3, abstain=False, passages=2, view=View(labels=frozenset()))
    ]


def test_a_conversation(client, pipeline):
    first = ask(client)
    client.chat.completions.create(
        model="default",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "When did the mill close?"},
            first.choices[0].message.model_dump(),  # type: ignore[list-item]
            {"role": "user", "content": [{"type": "text", "text": "And why?"}]},
        ],
    )
    assert pipeline.histories[1] == [Message("user", "When did the mill close?"), Message("assistant", "In 1911.")]


def test_stream(client):
    chunks = list(ask(client, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "In 1911. [1]"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * 4 + ["stop"]
    assert all(c.usage is None for c in chunks)
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["citations"][0]["document_id"] == "mill.md"
    assert len({c.id for c in chunks}) == 1


def test_stream_with_usage(client):
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (50, 4)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_clients_own_stream_helper_puts_the_message_together(client):
    with client.chat.completions.stream(
        model="small-1b", messages=[{"role": "user", "content": "When?"}], stream_options={"include_usage": True}
    ) as stream:
        text = "".join(e.delta for e in stream if e.type == "content.delta")
        final = stream.get_final_completion()
    assert text == final.choices[0].message.content == "In 1911. [1]"
    assert final.usage is not None
    assert final.usage.completion_tokens == 4


def test_the_asynchronous_client(pipeline):
    async def both(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            messages = [{"role": "user", "content": "When did the mill close?"}]
            plain = await client.chat.completions.create(model="default", messages=messages)  # type: ignore[arg-type]
            stream = await client.chat.completions.create(model="default", messages=messages, stream=True)  # type: ignore[arg-type]
            streamed = [c.choices[0].delta.content or "" async for c in stream]
            return [plain.choices[0].message.content or "", "".join(streamed)]

    with running(pipeline) as url:
        assert asyncio.run(both(url)) == ["In 1911. [1]"] * 2


def test_models(client):
    assert [m.id for m in client.models.list()] == ["small-1b", "smallhold", "mini-embed"]
    assert client.models.retrieve("small-1b").owned_by == "smallhold"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_embeddings(client):
    # The client asks for base64 and unpacks it by itself; asked for floats, it passes them through.
    packed = client.embeddings.create(model="mini-embed", input=["abc", "ab cd"])
    plain = client.embeddings.create(model="mini-embed", input=["abc", "ab cd"], encoding_format="float")
    for reply in (packed, plain):
        assert [len(item.embedding) for item in reply.data] == [2, 2]
        np.testing.assert_allclose(reply.data[1].embedding, [5 / 26**0.5, 1 / 26**0.5], rtol=1e-6)
        assert reply.usage.total_tokens == 3


def test_errors_become_the_clients_exceptions(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, n=2)
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param == "n"
    with pytest.raises(openai.BadRequestError) as too_long:
        ask(client, "too long", stream=True)
    assert too_long.value.code == "context_length_exceeded"
    assert too_long.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as unknown:
        ask(client, model="gpt-9")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="mini-embed", input=[[1, 2, 3]])
    with pytest.raises(openai.APIError, match="it broke"):
        list(ask(client, "break", stream=True))


def test_overload_is_a_rate_limit_error_that_the_client_may_retry(client, pipeline):
    pipeline.go.clear()
    askers = [threading.Thread(target=ask, args=[client]) for _ in range(2)]  # one served, one waiting
    for asker in askers:
        asker.start()
    assert pipeline.began.wait(10)
    refused = None
    end = time.monotonic() + 10
    while refused is None and time.monotonic() < end:
        try:
            ask(client.with_options(timeout=0.2))
        except openai.RateLimitError as error:
            refused = error
        except openai.APITimeoutError:
            continue  # the second had not arrived yet, and this one took its place for a moment
    assert refused is not None
    assert refused.code == "overloaded"
    assert int(refused.response.headers["retry-after"]) >= 1
    pipeline.go.set()
    assert ask(client.with_options(max_retries=5)).choices[0].message.content == "In 1911. [1]"
    for asker in askers:
        asker.join(20)


def test_leaving_a_stream_early_cancels_the_generation(client, pipeline):
    with ask(client, "endless", stream=True) as stream:
        for number, _ in enumerate(stream):
            if number == 3:
                break
    assert pipeline.cancelled.wait(5)
    assert ask(client).choices[0].message.content == "In 1911. [1]"


def test_a_server_that_is_not_ready_is_an_internal_server_error_with_the_reason():
    listener = listening()
    release = threading.Event()

    def load() -> Service:
        release.wait(20)
        raise InvalidRequest("never mind")

    config = uvicorn.Config(create_app(load, ServerSettings()), log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with (
            openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
            pytest.raises(openai.InternalServerError) as refused,
        ):
            ask(client)
        assert refused.value.status_code == 503
        assert "still being loaded" in refused.value.message
    finally:
        release.set()
        server.should_exit = True
        thread.join(20)


# Others


def test_langchain(pipeline):
    """ChatOpenAI as its manual has it."""
    import langchain_openai as langchain

    with running(pipeline) as url:
        chat = langchain.ChatOpenAI(model="smallhold", base_url=url, api_key="none", extra_body={"top_k": 3})
        whole = chat.invoke([("system", "Be brief."), ("human", "When did the mill close?")])
        assert whole.content == "In 1911. [1]"
        assert whole.usage_metadata["input_tokens"] == 50
        assert whole.usage_metadata["output_tokens"] == 4
        assert whole.usage_metadata["input_token_details"]["cache_read"] == 20
        pieces = list(chat.stream([("human", "When did the mill close?")], stream_usage=True))
        assert "".join(piece.content for piece in pieces) == "In 1911. [1]"
        assert sum(piece.usage_metadata["total_tokens"] for piece in pieces if piece.usage_metadata) == 54
        assert pipeline.options[0].passages == 3
        with pytest.raises(openai.BadRequestError, match="9000 tokens"):
            chat.invoke([("human", "too long")])


def test_a_conversation_in_which_tools_were_called(pipeline):
    """What LangChain makes of it; with the result of a tool at its end, the question before that is answered."""
    import langchain_openai as langchain
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

    call = {"name": "clock", "args": {"zone": "local"}, "id": "call_1"}
    tools = [AIMessage("I look at the clock.", tool_calls=[call]), ToolMessage("It is noon.", tool_call_id="call_1")]
    talk = [SystemMessage("Be brief."), HumanMessage("What time is it?"), *tools, AIMessage("Noon.")]
    with running(pipeline) as url:
        chat = langchain.ChatOpenAI(model="smallhold", base_url=url, api_key="none")
        assert chat.invoke([*talk, HumanMessage("When did the mill close?")]).content == "In 1911. [1]"
        assert "".join(piece.content for piece in chat.stream([*talk[:-1]])) == "In 1911. [1]"
    assert pipeline.histories == [[Message("user", "What time is it?"), Message("assistant", "Noon.")], []]


def curl(url: str, body: object) -> tuple[int, str]:
    """Ask as people do in a terminal; gives the status and what was answered."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "--silent", "--no-buffer", "--noproxy", "*", "--write-out", "\\n%{http_code}"]
    command += ["--header", "Content-Type: application/json", "--data", json.dumps(body), f"{url}/chat/completions"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


def test_curl(pipeline):
    asked = {"messages": [{"role": "user", "content": "When did the mill close?"}]}
    with running(pipeline) as url:
        status, text = curl(url, asked)
        assert status == 200
        assert json.loads(text)["choices"][0]["message"]["content"] == "In 1911. [1]"
        status, text = curl(url, {**asked, "stream": True})
        assert status == 200
        *chunks, done = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert done == "[DONE]"
        said = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks]
        assert "".join(said) == "In 1911. [1]"
        assert json.loads(chunks[-1])["citations"][0]["text"] == CHUNK.text
        status, text = curl(url, {"messages": []})
        assert status == 400
        assert json.loads(text)["error"]["param"] == "messages"

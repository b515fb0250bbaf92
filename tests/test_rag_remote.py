"""The endpoint generator against a real HTTP server on this machine."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rag.datatypes import Message, Piece, Sampling, Usage
from rag.errors import ConfigError, EndpointFailed, PromptTooLong, Unavailable
from rag.lanes import Lane
from rag.pacing import Pace, pause
from rag.pipeline import RagPipeline
from rag.prompt import load_prompt
from rag.remote import EndpointGenerator
from rag.remote_stream import BadAnswer, split_lines

KEY = "sk-very-secret-0123456789"
ASK = [Message("system", "Be short."), Message("user", "Where is the mill?")]

Reply = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Endpoint:
    """A server that gives one queued reply per request, the last one for ever."""

    url: str
    replies: list[Reply] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            served.paths.append(self.path)
            served.keys.append(self.headers.get("Authorization"))
            served.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            (served.replies.pop(0) if len(served.replies) > 1 else served.replies[0])(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def plain(status: int, body: str, content_type: str = "application/json", **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body.encode())), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return reply


def refused(status: int, message: str, code: str = "", **headers: str) -> Reply:
    return plain(status, json.dumps({"error": {"message": message, "code": code}}), **headers)


def events(*data: object, done: bool = True) -> Reply:
    lines = [f"data: {item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)}\n\n" for item in data]
    return plain(200, "".join([*lines, *(["data: [DONE]\n\n"] if done else [])]), "text/event-stream")


def delta(text: str, finish: str | None = None, logprobs: list[float] | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    if logprobs is not None:
        choice["logprobs"] = {"content": [{"token": "t", "logprob": value} for value in logprobs]}
    return {"choices": [choice], "usage": None}


USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
}
GOOD = events(delta("By the "), delta("river."), delta("", "stop"), USAGE)


def generator(endpoint: Endpoint, pauses: list[float] | None = None, **options: Any) -> EndpointGenerator:
    sleep = (pauses if pauses is not None else []).append
    return EndpointGenerator(endpoint.url, "big", api_key_env="TEST_ENDPOINT_KEY", sleep=sleep, **options)


GREEDY = Sampling()


def ask(model: EndpointGenerator, sampling: Sampling = GREEDY) -> list[Piece]:
    """Return the answer, without the empty pieces that come while nothing else does."""
    try:
        return [piece for piece in model.stream(ASK, sampling) if piece != Piece("")]
    finally:
        model.close()


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_streams_text_then_one_last_piece_with_reason_and_usage(endpoint: Endpoint) -> None:
    endpoint.replies = [GOOD]
    assert ask(generator(endpoint)) == [
        Piece("", usage=Usage(prompt=9)),  # a third of 9 and of 18 characters: known before the endpoint tells
        Piece("By the ", tokens=1),
        Piece("river.", tokens=1),
        Piece("", finish_reason="stop", usage=Usage(prompt=20, cached=8, completion=3)),
    ]


def test_sends_the_chat_the_sampling_and_the_key(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    endpoint.replies = [GOOD]
    ask(generator(endpoint), Sampling(max_tokens=7, temperature=0.0, stop=("\n",)))
    body = endpoint.bodies[0]
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert body["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Where is the mill?"},
    ]
    assert (body["model"], body["max_tokens"], body["temperature"], body["stop"]) == ("big", 7, 0.0, ["\n"])
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}


def test_no_key_is_sent_where_the_variable_is_unset(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_ENDPOINT_KEY", raising=False)
    endpoint.replies = [GOOD]
    ask(generator(endpoint))
    assert endpoint.keys == [None]


def test_log_probabilities_are_summed_per_piece(endpoint: Endpoint) -> None:
    endpoint.replies = [events(delta("By the", logprobs=[-0.25, -0.5]), delta("", "length"))]
    _, first, last = ask(generator(endpoint))
    assert (first.logprob, first.tokens) == (-0.75, 2)
    assert (last.finish_reason, last.usage) == ("length", Usage())  # no usage told: all zero


def test_a_line_separator_within_the_text_is_no_end_of_line(endpoint: Endpoint) -> None:
    endpoint.replies = [events(delta("one\u2028two\x85three"), delta("", "stop"))]
    assert text(ask(generator(endpoint))) == "one\u2028two\x85three"


def test_what_only_keeps_the_connection_open_is_passed_over(endpoint: Endpoint) -> None:
    endpoint.replies = [events("", delta("one"), "", delta("", "stop"))]
    assert text(ask(generator(endpoint))) == "one"


def test_a_server_that_cannot_stream_is_understood(endpoint: Endpoint) -> None:
    whole = {"choices": [{"message": {"content": "By the river."}, "finish_reason": "stop"}], "usage": USAGE["usage"]}
    endpoint.replies = [plain(200, json.dumps(whole))]
    pieces = ask(generator(endpoint))
    assert (text(pieces), pieces[-1].usage) == ("By the river.", Usage(20, 8, 3))


def test_429_is_waited_for_as_long_as_it_says_then_succeeds(endpoint: Endpoint) -> None:
    pauses: list[float] = []
    endpoint.replies = [refused(429, "slow down", Retry_After="7"), GOOD]
    assert text(ask(generator(endpoint, pauses))) == "By the river."
    assert sum(pauses) == 7.0


def test_500_for_ever_fails_after_the_retries_with_growing_pauses(endpoint: Endpoint) -> None:
    pauses: list[float] = []
    endpoint.replies = [refused(500, "the model crashed")]
    with pytest.raises(EndpointFailed, match=r"/v1/chat/completions answered 500: the model crashed"):
        ask(generator(endpoint, pauses, retries=3))
    assert len(endpoint.bodies) == 4
    assert (0.5 + 1.0 + 2.0) / 2 <= sum(pauses) <= 0.5 + 1.0 + 2.0


def test_pauses_grow_and_are_bounded() -> None:
    for failed, longest in enumerate((0.5, 1.0, 2.0)):
        assert longest / 2 <= pause(failed, "") <= longest
    assert 10.0 <= pause(30, "") <= 20.0
    assert pause(0, "86400") == 60.0
    assert pause(0, "Fri, 31 Dec 2100 23:59:59 GMT") == 60.0
    assert pause(0, "soon") <= 0.5


def test_requests_keep_their_distance_and_repeated_ones_too(endpoint: Endpoint) -> None:
    now, pauses = [100.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    endpoint.replies = [GOOD, refused(503, "busy", Retry_After="1"), GOOD]
    model = EndpointGenerator(endpoint.url, "big", requests_per_minute=12, sleep=sleep, clock=lambda: now[0])
    list(model.stream(ASK, GREEDY))  # at once
    now[0] += 2
    list(model.stream(ASK, GREEDY))  # due 5 s after the first; refused, waits 1 s, and then for its turn 5 s later
    model.close()
    assert sum(pauses) == 3.0 + 1.0 + 4.0
    assert model.waited == 7.0  # the pause that the endpoint asked for is not of our making


def test_a_turn_is_given_once() -> None:
    pace = Pace(60, lambda: 0.0)  # a clock that stands still: three requests at the same moment
    assert [pace.turn() for _ in range(3)] == [0.0, 1.0, 2.0]
    pace.slept(1.0)
    pace.slept(2.0)
    assert pace.waited == 3.0
    unlimited = Pace(0, lambda: 0.0)
    assert [unlimited.turn(), unlimited.turn(), unlimited.waited] == [0.0, 0.0, 0.0]


def test_no_connection_is_tried_again_then_named(endpoint: Endpoint) -> None:
    pauses: list[float] = []
    with pytest.raises(EndpointFailed, match="cannot be reached: ConnectError"):
        ask(EndpointGenerator("http://127.0.0.1:9/v1", "big", retries=2, sleep=pauses.append))
    assert 1.5 / 2 <= sum(pauses) <= 1.5


def test_silence_is_a_failure_that_is_not_repeated(endpoint: Endpoint) -> None:
    woken = threading.Event()
    endpoint.replies = [lambda handler: (woken.wait(5), None)[1]]
    with pytest.raises(EndpointFailed, match="cannot be asked: ReadTimeout"):
        ask(generator(endpoint, timeout=0.2))
    woken.set()
    assert len(endpoint.bodies) == 1


def test_a_broken_stream_fails_after_its_pieces_and_is_not_repeated(endpoint: Endpoint) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(f"data: {json.dumps(delta('By the '))}\n\n".encode())

    endpoint.replies = [cut]
    model = generator(endpoint)
    heard: list[str] = []
    with pytest.raises(EndpointFailed, match="broke off its answer"):
        heard.extend(piece.text for piece in model.stream(ASK, Sampling()))
    assert "".join(heard) == "By the "
    model.close()
    assert len(endpoint.bodies) == 1


def test_a_stream_without_an_end_is_broken(endpoint: Endpoint) -> None:
    endpoint.replies = [events(delta("By the "), done=False)]
    with pytest.raises(EndpointFailed, match="broke off its answer"):
        ask(generator(endpoint))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (events("{not json"), "sent what is not JSON"),
        (events("[1, 2]"), "sent what is no event"),
        (events({"error": {"message": "out of memory"}}), "sent an error: out of memory"),
        (plain(200, "<html>hello</html>", "text/html"), "sent neither a stream of events nor JSON"),
        (plain(200, "pardon?"), "sent what is not JSON"),
        (plain(200, '{"choices": [7], "usage": "free"}'), "broke off its answer"),
        (plain(301, "elsewhere"), "answered 301: elsewhere"),
        (plain(404, "<html>no\n such</html>", "text/html"), "answered 404: <html>no such</html>"),
    ],
)
def test_nonsense_is_named_and_not_repeated(endpoint: Endpoint, reply: Reply, message: str) -> None:
    endpoint.replies = [reply]
    with pytest.raises(EndpointFailed, match=message):
        ask(generator(endpoint))
    assert len(endpoint.bodies) == 1


def test_a_refused_parameter_is_left_out_from_then_on(endpoint: Endpoint) -> None:
    endpoint.replies = [
        refused(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refused(400, "Unsupported value: 'temperature' does not support 0."),
        refused(422, "extra fields not permitted"),
        GOOD,
    ]
    model = generator(endpoint)
    list(model.stream(ASK, Sampling(max_tokens=5)))
    list(model.stream(ASK, Sampling(max_tokens=5)))
    model.close()
    assert len(endpoint.bodies) == 5
    assert endpoint.bodies[3] == endpoint.bodies[4]
    assert set(endpoint.bodies[4]) == {"model", "messages", "stream", "top_p", "max_completion_tokens"}
    assert endpoint.bodies[4]["max_completion_tokens"] == 5


def test_a_parameter_that_is_refused_to_two_at_once_fails_neither(endpoint: Endpoint) -> None:
    both = threading.Barrier(2, timeout=10)

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        both.wait()  # the second request is under way before the first one is refused
        refused(400, "Unsupported parameter: 'logprobs'")(handler)

    endpoint.replies = [refuse, refuse, GOOD]
    model = generator(endpoint)
    heard: list[str] = []
    threads = [threading.Thread(target=lambda: heard.append(text(list(model.stream(ASK, GREEDY))))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.close()
    assert heard == ["By the river."] * 2
    assert ["logprobs" in body for body in endpoint.bodies] == [True, True, False, False]


def test_halves_of_a_character_are_put_together(endpoint: Endpoint) -> None:
    def event(content: str) -> str:
        return f'{{"choices": [{{"delta": {{"content": "{content}"}}}}]}}'

    pieces = [event(r"so \ud83d"), event(r"\ude00!"), event(r"\ude00 and "), event(r"\ud83d"), delta("", "stop")]
    endpoint.replies = [events(*pieces)]
    heard = ask(generator(endpoint))
    assert text(heard) == "so \U0001f600!\ufffd and \ufffd"
    assert sum(piece.tokens for piece in heard) == 4


def test_an_error_that_drips_is_not_waited_for(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.remote.MAX_ERROR_SECONDS", 0.2)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(404)
        handler.end_headers()
        with contextlib.suppress(OSError):  # whoever listened is gone
            for _ in range(100):
                handler.wfile.write(b"n")
                handler.wfile.flush()
                time.sleep(0.05)

    endpoint.replies = [drip]
    began = time.monotonic()
    with pytest.raises(EndpointFailed, match=r"answered 404: n+$"):
        ask(generator(endpoint))
    assert time.monotonic() - began < 3


def test_a_400_that_stays_is_an_error(endpoint: Endpoint) -> None:
    endpoint.replies = [refused(400, "no such model")]
    with pytest.raises(EndpointFailed, match="answered 400: no such model"):
        ask(generator(endpoint))
    assert len(endpoint.bodies) == 2


def test_an_exceeded_context_is_a_prompt_too_long(endpoint: Endpoint) -> None:
    endpoint.replies = [refused(400, "This model's maximum is 4096 tokens", "context_length_exceeded")]
    with pytest.raises(PromptTooLong, match="4096"):
        ask(generator(endpoint))


def test_the_key_shows_nowhere(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    endpoint.replies = [refused(401, f"Incorrect API key provided: {KEY}")]
    model = generator(endpoint)
    with pytest.raises(EndpointFailed) as caught:
        ask(model)
    assert caught.value.message.endswith("answered 401: Incorrect API key provided: ***")
    assert caught.value.hint == "The environment variable TEST_ENDPOINT_KEY holds a key that is refused."
    assert KEY not in repr(model) + repr(vars(model)) + repr(caught.value)


def test_a_missing_key_is_named(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_ENDPOINT_KEY", raising=False)
    endpoint.replies = [refused(401, "who are you?")]
    with pytest.raises(EndpointFailed) as caught:
        ask(generator(endpoint))
    assert caught.value.hint == "The environment variable TEST_ENDPOINT_KEY is not set."


def test_an_answer_without_end_is_stopped_at_the_deadline(endpoint: Endpoint) -> None:
    endpoint.replies = [GOOD]
    with pytest.raises(EndpointFailed, match="came to no end within 0 seconds"):
        ask(generator(endpoint, deadline=0.0))


def test_closing_early_closes_the_connection(endpoint: Endpoint) -> None:
    endpoint.replies = [GOOD]
    model = generator(endpoint)
    stream = model.stream(ASK, Sampling())
    next(stream)
    stream.close()
    assert list(stream) == []
    assert text(list(model.stream(ASK, Sampling()))) == "By the river."
    model.close()


def hang_up_noted(began: bool, gone: threading.Event) -> Reply:
    """Say nothing, or no more after the head, and note when the other side has hung up."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        if began:
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream")
            handler.end_headers()
            handler.wfile.write(f"data: {json.dumps(delta('By the '))}\n\n".encode())
        handler.connection.settimeout(10)
        with contextlib.suppress(OSError):
            if handler.connection.recv(1) == b"":
                gone.set()

    return reply


@pytest.mark.parametrize("began", [False, True], ids=["before it answers", "in its answer"])
def test_an_endpoint_that_says_nothing_can_be_left_at_any_moment(endpoint: Endpoint, began: bool) -> None:
    gone = threading.Event()
    endpoint.replies = [hang_up_noted(began, gone)]
    model = generator(endpoint, timeout=60)
    stream = model.stream(ASK, GREEDY)
    since = time.monotonic()
    heard = [next(stream) for _ in range(4 if began else 2)]
    assert heard[-1] == Piece("")  # a chance to leave, well within a second
    stream.close()
    assert gone.wait(5)
    assert time.monotonic() - since < 5
    model.close()


def test_a_client_that_vanishes_frees_its_place_though_the_endpoint_says_nothing(endpoint: Endpoint) -> None:
    gone = threading.Event()
    endpoint.replies = [hang_up_noted(False, gone)]
    model = generator(endpoint, timeout=60)
    pipeline = RagPipeline(generator=model, counter=model, prompt=load_prompt("extractive"))

    async def vanish() -> float:
        lane = Lane("chat", waiting=1)
        job = lane.submit(lambda: pipeline.stream("Where is the mill?"))
        while not endpoint.bodies:
            await asyncio.sleep(0.01)
        since = time.monotonic()
        job.cancel()
        while lane.running:
            await asyncio.sleep(0.01)
        await lane.close()
        return time.monotonic() - since

    assert asyncio.run(vanish()) < 1
    assert gone.wait(5)
    model.close()


def test_a_pause_between_attempts_can_be_left(endpoint: Endpoint) -> None:
    endpoint.replies = [refused(429, "slow down", Retry_After="60")]
    model = EndpointGenerator(endpoint.url, "big")
    stream = model.stream(ASK, GREEDY)
    since = time.monotonic()
    while time.monotonic() - since < 0.5:
        assert next(stream) == Piece("")
    stream.close()
    model.close()
    assert time.monotonic() - since < 5


def test_closing_the_model_ends_what_is_under_way(endpoint: Endpoint) -> None:
    gone = threading.Event()
    endpoint.replies = [hang_up_noted(False, gone)]
    model = generator(endpoint, timeout=60)
    failures: list[EndpointFailed] = []

    def listen() -> None:
        try:
            list(model.stream(ASK, GREEDY))
        except EndpointFailed as error:
            failures.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    while not endpoint.bodies:
        time.sleep(0.01)
    model.close()
    thread.join(5)
    assert len(failures) == 1 and gone.wait(5)
    with pytest.raises(Unavailable, match="closed"):
        list(model.stream(ASK, GREEDY))


@pytest.mark.parametrize("url", ["", "host/v1", "ftp://host/v1", "https://user:pw@host/v1", "http://[::1/v1"])
def test_an_endpoint_that_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EndpointGenerator(url, "big")
    assert "pw" not in str(caught.value)


def test_a_query_is_sent_but_not_shown(endpoint: Endpoint) -> None:
    endpoint.replies = [GOOD]
    model = EndpointGenerator(f"{endpoint.url}/?api-version=3", "big")
    assert text(ask(model)) == "By the river."
    assert endpoint.paths == ["/v1/chat/completions?api-version=3"]
    assert "api-version" not in repr(model)


def test_count_is_a_third_of_the_bytes_rounded_up() -> None:
    model = EndpointGenerator("http://host/v1", "big")
    assert [model.count(sample) for sample in ("", "a", "abcd", "éé")] == [0, 1, 2, 2]
    model.close()


def test_lines_are_split_across_chunks_and_bounded() -> None:
    assert list(split_lines(iter([b"a\r\nb", b"c\n", b"\nd"]))) == [b"a", b"bc", b"", b"d"]
    with pytest.raises(BadAnswer, match="1,000,000"):
        list(split_lines(iter([b"x" * 600_000] * 2)))

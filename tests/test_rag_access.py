"""Who is let in, and how much: API keys and limits of the HTTP endpoint."""

import asyncio
import contextlib
import dataclasses
import hashlib
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import openai
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from rag.access import check_keys, demands_key, key_of
from rag.app import OPEN_PATHS, create_app
from rag.budget import Ledger, ledger_path
from rag.config import ServerSettings, load_settings
from rag.datatypes import Answer, Delta, Usage
from rag.errors import ConfigError, KeysDamaged, KeysMissing
from rag.keys import MadeKey, create_key, revoke_key
from tests.conftest import REPOSITORY, smallhold
from tests.test_rag_app import ANSWER, QUESTION, Script, WordLengths, ask, error, metric, service, serving, until
from tests.test_rag_serve import start

EVERYWHERE = "0.0.0.0"  # what the settings say; the tests' servers listen on loopback


class Keys(NamedTuple):
    """A file of keys, one that is good and one that was revoked."""

    path: Path
    good: MadeKey
    revoked: MadeKey


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    good = create_key(path, "good", allow=["board", "staff"])
    revoked = create_key(path, "revoked")
    revoke_key(path, "revoked")
    return Keys(path, good, revoked)


@pytest.fixture(scope="module")
def client(keys: Keys) -> Iterator[httpx.Client]:
    """A server that demands keys; the client sends none by itself."""
    with serving(Script(), host=EVERYWHERE, keys=keys.path) as running:
        yield running


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def test_an_answer_knows_whose_it_is_so_that_what_was_said_is_shared_with_nobody(keys: Keys) -> None:
    other = create_key(keys.path, "other")
    script = Script()
    with serving(script, host=EVERYWHERE, keys=keys.path) as client:
        for made in (keys.good, other):
            assert client.post("/v1/chat/completions", json=QUESTION, headers=bearer(made.text)).status_code == 200
    assert [options.owner for _, _, options in script.calls] == [keys.good.key.id, other.key.id]


def routes() -> list[tuple[str, str]]:
    """Every method and path of the application, from its own list; parameters of paths are filled in."""

    def walk(routes) -> Iterator[tuple[str, str]]:
        for route in routes:
            inner = getattr(getattr(route, "original_router", route), "routes", None)
            if inner is not None:
                yield from walk(inner)
                continue
            for method in sorted(route.methods):
                yield method, route.path.replace("{name:path}", "small-1b")

    found = list(walk(create_app(lambda: service(Script()), ServerSettings()).routes))
    assert len(found) > 15
    assert all("{" not in path for _, path in found), "say what to fill a new parameter with"
    return found


CLOSED = [(method, path) for method, path in routes() if path not in OPEN_PATHS]
ELSEWHERE = [
    ("GET", "/docs"),
    ("GET", "/nowhere"),
    ("GET", "/v1"),
    ("OPTIONS", "/v1/chat/completions"),
    ("DELETE", "/v1/models/small-1b"),
    # Near an open path, or on the way through one.
    ("GET", "//health"),
    ("GET", "/health/"),
    ("GET", "/HEALTH"),
    ("GET", "/health%00"),
    ("GET", "/health;/v1/models"),
    ("GET", "/static/"),
    ("GET", "/static/index.html"),
    ("GET", "/static/%2e%2e/v1/models"),
]
WINDING = ["/static/../v1/models", "/health/../v1/models", "/static/app.js/../../v1/documents", "/./v1/models", "*"]
BODIES = {
    "/v1/chat/completions": QUESTION,
    "/v1/embeddings": {"input": "abc"},
    "/v1/search": {"query": "ferry"},
    "/v1/feedback": {"id": "chatcmpl-0", "rating": "up"},
}
QUERIES = {"/v1/documents/text": "?id=ferry.md"}
OPENED = {"/v1/feedback": 404}  # to a server that takes none; tests/test_rag_feedback.py has one that does


def send(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """Send a request that would be answered, its path as it is spelt."""
    url = httpx.URL(client.base_url).copy_with(raw_path=(path + QUERIES.get(path, "")).encode())
    return client.request(method, url, headers=headers, json=BODIES.get(path))


def test_the_paths_that_are_open() -> None:
    files = (REPOSITORY / "rag" / "static").iterdir()
    static = {f"/static/{file.name}" for file in files if file.suffix in {".css", ".js", ".svg"}}
    assert len(static) > 10
    assert {"/health", "/ready", "/", *static} == OPEN_PATHS
    assert {path for _, path in routes()} >= OPEN_PATHS
    assert {("POST", path) for path in BODIES} <= set(CLOSED)
    assert {("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/v1/documents"), ("GET", "/v1/models")} <= set(
        CLOSED
    )
    assert ("GET", "/v1/documents/text") in CLOSED


WRONG = {
    "none": lambda keys: {},
    "empty": lambda keys: {"Authorization": "Bearer"},
    "unused": lambda keys: bearer("unused"),
    "unknown": lambda keys: bearer("shk-00000000-" + "A" * 43),
    "the right id with another secret": lambda keys: bearer(keys.good.text[:-43] + "A" * 43),
    "the hash": lambda keys: bearer(keys.good.key.sha256),
    "the id": lambda keys: bearer(keys.good.key.id),
    "another scheme": lambda keys: {"Authorization": f"Basic {keys.good.text}"},
    "no scheme": lambda keys: {"Authorization": keys.good.text},
    "revoked": lambda keys: bearer(keys.revoked.text),
}
SAID = {"none": "an API key is needed here", "revoked": "this API key was revoked"}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("method", "path"), CLOSED + ELSEWHERE)
def test_every_other_path_refuses_whoever_has_no_valid_key(client, keys, method, path, wrong) -> None:
    response = send(client, method, path, WRONG[wrong](keys))
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    if method == "HEAD":
        return
    refused = error(response, 401)
    assert (refused["type"], refused["code"]) == ("invalid_request_error", "invalid_api_key")
    assert refused["message"].startswith(SAID.get(wrong, ""))
    for leak in ("ferry", "small-1b", "mini-embed", str(keys.path), keys.good.key.sha256):
        assert leak not in response.text


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_the_right_key_opens_every_route(client, keys, method, path) -> None:
    opened = OPENED.get(path, 200)
    assert send(client, method, path, bearer(keys.good.text)).status_code == opened
    assert send(client, method, path, {"Authorization": f"bearer  {keys.good.text}"}).status_code == opened


def test_what_is_not_there_is_told_to_those_with_a_key(client, keys) -> None:
    for method, path in ELSEWHERE:
        assert send(client, method, path, bearer(keys.good.text)).status_code in {307, 404, 405}, path


@pytest.mark.parametrize("path", WINDING)
def test_a_path_is_taken_as_it_is_spelt(client, keys, path) -> None:
    # Not by httpx, which straightens paths itself.
    for headers, status in (({}, 401), (bearer(keys.good.text), 404)):
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=10)
        connection.request("GET", path, headers=headers)
        assert connection.getresponse().status == status
        connection.close()


@pytest.mark.parametrize("given", ["none", "unknown", "revoked"])
@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_the_open_paths_need_no_key(client, keys, path, given) -> None:
    assert client.get(path, headers=WRONG[given](keys)).status_code == 200


def test_two_keys_at_once_are_none(client, keys) -> None:
    twice = [("Authorization", f"Bearer {keys.good.text}")] * 2
    assert client.get("/v1/models", headers=twice).status_code == 401


def test_ready_tells_those_without_a_key_no_more_than_the_status(keys) -> None:
    def load():
        raise KeysDamaged("/secret/path is gone", hint="Look into /secret.")

    with serving(load, ready=False, host=EVERYWHERE, keys=keys.path) as client:
        until(lambda: client.get("/ready").json()["status"] == "failed")
        nothing = {
            "reason": "",
            "hint": "",
            "code": None,
            "model": None,
            "embedder": None,
            "feedback": False,
            "index": None,
        }
        assert client.get("/ready").json() == {"status": "failed", "authorized": False, **nothing}
        told = client.get("/ready", headers=bearer(keys.good.text))
        assert told.status_code == 503
        assert (told.json()["authorized"], told.json()["reason"]) == (True, "/secret/path is gone")
    with serving(Script(), host=EVERYWHERE, keys=keys.path) as client:
        assert client.get("/ready").json() == {"status": "ready", "authorized": False, **nothing}
        assert client.get("/ready", headers=bearer(keys.good.text)).json()["model"] == "small-1b"


def test_a_key_that_is_revoked_while_the_server_runs_is_refused_from_then_on(tmp_path) -> None:
    path = tmp_path / "keys.json"
    with serving(Script(), host=EVERYWHERE, keys=path) as client:
        assert client.get("/v1/models", headers=bearer("shk-00000000-x")).status_code == 401
        made = create_key(path, "a")
        assert client.get("/v1/models", headers=bearer(made.text)).status_code == 200
        revoke_key(path, "a")
        refused = client.get("/v1/models", headers=bearer(made.text))
        assert error(refused, 401)["message"].startswith("this API key was revoked")
        again = create_key(path, "a")
        assert client.get("/v1/models", headers=bearer(again.text)).status_code == 200
        path.write_text("{")
        damaged = client.get("/v1/models", headers=bearer(again.text))
        assert error(damaged, 503)["code"] == "keys_damaged"
        assert str(tmp_path) not in damaged.text
        assert damaged.headers["retry-after"]
        assert client.get("/health").status_code == 200
        path.unlink()
        assert client.get("/v1/models", headers=bearer(again.text)).status_code == 401


# On loopback


def test_on_loopback_no_key_is_needed_but_one_of_ours_must_be_valid(keys) -> None:
    with serving(Script(), keys=keys.path) as client:
        for headers in ({}, bearer("unused"), {"Authorization": "Basic eDp5"}, bearer(keys.good.text)):
            assert client.get("/v1/models", headers=headers).status_code == 200
            assert client.get("/ready", headers=headers).json()["authorized"] is True
        for headers in (bearer(keys.revoked.text), bearer("shk-unknown")):
            assert client.get("/v1/models", headers=headers).status_code == 401
            assert client.get("/ready", headers=headers).json()["authorized"] is False


def test_behind_a_proxy_loopback_may_demand_keys_too(keys) -> None:
    with serving(Script(), keys=keys.path, require_key=True) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers=bearer(keys.good.text)).status_code == 200


def test_where_keys_are_demanded_the_server_does_not_start_without_one(tmp_path) -> None:
    path = tmp_path / "keys.json"
    for host in ("127.0.0.1", "localhost", "::1"):
        check_keys(ServerSettings(host=host, keys=path))
    for host in ("0.0.0.0", "::", "192.168.1.2", "box.lan", ""):
        assert demands_key(ServerSettings(host=host))
        with pytest.raises(KeysMissing, match="no API key") as refused:
            check_keys(ServerSettings(host=host, keys=path))
        assert "smallhold keys create" in refused.value.hint
    create_key(path, "a")
    check_keys(ServerSettings(host=EVERYWHERE, keys=path))
    revoke_key(path, "a")
    for settings in (ServerSettings(host=EVERYWHERE, keys=path), ServerSettings(require_key=True, keys=path)):
        with pytest.raises(KeysMissing):
            check_keys(settings)


# Any application


def calls(app, *requests: tuple[str, str, dict[str, str]]) -> list[httpx.Response]:
    """Ask an application that no server runs, and that loads nothing."""

    async def all_of_them() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.request(method, path, headers=headers) for method, path, headers in requests]

    return asyncio.run(all_of_them())


def test_a_route_that_is_added_later_needs_a_key_and_sees_whose_it_is(keys) -> None:
    app = create_app(lambda: service(Script()), ServerSettings(host=EVERYWHERE, keys=keys.path))

    async def who(request: Request) -> JSONResponse:
        key = key_of(request)
        assert key is request.state.key
        return JSONResponse(None if key is None else {"label": key.label, "allow": key.allow})

    app.add_route("/who", who)
    refused, told = calls(app, ("GET", "/who", {}), ("GET", "/who", bearer(keys.good.text)))
    assert error(refused, 401)["code"] == "invalid_api_key"
    assert told.json() == {"label": "good", "allow": ["board", "staff"]}


def test_no_client_writes_a_line_of_its_own_into_the_log(caplog) -> None:
    app = create_app(lambda: service(Script()), ServerSettings())

    async def fails(request: Request) -> JSONResponse:
        raise RuntimeError("a failure")

    app.add_api_route("/fails/{rest:path}", fails)
    (failed,) = calls(app, ("GET", "/fails/x%0D2026-01-01%20all%20is%20well", {}))
    assert error(failed, 500)["code"] == "internal_error"
    (record,) = [record for record in caplog.records if record.name == "rag.guard"]
    assert record.getMessage().endswith(" failed: GET /fails/{rest:path}")
    assert "all is well" not in caplog.text.replace("%20", " ")


def test_a_websocket_does_not_slip_past(keys) -> None:
    app = create_app(lambda: service(Script()), ServerSettings(host=EVERYWHERE, keys=keys.path))
    sent = []

    async def connect() -> None:
        async def receive():
            return {"type": "websocket.connect"}

        async def send(message) -> None:
            sent.append(message)

        await app({"type": "websocket", "path": "/health", "headers": [], "app": app}, receive, send)

    asyncio.run(connect())
    assert sent == []


# What is spent


def expensive(tokens: int) -> Script:
    return Script(Delta("x"), Delta(answer=Answer("x", usage=Usage(prompt=tokens - 10, cached=5, completion=10))))


def test_a_budget_is_what_usage_says_and_lasts_over_restarts(tmp_path) -> None:
    path = tmp_path / "keys.json"
    thrifty = create_key(path, "thrifty", tokens_per_day=100)
    other = create_key(path, "other")
    with serving(expensive(60), host=EVERYWHERE, keys=path) as client:
        client.headers.update(bearer(thrifty.text))
        assert ask(client).json()["usage"]["total_tokens"] == 60
        assert ask(client, stream=True).status_code == 200
        for stream in (False, True):
            refused = ask(client, stream=stream)
            told = error(refused, 429)
            assert (told["type"], told["code"]) == ("rate_limit_error", "insufficient_quota")
            left = timedelta(seconds=int(refused.headers["retry-after"]))
            midnight = datetime.now(UTC) + left
            assert abs(midnight - midnight.replace(hour=0, minute=0, second=0)) < timedelta(minutes=1)
        assert client.post("/v1/embeddings", json={"input": "a b"}).status_code == 429
        assert client.post("/v1/search", json={"query": "a"}).status_code == 200  # costs no tokens
        assert ask(client, n=1).status_code == 429
        client.headers.update(bearer(other.text))
        for _ in range(3):
            assert ask(client).status_code == 200
    with serving(expensive(60), host=EVERYWHERE, keys=path) as client:
        assert client.post("/v1/chat/completions", json=QUESTION, headers=bearer(thrifty.text)).status_code == 429
        assert client.post("/v1/chat/completions", json=QUESTION, headers=bearer(other.text)).status_code == 200
        listed = json.loads(smallhold("keys", "list", "--json", cwd=tmp_path, SMALLHOLD_SERVER__KEYS=str(path)).stdout)
        assert [(row["label"], row["tokens_today"]) for row in listed] == [("thrifty", 120), ("other", None)]


def test_embeddings_are_charged(tmp_path) -> None:
    path = tmp_path / "keys.json"
    made = create_key(path, "a", tokens_per_day=3)
    with serving(Script(), host=EVERYWHERE, keys=path) as client:
        client.headers.update(bearer(made.text))
        assert client.post("/v1/embeddings", json={"input": ["a b", "c"]}).json()["usage"]["total_tokens"] == 3
        assert error(client.post("/v1/embeddings", json={"input": "a"}), 429)["code"] == "insufficient_quota"


def test_embeddings_that_wait_in_line_do_not_all_begin_on_the_last_tokens(tmp_path) -> None:
    path = tmp_path / "keys.json"
    made = create_key(path, "a", tokens_per_day=3)
    entered, go = threading.Event(), threading.Event()

    class Slow(WordLengths):
        def embed(self, texts):
            entered.set()
            assert go.wait(20)
            return super().embed(texts)

    replies: list[int] = []
    with serving(lambda: dataclasses.replace(service(Script()), embedder=Slow()), host=EVERYWHERE, keys=path) as client:
        client.headers.update(bearer(made.text))

        def embed() -> None:
            replies.append(client.post("/v1/embeddings", json={"input": "a b c"}).status_code)

        askers = [threading.Thread(target=embed) for _ in range(5)]
        for asker in askers:
            asker.start()
        assert entered.wait(10)
        until(lambda: metric(client, 'smallhold_queue_depth{lane="embed"}') == 4)
        go.set()
        for asker in askers:
            asker.join(10)
    assert sorted(replies) == [200, 429, 429, 429, 429]


def test_whoever_leaves_before_the_end_has_spent_what_was_used(tmp_path) -> None:
    path = tmp_path / "keys.json"
    made = create_key(path, "a", tokens_per_day=100)
    steps = [Delta("x", usage=Usage(prompt=40, completion=n)) for n in range(1, 1000)]
    pipeline = Script(*steps, Delta(answer=ANSWER), hold=True)
    ledger = Ledger(ledger_path(path))
    with serving(pipeline, host=EVERYWHERE, keys=path) as client:
        client.headers.update(bearer(made.text))
        pipeline.go.release(3)
        body = json.dumps({**QUESTION, "stream": True})
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
            raw.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {made.text}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            seen = b""
            while seen.count(b'"content":"x"') < 3:
                piece = raw.recv(65_536)
                assert piece
                seen += piece
        until(lambda: metric(client, "smallhold_abandoned_total") == 1)
        pipeline.go.release(1)  # the delta that is under way
        until(lambda: ledger.spent(made.key) == 44)
        assert pipeline.closed_streams == 1
    ledger.close()


def test_a_budget_that_is_spent_while_a_request_waits_stops_it(tmp_path) -> None:
    path = tmp_path / "keys.json"
    made = create_key(path, "a", tokens_per_day=43)
    pipeline = Script(hold=True)  # an answer of 43 tokens
    replies: list[httpx.Response] = []
    with serving(pipeline, host=EVERYWHERE, keys=path) as client:
        client.headers.update(bearer(made.text))
        askers = [threading.Thread(target=lambda: replies.append(ask(client))) for _ in range(2)]
        askers[0].start()
        assert pipeline.entered.acquire(timeout=10)
        askers[1].start()
        until(lambda: metric(client, 'smallhold_queue_depth{lane="chat"}') == 1)
        pipeline.go.release(1000)
        for asker in askers:
            asker.join(10)
    assert sorted(reply.status_code for reply in replies) == [200, 429]
    assert len(pipeline.calls) == 1


# Limits


def test_a_chat_has_limits_that_name_their_setting() -> None:
    def talk(count: int, length: int = 1) -> list[dict[str, str]]:
        return [{"role": "user", "content": "x" * length}] * count

    pipeline = Script()
    with serving(pipeline, max_messages=3, max_characters=10, max_tokens=50) as client:
        parts = [{"type": "text", "text": "x" * 5}, {"type": "text", "text": "x" * 5}]  # and the line break between
        for fields, param, setting in (
            ({"messages": talk(4)}, "messages", "max_messages"),
            ({"messages": [*talk(1), *talk(1, 11)]}, "messages[1].content", "max_characters"),
            ({"messages": [{"role": "user", "content": parts}]}, "messages[0].content", "max_characters"),
            ({"messages": talk(1), "max_tokens": 51}, "max_tokens", "max_tokens"),
            (
                {"messages": talk(1), "max_completion_tokens": 51, "max_tokens": 1},
                "max_completion_tokens",
                "max_tokens",
            ),
        ):
            refused = error(client.post("/v1/chat/completions", json=fields), 400)
            assert (refused["param"], refused["code"]) == (param, "limit_exceeded")
            assert refused["message"].startswith(f"{param}: ")
            assert f"server.{setting} " in refused["message"]
        assert pipeline.calls == []
        whole = {"messages": talk(3, 10), "max_tokens": 50, "max_completion_tokens": 50}
        assert client.post("/v1/chat/completions", json=whole).status_code == 200


def test_the_usual_limits() -> None:
    settings = ServerSettings()
    assert (settings.max_messages, settings.max_characters, settings.max_tokens) == (256, 200_000, 2048)
    assert (settings.deadline, settings.body_seconds, settings.queue, settings.requests) == (300, 30, 16, 128)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_ends_and_frees_its_place(stream) -> None:
    pipeline = Script(Delta(), *[Delta("x")] * 100, Delta(answer=ANSWER), hold=True)
    with serving(pipeline, deadline=1.5) as client:
        pipeline.go.release(2)
        late = ask(client, stream=stream)
        if stream:
            *_, last, rest = late.text.split("\n\n")
            assert (late.status_code, rest) == (200, "")
            told = json.loads(last[6:])["error"]
        else:
            told = error(late, 504)
            assert late.headers["x-should-retry"] == "false", "or OpenAI's client does it all twice more"
        assert told["code"] == "deadline_exceeded"
        assert "server.deadline" in told["message"]
        pipeline.go.release(1)  # the delta that is under way
        until(lambda: metric(client, 'smallhold_running{lane="chat"}') == 0)
        assert pipeline.closed_streams == 1
        assert metric(client, "smallhold_abandoned_total") == 0
        pipeline.go.release(1000)
        assert ask(client).status_code == 200


def test_waiting_counts_towards_the_deadline() -> None:
    pipeline = Script(hold=True)
    replies: list[httpx.Response] = []
    with serving(pipeline, deadline=0.3) as client:
        askers = [threading.Thread(target=lambda: replies.append(ask(client))) for _ in range(3)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(10)
        assert [reply.status_code for reply in replies] == [504] * 3
        pipeline.go.release(1000)
        until(lambda: metric(client, 'smallhold_running{lane="chat"}') == 0)
        assert metric(client, 'smallhold_queue_depth{lane="chat"}') == 0
    assert len(pipeline.calls) == 1  # the others were never begun


@contextlib.contextmanager
def half_sent(client: httpx.Client, headers: str = "") -> Iterator[socket.socket]:
    """A request whose body is long in coming."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
        raw.sendall(
            f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\n{headers}"
            'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"query": '.encode()
        )
        yield raw


def test_a_body_that_does_not_come_is_given_up() -> None:
    with serving(Script(), body_seconds=0.2) as client, half_sent(client) as raw:
        reply = ""
        while "server.body_seconds" not in reply and (more := raw.recv(65_536).decode()):
            reply += more  # head and body may come apart
        assert reply.startswith("HTTP/1.1 408 ")
        assert "server.body_seconds" in reply
        until(lambda: metric(client, "smallhold_requests_in_flight") == 1)  # the one that asks


def test_past_the_number_of_requests_only_those_who_watch_are_answered(keys) -> None:
    pipeline = Script()
    with serving(pipeline, requests=2) as client, half_sent(client), half_sent(client):
        until(lambda: metric(client, "smallhold_requests_in_flight") == 3)
        for send in (
            lambda: ask(client),
            lambda: client.get("/v1/models"),
            lambda: client.get("/"),
            # Refused before the body is sent: nothing was read of it.
            lambda: client.post("/v1/chat/completions", content=b"x" * 900_000),
        ):
            refused = send()
            assert error(refused, 503)["code"] == "overloaded"
            assert refused.headers["retry-after"] == "2"
            assert refused.headers["x-content-type-options"] == "nosniff"
        for path in ("/health", "/ready", "/metrics"):
            assert client.get(path).status_code == 200
    assert pipeline.calls == []


def test_places_are_free_again_when_their_clients_have_gone() -> None:
    with serving(Script(), requests=2) as client:
        with half_sent(client), half_sent(client):
            until(lambda: metric(client, "smallhold_requests_in_flight") == 3)
        until(lambda: metric(client, "smallhold_requests_in_flight") == 1)
        assert ask(client).status_code == 200


def test_without_a_key_nobody_takes_a_place_with_a_body(keys) -> None:
    with serving(Script(), host=EVERYWHERE, keys=keys.path) as client, half_sent(client) as raw:
        assert raw.recv(65_536).startswith(b"HTTP/1.1 401 ")  # at once: the body was not waited for


# Other origins


def test_origins_that_are_named_may_ask_and_read_refusals(keys) -> None:
    origin = "https://intranet.example"
    with serving(Script(), host=EVERYWHERE, keys=keys.path, cors_origins=(origin,)) as client:
        preflight = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
        }
        allowed = client.options("/v1/chat/completions", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in allowed.headers
        assert allowed.headers["x-content-type-options"] == "nosniff"
        for headers, status in ((bearer(keys.good.text), 200), ({}, 401)):
            reply = client.post("/v1/chat/completions", json=QUESTION, headers={**headers, "Origin": origin})
            assert reply.status_code == status
            assert reply.headers["access-control-allow-origin"] == origin
            assert {"retry-after", "x-should-retry"} <= set(
                reply.headers["access-control-expose-headers"].lower().split(", ")
            )
        for stranger in ("https://evil.example", "https://intranet.example.evil", "http://intranet.example", "null"):
            refused = client.options("/v1/chat/completions", headers={**preflight, "Origin": stranger})
            assert refused.status_code == 400
            read = client.get("/v1/models", headers={**bearer(keys.good.text), "Origin": stranger})
            for reply in (refused, read):
                assert "access-control-allow-origin" not in reply.headers


def test_origins_that_are_named_may_read_every_refusal() -> None:
    """A page that is not let to read a refusal sees a network error, and not when to try again."""
    named = {"Origin": "https://intranet.example"}
    json_kind = {**named, "Content-Type": "application/json"}
    with serving(
        Script(RuntimeError("a failure")), cors_origins=(named["Origin"],), requests=1, max_body_bytes=1000
    ) as client:
        failed = client.post("/v1/chat/completions", json=QUESTION, headers=named)
        large = client.post("/v1/search", content=b"x" * 1001, headers=json_kind)
        elsewhere = client.get("/v1/models", headers={**named, "Host": "evil.example"})
        with half_sent(client):
            until(lambda: metric(client, "smallhold_requests_in_flight") == 2)
            full = client.get("/v1/models", headers=named)
    for reply, status in ((failed, 500), (large, 413), (elsewhere, 421), (full, 503)):
        assert error(reply, status)
        assert reply.headers["access-control-allow-origin"] == named["Origin"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-request-id"]
    assert full.headers["retry-after"]


@pytest.mark.parametrize("origin", ["*", "https://*", "https://a.example/", "a.example", "null", "https://a@b", ""])
def test_what_is_no_origin_is_refused(tmp_path, origin) -> None:
    file = tmp_path / "s.toml"
    file.write_text(f'[server]\ncors_origins = ["{origin}"]\n')
    with pytest.raises(ConfigError, match="cors_origins"):
        load_settings(file)


# Nothing of a key is told


def test_keys_appear_in_no_log_metric_or_error(tmp_path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "keys.json"
    made = create_key(path, "good", tokens_per_day=10**6)
    gone = create_key(path, "gone")
    revoke_key(path, "gone")
    wrong = made.text[:-1] + ("x" if made.text[-1] != "x" else "y")
    told = []
    with serving(Script(RuntimeError("a failure")), host=EVERYWHERE, keys=path) as client:
        for text in (made.text, gone.text, wrong):
            for method, where in [*routes(), *ELSEWHERE]:
                told.append(send(client, method, where, bearer(text)))
            for content in (json.dumps({**QUESTION, "stream": True}).encode(), b"{"):
                headers = {**bearer(text), "Content-Type": "application/json"}
                told.append(client.post("/v1/chat/completions", content=content, headers=headers))
            told.append(client.post("/v1/chat/completions", content=b"{}", headers=bearer(text)))
        path.write_text(path.read_text()[:-5])
        told.append(client.get("/v1/models", headers=bearer(made.text)))
    assert {response.status_code for response in told} >= {200, 400, 401, 404, 405, 415, 500, 503}
    assert "a failure" in caplog.text  # the log was listened to
    # httpx logs what it sends at the level DEBUG; headers are not among that.
    secrets = [part for text in (made.text, gone.text, wrong) for part in (text, text.split("-", 2)[2], _hash(text))]
    everything = [
        caplog.text,
        *(r.text + repr(r.headers) for r in told),
        ledger_path(path).read_bytes().decode("latin-1"),
    ]
    for secret in secrets:
        assert all(secret not in said for said in everything)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Real clients and a real server


def test_the_official_client_sends_its_key_unchanged(client, keys) -> None:
    url = f"{client.base_url}/v1"
    with openai.OpenAI(base_url=url, api_key=keys.good.text, max_retries=0) as good:
        reply = good.chat.completions.create(model="smallhold", messages=[{"role": "user", "content": "When?"}])
        assert reply.choices[0].message.content == "At six. [1]"
        assert [m.id for m in good.models.list()] == ["small-1b", "smallhold", "mini-embed"]
    for wrong in ("unused", keys.revoked.text):
        with openai.OpenAI(base_url=url, api_key=wrong, max_retries=0) as bad:
            with pytest.raises(openai.AuthenticationError) as refused:
                bad.models.list()
            assert refused.value.code == "invalid_api_key"


def test_the_official_client_does_not_retry_a_spent_budget(tmp_path) -> None:
    path = tmp_path / "keys.json"
    made = create_key(path, "a", tokens_per_day=1)
    with (
        serving(Script(), host=EVERYWHERE, keys=path) as client,
        openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=made.text, max_retries=5) as official,
    ):
        official.embeddings.create(model="default", input="a")
        with pytest.raises(openai.RateLimitError) as refused:
            official.embeddings.create(model="default", input="a")
        assert refused.value.code == "insufficient_quota"
        client.headers.update(bearer(made.text))
        assert metric(client, 'smallhold_requests_total{route="/v1/embeddings",status="429"}') == 1


def test_the_openapi_document_tells_of_the_key(client, keys) -> None:
    document = client.get("/openapi.json", headers=bearer(keys.good.text)).json()
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (path not in OPEN_PATHS), path


def test_the_real_server_refuses_to_start_open_to_all_and_follows_its_keys(tmp_path) -> None:
    code = "from rag.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--host", EVERYWHERE, "--port", "0", "--index", "none"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    refused = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 3
    assert "smallhold keys create --label NAME" in refused.stderr

    path = tmp_path / ".smallhold" / "keys.json"
    made = create_key(path, "a").text
    process, address = start(tmp_path / "none", "--host", EVERYWHERE)  # no index: that it is missing is the answer
    try:
        health = httpx.get(f"{address}/health")
        assert health.status_code == 200
        assert "server" not in health.headers
        until(lambda: httpx.get(f"{address}/ready", headers=bearer(made)).json()["status"] == "failed", seconds=60)
        assert httpx.get(f"{address}/ready").json()["reason"] == ""
        assert error(httpx.get(f"{address}/v1/models"), 401)["code"] == "invalid_api_key"
        assert httpx.get(f"{address}/v1/models", headers=bearer(made)).status_code == 503
        revoke_key(path, "a")
        assert httpx.get(f"{address}/v1/models", headers=bearer(made)).status_code == 401
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert made not in said

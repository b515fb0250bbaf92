"""How a server ends, and what it logs: the real process with real signals, over a pipeline that takes its time."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rag.config import ServerSettings
from rag.serve import _announce, _url
from tests.conftest import REPOSITORY

SERVER = """
import sys, time
import rag.serve
from rag.config import load_settings
from rag.datatypes import Delta
from tests.test_rag_app import ANSWER, Script, service

class Slow(Script):
    def stream(self, question, history, options):
        if "stuck" in question:
            time.sleep(120)
        if "break" in question:
            raise ValueError("The north ferry leaves at six.")
        yield Delta("At ")
        end = time.monotonic() + float(sys.argv[1])
        while time.monotonic() < end:
            time.sleep(0.02)
            yield Delta()
        yield Delta("six.")
        yield Delta(answer=ANSWER)

rag.serve.load_service = lambda settings: service(Slow())
rag.serve.run_server(load_settings(None, {"server": {"port": 0, "drain": float(sys.argv[2]), "log": sys.argv[3]}}))
"""


# At a moment of the start it says so and waits for a signal.
EARLY = """
import builtins, sys, time
from rag import cli

def wait(*_, **__):
    print("now", file=sys.stderr, flush=True)
    time.sleep(60)

if sys.argv[1] == "import rag.serve":
    known = builtins.__import__
    builtins.__import__ = lambda name, *rest: wait() if name == "rag.serve" else known(name, *rest)
else:
    import rag.serve
    rag.serve._Server.__init__ = wait
sys.argv[1:] = ["serve", "--port", "0"]
cli.main()
"""


@pytest.fixture(autouse=True)
def started_at_a_terminal() -> Iterator[None]:
    """What pytest itself ignores, as under nohup, its children would; a handler is not handed on."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@contextmanager
def served(answer_seconds: float, drain: float = 30, log: str = "plain") -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", SERVER, str(answer_seconds), str(drain), log]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert (log == "json") == first.startswith("{")
            found = re.search(r"http://\S+:\d+", first)
            assert found
            end = time.monotonic() + 60
            while httpx.get(f"{found[0]}/ready").status_code != 200:
                assert time.monotonic() < end
                time.sleep(0.02)
            yield process, found[0]
        finally:
            process.kill()


class Asking(threading.Thread):
    """One streamed question: `lines` as they come, `first` when the answer has begun."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.first = threading.Event()
        self.lines: list[str] = []
        self.failed: Exception | None = None
        self.start()

    def run(self) -> None:
        body = {"messages": [{"role": "user", "content": "When?"}], "stream": True}
        try:
            with httpx.stream("POST", f"{self._url}/v1/chat/completions", json=body, timeout=60) as reply:
                for line in reply.iter_lines():
                    self.lines.append(line)
                    if "At " in line:
                        self.first.set()
        except httpx.HTTPError as error:
            self.failed = error


def test_told_to_end_it_finishes_what_it_began_and_takes_nothing_new() -> None:
    with served(answer_seconds=1.5) as (process, url):
        asking = Asking(url)
        assert asking.first.wait(30)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        address = url.removeprefix("http://").split(":")
        with pytest.raises(OSError), socket.create_connection((address[0], int(address[1])), timeout=2):  # noqa: PT011
            pass
        asking.join(30)
        assert asking.failed is None
        assert "data: [DONE]" in asking.lines
        assert process.wait(30) == 0


def test_what_takes_longer_than_the_drain_is_cut() -> None:
    with served(answer_seconds=60, drain=1) as (process, url):
        asking = Asking(url)
        assert asking.first.wait(30)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert 0.9 < time.monotonic() - began < 20
        asking.join(30)
        assert "data: [DONE]" not in asking.lines


def test_a_closed_terminal_ends_it_in_good_order_however_often_that_is_said() -> None:
    """Shell and kernel both say it, and a service manager may ask for the end at the same time."""
    with served(answer_seconds=1.5) as (process, url):
        asking = Asking(url)
        assert asking.first.wait(30)
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
            time.sleep(0.1)
        asking.join(30)
        assert asking.failed is None
        assert "data: [DONE]" in asking.lines
        assert process.wait(30) == 0


def test_started_by_nohup_it_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with served(answer_seconds=0) as (process, url):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            assert httpx.get(f"{url}/health", timeout=30).status_code == 200
            assert process.poll() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_work_that_cannot_be_cancelled_holds_up_no_end() -> None:
    """As where native code does not return."""
    with served(answer_seconds=0, drain=1) as (process, url):
        replies: list[httpx.Response] = []
        body = {"messages": [{"role": "user", "content": "stuck"}]}
        chat = f"{url}/v1/chat/completions"
        asking = threading.Thread(target=lambda: replies.append(httpx.post(chat, json=body, timeout=60)))
        asking.start()
        while 'smallhold_running{lane="chat"} 1.0' not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - began < 15
        asking.join(10)
    (cut,) = replies
    assert cut.status_code == 503
    assert cut.json()["error"]["type"] == "server_error"
    assert cut.headers["x-content-type-options"] == "nosniff"
    assert cut.headers["retry-after"]


@pytest.mark.parametrize(
    ("moment", "number"),
    [("import rag.serve", signal.SIGTERM), ("import rag.serve", signal.SIGHUP), ("announced", signal.SIGTERM)],
)
def test_told_to_end_before_it_serves_it_ends_at_once_and_well(moment: str, number: int, tmp_path: Path) -> None:
    """Imports take seconds, and between the line that says where the server is and the first request lies a while."""
    with subprocess.Popen(
        [sys.executable, "-c", EARLY, moment],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SMALLHOLD_INDEX__DIR": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        while (line := process.stderr.readline()) != "now\n":
            assert line
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(30) == 0
        assert time.monotonic() - began < 10
        process.kill()


def test_the_address_is_told_with_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    _announce(_url("fd00::5", 8080), ServerSettings(host="fd00::5"))
    assert "smallhold at http://[fd00::5]:8080 " in capsys.readouterr().err


def test_told_twice_it_ends_at_once() -> None:
    with served(answer_seconds=60) as (process, url):
        asking = Asking(url)
        assert asking.first.wait(30)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None, "it drains"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 5
        asking.join(30)


def test_the_log_is_json_with_request_ids_and_without_texts_or_paths(tmp_path: Path) -> None:
    with served(answer_seconds=0, log="json") as (process, url):
        named = {"X-Request-Id": "mine-1"}
        for question in ("When does it leave?", "break"):
            body = {"messages": [{"role": "user", "content": question}]}
            httpx.post(f"{url}/v1/chat/completions", json=body, headers=named, timeout=30)
        httpx.get(f"{url}/v1/documents/text", params={"id": "secret-name.md"})
        httpx.get(f"{url}/secret/path")
        httpx.get(f"{url}/health")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    requests = [line for line in lines if line["logger"] == "smallhold.requests"]
    assert [(line["route"], line["status"]) for line in requests] == [
        ("/v1/chat/completions", 200),
        ("/v1/chat/completions", 500),
        ("/v1/documents/text", 404),
        ("none", 404),
    ]
    assert {line["request_id"] for line in requests[:2]} == {"mine-1"}
    assert all(line["method"] in {"GET", "POST"} and line["seconds"] >= 0 and line["key"] is None for line in requests)
    (failure,) = [line for line in lines if line["level"] == "error"]
    assert (failure["request_id"], failure["error"]) == ("mine-1", "ValueError")
    assert any(place.endswith(" stream") for place in failure["stack"])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    for text in ("leave", "ferry", "secret"):
        assert text not in said

"""The real server with the model in its own process, which is killed or stopped."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import located
from tests.test_rag_engine_guarded import is_gone, until
from tests.test_rag_serve import QUESTION, start, wait_until_ready

pytestmark = pytest.mark.model

# All passages in one prompt: reading it takes many steps, in the midst of which the process is killed.
SETTINGS = """
[generator]
model = "smollm2-135m-instruct"
worker_timeout = 30
[evidence]
passages = 6
mode = "joint"
[abstention]
enabled = false
"""
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}


@pytest.fixture(scope="module")
def server(example_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The server's process id and address."""
    located("smollm2-135m-instruct")
    file = tmp_path_factory.mktemp("settings") / "smallhold.toml"
    file.write_text(SETTINGS)
    process, address = start(example_index, "--config", str(file))
    try:
        wait_until_ready(address)
        yield process.pid, address
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 0
        assert "Traceback" not in said
        assert "died of SIGKILL" in said


def worker_of(server: int) -> int:
    """The process that runs the model."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == server and b"rag.engine.worker" in command:
            return int(folder.name)
    raise AssertionError("the model has no process of its own")


def figure(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def restarts(address: str) -> float:
    return figure(address, "smallhold_model_restarts_total")


def answer(address: str) -> str:
    reply = httpx.post(f"{address}/v1/chat/completions", json=ASKED, timeout=120)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def test_killed_in_the_midst_of_a_stream(server: tuple[int, str]) -> None:
    pid, address = server
    before = answer(address)  # with nothing read before, as after the restart
    assert figure(address, "smallhold_prefix_misses_total") == 1
    answer(address)
    assert figure(address, 'smallhold_prefix_hits_total{tier="context"}') == 1
    assert figure(address, 'smallhold_prefix_tokens_total{tier="context"}') > 100
    worker = worker_of(pid)
    other = {"messages": [{"role": "user", "content": "Who keeps the lighthouse of Norrin?"}], "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=other, timeout=120) as reply:
        assert reply.status_code == 200
        lines = (line for line in reply.iter_lines() if line)
        assert "assistant" in next(lines)  # its first passages have been read
        os.kill(worker, signal.SIGKILL)
        *_, last = lines
        killed = time.monotonic()
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "model_died"
    assert "SIGKILL" in error["message"]
    assert is_gone(worker)
    down = httpx.get(f"{address}/ready")
    assert down.status_code == 503
    assert down.json()["code"] == "model_died"
    assert "retry-after" in down.headers
    until(lambda: httpx.get(f"{address}/ready").status_code == 200, seconds=10 - (time.monotonic() - killed))
    assert answer(address) == before
    assert worker_of(pid) != worker
    assert restarts(address) == 1
    assert figure(address, "smallhold_prefix_misses_total") == 1, "a new process counts from the beginning"


def test_killed_while_idle_the_next_question_waits_and_is_answered(server: tuple[int, str]) -> None:
    pid, address = server
    counted = restarts(address)
    os.kill(worker_of(pid), signal.SIGKILL)
    until(lambda: httpx.get(f"{address}/ready").status_code == 503)
    answer(address)
    assert restarts(address) == counted + 1


def test_stopped_in_the_midst_of_a_stream(server: tuple[int, str]) -> None:
    pid, address = server
    counted, worker = restarts(address), worker_of(pid)
    other = {"messages": [{"role": "user", "content": "What does the ferry cost?"}], "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=other, timeout=120) as reply:
        lines = (line for line in reply.iter_lines() if line)
        assert "assistant" in next(lines)
        os.kill(worker, signal.SIGSTOP)
        *_, last = lines
        killed = time.monotonic()
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "model_died"
    assert "made no progress for 30 s" in error["message"]
    assert is_gone(worker)
    until(lambda: httpx.get(f"{address}/ready").status_code == 200, seconds=10 - (time.monotonic() - killed))
    assert answer(address)
    assert restarts(address) == counted + 1

"""The real server as a process, with the real index and model, asked by the official client and over plain HTTP."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.conftest import CORPUS, REPOSITORY, located

pytestmark = pytest.mark.model
QUESTION = "How much money did the Moot approve in 2023 for clearing the sand off Norrin Slip?"


def start(index: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port; return it with its address."""
    code = "from rag.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", "--index", str(index), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    server = subprocess.Popen(command, cwd=index.parent, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = server.stderr.readline()
    found = re.search(r"http://\S+:\d+", line)
    if not found:
        server.kill()
        raise AssertionError(line + server.communicate()[1])
    return server, found[0]


def wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + 120
    while httpx.get(f"{address}/ready").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def server(example_index: Path) -> Iterator[str]:
    located("qwen2.5-coder-0.5b-reader")
    process, address = start(example_index)
    try:
        assert httpx.get(f"{address}/health").status_code == 200
        wait_until_ready(address)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 0
        assert "Traceback" not in said


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_the_official_client_gets_an_answer_with_its_source(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="smallhold", messages=[{"role": "user", "content": QUESTION}])
    content = reply.choices[0].message.content
    assert content is not None
    assert "26,300 crowns" in content
    assert content.endswith("[1]")
    assert reply.model_extra is not None
    (citation, *_) = reply.model_extra["citations"]
    start, end = citation["span"]
    assert (CORPUS / citation["document_id"]).read_text(encoding="utf-8")[start:end] == citation["text"]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens > 100


def test_a_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    plain = client.chat.completions.create(model="smallhold", messages=messages)  # type: ignore[arg-type]
    stream = client.chat.completions.create(model="smallhold", messages=messages, stream=True)  # type: ignore[call-overload]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == plain.choices[0].message.content


def test_a_question_from_another_world(client: openai.OpenAI) -> None:
    question = "Which quarterback won the most Super Bowl rings?"
    reply = client.chat.completions.create(model="smallhold", messages=[{"role": "user", "content": question}])
    assert reply.choices[0].message.content == "The documents do not say."
    assert reply.model_extra is not None
    assert (reply.model_extra["verdict"], reply.model_extra["citations"]) == ("abstained", [])


def test_a_prompt_too_long_is_openais_error(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "why " * 4900}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smallhold", messages=messages, extra_body={"abstain": False})  # type: ignore[arg-type]
    assert caught.value.code == "context_length_exceeded"


def test_search_embeddings_models_and_metrics(server: str, client: openai.OpenAI) -> None:
    hits = httpx.post(f"{server}/v1/search", json={"query": "lighthouse steps", "k": 3}).json()
    assert len(hits["data"]) == 3
    assert len(client.embeddings.create(model="all-MiniLM-L6-v2", input="a").data[0].embedding) == 384
    assert "qwen2.5-coder-0.5b-reader" in {m.id for m in client.models.list()}
    assert "smallhold_" in httpx.get(f"{server}/metrics").text


def test_another_host_name_is_refused(server: str) -> None:
    assert httpx.get(f"{server}/health", headers={"Host": "evil.example"}).status_code == 421


def test_a_port_in_use_is_known_at_once(server: str, example_index: Path) -> None:
    port = server.rsplit(":", 1)[1]
    code = "from rag.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", port, "--index", str(example_index)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "--port" in done.stderr


def test_a_missing_index_is_told_while_the_server_stays_up(tmp_path: Path) -> None:
    process, address = start(tmp_path / "none")
    try:
        deadline = time.monotonic() + 60
        while "smallhold index" not in (body := httpx.get(f"{address}/ready").text):
            assert time.monotonic() < deadline, body
            time.sleep(0.2)
        assert httpx.get(f"{address}/health").status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0

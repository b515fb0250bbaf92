"""The real server with a small and a large model, each in a process of its own, of which the large one is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import located
from tests.test_rag_engine_guarded import is_gone, until
from tests.test_rag_engine_serve import restarts
from tests.test_rag_serve import QUESTION, start, wait_until_ready

pytestmark = pytest.mark.model

SMALL, LARGE = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"
SETTINGS = f"""
[generator]
model = "{SMALL}"
context = 1024
[abstention]
enabled = false
[cascade]
generator = "{LARGE}"
threshold = 1.0
"""


@pytest.fixture(scope="module")
def server(example_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The server's process id and address. Every question goes to the large model."""
    located(SMALL)
    located(LARGE)
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


def workers_of(server: int) -> list[int]:
    """The processes that run models, the older one first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == server and b"rag.engine.worker" in command:
            found.append((int(fields[19]), int(folder.name)))
    return [process for _, process in sorted(found)]


def asked(address: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": QUESTION}], **more}
    reply = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=240)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_the_large_model_is_loaded_when_needed_and_its_death_takes_nothing_down(server: tuple[int, str]) -> None:
    process, address = server
    (small,) = workers_of(process)
    first = asked(address)
    assert first["answered_by"] == LARGE
    assert [model["model"] for model in first["asked"]] == [SMALL, LARGE]
    used = [model["prompt_tokens"] + model["completion_tokens"] for model in first["asked"]]
    assert first["usage"]["total_tokens"] == sum(used)
    assert all(used)
    small_again, large = workers_of(process)
    assert small_again == small
    os.kill(large, signal.SIGKILL)
    until(lambda: is_gone(large))
    assert httpx.get(f"{address}/ready").status_code == 200
    second = asked(address)
    assert second["answered_by"] in (SMALL, LARGE)  # the small one, where the other is not there again in time
    until(lambda: restarts(address) == 1, seconds=60)
    until(lambda: asked(address)["answered_by"] == LARGE, seconds=60)
    assert workers_of(process)[0] == small
    metrics = httpx.get(f"{address}/metrics").text
    assert f'smallhold_asked_total{{failed="false",model="{LARGE}"}}' in metrics

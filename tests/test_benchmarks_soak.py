"""A sample of `benchmarks/soak.py`: a small run of every part against the real server process, without its seconds."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.soak import Heard, Server, main, mixed, overload, serving, vanish

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="memory and files are told as Linux does")
# What depends on how busy the machine is, or takes thousands of requests to see, is left to the whole run.
TIMED = {
    "refusals within 100 ms (99 in 100)",
    "/health within 200 ms (all)",
    "memory grows by less than 1 MB per 1,000 requests",
    "places are free within a second",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("soak"), pace=0.02) as running:
        yield running


def failed(found: dict) -> set[str]:
    return {what for what, holds in found["checks"].items() if not holds} - TIMED


def test_overload_is_refused_in_words_and_health_answers(server: Server) -> None:
    found = asyncio.run(overload(server, seconds=3, clients=60))
    assert failed(found) == set()
    assert found["statuses"]["429"] > 0
    assert found["health_seconds"]["n"] > 1


def test_mixed_requests_end_as_they_should_and_leave_nothing_behind(server: Server) -> None:
    found = asyncio.run(mixed(server, requests=150, clients=6))
    assert (found["requests"], found["faults"], failed(found)) == (150, [], set())
    assert set(found["kinds"]) == {"plain", "streamed", "search", "bad", "cancelled", "strange_key", "listed"}
    assert {"200", "400", "401"} <= set(found["statuses"])


def test_clients_that_vanish_leave_their_places(server: Server) -> None:
    found = asyncio.run(vanish(server, clients=25))
    assert failed(found) == set()
    assert found["slowest_seconds_until_free"] < 20


def test_what_does_not_hold_is_told() -> None:
    """Against a server that is not there nothing holds."""
    nowhere = Server("http://127.0.0.1:9", os.getpid(), ["unused"])
    found = asyncio.run(mixed(nowhere, requests=40, clients=2))
    assert "every request ended as its kind should" in failed(found)
    heard = Heard()
    heard.take(429, 0.1, bare=True)
    assert (heard.bare, heard.counts()) == (1, {"429": 1})


def test_faults_are_run_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: what it finds, and that it did not come to its end."""
    monkeypatch.setattr(soak, "faults", lambda share, folder: {"share": share, "checks": {"steps: it holds": False}})
    monkeypatch.setattr(soak, "serving", None)
    assert main(["--parts", "faults", "--share", "0.5", "--out", str(tmp_path / "soak.json")]) == 1
    assert json.loads((tmp_path / "soak.json").read_text())["faults"]["share"] == 0.5
    monkeypatch.undo()
    assert soak.faults(7, tmp_path)["checks"] == {"it ran to its end": False}  # refused: no such share

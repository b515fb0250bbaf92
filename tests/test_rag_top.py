"""`smallhold top` beside the real HTTP application over a scripted pipeline."""

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from rag.cli_top import _duration, show_once
from rag.cost import Costs, Prices
from rag.datatypes import Delta, PrefixCounters, PrefixTier
from rag.errors import ConfigError, DataError, Unauthorized, Unavailable
from rag.keys import create_key
from rag.service import IndexFacts
from tests.conftest import REPOSITORY, smallhold
from tests.test_rag_app import ABSTAINED, ANSWER, Keeper, Script, ask, service, serving


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    lines = capsys.readouterr().out.splitlines()
    return {line[:12].strip(): line[12:] for line in lines}


@contextmanager
def priced() -> Iterator[httpx.Client]:
    """A server whose answers cost a dollar, and three at the baseline's prices."""
    costs = Costs(Prices(per_hour=2400.0), Prices(None, 50_000.0, None, 1_000_000 / 3), "Large")
    counters = PrefixCounters(1, context=PrefixTier(3, 600, 2, 7000))
    answered = Delta(answer=dataclasses.replace(ANSWER, timings={"retrieve": 0.25, "generate": 0.5, "total": 1.5}))

    def load():
        loaded = service(Script(Delta("At six."), answered))
        facts = IndexFacts("000012", 37, 301)
        return dataclasses.replace(
            loaded, costs=costs, prefixes=lambda: counters, index=lambda _: facts, keeper=Keeper()
        )

    with serving(load) as client:
        yield client


def test_one_look_tells_what_happened_since_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with priced() as client:
        for _ in range(4):
            assert ask(client).status_code == 200
        ask(client, n=2)
        show_once(str(client.base_url), None)
    said = shown(capsys)
    assert said["server"].startswith(f"{str(client.base_url).rstrip('/')}, small-1b, ready, up ")
    assert re.fullmatch(
        r"\d+\.\d\d/s, 0 in flight; worked on: chat 0, embed 0, lookup 0; waiting: chat 0, embed 0, lookup 0",
        said["requests"],
    )
    assert said["refused"] == "400: 1"
    assert re.fullmatch(r"4 \(\d+\.\d\d/s\), abstained 0%", said["answers"])
    assert re.fullmatch(
        r"\d+\.\d/s written, \d+\.\d/s of prompts, 75% of these cached, beginnings found 75%", said["tokens"]
    )
    assert re.fullmatch(r"p50 \d+ ms, p95 \d+ ms", said["first text"])
    assert said["stages"].startswith("total 1.50 s, generate 500 ms, retrieve 250 ms, queue ")
    assert said["index"] == "generation 12, 37 documents, 301 passages"
    assert re.fullmatch(r"\d+ MB, the model's process 988 MB, \d+ open files", said["memory"])
    assert said["cost"] == "$4.000000 since the start, $8.000000 less than at the baseline's prices"


def test_abstentions_and_missing_prices_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Script(Delta(answer=ABSTAINED))) as client:
        ask(client)
        show_once(str(client.base_url), None)
    said = shown(capsys)
    assert said["answers"].endswith("abstained 100%")
    assert said["first text"] == "-"
    assert said["cost"].startswith("no prices are stated")
    assert said["index"] == "-"


def test_a_server_that_asks_for_a_key_gets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.json"
    key = create_key(keys, "me").text
    with serving(Script(), keys=keys, require_key=True) as client:
        with pytest.raises(Unauthorized, match="API key") as refused:
            show_once(str(client.base_url), None)
        assert "SMALLHOLD_API_KEY" in refused.value.hint
        done = smallhold("top", "--once", "--url", str(client.base_url), cwd=tmp_path, SMALLHOLD_API_KEY=key)
        assert (done.returncode, done.stderr) == (0, "")
        assert "small-1b, ready" in done.stdout
        assert key not in done.stdout


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_where_no_server_answers_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = smallhold("top", "--url", f"http://127.0.0.1:{free_port()}", cwd=tmp_path)
    assert done.returncode == 3
    assert "no server answers at http://127.0.0.1" in done.stderr
    assert "smallhold serve" in done.stderr


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://a", ConfigError),
        ("http://", ConfigError),
        ("http://[::1", ConfigError),
        ("http://127.0.0.1:80a", ConfigError),
        ("http://127.0.0.1:99999", ConfigError),
        ("http://127.0.0.1:1", Unavailable),
    ],
)
def test_a_bad_address_is_an_error(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        show_once(url, None)


@pytest.mark.parametrize("key", ["shk\u20111", "shk-1\nX: y"])
def test_what_can_be_no_key_is_an_error(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        show_once("http://127.0.0.1:1", key)


def test_another_program_at_that_address_is_told_and_a_path_belongs_to_the_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics").write_text("up 1\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/metrics").write_text("smallhold_model_restarts_total 3\n")
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as other:
        try:
            assert other.stdout is not None
            found = re.search(r"http://\S+:\d+", other.stdout.readline())
            assert found
            with pytest.raises(DataError, match="no figures of smallhold"):
                show_once(found[0], None)
            show_once(f"{found[0]}/below/", None)  # as behind a proxy
            assert "model started again 3 times" in shown(capsys)["server"]
        finally:
            other.terminate()


def test_the_live_view_goes_on_until_ctrl_c_and_ends_with_0(tmp_path: Path) -> None:
    with priced() as client:
        code = "from rag.cli import main; main()"
        command = [sys.executable, "-c", code, "top", "--url", str(client.base_url), "--interval", "0.1"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "FORCE_COLOR": "1"}
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as live:
            try:
                assert live.stdout is not None
                seen = ""
                deadline = time.monotonic() + 60
                while seen.count("generation 12") < 3:  # drawn again and again
                    assert time.monotonic() < deadline
                    seen += live.stdout.readline()
                live.send_signal(signal.SIGINT)
                rest, said = live.communicate(timeout=30)
            finally:
                live.kill()
        assert live.returncode == 0
        assert said == ""
        assert "\x1b[?25h" in seen + rest, "the cursor is there again"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3720, "1 h 2 min"), (90_061, "1 d 1 h")]
)
def test_durations_are_told_in_two_units(seconds: float, said: str) -> None:
    assert _duration(seconds) == said

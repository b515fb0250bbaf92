"""What the service does under more than it can take, and after much of it: refusals, memory, threads, files, latency.

    python -m benchmarks.soak                                   the whole: some 30 minutes, over stand-in models
    python -m benchmarks.soak --parts overload --seconds 60     one part, shorter
    python -m benchmarks.soak --parts faults --share 0.01       a sample of another, in seconds
    python -m benchmarks.soak --url http://127.0.0.1:8080 --pid PID --key KEY     a server that runs already

A server process of its own (`benchmarks.standin`) is asked over HTTP:

    overload   ten times as many clients as it has places, for as long as `--seconds` says
    mixed      10,000 chats, streams, searches, bad requests and ones that are broken off, with good and wrong keys
    vanish     200 clients that go away at random moments, waiting ones among them
    faults     no server: indexes under kills, failing disks and damage, broken input (`benchmarks.faults`)

Each part says what it found and what it asks of it (`checks`); the exit code is 1 where one does not hold.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.checks import conclude
from benchmarks.faults import single_threaded
from benchmarks.standin import build_index
from rag.console import err
from rag.keys import create_key

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "When was the number of the ferry and the harbour told?"
REFUSALS = (429, 503)


@dataclass
class Server:
    """The process that is measured."""

    url: str
    pid: int
    keys: Sequence[str]

    def client(self, connections: int) -> httpx.AsyncClient:
        """Return a client with room for so many connections."""
        # A connection is given up before uvicorn closes it, after 5 s: else a request may be on its way into it.
        limits = httpx.Limits(max_connections=connections, keepalive_expiry=2)
        headers = {"Authorization": f"Bearer {self.keys[0]}"}
        return httpx.AsyncClient(base_url=self.url, limits=limits, timeout=120, headers=headers, verify=False)

    def held(self) -> dict[str, int]:
        """Return memory (bytes), threads and open files of the process, as Linux tells them."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        numbers = {name: int(value) for name, value in re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE)}
        files = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        return {"rss": numbers["VmRSS"] * 1024, "threads": numbers["Threads"], "files": files}


@dataclass
class Heard:
    """Seconds of every request by its status; `bare` refusals did not say when to try again."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    bare: int = 0
    broken: Counter[str] = field(default_factory=Counter)

    def take(self, status: int, seconds: float, *, bare: bool = False) -> None:
        """Count one."""
        self.seconds.setdefault(status, []).append(seconds)
        self.bare += bare

    def counts(self) -> dict[str, int]:
        """Return how many requests had each status, and how many failed without one."""
        return {**{str(s): len(t) for s, t in sorted(self.seconds.items())}, **self.broken}


@contextlib.contextmanager
def serving(folder: Path, pace: float) -> Iterator[Server]:
    """Run the real server process over stand-ins until the block ends."""
    index = build_index(folder / "index")
    # By the labels that they hold. On loopback, too, a key that is sent must be a good one.
    held: dict[str, list[str]] = {"nothing": [], "some": ["staff"], "all": ["*"]}
    keys = [create_key(folder / "keys.json", name, allow=allow).text for name, allow in held.items()]
    command = [sys.executable, "-m", "benchmarks.standin", str(index), "--pace", str(pace)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SMALLHOLD_SERVER__KEYS": str(folder / "keys.json")}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://\S+:\d+", line)
        if found is None:
            raise RuntimeError(f"the server did not start: {line}{process.stderr.read()}")
        _wait_until_ready(found[0])
        yield Server(found[0], process.pid, keys)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _wait_until_ready(url: str) -> None:
    end = time.monotonic() + 120
    while httpx.get(f"{url}/ready", trust_env=False).status_code != 200:
        if time.monotonic() > end:
            raise RuntimeError("the server was not ready within 120 s")
        time.sleep(0.1)


def chat(stream: bool = False) -> dict[str, Any]:
    """Return the body of a question."""
    return {"messages": [{"role": "user", "content": QUESTION}], "stream": stream, "abstain": False}


async def overload(server: Server, *, seconds: float, clients: int) -> dict[str, Any]:
    """Ask with many clients at once, each anew as soon as it may; `/health` is asked all the while."""
    heard, end = Heard(), time.monotonic() + seconds
    alive, refused = list[float](), list[float]()

    async def insist(late: float) -> None:
        await asyncio.sleep(late)
        async with server.client(1) as client:  # a pool that is shared by hundreds takes time of its own
            while time.monotonic() < end:
                await asyncio.sleep(await _ask(client, heard, "POST", "/v1/chat/completions", json=chat()))

    def watch() -> None:
        """Time `/health` and refusals in a thread of its own, so that what keeps the clients busy counts less."""
        headers = {"Authorization": f"Bearer {server.keys[0]}"}
        with httpx.Client(base_url=server.url, headers=headers, verify=False, timeout=120) as client:
            while time.monotonic() < end:
                began = time.perf_counter()
                client.get("/health").raise_for_status()
                alive.append(time.perf_counter() - began)
                began = time.perf_counter()
                if client.post("/v1/chat/completions", json=chat()).status_code in REFUSALS:
                    refused.append(time.perf_counter() - began)
                time.sleep(0.05)

    await asyncio.gather(asyncio.to_thread(watch), *(insist(number / clients) for number in range(clients)))
    return {
        "clients": clients,
        "seconds": seconds,
        "statuses": heard.counts(),
        "refusal_seconds": _spread(refused),
        "health_seconds": _spread(alive),
        "checks": {
            "some were answered, some refused": 200 in heard.seconds and not heard.seconds.keys().isdisjoint(REFUSALS),
            "nothing but answers and refusals": set(heard.seconds) <= {200, *REFUSALS} and not heard.broken,
            "every refusal says when to try again": heard.bare == 0,
            "refusals within 100 ms (99 in 100)": _quantile(refused, 0.99) < 0.1,
            "/health within 200 ms (all)": max(alive) < 0.2,
        },
    }


async def mixed(server: Server, *, requests: int, clients: int, seed: int = 3) -> dict[str, Any]:
    """Ask in all manners; memory, threads and files are looked at after each twentieth."""
    draw, heard, held, kinds = random.Random(seed), Heard(), [], Counter[str]()
    chats: list[float] = []
    manners = [_plain, _streamed, _search, _bad, _cancelled, _strange_key, _listed]
    jobs = iter([draw.choice(manners) for _ in range(requests)])
    done, step = 0, max(1, requests // 20)
    early = set[str]()

    async def work(client: httpx.AsyncClient) -> None:
        nonlocal done
        for manner in jobs:
            kinds[manner.__name__[1:]] += 1
            began = time.perf_counter()
            fault = await manner(client, server, heard, draw)
            if manner is _plain and not fault:
                chats.append(time.perf_counter() - began)
            early.update({fault} if fault else ())
            done += 1
            if done % step == 0:
                held.append((done, server.held()))

    async with server.client(clients) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
        await asyncio.sleep(1)
    after = server.held()
    # The first fifth fills caches and pools, once.
    warm = held[len(held) // 5 :]
    slope = _slope([n for n, _ in warm], [h["rss"] for _, h in warm]) * 1000
    half = len(chats) // 2
    first, second = (statistics.median(part) if part else math.nan for part in (chats[:half], chats[half:]))
    threads, files = ([h[name] for _, h in warm] for name in ("threads", "files"))
    return {
        "requests": done,
        "kinds": dict(kinds),
        "statuses": heard.counts(),
        "rss_bytes_per_1000": round(slope),
        "rss": {"first": held[0][1]["rss"], "last": after["rss"]},
        "threads": {"warm": threads[0], "most": max(threads), "last": after["threads"]},
        "files": {"warm": files[0], "most": max(files), "last": after["files"]},
        "chat_seconds": {"first_half": first, "second_half": second, "drift": second / first - 1},
        "faults": sorted(early),
        "checks": {
            "every request ended as its kind should": not early,
            "every refusal says when to try again": heard.bare == 0,
            "no server error but 503": not any(s >= 500 and s != 503 for s in heard.seconds),
            "memory grows by less than 1 MB per 1,000 requests": slope < 1_000_000,
            # Threads and connections come and go with load; after it there are no more than when it was warm.
            "threads constant": after["threads"] <= max(threads),
            "files constant": after["files"] <= files[0],
        },
    }


async def vanish(server: Server, *, clients: int, seed: int = 5) -> dict[str, Any]:
    """Begin to ask and go away; then wait until nothing is under way."""
    draw = random.Random(seed)

    async def leave(client: httpx.AsyncClient, after: float, stream: bool) -> None:
        with contextlib.suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(after):
                await client.post("/v1/chat/completions", json=chat(stream))

    waves, slowest = math.ceil(clients / 25), 0.0
    async with server.client(1) as watcher:
        for wave in range(waves):
            async with server.client(50) as client:
                size = min(25, clients - 25 * wave)
                await asyncio.gather(*(leave(client, draw.uniform(0, 0.5), draw.random() < 0.5) for _ in range(size)))
            began = time.monotonic()
            while await _busy(watcher) and time.monotonic() - began < 30:
                await asyncio.sleep(0.02)
            slowest = max(slowest, time.monotonic() - began)
        answer = await watcher.post("/v1/chat/completions", json=chat())
    return {
        "clients": clients,
        "slowest_seconds_until_free": round(slowest, 3),
        "checks": {"places are free within a second": slowest < 1, "and it answers": answer.status_code == 200},
    }


async def _busy(client: httpx.AsyncClient) -> bool:
    figures = (await client.get("/metrics")).text
    return any(
        float(n) > 0 for n in re.findall(r"^smallhold_(?:running|queue_depth)\{.*\} (\S+)$", figures, re.MULTILINE)
    )


async def _ask(client: httpx.AsyncClient, heard: Heard, method: str, path: str, **request: Any) -> float:
    """Send one request and count it; return in how many seconds it may be sent again."""
    began = time.perf_counter()
    try:
        response = await client.request(method, path, **request)
    except httpx.HTTPError as error:
        heard.broken[type(error).__name__] += 1
        return 0.0
    again = response.headers.get("retry-after", "")
    bare = response.status_code in REFUSALS and not again.isdigit()
    heard.take(response.status_code, time.perf_counter() - began, bare=bare)
    return float(again) if again.isdigit() else 0.0


# The manners of `mixed`. Each returns "" or what was not as it should be.


async def _expect(allowed: set[int], client: httpx.AsyncClient, heard: Heard, *request: str, **more: Any) -> str:
    one = Heard()
    await _ask(client, one, *request, **more)
    for status, times in one.seconds.items():
        heard.take(status, times[0], bare=bool(one.bare))
    heard.broken.update(one.broken)
    if one.broken:
        return f"{request[1]}: {next(iter(one.broken))}"
    (status,) = one.seconds
    return "" if status in {*allowed, *REFUSALS} else f"{request[1]}: {status}"


def _own(server: Server, draw: random.Random) -> dict[str, str]:
    return {"Authorization": f"Bearer {draw.choice(server.keys)}"}


async def _plain(client: httpx.AsyncClient, server: Server, heard: Heard, draw: random.Random) -> str:
    return await _expect({200}, client, heard, "POST", "/v1/chat/completions", json=chat(), headers=_own(server, draw))


async def _search(client: httpx.AsyncClient, server: Server, heard: Heard, draw: random.Random) -> str:
    body = {"query": f"{QUESTION} {draw.random()}", "k": draw.randint(1, 100), "filter": {"type": "pdf"}}
    return await _expect({200}, client, heard, "POST", "/v1/search", json=body, headers=_own(server, draw))


async def _listed(client: httpx.AsyncClient, server: Server, heard: Heard, draw: random.Random) -> str:
    return await _expect(
        {200}, client, heard, "GET", f"/v1/documents?limit={draw.randint(1, 50)}", headers=_own(server, draw)
    )


async def _bad(client: httpx.AsyncClient, server: Server, heard: Heard, draw: random.Random) -> str:
    body = draw.choice([b"{", b"[]", b'{"messages": []}', b'{"messages": 3}', b"\xff", b"x" * 10_000])
    headers = {"Content-Type": "application/json", **_own(server, draw)}
    return await _expect({400}, client, heard, "POST", "/v1/chat/completions", content=body, headers=headers)


async def _strange_key(client: httpx.AsyncClient, _server: Server, heard: Heard, draw: random.Random) -> str:
    headers = {"Authorization": f"Bearer shk-{draw.randrange(16**8):08x}-{draw.random()}"}
    return await _expect({401}, client, heard, "POST", "/v1/search", json={"query": "x"}, headers=headers)


async def _streamed(client: httpx.AsyncClient, server: Server, heard: Heard, draw: random.Random) -> str:
    began = time.perf_counter()
    headers = _own(server, draw)
    try:
        async with client.stream("POST", "/v1/chat/completions", json=chat(True), headers=headers) as response:
            text = (await response.aread()).decode()
    except httpx.HTTPError as error:
        heard.broken[type(error).__name__] += 1
        return f"stream: {type(error).__name__}"
    bare = response.status_code in REFUSALS and not response.headers.get("retry-after")
    heard.take(response.status_code, time.perf_counter() - began, bare=bare)
    if response.status_code in REFUSALS:
        return ""
    return "" if text.endswith("data: [DONE]\n\n") else f"stream: {response.status_code} without an end"


async def _cancelled(client: httpx.AsyncClient, server: Server, heard: Heard, draw: random.Random) -> str:
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(draw.uniform(0, 0.05)):
            await client.post("/v1/chat/completions", json=chat(draw.random() < 0.5), headers=_own(server, draw))
    heard.broken["broken off"] += 1
    return ""


def _spread(times: Sequence[float]) -> dict[str, float]:
    if not times:
        return {}
    return {"n": len(times), **{f"p{q}": round(_quantile(times, q / 100), 4) for q in (50, 95, 99, 100)}}


def _quantile(times: Sequence[float], share: float) -> float:
    """The nearest-rank quantile, 0 of nothing."""
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)] if times else 0.0


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    return statistics.linear_regression(xs, ys).slope if len(xs) > 1 else 0.0


def faults(share: float, folder: Path) -> dict[str, Any]:
    """Run `benchmarks.faults` in a process of its own, which forks and so must have one thread."""
    written = folder / "faults.json"
    command = [sys.executable, "-m", "benchmarks.faults", "--share", str(share), "--out", str(written)]
    subprocess.run(command, cwd=ROOT, env=single_threaded(), stdout=subprocess.DEVNULL, check=False)
    found = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    parts = {name: part for name, part in found.items() if isinstance(part, dict)}
    checks = {f"{name}: {what}": holds for name, part in parts.items() for what, holds in part["checks"].items()}
    return {**found, "checks": {"it ran to its end": bool(parts), **checks}}


Part = Callable[[Server], Coroutine[Any, Any, dict[str, Any]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, print, write; 1 where a check does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of overload (%(default)s)")
    parser.add_argument("--clients", type=int, default=200, help="of overload: ten times the places (%(default)s)")
    parser.add_argument("--requests", type=int, default=10_000, help="of all kinds (%(default)s)")
    parser.add_argument("--vanishing", type=int, default=200, help="clients that go away (%(default)s)")
    parser.add_argument("--pace", type=float, default=0.01, help="seconds a word of the stand-in (%(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the counts of faults (%(default)s)")
    parser.add_argument("--parts", default="overload,mixed,vanish,faults", help="which of %(default)s")
    parser.add_argument("--url", help="a server that runs already; with --pid and --key")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--key", default="unused")
    parser.add_argument("--out", type=Path, default=Path("out/soak.json"))
    args = parser.parse_args(arguments)
    parts: dict[str, Part] = {
        "overload": lambda server: overload(server, seconds=args.seconds, clients=args.clients),
        "mixed": lambda server: mixed(server, requests=args.requests, clients=12),
        "vanish": lambda server: vanish(server, clients=args.vanishing),
    }
    wanted = args.parts.split(",")
    if unknown := set(wanted) - {*parts, "faults"}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if args.url and not args.pid:
        parser.error("--url needs --pid, whose memory, threads and files are looked at")
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        running = Server(args.url, args.pid, [args.key]) if args.url else None
        if of_a_server := [name for name in wanted if name in parts]:
            with contextlib.nullcontext(running) if running else serving(Path(folder), args.pace) as server:
                for name in of_a_server:
                    err.print(f"{name} ...")
                    report[name] = asyncio.run(parts[name](server))
        if "faults" in wanted:
            report["faults"] = faults(args.share, Path(folder))
    return conclude(report, args.out)


if __name__ == "__main__":
    sys.exit(main())

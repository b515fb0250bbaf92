"""The peers' servers: set up, started and stopped here, each with its best settings for the cores at hand."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.engine.client import HttpSystem, PeerFailed
from benchmarks.engine.journal import LLAMA_CPP_PYTHON, LLAMA_SERVER
from benchmarks.engine.ours import Weights

ROOT = Path(__file__).resolve().parent.parent.parent
EMPTY_REQUEST = {LLAMA_SERVER: "/health", LLAMA_CPP_PYTHON: "/v1/models"}
START_SECONDS = 180


def settings_of(peer: str, weights: Weights, *, clients: int, room: int, threads: int, port: int) -> dict[str, Any]:
    """Return a peer's settings for `clients` at once, each with `room` tokens of prompt and answer.

    llama-server: one slot per client in one unified cache, its cache of prompts in RAM as it comes (8 GiB).
    llama-cpp-python: one request at a time, whatever is set. Unless told otherwise, a new request breaks off the one
    being answered, and logits are computed for every prompt token. Each state in its cache of prompts holds logits for
    `n_batch` tokens that its size does not count (150,000 words: 78 MB at 128), so the cache is bounded by its small
    sizes: 512 MiB are about 60 prompts.
    """
    if peer == LLAMA_SERVER:
        return {
            "model.path": str(weights.path),
            "hostnames": ["127.0.0.1"],
            "port": port,
            "n_parallel": clients,
            "n_ctx": clients * room,
            "kv_unified": True,
            "cont_batching": True,
            "cache_prompt": True,
            "cpuparams.n_threads": threads,
            "cpuparams_batch.n_threads": threads,
            "no_extra_bufts": not weights.repacked,
            "n_gpu_layers": 0,
        }
    return {
        "model": str(weights.path),
        "host": "127.0.0.1",
        "port": port,
        "n_ctx": room,
        "n_batch": 128,
        "n_ubatch": 128,
        "n_threads": threads,
        "n_threads_batch": threads,
        "flash_attn": "true",
        "logits_all": "false",
        "cache": "true",
        "cache_size": 512 << 20,
        "interrupt_requests": "false",
        "verbose": "false",
    }


def install(peer: str, *, published: bool) -> Path:
    """Return the Python of a peer's environment, set up first where needed. Raises `PeerFailed`."""
    command = [sys.executable, str(ROOT / "scripts" / "peers.py"), peer, *(["--published"] if published else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise PeerFailed(peer, "could not be installed; see above")
    return Path(done.stdout.strip().splitlines()[-1])


@contextmanager
def running(
    peer: str, python: Path, weights: Weights, *, clients: int, room: int, threads: int
) -> Iterator[HttpSystem]:
    """Yield a peer's server, ready to answer, and stop it. Raises `PeerFailed`."""
    port = _free_port()
    settings = settings_of(peer, weights, clients=clients, room=room, threads=threads, port=port)
    command = [str(python), "-I", str(Path(__file__).with_name("peer_process.py")), peer, json.dumps(settings)]
    # The session of its own keeps Ctrl-C from it: it is stopped here, when its figures are written down.
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=_environment()
        )
        client = HttpSystem(peer, f"http://127.0.0.1:{port}", empty=EMPTY_REQUEST[peer])
        try:
            if why := _wait(server, client):
                raise PeerFailed(peer, f"{why}: {_tail(log)}")
            yield client
        finally:
            client.close()
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], client: HttpSystem) -> str:
    """Wait until the server answers a request that asks the model nothing; return why it never will."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return f"ended with status {server.returncode}"
        try:
            client.round_trip()
            return ""
        except PeerFailed:
            time.sleep(0.2)
    return f"did not answer within {START_SECONDS} s"


def _environment() -> dict[str, str]:
    """The peer's environment: without what smallhold sets for llama.cpp in its own process."""
    return {name: value for name, value in os.environ.items() if name not in {"OMP_WAIT_POLICY", "PYTHONPATH"}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Any, lines: int = 3) -> str:
    log.seek(0)
    return " | ".join(line.strip() for line in log.read().strip().splitlines()[-lines:])

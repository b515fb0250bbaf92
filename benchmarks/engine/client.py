"""A peer over HTTP: OpenAI's streamed chat completions on loopback."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from benchmarks.engine.systems import Reply
from rag.datatypes import Message

# llama-cpp-python's server has a repetition penalty of 1.1 unless told otherwise; with top_k 1 neither server sorts
# its vocabulary.
GREEDY = {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "seed": 0}


class PeerFailed(Exception):
    """A peer could not be installed or started, or stopped answering; the message says why."""

    def __init__(self, peer: str, why: str) -> None:
        super().__init__(f"{peer} {why}")
        self.peer = peer


class HttpSystem:
    """A server that speaks OpenAI's protocol. Its client may be shared between threads."""

    def __init__(self, name: str, url: str, *, empty: str, timeout: float = 600.0) -> None:
        self.name = name
        self._empty = empty
        # A connection of its own for each request: a server that closes idle ones may do so as the next is sent.
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)
        self._client = httpx.Client(base_url=url, timeout=timeout, limits=limits, trust_env=False)

    def round_trip(self) -> float:
        """Return the seconds of a request that asks the model nothing. Raises `PeerFailed`."""
        with self._translating():
            began = time.perf_counter()
            self._client.get(self._empty).raise_for_status()
            return time.perf_counter() - began

    def ask(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Answer greedily. Raises `PeerFailed`."""
        with self._translating():
            return self._ask(messages, max_tokens)

    def _ask(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        body = {**self._body(messages, max_tokens), "stream": True, "stream_options": {"include_usage": True}}
        began = time.perf_counter()
        text, times = "", []
        usage: dict[str, Any] = {}
        with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                raise ValueError(f"status {response.status_code}: {response.read()[:300]!r}")
            for event in _events(response.iter_lines()):
                usage = event.get("usage") or usage
                piece = "".join((choice.get("delta") or {}).get("content") or "" for choice in event["choices"])
                if piece:
                    times.append(time.perf_counter() - began)
                    text += piece
        seconds = time.perf_counter() - began
        first, last = (times[0], times[-1]) if times else (seconds, seconds)
        return Reply(text, usage.get("completion_tokens", len(times)), usage.get("prompt_tokens"), first, last, seconds)

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return how many tokens the server makes of a chat, by its own count. Raises `PeerFailed`."""
        with self._translating():
            reply = self._client.post("/v1/chat/completions", json=self._body(messages, 1)).raise_for_status()
            return int(reply.json()["usage"]["prompt_tokens"])

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise PeerFailed(self.name, f"did not answer: {type(error).__name__} {error}") from error

    def _body(self, messages: Sequence[Message], max_tokens: int) -> dict[str, Any]:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        return {"model": "any", "messages": chat, "max_tokens": max_tokens, **GREEDY}


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the JSON events of a stream of server-sent events, comments and pings passed over."""
    for line in lines:
        name, _, data = line.partition(":")
        if name != "data" or data.strip() == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise ValueError(f"the stream ended with an error: {event['error']}")
        yield event

"""The engines that are compared, behind one seam: messages in, text and times out."""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from benchmarks.engine.journal import OURS
from benchmarks.engine.ours import Engine
from rag.datatypes import Message, Sampling


class Reply(NamedTuple):
    """A streamed answer: its text and tokens, seconds until the first and the last token, and in all.

    `tokens` are the written ones; `prompt_tokens` is None where the system does not tell.
    """

    text: str
    tokens: int
    prompt_tokens: int | None
    first: float
    last: float
    seconds: float

    @property
    def seconds_per_token(self) -> float | None:
        """The pace of writing; None where fewer than two tokens came."""
        return (self.last - self.first) / (self.tokens - 1) if self.tokens > 1 else None


class System(Protocol):
    """An engine that can be asked, by several threads at once."""

    name: str

    def ask(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Answer greedily."""
        ...


class OurSystem:
    """Our engine in this process, through its own stream."""

    name = OURS

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def ask(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Answer greedily."""
        began = time.perf_counter()
        text, times, usage = "", [], None
        for piece in self.engine.stream(messages, Sampling(max_tokens=max_tokens)):
            if piece.tokens:
                times.append(time.perf_counter() - began)
            text += piece.text
            usage = piece.usage or usage
        seconds = time.perf_counter() - began
        assert usage is not None
        first, last = (times[0], times[-1]) if times else (seconds, seconds)
        return Reply(text, usage.completion, usage.prompt, first, last, seconds)

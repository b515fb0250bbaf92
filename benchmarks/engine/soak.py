"""Many streamed answers by many clients, some of which hang up: is every token there, once, and in its own stream?

Each prompt's greedy answer is known from a run alone. In company llama.cpp adds up in another order, so that two tokens
of nearly the same probability may change places: such near-ties are counted apart, and what follows them is not judged.
"""

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from rag.datatypes import Message, Sampling
from rag.errors import Overloaded
from rag.protocols import Generator

# Log-probabilities (natural) of two tokens that may change places; together they cannot be likelier than certain.
NEAR = 0.1
CERTAIN = 1.02


class Token(NamedTuple):
    """A piece of an answer as it came: its text, its log-probability, and how many tokens it is."""

    text: str
    logprob: float | None = None
    tokens: int = 1


class Job(NamedTuple):
    """A prompt to ask, by number, and after how many tokens the client hangs up (0: while it is read); None: never."""

    prompt: int
    hang_up: int | None


class Heard(NamedTuple):
    """What a client got: the tokens, and how many there were by the engine's count (None where it hung up)."""

    tokens: list[Token]
    counted: int | None


def judge(expected: Sequence[Token], heard: Heard) -> str:
    """Return `right`, `near_tie`, `lost`, `doubled` or `crossed`."""
    tokens, at = heard.tokens, _agreement(expected, heard.tokens)
    came, text, whole = sum(t.tokens for t in tokens), _text(tokens), _text(expected)
    if heard.counted is not None and heard.counted != came:
        return "lost" if heard.counted > came else "doubled"
    if text == whole or (heard.counted is None and whole.startswith(text)):
        return "right"
    if at == len(tokens):
        return "lost"
    if at < len(expected) and _near(expected[at], tokens[at]):
        return "near_tie"
    texts, wanted = [t.text for t in tokens[at:]], [t.text for t in expected]
    if at and _continues(wanted[at:], texts[1:]) and texts[0] == wanted[at - 1]:
        return "doubled"
    if any(_continues(wanted[at + gap :], texts) for gap in (1, 2, 3)):
        return "lost"
    return "crossed"


def _text(tokens: Sequence[Token]) -> str:
    return "".join(token.text for token in tokens)


def _agreement(expected: Sequence[Token], heard: Sequence[Token]) -> int:
    """Return how many tokens at the beginning are the same."""
    same = 0
    for a, b in zip(expected, heard, strict=False):
        if a.text != b.text:
            break
        same += 1
    return same


def _near(a: Token, b: Token) -> bool:
    if a.logprob is None or b.logprob is None:
        return False
    return abs(a.logprob - b.logprob) <= NEAR and math.exp(a.logprob) + math.exp(b.logprob) <= CERTAIN


def _continues(wanted: Sequence[str], texts: Sequence[str]) -> bool:
    return bool(texts) and list(texts) == list(wanted[: len(texts)])


def listen(engine: Generator, chat: Sequence[Message], max_tokens: int, hang_up: int | None) -> Heard:
    """Ask and collect the tokens, up to where the client hangs up."""
    tokens: list[Token] = []
    with closing(engine.stream(chat, Sampling(max_tokens=max_tokens))) as stream:
        for piece in stream:
            if piece.tokens:
                tokens.append(Token(piece.text, piece.logprob, piece.tokens))
            elif piece.text and tokens:  # text that was held back until the end belongs to the last token
                tokens[-1] = tokens[-1]._replace(text=tokens[-1].text + piece.text)
            if hang_up is not None and len(tokens) >= hang_up:
                return Heard(tokens, None)
            if piece.finish_reason is not None and piece.usage is not None:
                return Heard(tokens, piece.usage.completion)
    return Heard(tokens, None)


def plan_jobs(prompts: int, answers: int, hang_ups: int, longest: Sequence[int], seed: int) -> list[Job]:
    """Return `answers` jobs over all prompts in turn, of which `hang_ups`, drawn at random, break off at random."""
    draw = random.Random(seed)
    broken = set(draw.sample(range(answers), hang_ups))
    return [Job(n % prompts, draw.randrange(longest[n % prompts]) if n in broken else None) for n in range(answers)]


def soak(
    engine: Generator,
    chats: Sequence[Sequence[Message]],
    *,
    answers: int,
    hang_ups: int,
    clients: int,
    max_tokens: int,
    advance: Callable[[], None],
    seed: int = 4,
) -> dict[str, Any]:
    """Run it all; return how many answers came to which end, and the memory after a tenth of them and at the end."""
    expected = []
    for chat in chats:
        expected.append(listen(engine, chat, max_tokens, None).tokens)
        advance()
    jobs: SimpleQueue[Job] = SimpleQueue()
    for job in plan_jobs(len(chats), answers, hang_ups, [max(1, len(e)) for e in expected], seed):
        jobs.put(job)
    ends: Counter[str] = Counter()
    lock, memory = threading.Lock(), {}

    def client() -> None:
        while True:
            try:
                job = jobs.get_nowait()
            except Empty:
                return
            end, refused = _end(engine, chats[job.prompt], expected[job.prompt], job, max_tokens)
            with lock:
                ends[end] += 1
                ends["refused_first"] += refused
                ends["hung_up"] += job.hang_up is not None
                if sum(ends[name] for name in ENDS) == max(1, answers // 10):
                    memory["warm"] = resident_bytes()
            advance()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        _empty(jobs)  # after Ctrl-C the clients end with the answer that each is hearing
    warm, end_ = memory.get("warm"), resident_bytes()
    growth = None if warm is None or end_ is None else end_ / warm - 1
    counts = {name: ends[name] for name in (*ENDS, "hung_up", "refused_first")}
    return {"answers": answers, "clients": clients, **counts, "memory_warm": warm, "memory_end": end_, "growth": growth}


ENDS = ("right", "near_tie", "lost", "doubled", "crossed", "failed")


def _end(
    engine: Generator, chat: Sequence[Message], expected: Sequence[Token], job: Job, max_tokens: int
) -> tuple[str, int]:
    """Return what became of a job, and how often it was refused by a full queue before."""
    refused = 0
    while True:
        try:
            return judge(expected, listen(engine, chat, max_tokens, job.hang_up)), refused
        except Overloaded:
            refused += 1
            time.sleep(0.05)
        except Exception:  # whatever it is: an answer that did not come is counted
            return "failed", refused


def _empty(jobs: "SimpleQueue[Job]") -> None:
    with suppress(Empty):
        while True:
            jobs.get_nowait()


def resident_bytes() -> int | None:
    """Return the memory that this process holds; None where the system does not tell as Linux does."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None

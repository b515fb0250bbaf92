"""Many streamed answers by many clients, some of which hang up: is every token there, once, and in its own stream?

Each prompt's greedy answer is known from a run alone. In company llama.cpp adds up in another order, so that two tokens
of nearly the same probability may change places: such near-ties are counted apart, and what follows them is not judged.
An answer that differs is judged at the end, when the engine can be asked alone how likely the token heard was. It is
asked by text: where a text is cut into other tokens than were written, nothing can be told of it.
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
from typing import Any, NamedTuple, Protocol

from rag.datatypes import Message, Sampling
from rag.errors import Overloaded
from rag.protocols import Generator

# How much likelier (natural log) a token may be alone than the one heard in its place. In other batches llama.cpp moves
# the logits of the 135M by up to 0.9 (of the 0.5B by 0.3, benchmarks/drift.py), and of two tokens both may move.
NEAR = 1.5


class Engine(Generator, Protocol):
    """A generator that tells how likely a given answer is, and the tokens of a text and of an answer's end."""

    @property
    def end_of_turn(self) -> int:
        """The token that ends an answer."""
        ...

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        ...

    def score_tokens(self, messages: Sequence[Message], told: Sequence[list[int]]) -> list[list[float]]:
        """Return the natural-log probability of every token of each continuation."""
        ...


class Token(NamedTuple):
    """A piece of an answer as it came: its text, and how many tokens it is."""

    text: str
    tokens: int = 1


# By how much a beginning of an answer is likelier, alone, than another one that differs in its last token; not a number
# where that cannot be told.
Lead = Callable[[Sequence[Token], Sequence[Token]], float]


class Job(NamedTuple):
    """A prompt to ask, by number, and after how many tokens the client hangs up (0: while it is read); None: never."""

    prompt: int
    hang_up: int | None


class Heard(NamedTuple):
    """What a client got: the tokens, and how many there were by the engine's count (None where it hung up)."""

    tokens: list[Token]
    counted: int | None


def judge(expected: Sequence[Token], heard: Heard, lead: Lead) -> str:
    """Return `right`, `near_tie`, `lost`, `doubled`, `crossed` or `unclear`; `lead` is asked of answers that differ."""
    tokens, at = heard.tokens, _agreement(expected, heard.tokens)
    came, text, whole = sum(t.tokens for t in tokens), _text(tokens), _text(expected)
    if heard.counted is not None and heard.counted != came:
        return "lost" if heard.counted > came else "doubled"
    if text == whole or (heard.counted is None and whole.startswith(text)):
        return "right"
    if at == len(tokens):
        return "lost"
    gap = lead(expected[: at + 1], tokens[: at + 1]) if at < len(expected) else math.inf
    if gap <= NEAR:
        return "near_tie"
    texts, wanted = [t.text for t in tokens[at:]], [t.text for t in expected]
    if at and _continues(wanted[at:], texts[1:]) and texts[0] == wanted[at - 1]:
        return "doubled"
    if any(_continues(wanted[at + lost :], texts) for lost in (1, 2, 3)):
        return "lost"
    return "unclear" if math.isnan(gap) else "crossed"


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


def _continues(wanted: Sequence[str], texts: Sequence[str]) -> bool:
    return bool(texts) and list(texts) == list(wanted[: len(texts)])


def listen(engine: Generator, chat: Sequence[Message], max_tokens: int, hang_up: int | None) -> Heard:
    """Ask and collect the tokens, up to where the client hangs up."""
    tokens: list[Token] = []
    with closing(engine.stream(chat, Sampling(max_tokens=max_tokens))) as stream:
        for piece in stream:
            if piece.tokens:
                tokens.append(Token(piece.text, piece.tokens))
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
    engine: Engine,
    chats: Sequence[Sequence[Message]],
    *,
    answers: int,
    hang_ups: int,
    clients: int,
    max_tokens: int,
    advance: Callable[[], None],
    seed: int = 4,
) -> dict[str, Any]:
    """Run it all; return how many answers came to which end, and the memory after a tenth of them and at the end.

    `apart` tells where those went apart that came to a bad end.
    """
    expected = []
    for chat in chats:
        expected.append(listen(engine, chat, max_tokens, None).tokens)
        advance()
    jobs: SimpleQueue[Job] = SimpleQueue()
    for job in plan_jobs(len(chats), answers, hang_ups, [max(1, len(e)) for e in expected], seed):
        jobs.put(job)
    ended: list[tuple[Job, Heard | None]] = []  # those that were heard as expected are not kept
    lock, memory, counts = threading.Lock(), {}, Counter[str]()

    def client() -> None:
        while True:
            try:
                job = jobs.get_nowait()
            except Empty:
                return
            heard, refused = _hear(engine, chats[job.prompt], job, max_tokens)
            right = heard is not None and judge(expected[job.prompt], heard, _unknown) == "right"
            with lock:
                counts.update(done=1, right=right, refused_first=refused, hung_up=job.hang_up is not None)
                if not right:
                    ended.append((job, heard))
                if counts["done"] == max(1, answers // 10):
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
    warm, end = memory.get("warm"), resident_bytes()
    apart = []
    for job, heard in ended:
        lead = _lead_in(engine, chats[job.prompt])
        outcome = "failed" if heard is None else judge(expected[job.prompt], heard, lead)
        counts[outcome] += 1
        if heard is not None and outcome not in ("right", "near_tie"):
            apart.append(_tell_apart(outcome, job, expected[job.prompt], heard, lead))
    growth = None if warm is None or end is None else end / warm - 1
    told = {name: counts[name] for name in (*ENDS, "hung_up", "refused_first")}
    return {
        "answers": answers,
        "clients": clients,
        **told,
        "memory_warm": warm,
        "memory_end": end,
        "growth": growth,
        "apart": apart,
    }


ENDS = ("right", "near_tie", "lost", "doubled", "crossed", "unclear", "failed")


def _tell_apart(end: str, job: Job, expected: Sequence[Token], heard: Heard, lead: Lead) -> dict[str, Any]:
    at = _agreement(expected, heard.tokens)
    gap = lead(expected[: at + 1], heard.tokens[: at + 1]) if at < min(len(expected), len(heard.tokens)) else math.nan
    return {
        "end": end,
        "prompt": job.prompt,
        "at": at,
        "expected": [token.text for token in expected[at : at + 4]],
        "heard": [token.text for token in heard.tokens[at : at + 4]],
        "counted": heard.counted,
        "lead": None if math.isnan(gap) else round(gap, 3),
    }


def _hear(engine: Generator, chat: Sequence[Message], job: Job, max_tokens: int) -> tuple[Heard | None, int]:
    """Return what came of a job, None where it failed, and how often a full queue refused it before."""
    refused = 0
    while True:
        try:
            return listen(engine, chat, max_tokens, job.hang_up), refused
        except Overloaded:
            refused += 1
            time.sleep(0.05)
        except Exception:  # whatever it is: an answer that did not come is counted
            return None, refused


def _unknown(_expected: Sequence[Token], _heard: Sequence[Token]) -> float:
    return math.inf


def _lead_in(engine: Engine, chat: Sequence[Message]) -> Lead:
    def logprob(written: Sequence[Token]) -> float:
        tokens = engine.tokens(_text(written))
        if not written[-1].text:
            tokens.append(engine.end_of_turn)
        if len(tokens) != sum(token.tokens for token in written):
            return math.nan
        return sum(engine.score_tokens(chat, [tokens])[0])

    return lambda expected, heard: logprob(expected) - logprob(heard)


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

"""The measurements: each asks all systems in turn and writes samples down; none knows what is divided by what."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from benchmarks.engine.client import HttpSystem
from benchmarks.engine.journal import OURS, Journal
from benchmarks.engine.systems import OurSystem, Reply, System
from benchmarks.engine.workload import AT_LENGTH, STORY, Case, Pair, Shapes, turns
from eval.metrics import f1
from rag.datatypes import Message
from rag.pipeline import RagPipeline
from rag.warm import ANY_QUESTION

Advance = Callable[[], None]


class Scale(NamedTuple):
    """How much is measured. `written` bounds an answer at length, `read` is the prompt whose reading is timed."""

    runs: int = 5
    seen: int = 4
    cold: int = 4
    answers: int = 12
    warm: int = 12
    clients: int = 8
    requests: int = 1
    written: int = 32
    read: int = 512
    megabytes: int = 512
    product: int = 2048


QUICK = Scale(
    2, seen=1, cold=1, answers=2, warm=1, clients=2, requests=1, written=6, read=64, megabytes=32, product=256
)


def measure_seen(
    journal: Journal, run: int, systems: Sequence[System], pairs: Sequence[Pair], shapes: Shapes, advance: Advance
) -> None:
    """Seconds to the first token where the best passage was read before, for another question.

    All earlier questions are asked first, so that a cache must hold them all. The peers get two easier histories, too.
    """
    for at, pair in enumerate(pairs):
        for system in turns(systems, at):
            _read_for_earlier(system, pair, shapes)
        advance()
    for at, pair in enumerate(pairs):
        for system in turns(systems, at):
            ours = system.name == OURS
            later = shapes.alone(pair.later) if ours else shapes.joint(pair.later)
            journal.add("ttft_seen", system.name, run, system.ask(later, 1).first)
            if not ours:
                other = shapes.joint(pair.later, pair.earlier.question)
                journal.add("ttft_seen_order", system.name, run, system.ask(other, 1).first)
                journal.add("ttft_seen_prompt", system.name, run, system.ask(other, 1).first)
        advance()


def _read_for_earlier(system: System, pair: Pair, shapes: Shapes) -> None:
    """Put the earlier question: to ours over the shared passage alone, to a peer over all of its passages."""
    if system.name == OURS:
        system.ask(shapes.alone(pair.earlier, pair.later.retrieved[0]), 1)
    else:
        system.ask(shapes.joint(pair.earlier), 1)


def measure_cold(
    journal: Journal, run: int, systems: Sequence[System], cases: Sequence[Case], shapes: Shapes, advance: Advance
) -> None:
    """Seconds to the first token of the joint prompt, the same tokens for all, never seen; and how many tokens."""
    for at, case in enumerate(cases):
        messages = shapes.unseen(case, f"Sheet {run}-{at}")
        for system in turns(systems, at):
            reply = system.ask(messages, 1)
            journal.add("ttft_cold", system.name, run, reply.first)
            _note_prompt(journal, "prompt_tokens_cold", system, run, reply, messages)
        advance()


def measure_answers(
    journal: Journal,
    run: int,
    systems: Sequence[System],
    pipeline: RagPipeline,
    cases: Sequence[Case],
    shapes: Shapes,
    advance: Advance,
) -> None:
    """Answers a minute of one client, and F1: ours through its pipeline, the peers over the joint prompt."""
    spent = {system.name: 0.0 for system in systems}
    for at, case in enumerate(cases):
        for system in turns(systems, at):
            began = time.perf_counter()
            if system.name == OURS:
                text = pipeline.answer(case.question).text
            else:
                text = system.ask(shapes.joint(case), shapes.max_tokens).text.strip()
            spent[system.name] += time.perf_counter() - began
            journal.add("f1", system.name, run, f1(text, case.answers))
        advance()
    for name, seconds in spent.items():
        journal.add("answers_per_minute", name, run, 60 * len(cases) / seconds)


def measure_warm(
    journal: Journal,
    run: int,
    ours: OurSystem,
    pipeline: RagPipeline,
    cases: Sequence[Case],
    shapes: Shapes,
    advance: Advance,
) -> None:
    """Answers a minute of one client where the passages found were read before, as `smallhold warm` reads them all.

    They are read for another question, in no answer's time. What a second search finds was not read before.
    """
    spent = 0.0
    for case in cases:
        for passage in case.retrieved[: shapes.passages]:
            ours.ask(shapes.alone(case._replace(question=ANY_QUESTION), passage), 1)
        began = time.perf_counter()
        text = pipeline.answer(case.question).text
        spent += time.perf_counter() - began
        journal.add("f1_warm", OURS, run, f1(text, case.answers))
        advance()
    journal.add("answers_per_minute_warm", OURS, run, 60 * len(cases) / spent)


def measure_clients(
    journal: Journal, run: int, systems: Sequence[System], cases: Sequence[Case], shapes: Shapes, scale: Scale,
    advance: Advance,
) -> None:  # fmt: skip
    """Tokens a second of all clients together, and the 95th percentile of seconds to the first token.

    Every client asks `requests` times in a row for a passage's whole text, over joint prompts that nobody has seen: the
    same greedy answer of `written` tokens from all systems. The tokens that came are counted, not assumed.
    """
    chats = [
        shapes.unseen(cases[at % len(cases)], f"Desk {run}-{at}", AT_LENGTH)
        for at in range(scale.clients * scale.requests)
    ]
    for system in turns(systems, run):
        began = time.perf_counter()
        replies = ask_at_once(system, chats, scale)
        seconds = time.perf_counter() - began
        tokens = sum(reply.tokens for reply in replies)
        journal.add("tokens_per_second_8", system.name, run, tokens / seconds)
        journal.add("tokens_per_answer_8", system.name, run, tokens / len(replies))
        journal.add("ttft_p95_8", system.name, run, float(np.quantile([r.first for r in replies], 0.95)))
        advance()


def ask_at_once(system: System, chats: Sequence[list[Message]], scale: Scale) -> list[Reply]:
    """Ask from all clients at once, each its share one after the other; return all replies."""
    start = threading.Barrier(scale.clients)

    def client(number: int) -> list[Reply]:
        start.wait()
        return [system.ask(chat, scale.written) for chat in chats[number :: scale.clients]]

    with ThreadPoolExecutor(scale.clients) as pool:
        return [reply for replies in pool.map(client, range(scale.clients)) for reply in replies]


def measure_pace(journal: Journal, run: int, ours: OurSystem, case: Case, scale: Scale) -> int:
    """Our rates of reading and of writing, one stream; return the prompt's tokens before the writing that was timed."""
    words = " ".join(passage.chunk.text for passage in case.retrieved)
    chat = [Message("system", f"Page {run}."), Message("user", _cut(ours, words, scale.read))]
    reading = ours.ask(chat, 1)
    assert reading.prompt_tokens is not None
    journal.add("prefill_tokens_per_second", OURS, run, reading.prompt_tokens / reading.first)
    writing = ours.ask(STORY, scale.written)
    if (seconds := writing.seconds_per_token) is not None:
        journal.add("seconds_per_token", OURS, run, seconds)
        journal.add("decode_tokens_per_second", OURS, run, 1 / seconds)
    return writing.prompt_tokens or 0


def _cut(ours: OurSystem, text: str, tokens: int) -> str:
    """Return about the first `tokens` tokens of a text, repeated where it is too short."""
    words = text.split()
    while ours.engine.count(" ".join(words)) < tokens:
        words = words * 2
    while ours.engine.count(" ".join(words)) > tokens:
        words = words[: -max(1, len(words) // 20)]
    return " ".join(words)


def measure_round_trips(journal: Journal, run: int, systems: Sequence[System], times: int = 5) -> None:
    """Seconds of requests that ask the model nothing: what HTTP costs the peers."""
    for system in systems:
        if isinstance(system, HttpSystem):
            for _ in range(times):
                journal.add("empty_round_trip", system.name, run, system.round_trip())


def _note_prompt(
    journal: Journal, figure: str, system: System, run: int, reply: Reply, messages: Sequence[Message]
) -> None:
    """Write down the prompt's tokens, by the system's own count; one that streams without it is asked again once."""
    tokens = reply.prompt_tokens
    if tokens is None and isinstance(system, HttpSystem) and not journal.values(figure, system.name):
        tokens = system.prompt_tokens(messages)
    if tokens is not None:
        journal.add(figure, system.name, run, tokens)

"""Passages read before anybody asks: for every chunk of an index the state of its prompt up to the question, on disk.

The prompt is the one that a question over that passage alone is asked with (`rag.reading`): `[instructions, examples]
[passage]`. A later question then reads only itself. States are exact, for one model, one build of llama.cpp
(`rag.engine.files`) and one prompt; where one of these is another, they are not found, and leave by their last use.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rag.datatypes import Chunk, ScoredChunk
from rag.engine.ahead import ReadAhead
from rag.engine.context import TokenArray
from rag.engine.files import PrefixFiles
from rag.engine.states import key_of
from rag.errors import ConfigError, Unavailable
from rag.prompt import Prompt

# What comes after the passage is not kept; so any question will do.
ANY_QUESTION = "?"
SPARE_BYTES = 200_000_000  # of the disk, that are left free

Prefix = Callable[[Chunk], TokenArray | None]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read. Chunks whose prompts begin with the same tokens have one state.

    `kept` are the keys of states that are there, `missing` the tokens of the others; `unread` chunks are too long for
    any prompt, or so short that they are read as fast. `bytes_missing` is an estimate.
    """

    chunks: int
    unread: int
    kept: tuple[bytes, ...]
    missing: tuple[TokenArray, ...]
    bytes_kept: int
    bytes_missing: int

    @property
    def states(self) -> int:
        """How many states there will be."""
        return len(self.kept) + len(self.missing)

    @property
    def bytes_needed(self) -> int:
        """What they will take on disk, those that are there included."""
        return self.bytes_kept + self.bytes_missing

    @property
    def tokens(self) -> int:
        """How many tokens are still to be read, what they have in common counted for each."""
        return sum(len(tokens_n) for tokens_n in self.missing)


def asked_prefix(ahead: ReadAhead, prompt: Prompt, *, passage_tokens: int, answer_tokens: int) -> Prefix:
    """Return what tells the beginning that prompts over one chunk have in common.

    It tells None for a chunk that takes more than `passage_tokens`, which no question is asked over, and where prompt
    and answer do not fit the model's context.
    """

    def prefix(chunk: Chunk) -> TokenArray | None:
        passage = ScoredChunk(chunk, 0.0)
        if ahead.count(prompt.passage_text(passage)) > passage_tokens:
            return None
        return ahead.prefix(prompt.messages(ANY_QUESTION, [passage]), answer=answer_tokens)

    return prefix


def make_plan(chunks: Iterable[Chunk], prefix: Prefix, ahead: ReadAhead, progress: Progress) -> Plan:
    """Find out what is there and what is missing. Reads nothing but a few tokens, to learn what one takes."""
    kept: dict[bytes, int] = {}
    missing: dict[bytes, TokenArray] = {}
    unread = count = 0
    for chunk in chunks:
        count += 1
        tokens_n = prefix(chunk)
        if tokens_n is None:
            unread += 1
        elif there := ahead.kept(tokens_n):
            kept[there] = ahead.files.size(there)
        else:
            missing[key_of(tokens_n)] = tokens_n
        progress(count)
    expected = sum(ahead.expected_size(tokens_n) for tokens_n in missing.values())
    return Plan(count, unread, tuple(kept), tuple(missing.values()), sum(kept.values()), expected)


def check_room(plan: Plan, files: PrefixFiles, free: int) -> None:
    """Raise `ConfigError` where the budget is too small for all states at once, `Unavailable` where the disk is."""
    if plan.bytes_needed > files.room:
        raise ConfigError(
            f"{plan.states} states take {_megabytes(plan.bytes_needed)} of disk; with generator.prefix_disk_mb = "
            f"{files.budget / 1e6:.0f} only {_megabytes(files.room)} of them would stay",
            hint=f"Set generator.prefix_disk_mb to {files.budget_for(plan.bytes_needed) / 1e6:.0f} or more, or read "
            "fewer chunks with --limit.",
        )
    if plan.missing and plan.bytes_missing + SPARE_BYTES > free:
        raise Unavailable(
            f"{len(plan.missing)} states take {_megabytes(plan.bytes_missing)} of disk, and {_megabytes(free)} are "
            f"free, of which {_megabytes(SPARE_BYTES)} are left alone",
            hint="Free some space, set models.dir to a folder on another disk, or read fewer chunks with --limit.",
        )


def warm(plan: Plan, ahead: ReadAhead, progress: Progress) -> int:
    """Read what is missing, state by state, and return the bytes written.

    Interrupted at any point it leaves whole states only, and a plan made anew goes on from there. Raises `Unavailable`
    where the disk does not take a state, `ModelLoadFailed` where llama.cpp fails.
    """
    for key in plan.kept:  # used now: where old states have to make room, these stay
        ahead.files.touch(key)
    written = 0
    for done, tokens_n in enumerate(plan.missing, 1):
        written += ahead.files.size(ahead.read(tokens_n))
        progress(done)
    return written


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"

"""More computing for one answer: several attempts that vote, and a step of reasoning before each.

Self-consistency (Wang et al. 2023, arXiv 2203.11171): what a model says again when it is drawn from, or asked in other
words, is likelier to be right than what it says once. The attempts read the same passages, so that those are read once;
each further one costs the tokens that it writes, with other words the question too. Answers are the same where they are
after the scorers' normalisation, and each votes with its probability: the geometric mean of its tokens'.

Reasoning (Wei et al. 2022, arXiv 2201.11903) takes a model that writes sentences. One that was taught to answer with a
phrase or to decline copies instead, so `rag.build` refuses it.

Off unless asked for. One stream is open at a time: a model may hold one sequence alone.
"""

import math
from collections import defaultdict
from collections.abc import Generator as Stream
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import resources
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rag.asking import Asking
from rag.clock import Clock
from rag.datatypes import Delta, Message, Piece, Sampling, ScoredChunk, Usage
from rag.errors import ConfigError
from rag.reading import Reading, given_up
from rag.text import normalize_answer
from rag.toml import read_toml

PROMPT = "deliberation.toml"


class Wordings(BaseModel):
    """The texts of `configs/prompts/deliberation.toml`; all but `reason` have the field {question}."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phrasings: tuple[str, ...] = Field(min_length=1)
    reason: str = Field(min_length=1)
    conclude: str

    @field_validator("phrasings", "conclude")
    @classmethod
    def _ask(cls, wordings: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if any("{question}" not in wording for wording in ([wordings] if isinstance(wordings, str) else wordings)):
            raise ValueError("a wording without {question} asks nothing")
        return wordings


class Considered(NamedTuple):
    """The answer that won the vote, as if it had been written alone, and its share of the votes.

    The `usage` of the pieces is that of all attempts.
    """

    pieces: tuple[Piece, ...]
    agreement: float


class Attempt(NamedTuple):
    """One answer: what was written, and what that used, reasoning included."""

    pieces: tuple[Piece, ...]
    usage: Usage

    @property
    def text(self) -> str:
        """What was written."""
        return "".join(piece.text for piece in self.pieces).strip()

    @property
    def answer(self) -> str:
        """The answer as answers are compared."""
        return normalize_answer(self.text)

    @property
    def probability(self) -> float:
        """The geometric mean of the probabilities of its tokens; 1 where nobody tells them."""
        told = [(piece.logprob, piece.tokens) for piece in self.pieces if piece.logprob is not None and piece.tokens]
        return math.exp(sum(p for p, _ in told) / sum(n for _, n in told)) if told else 1.0


@dataclass(frozen=True)
class Deliberation:
    """How an answer is thought over: `samples` attempts at the question as it stands and in each of `phrasings`.

    The first is as sure as the request wants it, greedy unless that says otherwise, the further ones are drawn at
    `temperature`, each from a seed of its own. With `reason_tokens` each begins with so many tokens of reasoning at
    most. No attempt begins later than `seconds` after the question came, but the first always does.
    """

    wordings: Wordings
    samples: int = 1
    phrasings: int = 1
    temperature: float = 0.7
    reason_tokens: int = 0
    seconds: float = 20.0

    def consider(
        self, reading: Reading, readings: Sequence[Reading], ask: Asking, clock: Clock
    ) -> Stream[Delta, None, Considered]:
        """Answer from the passages of `reading`, of all `readings` the one that was chosen.

        Yields empty deltas with what was used so far, at which it can be cancelled.
        """
        attempts: list[Attempt] = []
        if self.reason_tokens:
            reading.give_up()
        for wording, sampling in self._plans(ask.sampling_over(reading.passages)):
            if attempts and clock.elapsed() > self.seconds:
                break
            before = sum((attempt.usage for attempt in attempts), given_up(readings))
            if self.reason_tokens:
                attempt = yield from self._reasoned(reading.passages, ask, wording, sampling, before)
            elif attempts:
                attempt = yield from _written(ask, ask.messages(reading.passages, wording), sampling, before)
            else:
                attempt = yield from _collected(reading.pieces(), before)
                reading.close()
            attempts.append(attempt)
        winner, agreement = vote(attempts)
        used = sum((attempt.usage for attempt in attempts), Usage())
        return Considered(tuple(replace(piece, usage=used) for piece in winner.pieces), agreement)

    def _plans(self, sampling: Sampling) -> Iterator[tuple[str, Sampling]]:
        """Yield the wordings and samplings of all attempts, the plainest first."""
        wordings = ("{question}", *self.wordings.phrasings)[: self.phrasings]
        for sample in range(self.samples):
            for wording in wordings:
                yield wording, self._drawn(sampling, sample) if sample else sampling

    def _drawn(self, sampling: Sampling, sample: int) -> Sampling:
        seed = (sampling.seed + sample) & 0xFFFFFFFF
        return replace(sampling, temperature=sampling.temperature or self.temperature, seed=seed)

    def _reasoned(
        self, passages: Sequence[ScoredChunk], ask: Asking, wording: str, sampling: Sampling, before: Usage
    ) -> Stream[Delta, None, Attempt]:
        """Have the model reason, then answer."""
        instructed = ask.prompt.model_copy(
            update={"system": self.wordings.reason, "closed_book": self.wordings.reason, "examples": ()}
        )
        chat = instructed.messages(ask.worded(wording), passages, ask.turns)
        sampling = replace(sampling, own_from=instructed.own_from(passages, ask.turns))
        thinking = replace(sampling, max_tokens=self.reason_tokens, decline="", stop=())
        thought = yield from _written(ask, chat, thinking, before)
        chat = [*chat, Message("assistant", thought.text), Message("user", ask.worded(self.wordings.conclude))]
        answered = yield from _written(ask, chat, sampling, before + thought.usage)
        return answered._replace(usage=thought.usage + answered.usage)


def vote(attempts: Sequence[Attempt]) -> tuple[Attempt, float]:
    """Return the first attempt at the answer with the most votes, and the share of the votes that this has.

    The first, not the likeliest: the estimate that withholds answers was fitted to plain ones, and the best of several
    looks surer than it is.
    Of answers with as many votes the first wins. An attempt that says nothing votes for nothing, unless all do.
    """
    votes: dict[str, float] = defaultdict(float)
    for attempt in attempts:
        votes[attempt.answer] += attempt.probability
    if len(votes) > 1:
        votes.pop("", None)
    won = max(votes, key=lambda answer: votes[answer])
    winner = next(attempt for attempt in attempts if attempt.answer == won)
    total = sum(votes.values())
    return winner, votes[won] / total if total else 0.0


def _written(ask: Asking, chat: Sequence[Message], sampling: Sampling, before: Usage) -> Stream[Delta, None, Attempt]:
    """Have the model write to a chat, and free it."""
    with closing(ask.put(chat, sampling)) as pieces:
        return (yield from _collected(pieces, before))


def _collected(pieces: Iterable[Piece], before: Usage) -> Stream[Delta, None, Attempt]:
    """Collect what is written; deltas tell what was used by then, what was used `before` included."""
    written, usage = [], Usage()
    for piece in pieces:
        written.append(piece)
        usage = piece.usage or usage
        yield Delta(usage=before + usage)
    return Attempt(tuple(written), usage)


def load_wordings() -> Wordings:
    """Read the texts that come with the program. Raises `ConfigError` where they are malformed."""
    file = resources.files("configs") / "prompts" / PROMPT
    try:
        return Wordings.model_validate(read_toml(file))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the prompt {file} is malformed: {error}") from error

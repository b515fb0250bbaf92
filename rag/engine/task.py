"""One prompt on its way through the context: what is read of it, what is wanted of it, and who waits for it."""

import math
import queue
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from rag.datatypes import Piece, Sampling, Usage
from rag.engine.context import TokenArray
from rag.engine.lookup import NO_DRAFT, Lookup
from rag.engine.owners import names
from rag.engine.sampling import Writer, log_total
from rag.protocols import FloatArray

T = TypeVar("T")


class Task(Generic[T]):
    """Tokens to be read, of which some are wanted with logits.

    The scheduler's thread owns it; other threads wait for its `events`, may `cancel` it, and set `held`
    to false.
    `inner` tasks belong to a request that has a place already. `keep` is how many tokens may come again in other
    prompts. After `common` begins what the `owner` said; `names_n` tell what the prompt has in common with others.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        *,
        room: int,
        keep: int = 0,
        common: int | None = None,
        owner: int = 0,
        deadline: float | None = None,
        inner: bool = False,
    ) -> None:
        self.tokens_n: TokenArray = np.empty(len(tokens) + room, np.int32)
        self.tokens_n[: len(tokens)] = tokens
        self.length = self.prompt = len(tokens)
        self.keep = min(keep or self.prompt, self.prompt)
        self.names_n: TokenArray = names(self.tokens_n[: self.prompt], self.keep if common is None else common, owner)
        self.ends_by = math.inf if deadline is None else time.monotonic() + deadline
        self.inner = inner
        self.number = 0  # given by the scheduler, in the order of arrival
        self.sequence: int | None = None
        self.read = 0
        self.cached: int | None = None
        self.done = False
        self.held = False
        self.cancelled = False
        self.events: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()

    @property
    def unread(self) -> int:
        """How many tokens are still to be read."""
        return self.length - self.read

    @property
    def room(self) -> int:
        """How many tokens may still come."""
        return len(self.tokens_n) - self.length

    @property
    def first_output(self) -> int:
        """From this token on logits are wanted."""
        return self.length - 1

    def outputs(self, count: int) -> int:
        """Return of how many of the next `count` tokens logits are wanted: the last ones."""
        return max(0, self.read + count - max(self.first_output, self.read))

    def cancel(self) -> None:
        """Note that nobody wants it any more."""
        self.cancelled = True
        self.ends_by = min(self.ends_by, time.monotonic())

    def take(self, index: int, logits_v: FloatArray, scratch_v: FloatArray) -> None:
        """Use the logits that follow the token at `index`; `scratch_v` may be overwritten."""
        raise NotImplementedError

    def draft(self, most: int) -> TokenArray:
        """Guess at most `most` of the tokens after those that are there; where they are right, `take` chooses them."""
        del most
        return NO_DRAFT

    def learn(self, accepted: int) -> None:
        """Take note of how many tokens of the draft were right."""

    def tell_progress(self) -> None:
        """Let the waiting reader know that some more of the prompt has been read."""

    def fail(self, error: BaseException) -> None:
        """End without a result; the reader gets the error."""
        self.done = True
        self.events.put(error)


class Writing(Task[Piece]):
    """A prompt to be answered. Its events are the answer's pieces; empty ones come while the prompt is read.

    Where declining is asked for, it is held after the first token until the reader wants more: most readings are given
    up there, and a step of writing would delay the next one. With a `lookup` it guesses ahead what the answer copies.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        writer: Writer,
        *,
        keep: int = 0,
        common: int | None = None,
        owner: int = 0,
        lookup: Lookup | None = None,
    ) -> None:
        room = max(0, sampling.max_tokens)
        super().__init__(tokens, room=room, keep=keep, common=common, owner=owner, deadline=sampling.deadline)
        self._writer = writer
        self._lookup = lookup

    @property
    def usage(self) -> Usage:
        """What has been used up to now."""
        return Usage(self.prompt, self.cached or 0, self._writer.written)

    def take(self, index: int, logits_v: FloatArray, scratch_v: FloatArray) -> None:
        """Write the next token."""
        del index  # it can only be the last
        if not self.room:
            self._end(Piece("", finish_reason="length", usage=self.usage))
            return
        choice = self._writer.write(logits_v, scratch_v)
        self.tokens_n[self.length] = choice.token
        self.length += 1
        ended = self._writer.finish
        self.held = choice.decline is not None and ended is None  # before the reader can hear of the token
        self.events.put(Piece(choice.text, choice.logprob, 1, decline=choice.decline))
        if ended is not None:
            self._end(Piece(self._writer.rest(), finish_reason=ended, usage=self.usage))

    def draft(self, most: int) -> TokenArray:
        """Guess how the answer goes on; the question, which comes after what is kept, is not copied from."""
        if self._lookup is None or self.unread != 1:  # not while it is read, perhaps again
            return NO_DRAFT
        # The token after the draft is chosen as well, and must have room.
        answer_n = self.tokens_n[self.prompt : self.length]
        return self._lookup.draft(self.tokens_n[: self.keep], answer_n, min(most, self.room - 1))

    def learn(self, accepted: int) -> None:
        """Take note of how many tokens of the draft were right."""
        if self._lookup is not None:
            self._lookup.learn(accepted)

    def tell_progress(self) -> None:
        """Send an empty piece."""
        self.events.put(Piece("", usage=self.usage))

    def _end(self, piece: Piece) -> None:
        self.done = True
        self.events.put(piece)


class Scoring(Task[list[float]]):
    """A prompt with a given continuation. Its one event is the natural-log probability of each continuing token."""

    def __init__(self, prompt: Sequence[int], continuation: Sequence[int], *, inner: bool = False) -> None:
        # What follows the last token is not asked, so that it need not be read.
        super().__init__([*prompt, *continuation[:-1]], room=0, keep=len(prompt), inner=inner)
        self._begin = len(prompt)
        self._continuation = continuation
        self._logprobs: list[float] = [0.0] * len(continuation)

    @property
    def first_output(self) -> int:
        """The prompt's last token: it foretells the continuation's first."""
        return self._begin - 1

    def take(self, index: int, logits_v: FloatArray, scratch_v: FloatArray) -> None:
        """Note how likely the token that really follows was."""
        place = index + 1 - self._begin
        token = self._continuation[place]
        self._logprobs[place] = float(logits_v[token]) - log_total(logits_v, scratch_v)
        if place == len(self._continuation) - 1:
            self.done = True
            self.events.put(self._logprobs)

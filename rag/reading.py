"""Passages read apart: each in a prompt of its own, best first, until one seems to hold the answer.

A small model is distracted by company: three passages in one prompt cost it accuracy and three times the time. Read
apart, most questions need only the first; a model that was taught to decline (`Prompt.decline`) says with its first
token how likely it is that a passage holds no answer, so that reading on costs no writing.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

from rag.datatypes import Delta, Piece, ScoredChunk, Usage

# Retrieval's say beside the model's, among passages that it all declines. Fused scores lie in [0, 1]. On 76 and 80
# questions of two held-out sets F1 was 0.623 and 0.623 without it, 0.636 and 0.628 with 5, 0.610 and 0.640 with 10.
SCORE_WEIGHT = 5.0

# By how much a passage would have to be likelier than the best so far, if the model were sure that it holds the answer,
# to be read at all. On 80 and 76 questions of two sets that nothing was learnt from, F1 and tokens read a question:
# 0.664, 210 and 0.631, 284 without; 0.678, 165 and 0.618, 253 with 0; 0.703, 144 and 0.618, 191 with 0.5; 0.691, 131
# and 0.559, 116 with 1.
LEAD = 0.5

Pieces = Generator[Piece, None, None]
Ask = Callable[[Sequence[ScoredChunk]], Pieces]


class Reading:
    """One prompt being answered: its passages, the stream of its answer, and how likely the model would decline.

    `tokens` is what the passages take in the prompt. `decline` is None until the first token is there, and stays None
    where the model cannot tell.
    """

    def __init__(self, passages: Sequence[ScoredChunk], ask: Ask, *, tokens: int) -> None:
        self.passages = tuple(passages)
        self.tokens = tokens
        self.decline: float | None = None
        self.spent = Usage()  # of streams that were given up
        self._ask = ask
        self.begun = False
        self._pieces: Pieces | None = None
        self._begun: list[Piece] = []

    def begin(self) -> Iterator[None]:
        """Read the prompt up to the answer's first token; yield while at it, so that it can be cancelled."""
        self.begun = True
        self._pieces = self._ask(self.passages)
        for piece in self._pieces:
            self._begun.append(piece)
            if piece.tokens or piece.finish_reason is not None:
                self.decline = piece.decline
                return
            yield

    @property
    def usage(self) -> Usage:
        """What this reading has used up to now."""
        told = [piece.usage for piece in self._begun if piece.usage is not None]
        if not told:
            return self.spent
        written = max(told[-1].completion, sum(piece.tokens for piece in self._begun))
        return self.spent + Usage(told[-1].prompt, told[-1].cached, written)

    def give_up(self) -> None:
        """Free the model for the next reading; what was used is kept in `spent`."""
        self.close()
        self.spent, self._begun = self.usage, []

    def pieces(self) -> Iterator[Piece]:
        """Yield the answer from its beginning, asking again where the reading had been given up."""
        if self._pieces is None:
            self._pieces = self._ask(self.passages)
        yield from self._begun
        yield from self._pieces

    def close(self) -> None:
        """Free the model."""
        if self._pieces is not None:
            self._pieces.close()
            self._pieces = None


def used(readings: Sequence[Reading]) -> Usage:
    """Return what all readings have used together up to now."""
    return sum((reading.usage for reading in readings), Usage())


def given_up(readings: Sequence[Reading]) -> Usage:
    """Return what the streams took together that were given up."""
    return sum((reading.spent for reading in readings), Usage())


def read_apart(readings: Sequence[Reading], *, enough: float) -> Generator[Delta, None, Reading]:
    """Begin one reading after the other until one declines with a probability of at most `enough`; return that one.

    One that would not be chosen even if the model were sure of it is not begun. Where all decline, the likeliest is
    returned, given up unless it was the last. A model that cannot tell is answered
    from its first reading. What was begun before counts by what it said. Yields while reading.
    """
    for reading in readings:
        if reading.begun or not _may_win(reading, readings):
            continue
        for _ in reading.begin():
            yield Delta(usage=used(readings))
        if reading.decline is None or reading.decline <= enough:
            return reading
        if any(_may_win(other, readings) for other in readings if not other.begun):
            reading.give_up()
    begun = [reading for reading in readings if reading.begun]
    best = max(begun, key=_likelihood)
    if best is not begun[-1]:
        begun[-1].give_up()
    return best


@contextmanager
def freed(readings: list[Reading]) -> Iterator[list[Reading]]:
    """Yield readings, to which others may be added, and free the model of all of them at the end."""
    try:
        yield readings
    finally:
        for reading in readings:
            reading.close()


def _may_win(reading: Reading, readings: Sequence[Reading]) -> bool:
    """Whether a reading would be chosen before those begun, and by how much, if the model were sure of it."""
    begun = [_likelihood(other) for other in readings if other.begun]
    return not begun or _likelihood(reading) > max(begun) + LEAD


def _likelihood(reading: Reading) -> float:
    """How likely a reading holds the answer, by what the model says of it, if it was asked, and by its score."""
    score = max(passage.score for passage in reading.passages)
    return math.log(max(1e-9, 1 - (reading.decline or 0.0))) + SCORE_WEIGHT * score

"""What the model is given to read: passages within a token budget, and as much of the conversation as fits."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rag.datatypes import Message, ScoredChunk
from rag.errors import PromptTooLong


class Evidence(NamedTuple):
    """The chosen passages, best first, and the prompt tokens that each takes."""

    passages: tuple[ScoredChunk, ...]
    costs: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """What all passages take together."""
        return sum(self.costs)


def select_evidence(
    retrieved: Sequence[ScoredChunk], *, passages: int, budget: int, cost: Callable[[ScoredChunk], int]
) -> Evidence:
    """Take the best `passages` chunks that fit `budget` tokens together; a chunk is taken whole or not at all.

    Raises `PromptTooLong` where not even the best chunk fits: cutting it would drop what a citation promises.
    """
    chosen: list[ScoredChunk] = []
    costs: list[int] = []
    for candidate in retrieved[:passages]:
        tokens = cost(candidate)
        if sum(costs) + tokens <= budget:
            chosen.append(candidate)
            costs.append(tokens)
        elif not chosen:
            raise PromptTooLong(
                f"the best passage takes {tokens} tokens, more than the evidence budget of {budget}",
                hint="Raise evidence.tokens, or index again with a smaller chunk.tokens.",
            )
    return Evidence(tuple(chosen), tuple(costs))


def recent_turns(history: Sequence[Message], *, budget: int, count: Callable[[str], int]) -> list[Message]:
    """Return the latest turns that fit `budget` tokens whole, in order, beginning with a user's turn."""
    kept: list[Message] = []
    for message in reversed(history):
        budget -= count(message.content)
        if budget < 0:
            break
        kept.append(message)
    kept.reverse()
    while kept and kept[0].role != "user":
        kept.pop(0)
    return kept

"""Which prefixes are read already: sequences that stay in the context after their request, and saved states.

A new prompt takes over the longest common prefix. In the context that costs nothing, since cells are shared; a saved
state is copied back in milliseconds where reading takes seconds. Models that cannot cut a sequence short (recurrent
ones) read every prompt anew.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from rag.datatypes import Message, PrefixCounters, PrefixTier
from rag.engine.context import ContextLike, TokenArray
from rag.engine.states import SavedStates, key_of, shared_length

# Prompts that differ in no more than so many last tokens (a question's length) count as one passage: the older goes.
TAIL = 48
# A shorter prefix is read anew as fast as it is managed.
WORTH_SAVING = 64
# A saved state is copied back where it spares so many more tokens than what the context has of the prompt.
WORTH_RESTORING = 32

Tier = Literal["context", "memory", "disk"]


class _Idle(NamedTuple):
    tokens_n: TokenArray
    keep: int


class _Found(NamedTuple):
    """How many tokens were known, and where."""

    tokens: int
    tier: Tier


_NOTHING = _Found(0, "context")


def repeatable(prompt: Sequence[int], messages: Sequence[Message], encode: Callable[[list[Message]], list[int]]) -> int:
    """Return how many tokens of a prompt may come again in others: all up to the last paragraph, the question.

    `encode` has made the prompt of the messages.
    """
    *earlier, last = messages
    before, gap, _ = last.content.rpartition("\n\n")
    if not gap:
        return len(prompt)
    return _in_common(encode([*earlier, Message(last.role, before + gap)]), prompt)


def everybodys(
    prompt: Sequence[int],
    messages: Sequence[Message],
    encode: Callable[[list[Message]], list[int]],
    own_from: tuple[int, int],
) -> int:
    """Return how many tokens of a prompt hold nothing that its asker said, who begins at that message and character."""
    whole, characters = own_from
    head = [*messages[:whole]]
    if characters:
        head.append(Message(messages[whole].role, messages[whole].content[:characters]))
    return _in_common(encode(head), prompt) if head else 0


def _in_common(head: Sequence[int], prompt: Sequence[int]) -> int:
    differ = (i for i, (a, b) in enumerate(zip(head, prompt, strict=False)) if a != b)
    return next(differ, min(len(head), len(prompt)))


class Prefixes:
    """Hands out the context's sequences and keeps what they hold after use. The scheduler's thread owns it.

    At most `cells` tokens stay in idle sequences (more cells make every step's attention wider), the newest whatever
    its length. Those that leave are saved where that is worth it.
    """

    def __init__(self, context: ContextLike, saved: SavedStates, *, cells: int) -> None:
        self._context = context
        self._saved = saved
        self._cells = cells
        self._scratch = context.sequences - 1
        self._free = list(range(self._scratch))
        self._idle: OrderedDict[int, _Idle] = OrderedDict()  # the least recently used first
        self._hits: dict[Tier, int] = {"context": 0, "memory": 0, "disk": 0}
        self._tokens = self._hits.copy()
        self._misses = 0
        self._token_bytes = 0.0  # what a token takes in the context; known once something was read
        self._idle_bytes = 0

    def counters(self) -> PrefixCounters:
        """Return the figures up to now. Any thread may ask."""
        kept: dict[Tier, tuple[int, int]] = {
            "context": (len(self._idle), self._idle_bytes),
            "memory": (len(self._saved), self._saved.bytes),
            "disk": self._saved.on_disk(),
        }
        tiers = {tier: PrefixTier(self._hits[tier], self._tokens[tier], *there) for tier, there in kept.items()}
        return PrefixCounters(self._misses, **tiers)

    def take(self) -> int | None:
        """Return a sequence for a new prompt, None where all are in use."""
        if not self._free and not self.drop_oldest():
            return None
        return self._free.pop()

    def known(self, tokens_n: TokenArray, running: Iterable[tuple[int, TokenArray]]) -> int:
        """Return how many of these tokens a sequence would begin with; nothing is moved for it."""
        if not self._context.forgets_parts:
            return 0
        here, _ = self._nearest(tokens_n, list(running))
        return max(here, self._saved.longest(tokens_n).shared)

    def passes_on(self, being_read_n: TokenArray, tokens_n: TokenArray, known: int) -> bool:
        """Whether a prompt that knows the first `known` of its tokens has as good as a passage to gain by waiting."""
        return self._context.forgets_parts and shared_length(being_read_n, tokens_n) - known >= WORTH_SAVING

    def begin(self, sequence: int, tokens_n: TokenArray, running: Iterable[tuple[int, TokenArray]]) -> int:
        """Fill an empty sequence with what is known of these tokens; return how many that are.

        `running` are the sequences in use and what they have read.
        """
        found = self._begin(sequence, tokens_n, running) if self._context.forgets_parts else _NOTHING
        if found.tokens:
            self._hits[found.tier] += 1
            self._tokens[found.tier] += found.tokens
        else:
            self._misses += 1
        return found.tokens

    def keep(self, sequence: int, tokens_n: TokenArray, keep: int) -> None:
        """Take back a sequence that has read these tokens, of which the first `keep` may come again."""
        if not self._context.forgets_parts or not len(tokens_n):
            self.release(sequence)
            return
        for other, idle in list(self._idle.items()):
            shared = shared_length(idle.tokens_n, tokens_n)
            if shared == len(tokens_n):
                self._idle.move_to_end(other)
                self.release(sequence)
                return
            if shared > len(idle.tokens_n) - TAIL:
                del self._idle[other]
                self.release(other)
        self._context.cut(sequence, len(tokens_n))
        self._token_bytes = self._context.size(sequence) / len(tokens_n)
        self._idle[sequence] = _Idle(tokens_n.copy(), min(keep, len(tokens_n)))
        self._weigh()
        while len(self._idle) > 1 and self._resident() > self._cells:
            self.drop_oldest()

    def release(self, sequence: int) -> None:
        """Take back a sequence and forget what it holds."""
        self._context.cut(sequence, 0)
        self._free.append(sequence)

    def drop_oldest(self) -> bool:
        """Free the idle sequence used longest ago, saving it where that is worth it; False where there is none."""
        if not self._idle:
            return False
        sequence, idle = self._idle.popitem(last=False)
        self._save(sequence, idle)
        self.release(sequence)
        self._weigh()
        return True

    def forget(self) -> None:
        """Give up the idle sequences: the context has been cleared."""
        self._free.extend(self._idle)
        self._idle.clear()
        self._weigh()

    def close(self) -> None:
        """Save what is worth it to where it outlives the process."""
        while self.drop_oldest():
            pass
        self._saved.close()

    def _begin(self, sequence: int, tokens_n: TokenArray, running: Iterable[tuple[int, TokenArray]]) -> _Found:
        used = list(running)
        here, source = self._nearest(tokens_n, used)
        restored = self._restore(sequence, tokens_n, here)
        if restored.tokens:
            return restored
        here, source = self._nearest(tokens_n, used)  # anew: what was idle may have had to make room
        if source is None:
            return _NOTHING
        self._context.share(source, sequence, here)
        if source in self._idle:
            self._idle.move_to_end(source)
        return _Found(here, "context")

    def _nearest(self, tokens_n: TokenArray, running: list[tuple[int, TokenArray]]) -> tuple[int, int | None]:
        """Return how many tokens the context knows at best, and in which sequence."""
        best: tuple[int, int | None] = (0, None)
        for number, known_n in [*((number, idle.tokens_n) for number, idle in self._idle.items()), *running]:
            shared = shared_length(known_n, tokens_n)
            if shared > best[0]:
                best = shared, number
        return best

    def _restore(self, sequence: int, tokens_n: TokenArray, here: int) -> _Found:
        """Put a saved state into the sequence where it is much longer than what the context has; return its use."""
        match = self._saved.longest(tokens_n)
        if match.shared < here + WORTH_RESTORING:
            return _NOTHING
        tier: Tier = "memory" if match.key in self._saved else "disk"
        state = self._saved.get(match.key)
        if state is None:
            return _NOTHING
        while not self._context.restore(sequence, state):
            if not self.drop_oldest():
                return _NOTHING
        self._context.cut(sequence, match.shared)
        return _Found(match.shared, tier)

    def _save(self, sequence: int, idle: _Idle) -> None:
        worth_n = idle.tokens_n[: idle.keep]
        if len(worth_n) < WORTH_SAVING or not self._saved.keeps:
            return
        match = self._saved.longest(worth_n)
        if match.shared > len(worth_n) - TAIL:
            self._saved.touch(match.key)
            return
        self._context.share(sequence, self._scratch, len(worth_n))
        state = self._context.save(self._scratch)
        self._context.cut(self._scratch, 0)
        self._saved.put(key_of(worth_n), state)

    def _weigh(self) -> None:
        self._idle_bytes = round(self._resident() * self._token_bytes)

    def _resident(self) -> int:
        """How many cells the idle sequences take: what two have in common counts once."""
        ordered = sorted((idle.tokens_n for idle in self._idle.values()), key=key_of)
        both = sum(shared_length(a_n, b_n) for a_n, b_n in pairwise(ordered))
        return sum(len(tokens_n) for tokens_n in ordered) - both

"""A context that computes the next token from all tokens before it, so that a lost, doubled or crossed one shows."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rag.datatypes import Piece, Sampling
from rag.engine.context import ContextFull, DecodeFailed, Part, State, Stopped
from rag.engine.lookup import Lookup
from rag.engine.prefix import Prefixes
from rag.engine.sampling import TokenFilter, Writer
from rag.engine.scheduler import Scheduler
from rag.engine.states import SavedStates
from rag.engine.task import Scoring, Writing
from rag.protocols import FloatArray

VOCABULARY = 64


def following(tokens: Sequence[int]) -> int:
    """The token after these: never 0, which ends an answer."""
    return 1 + hash(tuple(tokens)) % (VOCABULARY - 1)


def copying(tokens: Sequence[int]) -> int:
    """The same for a model that mostly goes on as after the last token's last place before, and may end."""
    chance, last = hash(tuple(tokens)) % 100, tokens[-1]
    places = [i for i, token in enumerate(tokens[:-1]) if token == last]
    if chance < 3:
        return 0
    return tokens[places[-1] + 1] if places and chance < 80 else following(tokens)


Follows = Callable[[Sequence[int]], int]


def written(prompt: Sequence[int], count: int, follows: Follows = following) -> list[int]:
    """The first `count` tokens of the answer, its end token not among them."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count and (token := follows(tokens)):
        tokens.append(token)
    return tokens[len(prompt) :]


class FakeContext:
    """Sequences of cells as llama.cpp has them: a cell is shared by copies and free when no sequence holds it.

    Reading blocks while `gate` is closed. `batches` are the parts of every batch; `broken` makes that many fail.
    `follows` foretells the token after some.
    `meanwhile` is called within every reading; `stopped` are the batches that were given up.
    """

    identity = "fake"

    def __init__(
        self,
        *,
        cells: int = 4096,
        batch: int = 160,
        sequences: int = 12,
        forgets_parts: bool = True,
        follows: Follows = following,
    ) -> None:
        self.cells, self.batch, self.outputs, self.sequences = cells, batch, 32, sequences
        self.forgets_parts = forgets_parts
        self.follows = follows
        self.held: list[list[tuple[int, int]]] = [[] for _ in range(sequences)]  # (cell, token)
        self.batches: list[list[Part]] = []
        self.stop = False
        self.stopped: list[list[Part]] = []
        self.meanwhile: Callable[[Sequence[Part]], None] = lambda _: None
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()
        self.broken = 0
        self.closed = False
        self._next_cell = 0
        self._rows: list[int | None] = []

    def used(self) -> int:
        return len({cell for held in self.held for cell, _ in held})

    def tokens(self, sequence: int) -> list[int]:
        return [token for _, token in self.held[sequence]]

    def read(self, parts: Sequence[Part]) -> None:
        self.reading.set()
        until(lambda: self.gate.is_set() or self.stop)
        self.meanwhile(parts)
        if self.stop:
            self._give_up(parts)
        assert sum(len(part.tokens_n) for part in parts) <= self.batch
        assert sum(part.outputs for part in parts) <= self.outputs
        assert len({part.sequence for part in parts}) == len(parts)
        if self.broken:
            self.broken -= 1
            raise DecodeFailed("broken")
        if self.used() + sum(len(part.tokens_n) for part in parts) > self.cells:
            raise ContextFull
        self.batches.append([part._replace(tokens_n=part.tokens_n.copy()) for part in parts])
        self._rows = []
        for part in parts:
            held = self.held[part.sequence]
            assert part.position == len(held), "a gap or an overlap"
            for i, token in enumerate(part.tokens_n.tolist()):
                held.append((self._next_cell, token))
                self._next_cell += 1
                wanted = i >= len(part.tokens_n) - part.outputs
                self._rows.append(self.follows(self.tokens(part.sequence)) if wanted else None)

    def _give_up(self, parts: Sequence[Part]) -> None:
        self.stopped.append(list(parts))
        if not self.forgets_parts:
            for part in parts:
                self.held[part.sequence].clear()
        raise Stopped

    def logits(self, row: int) -> FloatArray:
        token = self._rows[row]
        assert token is not None, "no logits were asked of this row"
        logits_v = np.zeros(VOCABULARY, np.float32)
        logits_v[0], logits_v[token] = -5.0, 5.0
        return logits_v

    def share(self, source: int, target: int, length: int) -> None:
        assert not self.held[target]
        assert length <= len(self.held[source])
        self.held[target] = self.held[source][:length]

    def cut(self, sequence: int, length: int) -> None:
        assert self.forgets_parts or not length
        del self.held[sequence][length:]

    def clear(self) -> None:
        for held in self.held:
            held.clear()

    def save(self, sequence: int) -> State:
        return np.array(self.tokens(sequence), np.int32).view(np.uint8)

    def size(self, sequence: int) -> int:
        return 4 * len(self.held[sequence])

    def restore(self, sequence: int, state: State) -> bool:
        tokens = state.view(np.int32).tolist()
        if self.used() + len(tokens) > self.cells:
            return False
        self.held[sequence] = [(self._next_cell + i, token) for i, token in enumerate(tokens)]
        self._next_cell += len(tokens)
        return True

    def close(self) -> None:
        self.closed = True


class FakeSpeller:
    """Token 0 ends; every other one is a letter of its own."""

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        return [ord(letter) - 0x100 for letter in text]

    def bytes_of(self, token: int) -> bytes:
        return chr(0x100 + token).encode()

    def ends(self, token: int) -> bool:
        return token == 0


def spelt(tokens: Sequence[int]) -> str:
    return "".join(chr(0x100 + token) for token in tokens)


def writing(
    prompt: Sequence[int],
    sampling: Sampling | None = None,
    *,
    keep: int = 0,
    common: int | None = None,
    owner: int = 0,
    lookup: int = 0,
    only: TokenFilter | None = None,
) -> Writing:
    sampling, speller = sampling or Sampling(max_tokens=8), FakeSpeller()
    guess = Lookup(speller, lookup) if lookup else None
    writer = Writer(speller, sampling, only)
    return Writing(prompt, sampling, writer, keep=keep, common=common, owner=owner, lookup=guess)


@contextmanager
def scheduler(
    context: FakeContext,
    *,
    sequences: int = 4,
    waiting: int = 64,
    idle_cells: int = 512,
    alone_tokens: int = 0,
) -> Iterator[Scheduler]:
    prefixes = Prefixes(context, SavedStates(1 << 20), cells=idle_cells)
    running = Scheduler(context, prefixes, sequences=sequences, waiting=waiting, alone_tokens=alone_tokens)
    try:
        yield running
    finally:
        context.gate.set()
        running.close()
        assert context.closed


def pieces(task: Writing) -> list[Piece]:
    """Everything a task tells until its last piece. Raises its error."""
    told: list[Piece] = []
    while not told or told[-1].finish_reason is None:
        event = task.events.get(timeout=20)
        if isinstance(event, BaseException):
            raise event
        told.append(event)
    return told


def text(task: Writing) -> str:
    return "".join(piece.text for piece in pieces(task))


def scores(task: Scoring) -> list[float]:
    event = task.events.get(timeout=20)
    if isinstance(event, BaseException):
        raise event
    return event


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells, at most a minute."""
    limit = threading.Event()
    for _ in range(12_000):
        if condition():
            return
        limit.wait(0.005)
    raise AssertionError("it did not come to pass")


def follow(engine: Scheduler, task: Writing, wanted: str, cut: int | None) -> None:
    """Read an answer that must be the wanted one, to its end or until so much has come."""
    got = ""
    while True:
        event = task.events.get(timeout=60)
        if isinstance(event, BaseException):
            raise event
        got += event.text
        assert wanted.startswith(got)
        if event.finish_reason is not None:
            assert got == wanted
            return
        if cut is not None and len(got) >= cut:
            engine.cancel(task)
            return

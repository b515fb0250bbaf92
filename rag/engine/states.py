"""Read prefixes as saved states: the least recently used move from memory to disk, and are dropped at last.

Token prefixes are kept in sorted order, where the longest common prefix of a new prompt with all of them is always
that with one of its two neighbours: a tree without nodes.
"""

import bisect
from collections import OrderedDict
from typing import NamedTuple, Protocol

import numpy as np

from rag.engine.context import TokenArray
from rag.engine.layout import State
from rag.engine.owners import are_owned

Key = bytes  # tokens, as `key_of` writes them


class Match(NamedTuple):
    """The best that is known for a prompt: which prefix, and how many tokens of it the prompt begins with."""

    key: bytes
    shared: int


NOTHING = Match(b"", 0)


class PrefixIndex:
    """Token sequences by their beginnings, as keys of bytes."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes) -> None:
        """Add a key that is not there yet."""
        bisect.insort(self._keys, key)

    def remove(self, key: bytes) -> None:
        """Remove a key that is there."""
        del self._keys[bisect.bisect_left(self._keys, key)]

    def longest(self, tokens_n: TokenArray) -> Match:
        """Return the key that shares the most tokens with these from the beginning, and how many."""
        at = bisect.bisect_left(self._keys, key_of(tokens_n))
        near = self._keys[max(0, at - 1) : at + 1]
        return max((Match(key, shared_length(tokens_of(key), tokens_n)) for key in near), key=_shared, default=NOTHING)


def key_of(tokens_n: TokenArray) -> bytes:
    """Return tokens as bytes that sort as the tokens do."""
    return tokens_n.astype(">u4").tobytes()


def tokens_of(key: bytes) -> TokenArray:
    """Return the tokens of a key."""
    return np.frombuffer(key, ">u4").astype(np.int32)


def shared_length(a_n: TokenArray, b_n: TokenArray) -> int:
    """Return how many tokens two sequences have in common from the beginning."""
    n = min(len(a_n), len(b_n))
    differ = np.flatnonzero(a_n[:n] != b_n[:n])
    return int(differ[0]) if len(differ) else n


class StateFiles(Protocol):
    """A second, slower place for states (`rag.engine.files`)."""

    bytes: int

    def __len__(self) -> int:
        """Return the number of states."""
        ...

    def longest(self, tokens_n: TokenArray) -> Match:
        """Return the best match."""
        ...

    def get(self, key: Key) -> State | None:
        """Return a state, None where it is gone or damaged."""
        ...

    def put(self, key: Key, state: State) -> None:
        """Keep a state."""
        ...


class SavedStates:
    """States in memory within a budget of bytes, the least recently used leaving first, to `files` if there are any.

    Those of somebody's own words (`rag.engine.owners`) are dropped instead.
    `keeps` says whether anything is kept at all.
    """

    def __init__(self, budget: int, files: StateFiles | None = None) -> None:
        self._budget = budget
        self._files = files
        self._states: OrderedDict[bytes, State] = OrderedDict()
        self._index = PrefixIndex()
        self.bytes = 0
        self.keeps = budget > 0 or files is not None

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, key: bytes) -> bool:
        """Whether a state is in memory."""
        return key in self._states

    def on_disk(self) -> tuple[int, int]:
        """Return the number of states in the files and their bytes."""
        return (len(self._files), self._files.bytes) if self._files is not None else (0, 0)

    def longest(self, tokens_n: TokenArray) -> Match:
        """Return the best match, in memory where that is as good as on disk."""
        here = self._index.longest(tokens_n)
        there = self._files.longest(tokens_n) if self._files is not None else NOTHING
        return max(here, there, key=_shared)

    def get(self, key: bytes) -> State | None:
        """Return the state of a match; None where it is gone by now."""
        if key in self._states:
            self._states.move_to_end(key)
            return self._states[key]
        state = self._files.get(key) if self._files is not None else None
        if state is not None:
            self.put(key, state)
        return state

    def touch(self, key: bytes) -> None:
        """Count a state as used just now."""
        if key in self._states:
            self._states.move_to_end(key)

    def put(self, key: bytes, state: State) -> None:
        """Keep a state, those least recently used making room; one beyond the budget goes to the files at once."""
        if key in self._states:
            self._states.move_to_end(key)
            return
        if len(state) > self._budget:
            self._move(key, state)
            return
        self._states[key] = state
        self._index.add(key)
        self.bytes += len(state)
        while self.bytes > self._budget:
            self._evict()

    def close(self) -> None:
        """Move everything to the files."""
        while self._states:
            self._evict()

    def _evict(self) -> None:
        key, state = self._states.popitem(last=False)
        self._index.remove(key)
        self.bytes -= len(state)
        self._move(key, state)

    def _move(self, key: bytes, state: State) -> None:
        if self._files is not None and not are_owned(tokens_of(key)):
            self._files.put(key, state)


def _shared(match: Match) -> int:
    return match.shared

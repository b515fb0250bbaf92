"""Passages that say the same, shown once: folded when a question is asked, into the one that answers it best.

All of them stay stored and searched. What is folded is decided among what a view leaves, so that nothing is hidden
behind a passage that the reader may not see, and a passage comes back by itself when the other's document is deleted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rag.datatypes import Chunk
from rag.docstore import SegmentedStore
from rag.lexical import Analyzer
from rag.minhash import Bands, say_the_same
from rag.protocols import BoolArray, IntArray

# Other places of a passage that are looked at: a footer may stand in a hundred thousand documents.
MOST_PLACES = 50


class Unfolded(NamedTuple):
    """A chunk that is shown: its position in the ranking that was given, and the chunks that say the same."""

    position: int
    chunk: Chunk
    also_in: tuple[Chunk, ...]


class Duplicates:
    """Which rows of an index may say the same: families, within which signatures share a band, directly or through
    others.

    Made in time that grows with the rows (one sort a band) and kept for the rows in families of two or more alone. A
    family is only where to look: what is folded is compared by itself, text by text. Usable from several threads.
    """

    def __init__(self, store: SegmentedStore) -> None:
        self._store = store
        self._rows, self._families = _families(*store.signatures())
        self._order = np.argsort(self._families, kind="stable")
        self._starts = np.searchsorted(self._families[self._order], np.arange(self._families.max(initial=-1) + 2))

    def __len__(self) -> int:
        """The number of rows that may say what another one says."""
        return len(self._rows)

    def fold(self, question: str, ranked_m: IntArray, k: int, allowed_n: BoolArray | None = None) -> list[Unfolded]:
        """Return the first `k` chunks of a ranking of rows, without those that say what a better one says.

        A chunk is kept where the question has a word that the better one lacks, in text, title and headings: then it
        may answer what the other does not. Raises `InvalidRequest` for a row out of range.
        """
        families = self._families_of(ranked_m)
        # Where nothing can be folded among the first, the others need not be read.
        first = families[:k][families[:k] >= 0]
        needed = ranked_m[: k if len(np.unique(first)) == len(first) else None]
        chunks = self._store.chunks(needed.tolist())
        alike = _Alike(question)
        shown: list[_Shown] = []
        by_family: dict[int, list[_Shown]] = {}
        for position, (chunk, family) in enumerate(zip(chunks, families.tolist(), strict=False)):
            kept = by_family.setdefault(family, []) if family >= 0 else []
            same = next((better for better in kept if alike.covers(better.chunk, chunk)), None)
            if same is not None:
                same.folded.append(chunk)
            elif len(shown) < k:
                kept.append(_Shown(position, chunk, family, []))
                shown.append(kept[-1])
        self._look_elsewhere([one for one in shown if one.family >= 0], allowed_n, alike)
        return [Unfolded(one.position, one.chunk, tuple(one.folded[:MOST_PLACES])) for one in shown]

    def _families_of(self, rows_m: IntArray) -> IntArray:
        """Return the family of each row, -1 for those that are in none."""
        found = np.full(len(rows_m), -1, np.int64)
        at = np.searchsorted(self._rows, rows_m)
        inside = at < len(self._rows)
        inside[inside] = self._rows[at[inside]] == rows_m[inside]
        found[inside] = self._families[at[inside]]
        return found

    def _look_elsewhere(self, shown: Sequence["_Shown"], allowed_n: BoolArray | None, alike: "_Alike") -> None:
        """Add to what was folded into each chunk what of its family was not found but says the same."""
        families = {one.family: self._members(one.family, allowed_n) for one in shown}
        rows = sorted({row for members in families.values() for row in members})
        chunks = dict(zip(rows, self._store.chunks(rows), strict=True))
        for one in shown:
            seen = {one.chunk.id, *(other.id for other in one.folded)}
            others = [other for row in families[one.family] if (other := chunks[row]).id not in seen]
            one.folded.extend(other for other in others if alike.covers(one.chunk, other))

    def _members(self, family: int, allowed_n: BoolArray | None) -> list[int]:
        members = self._rows[self._order[self._starts[family] : self._starts[family + 1]]]
        rows: list[int] = (members if allowed_n is None else members[allowed_n[members]])[:MOST_PLACES].tolist()
        return rows


class _Shown(NamedTuple):
    """A chunk that is shown, its position in the ranking and its family, -1 for none; and what is folded into it."""

    position: int
    chunk: Chunk
    family: int
    folded: list[Chunk]


class _Alike:
    """Tells whether a chunk stands for another one, to a question."""

    def __init__(self, question: str) -> None:
        self._terms = Analyzer().terms
        self._asked = frozenset(self._terms(question))
        self._answered: dict[str, frozenset[str]] = {}

    def covers(self, better: Chunk, other: Chunk) -> bool:
        """Whether `better` says what `other` says, and has all words of the question that `other` has."""
        if not say_the_same(better.text, other.text):
            return False
        # Copies are many, their texts equal, and what they are called is short.
        same = better.text == other.text
        return self._answers(_path(other) if same else other.context_text) <= self._answers(better.context_text)

    def _answers(self, text: str) -> frozenset[str]:
        found = self._answered.get(text)
        if found is None:
            found = self._answered[text] = self._asked.intersection(self._terms(text))
        return found


def _path(chunk: Chunk) -> str:
    """What stands before a chunk's text in what is matched: title and headings."""
    return chunk.context_text.removesuffix(chunk.text)


def _families(rows_m: IntArray, bands_mb: Bands) -> tuple[IntArray, IntArray]:
    """Return the rows, ascending, whose signature shares a band with another one's, and the family of each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [_sharing(bands_mb[:, band]) for band in range(bands_mb.shape[1])]
    edges_2e = np.concatenate(pairs, axis=1)
    if not edges_2e.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    members, ends = np.unique(edges_2e, return_inverse=True)
    left, right = ends.reshape(2, -1)
    size = (len(members), len(members))
    _, families = connected_components(coo_array((np.ones(len(left), np.bool_), (left, right)), size), directed=False)
    return rows_m[members], families.astype(np.int64)


def _sharing(values_m: Bands) -> IntArray:
    """Return `(2, e)`: the positions of equal values, each with the next one."""
    # One sort of numbers: the value above, the position below.
    packed = (values_m.astype(np.uint64) << np.uint64(32)) | np.arange(len(values_m), dtype=np.uint64)
    packed.sort()
    value, position = packed >> np.uint64(32), (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
    same = value[1:] == value[:-1]
    return np.stack([position[:-1][same], position[1:][same]])

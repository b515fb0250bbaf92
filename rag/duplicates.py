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
        shown: list[tuple[int, Chunk, int, list[Chunk]]] = []
        by_family: dict[int, list[tuple[Chunk, list[Chunk]]]] = {}
        for position, (chunk, family) in enumerate(zip(chunks, families.tolist(), strict=False)):
            kept = by_family.setdefault(family, []) if family >= 0 else []
            same = next((folded for better, folded in kept if alike.covers(better, chunk)), None)
            if same is not None:
                same.append(chunk)
            elif len(shown) < k:
                folded: list[Chunk] = []
                kept.append((chunk, folded))
                shown.append((position, chunk, family, folded))
        return [
            Unfolded(position, chunk, self._places(chunk, folded, family, allowed_n, alike) if family >= 0 else ())
            for position, chunk, family, folded in shown
        ]

    def _families_of(self, rows_m: IntArray) -> IntArray:
        """Return the family of each row, -1 for those that are in none."""
        found = np.full(len(rows_m), -1, np.int64)
        at = np.searchsorted(self._rows, rows_m)
        inside = at < len(self._rows)
        inside[inside] = self._rows[at[inside]] == rows_m[inside]
        found[inside] = self._families[at[inside]]
        return found

    def _places(
        self, chunk: Chunk, folded: Sequence[Chunk], family: int, allowed_n: BoolArray | None, alike: "_Alike"
    ) -> tuple[Chunk, ...]:
        """Return what was folded into a chunk, and what of its family was not found but says the same."""
        members = self._rows[self._order[self._starts[family] : self._starts[family + 1]]]
        if allowed_n is not None:
            members = members[allowed_n[members]]
        seen = {chunk.id, *(other.id for other in folded)}
        others = [other for other in self._store.chunks(members[:MOST_PLACES].tolist()) if other.id not in seen]
        return (*folded, *(other for other in others if alike.covers(chunk, other)))[:MOST_PLACES]


class _Alike:
    """Tells whether a chunk stands for another one, to a question."""

    def __init__(self, question: str) -> None:
        self._terms = Analyzer().terms
        self._asked = frozenset(self._terms(question))

    def covers(self, better: Chunk, other: Chunk) -> bool:
        """Whether `better` says what `other` says, and has all words of the question that `other` has."""
        return say_the_same(better.text, other.text) and self._answers(other) <= self._answers(better)

    def _answers(self, chunk: Chunk) -> frozenset[str]:
        return self._asked.intersection(self._terms(chunk.context_text))


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

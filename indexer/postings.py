"""Postings of several segments made into those of one."""

from collections.abc import Sequence

import numpy as np

from rag.postings import Postings, smallest
from rag.protocols import BoolArray, IntArray


def merge_postings(parts: Sequence[Postings], live: Sequence[BoolArray]) -> Postings:
    """Return the postings of the live rows of all parts, numbered in their order. Terms of no live row are gone."""
    lists = [_live_lists(part, mask) for part, mask in zip(parts, live, strict=True)]
    vocabulary = sorted({term for found in lists for term in found.terms})
    starts = np.zeros(len(vocabulary) + 1, np.int64)
    rank = {term: number for number, term in enumerate(vocabulary)}
    numbers = [np.array([rank[term] for term in found.terms], np.int64) for found in lists]
    for found, number in zip(lists, numbers, strict=True):
        starts[number + 1] += found.sizes
    starts = np.cumsum(starts)
    rows = np.empty(starts[-1], np.int32)
    counts = np.empty(starts[-1], np.uint32)
    free = starts[:-1].copy()
    first_row = 0
    for found, number, mask in zip(lists, numbers, live, strict=True):
        # The lists of a part follow each other as the terms do: each goes, whole, to the next free place of its term.
        ends = np.cumsum(found.sizes)
        shift = free[number] - (ends - found.sizes)
        at = np.arange(len(found.rows)) + np.repeat(shift, found.sizes)
        rows[at] = found.rows + first_row
        counts[at] = found.counts
        free[number] += found.sizes
        first_row += int(np.count_nonzero(mask))
    lengths = [part.lengths[mask] for part, mask in zip(parts, live, strict=True)]
    text = b"".join(term + b"\n" for term in vocabulary)
    return Postings(text, starts, rows, smallest(counts), np.concatenate(lengths).astype(np.int32))


class _Lists:
    """The postings of live rows: `sizes` of the lists of `terms`, one list after another in `rows` and `counts`."""

    def __init__(self, terms: list[bytes], sizes: IntArray, rows: IntArray, counts: IntArray) -> None:
        self.terms = terms
        self.sizes = sizes
        self.rows = rows
        self.counts = counts


def _live_lists(part: Postings, mask: BoolArray) -> _Lists:
    terms = part.text.split(b"\n")[:-1]
    kept = mask[part.rows]
    before = np.concatenate(([0], np.cumsum(kept, dtype=np.int64)))
    sizes = np.diff(before[part.starts])
    number = np.cumsum(mask, dtype=np.int64) - 1
    wanted = [term for term, size in zip(terms, sizes.tolist(), strict=True) if size]
    return _Lists(wanted, sizes[sizes > 0], number[part.rows[kept]], part.counts[kept])

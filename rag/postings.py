"""Which rows of a segment hold a term, and how often: the counts that BM25 is computed from."""

import io
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rag.errors import IndexDamaged
from rag.manifest import DAMAGE_HINT, LEXICAL_FILES
from rag.protocols import IntArray

_TERMS, *_ARRAYS = LEXICAL_FILES
_MAP_FROM = 1 << 20  # bytes: smaller arrays are read, so that many small segments need few mappings

Counts = npt.NDArray[Any]


class Postings:
    """An inverted index of one segment, by term. Usable from several threads.

    `terms` in ascending order of their UTF-8 bytes; the rows that hold term i, ascending, are
    `rows[starts[i] : starts[i + 1]]`, and `counts` says how often each does. `lengths` are the rows' terms, repeated
    ones included. Counts and not weights, because a BM25 weight depends on all segments and changes with each document.
    """

    def __init__(self, terms: bytes, starts: IntArray, rows: Counts, counts: Counts, lengths: Counts) -> None:
        self.text = terms
        self.starts = starts
        self.rows = rows
        self.counts = counts
        self.lengths = lengths
        ends = np.flatnonzero(np.frombuffer(terms, np.uint8) == ord("\n"))
        self._bounds = np.concatenate(([0], ends + 1))

    @classmethod
    def build(cls, rows: Iterable[Iterable[str]]) -> "Postings":
        """Count the terms of each row, in row order."""
        vocabulary: dict[str, int] = {}
        owners, ids, counts, lengths = array("i"), array("i"), array("I"), array("i")
        for row, terms in enumerate(rows):
            found = Counter(terms)
            lengths.append(found.total())
            owners.extend([row] * len(found))
            ids.extend(vocabulary.setdefault(term, len(vocabulary)) for term in found)
            counts.extend(found.values())
        ordered = sorted(vocabulary, key=str.encode)
        rank = np.empty(len(ordered), np.int32)
        rank[[vocabulary[term] for term in ordered]] = np.arange(len(ordered), dtype=np.int32)
        by_term = rank[np.frombuffer(ids, np.int32)] if ids else np.empty(0, np.int32)
        order = np.argsort(by_term, kind="stable")
        return cls(
            "".join(f"{term}\n" for term in ordered).encode(),
            np.concatenate(([0], np.cumsum(np.bincount(by_term, minlength=len(ordered))))).astype(np.int64),
            np.array(owners, np.int32)[order],
            smallest(np.array(counts, np.uint32)[order]),
            np.array(lengths, np.int32),
        )

    @classmethod
    def load(cls, folder: Path) -> "Postings":
        """Read files whose checksums have been verified. Large ones are mapped. Raises `IndexDamaged`."""
        try:
            terms = (folder / _TERMS).read_bytes()
            starts, rows, counts, lengths = (_read_array(folder / name) for name in _ARRAYS)
        except (OSError, ValueError) as error:
            raise IndexDamaged(f"the index is damaged: {folder}: {error}", hint=DAMAGE_HINT) from error
        whole = (
            all(values.ndim == 1 and values.dtype.kind in "iu" for values in (starts, rows, counts, lengths))
            and len(starts) == terms.count(b"\n") + 1
            and len(rows) == len(counts) == starts[-1]
        )
        if not whole:
            raise IndexDamaged(f"the index is damaged: {folder}: its arrays do not fit together", hint=DAMAGE_HINT)
        return cls(terms, starts, rows, counts, lengths)

    def save(self, folder: Path) -> None:
        """Write the files of `LEXICAL_FILES`, without pickle. Raises `OSError`, a full disk included."""
        folder.mkdir()
        (folder / _TERMS).write_bytes(self.text)
        for name, values in zip(_ARRAYS, (self.starts, self.rows, self.counts, self.lengths), strict=True):
            _write_array(folder / name, values)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def vocabulary(self) -> int:
        """The number of distinct terms."""
        return len(self._bounds) - 1

    def term(self, number: int) -> bytes:
        """Return a term in UTF-8."""
        return self.text[self._bounds[number] : self._bounds[number + 1] - 1]

    def of(self, term: str) -> tuple[Counts, Counts]:
        """Return the rows `(m,)` that hold a term, ascending, and how often `(m,)`; empty where none does."""
        # Lone surrogates come from JSON and are in no document.
        wanted = term.encode("utf-8", "surrogatepass")
        at = bisect_left(range(self.vocabulary), wanted, key=self.term)
        if at == self.vocabulary or self.term(at) != wanted:
            return self.rows[:0], self.counts[:0]
        part = slice(int(self.starts[at]), int(self.starts[at + 1]))
        return self.rows[part], self.counts[part]


def smallest(counts: Counts) -> Counts:
    """Counts in the narrowest unsigned integers that hold them: one byte each, as good as always."""
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def _read_array(path: Path) -> Counts:
    large = path.stat().st_size >= _MAP_FROM
    found: Counts = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    return found


def _write_array(path: Path, values: Counts) -> None:
    # Not np.save: where the disk fills up in the last few kB of an array, it leaves a cut file and reports success.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    with path.open("wb") as file:
        file.write(header.getvalue())
        file.write(np.ascontiguousarray(values).data)

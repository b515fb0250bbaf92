"""Nearest neighbours by inner product, exactly, with FAISS."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag.errors import IndexDamaged
from rag.manifest import DAMAGE_HINT
from rag.protocols import BoolArray, FloatArray, IntArray
from rag.rows import Rows

# Rows copied at once where segments are merged: 100 MB of 384 dimensions.
_BLOCK = 65_536


class FlatVectors:
    """A `VectorStore` over the unit-length vectors of one segment, compared one by one (FAISS `IndexFlatIP`).

    Exact search keeps the inner product equal to the cosine. It reads every vector for every question: measured some
    50 ms for 100,000 of 384 dimensions on two busy cores, a small part of what an answer takes.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, vectors_nd: FloatArray) -> "FlatVectors":
        """Copy vectors `(n, d)`; n may be 0."""
        return cls.gather([vectors_nd], vectors_nd.shape[1])

    @classmethod
    def gather(cls, blocks: Iterable[FloatArray], dimension: int) -> "FlatVectors":
        """Copy vectors that come in blocks `(m, d)`."""
        import faiss

        index = faiss.IndexFlatIP(dimension)
        for block_md in blocks:
            index.add(np.ascontiguousarray(block_md, dtype=np.float32))
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> "FlatVectors":
        """Read a file whose checksum has been verified: FAISS may crash the process on any other."""
        import faiss

        try:
            # Mapped, not read: pages that no search has touched take no memory.
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexDamaged(f"the index is damaged: {path}: FAISS cannot read it", hint=DAMAGE_HINT) from error
        if not isinstance(index, faiss.IndexFlatIP):
            raise IndexDamaged(f"the index is damaged: {path}: it is no IndexFlatIP", hint=DAMAGE_HINT)
        return cls(index)

    def save(self, path: Path) -> None:
        """Write a FAISS index file. Raises `OSError`, a full disk included."""
        import faiss

        # Not faiss.write_index: where the disk fills up in the last few kB, it leaves a cut file and reports success.
        path.write_bytes(faiss.serialize_index(self._index).data)

    @property
    def dimension(self) -> int:
        """The length of each vector."""
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, query_d: FloatArray, k: int, allowed_n: BoolArray | None = None) -> tuple[FloatArray, IntArray]:
        """For one query `(d,)` return scores `(m,)` and rows `(m,)`, best first, m <= k; equal scores by row.

        With a mask `(n,)` no other rows than those it allows are looked at.
        """
        count = min(k, len(self) if allowed_n is None else int(np.count_nonzero(allowed_n)))
        if count <= 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        query_1d = np.ascontiguousarray(query_d, dtype=np.float32).reshape(1, -1)
        scores, rows = self._index.search(query_1d, count, params=_only(allowed_n))
        return _best(scores[0], rows[0], count)

    def rows(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """Return the vectors `(m, d)` of these row numbers."""
        wanted = np.asarray(rows, dtype=np.int64)
        if not len(wanted):
            return np.empty((0, self.dimension), np.float32)
        found: FloatArray = self._index.reconstruct_batch(wanted)
        return found

    def blocks(self, kept: IntArray | None) -> Iterable[FloatArray]:
        """Yield the vectors of these rows, all for None, in blocks `(m, d)`."""
        rows = np.arange(len(self)) if kept is None else kept
        for start in range(0, len(rows), _BLOCK):
            yield self.rows(rows[start : start + _BLOCK])


class SegmentedVectors:
    """A `VectorStore` over the live rows of all segments of an index."""

    def __init__(self, segments: Sequence[FlatVectors], rows: Rows, dimension: int) -> None:
        self._segments = segments
        self._rows = rows
        self.dimension = dimension

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, query_d: FloatArray, k: int, allowed_n: BoolArray | None = None) -> tuple[FloatArray, IntArray]:
        """For one query `(d,)` return scores `(m,)` and rows `(m,)`, best first, m <= k; equal scores by row.

        With a mask `(n,)` no other rows than those it allows are looked at.
        """
        scores, rows = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
        for number, segment in enumerate(self._segments):
            found, places = segment.search(query_d, k, self._rows.spread(number, allowed_n))
            scores.append(found)
            rows.append(self._rows.number(number, places))
        return _best(np.concatenate(scores), np.concatenate(rows), k)

    def rows(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """Return the vectors `(m, d)` of these row numbers. Raises `InvalidRequest` for a row out of range."""
        vectors_md = np.empty((len(rows), self.dimension), np.float32)
        for number, at, places in self._rows.places(rows):
            vectors_md[at] = self._segments[number].rows(places)
        return vectors_md


def _only(allowed_n: BoolArray | None) -> Any:
    """FAISS's parameters of a search among some rows, None for all."""
    import faiss

    if allowed_n is None:
        return None
    bits = np.packbits(allowed_n, bitorder="little")
    # Its types are those of the C++ constructors, which the Python ones wrap.
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))  # type: ignore[call-arg, arg-type]


def _best(scores: FloatArray, rows: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    order = np.lexsort((rows, -scores))[: max(k, 0)]
    return scores[order], rows[order]

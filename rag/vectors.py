"""Nearest neighbours by inner product with FAISS: exactly in a segment, and over all segments of an index."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rag.errors import IndexDamaged
from rag.manifest import DAMAGE_HINT
from rag.protocols import BoolArray, FloatArray, IntArray, VectorStore
from rag.rows import Rows

# Rows copied at once where segments are merged: 100 MB of 384 dimensions.
_BLOCK = 65_536


class FlatVectors:
    """A `VectorStore` over the unit-length vectors of one segment, compared one by one (FAISS `IndexFlatIP`).

    Exact search keeps the inner product equal to the cosine. It reads every vector for every question: measured some
    50 ms for 100,000 of 384 dimensions on two busy cores. Large segments have clusters beside it (`rag.ivf`).
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

        index = read_index(path)
        if not isinstance(index, faiss.IndexFlatIP):
            raise IndexDamaged(f"the index is damaged: {path}: it is no IndexFlatIP", hint=DAMAGE_HINT)
        return cls(index)

    def save(self, path: Path) -> None:
        """Write a FAISS index file. Raises `OSError`, a full disk included."""
        write_index(self._index, path)

    @property
    def exact(self) -> "FlatVectors":
        """Itself: no other search is more exact."""
        return self

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
        scores, rows = self._index.search(query_1d, count, params=_parameters(allowed_n))
        return best(scores[0], rows[0], count)

    def best_scores(self, queries_qd: FloatArray, k: int) -> FloatArray:
        """Return the `k` highest scores of each of several queries, `(q, k)`, k <= n."""
        found: FloatArray = self._index.search(np.ascontiguousarray(queries_qd, dtype=np.float32), k)[0]
        return found

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


class SegmentVectors(VectorStore, Protocol):
    """The vectors of one segment, by the rows of its files; `exact` are the same, compared one by one."""

    @property
    def exact(self) -> FlatVectors:
        """A search that misses nothing."""
        ...

    @property
    def dimension(self) -> int:
        """The length of each vector."""
        ...

    def __len__(self) -> int: ...

    def rows(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """Return the vectors `(m, d)` of these row numbers."""
        ...

    def blocks(self, kept: IntArray | None) -> Iterable[FloatArray]:
        """Yield the vectors of these rows, all for None, in blocks `(m, d)`."""
        ...


class SegmentedVectors:
    """A `VectorStore` over the live rows of all segments of an index."""

    def __init__(self, segments: Sequence[SegmentVectors], rows: Rows, dimension: int) -> None:
        self.segments = segments
        self._rows = rows
        self.dimension = dimension

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, query_d: FloatArray, k: int, allowed_n: BoolArray | None = None) -> tuple[FloatArray, IntArray]:
        """For one query `(d,)` return scores `(m,)` and rows `(m,)`, best first, m <= k; equal scores by row.

        With a mask `(n,)` no other rows than those it allows are looked at.
        """
        scores, rows = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
        for number, segment in enumerate(self.segments):
            found, places = segment.search(query_d, k, self._rows.spread(number, allowed_n))
            scores.append(found)
            rows.append(self._rows.number(number, places))
        return best(np.concatenate(scores), np.concatenate(rows), k)

    def exact(self) -> "SegmentedVectors":
        """The same rows, compared one by one."""
        return SegmentedVectors([segment.exact for segment in self.segments], self._rows, self.dimension)

    def rows(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """Return the vectors `(m, d)` of these row numbers. Raises `InvalidRequest` for a row out of range."""
        vectors_md = np.empty((len(rows), self.dimension), np.float32)
        for number, at, places in self._rows.places(rows):
            vectors_md[at] = self.segments[number].rows(places)
        return vectors_md


def read_index(path: Path) -> Any:
    """Map a FAISS file: pages that no search has touched take no memory. Raises `IndexDamaged`."""
    import faiss

    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise IndexDamaged(f"the index is damaged: {path}: FAISS cannot read it", hint=DAMAGE_HINT) from error


def write_index(index: Any, path: Path) -> None:
    """Write a FAISS file. Raises `OSError`, a full disk included."""
    import faiss

    # Not faiss.write_index: where the disk fills up in the last few kB, it leaves a cut file and reports success.
    path.write_bytes(faiss.serialize_index(index).data)


def only(allowed_n: BoolArray | None) -> Any:
    """FAISS's selector of some rows, None for all."""
    import faiss

    if allowed_n is None:
        return None
    # Its type is that of the C++ constructor, which the Python one wraps.
    return faiss.IDSelectorBitmap(np.packbits(allowed_n, bitorder="little"))  # type: ignore[call-arg, arg-type]


def best(scores: FloatArray, rows: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    """Return the `k` highest scores with their rows, equal ones by row."""
    order = np.lexsort((rows, -scores))[: max(k, 0)]
    return scores[order], rows[order]


def _parameters(allowed_n: BoolArray | None) -> Any:
    import faiss

    return None if allowed_n is None else faiss.SearchParameters(sel=only(allowed_n))  # type: ignore[call-arg]

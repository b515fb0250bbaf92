"""Nearest neighbours by inner product, exactly, with FAISS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag.errors import IndexDamaged
from rag.manifest import REBUILD_HINT
from rag.protocols import BoolArray, FloatArray, IntArray


class FlatVectors:
    """A `VectorStore` over unit-length vectors, compared one by one (FAISS `IndexFlatIP`).

    Exact search keeps the inner product equal to the cosine. It reads every vector for every question: measured some
    50 ms for 100,000 of 384 dimensions on two busy cores, a small part of what an answer takes.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, vectors_nd: FloatArray) -> "FlatVectors":
        """Copy vectors `(n, d)`; n may be 0."""
        import faiss

        index = faiss.IndexFlatIP(vectors_nd.shape[1])
        index.add(np.ascontiguousarray(vectors_nd, dtype=np.float32))
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> "FlatVectors":
        """Read a file whose checksum has been verified: FAISS may crash the process on any other."""
        import faiss

        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise IndexDamaged(f"the index is damaged: {path}: FAISS cannot read it", hint=REBUILD_HINT) from error
        if not isinstance(index, faiss.IndexFlatIP):
            raise IndexDamaged(f"the index is damaged: {path}: it is no IndexFlatIP", hint=REBUILD_HINT)
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
        order = np.lexsort((rows[0], -scores[0]))
        return scores[0][order], rows[0][order]

    def rows(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """Return the vectors `(m, d)` of these row numbers."""
        wanted = np.asarray(rows, dtype=np.int64)
        if not len(wanted):
            return np.empty((0, self.dimension), np.float32)
        found: FloatArray = self._index.reconstruct_batch(wanted)
        return found


def _only(allowed_n: BoolArray | None) -> Any:
    """FAISS's parameters of a search among some rows, None for all."""
    import faiss

    if allowed_n is None:
        return None
    bits = np.packbits(allowed_n, bitorder="little")
    # Its types are those of the C++ constructors, which the Python ones wrap.
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))  # type: ignore[call-arg, arg-type]

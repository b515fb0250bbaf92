"""Nearest neighbours in a large segment: only the clusters nearest to the question are looked into."""

import math
import os
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag.errors import IndexDamaged
from rag.manifest import DAMAGE_HINT
from rag.protocols import BoolArray, FloatArray, IntArray
from rag.vectors import FlatVectors, best, only, read_index, write_index

# `nprobe` is chosen for the ten nearest of all rows.
TUNED_FOR = 10
# Of so few allowed rows, or for so many results, every allowed vector is compared: that costs no more.
_FEW_ALLOWED = 2_000
_MANY_WANTED = 1_000
# Codes mislead a little about the order, so twice as many are compared exactly: measured over 50,000 vectors of 384
# dimensions, that brings recall@10 among all clusters from 0.994 to 1.000, and more than twice brings nothing.
_COMPARED = 2


class _Counted(NamedTuple):
    """How many rows of each cluster a mask allows; the mask is what stands at `place` in `whole`."""

    whole: BoolArray
    place: int
    sizes_l: IntArray


class ClusteredVectors:
    """A `VectorStore` over the unit-length vectors of a large segment: an inverted file (Jegou, Douze and Schmid 2011).

    The vectors stand in clusters (k-means) as codes of one byte a dimension (FAISS IVF with SQ8), and a search compares
    the codes in those clusters whose centres are nearest to the question. The best of these are compared again by their
    float32 vectors, so that scores are cosines exactly; what is approximate is that a row may be missing.

    How many clusters: `nprobe`, chosen when the segment was written, is for the `TUNED_FOR` nearest of all rows. The
    k-th nearest of a share f of the rows is about the (k/f)-th nearest of all, and lies further out. Measured on real
    embeddings the clusters needed grow a little slower than the square root of that, so `nprobe` is multiplied by
    sqrt(k / TUNED_FOR / f). Where the allowed rows are not spread evenly the search goes on, cluster by cluster, until
    it has seen as many of them as it would have otherwise; clusters without any are not counted. Usable from several
    threads.
    """

    def __init__(self, exact: FlatVectors, index: Any, floats: Path) -> None:
        """Give the same vectors uncoded, a FAISS `IndexIVFScalarQuantizer`, and the file that `exact` was loaded from.

        Raises `IndexDamaged` where the two do not hold the same rows.
        """
        self.exact = exact
        self.index = index
        self._centres_ld: FloatArray = index.quantizer.reconstruct_n(0, index.nlist)
        self._clusters_n = _clusters(index, floats)
        self._last: _Counted | None = None
        self._sizes_l: IntArray = np.bincount(self._clusters_n, minlength=index.nlist)
        # Read, not mapped: comparing a few rows of a mapped file makes 64 kB resident for each, in the end all of it.
        self._floats = os.open(floats, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._first = os.fstat(self._floats).st_size - 4 * len(exact) * exact.dimension
        weakref.finalize(self, os.close, self._floats)

    @classmethod
    def load(cls, path: Path, exact: FlatVectors, floats: Path) -> "ClusteredVectors":
        """Map a file whose checksum has been verified, of the vectors that were loaded from `floats`.

        Raises `IndexDamaged`.
        """
        import faiss

        index = read_index(path)
        if not isinstance(index, faiss.IndexIVFScalarQuantizer) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise IndexDamaged(f"the index is damaged: {path}: it is no IVF of inner products", hint=DAMAGE_HINT)
        if (index.ntotal, index.d) != (len(exact), exact.dimension):
            raise _unfit(path)
        try:
            return cls(exact, index, floats)
        except OSError as error:  # a writer may have removed it since it was verified
            raise IndexDamaged(f"the index is damaged: {floats}: {error.strerror}", hint=DAMAGE_HINT) from error

    def save(self, path: Path) -> None:
        """Write the clusters, a FAISS index file. Raises `OSError`, a full disk included."""
        write_index(self.index, path)

    @property
    def dimension(self) -> int:
        """The length of each vector."""
        return self.exact.dimension

    def __len__(self) -> int:
        return len(self.exact)

    def search(self, query_d: FloatArray, k: int, allowed_n: BoolArray | None = None) -> tuple[FloatArray, IntArray]:
        """For one query `(d,)` return scores `(m,)` and rows `(m,)`, best first, m <= k; equal scores by row.

        With a mask `(n,)` no other rows than those it allows are looked at. m is k where that many are allowed.
        """
        allowed = len(self) if allowed_n is None else int(np.count_nonzero(allowed_n))
        count = min(k, allowed)
        if count <= 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        if count > _MANY_WANTED:
            return self.exact.search(query_d, k, allowed_n)
        query_d = np.ascontiguousarray(query_d, dtype=np.float32)
        if allowed_n is not None and allowed <= _FEW_ALLOWED:
            rows = np.flatnonzero(allowed_n)
        else:
            rows = self._candidates(query_d, count, allowed, allowed_n)
        return best(_inner_products(query_d, self.rows(rows)), rows, count)

    def rows(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """Return the vectors `(m, d)` of these row numbers. Raises `IndexDamaged` where the file was cut meanwhile."""
        wanted = np.asarray(rows, dtype=np.int64)
        if not hasattr(os, "pread"):  # Windows
            return self.exact.rows(wanted)
        width = 4 * self.dimension
        read = b"".join([os.pread(self._floats, width, self._first + row * width) for row in wanted.tolist()])
        if len(read) != len(wanted) * width:
            raise IndexDamaged("the index is damaged: a file of vectors was cut while it was open", hint=DAMAGE_HINT)
        return np.frombuffer(read, "<f4").reshape(len(wanted), self.dimension)

    def blocks(self, kept: IntArray | None) -> Iterable[FloatArray]:
        """Yield the vectors of these rows, all for None, in blocks `(m, d)`."""
        return self.exact.blocks(kept)

    def decoded(self) -> Iterable[tuple[IntArray, FloatArray]]:
        """Yield the rows `(m,)` of each cluster with what their codes stand for, `(m, d)`."""
        import faiss

        lists = self.index.invlists
        for cluster in np.flatnonzero(self._sizes_l).tolist():
            size = lists.list_size(cluster)
            codes = faiss.rev_swig_ptr(lists.get_codes(cluster), size * self.index.code_size)
            residuals_md = self.index.sq.decode(codes.reshape(size, self.index.code_size))
            yield _ids(lists, cluster), residuals_md + self._centres_ld[cluster]

    def _candidates(self, query_d: FloatArray, count: int, allowed: int, allowed_n: BoolArray | None) -> IntArray:
        """Return the rows whose codes come nearest, at least `count`, out of the clusters nearest to the query."""
        import faiss

        closeness_l = _inner_products(query_d, self._centres_ld)
        clusters = self._nearest(closeness_l, count, allowed, allowed_n)
        wanted = min(_COMPARED * count, allowed)
        scores, rows = np.empty(wanted, np.float32), np.empty(wanted, np.int64)
        closeness = closeness_l[clusters]
        selector = only(allowed_n)
        options = {} if selector is None else {"sel": selector}
        # The Python `search_preassigned` takes no parameters: only `nprobe` clusters, of all rows.
        self.index.search_preassigned_c(
            1,
            faiss.swig_ptr(query_d),
            wanted,
            faiss.swig_ptr(clusters),
            faiss.swig_ptr(closeness),
            faiss.swig_ptr(scores),
            faiss.swig_ptr(rows),
            False,
            faiss.IVFSearchParameters(nprobe=len(clusters), **options),  # type: ignore[call-arg]
        )
        return rows[rows >= 0]

    def _nearest(self, closeness_l: FloatArray, count: int, allowed: int, allowed_n: BoolArray | None) -> IntArray:
        """Return the clusters to look into, nearest first."""
        sizes_l = self._sizes_l if allowed_n is None else self._allowed_sizes(allowed_n)
        held = np.flatnonzero(sizes_l)
        order = held[np.argsort(-closeness_l[held], kind="stable")]
        deeper = math.sqrt(max(count / TUNED_FOR, 1.0))
        clusters = deeper * self.index.nprobe
        rows = max(clusters * len(self) / len(sizes_l) * math.sqrt(allowed / len(self)), _COMPARED * count)
        reached = int(np.searchsorted(np.cumsum(sizes_l[order]), rows)) + 1
        return order[: max(math.ceil(clusters), reached)]

    def _allowed_sizes(self, allowed_n: BoolArray) -> IntArray:
        """Return how many allowed rows each cluster holds, `(l,)`.

        That takes longer than the search in a million rows, so the last answer is kept, if what it was counted from,
        a slice of a view's mask (`rag.masks`), cannot be written to.
        """
        whole = allowed_n if allowed_n.base is None else allowed_n.base
        last = self._last
        if last is not None and last.whole is whole and last.place == allowed_n.ctypes.data:
            return last.sizes_l
        sizes_l: IntArray = np.bincount(self._clusters_n[allowed_n], minlength=len(self._sizes_l))
        if isinstance(whole, np.ndarray) and not whole.flags.writeable:
            self._last = _Counted(whole, allowed_n.ctypes.data, sizes_l)
        return sizes_l


def _clusters(index: Any, path: Path) -> IntArray:
    """Return for each row the number of its cluster, `(n,)`."""
    clusters_n = np.full(index.ntotal, -1, np.int32)
    for cluster in range(index.nlist):
        rows = _ids(index.invlists, cluster)
        if len(rows) and not 0 <= rows.min() <= rows.max() < index.ntotal:
            raise _unfit(path)
        clusters_n[rows] = cluster
    if len(clusters_n) and clusters_n.min() < 0:
        raise _unfit(path)
    return clusters_n


def _ids(lists: Any, cluster: int) -> IntArray:
    import faiss

    size = lists.list_size(cluster)
    if not size:
        return np.empty(0, np.int64)
    rows: IntArray = faiss.rev_swig_ptr(lists.get_ids(cluster), size)
    return rows


def _inner_products(query_d: FloatArray, vectors_md: FloatArray) -> FloatArray:
    """Return `(m,)`. In this thread: for so few rows a BLAS wakes others, which takes 50 ms where they are busy."""
    import faiss

    products_m = np.empty(len(vectors_md), np.float32)
    if len(vectors_md):
        faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
            faiss.swig_ptr(products_m),
            faiss.swig_ptr(query_d),
            faiss.swig_ptr(vectors_md),
            len(query_d),
            len(vectors_md),
        )
    return products_m


def _unfit(path: Path) -> IndexDamaged:
    return IndexDamaged(f"the index is damaged: {path.parent}: its parts do not fit together", hint=DAMAGE_HINT)

"""A segment of an index: documents with their chunks, vectors and postings, in files that never change."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from rag.catalog import Catalog
from rag.docstore import DocumentStore
from rag.errors import IndexDamaged
from rag.ivf import ClusteredVectors
from rag.manifest import (
    CATALOG,
    CLUSTERS,
    DAMAGE_HINT,
    LEXICAL,
    LEXICAL_FILES,
    SEGMENTS,
    STORE,
    VECTORS,
    SegmentInfo,
    verify_files,
)
from rag.postings import Postings
from rag.vectors import FlatVectors, SegmentVectors

_LEXICAL_PATHS = [f"{LEXICAL}/{name}" for name in LEXICAL_FILES]


class Segment:
    """A segment's parts, each opened when it is first asked for: compared with its checksum, then parsed.

    So a writer that adds a document pays for the catalogs and not for the vectors. Asking for a part raises
    `IndexDamaged`. Several generations may share a segment: `share` it, and each `close`s it once.
    """

    def __init__(self, directory: Path, info: SegmentInfo, dimension: int) -> None:
        """Name the folder that holds `segments`, the index directory or a staged one."""
        self.info = info
        self.folder = directory / SEGMENTS / info.name
        self._dimension = dimension
        self._verified: set[str] = set()
        self._users = 1
        self._whole = False
        self._lock = threading.Lock()

    def verify(self) -> None:
        """Compare all files with their checksums, those that were not yet. Raises `IndexDamaged`."""
        self._verify(sorted(self.info.files))

    @cached_property
    def catalog(self) -> Catalog:
        """The documents without texts."""
        self._verify([CATALOG])
        return Catalog(self.folder / CATALOG)

    @cached_property
    def store(self) -> DocumentStore:
        """Documents and chunks with their texts."""
        self._verify([STORE])
        return DocumentStore(self.folder / STORE)

    @cached_property
    def vectors(self) -> SegmentVectors:
        """The vectors of the chunks, searched by their clusters where the segment has such."""
        if CLUSTERS not in self.info.files:
            return self.exact
        self._verify([CLUSTERS])
        return ClusteredVectors.load(self.folder / CLUSTERS, self.exact, self.folder / VECTORS)

    @cached_property
    def exact(self) -> FlatVectors:
        """The vectors of the chunks, compared one by one: all that a writer needs."""
        self._verify([VECTORS])
        vectors = FlatVectors.load(self.folder / VECTORS)
        if (len(vectors), vectors.dimension) != (self.info.chunks, self._dimension):
            self._disagree()
        return vectors

    @cached_property
    def postings(self) -> Postings:
        """The terms of the chunks."""
        self._verify(_LEXICAL_PATHS)
        postings = Postings.load(self.folder / LEXICAL)
        if len(postings) != self.info.chunks:
            self._disagree()
        return postings

    def open_all(self) -> None:
        """Verify and open every part, once. Raises `IndexDamaged` where one is damaged or does not fit the others."""
        if self._whole:
            return
        self.verify()
        counts = (self.info.documents, self.info.chunks)
        if self.store.counts() != counts or len(self.catalog) != counts[0]:
            self._disagree()
        _ = self.vectors, self.postings
        self._whole = True

    def share(self) -> "Segment":
        """Return this segment for another user, who closes it too."""
        with self._lock:
            self._users += 1
        return self

    def close(self) -> None:
        """Release the files, once every user has."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for part in (self.__dict__.get("catalog"), self.__dict__.get("store")):
            if part is not None:
                part.close()

    def _verify(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._verified]
        verify_files(self.folder, {name: self.info.files[name] for name in unknown})
        self._verified.update(unknown)

    def _disagree(self) -> None:
        raise IndexDamaged(f"the index is damaged: {self.folder}: its parts do not fit together", hint=DAMAGE_HINT)


def open_all(segments: Sequence[Segment]) -> None:
    """Verify and open several segments at once. Raises `IndexDamaged`."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Segment.open_all, segments))

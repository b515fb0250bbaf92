"""An index directory, opened for reading: one whole generation, verified before anything in it is parsed."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from rag.catalog import DocumentEntry
from rag.datatypes import Chunk, Document
from rag.docstore import SegmentedStore
from rag.duplicates import Duplicates
from rag.errors import IndexDamaged, IndexIncompatible, UnknownDocument
from rag.filter import EVERYTHING, View
from rag.lexical import LexicalIndex
from rag.manifest import (
    DAMAGE_HINT,
    GENERATIONS,
    REBUILD_HINT,
    Manifest,
    read_current,
    read_deleted,
    read_latest,
    read_manifest,
)
from rag.masks import Masks
from rag.protocols import BoolArray
from rag.rows import Rows
from rag.segment import Segment, open_all
from rag.vectors import SegmentedVectors


class Generation:
    """The current generation of an index directory: its manifest, its segments, and what is deleted in each.

    The parts of a segment are verified and opened as they are asked for, which is what a writer wants. Rows and
    documents are numbered in each segment's own files, where deleted ones still stand.
    """

    def __init__(self, name: str, manifest: Manifest, segments: list[Segment], deleted: list[frozenset[int]]) -> None:
        self.name = name
        self.manifest = manifest
        self.segments = segments
        self.deleted = deleted

    @classmethod
    def open(
        cls, directory: Path, embedder_fingerprint: str | None = None, before: "Generation | None" = None
    ) -> "Generation":
        """Read what the current generation is made of, and share the segments that `before` has opened already.

        Raises `IndexMissing`, `IndexDamaged` naming the file, and `IndexIncompatible` where the format or the embedder
        is another.
        """
        return cls.named(directory, read_current(directory), embedder_fingerprint, before)

    @classmethod
    def latest(cls, directory: Path, embedder_fingerprint: str | None = None) -> "Generation":
        """The same of the newest generation where nothing names the current one (`read_latest`)."""
        return cls.named(directory, read_latest(directory), embedder_fingerprint)

    @classmethod
    def named(
        cls,
        directory: Path,
        name: str,
        embedder_fingerprint: str | None = None,
        before: "Generation | None" = None,
    ) -> "Generation":
        """The same of another generation than the current one."""
        folder = directory / GENERATIONS / name
        manifest = read_manifest(folder)
        if embedder_fingerprint is not None:
            _check_embedder(directory, manifest, embedder_fingerprint)
        found = read_deleted(folder, manifest)
        deleted = [frozenset(found.get(info.name, ())) for info in manifest.segments]
        opened = {segment.info.name: segment for segment in before.segments} if before else {}
        segments = [
            opened[info.name].share()
            if info.name in opened and opened[info.name].info == info
            else Segment(directory, info, manifest.embedder.dimension)
            for info in manifest.segments
        ]
        return cls(name, manifest, segments, deleted)

    def entries(self) -> list[tuple[int, int, DocumentEntry]]:
        """Return every live document with its segment's position and its number there. Raises `IndexDamaged`."""
        return [
            (position, number, entry)
            for position, segment in enumerate(self.segments)
            for number, entry in enumerate(segment.catalog.entries())
            if number not in self.deleted[position]
        ]

    def close(self) -> None:
        """Release the segments."""
        for segment in self.segments:
            segment.close()

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Index:
    """One generation of an index directory. Chunk `row` numbers are positions in `vectors` and in `lexical`.

    Usable from several threads. Stays readable after a writer has published and removed this generation.
    """

    def __init__(self, parts: Generation) -> None:
        """Put opened parts together. Raises `IndexDamaged` where they do not make what the manifest says."""
        self._parts = parts
        self.generation = parts.name
        self.manifest = parts.manifest
        segments, deleted = parts.segments, parts.deleted
        rows = Rows(
            [(segment.info.chunks, _live(segment, gone)) for segment, gone in zip(segments, deleted, strict=True)]
        )
        self.vectors = SegmentedVectors([s.vectors for s in segments], rows, parts.manifest.embedder.dimension)
        self.lexical = LexicalIndex([s.postings for s in segments], rows)
        self.store = SegmentedStore([s.store for s in segments], deleted, rows)
        self.masks = Masks(self.store, self.manifest.labels)
        self.duplicates = Duplicates(self.store)
        documents = sum(s.info.documents - len(gone) for s, gone in zip(segments, deleted, strict=True))
        if (documents, len(rows)) != (self.manifest.counts.documents, self.manifest.counts.chunks):
            raise IndexDamaged(
                f"the index is damaged: generation {parts.name}: its segments do not fit together", hint=DAMAGE_HINT
            )

    @classmethod
    def open(cls, directory: Path, embedder_fingerprint: str | None = None, before: "Index | None" = None) -> "Index":
        """Open the current generation, verified against its checksums.

        Give the fingerprint of the embedder that will embed the questions, and an index of the directory that is still
        open: segments that both generations have are shared and not verified again. Raises `IndexMissing`,
        `IndexDamaged` naming the file, and `IndexIncompatible` where the format or the embedder is another.
        """
        while True:
            name = read_current(directory)
            try:
                return cls._open_current(directory, embedder_fingerprint, before)
            except IndexDamaged:
                # A writer may have published and removed this generation since its name was read.
                if read_current(directory) == name:
                    raise

    def is_current(self, directory: Path) -> bool:
        """Whether this is what the directory holds now, which may have been made anew since. Raises `IndexMissing`."""
        if read_current(directory) != self.generation:
            return False
        try:
            return read_manifest(directory / GENERATIONS / self.generation) == self.manifest
        except (IndexDamaged, IndexIncompatible):
            return False

    @classmethod
    def _open_current(cls, directory: Path, embedder_fingerprint: str | None, before: "Index | None") -> "Index":
        parts = Generation.open(directory, embedder_fingerprint, before._parts if before else None)
        try:
            open_all(parts.segments)
            return cls(parts)
        except BaseException:
            parts.close()
            raise

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the segments' files, and what was looked up for filters."""
        self.masks.close()
        self._parts.close()

    def chunk(self, row: int) -> Chunk:
        """Return the chunk in this row. Raises `InvalidRequest` where there is none."""
        return self.store.chunks([row])[0]

    def chunks(self, rows: Sequence[int]) -> list[Chunk]:
        """Return the chunks in these rows, in the order given. Raises `InvalidRequest` where one is missing."""
        return self.store.chunks(rows)

    def document(self, document_id: str, view: View = EVERYTHING) -> Document:
        """Return a document with its text.

        Raises `UnknownDocument` where there is none of that id, in the same words where the view leaves it out.
        """
        if view != EVERYTHING and not self.masks.sees(document_id, view):
            raise UnknownDocument(f"the index holds no document {document_id!r}")
        return self.store.document(document_id)

    def documents(self) -> list[DocumentEntry]:
        """Return every document without its text, ordered by id."""
        return sorted(self.documents_by_row())

    def segments(self) -> Iterator[tuple[Segment, Collection[int]]]:
        """Yield the segments, in the order of the rows, each with the numbers of its deleted documents."""
        return zip(self._parts.segments, self._parts.deleted, strict=True)

    def documents_by_row(self) -> list[DocumentEntry]:
        """Return every document without its text, in the order of their rows: `chunks` rows each."""
        return [entry for _, _, entry in self._parts.entries()]


def _live(segment: Segment, deleted: Collection[int]) -> BoolArray | None:
    return segment.catalog.live_rows(deleted) if deleted else None


def _check_embedder(directory: Path, manifest: Manifest, fingerprint: str) -> None:
    built = manifest.embedder
    if built.fingerprint != fingerprint:
        raise IndexIncompatible(
            f"the index in {directory} was built with the embedder {built.name} (fingerprint {built.fingerprint}), "
            f"the questions would be embedded by another (fingerprint {fingerprint})",
            hint=f"{REBUILD_HINT}, or configure the embedder {built.name}",
        )

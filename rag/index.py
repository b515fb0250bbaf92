"""An index directory, opened for reading: one whole generation, verified before anything in it is parsed."""

from collections.abc import Sequence
from pathlib import Path

from rag.catalogue import Catalogue
from rag.datatypes import Chunk, Document
from rag.docstore import DocumentEntry, DocumentStore
from rag.errors import IndexDamaged, IndexIncompatible, UnknownDocument
from rag.filter import EVERYTHING, View
from rag.lexical import LexicalIndex
from rag.manifest import (
    GENERATIONS,
    LEXICAL,
    REBUILD_HINT,
    STORE,
    VECTORS,
    Manifest,
    read_current,
    read_manifest,
    verify_files,
)
from rag.vectors import FlatVectors


class Index:
    """One generation of an index directory. Chunk `row` numbers are positions in `vectors` and in `lexical`.

    Usable from several threads. Stays readable after a writer has published and removed this generation.
    """

    def __init__(
        self, generation: str, manifest: Manifest, vectors: FlatVectors, lexical: LexicalIndex, store: DocumentStore
    ) -> None:
        self.generation = generation
        self.manifest = manifest
        self.vectors = vectors
        self.lexical = lexical
        self.store = store
        self.catalogue = Catalogue(store, manifest.labels)

    @classmethod
    def open(cls, directory: Path, embedder_fingerprint: str | None = None) -> "Index":
        """Open the current generation, verified against its checksums.

        Give the fingerprint of the embedder that will embed the questions. Raises `IndexMissing`, `IndexDamaged`
        naming the file, and `IndexIncompatible` where the format or the embedder is another.
        """
        name = read_current(directory)
        while True:
            try:
                return cls._open_generation(directory, name, embedder_fingerprint)
            except IndexDamaged:
                # A writer may have published and removed this generation since its name was read.
                newer = read_current(directory)
                if newer == name:
                    raise
                name = newer

    @classmethod
    def _open_generation(cls, directory: Path, name: str, embedder_fingerprint: str | None) -> "Index":
        generation = directory / GENERATIONS / name
        manifest = read_manifest(generation)
        if embedder_fingerprint is not None:
            _check_embedder(directory, manifest, embedder_fingerprint)
        verify_files(generation, manifest)
        store = DocumentStore(generation / STORE)
        try:
            vectors = FlatVectors.load(generation / VECTORS)
            lexical = LexicalIndex.load(generation / LEXICAL)
            _check_counts(generation, manifest, vectors, lexical, store)
        except BaseException:
            store.close()
            raise
        return cls(name, manifest, vectors, lexical, store)

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the store's file."""
        self.store.close()

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
        if view != EVERYTHING and not self.catalogue.sees(document_id, view):
            raise UnknownDocument(f"the index holds no document {document_id!r}")
        return self.store.document(document_id)

    def documents(self) -> list[DocumentEntry]:
        """Return every document without its text, ordered by id."""
        return self.store.documents()


def _check_embedder(directory: Path, manifest: Manifest, fingerprint: str) -> None:
    built = manifest.embedder
    if built.fingerprint != fingerprint:
        raise IndexIncompatible(
            f"the index in {directory} was built with the embedder {built.name} (fingerprint {built.fingerprint}), "
            f"the questions would be embedded by another (fingerprint {fingerprint})",
            hint=f"{REBUILD_HINT}, or configure the embedder {built.name}",
        )


def _check_counts(
    generation: Path, manifest: Manifest, vectors: FlatVectors, lexical: LexicalIndex, store: DocumentStore
) -> None:
    expected = (manifest.counts.documents, manifest.counts.chunks)
    agrees = store.counts() == expected and len(vectors) == len(lexical) == manifest.counts.chunks
    if not agrees or vectors.dimension != manifest.embedder.dimension:
        raise IndexDamaged(f"the index is damaged: {generation}: its parts do not fit together", hint=REBUILD_HINT)

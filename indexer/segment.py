"""Writing segments: the two databases of a new one, and one made of several."""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from indexer.ivf import write_clusters
from indexer.postings import merge_postings
from rag.catalog import DocumentEntry, Original
from rag.datatypes import Chunk, Document
from rag.docstore import DocumentStore
from rag.lexical import Analyzer
from rag.manifest import (
    CATALOG,
    CLUSTERS,
    LEXICAL,
    SEGMENT_FILES,
    SEGMENTS,
    STORE,
    VECTORS,
    SegmentInfo,
    describe_file,
)
from rag.minhash import Bands, signature
from rag.postings import Postings
from rag.protocols import FloatArray
from rag.segment import Segment
from rag.vectors import FlatVectors

_STORE = """
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, title TEXT NOT NULL,
    metadata TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, number INTEGER NOT NULL REFERENCES documents,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, context BLOB NOT NULL, metadata TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX chunks_by_document ON chunks (number);
CREATE TABLE signatures (row INTEGER PRIMARY KEY, bands BLOB NOT NULL);
"""
_CATALOG = """
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, uri TEXT NOT NULL, title TEXT NOT NULL, root TEXT NOT NULL,
    sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, loader TEXT NOT NULL, chunks INTEGER NOT NULL
);
CREATE TABLE contexts (context BLOB PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
"""


def context_key(chunk: Chunk) -> bytes:
    """Return the SHA-256 of what is embedded for a chunk: equal keys, equal vectors."""
    return sha256(chunk.context_text.encode()).digest()


class Part(NamedTuple):
    """A segment and the numbers of its deleted documents."""

    segment: Segment
    deleted: Collection[int]


class StoreWriter:
    """Writes `store.sqlite` and `catalog.sqlite` of a new segment, in a new folder.

    Documents and chunks are numbered from 0 in the order they are added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.documents = 0
        self.chunks = 0
        folder.mkdir()
        with _as_os_error(folder):
            self._store = _new_database(folder / STORE, _STORE)
            self._catalog = _new_database(folder / CATALOG, _CATALOG)

    def add(self, document: Document, chunks: Sequence[Chunk], original: Original) -> None:
        """Add a document and its chunks. Raises `OSError` on a full disk."""
        with _as_os_error(self.folder):
            self._add_document(
                (document.id, document.uri, document.title, _json(document.metadata), document.text),
                (document.id, document.uri, document.title, *original, len(chunks)),
            )
            for c in chunks:
                number = self.documents - 1
                self._add_chunk(
                    (c.id, number, c.span.start, c.span.end, context_key(c), _json(c.metadata), c.text),
                    context_key(c),
                    _bytes(signature(c.text)),
                )

    def copy(self, part: Part, entries: Sequence[DocumentEntry] | None = None) -> None:
        """Add the live documents of a segment with their chunks, as they are stored. Raises `OSError`.

        `entries` are what its catalog says of all its documents, where that cannot be read.
        """
        moved: dict[int, int] = {}
        with _as_os_error(self.folder):
            entries = part.segment.catalog.entries() if entries is None else entries
            for number, *fields in part.segment.store.document_records():
                if number not in part.deleted:
                    moved[number] = self.documents
                    entry = entries[number]
                    self._add_document(fields, (entry.id, entry.uri, entry.title, *entry.original, entry.chunks))
            bands = part.segment.store.signatures()
            for row, chunk_id, number, start, end, context, metadata, text in part.segment.store.chunk_records():
                if number in moved:
                    signed = _bytes(signature(text) if bands is None else bands[row])
                    self._add_chunk((chunk_id, moved[number], start, end, context, metadata, text), context, signed)

    def _add_document(self, stored: Sequence[object], listed: Sequence[object]) -> None:
        self._store.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)", (self.documents, *stored))
        self._catalog.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (self.documents, *listed))
        self.documents += 1

    def _add_chunk(self, stored: Sequence[object], context: bytes, signed: bytes) -> None:
        self._store.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (self.chunks, *stored))
        self._store.execute("INSERT INTO signatures VALUES (?, ?)", (self.chunks, signed))
        self._catalog.execute("INSERT OR IGNORE INTO contexts VALUES (?, ?)", (context, self.chunks))
        self.chunks += 1

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with _as_os_error(self.folder):
            try:
                if kind is None:
                    self._store.execute("COMMIT")
                    self._catalog.execute("COMMIT")
            finally:
                self._store.close()
                self._catalog.close()


def finish_segment(writer: StoreWriter, vectors_nd: FloatArray) -> SegmentInfo:
    """Write vectors, clusters and terms of the chunks that a closed writer has written, and describe the segment.

    Raises `OSError`.
    """
    FlatVectors.build(vectors_nd).save(writer.folder / VECTORS)
    write_clusters(writer.folder)
    return finish_lexical(writer.folder, writer.documents, writer.chunks)


def finish_lexical(folder: Path, documents: int, chunks: int) -> SegmentInfo:
    """Write the terms of a segment that has all else, and describe it. Raises `OSError`."""
    analyzer = Analyzer()
    with closing(DocumentStore(folder / STORE)) as store:
        Postings.build(analyzer.terms(chunk.context_text) for chunk in store.all_chunks()).save(folder / LEXICAL)
    return describe_segment(folder, documents, chunks)


def merge_segments(parts: Sequence[Part], staging: Path, name: str, dimension: int) -> SegmentInfo:
    """Write the live documents of segments into a new one, in their order. Raises `OSError` and `IndexDamaged`.

    No text is read again, embedded or analysed: records, vectors and postings are copied. What was written without
    signatures gets them.
    """
    with StoreWriter(staging / SEGMENTS / name) as writer:
        for part in parts:
            writer.copy(part)
    live = [part.segment.catalog.live_rows(part.deleted) for part in parts]
    kept = [np.flatnonzero(mask) for mask in live]
    blocks = (block for part, rows in zip(parts, kept, strict=True) for block in part.segment.exact.blocks(rows))
    FlatVectors.gather(blocks, dimension).save(writer.folder / VECTORS)
    write_clusters(writer.folder)
    merge_postings([part.segment.postings for part in parts], live).save(writer.folder / LEXICAL)
    return describe_segment(writer.folder, writer.documents, writer.chunks)


def describe_segment(folder: Path, documents: int, chunks: int) -> SegmentInfo:
    """Return what the manifest says of a segment whose files are all written. Raises `OSError`."""
    names = SEGMENT_FILES | ({CLUSTERS} if (folder / CLUSTERS).exists() else set())
    files = {name: describe_file(folder / name) for name in sorted(names)}
    return SegmentInfo(name=folder.name, documents=documents, chunks=chunks, files=files)


def _new_database(path: Path, schema: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    # No journal: the file is thrown away unless it is finished, and synced by the publisher.
    connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + schema)
    connection.execute("BEGIN")
    return connection


def _bytes(bands: Bands) -> bytes:
    return bands.astype("<u4").tobytes()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"{path}: {error}") from error

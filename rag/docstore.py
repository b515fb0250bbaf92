"""Documents and chunks of an index generation: the reading side of `store.sqlite`."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag.datatypes import Chunk, Document, Metadata, Span
from rag.errors import IndexDamaged, InvalidRequest, UnknownDocument
from rag.manifest import REBUILD_HINT
from rag.protocols import IntArray

_CHUNK = 'SELECT row, c.id, d.id, c.text, start, "end", c.metadata FROM chunks c JOIN documents d USING (number)'


class Original(NamedTuple):
    """What a document was made from: enough to tell whether it must be read again.

    `root` is the absolute path of the indexed root (empty for records), `sha256` and `bytes` describe the original and
    `loader` is the version of the loader that read it.
    """

    root: str
    sha256: str
    bytes: int
    loader: str


class DocumentEntry(NamedTuple):
    """A document without its text. `chunks` is their number, `bytes` the size of the original."""

    id: str
    title: str
    uri: str
    chunks: int
    bytes: int
    original: Original


class DocumentStore:
    """Read access to a `store.sqlite` that no one writes any more. Usable from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            # Immutable: no locks and no journal, and reading goes on after the file's directory is replaced.
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            self._connection.execute("SELECT count(*) FROM documents").fetchone()
        except sqlite3.Error as error:
            raise IndexDamaged(f"the index is damaged: {path}: {error}", hint=REBUILD_HINT) from error

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    def counts(self) -> tuple[int, int]:
        """Return the numbers of documents and of chunks."""
        ((documents, chunks),) = self._query("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)")
        return documents, chunks

    def documents(self) -> list[DocumentEntry]:
        """Return all documents, ordered by id."""
        rows = self._query("SELECT id, title, uri, chunks, bytes, root, sha256, loader FROM documents ORDER BY number")
        return [
            DocumentEntry(found_id, title, uri, chunks, size, Original(root, digest, size, loader))
            for found_id, title, uri, chunks, size, root, digest, loader in rows
        ]

    def descriptions(self, batch: int = 10_000) -> Iterator[tuple[str, str, Metadata]]:
        """Yield id, title and metadata of every document, ordered as in `documents`."""
        start = 0
        statement = "SELECT number, id, title, metadata FROM documents WHERE number >= ? ORDER BY number LIMIT ?"
        while found := self._query(statement, start, batch):
            yield from ((document_id, title, _metadata(metadata)) for _, document_id, title, metadata in found)
            start = found[-1][0] + 1

    def described(self, document_id: str) -> tuple[str, Metadata] | None:
        """Return title and metadata of a document, None where there is none of that id."""
        rows = self._query("SELECT title, metadata FROM documents WHERE id = ?", document_id)
        return (rows[0][0], _metadata(rows[0][1])) if rows else None

    def row_documents(self) -> IntArray:
        """Return for each row `(n,)` the position of its document in `documents`."""
        return np.array([number for (number,) in self._query("SELECT number FROM chunks ORDER BY row")], dtype=np.int64)

    def document(self, document_id: str) -> Document:
        """Return a document with its text. Raises `UnknownDocument` where there is none of that id."""
        rows = self._query("SELECT id, uri, title, text, metadata FROM documents WHERE id = ?", document_id)
        if not rows:
            raise UnknownDocument(f"the index holds no document {document_id!r}")
        ((found_id, uri, title, text, metadata),) = rows
        return Document(found_id, uri, title, text, _metadata(metadata))

    def chunks(self, rows: Sequence[int]) -> list[Chunk]:
        """Return the chunks of these row numbers, in their order. Raises `InvalidRequest` for a row out of range."""
        statement = f"{_CHUNK} WHERE row IN (SELECT value FROM json_each(?))"  # noqa: S608 (constant)
        wanted = json.dumps([int(row) for row in rows])
        found = {row: _chunk(*fields) for row, *fields in self._query(statement, wanted)}
        try:
            return [found[int(row)] for row in rows]
        except KeyError as error:
            raise InvalidRequest(f"the index holds no chunk in row {error}") from None

    def chunks_of(self, document_id: str) -> list[Chunk]:
        """Return the chunks of a document in reading order, empty where there is none of that id."""
        return [_chunk(*fields) for _, *fields in self._query(f"{_CHUNK} WHERE d.id = ? ORDER BY row", document_id)]

    def all_chunks(self, batch: int = 1000) -> Iterator[Chunk]:
        """Yield every chunk in row order."""
        start = 0
        while found := self._query(f"{_CHUNK} WHERE row >= ? ORDER BY row LIMIT ?", start, batch):
            yield from (_chunk(*fields) for _, *fields in found)
            start = found[-1][0] + 1

    def contexts(self) -> list[bytes]:
        """Return, in row order, the SHA-256 of what was embedded for each chunk (`Chunk.context_text` in UTF-8)."""
        return [context for (context,) in self._query("SELECT context FROM chunks ORDER BY row")]

    def _query(self, statement: str, *parameters: object) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()


def _chunk(chunk_id: str, document_id: str, text: str, start: int, end: int, metadata: str) -> Chunk:
    return Chunk(chunk_id, document_id, text, Span(start, end), _metadata(metadata))


def _metadata(text: str) -> Metadata:
    found: Metadata = json.loads(text)
    return found

"""Documents and chunks of an index generation: the reading side of the segments' `store.sqlite`."""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from rag.catalog import ReadOnlyDatabase
from rag.datatypes import Chunk, Document, Metadata, Span
from rag.errors import IndexDamaged, UnknownDocument
from rag.manifest import DAMAGE_HINT
from rag.minhash import BANDS, Bands
from rag.protocols import IntArray
from rag.rows import Rows

_CHUNK = 'SELECT row, c.id, d.id, c.text, start, "end", c.metadata FROM chunks c JOIN documents d USING (number)'
_SIGNATURES = "SELECT row, bands FROM signatures WHERE row >= ? ORDER BY row LIMIT ?"
_PAGE = 1000


class DocumentStore(ReadOnlyDatabase):
    """Read access to one segment's `store.sqlite`, deleted documents included."""

    def counts(self) -> tuple[int, int]:
        """Return the numbers of documents and of chunks."""
        ((documents, chunks),) = self.query("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)")
        return documents, chunks

    def document(self, document_id: str) -> tuple[int, Document] | None:
        """Return the number and the whole of a document, None where there is none of that id."""
        rows = self.query("SELECT number, id, uri, title, text, metadata FROM documents WHERE id = ?", document_id)
        for number, found_id, uri, title, text, metadata in rows:
            return number, Document(found_id, uri, title, text, _metadata(metadata))
        return None

    def number(self, document_id: str) -> int | None:
        """Return the number of a document, None where there is none of that id."""
        for (number,) in self.query("SELECT number FROM documents WHERE id = ?", document_id):
            return int(number)
        return None

    def descriptions(self) -> Iterator[tuple[int, str, str, Metadata]]:
        """Yield number, id, title and metadata of every document, in order."""
        statement = (
            "SELECT number, number, id, title, metadata FROM documents WHERE number >= ? ORDER BY number LIMIT ?"
        )
        for number, document_id, title, metadata in self._pages(statement):
            yield number, document_id, title, _metadata(metadata)

    def described(self, document_id: str) -> tuple[int, str, Metadata] | None:
        """Return number, title and metadata of a document, None where there is none of that id."""
        for number, title, metadata in self.query(
            "SELECT number, title, metadata FROM documents WHERE id = ?", document_id
        ):
            return number, title, _metadata(metadata)
        return None

    def owners(self) -> IntArray:
        """Return for each row `(n,)` the number of its document."""
        return self.made("owners", self._owners)

    def _owners(self) -> IntArray:
        return np.array([number for (number,) in self.query("SELECT number FROM chunks ORDER BY row")], np.int64)

    def chunks(self, rows: Sequence[int] | IntArray) -> dict[int, Chunk]:
        """Return the chunks of these rows, by row."""
        statement = f"{_CHUNK} WHERE row IN (SELECT value FROM json_each(?))"  # noqa: S608 (constant)
        wanted = json.dumps([int(row) for row in rows])
        return {row: _chunk(*fields) for row, *fields in self.query(statement, wanted)}

    def chunks_of(self, number: int) -> list[Chunk]:
        """Return the chunks of a document in reading order."""
        return [_chunk(*fields) for _, *fields in self.query(f"{_CHUNK} WHERE number = ? ORDER BY row", number)]

    def all_chunks(self, deleted: Collection[int] = ()) -> Iterator[Chunk]:
        """Yield every chunk in row order, but those of deleted documents."""
        statement = _CHUNK.replace("row,", "row, number,")
        for number, *fields in self._pages(f"{statement} WHERE row >= ? ORDER BY row LIMIT ?"):
            if number not in deleted:
                yield _chunk(*fields)

    def contexts(self) -> list[bytes]:
        """Return, in row order, the SHA-256 of what was embedded for each chunk (`Chunk.context_text` in UTF-8)."""
        return [context for (context,) in self.query("SELECT context FROM chunks ORDER BY row")]

    def signatures(self) -> Bands | None:
        """Return the signature of each chunk (`rag.minhash`), `(n, BANDS)`; None where the segment was written without.

        Raises `IndexDamaged` where they are not one a chunk.
        """
        if not self.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'signatures'"):
            return None
        found = b"".join(bands for (bands,) in self._pages(_SIGNATURES))
        if len(found) != 4 * BANDS * self.counts()[1]:
            raise IndexDamaged(f"the index is damaged: {self._path}: not one signature a chunk", hint=DAMAGE_HINT)
        return np.frombuffer(found, "<u4").astype(np.uint32).reshape(-1, BANDS)

    def document_records(self) -> Iterator[list[Any]]:
        """Yield the documents as they are stored, in order: number and the columns after it."""
        return self._pages("SELECT number, * FROM documents WHERE number >= ? ORDER BY number LIMIT ?")

    def chunk_records(self) -> Iterator[list[Any]]:
        """Yield the chunks as they are stored, in order: row and the columns after it."""
        return self._pages("SELECT row, * FROM chunks WHERE row >= ? ORDER BY row LIMIT ?")

    def _pages(self, statement: str) -> Iterator[list[Any]]:
        """Yield the columns behind the first, which counts up, reading a page of rows at a time."""
        start = 0
        while found := self.query(statement, start, _PAGE):
            yield from (fields for _, *fields in found)
            start = found[-1][0] + 1


class SegmentedStore:
    """The live documents and chunks of all segments of an index. Usable from several threads."""

    def __init__(self, segments: Sequence[DocumentStore], deleted: Sequence[Collection[int]], rows: Rows) -> None:
        self._segments = segments
        self._deleted = deleted
        self._rows = rows

    def parts(self) -> Iterator[tuple[DocumentStore, Collection[int]]]:
        """Yield the segments, in the order of the rows, each with the numbers of its deleted documents."""
        return zip(self._segments, self._deleted, strict=True)

    def document(self, document_id: str) -> Document:
        """Return a document with its text. Raises `UnknownDocument` where there is none of that id."""
        for segment, deleted in zip(self._segments, self._deleted, strict=True):
            found = segment.document(document_id)
            if found and found[0] not in deleted:
                return found[1]
        raise UnknownDocument(f"the index holds no document {document_id!r}")

    def chunks(self, rows: Sequence[int]) -> list[Chunk]:
        """Return the chunks of these row numbers, in their order. Raises `InvalidRequest` for a row out of range."""
        chunks: dict[int, Chunk] = {}
        for number, at, places in self._rows.places(rows):
            found = self._segments[number].chunks(places)
            chunks.update(zip(at.tolist(), (found[place] for place in places.tolist()), strict=True))
        return [chunks[at] for at in range(len(rows))]

    def chunks_of(self, document_id: str) -> list[Chunk]:
        """Return the chunks of a document in reading order, empty where there is none of that id."""
        for segment, deleted in zip(self._segments, self._deleted, strict=True):
            number = segment.number(document_id)
            if number is not None and number not in deleted:
                return segment.chunks_of(number)
        return []

    def descriptions(self) -> Iterator[tuple[str, str, Metadata]]:
        """Yield id, title and metadata of every document, in the order of their rows."""
        for segment, deleted in zip(self._segments, self._deleted, strict=True):
            for number, document_id, title, metadata in segment.descriptions():
                if number not in deleted:
                    yield document_id, title, metadata

    def described(self, document_id: str) -> tuple[str, Metadata] | None:
        """Return title and metadata of a document, None where there is none of that id."""
        for segment, deleted in zip(self._segments, self._deleted, strict=True):
            found = segment.described(document_id)
            if found and found[0] not in deleted:
                return found[1:]
        return None

    def row_documents(self) -> IntArray:
        """Return for each row `(n,)` the position of its document in `descriptions`."""
        found, first = [np.empty(0, np.int64)], 0
        for segment, deleted in zip(self._segments, self._deleted, strict=True):
            live = np.ones(segment.counts()[0], np.bool_)
            live[list(deleted)] = False
            owners = segment.owners()
            positions = first - 1 + np.cumsum(live)
            found.append(positions[owners[live[owners]]])
            first += int(np.count_nonzero(live))
        return np.concatenate(found)

    def signatures(self) -> tuple[IntArray, Bands]:
        """Return the rows `(m,)`, ascending, whose chunks have a signature, and those `(m, BANDS)`."""
        rows, bands = [np.empty(0, np.int64)], [np.empty((0, BANDS), np.uint32)]
        for number, segment in enumerate(self._segments):
            found, live = segment.signatures(), self._rows.live(number)
            if found is not None:
                places = np.arange(len(found)) if live is None else np.flatnonzero(live)
                rows.append(self._rows.number(number, places))
                bands.append(found[places])
        return np.concatenate(rows), np.concatenate(bands)

    def all_chunks(self) -> Iterator[Chunk]:
        """Yield every chunk in row order."""
        for segment, deleted in zip(self._segments, self._deleted, strict=True):
            yield from segment.all_chunks(deleted)


def _chunk(chunk_id: str, document_id: str, text: str, start: int, end: int, metadata: str) -> Chunk:
    return Chunk(chunk_id, document_id, text, Span(start, end), _metadata(metadata))


def _metadata(text: str) -> Metadata:
    found: Metadata = json.loads(text)
    return found

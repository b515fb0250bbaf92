"""An index as one file that another machine, or another program, can read: JSON Lines in a zip archive.

`index.json` says what it holds. `documents.jsonl` has a line for each document, followed by a line for each of its
chunks with its vector. docs/format.md specifies both.
"""

import base64
import json
import os
import re
import shutil
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from indexer.compact import counts, infos
from indexer.scratch import scratch
from indexer.segment import Part, StoreWriter, finish_segment
from indexer.store import IndexWriter
from rag.catalog import Original
from rag.datatypes import Chunk, Document, Span
from rag.errors import DataError, IndexMissing, InvalidRequest, Unavailable
from rag.index import Index
from rag.labels import MOST_RULES, LabelRule
from rag.manifest import SEGMENTS, ChunkerInfo, Counts, EmbedderInfo, Patterns, read_latest
from rag.protocols import FloatArray
from rag.segment import Segment

_FORMAT = "smallhold-archive-1"
_HEAD = "index.json"
_LINES = "documents.jsonl"
_MAX_HEAD = 16_000_000
_MAX_LINE = 256_000_000  # bytes of one document's text as JSON; loaders take far smaller files
_MAX_INTEGER = 2**63 - 1  # of SQLite's
_SEGMENT = 50_000  # chunks held in memory before a segment is written: 77 MB of 384 dimensions
_UNIT = 1e-3
_OFFSETS = re.compile(r"(?:[0-9]{1,9}(?:,[0-9]{1,9})*)?")

_Line = TypeVar("_Line", bound=BaseModel)
MetadataValues = dict[str, str | int | float | bool]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Head(_Record):
    format: Literal["smallhold-archive-1"]
    embedder: EmbedderInfo
    chunker: ChunkerInfo
    roots: dict[str, str]
    patterns: dict[str, Patterns] = {}
    labels: tuple[LabelRule, ...] = Field(max_length=MOST_RULES)
    counts: Counts
    bytes: int = Field(ge=0)
    sha256: str


class _OriginalLine(_Record):
    root: str
    sha256: str
    bytes: int = Field(ge=0, le=_MAX_INTEGER)
    loader: str


class _DocumentLine(_Record):
    id: str
    uri: str
    title: str
    text: str
    metadata: MetadataValues
    original: _OriginalLine
    chunks: int = Field(ge=0)


class _ChunkLine(_Record):
    id: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    metadata: MetadataValues
    vector: str


def export_index(directory: Path, archive: Path) -> Counts:
    """Write the live documents of an index to a zip archive, and return how much it holds.

    Written beside its place first, so that an archive of that name is whole or not there; what a killed export leaves,
    the next one removes. Raises `InvalidRequest` where the file exists, `IndexMissing`, `IndexDamaged`, and
    `Unavailable` where the disk refuses.
    """
    if archive.exists():
        raise InvalidRequest(f"{archive} is there already", hint="Name a new file, or remove that one first.")
    try:
        with Index.open(directory) as index, scratch(archive.absolute().parent) as folder:
            beside = folder / _LINES
            _write(index, beside)
            with beside.open("rb+") as written:
                os.fsync(written.fileno())
            beside.replace(archive)
            return index.manifest.counts
    except OSError as error:
        raise Unavailable(f"cannot write {archive}: {error.strerror or error}", hint="Make room for it.") from error


def _write(index: Index, path: Path) -> None:
    digest, size = sha256(), 0
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(_LINES, "w", force_zip64=True) as file:
            for record in _records(index):
                line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
                digest.update(line)
                size += len(line)
                file.write(line)
        manifest = index.manifest
        head: dict[str, Any] = {
            "format": _FORMAT,
            "embedder": manifest.embedder.model_dump(),
            "chunker": manifest.chunker.model_dump(),
            "roots": manifest.roots,
            "labels": [rule.model_dump() for rule in manifest.labels],
            "counts": manifest.counts.model_dump(),
            "bytes": size,
            "sha256": digest.hexdigest(),
        }
        if manifest.patterns:
            head["patterns"] = {root: patterns.model_dump() for root, patterns in manifest.patterns.items()}
        archive.writestr(_HEAD, json.dumps(head, ensure_ascii=False, indent=2))


def _records(index: Index) -> Iterator[dict[str, Any]]:
    row = 0
    for entry in index.documents_by_row():
        document = index.document(entry.id)
        yield {
            "id": document.id,
            "uri": document.uri,
            "title": document.title,
            "text": document.text,
            "metadata": dict(document.metadata),
            "original": entry.original._asdict(),
            "chunks": entry.chunks,
        }
        vectors_md = index.vectors.rows(range(row, row + entry.chunks)).astype("<f4")
        for chunk, vector_d in zip(index.store.chunks_of(entry.id), vectors_md, strict=True):
            yield {
                "id": chunk.id,
                "start": chunk.span.start,
                "end": chunk.span.end,
                "metadata": dict(chunk.metadata),
                "vector": base64.b64encode(vector_d.tobytes()).decode("ascii"),
            }
        row += entry.chunks


def import_index(archive: Path, directory: Path) -> Counts:
    """Make a new index of an archive. Nothing is embedded; terms are counted anew.

    Raises `InvalidRequest` where the directory holds an index, `DataError` for anything that `export_index` does not
    write, `IndexLocked`, and `Unavailable` where the disk refuses or has no room. Then there is no index afterwards.
    """
    try:
        with _opened(archive) as opened, IndexWriter(directory) as writer:
            with suppress(IndexMissing):  # one that has lost CURRENT is an index still
                read_latest(directory)
                raise InvalidRequest(
                    f"{directory} holds an index already",
                    hint="Name a new folder with --index. Has it lost its file CURRENT? Then: smallhold store repair",
                )
            head = _head(opened, archive, directory)
            with _member(opened, _LINES, archive) as file, writer.guard(), writer.staging() as staging:
                _import(writer, staging, head, _Lines(file, archive), archive)
            return head.counts
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, KeyError) as error:
        raise _malformed(archive, str(error)) from error


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except FileNotFoundError:
        raise InvalidRequest(f"there is no file {archive}") from None
    except OSError as error:
        raise InvalidRequest(f"{archive} cannot be read: {error.strerror or error}") from error


def _member(opened: zipfile.ZipFile, name: str, archive: Path) -> IO[bytes]:
    try:
        return opened.open(name)
    except (OSError, ValueError) as error:  # its place lies outside of the file
        raise _malformed(archive, f"{name} is not where it should be") from error


def _head(opened: zipfile.ZipFile, archive: Path, directory: Path) -> _Head:
    if sorted(opened.namelist()) != sorted((_HEAD, _LINES)):
        raise _malformed(archive, f"it holds other files than {_HEAD} and {_LINES}")
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in opened.infolist()):
        raise _malformed(archive, "it is packed with another method than Deflate")
    if opened.getinfo(_HEAD).file_size > _MAX_HEAD:
        raise _malformed(archive, f"{_HEAD} is larger than {_MAX_HEAD} bytes")
    with _member(opened, _HEAD, archive) as file:
        head = _parsed(_Head, file.read(_MAX_HEAD), archive, _HEAD)
    if opened.getinfo(_LINES).file_size != head.bytes:
        raise _malformed(archive, f"{_LINES} has another size than {_HEAD} says")
    # Deflate packs up to a thousandfold: what is to be written is weighed before any of it is.
    if head.bytes > shutil.disk_usage(directory).free:
        raise Unavailable(
            f"{archive} holds {head.bytes} bytes, more than there is room for in {directory}", hint="Make room first."
        )
    return head


class _Lines:
    """The records of `documents.jsonl`, read one at a time."""

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        self._file = file
        self._archive = archive
        self._number = 0
        self.digest = sha256()

    def next(self, kind: type[_Line]) -> _Line:
        """Return the next record. Raises `DataError`, also where there is none."""
        line = self._file.readline(_MAX_LINE + 1)
        self._number += 1
        if not line.endswith(b"\n"):
            raise _malformed(self._archive, f"{_LINES} line {self._number}: it is cut short or too long")
        self.digest.update(line)
        return _parsed(kind, line, self._archive, f"{_LINES} line {self._number}")

    def end(self, head: _Head) -> None:
        """Make sure that nothing follows and that it was what was exported."""
        if self._file.read(1):
            raise _malformed(self._archive, f"{_LINES} has more lines than {_HEAD} says")
        if self.digest.hexdigest() != head.sha256:
            raise _malformed(self._archive, f"the content of {_LINES} differs from its checksum")


def _import(writer: IndexWriter, staging: Path, head: _Head, lines: _Lines, archive: Path) -> None:
    """Write segments until all documents are there, and publish them."""
    dimension = head.embedder.dimension
    parts: list[Part] = []
    ids: set[str] = set()
    while len(ids) < head.counts.documents:
        vectors: list[FloatArray] = []
        with StoreWriter(staging / SEGMENTS / writer.new_segment(staging)) as incoming:
            while len(ids) < head.counts.documents and len(vectors) < _SEGMENT:
                document = lines.next(_DocumentLine)
                if document.id in ids:
                    raise _malformed(archive, f"document {document.id!r} is there twice")
                ids.add(document.id)
                chunks = []
                for _ in range(document.chunks):
                    chunk, vector_d = _chunk(lines.next(_ChunkLine), document, dimension, archive)
                    chunks.append(chunk)
                    vectors.append(vector_d)
                _add(incoming, document, chunks, archive)
        vectors_nd = np.array(vectors, np.float32).reshape(-1, dimension)
        parts.append(Part(Segment(staging, finish_segment(incoming, vectors_nd), dimension), frozenset()))
    lines.end(head)
    if counts(parts) != head.counts:
        raise _malformed(archive, f"it holds other numbers of documents or chunks than {_HEAD} says")
    writer.publish(
        staging,
        segments=infos(parts),
        deleted={},
        embedder=head.embedder,
        chunker=head.chunker,
        roots=head.roots,
        patterns=head.patterns,
        labels=head.labels,
        counts=head.counts,
    )


def _chunk(line: _ChunkLine, document: _DocumentLine, dimension: int, archive: Path) -> tuple[Chunk, FloatArray]:
    try:
        vector_d = np.frombuffer(base64.b64decode(line.vector, validate=True), "<f4")
    except ValueError:
        vector_d = np.empty(0, np.float32)
    if len(vector_d) != dimension or not abs(float(np.linalg.norm(vector_d)) - 1) <= _UNIT:
        raise _malformed(archive, f"chunk {line.id!r} has no vector of length 1 in {dimension} dimensions")
    if not line.start <= line.end <= len(document.text):
        raise _malformed(archive, f"chunk {line.id!r} is no part of its document")
    if not _has_pages(line.metadata):
        raise _malformed(archive, f"chunk {line.id!r} has pages that are no numbers")
    text = document.text[line.start : line.end]
    return Chunk(line.id, document.id, text, Span(line.start, line.end), line.metadata), vector_d


def _has_pages(metadata: MetadataValues) -> bool:
    """Whether the page of a chunk, and where further ones start in it, are numbers, if they are there."""
    page, breaks = metadata.get("page", 1), metadata.get("page_breaks", "")
    return type(page) is int and isinstance(breaks, str) and _OFFSETS.fullmatch(breaks) is not None


def _add(incoming: StoreWriter, line: _DocumentLine, chunks: Sequence[Chunk], archive: Path) -> None:
    document = Document(line.id, line.uri, line.title, line.text, line.metadata)
    try:
        incoming.add(document, chunks, Original(**line.original.model_dump()))
    except sqlite3.IntegrityError:
        raise _malformed(archive, f"document {line.id!r} has a chunk whose id is there already") from None
    except UnicodeEncodeError:
        raise _malformed(archive, f"document {line.id!r} holds characters that are no valid text") from None


def _parsed(kind: type[_Line], content: bytes, archive: Path, where: str) -> _Line:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise _malformed(archive, f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _malformed(archive: Path, reason: str) -> DataError:
    return DataError(f"{archive}: {reason}", hint="Export it again: smallhold store export FILE")

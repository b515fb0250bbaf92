"""Writing an index directory: whole generations, published atomically by one writer at a time."""

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout

from rag.datatypes import Chunk, Document
from rag.docstore import Original
from rag.errors import IndexLocked, InvalidRequest, SmallholdError, Unavailable
from rag.labels import LabelRule
from rag.manifest import (
    CURRENT,
    FILES,
    FORMAT_VERSION,
    GENERATIONS,
    LOCK,
    MANIFEST,
    ChunkerInfo,
    Counts,
    EmbedderInfo,
    Manifest,
    describe_file,
    read_current,
)

_STAGING = ".staging"
_NEXT = f".{CURRENT}"

_SCHEMA = """
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, title TEXT NOT NULL,
    root TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, loader TEXT NOT NULL,
    chunks INTEGER NOT NULL, metadata TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, number INTEGER NOT NULL REFERENCES documents,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, context BLOB NOT NULL, metadata TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX chunks_by_document ON chunks (number);
"""


def context_key(chunk: Chunk) -> bytes:
    """Return the SHA-256 of what is embedded for a chunk: equal keys, equal vectors."""
    return sha256(chunk.context_text.encode()).digest()


class StoreWriter:
    """Writes a new `store.sqlite`. Documents and chunks are numbered from 0 in the order they are added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.documents = 0
        self.chunks = 0
        with _as_os_error(path):
            self._connection = sqlite3.connect(path, isolation_level=None)
            # No journal: the file is thrown away unless it is finished, and synced by the publisher.
            self._connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
            self._connection.execute("BEGIN")

    def add(self, document: Document, chunks: Sequence[Chunk], original: Original) -> None:
        """Add a document and its chunks. Raises `OSError` on a full disk."""
        root, digest, size, loader = original
        with _as_os_error(self._path):
            self._connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(self.documents, document.id, document.uri, document.title, root, digest, size, loader),
                    *(len(chunks), _json(document.metadata), document.text),
                ),
            )
            self._connection.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (row, c.id, self.documents, c.span.start, c.span.end, context_key(c), _json(c.metadata), c.text)
                    for row, c in enumerate(chunks, self.chunks)
                ],
            )
        self.documents += 1
        self.chunks += len(chunks)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with _as_os_error(self._path):
            try:
                if kind is None:
                    self._connection.execute("COMMIT")
            finally:
                self._connection.close()


class IndexWriter:
    """The exclusive right to write an index directory; use it as a context manager.

    Entering raises `IndexLocked` where another process writes, `InvalidRequest` where the directory is someone
    else's, and removes what a killed writer left behind. Leaving an unpublished run leaves the old index untouched.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = FileLock(directory / LOCK)

    def __enter__(self) -> "IndexWriter":
        with self.guard():
            _refuse_foreign(self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                self._remove_leftovers()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a hidden folder to write a generation into; it is removed unless `publish` has taken it."""
        with self.guard():
            folder = self.directory / _STAGING
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(
        self,
        folder: Path,
        *,
        embedder: EmbedderInfo,
        chunker: ChunkerInfo,
        roots: Mapping[str, str],
        counts: Counts,
        labels: Sequence[LabelRule] = (),
    ) -> str:
        """Make a staged folder the current generation, remove all others, and return its name.

        The switch is the replacement of `CURRENT`: a crash before it leaves the old generation current, one after it
        the new one. Everything is on disk before the switch. Raises `Unavailable` where the disk refuses.
        """
        with self.guard():
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                created=datetime.now(UTC).replace(microsecond=0),
                smallhold=_program_version(),
                embedder=embedder,
                chunker=chunker,
                roots=dict(roots),
                labels=tuple(labels),
                counts=counts,
                files={name: describe_file(folder / name) for name in sorted(FILES)},
            )
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            _sync_tree(folder)
            name = self._next_name()
            generations = self.directory / GENERATIONS
            generations.mkdir(exist_ok=True)
            folder.rename(generations / name)
            _sync(generations)
            temporary = self.directory / _NEXT
            temporary.write_text(name + "\n", encoding="ascii")
            _sync(temporary)
            temporary.replace(self.directory / CURRENT)
            _sync(self.directory)
            self._remove_leftovers()
        return name

    def confirm(self) -> None:
        """Note, as the time of `CURRENT`, that the current generation is what its folders hold now."""
        with self.guard():
            os.utime(self.directory / CURRENT)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Translate what a disk can refuse while the index is written."""
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"cannot write the index in {self.directory}: {error.strerror or error}",
                hint="The index that was there is untouched. Make room or make the folder writable, then run it again.",
            ) from error

    def _acquire(self) -> None:
        path = self.directory / LOCK
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            holder = path.read_text(encoding="ascii", errors="replace").strip()[:20]
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise IndexLocked(
                f"{who} is writing the index in {self.directory}", hint="Wait for it to finish, then run this again."
            ) from None
        path.write_text(f"{os.getpid()}\n", encoding="ascii")

    def _next_name(self) -> str:
        numbers = [int(path.name) for path in self._generations()]
        with suppress(SmallholdError):
            numbers.append(int(read_current(self.directory)))
        return f"{max(numbers, default=0) + 1:06d}"

    def _generations(self) -> list[Path]:
        folder = self.directory / GENERATIONS
        return [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []

    def _remove_leftovers(self) -> None:
        (self.directory / _NEXT).unlink(missing_ok=True)
        if (self.directory / _STAGING).exists():
            shutil.rmtree(self.directory / _STAGING)
        try:
            current = read_current(self.directory)
        except SmallholdError:
            return  # Nothing says which generation counts: the next publication settles it.
        for path in self._generations():
            if path.name != current:
                shutil.rmtree(path)


def _refuse_foreign(directory: Path) -> None:
    """A mistyped `--index` must not fill someone's folder, nor take it for an index."""
    if (directory / CURRENT).exists() or not directory.is_dir():
        return
    others = [p.name for p in directory.iterdir() if p.name not in {GENERATIONS, LOCK} and not p.name.startswith(".")]
    if others:
        raise InvalidRequest(
            f"{directory} is no index, and holds other things ({others[0]!r})",
            hint="Name a new or empty folder for the index.",
        )


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Force a file or folder to disk."""
    if path.is_dir() and sys.platform == "win32":
        return  # Windows cannot open folders.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _program_version() -> str:
    try:
        return version("smallhold")
    except PackageNotFoundError:
        return "uninstalled"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"{path}: {error}") from error

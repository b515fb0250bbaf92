"""Finished vectors of a run that has not published yet, so that a killed run need not embed them again."""

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rag.protocols import FloatArray

_NAME = ".embeddings"
# What the system says, and not the file: all else is damage, down to a table or column that has another name.
_REFUSED = frozenset(
    (
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
    )
)


class Checkpoint:
    """Vectors of one embedder, by the SHA-256 of the embedded text, in a file of the index directory.

    A file of another embedder, or a damaged one, is thrown away, and a vector that is not what was written is left out:
    all it costs is embedding again. Methods raise `OSError` where the disk refuses.
    """

    def __init__(self, directory: Path, fingerprint: str, dimension: int) -> None:
        self._directory = directory
        self._path = directory / _NAME
        self._owner = f"{fingerprint} {dimension}"
        self._bytes = 4 * dimension
        with _as_os_error(self._path):
            try:
                self._connection = self._open()
            except sqlite3.DatabaseError as error:
                self._throw_away(error)

    def vectors(self) -> dict[bytes, FloatArray]:
        """Return all vectors `(d,)` by key."""
        rows = self._all("SELECT key, vector FROM vectors")
        size = self._bytes
        return {
            key: np.frombuffer(stored[:size], np.float32)
            for key, stored in rows
            if isinstance(stored, bytes) and len(stored) == size + 4 and stored[size:] == _sum(stored[:size])
        }

    def keys(self) -> set[bytes]:
        """Return whose vectors are here."""
        # It names the column of the vectors, too: where that is damaged, it is thrown away before more is added.
        return {key for (key,) in self._all("SELECT key FROM vectors WHERE vector IS NOT NULL")}

    def add(self, keys: Sequence[bytes], vectors_nd: FloatArray) -> None:
        """Keep vectors `(n, d)`; they are on disk when this returns."""
        stored = [vector.astype(np.float32, copy=False).tobytes() for vector in vectors_nd]
        rows = [(key, vector + _sum(vector)) for key, vector in zip(keys, stored, strict=True)]
        with _as_os_error(self._path):
            try:
                self._insert(rows)
            except sqlite3.DatabaseError as error:
                self._throw_away(error)
                self._insert(rows)

    def _insert(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def _all(self, statement: str) -> list[Any]:
        with _as_os_error(self._path):
            try:
                return self._connection.execute(statement).fetchall()
            except sqlite3.DatabaseError as error:
                self._throw_away(error)
                return []

    def _throw_away(self, error: sqlite3.DatabaseError) -> None:
        """Begin anew where the file is damaged; raise the error where the disk refuses."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _REFUSED:
            raise error
        if hasattr(self, "_connection"):
            self._connection.close()
        discard(self._directory)
        self._connection = self._open()

    def close(self) -> None:
        """Release the file and keep it for the next run."""
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path)
        try:
            with connection:
                connection.execute("CREATE TABLE IF NOT EXISTS owner (name TEXT PRIMARY KEY)")
                connection.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
                if connection.execute("SELECT name FROM owner").fetchall() != [(self._owner,)]:
                    connection.execute("DELETE FROM vectors")
                    connection.execute("DELETE FROM owner")
                    connection.execute("INSERT INTO owner VALUES (?)", (self._owner,))
        except BaseException:
            connection.close()
            raise
        return connection


def _sum(vector: bytes) -> bytes:
    return zlib.crc32(vector).to_bytes(4, "little")


def discard(directory: Path) -> None:
    """Delete the checkpoint of an index directory, if there is one: its vectors are published, or wanted by no one."""
    for name in (_NAME, f"{_NAME}-journal"):
        (directory / name).unlink(missing_ok=True)


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise OSError(f"{path}: {error}") from error

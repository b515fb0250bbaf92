"""Finished vectors of a run that has not published yet, so that a killed run need not embed them again."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rag.protocols import FloatArray

_NAME = ".embeddings"


class Checkpoint:
    """Vectors of one embedder, by the SHA-256 of the embedded text, in a file of the index directory.

    A file of another embedder, or a damaged one, is thrown away: all it costs is embedding again. Methods raise
    `OSError` where the disk refuses.
    """

    def __init__(self, directory: Path, fingerprint: str, dimension: int) -> None:
        self._path = directory / _NAME
        self._owner = f"{fingerprint} {dimension}"
        with _as_os_error(self._path):
            try:
                self._connection = self._open()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                discard(directory)
                self._connection = self._open()

    def vectors(self) -> dict[bytes, FloatArray]:
        """Return all vectors `(d,)` by key."""
        with _as_os_error(self._path):
            rows = self._connection.execute("SELECT key, vector FROM vectors").fetchall()
        return {key: np.frombuffer(vector, np.float32) for key, vector in rows}

    def keys(self) -> set[bytes]:
        """Return whose vectors are here."""
        with _as_os_error(self._path):
            return {key for (key,) in self._connection.execute("SELECT key FROM vectors")}

    def add(self, keys: Sequence[bytes], vectors_nd: FloatArray) -> None:
        """Keep vectors `(n, d)`; they are on disk when this returns."""
        rows = [(key, vector.tobytes()) for key, vector in zip(keys, vectors_nd, strict=True)]
        with _as_os_error(self._path), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

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

"""What a segment holds, without texts: enough to tell what must be read, embedded or deleted."""

import sqlite3
import threading
from collections.abc import Callable, Collection, Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rag.errors import IndexDamaged
from rag.manifest import DAMAGE_HINT
from rag.protocols import BoolArray, IntArray

T = TypeVar("T")

_RECOGNISED = ", recognised by "


class Original(NamedTuple):
    """What a document was made from: enough to tell whether it must be read again.

    `root` is the absolute path of the indexed root (empty for records), `sha256` and `bytes` describe the original and
    `loader` is the version of the loader that read it, and of what recognised its pages, if they may be pictures.
    """

    root: str
    sha256: str
    bytes: int
    loader: str

    def serves(self, wanted: "Original") -> bool:
        """Whether what was made from this need not be made again for `wanted`.

        What was recognised in pictures stays where nothing would be recognised any more.
        """
        return self[:3] == wanted[:3] and serves(self.loader, wanted.loader)


def with_recogniser(loader: str, recogniser: str) -> str:
    """Return the version of a loader together with that of what recognises pages for it, "" for none."""
    return f"{loader}{_RECOGNISED}{recogniser}" if recogniser else loader


def serves(loader: str, wanted: str) -> bool:
    """Whether what this loader has read is what the `wanted` one would read, or more.

    Another version without a recogniser would not read pictures: what was recognised in them would be lost.
    """
    return loader == wanted or (_RECOGNISED in loader and _RECOGNISED not in wanted)


class DocumentEntry(NamedTuple):
    """A document without its text. `chunks` is their number, `bytes` the size of the original."""

    id: str
    title: str
    uri: str
    chunks: int
    bytes: int
    original: Original


class ReadOnlyDatabase:
    """An SQLite file that no one writes any more. Usable from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._made: dict[str, tuple[Hashable, Any]] = {}
        try:
            # Immutable: no locks and no journal, and reading goes on after the file's directory is replaced.
            self._connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            self._connection.execute("SELECT count(*) FROM documents").fetchone()
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    def made(self, name: str, make: Callable[[], T], key: Hashable = None) -> T:
        """Return what `make` makes of this file, which never changes: once, and anew where `key` is another.

        So the next generation of an index costs a server what is new in it, and not what both have in common.
        """
        known = self._made.get(name)
        if known is None or known[0] != key:
            known = self._made[name] = (key, make())
        found: T = known[1]
        return found

    def query(self, statement: str, *parameters: object) -> list[Any]:
        """Return all rows of a statement. Raises `IndexDamaged`."""
        try:
            with self._lock:
                return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: sqlite3.Error) -> IndexDamaged:
        return IndexDamaged(f"the index is damaged: {self._path}: {error}", hint=DAMAGE_HINT)


class Catalog(ReadOnlyDatabase):
    """Read access to a segment's `catalog.sqlite`: its documents by number, and its chunks by what was embedded."""

    def entries(self) -> list[DocumentEntry]:
        """Return all documents by number, the deleted ones included."""
        rows = self.query("SELECT id, title, uri, chunks, bytes, root, sha256, loader FROM documents ORDER BY number")
        return [
            DocumentEntry(found_id, title, uri, chunks, size, Original(root, digest, size, loader))
            for found_id, title, uri, chunks, size, root, digest, loader in rows
        ]

    def __len__(self) -> int:
        ((documents,),) = self.query("SELECT count(*) FROM documents")
        return int(documents)

    def live_rows(self, deleted: Collection[int]) -> BoolArray:
        """Return for each row of the segment whether its document is not among the deleted ones."""
        chunks = self.made("chunks", self._chunks)
        kept = np.ones(len(chunks), np.bool_)
        kept[list(deleted)] = False
        return np.repeat(kept, chunks)

    def _chunks(self) -> IntArray:
        return np.array([n for (n,) in self.query("SELECT chunks FROM documents ORDER BY number")], np.int64)

    def find(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Return a row of each text (SHA-256 of `Chunk.context_text` in UTF-8) that was embedded in this segment."""
        found: dict[bytes, int] = {}
        for key in keys:
            found.update(self.query("SELECT context, row FROM contexts WHERE context = ?", key))
        return found

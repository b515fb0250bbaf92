"""What API keys have spent: tokens by key and UTC day, kept over restarts.

A table of one row a key, in SQLite beside the file of the keys: adding to a row is atomic, whatever is killed and
however many threads and servers add, and in WAL mode it waits for no disk. (A power cut may forget the last answers.)
Keys without a budget are not counted, so that a server without budgets writes nothing.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rag.datatypes import Delta, Usage
from rag.errors import BudgetSpent, KeysDamaged
from rag.keys import Key

logger = logging.getLogger(__name__)

_TABLE = "CREATE TABLE IF NOT EXISTS spent (key TEXT PRIMARY KEY, day TEXT NOT NULL, tokens INTEGER NOT NULL) STRICT"
_ADD = """
INSERT INTO spent (key, day, tokens) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE
SET tokens = excluded.tokens + CASE day WHEN excluded.day THEN tokens ELSE 0 END, day = excluded.day
"""
_BEGUN = ""  # in the place of a key's id: how many answers were begun for keys with budgets
_READ = "SELECT tokens FROM spent WHERE key = ? AND day = ?"


def ledger_path(keys: Path) -> Path:
    """Where the tokens are kept that the keys of a file have spent."""
    return keys.with_name(f"{keys.stem}-spent.sqlite")


def utc_now() -> datetime:
    """The time that days are counted by."""
    return datetime.now(UTC)


def make_private(path: Path) -> None:
    """Make an empty file that its owner alone may read, where there is none: SQLite itself would let everybody.

    One that exists is not touched. Opened and closed, it would lose the locks of this process's other connections, and
    whoever else closes it then believes to be the last, and takes the journal away that is still written to.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def may_be_there(path: Path) -> bool:
    """Whether there is a file, or the system does not say: whoever opens it then is told why."""
    try:
        return path.exists()
    except OSError:  # for one, a folder that may not be looked into
        return True


class Ledger:
    """Counts tokens against the budgets of keys. For any number of threads; the file is made when one is first spent.

    A key may begin a request while it has tokens left, and that request is answered whole: what it costs is known at
    its end. So the requests of one key that run at the same time may together go past the budget.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = utc_now) -> None:
        self._path = path
        self._now = now
        # Apart, so that the event loop, which looks before each request, never waits for a disk that is written to.
        self._reading, self._writing = _File(path), _File(path)

    def spent(self, key: Key) -> int:
        """Return what a key has spent today. Raises `KeysDamaged`."""
        if not may_be_there(self._path):
            return 0
        with self._kept(self._reading) as connection:
            row = connection.execute(_READ, (key.id, self._today())).fetchone()
        return int(row[0]) if row is not None else 0

    def check(self, key: Key | None) -> None:
        """Let a key pass that has tokens left, and everybody who has no budget. Raises `BudgetSpent`, `KeysDamaged`."""
        if key is None or key.tokens_per_day is None or self.spent(key) < key.tokens_per_day:
            return
        raise BudgetSpent(
            f"this key's {key.tokens_per_day} tokens of the day are spent",
            hint="It may go on after midnight, UTC.",
            retry_after=self._until_midnight(),
        )

    def begin(self, key: Key | None) -> None:
        """Check, and write down that an answer begins, so that a full disk is found out before the model has worked.

        Raises `BudgetSpent`, `KeysDamaged`.
        """
        self.check(key)
        if key is not None and key.tokens_per_day is not None:
            self._add(_BEGUN, 1)

    def charge(self, key: Key | None, tokens: int) -> None:
        """Count tokens against a key's budget, where it has one. Raises `KeysDamaged` where they cannot be kept."""
        if key is not None and key.tokens_per_day is not None and tokens > 0:
            self._add(key.id, tokens)

    def close(self) -> None:
        """Release the file; it is opened again where it is needed again. Idempotent."""
        self._reading.close()
        self._writing.close()

    def _add(self, name: str, tokens: int) -> None:
        with self._kept(self._writing) as connection:
            connection.execute(_ADD, (name, self._today(), tokens))

    def _today(self) -> str:
        return self._now().astimezone(UTC).date().isoformat()

    def _until_midnight(self) -> int:
        """Whole seconds, rounded up, until the next day begins in UTC."""
        now = self._now().astimezone(UTC)
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return -((now - midnight) // timedelta(seconds=1))

    @contextmanager
    def _kept(self, file: "_File") -> Iterator[sqlite3.Connection]:
        try:
            with file.connection() as connection:
                yield connection
        except (sqlite3.Error, OSError) as error:
            # Not to count would be to give without limit. The path stays in the log: clients are told the rest.
            logger.error("the tokens that keys have spent cannot be kept in %s: %s", self._path, error)
            raise KeysDamaged(
                "the tokens that this key has spent cannot be kept", hint="The server's log says why."
            ) from error


class _File:
    """A connection to the file, for one thread at a time; in WAL mode those who read wait for nobody who writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._open: sqlite3.Connection | None = None
        self._inode = 0

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection. Raises `OSError` and what SQLite raises."""
        with self._lock:
            if self._open is not None and not self._is_there():
                self._open.close()
                self._open = None
            if self._open is None:
                self._open = self._connect()
                self._inode = self._path.stat().st_ino
            yield self._open

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    def _is_there(self) -> bool:
        """Whether the open file is still the one of that name: whoever deletes it begins to count anew, not never."""
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def _connect(self) -> sqlite3.Connection:
        make_private(self._path)
        # Autocommit: every statement is a transaction of its own.
        connection = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(_TABLE)
        return connection


def charged(ledger: Ledger, key: Key | None, begin: Callable[[], Iterator[Delta]]) -> Iterator[Delta]:
    """Pass on an answer's deltas, and charge the key with its tokens however it ends: those of prompt and answer.

    Raises `BudgetSpent` before it begins, where others of the same key spent the rest while this one waited, and
    `KeysDamaged`, where what it uses could not be kept.
    """
    ledger.begin(key)
    used, done = Usage(), False
    deltas = begin()
    try:
        for delta in deltas:
            told = delta.answer.usage if delta.answer is not None else delta.usage
            if told != Usage():  # an endpoint that tells nothing at the end leaves what was estimated before
                used = told or used
            if delta.answer is not None:
                done = True  # before it is sent: whoever has it may ask on at once
                ledger.charge(key, used.prompt + used.completion)
            yield delta
    finally:
        close = getattr(deltas, "close", None)
        if close is not None:
            close()
        if not done:
            ledger.charge(key, used.prompt + used.completion)

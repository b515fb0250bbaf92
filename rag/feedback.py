"""What people say of answers: a thumb, a comment, what would have been right. Off unless the settings ask for it.

Only what was rated is kept, in an SQLite file readable by its owner alone, for `feedback.days`; what is older is
overwritten and gone, in SQLite's journal as well. A rating names its answer, and what was asked and answered comes from
the server's own memory of the last answers, so that nobody can put words into its mouth.
"""

import json
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from rag.budget import make_private, may_be_there, utc_now
from rag.datatypes import Answer, Message
from rag.errors import FeedbackDamaged, UnknownAnswer
from rag.evidence import recent_turns
from rag.keys import Key

logger = logging.getLogger(__name__)

Rating = Literal["up", "down"]

REMEMBERED = 500  # answers that can still be rated for the first time; with the lengths below, 20 MB at the very most
LONGEST_QUESTION = 20_000  # characters; a longer one is answered, and cannot be rated
LONGEST_HISTORY = 8_000  # characters of the earlier turns that are kept with it, the latest first
MOST = 100_000  # ratings in the file; the oldest leave first
_ZEROS = 1_000_000  # bytes that are overwritten at once
_LOCK_SECONDS = 10.0  # how long the file may be in others' hands
_LOOK_SECONDS = 0.002

_TABLE = """
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY, at TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, question TEXT NOT NULL,
    history TEXT NOT NULL, answer TEXT NOT NULL, verdict TEXT NOT NULL, cited TEXT NOT NULL,
    rating TEXT NOT NULL, comment TEXT NOT NULL, right_answer TEXT NOT NULL
) STRICT
"""
_COLUMNS = "id, at, model, question, history, answer, verdict, cited, rating, comment, right_answer"
_INSERT = "INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_UPDATE = "UPDATE feedback SET at = ?, rating = ?, comment = ?, right_answer = ? WHERE id = ? AND key = ?"
_TRIM = "DELETE FROM feedback WHERE id IN (SELECT id FROM feedback ORDER BY at DESC, id LIMIT -1 OFFSET ?)"


class Opinion(NamedTuple):
    """What somebody says of an answer. `right_answer` is what it should have been, "" where that was not told."""

    rating: Rating
    comment: str = ""
    right_answer: str = ""


class Feedback(NamedTuple):
    """An answer with what was said of it. `cited` are the ids of the documents that it named as its sources."""

    id: str
    at: datetime
    model: str
    question: str
    history: tuple[Message, ...]
    answer: str
    verdict: str
    cited: tuple[str, ...]
    opinion: Opinion


class _Exchange(NamedTuple):
    key: str
    model: str
    question: str
    history: Sequence[Message]
    answer: Answer


class FeedbackBook:
    """The file of the ratings, and the memory of the answers that may be rated. For any number of threads.

    A key rates its own answers, and those without a key rate what was asked without one.
    """

    def __init__(self, path: Path, days: int, now: Callable[[], datetime] = utc_now) -> None:
        self._path = path
        self._kept = timedelta(days=days)
        self._now = now
        self._lock = threading.Lock()
        self._memory_lock = threading.Lock()  # of its own: whoever remembers must not wait for a disk
        self._remembered: OrderedDict[str, _Exchange] = OrderedDict()

    def remember(
        self, id_: str, key: Key | None, model: str, question: str, history: Sequence[Message], answer: Answer
    ) -> None:
        """Keep an answer in memory, so that it can be rated by its id."""
        if len(question) > LONGEST_QUESTION:
            return
        turns = recent_turns(history, budget=LONGEST_HISTORY, count=len)
        with self._memory_lock:
            self._remembered[id_] = _Exchange(_name(key), model, question, turns, _without_passages(answer))
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)

    def rate(self, id_: str, key: Key | None, opinion: Opinion | None) -> datetime | None:
        """Keep an opinion in place of an earlier one of the same answer, or none; return until when it is kept.

        Raises `UnknownAnswer` where that is no answer to this key, or too old; `FeedbackDamaged`.
        """
        now = self._now()
        with self._connection() as connection:
            self._forget_old(connection, now)
            if opinion is None:
                connection.execute("DELETE FROM feedback WHERE id = ? AND key = ?", (id_, _name(key)))
                return None
            changed = connection.execute(_UPDATE, (_stamp(now), *opinion, id_, _name(key))).rowcount
            if not changed:
                connection.execute(_INSERT, self._row(id_, key, opinion, now))
                connection.execute(_TRIM, (MOST,))
        return now + self._kept

    def forget_old(self) -> None:
        """Remove what was kept for long enough. Raises `FeedbackDamaged`."""
        if may_be_there(self._path):
            with self._connection() as connection:
                self._forget_old(connection, self._now())

    def read(self) -> list[Feedback]:
        """Return everything that is kept, the oldest first. Raises `FeedbackDamaged`."""
        if not may_be_there(self._path):
            return []
        with self._connection() as connection:
            self._forget_old(connection, self._now())
            rows = connection.execute(f"SELECT {_COLUMNS} FROM feedback ORDER BY at, id").fetchall()  # noqa: S608
            return [_feedback(*row) for row in rows]

    def _row(self, id_: str, key: Key | None, opinion: Opinion, now: datetime) -> tuple[str, ...]:
        with self._memory_lock:
            exchange = self._remembered.get(id_)
        if exchange is None or exchange.key != _name(key):
            raise UnknownAnswer(
                "this answer is not known here, or no longer",
                hint=f"The last {REMEMBERED} answers since the server's start can be rated, by whoever asked.",
            )
        answer = exchange.answer
        history = json.dumps([[turn.role, turn.content] for turn in exchange.history])
        cited = json.dumps(list(dict.fromkeys(citation.document_id for citation in answer.citations)))
        asked = (exchange.key, exchange.model, exchange.question, history)
        return (id_, _stamp(now), *asked, answer.text, answer.verdict.value, cited, *opinion)

    def _forget_old(self, connection: sqlite3.Connection, now: datetime) -> None:
        connection.execute("DELETE FROM feedback WHERE at < ?", (_stamp(now - self._kept),))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One transaction, in a connection of its own: ratings are rare, and the file may be moved away meanwhile."""
        try:
            with self._lock:
                connection = self._connect()
                try:
                    with connection:
                        yield connection
                    self._wipe_journal()  # not after what failed, which it may be needed to undo
                finally:
                    connection.close()
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            # The path stays in the log: clients are told the rest.
            logger.error("the feedback in %s cannot be kept or read: %s", self._path, error)
            raise FeedbackDamaged("the feedback cannot be kept", hint="The server's log says why.") from error

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        make_private(self._path)
        connection = sqlite3.connect(self._path, timeout=0)
        try:
            connection.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten, not just unlinked
            _lock(connection)
            # The journal has the pages as they were. It is left there when the transaction ends, to be overwritten, and
            # so is the lock: until this connection is closed nobody else writes to that file. Said before it is locked,
            # whoever waits for that would keep a lock to read, and whoever has it could not go on.
            connection.execute("PRAGMA journal_mode = PERSIST")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute(_TABLE)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _wipe_journal(self) -> None:
        """Overwrite what the journal of the transaction that has ended holds, and remove it."""
        journal = Path(f"{self._path.resolve()}-journal")
        with suppress(FileNotFoundError), journal.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for start in range(0, size, _ZEROS):
                file.write(bytes(min(_ZEROS, size - start)))
            file.flush()
            os.fsync(file.fileno())
        journal.unlink(missing_ok=True)


def _lock(connection: sqlite3.Connection) -> None:
    """Begin a transaction that nobody else reads or writes beside; at once, since of two that read before they write
    neither could go on.

    SQLite itself waits longer and longer between two looks, and of several who write without a pause, some never find
    the moment at which it is free.
    """
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
            time.sleep(_LOOK_SECONDS)
        else:
            return


def _feedback(
    id_: str, at: str, model: str, question: str, history: str, answer: str, verdict: str, cited: str, *said: str
) -> Feedback:
    turns = tuple(Message(role, content) for role, content in json.loads(history))
    rating, comment, right_answer = said
    opinion = Opinion("up" if rating == "up" else "down", comment, right_answer)
    when = datetime.fromisoformat(at)
    return Feedback(id_, when, model, question, turns, answer, verdict, tuple(json.loads(cited)), opinion)


def _without_passages(answer: Answer) -> Answer:
    """The hundred passages that were found are of no use here, and most of the memory."""
    return Answer(answer.text, answer.citations, verdict=answer.verdict)


def _name(key: Key | None) -> str:
    return key.id if key is not None else ""


def _stamp(when: datetime) -> str:
    """Of one length, so that the order of texts is that of times."""
    return when.astimezone(UTC).isoformat(timespec="microseconds")

"""Answers of language models, kept by the content of the request, so that no question is paid for twice.

What reaches the `Generator` is the whole request (weights or endpoint, rendered messages, sampling), so a changed
threshold or price or passage order costs nothing where the prompt stays the same. `eval.replay` puts the saved answers
before a model.
"""

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from eval.recording import Recording, SavedAnswer, decode, encode, goes_on
from rag.datatypes import Message, Sampling
from rag.errors import Unavailable

FILE = "answers.sqlite"

# An answer takes some 60 bytes a token: far more than a million answers of this length fit into the whole.
MAX_ANSWER = 4_000_000
MAX_CACHE = 2_000_000_000

_VERSION = 3
_WAIT = 60.0  # seconds for another process to finish its write, which takes milliseconds
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, checksum TEXT NOT NULL, answer TEXT NOT NULL)"

_log = logging.getLogger(__name__)


def request_key(model: str, messages: Sequence[Message], sampling: Sampling) -> str:
    """Return the SHA-256 of a request; `model` says which weights or endpoint answer it."""
    turns = [[message.role, message.content] for message in messages]
    choice = [
        sampling.max_tokens,
        sampling.temperature,
        sampling.top_p,
        sampling.seed,
        list(sampling.stop),
        sampling.decline,
        *([sampling.grammar] if sampling.grammar else []),
    ]
    return hashlib.sha256(json.dumps([_VERSION, model, turns, choice]).encode()).hexdigest()


class AnswerCache:
    """The answers saved in a folder, in one SQLite file that several processes, and threads, may share.

    It keeps hashes of requests, not requests. An entry whose checksum does not hold is passed over; when the file grows
    beyond `max_bytes` the oldest tenth goes. Raises `Unavailable` where the file cannot be opened or read.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_CACHE) -> None:
        self.path = folder / FILE
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            self._connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()

    def get(self, key: str) -> SavedAnswer | None:
        """Return what is saved under a key, None where nothing whole is."""
        try:
            with self._lock:
                found = self._connection.execute("SELECT checksum, answer FROM answers WHERE key = ?", (key,))
                row = found.fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return decode(row[1]) if row and row[0] == _checksum(key, row[1]) else None

    def put(self, key: str, recording: Recording) -> None:
        """Save an answer. A complete one stays as it is: its seconds are those of the first time. One that does not go
        on where an earlier one was left takes its place.

        A full disk is logged, not raised: the answer was given, only a repetition will cost again.
        """
        try:
            with self._lock:
                saved = self.get(key)
                if saved is None or (recording.complete and not saved.complete):
                    goes = saved is not None and goes_on(saved.first.pieces, recording.pieces)
                    answer = encode(SavedAnswer(saved.first, recording) if saved and goes else SavedAnswer(recording))
                    if len(answer) > MAX_ANSWER:
                        return
                    row = (key, _checksum(key, answer), answer)
                    self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", row)
                    self._evict()
        except (sqlite3.Error, Unavailable) as error:
            _log.warning("an answer could not be saved in %s: %s", self.path, error)

    def drop(self, key: str) -> None:
        """Forget what is saved under a key."""
        try:
            with self._lock:
                self._connection.execute("DELETE FROM answers WHERE key = ?", (key,))
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def __len__(self) -> int:
        (count,) = self._connection.execute("SELECT count(*) FROM answers").fetchone()
        return int(count)

    def _evict(self) -> None:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size > self._max_bytes:
            oldest = "SELECT rowid FROM answers ORDER BY rowid LIMIT (SELECT count(*) / 10 + 1 FROM answers)"
            self._connection.execute(f"DELETE FROM answers WHERE rowid IN ({oldest})")  # noqa: S608 - constants

    def _unusable(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"the saved answers in {self.path} cannot be used: {error}",
            hint="Name another --cache, or remove the file: what it held is then asked anew where no row holds it.",
        )


def _checksum(key: str, answer: str) -> str:
    return hashlib.sha256(f"{key}\n{answer}".encode()).hexdigest()

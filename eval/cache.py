"""Answers of language models, kept by the content of the request, so that no question is paid for twice.

The seam is the `Generator`: what reaches it is the whole request (weights or endpoint, rendered messages, sampling), so
a changed threshold or price or passage order costs nothing where the prompt stays the same. Every piece is kept with
its time, and a replayed answer gets the seconds of its first time: see `CachedPipeline`.
"""

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from eval.systems import Pipeline
from rag.datatypes import Answer, Message, Piece, Sampling, ScoredChunk, Usage
from rag.errors import Unavailable
from rag.protocols import LanguageModel

FILE = "answers.sqlite"

# An answer takes some 60 bytes a token: far more than a million answers of this length fit into the whole.
MAX_ANSWER = 4_000_000
MAX_CACHE = 2_000_000_000

_VERSION = 2
_WAIT = 60.0  # seconds for another process to finish its write, which takes milliseconds
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, checksum TEXT NOT NULL, answer TEXT NOT NULL)"

_log = logging.getLogger(__name__)


class Recording(NamedTuple):
    """What a model wrote: its pieces, and for each the seconds since the request at which it came.

    `complete` is false where the reader had enough before the end.
    """

    pieces: tuple[Piece, ...]
    seconds: tuple[float, ...]
    complete: bool


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
    """The answers saved in a folder, in one SQLite file that several processes may share.

    It keeps hashes of requests, not requests. An entry whose checksum does not hold is passed over; when the file grows
    beyond `max_bytes` the oldest tenth goes. Raises `Unavailable` where the file cannot be opened or read.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_CACHE) -> None:
        self.path = folder / FILE
        self._max_bytes = max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
            self._connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def get(self, key: str) -> Recording | None:
        """Return what is saved under a key, None where nothing whole is."""
        try:
            row = self._connection.execute("SELECT checksum, answer FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return _decode(row[1]) if row and row[0] == _checksum(key, row[1]) else None

    def put(self, key: str, recording: Recording) -> None:
        """Save an answer. A complete one stays as it is: its seconds are those of the first time.

        A full disk is logged, not raised: the answer was given, only a repetition will cost again.
        """
        answer = _encode(recording)
        if len(answer) > MAX_ANSWER:
            return
        try:
            saved = self.get(key)
            if saved is None or (recording.complete and not saved.complete):
                row = (key, _checksum(key, answer), answer)
                self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", row)
                self._evict()
        except (sqlite3.Error, Unavailable) as error:
            _log.warning("an answer could not be saved in %s: %s", self.path, error)

    def drop(self, key: str) -> None:
        """Forget what is saved under a key."""
        try:
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


class CachedGenerator:
    """A language model that writes to an `AnswerCache` and reads from it. Implements `Generator` and `TokenCounter`.

    `identity` names the weights or endpoint and whatever else moves answers or seconds, such as the machine. `waited`
    tells the seconds that the model has so far spent on keeping to a rate limit, which are not the answer's; `here` is
    false of an endpoint's. An answer
    that its reader cut short is kept as far as it goes; who reads on has it written anew from there.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: AnswerCache,
        identity: str,
        *,
        waited: Callable[[], float] = lambda: 0.0,
        here: bool = True,
    ) -> None:
        self.here = here
        self._model = model
        self._cache = cache
        self._identity = identity
        self._waited = waited
        self.clock = Correction()

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        return self._model.count(text)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        """Yield a saved answer, or have one written and save it."""
        began = time.perf_counter()
        key = request_key(self._identity, messages, sampling)
        saved = self._cache.get(key)
        try:
            if saved is not None:
                yield from self._replay(saved, began)
            if saved is None or not saved.complete:
                began = began if saved is None else time.perf_counter()
                pieces = self._record(key, messages, sampling, began)
                yield from _after(pieces, sum(piece.tokens for piece in saved.pieces) if saved else 0)
        finally:
            self.clock.end()

    def _replay(self, saved: Recording, began: float) -> Generator[Piece, None, None]:
        for piece, seconds in zip(saved.pieces, saved.seconds, strict=True):
            self.clock.note(piece, seconds - (time.perf_counter() - began), replayed=seconds)
            yield piece
        if not saved.complete:  # what follows is written from the beginning, and takes its own time
            self.clock.note(saved.pieces[-1], began - time.perf_counter())

    def _record(
        self, key: str, messages: Sequence[Message], sampling: Sampling, began: float
    ) -> Generator[Piece, None, None]:
        # Seconds that are not the answer's: looking up and saving here, and waiting for a turn.
        ours = time.perf_counter() - began
        waited_before = self._waited()
        pieces: list[Piece] = []
        seconds: list[float] = []
        complete = False
        try:
            with closing(self._model.stream(messages, sampling)) as stream:
                for piece in stream:
                    now = time.perf_counter()
                    lost = ours + self._waited() - waited_before
                    pieces.append(piece)
                    seconds.append(now - began - lost)
                    # Before the last piece is handed on: whoever reads it need not come back for more.
                    if piece.finish_reason is not None:
                        complete = True
                        self._cache.put(key, Recording(tuple(pieces), tuple(seconds), complete=True))
                        lost += time.perf_counter() - now
                    self.clock.note(piece, -lost)
                    yield piece
        except GeneratorExit:
            if pieces and not complete:
                now = time.perf_counter()
                self._cache.put(key, Recording(tuple(pieces), tuple(seconds), complete=False))
                self.clock.after -= time.perf_counter() - now
            raise


@dataclass
class Correction:
    """Seconds to add to the measured ones so that they are those of the first time, without waits of our own making.

    `read` is for the time to the first token, `generate` for all of it, `after` for what follows until the generator is
    closed; `replayed` is how many seconds were not spent. `here` is false of an endpoint's model, and `replayed_here`
    sums up those of the models that are none.
    """

    read: float = 0.0
    generate: float = 0.0
    after: float = 0.0
    replayed: float = 0.0
    here: bool = True
    replayed_here: float = 0.0
    _before: float = 0.0
    _replayed_before: float = 0.0
    _first: bool = True

    def note(self, piece: Piece, shift: float, *, replayed: float = 0.0) -> None:
        """Take note of a piece that came `shift` seconds too early."""
        self.generate = self._before + shift
        self.replayed = self._replayed_before + replayed
        if self._first:
            self.read = self.generate
            self._first = piece.tokens == 0

    def end(self) -> None:
        """A request is through: a further one of the same question adds to it."""
        self._before, self._replayed_before = self.generate, self.replayed

    def then(self, other: "Correction") -> "Correction":
        """Return the correction of two models asked one after the other; one that was not asked changes nothing."""
        if other == Correction(here=other.here):
            return self
        before = self.generate + self.after
        return Correction(
            read=before + other.read,
            generate=before + other.generate,
            after=other.after,
            replayed=self.replayed + other.replayed,
            replayed_here=self.replayed_here + (other.replayed if other.here else 0.0),
        )

    def applied(self, timings: Mapping[str, float]) -> dict[str, float]:
        """Return the timings of an answer corrected, with `replayed` where part of it came from the cache.

        `replayed_here` stands beside it where an endpoint's seconds are in that, which keep no core of ours busy.
        """
        shifts = {"read": self.read, "generate": self.generate, "total": self.generate + self.after}
        corrected = {name: max(0.0, seconds + shifts.get(name, 0.0)) for name, seconds in timings.items()}
        if not self.replayed:
            return corrected
        here = {} if self.replayed_here == self.replayed else {"replayed_here": self.replayed_here}
        return {**corrected, "replayed": self.replayed, **here}


class CachedPipeline:
    """A pipeline over a `CachedGenerator`, in a cascade over two, whose answers carry the seconds of their first time.

    What the models before the last one asked took counts as reading for that one (`rag.cascade`).
    """

    def __init__(self, pipeline: Pipeline, *generators: CachedGenerator) -> None:
        self._pipeline = pipeline
        self._generators = generators

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        """Answer one question, from the cache as far as it goes."""
        for generator in self._generators:
            generator.clock = Correction(here=generator.here)
        answer = self._pipeline.answer(question, history)
        clock = Correction()
        for generator in self._generators:
            clock = clock.then(generator.clock)
        return replace(answer, timings=clock.applied(answer.timings))

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        """Return the ranked chunks alone."""
        return self._pipeline.retrieve(question, history)


def _after(pieces: Generator[Piece, None, None], tokens: int) -> Generator[Piece, None, None]:
    """Pass over the pieces of the first `tokens` tokens, and what comes before them; yield the rest."""
    with closing(pieces):
        passed = 0
        for piece in pieces:
            if passed >= tokens:
                yield piece
            passed += piece.tokens


def _checksum(key: str, answer: str) -> str:
    return hashlib.sha256(f"{key}\n{answer}".encode()).hexdigest()


def _encode(recording: Recording) -> str:
    pieces = [
        [
            piece.text,
            piece.logprob,
            piece.tokens,
            piece.finish_reason,
            None if piece.usage is None else [piece.usage.prompt, piece.usage.cached, piece.usage.completion],
            piece.decline,
            round(seconds, 6),
        ]
        for piece, seconds in zip(recording.pieces, recording.seconds, strict=True)
    ]
    return json.dumps({"complete": recording.complete, "pieces": pieces})


def _decode(answer: str) -> Recording:
    saved: dict[str, Any] = json.loads(answer)
    pieces = tuple(
        Piece(text, logprob, tokens, finish, None if usage is None else Usage(*usage), decline)
        for text, logprob, tokens, finish, usage, decline, _ in saved["pieces"]
    )
    return Recording(pieces, tuple(piece[-1] for piece in saved["pieces"]), saved["complete"])

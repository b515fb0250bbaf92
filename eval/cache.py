"""Answers of language models, kept by the content of the request, so that no question is paid for twice.

The seam is the `Generator`: what reaches it is the whole request (weights or endpoint, rendered messages, sampling), so
a changed threshold or price or passage order costs nothing where the prompt stays the same. Every piece is kept with
its time, and a replayed answer gets the seconds of its first time: see `CachedPipeline`.
"""

import hashlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from eval.systems import Pipeline
from rag.datatypes import Answer, Message, Piece, Sampling, ScoredChunk, Usage
from rag.errors import Unavailable
from rag.protocols import LanguageModel

FILE = "answers.sqlite"

# An answer takes some 60 bytes a token: far more than a million answers of this length fit into the whole.
MAX_ANSWER = 4_000_000
MAX_CACHE = 2_000_000_000

_VERSION = 3
_WAIT = 60.0  # seconds for another process to finish its write, which takes milliseconds
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, checksum TEXT NOT NULL, answer TEXT NOT NULL)"

Asked = Literal["read", "replayed"]

_log = logging.getLogger(__name__)


class Recording(NamedTuple):
    """What a model wrote: its pieces, and for each the seconds since the request at which it came.

    `complete` is false where the reader had enough before the end. `warm` says that the prompt had just been read for
    the same question, so that the first token came at once.
    """

    pieces: tuple[Piece, ...]
    seconds: tuple[float, ...]
    complete: bool
    warm: bool = False

    @property
    def reading(self) -> float:
        """The seconds until the first token, 0 where they were spared."""
        written = [seconds for piece, seconds in zip(self.pieces, self.seconds, strict=True) if piece.tokens]
        return 0.0 if self.warm else next(iter(written), self.seconds[-1])

    def reread(self) -> "Recording":
        """Return what asking once more within the same question takes: the prompt need not be read again."""
        spared = self.reading
        return self._replace(seconds=tuple(max(0.0, seconds - spared) for seconds in self.seconds), warm=True)


class SavedAnswer(NamedTuple):
    """What is kept of a request: how it went the first time, and the whole answer where a later time went further.

    A passage that is read and given up, then chosen after all, is asked for twice within one question: the prompt is
    read once, so both times are kept.
    """

    first: Recording
    whole: Recording | None = None

    @property
    def complete(self) -> bool:
        """Whether the end of the answer is known."""
        return self.first.complete or self.whole is not None

    def replayed(self, *, again: bool) -> Recording:
        """Return the answer as far as it is known, asked for first in a question or `again`."""
        if self.whole is None:
            return self.first.reread() if again else self.first
        if again:
            return self.whole.reread()
        tokens = sum(piece.tokens for piece in self.first.pieces)
        if not tokens:  # given up while the prompt was read
            return self.whole
        place = _place(self.whole.pieces, tokens)
        offset = self.first.seconds[-1] - self.whole.seconds[place - 1]
        rest = tuple(offset + seconds for seconds in self.whole.seconds[place:])
        return Recording(self.first.pieces + self.whole.pieces[place:], self.first.seconds + rest, complete=True)


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
        return _decode(row[1]) if row and row[0] == _checksum(key, row[1]) else None

    def put(self, key: str, recording: Recording) -> None:
        """Save an answer. A complete one stays as it is: its seconds are those of the first time.

        A full disk is logged, not raised: the answer was given, only a repetition will cost again.
        """
        try:
            with self._lock:
                saved = self.get(key)
                if saved is None or (recording.complete and not saved.complete):
                    answer = _encode(SavedAnswer(recording) if saved is None else SavedAnswer(saved.first, recording))
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


class CachedGenerator:
    """A language model that writes to an `AnswerCache` and reads from it. Implements `Generator` and `TokenCounter`.

    `identity` names the weights or endpoint and whatever else moves answers or seconds, such as the machine. `waited`
    tells the seconds that the model has so far spent, in this thread, on keeping to a rate limit, which are not the
    answer's; `here` is false of an endpoint's. An answer that its reader cut short is kept as far as it goes; who reads
    on has it written anew from there.
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
        self._of_thread = threading.local()

    @property
    def clock(self) -> "Correction":
        """What is to be added to the seconds of the answer that this thread is reading."""
        if not hasattr(self._of_thread, "clock"):
            self._of_thread.clock = Correction()
        found: Correction = self._of_thread.clock
        return found

    @clock.setter
    def clock(self, clock: "Correction") -> None:
        self._of_thread.clock = clock

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        return self._model.count(text)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        """Yield a saved answer, or have one written and save it."""
        began = time.perf_counter()
        key = request_key(self._identity, messages, sampling)
        saved = self._cache.get(key)
        before = self.clock.asked.get(key)
        self.clock.asked[key] = "replayed" if saved is not None else "read"
        try:
            if saved is not None:
                yield from self._replay(saved.replayed(again=before is not None), began)
            if saved is None or not saved.complete:
                began = began if saved is None else time.perf_counter()
                pieces = self._record(key, messages, sampling, began, before)
                yield from _after(pieces, sum(piece.tokens for piece in saved.first.pieces) if saved else 0)
        finally:
            self.clock.end()

    def _replay(self, saved: Recording, began: float) -> Generator[Piece, None, None]:
        for piece, seconds in zip(saved.pieces, saved.seconds, strict=True):
            self.clock.note(piece, seconds - (time.perf_counter() - began), replayed=seconds)
            yield piece
        if not saved.complete:  # what follows is written from the beginning, and takes its own time
            self.clock.note(saved.pieces[-1], began - time.perf_counter())

    def _record(
        self, key: str, messages: Sequence[Message], sampling: Sampling, began: float, before: Asked | None
    ) -> Generator[Piece, None, None]:
        # Seconds that are not the answer's: looking up and saving here, and waiting for a turn.
        ours = time.perf_counter() - began
        waited_before = self._waited()
        pieces: list[Piece] = []
        seconds: list[float] = []
        complete, warm = False, before is not None
        try:
            with closing(self._model.stream(messages, sampling)) as stream:
                for piece in stream:
                    now = time.perf_counter()
                    lost = ours + self._waited() - waited_before
                    pieces.append(piece)
                    seconds.append(now - began - lost)
                    if piece.tokens and before == "replayed":  # read now only because it was not read a moment ago
                        ours, before = ours + seconds[-1], None
                        lost += seconds[-1]
                        seconds = [0.0] * len(seconds)
                    # Before the last piece is handed on: whoever reads it need not come back for more.
                    if piece.finish_reason is not None:
                        complete = True
                        self._cache.put(key, Recording(tuple(pieces), tuple(seconds), complete=True, warm=warm))
                        lost += time.perf_counter() - now
                    self.clock.note(piece, -lost)
                    yield piece
        except GeneratorExit:
            if pieces and not complete:
                now = time.perf_counter()
                self._cache.put(key, Recording(tuple(pieces), tuple(seconds), complete=False, warm=warm))
                self.clock.after -= time.perf_counter() - now
            raise


@dataclass
class Correction:
    """Seconds to add to the measured ones so that they are those of the first time, without waits of our own making.

    `read` is for the time to the first token, `generate` for all of it, `after` for what follows until the generator is
    closed; `replayed` is how many seconds were not spent. `here` is false of an endpoint's model, and `replayed_here`
    sums up those of the models that are none. `asked` tells of the requests of this question so far whether the model
    has read their prompts or was spared that.
    """

    read: float = 0.0
    generate: float = 0.0
    after: float = 0.0
    replayed: float = 0.0
    asked: dict[str, Asked] = field(default_factory=dict)
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


def _place(pieces: Sequence[Piece], tokens: int) -> int:
    """Return how many pieces `_after` passes over."""
    passed = 0
    for place, piece in enumerate(pieces):
        if passed >= tokens:
            return place
        passed += piece.tokens
    return len(pieces)


def _checksum(key: str, answer: str) -> str:
    return hashlib.sha256(f"{key}\n{answer}".encode()).hexdigest()


def _encode(saved: SavedAnswer) -> str:
    return json.dumps({name: _plain(took) for name, took in saved._asdict().items() if took is not None})


def _plain(recording: Recording) -> dict[str, Any]:
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
    return {"complete": recording.complete, "warm": recording.warm, "pieces": pieces}


def _decode(answer: str) -> SavedAnswer:
    return SavedAnswer(**{name: _recording(took) for name, took in json.loads(answer).items()})


def _recording(saved: dict[str, Any]) -> Recording:
    pieces = tuple(
        Piece(text, logprob, tokens, finish, None if usage is None else Usage(*usage), decline)
        for text, logprob, tokens, finish, usage, decline, _ in saved["pieces"]
    )
    return Recording(pieces, tuple(piece[-1] for piece in saved["pieces"]), saved["complete"], saved["warm"])

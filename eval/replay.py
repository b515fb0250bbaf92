"""Saved answers before a language model and its pipeline: every answer has the seconds of its first time."""

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

from eval.cache import AnswerCache, request_key
from eval.recording import Recording
from eval.systems import Pipeline
from rag.datatypes import Answer, Message, Piece, Sampling, ScoredChunk
from rag.protocols import LanguageModel

Asked = Literal["read", "replayed"]


class AnswerChanged(Exception):
    """The model does not go on as it had begun: what was replayed and what it writes now are of two answers."""


class CachedGenerator:
    """A language model that writes to an `AnswerCache` and reads from it. Implements `Generator` and `TokenCounter`.

    `identity` names the weights or endpoint and whatever else moves answers or seconds, such as the machine. `waited`
    tells the seconds that the model has so far spent, in this thread, on keeping to a rate limit, which are not the
    answer's; `here` is false of an endpoint's. `cpu` tells the processor seconds of this process, which are kept too
    where it is given. An answer that its reader cut short is kept as far as it goes; who reads
    on has it written anew from there, or `AnswerChanged` where it is written otherwise up to there.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: AnswerCache,
        identity: str,
        *,
        waited: Callable[[], float] = lambda: 0.0,
        here: bool = True,
        cpu: Callable[[], float] | None = None,
    ) -> None:
        self.here = here
        self._cpu = cpu
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
        if saved is not None and not saved.complete and not self.clock.continues:
            saved = None
        before = self.clock.asked.get(key)
        self.clock.asked[key] = "replayed" if saved is not None else "read"
        try:
            if saved is not None:
                yield from self._replay(saved.replayed(again=before is not None), began)
            if saved is None or not saved.complete:
                began = began if saved is None else time.perf_counter()
                pieces = self._record(key, messages, sampling, began, before)
                yield from _after(pieces, saved.first.pieces if saved else ())
        except AnswerChanged:
            self._cache.drop(key)
            raise
        finally:
            self.clock.end()

    def _replay(self, saved: Recording, began: float) -> Generator[Piece, None, None]:
        cpu = saved.cpu or (None,) * len(saved.pieces)
        for piece, seconds, taken in zip(saved.pieces, saved.seconds, cpu, strict=True):
            self.clock.note(piece, seconds - (time.perf_counter() - began), replayed=seconds, cpu=taken)
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
        cpu: list[float] = []
        cpu_before = self._cpu() if self._cpu else 0.0
        complete, warm = False, before is not None
        try:
            with closing(self._model.stream(messages, sampling)) as stream:
                for piece in stream:
                    now = time.perf_counter()
                    lost = ours + self._waited() - waited_before
                    pieces.append(piece)
                    seconds.append(now - began - lost)
                    cpu += [self._cpu() - cpu_before] if self._cpu else []
                    if piece.tokens and before == "replayed":  # read now only because it was not read a moment ago
                        ours, before = ours + seconds[-1], None
                        lost += seconds[-1]
                        seconds, cpu = [0.0] * len(seconds), [0.0] * len(cpu)
                        cpu_before = self._cpu() if self._cpu else 0.0
                    # Before the last piece is handed on: whoever reads it need not come back for more.
                    if piece.finish_reason is not None:
                        complete = True
                        self._cache.put(key, Recording(tuple(pieces), tuple(seconds), True, warm, tuple(cpu)))
                        lost += time.perf_counter() - now
                    self.clock.note(piece, -lost)
                    yield piece
        except GeneratorExit:
            if pieces and not complete:
                now = time.perf_counter()
                self._cache.put(key, Recording(tuple(pieces), tuple(seconds), False, warm, tuple(cpu)))
                self.clock.after -= time.perf_counter() - now
            raise


@dataclass
class Correction:
    """Seconds to add to the measured ones so that they are those of the first time, without waits of our own making.

    `read` is for the time to the first token, `generate` for all of it, `after` for what follows until the generator is
    closed; `replayed` is how many seconds were not spent, and `replayed_cpu` how many of the processor, None where
    nobody knows. `here` is false of an endpoint's model, and `replayed_here` sums up those of the models that are none.
    `continues` is whether an answer that was cut short is gone on with, or asked for from its beginning.
    `asked` tells of the requests of this question so far whether the model has read their prompts or was spared that.
    """

    read: float = 0.0
    generate: float = 0.0
    after: float = 0.0
    replayed: float = 0.0
    replayed_cpu: float | None = 0.0
    asked: dict[str, Asked] = field(default_factory=dict)
    here: bool = True
    continues: bool = field(default=True, compare=False)
    replayed_here: float = 0.0
    _before: float = 0.0
    _replayed_before: float = 0.0
    _cpu_before: float | None = 0.0
    _first: bool = True

    def note(self, piece: Piece, shift: float, *, replayed: float = 0.0, cpu: float | None = 0.0) -> None:
        """Take note of a piece that came `shift` seconds too early."""
        self.generate = self._before + shift
        self.replayed = self._replayed_before + replayed
        self.replayed_cpu = _both(self._cpu_before, cpu)
        if self._first:
            self.read = self.generate
            self._first = piece.tokens == 0

    def end(self) -> None:
        """A request is through: a further one of the same question adds to it."""
        self._before, self._replayed_before, self._cpu_before = self.generate, self.replayed, self.replayed_cpu

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
            replayed_cpu=_both(self.replayed_cpu, other.replayed_cpu if other.here else 0.0),
            replayed_here=self.replayed_here + (other.replayed if other.here else 0.0),
        )

    def applied(self, timings: Mapping[str, float]) -> dict[str, float]:
        """Return the timings of an answer corrected, with `replayed` where part of it came from the cache.

        `replayed_here` stands beside it where an endpoint's seconds are in that, which keep no core of ours busy, and
        `replayed_cpu` where the processor seconds are known.
        """
        shifts = {"read": self.read, "generate": self.generate, "total": self.generate + self.after}
        corrected = {name: max(0.0, seconds + shifts.get(name, 0.0)) for name, seconds in timings.items()}
        if not self.replayed:
            return corrected
        here = {} if self.replayed_here == self.replayed else {"replayed_here": self.replayed_here}
        cpu = {"replayed_cpu": self.replayed_cpu} if self.replayed_cpu else {}
        return {**corrected, "replayed": self.replayed, **here, **cpu}


class CachedPipeline:
    """A pipeline over a `CachedGenerator`, in a cascade over two, whose answers carry the seconds of their first time.

    What the models before the last one asked took counts as reading for that one (`rag.cascade`).
    """

    def __init__(self, pipeline: Pipeline, *generators: CachedGenerator) -> None:
        self._pipeline = pipeline
        self._generators = generators

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        """Answer one question, from the cache as far as it goes; anew where a model does not go on as it had begun."""
        try:
            return self._answer(question, history, continues=True)
        except AnswerChanged:
            return self._answer(question, history, continues=False)

    def _answer(self, question: str, history: Sequence[Message], *, continues: bool) -> Answer:
        for generator in self._generators:
            generator.clock = Correction(here=generator.here, continues=continues)
        answer = self._pipeline.answer(question, history)
        clock = Correction()
        for generator in self._generators:
            clock = clock.then(generator.clock)
        return replace(answer, timings=clock.applied(answer.timings))

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        """Return the ranked chunks alone."""
        return self._pipeline.retrieve(question, history)


def _both(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _after(pieces: Generator[Piece, None, None], known: Sequence[Piece]) -> Generator[Piece, None, None]:
    """Pass over the pieces that are `known`, and what comes before them; yield the rest.

    Raises `AnswerChanged` where there is no such beginning.
    """
    tokens, passed = sum(piece.tokens for piece in known), 0
    left = "".join(piece.text for piece in known)
    with closing(pieces):
        for piece in pieces:
            if passed >= tokens and left:
                raise AnswerChanged
            if passed >= tokens:
                yield piece
            elif left.startswith(piece.text):
                left = left.removeprefix(piece.text)
            else:
                raise AnswerChanged
            passed += piece.tokens
    if passed < tokens:
        raise AnswerChanged

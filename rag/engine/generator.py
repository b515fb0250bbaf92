"""`LlamaGenerator`: a GGUF model behind the pipeline's seam, for many threads at once."""

import contextlib
import queue
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rag.datatypes import Message, Piece, PrefixCounters, Sampling
from rag.engine.context import Context
from rag.engine.files import PrefixFiles, identity_of
from rag.engine.grammar import Grammar
from rag.engine.lookup import Lookup, LookupCounters
from rag.engine.native import Model
from rag.engine.owners import Owners
from rag.engine.prefill import open_prefill
from rag.engine.prefix import Prefixes, everybodys, repeatable
from rag.engine.sampling import Writer
from rag.engine.scheduler import Scheduler
from rag.engine.states import SavedStates
from rag.engine.task import Scoring, Task, Writing
from rag.errors import ModelLoadFailed, PromptTooLong
from rag.tuning import UNTUNED, Tuning

T = TypeVar("T")

# Prefixes that may stay in the context after use, and their cells together: every cell in use makes attention wider
# (2,048 more, and 10 to 30% less is read a second), while a state of 256 tokens is copied there or back in half a
# millisecond. Where no states are kept, more of them stay.
IDLE_SEQUENCES = 12
IDLE_CELLS, IDLE_CELLS_ALONE = 256, 1024
# Seconds after which a stream that waits for its turn yields an empty piece, so that it can be cancelled.
WAIT = 0.25


class LlamaGenerator:
    """A GGUF model ready to answer. Implements `Generator` and `TokenCounter`; safe to share between threads.

    `sequences` answers are written at once. `context` is the longest prompt with its answer; each further sequence adds
    room for a quarter of that, since few prompts are so long. Read prefixes are kept: `prefix_bytes` of memory, and
    where `prefix_folder` is given `folder_bytes` of disk. `build` names the llama.cpp build: states on disk are
    those of this build and of this file, by its size, time and beginning.

    `tuning` says how llama.cpp is to run the model; `threads` other than 0 goes before it. `extra_buffers=False` gives
    up llama.cpp's repacked weights. With `int8` prompts are read by `rag.engine.prefill`, with `int8_later` not before
    its weights are made. Raises `ModelLoadFailed` where llama.cpp refuses the file or the prefill the model; a native
    crash cannot be caught here, so `rag.probe` tries an unknown file in a child process first.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int = 4096,
        threads: int = 0,
        extra_buffers: bool = True,
        tuning: Tuning = UNTUNED,
        sequences: int = 1,
        prefix_bytes: int = 0,
        prefix_folder: Path | None = None,
        folder_bytes: int = 0,
        build: str = "",
        int8: bool = False,
        int8_later: bool = False,
    ) -> None:
        self.path = path
        self.context = context
        self.tuning = tuning.model_copy(update={"threads": threads}) if threads else tuning
        self._model = Model(path, extra_buffers=extra_buffers)
        self._vocabulary = self._model.vocabulary
        numbers = sequences + IDLE_SEQUENCES + 1  # one more to save from
        try:
            native = Context(
                self._model,
                cells=context + (sequences - 1) * context // 4,
                sequences=numbers,
                tuning=self.tuning,
                prefill=open_prefill(path, self.tuning.threads, later=int8_later) if int8 else None,
            )
        except BaseException:
            self._model.close()
            raise
        identity = identity_of(path, native, build)
        files = PrefixFiles(prefix_folder, identity, folder_bytes) if prefix_folder else None
        states = SavedStates(prefix_bytes, files)
        idle = IDLE_CELLS if states.keeps else IDLE_CELLS_ALONE
        prefixes = Prefixes(native, states, cells=min(idle, native.cells // 2))
        self._scheduler = Scheduler(
            native,
            prefixes,
            sequences=sequences,
            read_tokens=self.tuning.batch,
            alone_tokens=self.tuning.alone,
            name=path.name,
        )
        self._owners = Owners()
        self._closed = False

    def close(self) -> None:
        """Free the model. Whoever still waits for an answer gets `Unavailable`; further use raises. Idempotent."""
        closed, self._closed = self._closed, True
        self._scheduler.close()
        if not closed:
            self._model.close()

    def count(self, text: str) -> int:
        """Return the number of tokens of `text` as document text (control tokens spelt in it are plain text)."""
        return len(self.tokens(text))

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of `text` as document text."""
        self._check_open()
        return self._vocabulary.tokens(text)

    @property
    def end_of_turn(self) -> int:
        """The token with which the model ends its answer."""
        return self._vocabulary.end_of_turn

    def prefixes(self) -> PrefixCounters:
        """Return how read prefixes were used up to now."""
        return self._scheduler.counters()

    @property
    def lookups(self) -> LookupCounters:
        """How many tokens of answers were guessed ahead up to now, and how many rightly."""
        return self._scheduler.lookups()

    def pulse(self) -> None:
        """Return once the engine's thread has come round: within one step, never where llama.cpp hangs."""
        self._scheduler.pulse()

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's tokens. Only the template's own text becomes control tokens, never a message's."""
        self._check_open()
        return self._model.encode(messages)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        """Read the prompt and yield the answer piece by piece; empty pieces come while waiting and reading.

        Close the iterator to cancel; its place is free within a second, whatever is being read. Raises `PromptTooLong`,
        `Overloaded`, `DeadlinePassed`, and `InvalidRequest` for a grammar that cannot be read.
        """
        prompt = self.encode(messages)
        self._check_room(prompt, sampling.max_tokens)
        grammar = Grammar(self._vocabulary, sampling.grammar) if sampling.grammar else None
        writer = Writer(self._vocabulary, sampling, grammar)
        lookup = Lookup(self._vocabulary, self.tuning.lookup) if self.tuning.lookup else None
        keep = repeatable(prompt, messages, self.encode)
        own = sampling.own_from
        common = keep if own is None else everybodys(prompt, messages, self.encode, own)
        owner = self._owners.number(sampling.owner)
        task = Writing(prompt, sampling, writer, keep=keep, common=common, owner=owner, lookup=lookup)
        with self._submitted(task):
            while True:
                try:
                    piece = _event(task, WAIT)
                except queue.Empty:
                    yield Piece("", usage=task.usage)
                    continue
                yield piece
                if piece.finish_reason is not None:
                    return
                if task.held:
                    task.held = False
                    self._scheduler.wake()

    def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[list[float]]:
        """Return the natural-log probability of every token of each continuation, were it the answer's beginning.

        The prompt is read once, and the continuations several at a time. An empty one has no tokens. Raises
        `PromptTooLong`, `Overloaded`.
        """
        return self.score_tokens(messages, [self.tokens(text) for text in continuations])

    def score_tokens(self, messages: Sequence[Message], told: Sequence[list[int]]) -> list[list[float]]:
        """Return the natural-log probability of every token of each continuation, as `score` does of texts."""
        prompt = self.encode(messages)
        self._check_room(prompt, max(map(len, told), default=0))
        tasks = [Scoring(prompt, tokens, inner=i > 0) for i, tokens in enumerate(filter(None, told))]
        scores: list[list[float]] = []
        with contextlib.ExitStack() as submitted:
            for task in tasks:
                submitted.enter_context(self._submitted(task))
                if not task.inner:
                    scores.append(_event(task, None))  # the first one reads the prompt for all
            scores += [_event(task, None) for task in tasks[1:]]
        found = iter(scores)
        return [next(found) if tokens else [] for tokens in told]

    def _check_open(self) -> None:
        if self._closed:
            raise ModelLoadFailed("the model has been closed")  # llama.cpp would read freed memory

    def _check_room(self, prompt: Sequence[int], answer: int) -> None:
        if len(prompt) + answer > self.context:
            raise PromptTooLong(
                f"the prompt takes {len(prompt)} tokens and the answer up to {answer}, "
                f"more than the model's context of {self.context}",
                hint="Ask a shorter question, lower max_tokens, or raise generator.context.",
            )

    @contextlib.contextmanager
    def _submitted(self, task: Task[T]) -> Iterator[None]:
        """Queue a task; at the end of the block, whatever ends it, the task has ended too or is cancelled."""
        self._scheduler.submit(task)
        try:
            yield
        finally:
            if not task.done:
                self._scheduler.cancel(task)


def _event(task: Task[T], timeout: float | None) -> T:
    event = task.events.get(timeout=timeout)
    if isinstance(event, BaseException):
        raise event
    return event

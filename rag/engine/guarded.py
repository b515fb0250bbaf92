"""A language model in a process of its own, so that a native crash ends that process and not the server.

One thread keeps the process: it starts it, hands out what it says, and when it dies tells whoever waits and starts it
again. A process that hangs is made to die.
"""

import copy
import logging
import queue
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from rag.datatypes import Message, Piece, PrefixCounters, Sampling
from rag.engine.child import Child, Events
from rag.engine.frames import FrameError, pack_messages, pack_sampling, unpack_prefixes
from rag.errors import ModelDied, ModelLoadFailed, PromptTooLong, SmallholdError, Unavailable
from rag.protocols import TokenCounter

logger = logging.getLogger(__name__)

# -P: the working directory may be a folder of documents, and a `json.py` among them must not be run.
WORKER = (sys.executable, "-P", "-m", "rag.engine.worker")

# Seconds before a start that follows the first, second, ... of a row of quick deaths. The first waits for nothing: one
# death is an accident. After the last the next start would probably end the same way, so that nobody is to wait for it;
# what there was too little of, such as memory, may be there again, so that it is tried all the same, now and then.
PAUSES = (0.0, 1.0, 2.0, 4.0)
LONG_PAUSE = 60.0
# A process that dies sooner than so many seconds after it was ready died quickly.
QUICK_SECONDS = 30.0
# How long a request waits for a process that is being started again, and for how long at a time.
WAIT_SECONDS = 10.0
STEP = 0.25
# How long a process may make no progress before it is killed: many times a step of reading, since a process that is
# merely slow must not be killed. On 2 cores with a load of 10, steps of the 135M have been seen to take over 10 s.
TIMEOUT_SECONDS = 60.0
CLOSE_SECONDS = 7.0  # a little more than the process gives itself
# How long figures are waited for, which the process needs no step of the model for.
FIGURES_SECONDS = 1.0

# Longer texts are counted in the process. Where llama.cpp has no splitter of its own for a tokenizer it uses
# std::regex, which recurses once a character: a run of some 26,000 letters has been seen to overflow the stack
# (llama.cpp issue 27783). Passages are shorter; what a client sends need not be.
COUNTED_HERE = 4000

_FIND_OUT = "The server's log has what it said; `smallhold doctor` checks memory and tries the model."


class Vocabulary(TokenCounter, Protocol):
    """Counts tokens without the model's weights, such as `LlamaVocabulary`."""

    def close(self) -> None:
        """Free it."""
        ...


class GuardedGenerator:
    """A model in a worker process. Implements `LanguageModel`; safe to share between threads.

    `options` are the arguments of `LlamaGenerator`, `path` as a string. Waits until the model is loaded, and raises
    what the loading raised, `ModelLoadFailed` where the process died of it. When the process dies later, or is killed
    since it made no progress for `timeout` seconds, every request in flight raises `ModelDied`, and a new process is
    started; requests wait up to `wait` seconds for it, then raise `ModelDied`, too. After more quick deaths in a row
    than there are `pauses` it is started every `long_pause` seconds, and until one lives requests raise at once.

    `vocabulary` counts in this process, since choosing passages counts every one of them, and a round trip each to a
    process busy with answers would add up. That is native code where it can do harm, but little of it: it reads one
    file that has been probed, and splits short texts. It is closed with the generator.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        vocabulary: Vocabulary,
        *,
        command: Sequence[str] = WORKER,
        pauses: Sequence[float] = PAUSES,
        long_pause: float = LONG_PAUSE,
        wait: float = WAIT_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.restarts = 0
        self._options = options
        self._vocabulary = vocabulary
        self._command = command
        self._pauses = pauses
        self._long_pause = long_pause
        self._wait = wait
        self._prefixes = PrefixCounters()  # what the process last said of them
        self._timeout = timeout
        self._changed = threading.Condition()  # guards what follows
        self._child: Child | None = None
        self._ready_at: float | None = None  # when the child was ready; None while it is not
        self._fault: SmallholdError | None = None  # why there is no ready child
        self._down = False  # and not to be waited for
        self._closing = False
        self._served = False  # whether it has ever been ready
        self._keeper = threading.Thread(target=self._keep, name="smallhold-model-keeper", daemon=True)
        self._keeper.start()
        with self._changed:
            self._changed.wait_for(lambda: self._ready_at is not None or self._down)
            refused = self._fault
        if refused is not None:
            self.close()
            raise refused

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        """Yield the answer piece by piece, the first empty ones while the prompt is read.

        Empty ones come while the process is waited for, too. Closing or dropping the iterator cancels the rest; the
        model is free within a second.
        """
        end = time.monotonic() + self._wait
        while (child := self._child_within(min(STEP, self._wait))) is None:
            if time.monotonic() > end and (fault := self.fault()) is not None:
                raise fault
            yield Piece("")
        number, events = _opened(child, "stream", messages=pack_messages(messages), sampling=pack_sampling(sampling))
        try:
            while (event := events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
                if event.decline is not None:
                    child.send({"id": number, "op": "more"})
        finally:
            child.forget(number)

    def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> list[list[float]]:
        """Return the natural-log probability of every token of each continuation, were it the answer's beginning."""
        scores = self._call("score", messages=pack_messages(messages), continuations=list(continuations))
        return [list(tokens) for tokens in scores]

    def count(self, text: str) -> int:
        """Return the number of tokens of `text` as document text."""
        if len(text) <= COUNTED_HERE:
            return self._vocabulary.count(text)
        return int(self._call("count", text=text))

    def prefixes(self) -> PrefixCounters:
        """Return how read prefixes were used since the process was started: what it says, or where it is down or
        does not say so at once, what it said last. A new process counts from 0.
        """
        with self._changed:
            child = None if self._ready_at is None else self._child
        if child is not None:
            with suppress(SmallholdError, queue.Empty):
                self._prefixes = unpack_prefixes(_result(child, "prefixes", timeout=FIGURES_SECONDS))
        return self._prefixes

    def resident_bytes(self) -> int | None:
        """Return the memory that the process takes; None where there is none, or the system does not tell."""
        with self._changed:
            child = self._child
        return None if child is None else child.resident_bytes()

    def fault(self) -> SmallholdError | None:
        """Return why no question can be answered at the moment, None where one can."""
        with self._changed:
            return None if self._fault is None else copy.copy(self._fault)

    def close(self) -> None:
        """End the process. Requests in flight raise `Unavailable`. Idempotent."""
        with self._changed:
            already, self._closing = self._closing, True
            self._changed.notify_all()
            if self._child is not None:
                self._child.end()
        self._keeper.join(CLOSE_SECONDS)
        with self._changed:
            if self._child is not None:
                self._child.kill()
        self._keeper.join()
        if not already:
            self._vocabulary.close()

    def _call(self, op: str, **fields: Any) -> Any:
        while (child := self._child_within(self._wait)) is None:
            if (fault := self.fault()) is not None:
                raise fault
        return _result(child, op, **fields)

    def _child_within(self, seconds: float) -> Child | None:
        """Return the process that can be asked, None where there is none by then. Raises why there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready_at is not None or self._down or self._closing, timeout=seconds)
            if self._closing:
                raise _closed()
            if self._down and self._fault is not None:
                raise copy.copy(self._fault)
            return None if self._ready_at is None else self._child

    def _keep(self) -> None:
        """Run the process again and again until it is closed, or could not be loaded the first time."""
        quick = 0
        while True:
            ending = self._live()
            with self._changed:
                child, ready_at = self._child, self._ready_at
                lived = 0.0 if ready_at is None else time.monotonic() - ready_at
                quick = quick + 1 if lived < QUICK_SECONDS else 1
                fault = self._judge(ending, quick)
                self._child, self._ready_at, self._fault = None, None, fault
                self._changed.notify_all()
            if child is not None:
                child.fail(partial(copy.copy, fault))
            if self._over(quick):
                return
            self.restarts += 1

    def _live(self) -> SmallholdError | str:
        """Run the process once, until its end; return what it said was wrong, or else how it ended, in words."""
        try:
            child = Child(self._command, self._options, timeout=self._timeout)
        except OSError as error:
            return f"cannot be started: {error.strerror or error}"
        with self._changed:
            self._child = child
            if self._closing:
                child.end()
        return child.run(self._loaded)

    def _loaded(self) -> None:
        with self._changed:
            self._ready_at, self._fault, self._served, self._down = time.monotonic(), None, True, False
            self._changed.notify_all()
        if self.restarts:
            logger.warning("the model is loaded again")

    def _judge(self, ending: SmallholdError | str, quick: int) -> SmallholdError:
        """Return what to tell of an ending, and note whether to wait for the next life. `quick` deaths in a row."""
        if self._closing:
            return _closed()
        if not self._served:  # the caller of the constructor is still there to be told
            self._down = True
            if isinstance(ending, SmallholdError):
                return ending
            return ModelLoadFailed(f"the model's process {ending} while it loaded the model", hint=_FIND_OUT)
        how = f"could not load it: {ending.message}" if isinstance(ending, SmallholdError) else ending
        self._down = quick > len(self._pauses)
        if self._down:
            message = (
                f"the process that ran the model {how}; it died {quick} times in short order, and is tried again every "
                f"{self._long_pause:g} s"
            )
            fault = ModelDied(message, hint=_FIND_OUT, coming=False)
        else:
            message = f"the process that ran the model {how}; it is being started again"
            fault = ModelDied(message, hint="Try again in a moment.")
        logger.error("%s", fault)
        return fault

    def _over(self, quick: int) -> bool:
        """Return whether all is over, or else after the pause that so many deaths in a row call for."""
        with self._changed:
            if self._closing or not self._served:
                return True
            pause = self._pauses[quick - 1] if quick <= len(self._pauses) else self._long_pause
            return self._changed.wait_for(lambda: self._closing, timeout=pause)


def _result(child: Child, op: str, *, timeout: float | None = None, **fields: Any) -> Any:
    """Ask for something that comes in one piece. Raises `queue.Empty` where that takes more than `timeout` seconds."""
    number, events = _opened(child, op, **fields)
    try:
        event = events.get(timeout=timeout)
    finally:
        child.forget(number)
    if isinstance(event, BaseException):
        raise event
    return event[0]


def _opened(child: Child, op: str, **fields: Any) -> tuple[int, Events]:
    try:
        return child.open(op, **fields)
    except FrameError as error:
        raise PromptTooLong(f"the request cannot be handed to the model: {error}", hint="Ask for less.") from error


def _closed() -> Unavailable:
    return Unavailable("the model has been closed")

"""The one thread that owns the context: it reads and writes for all requests at once, step by step.

A step is one batch: the next token of every answer being written, and up to `read_tokens` tokens of prompts, or
`alone_tokens` where no answer is being written. The prompts take turns by chunk, so that neither a long one nor a crowd
of them stalls an answer or a short prompt. A step
with a task that has ended meanwhile is given up (`rag.engine.watch`) and done again for the others.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from rag.datatypes import PrefixCounters
from rag.engine.batch import AnyTask, Turn, plan, without_drafts
from rag.engine.context import ContextFull, ContextLike, DecodeFailed, Stopped
from rag.engine.lookup import LookupCounters
from rag.engine.prefix import Prefixes
from rag.engine.watch import Watch
from rag.errors import DeadlinePassed, ModelLoadFailed, Overloaded, SmallholdError, Unavailable
from rag.protocols import FloatArray
from rag.tuning import UNTUNED

logger = logging.getLogger(__name__)

# An answer is counted with no more tokens than this when it is decided whether another prompt fits in beside it.
FORESEEN = 128
# Continuations that are scored at once, beside the answers being written.
SCORED_AT_ONCE = 8


class Scheduler:
    """Runs tasks over one context, `sequences` answers at a time, with room for `waiting` more.

    Any thread may call what is public. The context is closed by its own thread.
    """

    def __init__(
        self,
        context: ContextLike,
        prefixes: Prefixes,
        *,
        sequences: int,
        read_tokens: int = UNTUNED.batch,
        alone_tokens: int = 0,
        waiting: int = 64,
        name: str = "model",
    ) -> None:
        self._context = context
        self._prefixes = prefixes
        self._sequences = sequences
        self._read_tokens = read_tokens
        self._alone_tokens = max(alone_tokens, read_tokens)
        self._waiting = waiting
        self._name = name
        lock = threading.RLock()
        self._wake = threading.Condition(lock)
        self._queue: deque[AnyTask] = deque()
        self._active: list[AnyTask] = []  # in the order in which they take turns at reading
        self._changed = self._closing = self._crowded = False
        self._arrived = self._drafted = self._accepted = 0
        self._pulses: list[threading.Event] = []
        self._scratch_v: FloatArray = np.empty(0, np.float32)
        self._watch = Watch(context, lock, name=name)
        self._thread = threading.Thread(target=self._run, name=f"smallhold-{name}", daemon=True)
        self._thread.start()

    def submit(self, task: AnyTask) -> None:
        """Queue a task; its events tell what becomes of it. Raises `Overloaded` where no more may wait."""
        with self._wake:
            if self._closing:
                raise ModelLoadFailed("the model has been closed")
            if not task.inner and len(self._queue) >= self._waiting:
                raise Overloaded(f"{len(self._queue)} requests wait for the model already", hint="Try again later.")
            self._arrived += 1
            task.number = self._arrived
            self._queue.append(task)
            self._changed = True
            self._wake.notify()

    def wake(self) -> None:
        """Let the thread see that a task is not held any more."""
        with self._wake:
            self._changed = True
            self._wake.notify()

    def cancel(self, task: AnyTask) -> None:
        """End a task that nobody wants any more, in the midst of a step, too. Safe in a destructor."""
        task.cancel()
        self._watch.look()
        self.wake()

    def pulse(self) -> None:
        """Return once the thread has come round: at once where it sleeps, else after the step it is at."""
        came = threading.Event()
        with self._wake:
            if self._closing:
                return
            self._pulses.append(came)
            self.wake()
        came.wait()

    def counters(self) -> PrefixCounters:
        """Return how prefixes were used up to now."""
        return self._prefixes.counters()

    def lookups(self) -> LookupCounters:
        """Return how many tokens were guessed ahead up to now, and how many rightly."""
        return LookupCounters(self._drafted, self._accepted)

    def close(self) -> None:
        """End the thread; whoever still waits gets `Unavailable`. Idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._watch.close()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            try:
                self._step()
            except Exception as error:
                logger.exception("a step of the model failed")
                self._recover(self._active, error)
        self._fail(lambda _: True, lambda: Unavailable("the model is being closed"))
        try:
            self._prefixes.close()
        finally:
            self._context.close()

    def _wait(self) -> bool:
        """Sleep until there is something to do; return whether to go on."""
        with self._wake:
            if not any(task.unread and not task.held for task in self._active):
                self._wake.wait_for(lambda: self._changed or self._closing, timeout=self._until_deadline())
            self._changed = False
            while self._pulses:
                self._pulses.pop().set()
            return not self._closing

    def _until_deadline(self) -> float | None:
        soonest = min((task.ends_by for task in [*self._queue, *self._active]), default=math.inf)
        return None if soonest == math.inf else max(0.0, soonest - time.monotonic())

    def _step(self) -> None:
        """Do one batch: let the ended go and new ones in, read, and hand out what came of it."""
        self._end_some()
        self._admit()
        turns = self._plan(self._active)
        while turns and not self._attempt(turns):
            turns = self._plan_again(turns)

    def _attempt(self, turns: list[Turn]) -> bool:
        """Read a batch and hand out what came of it; False where it was given up."""
        tasks = [turn.task for turn in turns]
        try:
            with self._watch.step(tasks):
                turns = self._read(turns)
        except Stopped:
            return False
        except ContextFull:
            self._make_room()
        except DecodeFailed as error:
            self._recover(tasks, error)
        else:
            self._hand_out(turns)
        return True

    def _plan_again(self, turns: list[Turn]) -> list[Turn]:
        """Return what to read after a batch was given up: for the rest of its tasks, without new company.

        So every stop leaves fewer of them, and clients that come and go cannot keep an answer from its next token.
        """
        if self._closing:
            return []
        self._end_some()
        return self._plan([turn.task for turn in turns if turn.task in self._active])

    def _end_some(self) -> None:
        now = time.monotonic()
        self._fail(lambda task: task.cancelled, lambda: Unavailable("the request was cancelled"))
        self._fail(
            lambda task: task.ends_by <= now,
            lambda: DeadlinePassed("the answer was not complete within its deadline"),
        )

    def _fail(self, chosen: Callable[[AnyTask], bool], error: Callable[[], BaseException]) -> None:
        with self._wake:
            waiting = [task for task in self._queue if chosen(task)]
            for task in waiting:
                self._queue.remove(task)
        for task in waiting:
            task.fail(error())
        for task in [task for task in self._active if chosen(task)]:
            task.fail(error())
            self._leave(task)

    def _leave(self, task: AnyTask) -> None:
        """Free the slot of a task that has ended; what it has read of its prompt stays for others."""
        self._active.remove(task)
        self._crowded, self._changed = False, True
        assert task.sequence is not None
        self._prefixes.keep(task.sequence, task.tokens_n[: min(task.read, task.prompt)], task.keep)
        task.sequence = None

    def _admit(self) -> None:
        """Start waiting tasks, in their order, while there is a slot and room for them."""
        while not self._crowded:
            with self._wake:
                task = next((task for task in self._queue if self._has_slot(task)), None)
            if task is None or not self._fits(task):
                return
            sequence = self._prefixes.take()
            if sequence is None:
                return
            with self._wake:
                self._queue.remove(task)
            self._start(task, sequence)

    def _has_slot(self, task: AnyTask) -> bool:
        running = sum(other.inner == task.inner for other in self._active)
        return running < (SCORED_AT_ONCE if task.inner else self._sequences)

    def _fits(self, task: AnyTask) -> bool:
        foreseen = sum(other.length + min(other.room, FORESEEN) for other in [*self._active, task])
        return not self._active or foreseen <= self._context.cells

    def _start(self, task: AnyTask, sequence: int) -> None:
        running = [
            (other.sequence, other.tokens_n[: other.read]) for other in self._active if other.sequence is not None
        ]
        task.sequence = sequence
        self._active.append(task)
        # The last tokens are read even where they are known: their logits are wanted.
        task.read = self._prefixes.begin(sequence, task.tokens_n[: task.first_output], running)
        if task.cached is None:
            task.cached = task.read

    def _plan(self, tasks: list[AnyTask]) -> list[Turn]:
        """Share out a batch; prompts that have their turn go to the end of the list."""
        writing = any(task.unread == 1 and not task.held for task in tasks)
        turns = plan(tasks, self._context, self._read_tokens if writing else self._alone_tokens)
        for task in [turn.task for turn in turns if turn.task.unread > 1]:
            self._active.remove(task)
            self._active.append(task)
        return turns

    def _read(self, turns: list[Turn]) -> list[Turn]:
        """Read a batch; return what was read. Drafts make room before anybody has to make room for them."""
        try:
            self._context.read([turn.part for turn in turns])
        except ContextFull:
            if not any(len(turn.draft_n) for turn in turns):
                raise
            turns = without_drafts(turns)
            self._context.read([turn.part for turn in turns])
        return turns

    def _hand_out(self, turns: list[Turn]) -> None:
        row = 0
        for turn in turns:
            task = turn.task
            row += turn.tokens
            task.read += turn.tokens
            if task.read <= task.prompt:
                task.tell_progress()
            for back in range(turn.outputs, 0, -1):
                if not task.done:
                    self._take(task, task.read - back, row - back)
            if len(turn.draft_n):
                self._verify(turn, row)
                row += len(turn.draft_n)
        for turn in turns:
            if turn.task.done:
                self._leave(turn.task)

    def _verify(self, turn: Turn, row: int) -> None:
        """Accept the draft, the first of whose logits are at `row`, up to where another token was chosen; cut the rest.

        Every token is chosen by the task itself, from the logits after those it chose before: what is accepted is what
        it would have written step by step, and nothing else, a grammar's state for one, hears of the rest.
        """
        task, accepted = turn.task, 0
        for token in turn.draft_n.tolist():
            if task.done or task.held or task.tokens_n[task.read] != token:
                break
            task.read += 1
            self._take(task, task.read - 1, row + accepted)
            accepted += 1
        if accepted < len(turn.draft_n):
            assert task.sequence is not None
            self._context.cut(task.sequence, task.read)
        task.learn(accepted)
        self._drafted += len(turn.draft_n)
        self._accepted += accepted

    def _take(self, task: AnyTask, index: int, row: int) -> None:
        logits_v = self._context.logits(row)
        if self._scratch_v.shape != logits_v.shape:
            self._scratch_v = np.empty_like(logits_v)
        try:
            task.take(index, logits_v, self._scratch_v)
        except SmallholdError as error:
            task.fail(error)

    def _make_room(self) -> None:
        """Drop an idle prefix, or put the youngest task back into the queue until another one has ended."""
        if self._prefixes.drop_oldest():
            return
        if len(self._active) == 1:
            self._recover(self._active, DecodeFailed("the context has no room for the prompt"))
            return
        youngest = max(self._active, key=lambda task: task.number)
        self._active.remove(youngest)
        assert youngest.sequence is not None
        self._prefixes.release(youngest.sequence)
        youngest.sequence, youngest.read = None, 0
        self._crowded = True
        with self._wake:
            self._queue.appendleft(youngest)

    def _recover(self, failed: list[AnyTask], error: Exception) -> None:
        """Give the error to those it concerns; the rest begin reading again in an empty context."""
        for task in list(failed):
            task.fail(ModelLoadFailed(f"{self._name} could not be run: {error}"))
        self._context.clear()
        self._prefixes.forget()
        for task in self._active:
            task.read = 0
        for task in [task for task in self._active if task.done]:
            self._leave(task)

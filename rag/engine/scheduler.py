"""The one thread that owns the context: it reads and writes for all requests at once, step by step.

A step is one batch: the next token of every answer being written, or up to `read_tokens` tokens of prompts, or both
where that is little; `alone_tokens` of prompts where no answer is being written. While there are both, answers get a
step after each of prompts, more where these took long. Prompts are read one after the other, by turns the oldest and
the shortest (by powers of two) first: so few stand half read in the context, where each makes attention wider, and yet
neither a long one nor a crowd of them stalls a short one. Who could take over what another prompt is being read for
waits for that. A step with a task that has ended meanwhile is given up (`rag.engine.watch`) and done again for the
others.
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
from rag.engine.context import ContextFull, ContextLike, DecodeFailed, Stopped, TokenArray
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
# llama.cpp attends to blocks of 64 cells for 64 rows of a batch at once, and skips a block that none of the 64 may see.
# So an answer's token among a prompt's makes 64 rows attend to all cells of that answer: six answers of 512 tokens
# beside 122 tokens of a prompt took 1.33 s, apart from 128 of them 0.19 and 0.90. Fewer than 64 rows go one by one.
ATTENTION_ROWS = 64
# Seconds of answers for each second of prompts. With more, fewer answers are written at once, which costs each of them
# more: a step of one takes 40 ms, of four 80, of eight 150.
ANSWERS_TIME = 0.25


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
        self._active: list[AnyTask] = []
        self._changed = self._closing = self._crowded = self._shortest_first = False
        self._owed = 0.0  # seconds that are due to answers for those that they have waited for prompts
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
            places = sum(not other.inner for other in [*self._queue, *self._active])
            if not task.inner and places >= self._sequences + self._waiting:
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
        began = time.monotonic()
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
            self._account(tasks, time.monotonic() - began)
            self._hand_out(turns)
        return True

    def _account(self, tasks: list[AnyTask], seconds: float) -> None:
        """Note how long a step took: of answers, or of prompts that answers have waited for."""
        if any(task.unread == 1 for task in tasks):
            self._owed -= seconds
        else:
            self._owed = max(0.0, self._owed) + ANSWERS_TIME * seconds

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
        self._prefixes.keep(task.sequence, task.names_n[: task.read], task.keep)
        task.sequence = None

    def _admit(self) -> None:
        """Start waiting tasks while there is a slot and room for them and the batch is not full without them."""
        while not self._crowded:
            task = self._next()
            if task is None or not self._fits(task):
                return
            sequence = self._prefixes.take()
            if sequence is None:
                return
            with self._wake:
                self._queue.remove(task)
            self._start(task, sequence)

    def _next(self) -> AnyTask | None:
        """Return the oldest waiting task that there is a slot for and that would have a part in the next batch."""
        reading = [task for task in self._active if task.unread > 1 and not task.held]
        with self._wake:
            waiting = [task for task in self._queue if self._has_slot(task)]
        return next((task for task in waiting if not reading or self._has_part(task, reading)), None)

    def _has_slot(self, task: AnyTask) -> bool:
        running = sum(other.inner == task.inner for other in self._active)
        return running < (SCORED_AT_ONCE if task.inner else self._sequences)

    def _has_part(self, task: AnyTask, reading: list[AnyTask]) -> bool:
        """Whether a batch has room for it, by either order, and none of these reads what it could take over."""
        prompt_n = task.names_n[: task.first_output]
        known = self._prefixes.known(prompt_n, self._running())
        if any(self._prefixes.passes_on(other.names_n, prompt_n, known) for other in reading):
            return False
        unread = task.length - known
        older = sum(other.unread for other in reading if other.number < task.number)
        shorter = sum(other.unread for other in reading if other.unread <= unread)
        return min(older, shorter) < self._alone_tokens

    def _fits(self, task: AnyTask) -> bool:
        foreseen = sum(other.length + min(other.room, FORESEEN) for other in [*self._active, task])
        return not self._active or foreseen <= self._context.cells

    def _start(self, task: AnyTask, sequence: int) -> None:
        running = self._running()
        task.sequence = sequence
        self._active.append(task)
        # The last tokens are read even where they are known: their logits are wanted.
        task.read = self._prefixes.begin(sequence, task.names_n[: task.first_output], running)
        if task.cached is None:
            task.cached = task.read

    def _running(self) -> list[tuple[int, TokenArray]]:
        """Return the sequences in use with what is read of each."""
        return [(task.sequence, task.names_n[: task.read]) for task in self._active if task.sequence is not None]

    def _plan(self, tasks: list[AnyTask]) -> list[Turn]:
        """Share out a batch: for answers, or for prompts, by turns the oldest and much shorter ones first."""
        ready = [task for task in tasks if task.unread and not task.held]
        answers, prompts = [task for task in ready if task.unread == 1], [task for task in ready if task.unread > 1]
        if not answers or not prompts:
            self._owed = 0.0
        elif sum(task.unread for task in ready) >= ATTENTION_ROWS:
            ready = answers if self._owed > 0 else prompts
        self._shortest_first ^= ready is not answers
        order = sorted(ready, key=_length if self._shortest_first else _age)
        return plan(order, self._context, self._read_tokens if answers else self._alone_tokens)

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


def _age(task: AnyTask) -> int:
    return task.number


def _length(task: AnyTask) -> tuple[int, int]:
    return task.unread.bit_length(), task.number

"""Gives up a step that is not wanted any more, while the scheduler's own thread is inside llama.cpp."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rag.engine.context import ContextLike
from rag.engine.task import Task

# Seconds that a step goes on when some of its tasks have ended and others have not: mostly it ends within them, and
# nothing has to be read twice. Short, since a client that goes away is noticed a WAIT late in each process on the way.
GRACE = 0.25


class Watch:
    """Stops the step under way once its tasks have ended: when the last has, or `GRACE` seconds after the first.

    `lock` is the scheduler's: a destructor that cancels may interrupt a thread anywhere, so there is only one to take.
    """

    def __init__(self, context: ContextLike, lock: Any, *, name: str) -> None:
        self._context = context
        # A model that cannot forget the step would lose all that those who share it have read: they finish it.
        self._grace = GRACE if context.forgets_parts else math.inf
        self._changed = threading.Condition(lock)
        self._tasks: Sequence[Task[Any]] = ()  # those of the step under way
        self._wakes_at = math.inf
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"smallhold-watch-{name}", daemon=True)
        self._thread.start()

    @contextmanager
    def step(self, tasks: Sequence[Task[Any]]) -> Iterator[None]:
        """Watch over these tasks for the length of the block."""
        with self._changed:
            self._tasks = tasks
            self.look()
        try:
            yield
        finally:
            with self._changed:
                self._tasks = ()
                self._context.stop = self._closed

    def look(self) -> None:
        """Have a look at the step under way where it is to end sooner than was foreseen."""
        with self._changed:
            if self._due() < self._wakes_at:
                self._changed.notify()

    def close(self) -> None:
        """Stop the step under way, and all that may follow. Idempotent."""
        with self._changed:
            self._closed = self._context.stop = True
            self._changed.notify()
        self._thread.join()

    def _due(self) -> float:
        """When the step under way is to be stopped, as far as that is known now."""
        times = [task.ends_by for task in self._tasks]
        return min(max(times), min(times) + self._grace) if times else math.inf

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                due, now = self._due(), time.monotonic()
                if due <= now:
                    self._context.stop = True
                    due = math.inf
                self._wakes_at = due
                self._changed.wait(None if due == math.inf else due - now)

"""Threads that ask an endpoint several questions at a time; answers come back in the order in which they are ready."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")


class Workers(Generic[Task, Done]):
    """At most `size` threads that do `work`; whoever gives it out sees to it that no more is `under_way` than that.

    They are daemons: an interrupted run ends without waiting for an endpoint that is silent for minutes.
    """

    def __init__(self, work: Callable[[Task], Done], size: int) -> None:
        self._work = work
        self._size = size
        self._todo: SimpleQueue[Task | None] = SimpleQueue()
        self._done: SimpleQueue[Done | BaseException] = SimpleQueue()
        self._threads = 0
        self.under_way = 0

    def give(self, task: Task) -> None:
        """Have a task done."""
        self.under_way += 1
        if self._threads < min(self.under_way, self._size):
            self._threads += 1
            threading.Thread(target=self._run, daemon=True).start()
        self._todo.put(task)

    def take(self, timeout: float | None = None) -> Done:
        """Wait for a task to be done and return what came of it, or raise what it raised.

        Raises `TimeoutError` where none is done within `timeout` seconds.
        """
        try:
            done = self._done.get(timeout=timeout)
        except Empty as error:
            raise TimeoutError from error
        self.under_way -= 1
        if isinstance(done, BaseException):
            raise done
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for _ in range(self._threads):
            self._todo.put(None)

    def _run(self) -> None:
        while (task := self._todo.get()) is not None:
            try:
                self._done.put(self._work(task))
            except BaseException as error:  # it is raised where the answer is waited for
                self._done.put(error)

"""Seconds by stage of one question."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Who is told of every stage that ends in this thread, with its seconds: what makes traces, where any are wanted.
watched: ContextVar[Callable[[str, float], None] | None] = ContextVar("watched", default=None)


class Clock:
    """Seconds by stage. `read` lies within `generate`: the time until the first token of the answer."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._watcher = watched.get()
        self._since: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        self._since[name] = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - self._since[name]
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            if self._watcher is not None:
                self._watcher(name, seconds)

    def mark(self, name: str, *, since: str) -> None:
        """Note the seconds since the stage `since` began, under a name of its own."""
        self._seconds[name] = time.perf_counter() - self._since[since]

    def elapsed(self) -> float:
        """Return the seconds since the beginning."""
        return time.perf_counter() - self._began

    def timings(self) -> dict[str, float]:
        """Return the seconds of every stage so far, and the total."""
        return {**self._seconds, "total": self.elapsed()}

"""Seconds by stage of one question."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by stage. `read` lies within `generate`: the time until the first token of the answer."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._since: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        self._since[name] = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - self._since[name]

    def mark(self, name: str, *, since: str) -> None:
        """Note the seconds since the stage `since` began, under a name of its own."""
        self._seconds[name] = time.perf_counter() - self._since[since]

    def elapsed(self) -> float:
        """Return the seconds since the beginning."""
        return time.perf_counter() - self._began

    def timings(self) -> dict[str, float]:
        """Return the seconds of every stage so far, and the total."""
        return {**self._seconds, "total": self.elapsed()}

"""The questions of one system, asked one by one or several at a time; each answer is kept when it comes."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from eval.energy import Laps, Meter
from eval.qaset import Question
from eval.results import ResultsWriter
from eval.rows import Row
from eval.spending import Spending
from eval.system_row import SystemRow
from eval.workers import Workers
from rag.errors import Unavailable

# An endpoint that is down or a key that is wrong fails every question: stop a system instead of failing them all.
FAILURES_IN_A_ROW = 5

# Answers that are under way when a run is interrupted are paid for: so long they are waited for, in seconds.
LAST_ANSWERS = 10.0

# Puts a question to the system, and reads with the meter what the machine spends; None where it has nothing to say.
Ask = Callable[[Question, Meter], Row | None]


class Progress(Protocol):
    """Is told how a run goes on."""

    def start(self, system: str, total: int, reused: int) -> None:
        """A system begins; `reused` of its `total` questions are answered already."""
        ...

    def advance(self, row: Row) -> None:
        """A question was answered."""
        ...

    def finish(self) -> None:
        """The system that was started is through, or has stopped."""
        ...

    def note(self, text: str) -> None:
        """Something the reader should know."""
        ...


class Keeper:
    """Writes answers down, each when it comes, into the account of `spending` too; counts failures in a row."""

    def __init__(self, writer: ResultsWriter, progress: Progress, spending: Spending) -> None:
        self.progress, self.spending = progress, spending
        self._writer = writer
        self._failures = 0
        self._last_error: str | None = ""

    def keep(self, result: Row | None) -> None:
        """Write a row; None is a question that the system has nothing to say of."""
        if result is None:
            return
        self._writer.append(result)
        self.spending.add(result)
        self.progress.advance(result)
        self._failures = self._failures + 1 if result.failed else 0
        self._last_error = result.error

    @property
    def failing(self) -> bool:
        """Whether the last answer was none."""
        return self._failures > 0

    def check(self) -> None:
        """Raise `Unavailable` where nothing but failures has come of late."""
        if self._failures >= FAILURES_IN_A_ROW:
            raise Unavailable(
                f"{self._failures} questions in a row failed, the last with: {self._last_error}",
                hint="Mend the cause and run the same command again: finished questions are kept.",
            )


def ask_all(questions: Sequence[Question], row: SystemRow, ask: Ask, keeper: Keeper) -> None:
    """Ask every question, as many at a time as the system takes.

    Raises `LimitReached` before a limit might be passed, `Unavailable` where question after question fails.
    """
    if row.at_once > 1:
        _ask_together(questions, row, ask, keeper)
        return
    for question in questions:
        keeper.spending.check(row)
        keeper.keep(ask(question, Meter()))
        keeper.check()


def _ask_together(questions: Sequence[Question], row: SystemRow, ask: Ask, keeper: Keeper) -> None:
    """Ask several questions at a time; what is under way when the system stops is waited for, and kept.

    The first is asked alone, since it tells what a question costs, whether the endpoint is there and what it refuses;
    so is the next after one that failed.
    """
    meter = Laps()
    waiting = deque(questions)
    room = 1
    crew: Workers[Question, Row | None] = Workers(lambda question: ask(question, meter), row.at_once)
    with crew as workers:
        try:
            while waiting or workers.under_way:
                while waiting and workers.under_way < room and keeper.spending.allows(row, workers.under_way):
                    workers.give(waiting.popleft())
                if not workers.under_way:
                    keeper.spending.check(row)
                keeper.keep(workers.take())
                keeper.check()
                room = 1 if keeper.failing else row.at_once
        except Unavailable:
            while workers.under_way:
                keeper.keep(workers.take())
            raise
        except KeyboardInterrupt:
            _keep_last(workers, keeper)
            raise


def _keep_last(workers: Workers[Question, Row | None], keeper: Keeper) -> None:
    """Wait a little for what is under way; a second interrupt leaves it."""
    if not workers.under_way:
        return
    keeper.progress.note(f"interrupted: {workers.under_way} answers under way are waited for")
    until = time.monotonic() + LAST_ANSWERS
    try:
        while workers.under_way:
            keeper.keep(workers.take(timeout=max(0.0, until - time.monotonic())))
    except TimeoutError:
        keeper.progress.note(f"{workers.under_way} answers did not come in time")

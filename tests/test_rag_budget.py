import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from rag.budget import Ledger, charged, ledger_path
from rag.datatypes import Answer, Delta, Usage
from rag.errors import BudgetSpent, KeysDamaged
from rag.keys import Key
from tests.conftest import REPOSITORY

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def key(id_: str = "00000001", tokens: int | None = 100) -> Key:
    return Key(id=id_, label="a", sha256="0" * 64, created=NOON, tokens_per_day=tokens)


class Watch:
    """A clock that is set by hand."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return ledger_path(tmp_path / "keys.json")


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def ledger(path: Path, watch: Watch) -> Iterator[Ledger]:
    made = Ledger(path, watch)
    yield made
    made.close()


def test_a_file_that_is_deleted_is_begun_anew(ledger: Ledger, path: Path) -> None:
    """Deleting it is how tokens are given back; what was spent since must count all the same."""
    ledger.charge(key(), 60)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    assert ledger.spent(key()) == 0
    ledger.charge(key(), 70)
    assert ledger.spent(key()) == 70
    ledger.charge(key(), 70)
    with pytest.raises(BudgetSpent):
        ledger.check(key())


def test_a_key_may_spend_its_budget_and_no_more_that_day(ledger: Ledger, watch: Watch) -> None:
    ledger.check(key())
    ledger.charge(key(), 60)
    ledger.check(key())
    ledger.charge(key(), 60)  # the request that goes past it is answered whole
    assert ledger.spent(key()) == 120
    with pytest.raises(BudgetSpent, match="100 tokens of the day are spent") as refused:
        ledger.check(key())
    assert refused.value.retry_after == 12 * 3600
    ledger.check(key("00000002"))  # another key's are its own
    watch.now = datetime(2026, 3, 2, tzinfo=UTC)
    ledger.check(key())
    assert ledger.spent(key()) == 0
    ledger.charge(key(), 7)
    assert ledger.spent(key()) == 7


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (datetime(2026, 3, 1, 23, 59, 59, 1, tzinfo=UTC), 1),
        (datetime(2026, 3, 1, 23, 59, 58, 999_999, tzinfo=UTC), 2),
        (datetime(2026, 3, 1, 0, 0, tzinfo=UTC), 86_400),
        (datetime(2026, 12, 31, 22, 0, tzinfo=UTC), 7200),
        # Half past midnight in a zone two hours east is 22:30 of the day before in UTC.
        (datetime(2026, 3, 2, 0, 30, tzinfo=timezone(timedelta(hours=2))), 5400),
    ],
)
def test_it_is_to_try_again_after_midnight_in_utc(ledger: Ledger, watch: Watch, now: datetime, seconds: int) -> None:
    watch.now = now
    ledger.charge(key(), 100)
    with pytest.raises(BudgetSpent) as refused:
        ledger.check(key())
    assert refused.value.retry_after == seconds
    watch.now = now + timedelta(seconds=seconds)
    ledger.check(key())


SPEND = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from rag.budget import Ledger
from rag.keys import Key

key = Key(id="00000001", label="a", sha256="0" * 64, created="2026-01-01T00:00:00Z", tokens_per_day=100)
ledger = Ledger(Path(sys.argv[1]), lambda: datetime.fromisoformat(sys.argv[2]))
ledger.charge(key, 100)
"""


def spend_elsewhere(path: Path, then: str) -> int:
    """Spend 100 tokens in a process of its own; return with what that ended."""
    command = [sys.executable, "-c", SPEND + then, path, NOON.isoformat()]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False).returncode


def test_what_was_spent_outlives_the_server_even_one_that_is_killed(path: Path, watch: Watch) -> None:
    assert spend_elsewhere(path, "os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    after = Ledger(path, watch)
    with pytest.raises(BudgetSpent):
        after.check(key())
    after.close()
    after.charge(key(), 1)  # it opens again
    assert after.spent(key()) == 101
    after.close()


def test_whoever_else_comes_and_goes_takes_nothing_away(path: Path, watch: Watch, ledger: Ledger) -> None:
    """As another server with these keys, or `smallhold keys list`."""
    ledger.charge(key(), 1)
    assert ledger.spent(key()) == 1
    for spent in (101, 202):
        assert spend_elsewhere(path, "ledger.close()") == 0
        assert ledger.spent(key()) == spent
        ledger.charge(key(), 1)
    ledger.close()
    assert Ledger(path, watch).spent(key()) == 203


def test_threads_and_servers_that_spend_at_once_lose_nothing(path: Path, watch: Watch) -> None:
    ledgers = [Ledger(path, watch), Ledger(path, watch)]

    def spend(ledger: Ledger) -> None:
        for _ in range(50):
            ledger.charge(key(), 3)

    threads = [threading.Thread(target=spend, args=[ledger]) for ledger in ledgers for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledgers[0].spent(key()) == 6 * 50 * 3
    for ledger in ledgers:
        ledger.close()


@pytest.mark.parametrize("known", [False, True], ids=["the first look", "a later look"])
def test_whoever_looks_does_not_wait_for_whoever_writes(ledger: Ledger, path: Path, known: bool) -> None:
    """The event loop looks before each request: a disk that is slow to take an answer's tokens must not stop it."""
    ledger.charge(key(), 7)
    if known:
        ledger.check(key())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writer = threading.Thread(target=ledger.charge, args=[key(), 60])
        writer.start()
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            ledger.check(key())
            time.sleep(0.02)
        assert time.monotonic() - began < 2  # a write waits for five seconds
        assert writer.is_alive()
        other.execute("COMMIT")
        writer.join(10)
    assert ledger.spent(key()) == 67


def test_without_a_budget_nothing_is_counted_or_written(ledger: Ledger, path: Path) -> None:
    for nobody in (None, key(tokens=None)):
        ledger.check(nobody)
        ledger.charge(nobody, 10**9)
        ledger.check(nobody)
    ledger.charge(key(), 0)
    assert ledger.spent(key()) == 0
    assert not path.exists()


def test_the_file_is_private_and_has_one_row_a_key(ledger: Ledger, path: Path, watch: Watch) -> None:
    for day in range(5):
        watch.now = NOON + timedelta(days=day)
        ledger.charge(key(), 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ledger.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT * FROM spent").fetchall() == [("00000001", "2026-03-05", 1)]
    connection.close()


def test_where_it_cannot_be_kept_nothing_is_given(path: Path, watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"no database at all" * 100)
    ledger = Ledger(path, watch)
    for use in (lambda: ledger.check(key()), lambda: ledger.charge(key(), 1)):
        with pytest.raises(KeysDamaged) as refused:
            use()
        assert str(path) not in str(refused.value)
    assert str(path) in caplog.text


def test_a_file_that_the_system_says_nothing_of_is_one_that_cannot_be_read(tmp_path: Path) -> None:
    """As in a folder that may not be looked into, which root, as whom tests may run, always may."""
    with pytest.raises(KeysDamaged):
        Ledger(tmp_path / ("x" * 300)).check(key())


# Answers


class Writing:
    """Deltas of an answer that has used so many tokens at each; the last one carries the answer."""

    def __init__(self, *used: int, whole: bool = True) -> None:
        self.deltas = [Delta("x", usage=Usage(prompt=n)) for n in used]
        if whole:
            self.deltas[-1] = Delta(answer=Answer("x", usage=Usage(prompt=used[-1] - 5, cached=3, completion=5)))
        self.begun = self.closed = 0

    def __call__(self) -> Iterator[Delta]:
        self.begun += 1
        try:
            yield from self.deltas
        finally:
            self.closed += 1


def test_a_whole_answer_is_charged_before_it_is_handed_out(ledger: Ledger) -> None:
    writing = Writing(10, 20, 40)
    for delta in charged(ledger, key(), writing):
        assert ledger.spent(key()) == (40 if delta.answer else 0)
    assert ledger.spent(key()) == 40  # prompt and completion; cached ones are part of the prompt
    assert writing.closed == 1


def test_an_answer_that_its_reader_broke_off_is_charged_as_far_as_it_came(ledger: Ledger) -> None:
    writing = Writing(10, 20, 40)
    deltas = charged(ledger, key(), writing)
    next(deltas)
    next(deltas)
    deltas.close()  # type: ignore[attr-defined]
    assert ledger.spent(key()) == 20
    assert writing.closed == 1


def test_a_delta_that_does_not_tell_leaves_what_the_one_before_told(ledger: Ledger) -> None:
    def failing() -> Iterator[Delta]:
        yield Delta(usage=Usage(prompt=30, completion=2))
        yield Delta("x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        list(charged(ledger, key(), failing))
    assert ledger.spent(key()) == 32


def test_an_endpoint_that_tells_no_usage_is_charged_by_what_was_estimated(ledger: Ledger) -> None:
    def silent() -> Iterator[Delta]:
        yield Delta(usage=Usage(prompt=30))
        yield Delta("x", usage=Usage(prompt=30, completion=4))
        yield Delta(answer=Answer("x"))

    list(charged(ledger, key(), silent))
    assert ledger.spent(key()) == 34


def test_one_that_waited_until_the_budget_was_spent_is_not_begun(ledger: Ledger) -> None:
    writing = Writing(10)
    deltas = charged(ledger, key(), writing)
    ledger.charge(key(), 100)
    with pytest.raises(BudgetSpent):
        next(deltas)
    assert writing.begun == 0
    assert ledger.spent(key()) == 100


def test_on_a_full_disk_nothing_is_begun(ledger: Ledger, path: Path) -> None:
    """Else a model would work for minutes on what is refused in the end."""
    ledger.charge(key(), 7)
    journal = Path(f"{path}-wal")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size, before[1]))
    writing = Writing(10)
    try:
        with pytest.raises(KeysDamaged):
            next(charged(ledger, key(), writing))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert writing.begun == 0
    next(charged(ledger, key(), writing))  # there is room again
    assert ledger.spent(key()) == 17

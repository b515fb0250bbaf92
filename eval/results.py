"""The folder of a run: `results.jsonl`, one row a question and system, and `run.json`, what those rows belong to.

Rows are appended as they come and synced every few seconds; whatever moment a run is killed at, a later one goes on
from there. A row counts while its fingerprint is that of its question under its system; others are asked again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from eval.files import atomic_writer, write_text
from eval.rows import Record, Row
from rag.errors import DataError, Unavailable

RESULTS = "results.jsonl"
RUN = "run.json"

# A row holds a question, an answer and its citations; the largest seen has 20 kB.
MAX_ROW = 16_000_000
MAX_RUN = 500_000_000

# A power cut loses at most the answers of this many seconds; a killed process loses none.
_SYNC_SECONDS = 2.0


class RunSystem(Record):
    """One system of the run: its row of the TOML file, all its settings, where and when it was asked.

    `stopped` says why it came to no end, `prepared` what was done before the first question and is in no seconds.
    """

    fingerprint: str
    row: dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict)
    machine: dict[str, Any]
    date: str
    stopped: str = ""
    prepared: str = ""


class Run(Record):
    """What the rows belong to: the QA set, the digest of every question asked (in order), the systems by name.

    `notes` are for the reader of the report.
    """

    data: dict[str, Any]
    questions: dict[str, str]
    systems: dict[str, RunSystem] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def with_system(self, name: str, system: RunSystem) -> "Run":
        """Return the run with one system put in or replaced."""
        return self.model_copy(update={"systems": {**self.systems, name: system}})

    def counts(self, row: Row) -> bool:
        """Whether a row is a current answer of this run."""
        system, question = self.systems.get(row.system), self.questions.get(row.question_id)
        if system is None or question is None:
            return False
        return row.fingerprint == row_fingerprint(system.fingerprint, question)


def system_fingerprint(identity: Mapping[str, Any], opened: str, corpus_digest: str) -> str:
    """Fold row and settings, the opened system's own fingerprint and the corpus into one SHA-256."""
    text = json.dumps([identity, opened, corpus_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def row_fingerprint(system: str, question_digest: str) -> str:
    """Fold a system's fingerprint and a question's digest into one SHA-256."""
    return hashlib.sha256(f"{system}:{question_digest}".encode()).hexdigest()


def read_run(out: Path) -> Run:
    """Read `run.json`. Raises `DataError` where there is no run or it is damaged."""
    path = out / RUN
    if not path.is_file():
        raise DataError(f"{out} holds no run: {RUN} is missing", hint="Start one with `smallhold eval run`.")
    if path.stat().st_size > MAX_RUN:
        raise DataError(f"{path} is larger than {MAX_RUN:,} bytes")
    try:
        return Run.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{path} is damaged: {error.errors()[0]['msg']}", hint="Remove it and run again: finished rows are reused."
        ) from error


def write_run(out: Path, run: Run) -> None:
    """Write `run.json` atomically."""
    write_text(out / RUN, run.model_dump_json(indent=1) + "\n")


def read_rows(out: Path, on_damage: Callable[[int], None] | None = None) -> Iterator[Row]:
    """Stream the rows of a run. A line that is no row, such as one torn by a kill, is passed over.

    `on_damage` is told its number.
    """
    path = out / RESULTS
    if not path.exists():
        return
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_ROW + 1):
            number += 1
            row = _parse_row(line)
            if row is not None:
                yield row
            elif on_damage is not None:
                on_damage(number)


def rewrite_rows(out: Path, keep: Callable[[Row], bool], change: Callable[[Row], Row]) -> None:
    """Drop rows that are not to `keep` and lines that are no rows, put the others through `change`, atomically.

    Of several rows to a question and system the last that is kept stays.
    """
    last = {(row.system, row.question_id): place for place, row in enumerate(read_rows(out)) if keep(row)}
    places = set(last.values())
    with atomic_writer(out / RESULTS) as file:
        for place, row in enumerate(read_rows(out)):
            if place in places:
                file.write(encode_row(change(row)))


def encode_row(row: Row) -> bytes:
    """Return a row as one line."""
    return row.model_dump_json().encode() + b"\n"


class ResultsWriter:
    """Appends rows. Opening cuts off a torn last line, so that the next row begins on a line of its own."""

    def __init__(self, out: Path) -> None:
        self._file = (out / RESULTS).open("ab+")
        self._cut_torn_line()
        self._synced = time.monotonic()

    def append(self, row: Row) -> None:
        """Hand a row to the operating system; it outlives this process from here on."""
        self._file.write(encode_row(row))
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self._sync()

    def __enter__(self) -> "ResultsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sync()
        self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _cut_torn_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        begin = max(0, end - MAX_ROW)
        self._file.seek(begin)
        tail = self._file.read()
        whole = begin + tail.rfind(b"\n") + 1
        if whole < end:
            self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a run's folder for this process.

    Raises `Unavailable` where another one holds it, `DataError` where it cannot be written to.
    """
    lock = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise Unavailable(
            f"another evaluation is writing to {out}", hint="Wait for it, stop it, or name another --out."
        ) from error
    except OSError as error:
        raise DataError(f"{out} cannot be written to: {error.strerror}", hint="Name another --out.") from error
    try:
        yield
    finally:
        lock.release()


def _parse_row(line: bytes) -> Row | None:
    if not line.endswith(b"\n") or len(line) > MAX_ROW:
        return None
    try:
        return Row.model_validate_json(line)
    except ValidationError:
        return None

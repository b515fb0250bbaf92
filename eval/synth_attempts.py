"""What an unfinished set remembers: `synth.json`, what it was begun with, and `attempts.jsonl`, a row an attempt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import Field, ValidationError

from eval.files import atomic_writer, write_text
from eval.rows import Record
from eval.synth_drafts import Kind
from rag.errors import DataError

ATTEMPTS = "attempts.jsonl"
STATE = "synth.json"
_MAX_LINE = 1_000_000
_MAX_STATE = 50_000_000


class Attempt(Record):
    """One question that was written. `failed` names the check that ended it, empty where it is kept.

    `passages` are `(document id, span)` in the order of reading; `base` holds the questions that it was made from,
    `swapped` what was put in to make it unanswerable, `nearest` the cosine to the nearest question kept before.
    """

    number: int
    kind: Kind
    key: str
    passages: tuple[tuple[str, tuple[int, int]], ...]
    question: str
    answer: str
    answer_kind: str
    base: tuple[str, ...] = ()
    swapped: str = ""
    failed: str = ""
    read: str = ""
    remembered: str = ""
    nearest: float | None = None
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether it passed every check."""
        return not self.failed

    @property
    def id(self) -> str:
        """The question's id in the set."""
        return f"synth-{self.number:05d}"


class SetState(Record):
    """What a set was begun with, and the report of what became of it.

    `fingerprint` is that of model, prompts and cutting, `corpus` the SHA-256 of corpus.jsonl, `report` as
    `synth_set.report_of` makes it.
    """

    source: str
    license: str
    model: str
    fingerprint: str
    corpus: str
    seed: int
    min_f1: float
    wanted: int
    report: dict[str, Any] = Field(default_factory=dict)


def read_state(out: Path) -> SetState | None:
    """Read `synth.json`, None where there is none. Raises `DataError` where it is damaged."""
    path = out / STATE
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_STATE:
        raise DataError(f"{path} is larger than {_MAX_STATE:,} bytes")
    try:
        return SetState.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is damaged: {error.errors()[0]['msg']}", hint="Name another --out.") from error


def write_state(out: Path, state: SetState) -> None:
    """Write `synth.json` atomically."""
    write_text(out / STATE, state.model_dump_json(indent=1) + "\n")


def read_attempts(out: Path) -> list[Attempt]:
    """Read the attempts up to the first line that is none, such as one torn by a kill."""
    return list(_attempts(out / ATTEMPTS))


def _attempts(path: Path) -> Iterator[Attempt]:
    if not path.exists():
        return
    with path.open("rb") as file:
        while (line := file.readline(_MAX_LINE + 1)).endswith(b"\n"):
            try:
                yield Attempt.model_validate_json(line)
            except ValidationError:
                return


@contextmanager
def appending(out: Path, attempts: Sequence[Attempt]) -> Iterator[BinaryIO]:
    """Open the file to append to, with exactly `attempts` in it: what came after a torn line is written anew."""
    with atomic_writer(out / ATTEMPTS) as file:
        file.writelines(encode_attempt(attempt) for attempt in attempts)
    with (out / ATTEMPTS).open("ab") as file:
        yield file


def encode_attempt(attempt: Attempt) -> bytes:
    """Return an attempt as one line."""
    return attempt.model_dump_json().encode() + b"\n"

"""The answers that an estimate is fitted to and tested on: what one system said with nothing withheld."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eval.results import Run, read_rows, read_run
from eval.rows import Row
from rag.errors import DataError
from rag.promise import Value, answer_settings


class Answers(NamedTuple):
    """The rows of one system in some runs: every question asked and judged, those without an answer included.

    `names` are those of the QA sets, `settings` those that answers depend on (see `rag.promise`).
    """

    names: tuple[str, ...]
    settings: Mapping[str, Value]
    rows: tuple[Row, ...]


def read_answers(runs: Sequence[Path], system: str = "") -> Answers:
    """Read the rows to calibrate on; `system` names one of several in a run.

    Raises `DataError` where a run withheld answers, or where they are not all of one system with the same settings.
    """
    found = [_read_run(out, system) for out in runs]
    first = found[0].settings
    for out, other in zip(runs, found, strict=True):
        changed = sorted(
            key for key in first.keys() | other.settings.keys() if first.get(key) != other.settings.get(key)
        )
        if changed:
            raise DataError(
                f"{out} was made with other settings than {runs[0]}: {', '.join(changed)}",
                hint="One estimate is fitted to the answers of one system.",
            )
    return Answers(
        tuple(dict.fromkeys(name for answers in found for name in answers.names)),
        first,
        tuple(row for answers in found for row in answers.rows),
    )


def _read_run(out: Path, system: str) -> Answers:
    run = read_run(out)
    name = _system(run, out, system)
    settings = run.systems[name].settings
    if settings.get("abstention", {}).get("enabled") is not False:
        raise DataError(
            f"{out}: {name} withheld answers, and what it would have said is not known",
            hint="Make the run with `smallhold eval run --no-abstain`.",
        )
    rows = {row.question_id: row for row in read_rows(out) if row.system == name and run.counts(row)}
    judged = tuple(row for row in rows.values() if not row.answerable or row.scores.get("right") is not None)
    return Answers((str(run.data.get("name") or out.name),), answer_settings(settings), judged)


def _system(run: Run, out: Path, wanted: str) -> str:
    """Return the system to fit: the one asked for, or else the only one that answers from documents."""
    reading = [name for name, one in run.systems.items() if one.row.get("generator") and one.row.get("retrieval")]
    if wanted in reading:
        return wanted
    if wanted or len(reading) != 1:
        known = ", ".join(reading) or "none"
        raise DataError(
            f"{out}: {f'{wanted} does not answer from documents there' if wanted else 'it is not clear which system'}",
            hint=f"Name one with --system. Of those that answer from documents there are: {known}.",
        )
    return reading[0]

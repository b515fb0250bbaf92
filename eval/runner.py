"""The run: every system in turn answers every question, each answer a row, scored when it comes.

Systems are opened one after the other, so that one language model is in memory at a time. Rows of an earlier run that
still count are not asked again; rows that ended in an error are. Rows are written as they come and read as a stream: no
step holds all answers.
"""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval.asking import Keeper, Progress, ask_all
from eval.energy import Meter, Spent
from eval.machine import describe_machine
from eval.qaset import QASet, Question
from eval.results import (
    RUN,
    ResultsWriter,
    Run,
    RunSystem,
    locked,
    read_rows,
    read_run,
    rewrite_rows,
    row_fingerprint,
    system_fingerprint,
    write_run,
)
from eval.rows import Row, Work, empty_row, printable
from eval.spending import LimitReached, Spending
from eval.system_row import SystemRow
from eval.systems import OpenSystem, Reply, System
from rag.config import Settings
from rag.datatypes import Answer
from rag.errors import DataError, InvalidRequest, SmallholdError, Unavailable


class Silent:
    """Progress that nobody watches."""

    def start(self, system: str, total: int, reused: int) -> None:
        """Say nothing."""

    def advance(self, row: Row) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


def run(
    qaset: QASet,
    systems: Sequence[SystemRow],
    out: Path,
    open_system: OpenSystem,
    *,
    settings: Settings,
    progress: Progress | None = None,
    spending: Spending | None = None,
) -> Run:
    """Answer the questions of `qaset` with every system into the folder `out`; return what `run.json` then holds.

    A system that is not available (weights missing, endpoint down), or whose next question might pass a limit of
    `spending`, is noted as stopped and the next one goes on.
    Raises `DataError` where `out` belongs to another QA set, `Unavailable` where another process writes to it,
    `InvalidRequest` where no system has anything to do on a set for retrieval alone.
    """
    progress, spending = progress or Silent(), spending or Spending()
    parts = _runnable_parts(qaset, systems)
    with locked(out):
        state = _begin(qaset, systems, out, progress)
        for row in parts:
            state = _run_system(qaset, row, out, open_system, settings, state, progress, spending)
            write_run(out, state)
        prices = {name: SystemRow.model_validate(system.row).prices for name, system in state.systems.items()}
        counted = {(row.system, row.question_id) for row in read_rows(out) if state.counts(row)}
        rewrite_rows(
            out,
            # Not the row of another wording, however late it came, in place of the one that counts.
            keep=lambda row: (
                _belongs(row, state) and (state.counts(row) or (row.system, row.question_id) not in counted)
            ),
            change=lambda row: row.judged(prices[row.system]) if row.system in prices else row,
        )
        state = state.model_copy(update={"notes": (*state.notes, *_not_recorded(out, state))})
        write_run(out, state)
    return state


def _not_recorded(out: Path, state: Run) -> list[str]:
    """Say of which systems the file of recorded answers leaves questions out: they are unscored, not wrong."""
    answered = Counter(row.system for row in read_rows(out) if row.recorded and state.counts(row))
    missing = {
        name: len(state.questions) - answered[name]
        for name, system in state.systems.items()
        if system.row.get("recorded")
    }
    return [f"{name}: no answer is recorded to {count:,} of the questions" for name, count in missing.items() if count]


def _runnable_parts(qaset: QASet, systems: Sequence[SystemRow]) -> list[SystemRow]:
    """Return what is to be run: on a set for retrieval alone the retrieval parts, elsewhere everything."""
    if not qaset.retrieval_only:
        return list(systems)
    parts = [row.without_generator() for row in systems if row.retrieval]
    if not parts:
        raise InvalidRequest(
            f"{qaset.name} has no answers, and the systems asked for retrieve nothing",
            hint="Ask for `--system retrieval`.",
        )
    return parts


def _begin(qaset: QASet, systems: Sequence[SystemRow], out: Path, progress: Progress) -> Run:
    """Return the state to go on from: this run's questions, and the systems of an earlier run in this folder."""
    notes = _notes(qaset, systems)
    for note in notes:
        progress.note(note)
    questions = {question.id: question.digest for question in qaset.questions}
    fresh = Run(data=describe_data(qaset), questions=questions, notes=notes)
    if not (out / RUN).exists():
        return fresh
    earlier = read_run(out)
    if earlier.data.get("name") != qaset.name:
        raise DataError(
            f"{out} holds a run on {earlier.data.get('name')!r}, not on {qaset.name!r}", hint="Name another --out."
        )
    if earlier.data.get("corpus_digest") == qaset.corpus_digest:
        return fresh.model_copy(update={"systems": earlier.systems})
    progress.note("the corpus has changed since the earlier run: every question is asked again")
    return fresh


def _notes(qaset: QASet, systems: Sequence[SystemRow]) -> tuple[str, ...]:
    if not qaset.retrieval_only:
        return ()
    reduced = [row.name for row in systems if row.generates and row.retrieval]
    left_out = [row.name for row in systems if not row.retrieval]
    notes = []
    if reduced:
        notes.append(f"{qaset.name} has no answers to compare with: only the retrieval of {', '.join(reduced)} was run")
    if left_out:
        notes.append(f"{qaset.name} has no answers to compare with: {', '.join(left_out)} retrieves nothing, left out")
    return tuple(notes)


def describe_data(qaset: QASet) -> dict[str, object]:
    """Return what a report says about the questions."""
    answerable = sum(question.answerable for question in qaset.questions)
    return {
        "name": qaset.name,
        "kind": qaset.kind,
        "license": qaset.license,
        "source": qaset.source,
        "documents": qaset.documents_count,
        "questions": len(qaset.questions),
        "answerable": answerable,
        "unanswerable": len(qaset.questions) - answerable,
        "retrieval_only": qaset.retrieval_only,
        "digest": qaset.digest,
        "corpus_digest": qaset.corpus_digest,
    }


def _run_system(
    qaset: QASet,
    row: SystemRow,
    out: Path,
    open_system: OpenSystem,
    settings: Settings,
    state: Run,
    progress: Progress,
    spending: Spending,
) -> Run:
    """Ask what is still to ask of one system. Returns the state with this system in it."""
    progress.note(f"{row.name}: opening")
    identity = row.identity(settings)
    try:
        with open_system(row) as system:
            fingerprint = system_fingerprint(identity, system.fingerprint, qaset.corpus_digest)
            state = state.with_system(row.name, _entry(row, identity, fingerprint, state.systems.get(row.name)))
            spending.begin(row, settings, qaset.questions)
            pending = _pending(qaset, row.name, out, state, spending)
            if pending:
                spending.check(row)
                entry = _entry(row, identity, fingerprint, None)
                state = state.with_system(row.name, entry)
                write_run(out, state)
                state = state.with_system(row.name, entry.model_copy(update={"prepared": system.prepare()}))
            progress.start(row.name, len(qaset.questions), len(qaset.questions) - len(pending))
            try:
                with ResultsWriter(out) as writer:
                    keeper = Keeper(writer, progress, spending)
                    billed = row.endpoints(settings)
                    ask_all(
                        pending, row, lambda asked, meter: ask(asked, row, fingerprint, system, meter, billed), keeper
                    )
            finally:
                progress.finish()
    except (Unavailable, LimitReached) as error:
        progress.note(f"{row.name} stopped: {error}")
        entry = state.systems.get(row.name) or _entry(row, identity, "", None)
        state = state.with_system(row.name, entry.model_copy(update={"stopped": str(error)}))
    return state


def _entry(row: SystemRow, identity: dict[str, Any], fingerprint: str, earlier: RunSystem | None) -> RunSystem:
    """Describe a system of this run; one whose rows are all there keeps the date and machine they were measured on."""
    plain = row.model_dump(exclude_none=True)
    if earlier is not None and earlier.fingerprint == fingerprint:
        return earlier.model_copy(update={"row": plain, "stopped": ""})
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return RunSystem(
        fingerprint=fingerprint, row=plain, settings=identity["settings"], machine=describe_machine(), date=date
    )


def _pending(qaset: QASet, system: str, out: Path, state: Run, spending: Spending) -> list[Question]:
    """Return what is still to ask; what the rows of before have cost goes into the account."""
    done = set()
    for row in read_rows(out):
        if row.system == system and _belongs(row, state):
            spending.add(row)
            if not row.failed and state.counts(row):
                done.add(row.question_id)
    return [question for question in qaset.questions if question.id not in done]


def ask(
    question: Question, row: SystemRow, fingerprint: str, system: System, meter: Meter, billed: frozenset[str]
) -> Row | None:
    """Put one question to a system and judge what comes; an error of the system becomes a row as well.

    `meter` reads what the machine spends, endpoints bill what the models `billed` read. None where the system has
    nothing to say of this question.
    """
    fingerprints = (fingerprint, row_fingerprint(fingerprint, question.digest))
    result = empty_row(question, row.name, generates=row.generates, retrieves=row.retrieval, fingerprints=fingerprints)
    counters, began = meter.read(), time.perf_counter()
    try:
        reply = system.ask(question) if row.generates else _retrieved(question, system)
        seconds = time.perf_counter() - began
        if reply is None:
            return None
        # A replayed answer has its seconds with it: those of the first time.
        seconds = 0.0 if reply.recorded else reply.answer.timings.get("total", seconds)
        result = result.with_answer(reply.answer, billed).model_copy(
            update={
                "human_right": reply.human_right,
                "usage_estimated": reply.usage_estimated,
                "recorded": reply.recorded,
            }
        )
    except SmallholdError as error:
        seconds = time.perf_counter() - began
        result = result.model_copy(update={"error": printable(str(error))})
    work = _work(result, meter.since(counters))
    return result.model_copy(update={"seconds": seconds, "work": work}).judged(row.prices)


def _work(result: Row, spent: Spent) -> Work | None:
    """What the machine did for a question. Of a replayed answer it is what it did the first time.

    Where nobody kept that, it is reckoned: a model here keeps every core busy.
    """
    if result.recorded:
        return None
    timings = result.timings
    replayed = timings.get("replayed_here", timings.get("replayed")) or 0.0
    joules = None if timings.get("replayed") else spent.joules
    again = timings.get("replayed_cpu") or replayed * spent.cores
    return Work(cpu_seconds=spent.cpu_seconds + again, cores=spent.cores, joules=joules)


def _retrieved(question: Question, system: System) -> Reply:
    return Reply(Answer("", retrieved=tuple(system.retrieve(question))))


def _belongs(row: Row, state: Run) -> bool:
    """Whether a row is of a system as it now is. Questions beyond a smaller --limit are kept for a larger one."""
    system = state.systems.get(row.system)
    return system is None or not system.fingerprint or row.system_fingerprint == system.fingerprint

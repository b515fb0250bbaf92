"""What the command line shows: progress bars and messages on stderr, results on stdout."""

import json
import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from rag.datatypes import Answer, Citation, Closest, Delta
from rag.errors import SmallholdError
from rag.marks import marked
from rag.pipeline import said

if TYPE_CHECKING:
    from rag.doctor import Finding

# What no terminal should be sent, and no UTF-8 holds: control characters but tab and newline, and half surrogates, both
# of which file names may have.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class _Console(Console):
    """Shows control characters instead of obeying them: names of files and titles of documents come from anywhere."""

    def render_str(self, text: str, *args: Any, **options: Any) -> Text:
        """Return text, in whose markup no control character has a meaning."""
        return super().render_str(_visible(text), *args, **options)


out = _Console(highlight=False, emoji=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Write one JSON value to stdout, for programs."""
    sys.stdout.write(json_text(value, indent=2) + "\n")
    sys.stdout.flush()


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return a value as JSON that UTF-8 can hold: half surrogates stand in it as JSON spells them."""
    return re.sub("[\ud800-\udfff]", _escaped, json.dumps(value, ensure_ascii=False, indent=indent))


def _visible(text: str) -> str:
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"


def print_error(error: SmallholdError) -> None:
    """Write an error and what to do about it to stderr."""
    err.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        err.print(escape(error.hint))


def page_name(document_id: str) -> str:
    """What a document's pages are called: those of a presentation are slides, those of a workbook sheets."""
    suffix = document_id.rpartition(".")[2].lower()
    return {"pptx": "slide", "pptm": "slide", "ppsx": "slide", "xlsx": "sheet", "xlsm": "sheet"}.get(suffix, "page")


def print_answer(answer: Answer, *, shown: bool = False) -> None:
    """Write an answer with its numbered sources, or why there is none and which documents come closest.

    `shown` where its text has been streamed already.
    """
    if len(answer.asked) > 1:
        err.print(f"[dim]asked: {escape(', then '.join(a.model for a in answer.asked))}; by {escape(answer.model)}[/]")
    if answer.abstained:
        out.print(f"[yellow]{said(answer)}[/]")
        err.print(f"[dim]{escape(answer.reason)}[/]")
        _print_closest(answer.closest)
        return
    for text, marks in marked(answer, "" if shown else answer.text):
        out.print(escape(text) + "".join(f" \\[{index}]" for index in marks), style="bold", end="")
    out.print()
    for sentence in (s for s in answer.sentences if not s.supported):
        said_there = answer.text[sentence.span.start : sentence.span.end]
        err.print(f"[dim]no passage supports: {escape(said_there)}[/]")
    for citation in answer.citations:
        page = f", {page_name(citation.document_id)} {citation.page}" if citation.page else ""
        out.print(f"  \\[{citation.index}] {escape(citation.title)}{page} [dim]{escape(citation.document_id)}[/]")
        out.print(f"      “{escape(' '.join(citation.text.split()))}”", style="dim")
        for place in citation.also_in:
            page = f", {page_name(place.document_id)} {place.page}" if place.page else ""
            out.print(f"      also in {escape(place.title)}{page} {escape(place.document_id)}", style="dim")


def print_question(question: str) -> None:
    """Write as which question a follow-up was understood, on stderr."""
    err.print(f"[dim]understood as: {escape(question)}[/]")


def _print_closest(found: Sequence[Closest]) -> None:
    if found:
        out.print("What comes closest:")
    for near in found:
        page = f"{page_name(near.document_id)} {near.page}" if near.page else ""
        where = "".join(f", {part}" for part in (near.headings, page) if part)
        title = escape(f"{near.title}{where}")
        how = f"score {near.score:.2f}" if near.dense is None else f"similarity {near.dense:.2f}"
        out.print(f"  {title} [dim]{escape(near.document_id)}, {how}[/]")
        out.print(f"      “{escape(near.text)}”", style="dim")


def answer_json(question: str, answer: Answer) -> dict[str, Any]:
    """Return an answer as plain data for `--json`."""
    return {
        "question": answer.question or question,
        "answer": said(answer),
        "verdict": answer.verdict.value,
        "reason": answer.reason,
        "confidence": answer.confidence,
        "sentences": [{**asdict(s), "span": list(s.span)} for s in answer.sentences],
        "citations": [_citation_json(citation) for citation in answer.citations],
        "closest": [asdict(near) for near in answer.closest],
        "risk_target": asdict(answer.target) if answer.target else None,
        "usage": asdict(answer.usage),
        "evidence_tokens": answer.evidence_tokens,
        "timings": {name: round(seconds, 4) for name, seconds in answer.timings.items()},
        "signals": dict(answer.signals),
        "model": answer.model,
        "asked": [asdict(asked) for asked in answer.asked],
    }


def _citation_json(citation: Citation) -> dict[str, Any]:
    places = [{**asdict(place), "span": list(place.span)} for place in citation.also_in]
    return {**asdict(citation), "span": list(citation.span), "also_in": places}


# What a stage counts, where its pace is worth showing.
_UNITS = {"read": "documents", "embed": "chunks"}


class PaceColumn(ProgressColumn):
    """Units a second since the stage began and the time left at that pace: `15.2 chunks/s, 0:01:10 left`.

    Rich's own estimate looks at the last 30 seconds, in which a stage that reports every 128 chunks may say nothing.
    """

    def render(self, task: Task) -> Text:
        """Return the pace, nothing before the first unit is done."""
        seconds = task.finished_time if task.finished else task.elapsed
        if not task.completed or not seconds:
            return Text()
        pace = task.completed / seconds
        parts = [f"{pace:,.1f} {_UNITS[task.description]}/s"] if task.description in _UNITS else []
        if task.total is not None and not task.finished:
            parts.append(f"{timedelta(seconds=ceil((task.total - task.completed) / pace))} left")
        return Text(", ".join(parts))


class StageProgress:
    """A progress bar per stage of a longer run; called with the stage's name, how much is done and of how much."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` units of a stage are finished; a total of 0 means that it is not known."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total or None)
        self._progress.update(self._tasks[stage], completed=done, total=total or None)


@contextmanager
def stage_progress(*, quiet: bool = False) -> Iterator[StageProgress]:
    """Show progress bars on stderr while the block runs; where stderr is no terminal, nothing is drawn."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), PaceColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        yield StageProgress(progress)


@contextmanager
def byte_progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """Show one bar in bytes; call it with what is being done and the bytes done since the last call."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=total or None)
        yield lambda what, done: progress.update(task, description=what, advance=done)


def print_finding(finding: "Finding") -> None:
    """Write one finding of the doctor on a line, and below it what mends it."""
    colour = {"ok": "green", "warning": "yellow", "failed": "red"}[finding.state]
    out.print(f"[{colour}]{finding.state:>7}[/]  {escape(finding.check)}: {escape(finding.detail)}")
    if finding.fix:
        out.print(f"         {escape(finding.fix)}")


def stream_answer(deltas: Generator[Delta, None, None]) -> Answer | None:
    """Write an answer as it comes, then its sources. Ctrl-C stops it: then there is no answer."""
    shown = False
    try:
        for delta in deltas:
            if delta.text:
                out.print(escape(delta.text), end="", style="bold")
                shown = True
            if delta.answer is not None:
                print_answer(delta.answer, shown=shown)
                return delta.answer
    except KeyboardInterrupt:
        err.print("\n[dim]stopped[/]")
    finally:
        deltas.close()
    return None

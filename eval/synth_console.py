"""What the making of a test set shows in the terminal: a bar on stderr, tables on stdout."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from eval.console import print_table
from eval.synth_agree import Agreement
from eval.synth_attempts import Attempt
from eval.synth_drafts import Kind
from eval.synth_judge import MEANINGS
from eval.wording import TITLES, UNKNOWN, share

# A question that is kept takes ten to sixty seconds of a small model.
_SPEED_WINDOW = 1200.0


class Bar:
    """Counts the questions kept; beside it the attempts, and the last question kept."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._last = ""

    def start(self, total: int, kept: int, attempts: int) -> None:
        """Show the bar; where stderr is no terminal, one line."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}"),
        )
        if not self._console.is_terminal:
            self._console.print(f"{total} questions wanted, {kept} of them kept before, {attempts} attempts")
        self._progress = Progress(
            *columns,
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=_SPEED_WINDOW,
        )
        self._task = self._progress.add_task(f"kept of {attempts}", total=total, completed=kept, last="")
        self._progress.start()

    def advance(self, attempt: Attempt, kept: int, attempts: int) -> None:
        """Move the bar where the question was kept."""
        if self._progress is not None:
            if attempt.kept:
                self._last = f"[dim]{escape(attempt.question[:60])}[/]"
            self._progress.update(self._task, completed=kept, description=f"kept of {attempts}", last=self._last)

    def finish(self) -> None:
        """Leave the bar as it stands."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def survivors_table(report: dict[str, Any]) -> Table:
    """Return which share of the questions that came to each check passed it, altogether and by kind."""
    title = f"{report['kept']} of {report['attempts']} questions kept: passed / came to the check"
    table = Table(title=title, title_justify="left")
    table.add_column("check")
    table.add_column("which asks that")
    for name in ("all", *Kind):
        table.add_column(str(name), justify="right")
    for check in report["checks"]:
        cells = [_passed(check), *(_passed(check["by_kind"].get(kind.value)) for kind in Kind)]
        table.add_row(check["check"], MEANINGS[check["check"]], *cells)
    table.add_section()
    table.add_row("kept", "", str(report["kept"]), *(str(report["kept_by_kind"][kind.value]) for kind in Kind))
    return table


def agreement_table(found: Sequence[Agreement]) -> Table:
    """Return a line per metric."""
    table = Table(title="Rankings of the systems on the two sets", title_justify="left")
    table.add_column("metric")
    for title in ("systems", "Kendall's tau", "p (two-sided)"):
        table.add_column(title, justify="right")
    table.add_column("order on the synthetic set (score there, on the human set)")
    for one in found:
        order = sorted(one.systems.items(), key=lambda item: -item[1][0])
        told = ", ".join(f"{escape(name)} ({share(a)}, {share(b)})" for name, (a, b) in order)
        tau = UNKNOWN if one.tau is None else f"{one.tau:+.2f}"
        table.add_row(
            TITLES[one.metric], str(len(one.systems)), tau, UNKNOWN if one.p is None else f"{one.p:.3f}", told
        )
    return table


def print_tables(*tables: Table) -> None:
    """Write tables to stdout."""
    for table in tables:
        print_table(table)


def _passed(check: dict[str, Any] | None) -> str:
    if not check or not check["came"]:
        return UNKNOWN
    return f"{check['passed']}/{check['came']} ({check['share']:.0%})"

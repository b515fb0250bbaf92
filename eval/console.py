"""What an evaluation shows in the terminal: bars and notes on stderr, tables on stdout."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from eval.compare import Comparison
from eval.rows import Row
from eval.wording import TITLES, UNKNOWN, interval, p_value, per_thousand, scored_metrics, seconds, share

# Wide enough for six systems where output goes to a file or a pipe.
_PIPE_WIDTH = 200

# A small model takes seconds a question, a large one may take a minute.
_SPEED_WINDOW = 600.0


class Bars:
    """A bar for each system with the time left and how it does so far."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._scores: list[float] = []

    def start(self, system: str, total: int, reused: int) -> None:
        """Show the bar of a system; where stderr is no terminal, one line."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[so_far]}"),
        )
        if not self._console.is_terminal:
            self.note(f"{system}: {total} questions, {reused} of them answered before")
        self._progress = Progress(
            *columns,
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=_SPEED_WINDOW,
        )
        self._scores = []
        self._task = self._progress.add_task(escape(system), total=total, completed=reused, so_far="")
        self._progress.start()

    def advance(self, row: Row) -> None:
        """Move the bar by a question."""
        score = row.scores.get("f1") if row.generates else row.scores.get("ndcg@10")
        if score is not None:
            self._scores.append(score)
        if self._progress is not None:
            name = TITLES["f1" if row.generates else "ndcg@10"]
            so_far = f"{name} {share(sum(self._scores) / len(self._scores))}" if self._scores else ""
            self._progress.update(self._task, advance=1, so_far=so_far)

    def finish(self) -> None:
        """Leave the bar as it stands."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def note(self, text: str) -> None:
        """Write a line."""
        self._console.print(f"[dim]{escape(text)}[/]")


def report_table(report: dict[str, Any]) -> Table:
    """Return the figures of a report: a column per system."""
    systems = report["systems"]
    table = Table(title=f"{escape(str(report['data'].get('name', '')))}: value (95% interval)", title_justify="left")
    table.add_column("")
    for name in systems:
        table.add_column(escape(name), justify="right")
    for metric in scored_metrics(report):
        table.add_row(TITLES[metric], *(interval(system["metrics"][metric]) for system in systems.values()))
    table.add_section()
    table.add_row("cost of 1,000 questions", *(per_thousand(s["cost_per_question"]) for s in systems.values()))
    table.add_row("seconds, mean", *(seconds(s["seconds_per_question"]["mean"]) for s in systems.values()))
    table.add_row("seconds, 95th percentile", *(seconds(s["seconds_per_question"]["p95"]) for s in systems.values()))
    table.add_row("questions", *(_counts(system) for system in systems.values()))
    return table


def comparison_table(comparisons: list[Comparison]) -> Table:
    """Return the differences between two runs, a line per system and metric."""
    table = Table(title="B minus A, paired by question (95% interval)", title_justify="left")
    for title in ("A", "B", "metric"):
        table.add_column(title)
    for title in ("A", "B", "B - A", "p (Holm)", "can show", "more needed", "questions"):
        table.add_column(title, justify="right")
    for c in comparisons:
        figures = (
            _number(c.a.value),
            _number(c.b.value),
            _difference(c),
            p_value(c.test.p_holm),
            *_power(c),
            f"{c.difference.n:,}",
        )
        table.add_row(escape(c.system_a), escape(c.system_b), TITLES.get(c.metric, c.metric), *figures)
    return table


def print_table(table: Table) -> None:
    """Write a table to stdout."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=_PIPE_WIDTH)
    console.print(table)


def _counts(system: dict[str, Any]) -> str:
    extra = [f"{system[key]:,} {word}" for key, word in (("errors", "failed"), ("missing", "missing")) if system[key]]
    return f"{system['n']:,}" + (f" ({', '.join(extra)})" if extra else "")


def _difference(comparison: Comparison) -> str:
    figure = comparison.difference
    if figure.value is None or figure.low is None or figure.high is None:
        return UNKNOWN
    return f"{_signed(figure.value)} ({_signed(figure.low)} to {_signed(figure.high)})"


def _power(comparison: Comparison) -> tuple[str, str]:
    """The smallest difference that the questions can show, and how many more the observed one would take."""
    power = comparison.power
    if power is None:
        return UNKNOWN, UNKNOWN
    smallest = UNKNOWN if power.smallest_difference is None else f"{power.smallest_difference:.3g}"
    return smallest, UNKNOWN if power.more_needed is None else f"{power.more_needed:,}"


def _number(value: float | None) -> str:
    # Costs are too small for three decimals, scores need no more than four figures.
    return UNKNOWN if value is None else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}" if 0 < abs(value) < 0.001 else f"{value:+.3f}"

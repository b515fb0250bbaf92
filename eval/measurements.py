"""What a run measured, one table of numbers per system; texts stay in the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eval.energy import ACTIVE_WATTS, IDLE_WATTS, estimated_joules
from eval.flops import Architecture, Locate, architectures, locate_weights, question_flops
from eval.latency import first_token_seconds
from eval.metrics import METRICS
from eval.paired import Difference, compare_scores, corrected
from eval.results import Run, RunSystem, read_rows, read_run
from eval.rows import Row
from eval.statistics import (
    Estimate,
    Floats,
    Labels,
    bootstrap_means,
    clusters,
    estimate,
    paired_difference,
    ratio,
    renumbered,
    score_matrix,
    with_width,
)
from eval.system_row import SystemRow
from rag.cost import Prices

RIGHT = "right"
HUMAN = "human_right"
MEMORISED = "memorised"
COST = "cost_per_question"
SECONDS = "seconds"
JOULES = "joules"
FLOPS = "flops"
# Processor seconds over all threads, and tokens of the prompts that were read, not reused.
CPU = "cpu_seconds"
READ = "tokens_read"
FIRST_TOKEN = "first_token"  # noqa: S105 - a column, no secret
TOTAL = "total"
# Of the answers given: how sure the system was, and whether it was wrong; an answer to an unanswerable question is.
CONFIDENCE = "confidence"
WRONG = "wrong"

# What scores a row. A person's verdict comes with recorded answers, the last one with a counterfactual run.
SCORES = tuple(dict.fromkeys((*METRICS, RIGHT, HUMAN, "crag", "grounded", MEMORISED)))
# What two systems are compared in.
COLUMNS = (*SCORES, COST, SECONDS)

# Cost and rightness with 0 for what is unknown: summed, they make the cost of a right answer.
_SPENT, _WON = "spent", "won"

# What became of a question, each 1 or 0: the columns of a system add up to 1.
TRUST = (
    "right_grounded",
    "right_remembered",
    "wrong_misread",
    "wrong_made_up",
    "abstained_rightly",
    "abstained_wrongly",
)

_ALL = (*COLUMNS, JOULES, FLOPS, CPU, READ, FIRST_TOKEN, TOTAL, CONFIDENCE, WRONG, *TRUST, _SPENT, _WON)

# What lies between two ends; the others are dollars, seconds and the like.
_SHARES = frozenset({*SCORES, WRONG, *TRUST})
_SIGNED = frozenset({"crag", "similarity"})

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measurements:
    """One system's rows as numbers, in the order of the run's questions.

    `places` `(n,)` are positions in the run's list of questions, `values` `(n, all columns)` scores, US dollars,
    seconds, joules and so on, NaN for what was not scored or measured, `tokens` `(n, 3)` prompt, cached, completion,
    `groups` `(all questions,)` the clusters of the run's questions.
    """

    name: str
    system: RunSystem
    places: Places
    values: Floats
    tokens: Places
    groups: Labels
    errors: int
    abstentions: int
    joules_measured: bool
    architecture: Architecture | None
    prices: Prices
    unattainable: int = 0
    _draws: dict[bytes, Floats] = field(default_factory=dict, repr=False)

    @property
    def row(self) -> Mapping[str, Any]:
        """The system's row of the TOML file."""
        return self.system.row

    @property
    def local(self) -> bool:
        """Whether all of it runs on the machine that was measured."""
        generator = self.row.get("generator", "")
        return isinstance(generator, str) and not self.row.get("recorded")

    @property
    def closed_book(self) -> bool:
        """Whether it answers from what the model remembers alone."""
        return bool(self.row.get("generator") or self.row.get("recorded")) and not self.row.get("retrieval")

    @property
    def parameters(self) -> int | None:
        """How many weights its model has: as stated (in billions), or read from the file."""
        stated = self.row.get("parameters")
        if stated is not None:
            return round(float(stated) * 1e9)
        return self.architecture.parameters if self.architecture else None

    def estimates(self) -> dict[str, Estimate]:
        """Every column's mean with its interval."""
        groups = self.groups[self.places]
        found = zip(_ALL, estimate(self.values, self.draws(self.places)), self.values.T, strict=True)
        return {
            name: with_width(figure, column, groups, span_of(name)) if name in _SHARES else figure
            for name, figure, column in found
        }

    def column(self, name: str) -> Floats:
        """Return one column, `(n,)`."""
        return self.values[:, _ALL.index(name)]

    def cost_per_right(self) -> Estimate:
        """US dollars for each right answer: what all questions cost, answered or not, over those answered rightly."""
        if not np.isfinite(self.column(COST)).any() or not np.isfinite(self.column(RIGHT)).any():
            return Estimate(None, None, None, 0)
        pair = [_ALL.index(_SPENT), _ALL.index(_WON)]
        return ratio(self.column(_SPENT), self.column(_WON), self.draws(self.places)[:, pair])

    def differences_from(self, baseline: "Measurements", names: Sequence[str] = COLUMNS) -> list[Difference]:
        """This system minus `baseline`, paired, over the questions that both have rows for (of one run).

        One for each of the named columns; of p values each is uncorrected.
        """
        common = np.intersect1d(self.places, baseline.places)
        columns = [_ALL.index(name) for name in names]
        ours, theirs = self.at(common)[:, columns], baseline.at(common)[:, columns]
        our_draws, their_draws = self.draws(common)[:, columns], baseline.draws(common)[:, columns]
        groups = renumbered(self.groups[common])
        figures = score_differences(names, theirs, ours, (their_draws, our_draws), groups)
        verdicts = compare_scores(theirs, ours, our_draws - their_draws, groups)
        return [
            Difference(name, baseline.name, self.name, figure, *verdict)
            for name, figure, verdict in zip(names, figures, verdicts, strict=True)
        ]

    def at(self, places: Places) -> Floats:
        """Return the values at some of `places`, in that order."""
        return self.values[np.searchsorted(self.places, places)]

    def draws(self, places: Places) -> Floats:
        """Return `bootstrap_means` of the values at some of `places`, made once."""
        key = places.tobytes()
        if key not in self._draws:
            groups = renumbered(self.groups[places])
            self._draws[key] = (
                bootstrap_means(self.at(places), groups) if len(places) else np.empty((0, self.values.shape[1]))
            )
        return self._draws[key]


class Measured(NamedTuple):
    """A run with the numbers of its systems, and how many lines of the file were no rows."""

    run: Run
    systems: dict[str, Measurements]
    damaged: int

    @property
    def clusters(self) -> int:
        """How many clusters the questions fall into."""
        groups = next((system.groups for system in self.systems.values()), np.empty(0))
        return len(np.unique(groups))


def measure(out: Path, locate: Locate = locate_weights) -> Measured:
    """Read a run's folder into numbers, judged by the scorers and prices of now.

    `locate` finds the weights of a local model, for its shape. Raises `DataError` where there is no run.
    """
    run = read_run(out)
    places = {question_id: place for place, question_id in enumerate(run.questions)}
    rows = {name: SystemRow.model_validate(system.row) for name, system in run.systems.items()}
    shapes = _shapes(out, rows, locate)
    readers = {name: _Reader(row, run.systems[name], shapes[name]) for name, row in rows.items()}
    damaged: list[int] = []
    found: dict[str, dict[int, _Numbers]] = {name: {} for name in run.systems}
    documents: list[tuple[str, ...]] = [()] * len(places)
    for row in read_rows(out, damaged.append):
        if run.counts(row):
            place = places[row.question_id]
            found[row.system][place] = readers[row.system].numbers(row)
            documents[place] = row.relevant
    groups = clusters(documents)
    systems = {name: readers[name].measurements(name, numbers, groups) for name, numbers in found.items()}
    _draw_together(list(systems.values()))
    return Measured(run, systems, len(damaged))


def span_of(name: str) -> tuple[float, float]:
    """Return the lowest and the highest that a score can be."""
    return (-1.0, 1.0) if name in _SIGNED else (0.0, 1.0)


def score_differences(
    names: Sequence[str], a_nm: Floats, b_nm: Floats, draws: tuple[Floats, Floats], groups_n: Labels
) -> list[Estimate]:
    """Return `b` minus `a` in each of the named columns, paired, given the draws of both.

    Where all differences of a score are alike the interval has the width that so few questions leave open.
    """
    figures = paired_difference(a_nm, b_nm, *draws)
    for m, name in enumerate(names):
        if name in _SHARES and np.array_equal(np.isfinite(a_nm[:, m]), np.isfinite(b_nm[:, m])):
            lowest, highest = span_of(name)
            span = (lowest - highest, highest - lowest)
            figures[m] = with_width(figures[m], b_nm[:, m] - a_nm[:, m], groups_n, span)
    return figures


def rightness(scores: Mapping[str, float | None]) -> float | None:
    """Return 1 for a right answer, 0 for another, None where that was not judged.

    The scorer `right` where it has judged, else F1 of at least a half.
    """
    if scores.get(RIGHT) is not None:
        return scores[RIGHT]
    f1 = scores.get("f1")
    return None if f1 is None else float(f1 >= 0.5)


def _wrong(row: Row, right: float | None) -> float | None:
    """1 for a wrong answer, 0 for a right one, None where none was given or nobody can tell."""
    if not row.sample.answered:
        return None
    if not row.answerable:
        return 1.0
    return None if right is None else 1.0 - right


def _trust(row: Row) -> dict[str, float | None]:
    """One column for each of the six fates of a question; all None where the row has none."""
    fate: str | None = getattr(row, "trust", None)
    return dict.fromkeys(TRUST) if fate is None else {name: float(name == fate) for name in TRUST}


def differences(systems: Sequence[Measurements]) -> list[Difference]:
    """Every pair, the later system minus the earlier, in every column that was scored for both, corrected by Holm."""
    pairs = [(a, b) for place, a in enumerate(systems) for b in systems[place + 1 :]]
    found = [difference for a, b in pairs for difference in b.differences_from(a)]
    return corrected([difference for difference in found if difference.figure.value is not None])


def _shapes(out: Path, rows: Mapping[str, SystemRow], locate: Locate) -> dict[str, Architecture | None]:
    """The shape of each system's model: as stated, else as its weights have it."""
    local = {row.generator for row in rows.values() if isinstance(row.generator, str) and row.generator}
    shapes = architectures(out, local, locate)
    return {
        name: Architecture(parameters=round(row.parameters * 1e9))
        if row.parameters and (not isinstance(row.generator, str) or row.generator not in shapes)
        else shapes.get(row.generator if isinstance(row.generator, str) else "")
        for name, row in rows.items()
    }


class _Numbers(NamedTuple):
    values: Mapping[str, float | None]
    tokens: tuple[int, int, int]
    failed: bool
    abstained: bool
    unattainable: bool
    joules_measured: bool


class _Reader:
    """Turns the rows of one system into numbers."""

    def __init__(self, row: SystemRow, system: RunSystem, architecture: Architecture | None) -> None:
        self._system = system
        self._architecture = architecture
        self._prices = row.prices
        self._local = isinstance(row.generator, str) and not system.row.get("recorded")
        self._watts = (row.watts.idle, row.watts.active) if row.watts else (IDLE_WATTS, ACTIVE_WATTS)

    def numbers(self, row: Row) -> _Numbers:
        row = row.judged(self._prices)
        right = rightness(row.scores)
        # A question that failed has no meaningful duration: it may have waited for a time-out or ended at once.
        # Answers recorded elsewhere have none of ours.
        timed = not row.failed and not row.recorded
        values = {
            **row.scores,
            RIGHT: right,
            HUMAN: None if row.human_right is None else float(row.human_right),
            COST: row.cost,
            SECONDS: row.seconds if timed else None,
            JOULES: self._joules(row) if timed else None,
            FLOPS: None if row.failed else self._flops(row),
            CPU: row.work.cpu_seconds if timed and row.work is not None else None,
            READ: float(row.usage.prompt - row.usage.cached) if row.generates and not row.failed else None,
            FIRST_TOKEN: first_token_seconds(row.timings) if timed else None,
            TOTAL: row.seconds if timed else None,
            CONFIDENCE: row.confidence if row.sample.answered else None,
            WRONG: _wrong(row, right),
            **_trust(row),
            _SPENT: row.cost or 0.0,
            _WON: right or 0.0,
        }
        tokens = (row.usage.prompt, row.usage.cached, row.usage.completion)
        measured = row.work is not None and row.work.joules is not None
        return _Numbers(values, tokens, row.failed, row.abstained, row.unattainable, measured)

    def measurements(self, name: str, found: Mapping[int, _Numbers], groups: Labels) -> Measurements:
        ordered = [found[place] for place in sorted(found)]
        return Measurements(
            name=name,
            system=self._system,
            places=np.array(sorted(found), dtype=np.int64),
            values=score_matrix([numbers.values for numbers in ordered], _ALL),
            tokens=np.array([numbers.tokens for numbers in ordered], dtype=np.int64).reshape(len(ordered), 3),
            groups=groups,
            errors=sum(numbers.failed for numbers in ordered),
            abstentions=sum(numbers.abstained for numbers in ordered),
            unattainable=sum(numbers.unattainable for numbers in ordered),
            joules_measured=all(numbers.joules_measured for numbers in ordered if not numbers.failed),
            architecture=self._architecture,
            prices=self._prices,
        )

    def _joules(self, row: Row) -> float | None:
        """Energy on this machine; what an endpoint draws nobody here knows."""
        if not self._local:
            return None
        if row.work is not None and row.work.joules is not None:
            return row.work.joules
        idle, active = self._watts
        cores = row.work.cores if row.work else int(self._system.machine.get("cores") or 1)
        cpu = row.work.cpu_seconds if row.work else None
        return estimated_joules(seconds=row.seconds, cpu_seconds=cpu, cores=cores, idle=idle, active=active)

    def _flops(self, row: Row) -> float | None:
        # Of a cascade's tokens nobody says here which model took which.
        if self._architecture is None or row.asked:
            return None
        usage = row.usage
        # An endpoint that tells no tokens leaves the operations unknown; a system that never asked the model took none.
        if row.generates and not row.abstained and not usage.prompt:
            return None
        return question_flops(self._architecture, prompt=usage.prompt, cached=usage.cached, completion=usage.completion)


def _draw_together(systems: Sequence[Measurements]) -> None:
    """Bootstrap systems with the same questions at once: the draws are the same, and making them is the slow part."""
    together: dict[bytes, list[Measurements]] = {}
    for system in systems:
        together.setdefault(system.places.tobytes(), []).append(system)
    for key, group in together.items():
        if key:
            groups = renumbered(group[0].groups[group[0].places])
            means = bootstrap_means(np.hstack([system.values for system in group]), groups)
            for system, draws in zip(group, np.hsplit(means, len(group)), strict=True):
                system._draws[key] = draws

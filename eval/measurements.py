"""What a run measured, one table of numbers per system; texts stay in the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eval.metrics import METRICS
from eval.results import Run, RunSystem, read_rows, read_run
from eval.rows import Row
from eval.statistics import Estimate, Floats, bootstrap_means, estimate, paired_difference, score_matrix
from eval.systems import SystemRow

COST = "cost_per_question"
SECONDS = "seconds"
COLUMNS = (*METRICS, COST, SECONDS)

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measurements:
    """One system's rows as numbers, in the order of the run's questions.

    `places` `(n,)` are positions in the run's list of questions, `values` `(n, len(COLUMNS))` scores, US dollars and
    seconds with NaN for what was not scored, `tokens` `(n, 3)` prompt, cached, completion.
    """

    name: str
    system: RunSystem
    places: Places
    values: Floats
    tokens: Places
    errors: int
    abstentions: int
    _draws: dict[bytes, Floats] = field(default_factory=dict, repr=False)

    def estimates(self) -> dict[str, Estimate]:
        """Every column's mean with its interval."""
        return dict(zip(COLUMNS, estimate(self.values, self._draw(self.places)), strict=True))

    def difference_from(self, baseline: "Measurements") -> dict[str, Estimate]:
        """This system minus `baseline`, paired, over the questions that both have rows for (of one run)."""
        common = np.intersect1d(self.places, baseline.places)
        estimates = paired_difference(baseline.at(common), self.at(common), baseline._draw(common), self._draw(common))
        return dict(zip(COLUMNS, estimates, strict=True))

    def at(self, places: Places) -> Floats:
        """Return the values at some of `places`, in that order."""
        return self.values[np.searchsorted(self.places, places)]

    def _draw(self, places: Places) -> Floats:
        key = places.tobytes()
        if key not in self._draws:
            self._draws[key] = bootstrap_means(self.at(places)) if len(places) else np.empty((0, len(COLUMNS)))
        return self._draws[key]


class Measured(NamedTuple):
    """A run with the numbers of its systems, and how many lines of the file were no rows."""

    run: Run
    systems: dict[str, Measurements]
    damaged: int


def measure(out: Path) -> Measured:
    """Read a run's folder into numbers, judged by the scorers and prices of now.

    Raises `DataError` where there is no run.
    """
    run = read_run(out)
    places = {question_id: place for place, question_id in enumerate(run.questions)}
    prices = {name: SystemRow.model_validate(system.row).prices for name, system in run.systems.items()}
    damaged: list[int] = []
    found: dict[str, dict[int, _Numbers]] = {name: {} for name in run.systems}
    for row in read_rows(out, damaged.append):
        if run.counts(row):
            found[row.system][places[row.question_id]] = _numbers(row.judged(prices[row.system]))
    systems = {name: _measurements(name, run.systems[name], numbers) for name, numbers in found.items()}
    _draw_together(list(systems.values()))
    return Measured(run, systems, len(damaged))


def _draw_together(systems: Sequence[Measurements]) -> None:
    """Bootstrap systems with the same questions at once: the draws are the same, and making them is the slow part."""
    groups: dict[bytes, list[Measurements]] = {}
    for system in systems:
        groups.setdefault(system.places.tobytes(), []).append(system)
    for key, group in groups.items():
        if key:
            means = bootstrap_means(np.hstack([system.values for system in group]))
            for system, draws in zip(group, np.hsplit(means, len(group)), strict=True):
                system._draws[key] = draws


class _Numbers(NamedTuple):
    values: Mapping[str, float | None]
    tokens: tuple[int, int, int]
    failed: bool
    abstained: bool


def _numbers(row: Row) -> _Numbers:
    # A question that failed has no meaningful duration: it may have waited for a time-out or ended at once. An answer
    # recorded elsewhere has none of ours.
    values = {**row.scores, COST: row.cost, SECONDS: None if row.failed or row.recorded else row.seconds}
    tokens = (row.usage.prompt, row.usage.cached, row.usage.completion)
    return _Numbers(values, tokens, row.failed, row.abstained)


def _measurements(name: str, system: RunSystem, found: Mapping[int, _Numbers]) -> Measurements:
    ordered = [found[place] for place in sorted(found)]
    return Measurements(
        name=name,
        system=system,
        places=np.array(sorted(found), dtype=np.int64),
        values=score_matrix([numbers.values for numbers in ordered], COLUMNS),
        tokens=np.array([numbers.tokens for numbers in ordered], dtype=np.int64).reshape(len(ordered), 3),
        errors=sum(numbers.failed for numbers in ordered),
        abstentions=sum(numbers.abstained for numbers in ordered),
    )

"""What two systems of a run made of the same questions, as numbers: the small one is asked first, then the large."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.measurements import rightness
from eval.results import Run, read_rows, read_run
from eval.rows import Row
from eval.statistics import Floats, Labels, clusters
from eval.system_row import SystemRow
from rag.cost import Prices
from rag.errors import DataError

METRICS = ("f1", "right")
COST, SECONDS = "cost", "seconds"
AXES = (COST, SECONDS)

FEWEST = 20
FEWEST_CLUSTERS = 10


class Pairs(NamedTuple):
    """The questions that both systems answered; columns are the small and the large system, NaN where not known.

    `scores` `(n, 2)` by metric, `good_n2` 1 where an answer is right or a question without one got none, `spent`
    `(n, 2)` US dollars and seconds of each alone by axis, `extra` `(n,)` by axis what the large one adds when it is
    asked after the small one. `confidence_n` is the small one's. `groups_n` are clusters by shared documents.
    """

    small: str
    large: str
    questions: tuple[str, ...]
    groups_n: Labels
    confidence_n: Floats
    good_n2: Floats
    scores: Mapping[str, Floats]
    spent: Mapping[str, Floats]
    extra: Mapping[str, Floats]
    left_out: int

    @property
    def n(self) -> int:
        """How many questions there are."""
        return len(self.questions)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that both were scored in."""
        return tuple(name for name in METRICS if np.isfinite(self.scores[name]).all(axis=1).any())

    @property
    def axes(self) -> tuple[str, ...]:
        """What is known of every question: dollars, seconds."""
        return tuple(a for a in AXES if np.isfinite(self.spent[a]).all() and np.isfinite(self.extra[a]).all())


def read_pairs(out: Path, small: str, large: str) -> Pairs:
    """Read the rows of two systems of a run, judged by the scorers and prices of now.

    A question on which either failed is left out and counted. Raises `DataError` where the run lacks a system, the
    small one has no confidence, or they have fewer than `FEWEST` questions in common or about the same documents.
    """
    run = read_run(out)
    prices = {name: _prices(run, name, out) for name in (small, large)}
    rows: dict[str, dict[str, Row]] = {small: {}, large: {}}
    for row in read_rows(out):
        if row.system in rows and run.counts(row):
            rows[row.system][row.question_id] = row.judged(prices[row.system])
    both = [id_ for id_ in run.questions if id_ in rows[small] and id_ in rows[large]]
    asked = [(rows[small][id_], rows[large][id_]) for id_ in both]
    pairs = [pair for pair in asked if not any(row.failed for row in pair)]
    if len(pairs) < FEWEST:
        raise DataError(
            f"{small} and {large} have {len(pairs)} questions in common in {out}, of {FEWEST} that are wanted",
            hint=f"Run both: `smallhold eval run --system {small},{large} --out {out}`.",
        )
    groups_n = clusters([first.relevant for first, _ in pairs])
    if int(groups_n.max()) + 1 < FEWEST_CLUSTERS:
        raise DataError(
            f"the questions of {out} share their documents, so that no half of them is independent of the other",
            hint="Ask about more documents.",
        )
    return Pairs(
        small=small,
        large=large,
        questions=tuple(first.question_id for first, _ in pairs),
        groups_n=groups_n,
        confidence_n=np.array([_confidence(first, out) for first, _ in pairs]),
        good_n2=np.array([[_good(row) for row in pair] for pair in pairs]),
        scores={
            "f1": np.array([[_number(row.scores.get("f1")) for row in pair] for pair in pairs]),
            "right": np.array([[_number(rightness(row.scores)) for row in pair] for pair in pairs]),
        },
        spent={
            COST: np.array([[_number(row.cost) for row in pair] for pair in pairs]),
            SECONDS: np.array([[_seconds(row) for row in pair] for pair in pairs]),
        },
        extra={
            COST: np.array([_number(_extra_cost(*pair, prices[large])) for pair in pairs]),
            SECONDS: np.array([_seconds(second) * _not_repeated(first, second) for first, second in pairs]),
        },
        left_out=len(asked) - len(pairs),
    )


def _prices(run: Run, name: str, out: Path) -> Prices:
    system = run.systems.get(name)
    if system is None:
        raise DataError(f"{out} holds no system {name!r}", hint=f"It has {', '.join(run.systems)}.")
    return SystemRow.model_validate(system.row).prices


def _confidence(row: Row, out: Path) -> float:
    if row.confidence is None:
        raise DataError(
            f"{row.system} in {out} does not tell how sure it is of its answers, so nothing decides on asking another",
            hint="The small system must be one of ours that reads documents, such as small+retrieval.",
        )
    return row.confidence


def _good(row: Row) -> float:
    """1 for a right answer and for none to a question that has none; what nobody judged counts as not right."""
    return float(row.abstained) if not row.answerable else rightness(row.scores) or 0.0


def _seconds(row: Row) -> float:
    """Answers recorded elsewhere have no seconds of ours."""
    return float("nan") if row.recorded else row.seconds


def _not_repeated(first: Row, second: Row) -> float:
    """Return the share of the large one's seconds that is left where the passages are there already."""
    if not (first.retrieves and second.retrieves) or second.seconds <= 0:
        return 1.0
    repeated = sum(second.timings.get(stage) or 0.0 for stage in ("retrieve", "rerank"))
    return max(0.0, 1.0 - repeated / second.seconds)


def _extra_cost(first: Row, second: Row, prices: Prices) -> float | None:
    """Return what the large one adds in US dollars: its tokens whole, of its machine's time what is not repeated."""
    if second.cost is None or prices.per_hour is None:
        return second.cost
    by_time = second.judged(Prices(prices.per_hour, utilisation=prices.utilisation)).cost or 0.0
    return second.cost - by_time * (1.0 - _not_repeated(first, second))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)

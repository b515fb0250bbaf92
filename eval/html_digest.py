"""What the page of a report needs of the rows: a few numbers for each, and the texts of a few questions.

The rows are streamed twice: once for the numbers, once for the texts of the questions on which the systems differ
most. So memory grows with the number of rows, not with what was said in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.latency import first_token_seconds
from eval.measurements import rightness
from eval.question_types import question_type
from eval.results import Run, read_rows, read_run
from eval.rows import Row
from eval.statistics import Floats
from eval.system_row import SystemRow

MOST_DISAGREEMENTS = 50

# Bounds of what is shown of a row, in characters and pieces.
_MAX_TEXT = 600
_MAX_QUOTE = 400
_MAX_QUOTES = 3
_MAX_GOLD = 5


class Asked(NamedTuple):
    """One question of the run: what it asks for, words of its shortest right answer, number of relevant documents."""

    kind: str
    words: int
    relevant: int


class Fact(NamedTuple):
    """What one system made of one question.

    `right` is the scorer's (None where unscored), `outcome` counts an abstention on an unanswerable question as right
    and an answer to it as wrong. Seconds are None where unknown.
    """

    right: float | None
    outcome: float | None
    f1: float | None
    trust: str | None
    first_token: float | None
    total: float | None


class Quote(NamedTuple):
    """A cited text; `relevant` where its document is one that holds the answer."""

    document: str
    text: str
    relevant: bool


class Said(NamedTuple):
    """What one system said to one question, cut to what a reader can take in."""

    system: str
    answer: str
    verdict: str
    right: bool | None
    quotes: tuple[Quote, ...]
    cited: int


class Disagreement(NamedTuple):
    """A question on which the systems differ, with what each said."""

    question_id: str
    question: str
    gold: tuple[str, ...]
    answerable: bool
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Digest:
    """The numbers of a run's rows by system and place of the question; `texts` of the most telling questions."""

    run: Run
    asked: Mapping[int, Asked]
    facts: Mapping[str, Mapping[int, Fact]]
    disagreements: Sequence[Disagreement]

    def column(self, system: str, name: str) -> Floats:
        """Return one number of all a system's rows that have it."""
        values = (getattr(fact, name) for fact in self.facts.get(system, {}).values())
        return np.array([value for value in values if value is not None], dtype=np.float64)

    def judged_by(self, name: str) -> list[str]:
        """Return the systems of which some row has this number."""
        return [system for system in self.facts if len(self.column(system, name))]


def digest(out: Path) -> Digest:
    """Read a run's folder. Raises `DataError` where there is no run."""
    run = read_run(out)
    places = {question_id: place for place, question_id in enumerate(run.questions)}
    prices = {name: SystemRow.model_validate(system.row).prices for name, system in run.systems.items()}
    asked: dict[int, Asked] = {}
    facts: dict[str, dict[int, Fact]] = {name: {} for name in run.systems}
    for row in read_rows(out):
        if run.counts(row):
            place = places[row.question_id]
            asked.setdefault(place, _asked(row))
            # Scores of retrieval are not shown here, and to compute them anew takes longer than all others together.
            facts[row.system][place] = _fact(row.model_copy(update={"retrieved": ()}).judged(prices[row.system]))
    told = most_telling(facts)
    return Digest(run, asked, facts, _read_disagreements(out, run, places, facts, told))


def most_telling(facts: Mapping[str, Mapping[int, Fact]], most: int = MOST_DISAGREEMENTS) -> list[int]:
    """Return the places of the questions on which the systems differ most, those first that split them evenly.

    Among equal splits those come first whose F1 is the most spread, then the earlier ones.
    """
    found = []
    for place in sorted({place for by_place in facts.values() for place in by_place}):
        here = [by_place[place] for by_place in facts.values() if place in by_place]
        outcomes = [fact.outcome for fact in here if fact.outcome is not None]
        right = sum(outcome >= 0.5 for outcome in outcomes)
        if 0 < right < len(outcomes):
            spread = float(np.std([fact.f1 or 0.0 for fact in here]))
            found.append((-min(right, len(outcomes) - right), -spread, place))
    return [place for *_, place in sorted(found)[:most]]


def _asked(row: Row) -> Asked:
    words = min((len(gold.split()) for gold in row.gold), default=0)
    return Asked(question_type(row.question), words, len(row.relevant))


def _fact(row: Row) -> Fact:
    right = rightness(row.scores)
    return Fact(
        right=right,
        outcome=_outcome(row, right),
        f1=row.scores.get("f1"),
        trust=row.trust,
        first_token=None if row.failed or _recorded(row) else first_token_seconds(row.timings),
        total=None if row.failed or _recorded(row) else row.seconds,
    )


def _recorded(row: Row) -> bool:
    """Whether the answer was given elsewhere: the seconds are those of looking it up."""
    return row.recorded or row.seconds <= 0


def _outcome(row: Row, right: float | None) -> float | None:
    if right is not None or row.answerable or not row.generates:
        return right
    return float(row.abstained)


def _read_disagreements(
    out: Path,
    run: Run,
    places: Mapping[str, int],
    facts: Mapping[str, Mapping[int, Fact]],
    told: Sequence[int],
) -> list[Disagreement]:
    wanted = set(told)
    found: dict[int, dict[str, Said]] = {place: {} for place in told}
    heads: dict[int, Row] = {}
    for row in read_rows(out):
        if run.counts(row) and (place := places[row.question_id]) in wanted:
            heads.setdefault(place, row.model_copy(update={"citations": (), "retrieved": ()}))
            found[place][row.system] = _said(row, facts[row.system][place])
    return [
        _disagreement(heads[place], [found[place][name] for name in run.systems if name in found[place]])
        for place in told
    ]


def _disagreement(row: Row, said: Sequence[Said]) -> Disagreement:
    gold = tuple(_cut(text, _MAX_QUOTE) for text in row.gold[:_MAX_GOLD])
    return Disagreement(row.question_id, _cut(row.question, _MAX_TEXT), gold, row.answerable, tuple(said))


def _said(row: Row, fact: Fact) -> Said:
    quotes = [
        Quote(_cut(c.document_id, 120), _cut(c.text, _MAX_QUOTE), c.document_id in row.relevant)
        for c in row.citations[:_MAX_QUOTES]
    ]
    right = None if fact.outcome is None else fact.outcome >= 0.5
    return Said(
        row.system, _cut(row.answer, _MAX_TEXT), _verdict(row, fact, right), right, tuple(quotes), len(row.citations)
    )


def _verdict(row: Row, fact: Fact, right: bool | None) -> str:
    if row.failed:
        return "failed"
    if fact.trust is not None:
        return fact.trust
    if row.abstained:
        return "abstained_rightly" if right else "abstained_wrongly"
    return "unscored" if right is None else "right" if right else "wrong"


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"

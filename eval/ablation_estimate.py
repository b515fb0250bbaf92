"""What an ablation would still have to ask, and about how long that takes."""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from eval.ablation_parts import FULL, Plan
from eval.qaset import QASet
from eval.results import RUN, read_rows, read_run

# A question to the shipped model on two cores that have nothing else to do. Only until some have been timed.
USUAL_SECONDS = 2.0


class SystemWork(NamedTuple):
    """One system: how many questions it has still to answer, and seconds for each."""

    name: str
    about: str
    left: int
    seconds: float


class Work(NamedTuple):
    """All systems; `timed` says whether the seconds are those of answers in the folder."""

    systems: tuple[SystemWork, ...]
    timed: bool

    @property
    def seconds(self) -> float:
        """About how long the rest takes."""
        return sum(system.left * system.seconds for system in self.systems)

    @property
    def told(self) -> str:
        """The estimate in words."""
        left = sum(system.left for system in self.systems)
        if not left:
            return "Nothing is left to ask."
        minutes = max(1, round(self.seconds / 60))
        long = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        source = (
            "as long as the answers so far took"
            if self.timed
            else f"at {USUAL_SECONDS:g} s, what the shipped model takes on two idle cores"
        )
        return f"{left:,} answers, about {long} ({source}); answers that a cache has take none."

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "systems": [system._asdict() for system in self.systems],
            "seconds": self.seconds,
            "timed": self.timed,
        }


def estimate_work(planned: Plan, qaset: QASet, folder: Path) -> Work:
    """Reckon with what the rows in `folder` took, of the same system or else of all. Raises `DataError`."""
    about = {trial.row.name: trial.part.about for trial in planned.trials} | {FULL: "everything as set"}
    took = _taken(folder)
    timed = [seconds for rows in took.values() for seconds in rows.values()]
    usual = sum(timed) / len(timed) if timed else USUAL_SECONDS
    systems = []
    for row in planned.rows:
        own = took.get(row.name, {})
        left = sum(question.id not in own for question in qaset.questions)
        seconds = sum(own.values()) / len(own) if own else usual
        systems.append(SystemWork(row.name, about.get(row.name, ""), left, seconds))
    return Work(tuple(systems), bool(timed))


def _taken(folder: Path) -> dict[str, dict[str, float]]:
    """Return the seconds of every answer in a folder by system and question; none where there is no run."""
    took: dict[str, dict[str, float]] = defaultdict(dict)
    if (folder / RUN).exists():
        run = read_run(folder)
        for row in read_rows(folder):
            if run.counts(row) and not row.failed:
                took[row.system][row.question_id] = row.seconds
    return took

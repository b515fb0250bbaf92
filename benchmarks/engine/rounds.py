"""The workloads of a session, run by run, each over cases of its own where what was read before matters."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from benchmarks.engine import measure
from benchmarks.engine.journal import OURS, Journal
from benchmarks.engine.limits import measure_bandwidth, measure_products, measure_reading, measure_writing
from benchmarks.engine.measure import Advance, Scale
from benchmarks.engine.ours import available_cores
from benchmarks.engine.systems import OurSystem, System
from benchmarks.engine.workload import Case, Shapes, seen_pairs
from rag.errors import DataError
from rag.pipeline import RagPipeline
from rag.speed import BareLoop

T = TypeVar("T")

WORKLOADS = ("answers", "seen", "warm", "cold", "clients", "pace")


class Rounds:
    """What is measured with, and what is asked.

    `answers`, `seen` and `warm` take cases of their own, one after the other, so that no prompt was asked before.
    Raises `DataError` where the set has too few questions for one run.
    """

    def __init__(
        self,
        journal: Journal,
        scale: Scale,
        systems: Sequence[System],
        cases: Sequence[Case],
        shapes: Shapes,
        pipeline: RagPipeline,
        bare: BareLoop,
    ) -> None:
        self._journal, self._scale, self._shapes, self._pipeline, self._bare = journal, scale, shapes, pipeline, bare
        self._systems = list(systems)
        (self._ours,) = (system for system in systems if isinstance(system, OurSystem))
        answers, seen, warm = share_out(len(cases), scale)
        self._cases = cases
        self._answers = _slices(cases, answers, scale.runs)
        self._warm = _slices(cases[answers * scale.runs :], warm, scale.runs)
        later = cases[(answers + warm) * scale.runs :]
        self._pairs = seen_pairs(later, cases, shapes.passages)[: seen * scale.runs]
        self._seen = _slices(self._pairs, seen, scale.runs)

    def steps(self, workload: str) -> int:
        """How often a workload says that it is one step further."""
        systems = len(self._systems)
        each = {
            "answers": len(self._answers[0]),
            "warm": len(self._warm[0]),
            "seen": 2 * len(self._seen[0]),
            "cold": self._scale.cold,
            "clients": systems,
            "pace": 1,
        }
        return self._scale.runs * each[workload]

    def run(self, workload: str, run: int, advance: Advance) -> None:
        """Measure one run of a workload. Raises `PeerFailed`."""
        runs: dict[str, Callable[[int, Advance], None]] = {
            "answers": self._run_answers,
            "warm": self._run_warm,
            "seen": self._run_seen,
            "cold": self._run_cold,
            "clients": self._run_clients,
            "pace": self._run_pace,
        }
        runs[workload](run, advance)

    def drop(self, system: str) -> None:
        """Go on without a system."""
        self._systems = [other for other in self._systems if other.name != system]

    def notes(self) -> list[str]:
        """What must be said beside the figures."""
        found = sum(pair.found for pair in self._pairs)
        notes = [f"seen: retrieval itself found the passage for both questions in {found} of {len(self._pairs)} pairs"]
        ours = self._journal.median("prompt_tokens_cold", OURS)
        for system in self._systems:
            theirs = self._journal.values("prompt_tokens_cold", system.name)
            same = self._journal.values("prompt_tokens_cold", OURS)[: len(theirs)]
            if theirs and ours and theirs != same:
                notes.append(f"{system.name} makes other tokens of the same chat: {theirs[0]:.0f}, ours {same[0]:.0f}")
        return notes

    def _run_answers(self, run: int, advance: Advance) -> None:
        measure.measure_answers(
            self._journal, run, self._systems, self._pipeline, self._answers[run], self._shapes, advance
        )

    def _run_warm(self, run: int, advance: Advance) -> None:
        measure.measure_warm(self._journal, run, self._ours, self._pipeline, self._warm[run], self._shapes, advance)

    def _run_seen(self, run: int, advance: Advance) -> None:
        measure.measure_seen(self._journal, run, self._systems, self._seen[run], self._shapes, advance)

    def _run_cold(self, run: int, advance: Advance) -> None:
        count = self._scale.cold
        cases = [self._cases[(run * count + at) % len(self._cases)] for at in range(count)]
        measure.measure_cold(self._journal, run, self._systems, cases, self._shapes, advance)

    def _run_clients(self, run: int, advance: Advance) -> None:
        measure.measure_clients(self._journal, run, self._systems, self._cases, self._shapes, self._scale, advance)
        measure.measure_round_trips(self._journal, run, self._systems)

    def _run_pace(self, run: int, advance: Advance) -> None:
        """Our pace, the bare loop's at the same depth, and the limits of the machine, one right after the other."""
        case, scale, threads = self._cases[run % len(self._cases)], self._scale, available_cores()
        depth = measure.measure_pace(self._journal, run, self._ours, case, scale)
        measure_writing(self._journal, run, self._bare, depth=depth, tokens=scale.written)
        measure_reading(self._journal, run, self._bare, scale.read)
        measure_bandwidth(self._journal, run, threads=threads, megabytes=scale.megabytes)
        measure_products(self._journal, run, threads=threads, size=scale.product)
        advance()


def share_out(cases: int, scale: Scale) -> tuple[int, int, int]:
    """Return the cases of a run for `answers`, `seen` and `warm`; fewer than the scale wants where the set is small.

    Raises `DataError` where there is not one for each run of all three.
    """
    wanted = (scale.answers, scale.seen, scale.warm)
    share = min(1.0, cases / (scale.runs * sum(wanted)))
    answers, seen, warm = (int(count * share) for count in wanted)
    if not (answers and seen and warm):
        raise DataError(
            f"{cases} answerable questions are too few for {scale.runs} runs",
            hint="Take a larger set, or fewer --runs.",
        )
    return answers, seen, warm


def _slices(items: Sequence[T], size: int, count: int) -> list[Sequence[T]]:
    return [items[at * size : (at + 1) * size] for at in range(count)]

"""The search for the fastest weights and settings whose answers are as good: in stages, not over a full grid.

1. every quantization, with the usual settings, in turns;
2. for the best few and the registry's own file, one kind of setting after the other: threads, batches, attention;
3. answers, for what is on the Pareto front of speed, fastest first, until one is good enough;
4. for that one, whether guessing ahead pays.

Candidates are measured in turns, one sample each a round, so that the machine's moods fall on all of them alike.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from eval.statistics import Estimate, Labels
from eval.tune_choice import (
    REGISTRY,
    TOLERANCE,
    Candidate,
    Shape,
    Speed,
    difference,
    faster,
    good_enough,
    pareto,
)
from eval.tune_lookup import QUESTIONS, Guesser, choose_lookup
from eval.tune_notes import Notes
from rag.errors import ModelLoadFailed
from rag.speed import Sample
from rag.tuning import UNTUNED, Tuning

ROUNDS = 5
FEW = 2
LONGEST_BATCH = 1.0  # seconds

Progress = Callable[[str, int, int], None]
Variants = Sequence[Mapping[str, Any]]


class Measurer(Guesser, Protocol):
    """What the search needs of the machine. A quantization's file is made when it is first needed."""

    def speed(self, candidate: Candidate) -> Sample:
        """Time one reading and writing."""
        ...

    def f1(self, candidate: Candidate, question: int) -> float:
        """Answer one question of the set and score it."""
        ...

    def drop(self, quantization: str) -> None:
        """Remove a quantization's file: it is out of the race."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried, on which questions, and what is good enough.

    `threads`, `batches` and `attention` are changes to the settings, by field; `lookups` are numbers of tokens to guess
    ahead. `questions` are ids that stand for set, passage and prompt too; `groups` `(n,)` are the questions' clusters.
    """

    quantizations: tuple[str, ...]
    threads: Variants
    batches: Variants
    attention: Variants
    shape: Shape
    questions: tuple[str, ...]
    groups: Labels
    tolerance: float = TOLERANCE
    rounds: int = ROUNDS
    lookups: tuple[int, ...] = ()

    @property
    def most_samples(self) -> int:
        """How many samples the search takes at most."""
        settings = sum(len(variants) for variants in (self.threads, self.batches, self.attention))
        finalists = min(FEW, len(self.quantizations)) + 1
        return self.rounds * (1 + len(self.quantizations) + finalists * settings)

    @property
    def guessed(self) -> int:
        """How many questions are answered with guessing ahead, for each of the `lookups`."""
        return min(QUESTIONS, len(self.questions))


@dataclass
class Outcome:
    """What was measured. `quality` is F1 and its difference to the registry's file; `verdicts` say why or why not.

    The chosen one is to guess up to `lookup` tokens ahead, which saves a share `lookup_saves` of the time of writing.
    """

    speeds: dict[Candidate, Speed]
    quality: dict[Candidate, tuple[float, Estimate]] = field(default_factory=dict)
    verdicts: dict[Candidate, str] = field(default_factory=dict)
    chosen: Candidate = REGISTRY
    lookup: int = 0
    lookup_saves: float = 0.0


def search(measurer: Measurer, notes: Notes, plan: Plan, progress: Progress) -> Outcome:
    """Run the stages. Interrupt it whenever you like: `notes` hold what was measured, but for the short last stage."""
    race = _Race(measurer, notes, plan, progress)
    race.measure("weights", [REGISTRY, *(Candidate(name) for name in plan.quantizations)])
    best = sorted(race.speeds, key=lambda candidate: race.speeds[candidate].seconds[0])[:FEW]
    finalists = list(dict.fromkeys([*best, REGISTRY]))
    for stage, variants in (("threads", plan.threads), ("batches", plan.batches), ("attention", plan.attention)):
        finalists = race.vary(stage, finalists, variants)
    outcome = _choose(race)
    chosen = outcome.chosen
    outcome.lookup, outcome.lookup_saves = choose_lookup(measurer, chosen, plan.lookups, plan.guessed, progress)
    return outcome


class _Race:
    """The measuring of candidates, with what is known of them so far."""

    def __init__(self, measurer: Measurer, notes: Notes, plan: Plan, progress: Progress) -> None:
        self.measurer, self.notes, self.plan, self.progress = measurer, notes, plan, progress
        self.speeds: dict[Candidate, Speed] = {}
        self.failed: dict[Candidate, str] = {}

    def measure(self, stage: str, candidates: Sequence[Candidate]) -> None:
        """Take the samples that are still wanting, a round after the other. What cannot be run is out of the race."""
        known = {candidate: self.notes.samples(candidate.label) for candidate in candidates}
        for round_ in range(self.plan.rounds):
            for place, (candidate, samples) in enumerate(known.items(), start=1):
                if candidate not in self.failed and len(samples) <= round_:
                    self._sample(candidate, samples)
                self.progress(stage, round_ * len(known) + place, self.plan.rounds * len(known))
        for candidate, samples in known.items():
            if candidate not in self.failed:
                self.speeds[candidate] = Speed.of(samples, self.plan.shape)

    def vary(self, stage: str, finalists: Sequence[Candidate], variants: Variants) -> list[Candidate]:
        """Measure other settings of one kind; return the finalists with the best, the old one where none is faster."""
        tried = {finalist: list(_variants(finalist, variants, self.speeds[finalist].read[0])) for finalist in finalists}
        wanting = [candidate for others in tried.values() for candidate in others if candidate not in self.speeds]
        self.measure(stage, wanting)
        return [self._best(finalist, others) for finalist, others in tried.items()]

    def scores(self, candidate: Candidate) -> list[float]:
        """Return F1 of every question."""
        known = self.notes.scores(candidate.answers_like)
        for done, question in enumerate(self.plan.questions):
            if question not in known:
                self.notes.add_score(candidate.answers_like, question, self.measurer.f1(candidate, done))
                known = self.notes.scores(candidate.answers_like)
            self.progress(f"answers of {candidate.answers_like}", done + 1, len(self.plan.questions))
        return [known[question] for question in self.plan.questions]

    def drop_all_but(self, racing: Iterable[Candidate]) -> None:
        """Free the disk of quantizations that cannot be chosen any more."""
        racing_names = {candidate.quantization for candidate in racing}
        for name in self.plan.quantizations:
            if name not in racing_names:
                self.measurer.drop(name)

    def _sample(self, candidate: Candidate, samples: list[Sample]) -> None:
        try:
            samples.append(self.measurer.speed(candidate))
        except ModelLoadFailed as error:
            if candidate == REGISTRY:  # without it there is nothing to compare with
                raise
            self.failed[candidate] = error.message
            return
        self.notes.add_sample(candidate.label, samples[-1])

    def _best(self, finalist: Candidate, others: Sequence[Candidate]) -> Candidate:
        ran = [candidate for candidate in others if candidate in self.speeds]
        best = min(ran, key=lambda candidate: self.speeds[candidate].seconds[0], default=finalist)
        return best if faster(self.speeds[best], self.speeds[finalist]) else finalist


def _choose(race: _Race) -> Outcome:
    """Judge answers, fastest candidate first, and choose the first that is good enough.

    Where one is not, all that answer like it are out, and the next comes from the front of what is left.
    """
    outcome = Outcome(race.speeds, verdicts=dict(race.failed))
    own = race.speeds[REGISTRY]
    left = {candidate: speed for candidate, speed in race.speeds.items() if faster(speed, own)}
    race.drop_all_but(left)
    while left and outcome.chosen == REGISTRY:
        candidate = pareto(left)[0]
        found = _judge(race, outcome, candidate)
        if good_enough(found, race.plan.tolerance):
            outcome.chosen = candidate
            left = {candidate: left[candidate]}
        else:
            worse = found.high is not None and found.high < 0
            outcome.verdicts[candidate] = "answers are worse" if worse else "not shown to answer as well"
            left = {other: left[other] for other in left if other.answers_like != candidate.answers_like}
        race.drop_all_but(left)
    outcome.verdicts[outcome.chosen] = "chosen"
    return outcome


def _judge(race: _Race, outcome: Outcome, candidate: Candidate) -> Estimate:
    """Score the answers of a candidate and of the registry's file; return the difference."""
    own, scores = race.scores(REGISTRY), race.scores(candidate)
    for judged, judged_scores in ((REGISTRY, own), (candidate, scores)):
        found = difference(own, judged_scores, race.plan.groups)
        outcome.quality[judged] = (sum(judged_scores) / len(judged_scores), found)
    return found


def _variants(candidate: Candidate, variants: Variants, read: float) -> Iterator[Candidate]:
    """Yield the candidate with other settings; `read` is its tokens a second.

    Batches that take more than a second to read are left out: answers being written would wait that long for a token.
    """
    for changes in variants:
        tuning = Tuning.model_validate({**candidate.tuning.model_dump(), **changes})
        if tuning != candidate.tuning and tuning.batch <= max(UNTUNED.batch, read * LONGEST_BATCH):
            yield candidate._replace(tuning=tuning)

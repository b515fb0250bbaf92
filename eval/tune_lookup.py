"""Whether guessing ahead pays on this machine, and how far: what right guesses save against what all of them cost.

A token that was guessed right saves a step; every guessed token makes a step longer. How much longer depends on weights
and processor (llama.cpp's kernels for one token and for several are not the same), how many are right on model and
questions. Both are measured: steps of one token and of more, in turns, and answers to some questions of the set.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from eval.tune_choice import MARGIN, Candidate

# The first so many of the plan's questions are answered: some 150 guessed tokens, which tell a share to 5 points or so.
QUESTIONS = 30


class Guesses(NamedTuple):
    """What was written: the steps it takes without guessing, tokens guessed ahead, and how many of those were right."""

    steps: int
    drafted: int
    accepted: int


class Guesser(Protocol):
    """What is needed of the machine."""

    def steps(self, candidate: Candidate, widths: Sequence[int]) -> Mapping[int, float]:
        """Return the seconds of a step of so many tokens."""
        ...

    def guesses(self, candidate: Candidate, question: int) -> Guesses:
        """Answer one question of the set, guessing as the candidate's settings say."""
        ...


def choose_lookup(
    guesser: Guesser,
    candidate: Candidate,
    lookups: Sequence[int],
    questions: int,
    progress: Callable[[str, int, int], None],
) -> tuple[int, float]:
    """Return how many tokens to guess ahead at most, and the share of the seconds of writing that this saves.

    That is 0 where none of the `lookups` saves more than noise.
    """
    steps = guesser.steps(candidate, [1, *(1 + most for most in lookups)]) if lookups else {}
    best = 0, 0.0
    for tried, most in enumerate(lookups):
        guessing = candidate._replace(tuning=candidate.tuning.model_copy(update={"lookup": most}))
        told = []
        for question in range(questions):
            told.append(guesser.guesses(guessing, question))
            progress("guessing ahead", tried * questions + question + 1, len(lookups) * questions)
        share = saved(steps, most, total(told))
        if share > max(best[1], MARGIN):
            best = most, share
    return best


def total(told: Sequence[Guesses]) -> Guesses:
    """Return the sum."""
    return Guesses(sum(t.steps for t in told), sum(t.drafted for t in told), sum(t.accepted for t in told))


def saved(steps: Mapping[int, float], most: int, told: Guesses) -> float:
    """Return the share of the seconds of writing that guesses of `most` tokens save; negative where they cost more.

    A shorter guess is taken to cost its share of one of `most` tokens.
    """
    one, guessed = steps[1], (steps[1 + most] - steps[1]) / most
    return (told.accepted * one - told.drafted * guessed) / (told.steps * one) if told.steps else 0.0

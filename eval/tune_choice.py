"""Which of the measured candidates is best: seconds of an answer, the Pareto front of speed, and as good an answer.

The rule: the fastest candidate whose answers are shown to be hardly worse. Hardly worse means that the 95% interval of
the difference in F1 to the registry's file, paired by question, lies above minus the tolerance as a whole. So few
questions, or answers that differ a lot, speak against a candidate: what cannot be told is not taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from eval.statistics import Estimate, Labels, bootstrap_means, paired_difference
from rag.speed import Sample
from rag.tuning import UNTUNED, Tuning

# What is gained must be more than this share of the seconds, or it is the machine's mood.
MARGIN = 0.03
TOLERANCE = 0.03


class Candidate(NamedTuple):
    """Weights and settings. `quantization` is "" for the registry's own file."""

    quantization: str = ""
    tuning: Tuning = UNTUNED

    @property
    def label(self) -> str:
        """A name for people, and the key in the notes."""
        t = self.tuning
        threads = f"{t.threads} threads" if t.threads else "all cores"
        return (
            f"{self.quantization or 'as it is'}, {threads}, batch {t.batch}/{t.micro_batch}, "
            f"flash {t.flash_attention}, kv {t.kv_type}"
        )

    @property
    def answers_like(self) -> str:
        """What answers depend on: threads and batches do not change them, rounding aside."""
        t = self.tuning
        return f"{self.quantization or 'as it is'} flash {t.flash_attention} kv {t.kv_type}"


REGISTRY = Candidate()


class Shape(NamedTuple):
    """The usual question: how many tokens are read and written for it, and how many were written when measuring."""

    prompt: int
    answer: int
    written: int


@dataclass(frozen=True, slots=True)
class Speed:
    """What the samples of a candidate say. Rates are tokens a second; each is the median, least and most."""

    seconds: tuple[float, float, float]
    read: tuple[float, float, float]
    write: tuple[float, float, float]

    @classmethod
    def of(cls, samples: Sequence[Sample], shape: Shape) -> "Speed":
        """Reduce the samples, of which there must be one or more."""
        seconds = [s.read + s.write * shape.answer / shape.written for s in samples]
        return cls(
            _spread(seconds),
            _spread([shape.prompt / s.read for s in samples]),
            _spread([shape.written / s.write for s in samples]),
        )


def pareto(speeds: Mapping[Candidate, Speed]) -> list[Candidate]:
    """Return the candidates that no other beats in reading without losing in writing, fewest seconds first."""

    def beaten(speed: Speed) -> bool:
        mine = (speed.read[0], speed.write[0])
        others = ((other.read[0], other.write[0]) for other in speeds.values())
        return any(r >= mine[0] and w >= mine[1] and (r, w) != mine for r, w in others)

    front = [candidate for candidate, speed in speeds.items() if not beaten(speed)]
    return sorted(front, key=lambda candidate: speeds[candidate].seconds[0])


def faster(speed: Speed, than: Speed) -> bool:
    """Whether the median is lower by more than noise."""
    return speed.seconds[0] < than.seconds[0] * (1 - MARGIN)


def difference(own: Sequence[float], other: Sequence[float], groups: Labels) -> Estimate:
    """Return F1 of `other` minus F1 of the registry's `own`, question by question, with its 95% interval."""
    own_n1, other_n1 = np.array([own]).T, np.array([other]).T
    draws = (bootstrap_means(own_n1, groups), bootstrap_means(other_n1, groups))
    return paired_difference(own_n1, other_n1, *draws)[0]


def good_enough(found: Estimate, tolerance: float) -> bool:
    """Whether answers are shown to be hardly worse: the whole interval lies above minus the tolerance."""
    return found.low is not None and found.low > -tolerance


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)

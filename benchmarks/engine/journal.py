"""What was measured: one sample per figure, system and run; medians with quartiles come out."""

from typing import Any, NamedTuple

import numpy as np

OURS = "smallhold"
LLAMA_SERVER = "llama-server"
LLAMA_CPP_PYTHON = "llama-cpp-python"
PEERS = (LLAMA_SERVER, LLAMA_CPP_PYTHON)
BARE = "llama.cpp, bare loop"
MACHINE = "machine"


class Sample(NamedTuple):
    """One value of one figure. The figure's name says the unit where it is not seconds."""

    figure: str
    system: str
    run: int
    value: float


class Spread(NamedTuple):
    """The median of `n` samples, between the lower and the upper quartile."""

    median: float
    low: float
    high: float
    n: int


class Journal:
    """All samples of a session, in the order in which they came."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def add(self, figure: str, system: str, run: int, value: float) -> None:
        """Write down one value."""
        self.samples.append(Sample(figure, system, run, value))

    def values(self, figure: str, system: str) -> list[float]:
        """Return what was measured of a figure."""
        return [s.value for s in self.samples if (s.figure, s.system) == (figure, system)]

    def spread(self, figure: str, system: str) -> Spread | None:
        """Return median and quartiles; None where nothing was measured."""
        return spread(self.values(figure, system))

    def median(self, figure: str, system: str) -> float | None:
        """Return the median alone."""
        found = self.spread(figure, system)
        return found.median if found else None

    def mean(self, figure: str, system: str) -> float | None:
        """Return the mean, for scores."""
        values = self.values(figure, system)
        return float(np.mean(values)) if values else None

    def figures(self) -> list[str]:
        """Return the names of what was measured, as they came."""
        return list(dict.fromkeys(sample.figure for sample in self.samples))

    def runs(self) -> list[dict[str, Any]]:
        """Return every sample as plain data."""
        return [sample._asdict() for sample in self.samples]


def spread(values: list[float]) -> Spread | None:
    """Return median and quartiles; None of nothing."""
    if not values:
        return None
    low, median, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, low, high, len(values))

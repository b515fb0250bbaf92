"""What a running server's `/metrics` say, read twice: what happened in between, by the second and by quantile."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from rag.errors import DataError

PREFIX = "smallhold_"


class Sample(NamedTuple):
    """A value with its labels."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Reading:
    """All samples by name, as they were at `at`, in seconds of the Unix epoch."""

    at: float
    samples: Mapping[str, list[Sample]]

    def of(self, name: str, **labels: str) -> list[Sample]:
        """Return the samples of a name that have these labels."""
        found = self.samples.get(name, [])
        return [sample for sample in found if all(sample.labels.get(key) == value for key, value in labels.items())]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of those samples, None where there is none."""
        found = self.of(name, **labels)
        return sum(sample.value for sample in found) if found else None

    def started(self) -> "Reading":
        """Return the reading of the moment at which the server was started: everything is 0."""
        return Reading(self.value("process_start_time_seconds") or self.at, {})


def read_figures(text: str, at: float) -> Reading:
    """Read Prometheus's text format. Raises `DataError` where it is something else, or not of a smallhold server."""
    samples: dict[str, list[Sample]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(Sample(sample.labels, float(sample.value)))
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"what it tells are no figures: {error}") from error
    if not any(name.startswith(PREFIX) for name in samples):
        raise DataError("it tells no figures of smallhold", hint="Give the address of a `smallhold serve` with --url.")
    return Reading(at, samples)


@dataclass(frozen=True)
class Span:
    """What happened between two readings. A counter that is smaller afterwards began anew with its process."""

    before: Reading
    now: Reading

    @property
    def seconds(self) -> float:
        """How long it was."""
        return max(self.now.at - self.before.at, 1e-9)

    def increase(self, name: str, **labels: str) -> float:
        """Return by how much the counters of a name with these labels grew, together."""
        return sum(self._grown(name, sample) for sample in self.now.of(name, **labels))

    def rate(self, name: str, **labels: str) -> float:
        """Return the same by the second."""
        return self.increase(name, **labels) / self.seconds

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the growth by the values of a label."""
        grown: dict[str, float] = {}
        for sample in self.now.of(name, **labels):
            value = sample.labels.get(label, "")
            grown[value] = grown.get(value, 0.0) + self._grown(name, sample)
        return grown

    def mean(self, name: str, **labels: str) -> float | None:
        """Return the mean of what a histogram saw, None where that is nothing."""
        count = self.increase(f"{name}_count", **labels)
        return self.increase(f"{name}_sum", **labels) / count if count else None

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Estimate a quantile of what a histogram saw as Prometheus does: linearly within a bucket.

        What lies beyond the last bound is told as that bound. None where the histogram saw nothing.
        """
        counts: dict[float, float] = {}
        for sample in self.now.of(f"{name}_bucket", **labels):
            bound = float(sample.labels["le"])
            counts[bound] = counts.get(bound, 0.0) + self._grown(f"{name}_bucket", sample)
        if not counts or not (total := counts.get(math.inf, 0.0)):
            return None
        rank, lower, below = q * total, 0.0, 0.0
        for bound, count in sorted(counts.items()):
            if count >= rank:
                if bound == math.inf:
                    return lower
                return lower + (bound - lower) * ((rank - below) / (count - below) if count > below else 1.0)
            lower, below = bound, count
        return lower

    def _grown(self, name: str, sample: Sample) -> float:
        was = next((old.value for old in self.before.of(name) if old.labels == sample.labels), 0.0)
        return sample.value - was if sample.value >= was else sample.value


def stages(span: Span) -> Iterator[tuple[str, float]]:
    """Yield the stages that were gone through with their mean seconds, the longest first."""
    means = {stage: span.mean("smallhold_stage_seconds", stage=stage) for stage in span.by("stage", _STAGES)}
    found = {stage: mean for stage, mean in means.items() if mean is not None}
    yield from sorted(found.items(), key=lambda item: -item[1])


_STAGES = "smallhold_stage_seconds_count"

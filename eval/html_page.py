"""What every section of a report's page is made from, and what it calls things."""

from typing import Any, NamedTuple

from eval.html_digest import Digest
from eval.verdict import RIGHT
from eval.wording import TITLES


class Trust(NamedTuple):
    """One of the six outcomes: its name in the report, what a reader is told, its colours in the style sheet."""

    key: str
    title: str
    meaning: str

    @property
    def fill(self) -> str:
        """The name of the colour of its part of a bar."""
        return self.key.replace("_", "-")


TRUST = (
    Trust("right_grounded", "right, from the documents", "the answer is right and the cited text supports it"),
    Trust("right_remembered", "right, remembered", "the answer is right, but no cited text supports it"),
    Trust("abstained_rightly", "rightly declined", "the documents hold no answer, and none was given"),
    Trust("abstained_wrongly", "wrongly declined", "the documents hold the answer, but none was given"),
    Trust("wrong_misread", "wrong, misread", "the cited text supports the answer, but it is wrong"),
    Trust("wrong_made_up", "wrong, made up", "the answer is wrong and no cited text supports it"),
)


class Page(NamedTuple):
    """What the sections are made from: the report and the digest of its rows."""

    report: dict[str, Any]
    digest: Digest

    @property
    def systems(self) -> dict[str, dict[str, Any]]:
        """The systems of the report by name."""
        return self.report["systems"]  # type: ignore[no-any-return]

    def series(self, name: str) -> int:
        """Where a system stands among all: its colour on every picture."""
        return list(self.systems).index(name)


def metric_title(metric: str) -> str:
    """Return what a metric is called on the page."""
    return "right answers" if metric == RIGHT else TITLES.get(metric, metric.replace("_", " "))


def percent(share: float) -> str:
    """Write a share as per cent with one decimal, as tables have it."""
    return f"{share * 100:.1f}%"

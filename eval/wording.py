"""How figures are named and written wherever a person reads them."""

from typing import Any

from eval.measurements import COST, SECONDS
from eval.metrics import METRICS

TITLES = {
    "exact_match": "exact match",
    "f1": "F1",
    "contains": "answer contained",
    "coverage": "coverage",
    "abstention_precision": "abstention precision",
    "abstention_recall": "abstention recall",
    "citation_precision": "citation precision",
    "citation_recall": "citation recall",
    "recall@1": "recall@1",
    "recall@5": "recall@5",
    "recall@10": "recall@10",
    "ndcg@10": "nDCG@10",
    COST: "cost",
    SECONDS: "seconds",
}

MEANINGS = {
    "exact_match": "share of the answerable questions answered word for word as expected (an abstention counts 0)",
    "f1": "overlap in words of answer and expected answer, over the answerable questions (an abstention counts 0)",
    "contains": "share of the answerable questions whose answer holds the expected one",
    "coverage": "share of the answerable questions that got an answer",
    "abstention_precision": "share of the abstentions that were on unanswerable questions",
    "abstention_recall": "share of the unanswerable questions on which the system abstained",
    "citation_precision": "share of the cited documents that are relevant, over the answers given",
    "citation_recall": "share of the relevant documents that were cited, over the answers given",
    "recall@1": "share of the relevant documents that are the first one found",
    "recall@5": "share of the relevant documents among the first 5 found",
    "recall@10": "share of the relevant documents among the first 10 found",
    "ndcg@10": "how far up the relevant documents stand among the first 10 found; 1 is the best order",
}

UNKNOWN = "-"


def headline_metric(report: dict[str, Any]) -> str:
    """Return F1 where some system answers questions that have answers, else nDCG@10."""
    answers = any(system["metrics"]["f1"]["value"] is not None for system in report["systems"].values())
    return "f1" if answers else "ndcg@10"


def scored_metrics(report: dict[str, Any]) -> list[str]:
    """Return the metrics that some system of a report was scored in."""
    systems = report["systems"].values()
    return [metric for metric in METRICS if any(system["metrics"][metric]["value"] is not None for system in systems)]


def share(number: float | None) -> str:
    """Write a score between 0 and 1."""
    return UNKNOWN if number is None else f"{number:.3f}"


def interval(figure: dict[str, Any]) -> str:
    """Write a score with its interval."""
    if figure["value"] is None:
        return UNKNOWN
    return f"{share(figure['value'])} ({share(figure['low'])} to {share(figure['high'])})"


def difference(figure: dict[str, Any]) -> str:
    """Write a difference with its interval, each with its sign."""
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"


def seconds(number: float | None) -> str:
    """Write seconds."""
    if number is None:
        return UNKNOWN
    return f"{number:.2f} s" if number >= 0.1 else f"{number * 1000:.1f} ms"


def dollars(number: float | None) -> str:
    """Write US dollars to three figures, however small."""
    if number is None:
        return UNKNOWN
    if number == 0:
        return "$0"
    return f"${number:,.2f}" if number >= 10 else f"${_three_figures(number)}"


def per_thousand(cost: float | None) -> str:
    """Write the cost of 1,000 questions."""
    return dollars(None if cost is None else cost * 1000)


def times(ratio: float) -> str:
    """Write how many times one is the other."""
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def shows_a_difference(figure: dict[str, Any]) -> bool:
    """Whether the interval of a difference leaves 0 out."""
    return bool(figure["low"] > 0 or figure["high"] < 0)


def _three_figures(number: float) -> str:
    digits = 2
    while round(number, digits) < 10 ** -(digits - 2) and digits < 12:
        digits += 1
    return f"{number:.{digits}f}"

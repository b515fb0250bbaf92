"""How figures are named and written wherever a person reads them."""

from typing import Any

from eval.measurements import COST, SECONDS
from eval.metrics import METRICS
from eval.paired import ALPHA

TITLES = {
    "right": "right",
    "exact_match": "exact match",
    "f1": "F1",
    "contains": "answer contained",
    "rouge_l": "ROUGE-L",
    "grounded": "grounded",
    "crag": "CRAG score",
    "memorised": "memorised",
    "followed": "followed",
    "coverage": "coverage",
    "abstention_precision": "abstention precision",
    "abstention_recall": "abstention recall",
    "citation_precision": "citation precision",
    "citation_recall": "citation recall",
    "sentence_precision": "cited sentences, precision",
    "sentence_recall": "cited sentences, recall",
    "recall@1": "recall@1",
    "recall@5": "recall@5",
    "recall@10": "recall@10",
    "mrr": "MRR",
    "ndcg@10": "nDCG@10",
    "similarity": "similarity",
    "right_judge": "right, by a judge",
    "grounded_judge": "grounded, by a judge",
    COST: "cost",
    SECONDS: "seconds",
}

MEANINGS = {
    "right": "share of the answerable questions that a person would call rightly answered (an abstention counts 0)",
    "exact_match": "share of the answerable questions answered word for word as expected (an abstention counts 0)",
    "f1": "overlap in words of answer and expected answer, over the answerable questions (an abstention counts 0)",
    "contains": "share of the answerable questions whose answer holds the expected one",
    "rouge_l": "longest common subsequence of answer and expected answer, for long answers (an abstention counts 0)",
    "grounded": "share of the answers given whose words, numbers and names stand in the text that they cite",
    "crag": "mean of +1 for a right answer or abstention, 0 for a needless abstention, -1 for a wrong answer",
    "memorised": "share of the questions over rewritten documents answered as before the rewriting",
    "followed": "share of the questions over rewritten documents answered as the documents now say",
    "coverage": "share of the answerable questions that got an answer",
    "abstention_precision": "share of the abstentions that were on unanswerable questions",
    "abstention_recall": "share of the unanswerable questions on which the system abstained",
    "citation_precision": "share of the cited documents that are relevant, over the answers to answerable questions",
    "citation_recall": "share of the relevant documents that were cited, over the answers to answerable questions",
    "sentence_precision": "share of the cited sentences that hold the expected answer, in a relevant document",
    "sentence_recall": "share of the answers' sentences that point to a sentence which does",
    "recall@1": "share of the relevant documents that are the first one found",
    "recall@5": "share of the relevant documents among the first 5 found",
    "recall@10": "share of the relevant documents among the first 10 found",
    "mrr": "1 / rank of the first relevant document",
    "ndcg@10": "how far up the relevant documents stand among the first 10 found; 1 is the best order",
    "similarity": "cosine similarity of answer and expected answer, over the answers given",
    "right_judge": "share of the answers given that a language model calls right",
    "grounded_judge": "share of the answers given that a language model finds supported by the cited text",
}

UNKNOWN = "-"


def headline_metric(report: dict[str, Any]) -> str:
    """Return F1 where some system answers questions that have answers, else nDCG@10.

    Where there is neither, since all questions are unanswerable, the share of them that was declined.
    """
    scored = {
        metric
        for system in report["systems"].values()
        for metric in ("f1", "ndcg@10", "abstention_recall")
        if system["metrics"].get(metric, {}).get("value") is not None
    }
    return next((metric for metric in ("f1", "ndcg@10", "abstention_recall") if metric in scored), "ndcg@10")


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


def p_value(p: float | None) -> str:
    """Write a p value."""
    if p is None:
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


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
    """Whether a difference is more than chance: by its p value after the correction, without one by its interval."""
    p = figure.get("p") if figure.get("p_holm") is None else figure["p_holm"]
    return p < ALPHA if p is not None else bool(figure["low"] > 0 or figure["high"] < 0)


def _three_figures(number: float) -> str:
    digits = 2
    while round(number, digits) < 10 ** -(digits - 2) and digits < 12:
        digits += 1
    return f"{number:.{digits}f}"

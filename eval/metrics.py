"""Metrics. A judge scores one sample, `mean` reduces many; a sample that a metric does not apply to is None, never 0.

Every metric is the mean of its scored samples, also those that are ratios by nature: abstention precision scores
only the abstentions (1 where the question was unanswerable), abstention recall only the unanswerable questions.
So the bootstrap resamples questions, and numerator and denominator follow.

A question on which a system failed with an error scores like an abstention that nobody asked for: 0 in every answer
metric, coverage, abstention recall, retrieval and CRAG; it is no abstention in abstention precision. A failure
never helps a system.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval.retrieval_metrics import RANKED_DOCUMENTS, RETRIEVAL_METRICS, judge_ranking
from eval.right import right
from eval.scorers import contains, exact_match, f1, grounded, rouge_l
from eval.trust import CRAG, Trust, trust_of
from rag.text import normalize_answer

__all__ = [
    "METRICS", "RANKED_DOCUMENTS", "Sample", "Scores", "contains", "exact_match", "f1", "judge", "mean",
    "normalize_answer",
]  # fmt: skip

Scores = Mapping[str, float | None]

ANSWER_METRICS = ("right", "exact_match", "f1", "contains", "rouge_l")
TRUST_METRICS = ("grounded", "crag")
COUNTERFACTUAL_METRICS = ("memorised", "followed")
ABSTENTION_METRICS = ("coverage", "abstention_precision", "abstention_recall")
CITATION_METRICS = ("citation_precision", "citation_recall", "sentence_precision", "sentence_recall")
# From how many words on an expected answer is not to be found in one sentence: then its document decides.
LONG_GOLD = 12
# These need a model, so `judge` leaves them unscored; `eval.dear` adds them to the rows of a run.
DEAR_METRICS = ("similarity", "right_judge", "grounded_judge")
METRICS = (
    *ANSWER_METRICS,
    *TRUST_METRICS,
    *COUNTERFACTUAL_METRICS,
    *ABSTENTION_METRICS,
    *CITATION_METRICS,
    *RETRIEVAL_METRICS,
    *DEAR_METRICS,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is judged: one question and what one system made of it.

    `generates` and `retrieves` tell what the system does at all; `cited` holds the document of each citation,
    `cited_texts` what stands there, `pointers` for each sentence of the answer the places of its citations among them
    (empty where that was not noted: then the answer is one sentence), `ranked` the retrieved documents, best first,
    each once. `original` are the right
    answers before a counterfactual set rewrote its documents, empty in any other set.
    """

    answerable: bool
    gold: tuple[str, ...]
    relevant: tuple[str, ...]
    generates: bool
    retrieves: bool
    question: str = ""
    answer: str = ""
    abstained: bool = False
    failed: bool = False
    cited: tuple[str, ...] = ()
    cited_texts: tuple[str, ...] = ()
    pointers: tuple[tuple[int, ...], ...] = ()
    ranked: tuple[str, ...] = ()
    original: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether the system gave an answer, right or wrong."""
        return self.generates and not self.abstained and not self.failed


def judge(sample: Sample) -> dict[str, float | None]:
    """Score one sample by every metric; None where the metric does not apply to it or needs a model."""
    scores = dict.fromkeys(METRICS, None) | {
        **_judge_answer(sample),
        **_judge_abstention(sample),
        **_judge_citations(sample),
        **_judge_retrieval(sample),
    }
    outcome = judge_trust(sample, scores)
    return scores | {"crag": None if outcome is None else CRAG[outcome], **_judge_memory(sample, scores["right"])}


def judge_trust(sample: Sample, scores: Scores) -> Trust | None:
    """Return what became of the question by its scores; None where nothing was to be answered or compared with."""
    if not sample.generates or (sample.answerable and not sample.gold):
        return None
    return trust_of(
        answerable=sample.answerable,
        answered=sample.answered,
        abstained=sample.abstained,
        right=scores.get("right") == 1.0,
        grounded=scores.get("grounded") == 1.0,
    )


def mean(scores: Iterable[float | None]) -> float | None:
    """Reduce: the mean over what was scored, None where nothing was."""
    scored = [score for score in scores if score is not None]
    return sum(scored) / len(scored) if scored else None


def _judge_answer(sample: Sample) -> dict[str, float | None]:
    """Compare with the right answers, over answerable questions; an abstention or a failure scores 0."""
    if not sample.generates or not sample.answerable or not sample.gold:
        return dict.fromkeys(ANSWER_METRICS)
    if not sample.answered:
        return dict.fromkeys(ANSWER_METRICS, 0.0)
    judges: dict[str, Callable[[str, Sequence[str]], float]] = {
        "right": lambda answer, gold: right(sample.question, answer, gold),
        "exact_match": exact_match,
        "f1": f1,
        "contains": contains,
        "rouge_l": rouge_l,
    }
    return {name: score(sample.answer, sample.gold) for name, score in judges.items()}


def _judge_memory(sample: Sample, is_right: float | None) -> dict[str, float | None]:
    """On a counterfactual question: whether the answer is the one before the documents were rewritten, or after.

    An answer that is right by both follows, for nothing shows that it was remembered. An abstention is neither.
    """
    if not sample.original or is_right is None:
        return dict.fromkeys(COUNTERFACTUAL_METRICS)
    memorised = sample.answered and not is_right and right(sample.question, sample.answer, sample.original)
    return {"memorised": float(memorised), "followed": is_right}


def _judge_abstention(sample: Sample) -> dict[str, float | None]:
    """Coverage over answerable questions, precision over abstentions, recall over unanswerable questions."""
    if not sample.generates:
        return dict.fromkeys(ABSTENTION_METRICS)
    return {
        "coverage": float(sample.answered) if sample.answerable else None,
        "abstention_precision": float(not sample.answerable) if sample.abstained else None,
        "abstention_recall": None if sample.answerable else float(sample.abstained),
    }


def _judge_citations(sample: Sample) -> dict[str, float | None]:
    """Citations of answered answerable questions that have relevant documents; cited text against any answer.

    By document: precision is the share of cited documents that are relevant, recall the share of relevant documents
    that are cited. By sentence: precision is the share of cited sentences that are right, recall the share of the
    answer's sentences that point to a right one. A cited sentence is right where it stands in a relevant document and
    holds an expected answer, word for word after SQuAD's normalisation; where all of those are longer than
    `LONG_GOLD` words its document is enough. What cites nothing although the system could scores 0 in all.
    """
    if not sample.answered or not sample.retrieves:
        return dict.fromkeys((*CITATION_METRICS, "grounded"))
    support = {"grounded": grounded(sample.question, sample.answer, sample.cited_texts)}
    if not sample.relevant or not sample.answerable:
        return {**dict.fromkeys(CITATION_METRICS), **support}
    cited, relevant = set(sample.cited), set(sample.relevant)
    hits = len(cited & relevant)
    return {
        "citation_precision": hits / len(cited) if cited else 0.0,
        "citation_recall": hits / len(relevant),
        **_judge_sentences(sample),
        **support,
    }


def _judge_sentences(sample: Sample) -> dict[str, float | None]:
    """Score the cited sentences; None where no answer is expected that they could hold."""
    if not sample.gold:
        return {"sentence_precision": None, "sentence_recall": None}
    anywhere = all(len(gold.split()) > LONG_GOLD for gold in sample.gold)
    right_ = [
        document in sample.relevant and (anywhere or contains(text, sample.gold) == 1.0)
        for document, text in zip(sample.cited, sample.cited_texts, strict=True)
    ]
    pointers = sample.pointers or (tuple(range(len(right_))),)
    return {
        "sentence_precision": sum(right_) / len(right_) if right_ else 0.0,
        "sentence_recall": sum(any(right_[i] for i in sentence) for sentence in pointers) / len(pointers),
    }


def _judge_retrieval(sample: Sample) -> dict[str, float | None]:
    """Score the ranked documents, over questions with relevant ids, of systems that retrieve."""
    if not sample.retrieves or not sample.relevant:
        return dict.fromkeys(RETRIEVAL_METRICS)
    return {**judge_ranking(sample.ranked, sample.relevant)}

"""Scores. A judge scores one sample, `mean` reduces many; a sample that a metric does not apply to is None, never 0.

Every metric is the mean of its scored samples, also those that are ratios by nature: abstention precision scores
only the abstentions (1 where the question was unanswerable), abstention recall only the unanswerable questions.
So the bootstrap resamples questions, and numerator and denominator follow.

A question on which a system failed with an error scores like an abstention that nobody asked for: 0 in exact match,
F1, contains, coverage, abstention recall and retrieval; it is no abstention in abstention precision. A failure
never helps a system.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Scores = Mapping[str, float | None]

ANSWER_METRICS = ("exact_match", "f1", "contains")
ABSTENTION_METRICS = ("coverage", "abstention_precision", "abstention_recall")
CITATION_METRICS = ("citation_precision", "citation_recall")
RETRIEVAL_METRICS = ("recall@1", "recall@5", "recall@10", "ndcg@10")
METRICS = (*ANSWER_METRICS, *ABSTENTION_METRICS, *CITATION_METRICS, *RETRIEVAL_METRICS)

# What `retrieved` must reach down to; 20 leaves room for a deeper metric without asking again.
RANKED_DOCUMENTS = 20

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = frozenset(string.punctuation)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is judged: one question and what one system made of it.

    `generates` and `retrieves` tell what the system does at all; `cited` holds document ids in any order, `ranked`
    the retrieved documents, best first, each once.
    """

    answerable: bool
    gold: tuple[str, ...]
    relevant: tuple[str, ...]
    generates: bool
    retrieves: bool
    answer: str = ""
    abstained: bool = False
    failed: bool = False
    cited: tuple[str, ...] = ()
    ranked: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether the system gave an answer, right or wrong."""
        return self.generates and not self.abstained and not self.failed


def judge(sample: Sample) -> dict[str, float | None]:
    """Score one sample by every metric; None where the metric does not apply to it."""
    return {
        **_judge_answer(sample),
        **_judge_abstention(sample),
        **_judge_citations(sample),
        **_judge_retrieval(sample),
    }


def mean(scores: Iterable[float | None]) -> float | None:
    """Reduce: the mean over what was scored, None where nothing was."""
    scored = [score for score in scores if score is not None]
    return sum(scored) / len(scored) if scored else None


def _judge_answer(sample: Sample) -> dict[str, float | None]:
    """Exact match, F1 and contains, over answerable questions; an abstention or a failure scores 0."""
    judges: dict[str, Callable[[str, Sequence[str]], float]] = {
        "exact_match": exact_match,
        "f1": f1,
        "contains": contains,
    }
    if not sample.generates or not sample.answerable or not sample.gold:
        return dict.fromkeys(ANSWER_METRICS)
    return {name: score(sample.answer, sample.gold) if sample.answered else 0.0 for name, score in judges.items()}


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
    """Cited documents against the relevant ones, over answered questions that have some.

    Precision is the share of cited documents that are relevant, recall the share of relevant documents that are
    cited; an answer that cites nothing although the system could scores 0 in both. The trap in the names: this
    compares documents, it does not check that the cited text supports the answer.
    """
    if not sample.answered or not sample.retrieves or not sample.relevant:
        return dict.fromkeys(CITATION_METRICS)
    cited, relevant = set(sample.cited), set(sample.relevant)
    hits = len(cited & relevant)
    return {"citation_precision": hits / len(cited) if cited else 0.0, "citation_recall": hits / len(relevant)}


def _judge_retrieval(sample: Sample) -> dict[str, float | None]:
    """recall@k and nDCG@10 of the ranked documents, over questions with relevant ids.

    Recall@k is the share of relevant documents among the first k (TREC's sense, not success@k). nDCG has gain 1 for
    every relevant document and discount log2(rank + 1) (Jarvelin and Kekalainen 2002).
    """
    if not sample.retrieves or not sample.relevant:
        return dict.fromkeys(RETRIEVAL_METRICS)
    if not sample.ranked:
        return dict.fromkeys(RETRIEVAL_METRICS, 0.0)
    import ir_measures
    from ir_measures import R, nDCG

    measures = {"recall@1": R @ 1, "recall@5": R @ 5, "recall@10": R @ 10, "ndcg@10": nDCG @ 10}
    # trec_eval orders by score and breaks ties by id, so the rank itself is handed over as the score.
    run = {"q": {document: float(-rank) for rank, document in enumerate(sample.ranked)}}
    qrels = {"q": dict.fromkeys(sample.relevant, 1)}
    values = {m.measure: m.value for m in ir_measures.pytrec_eval.iter_calc(list(measures.values()), qrels, run)}
    return {name: float(values[measure]) for name, measure in measures.items()}


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation, drop the articles, squeeze white space: SQuAD's order and rules."""
    bare = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 where the normalised answer equals a normalised gold answer (Rajpurkar et al. 2016)."""
    return max(float(normalize_answer(answer) == normalize_answer(right)) for right in _comparable(gold))


def f1(answer: str, gold: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall against the best gold answer, as SQuAD v2's script defines it.

    Where either side has no token after normalisation, the score is 1 if both have none, else 0.
    """
    tokens = normalize_answer(answer).split()
    return max(_token_f1(tokens, normalize_answer(right).split()) for right in _comparable(gold))


def contains(answer: str, gold: Sequence[str]) -> float:
    """1 where the tokens of a normalised gold answer stand in the normalised answer, whole and in a row.

    Lenient towards answers in a sentence, and for the same reason easy to please with a long one.
    """
    tokens = f" {normalize_answer(answer)} "
    return max(float(bool(right) and f" {right} " in tokens) for right in map(normalize_answer, _comparable(gold)))


def _comparable(gold: Sequence[str]) -> Sequence[str]:
    """Gold answers that are something after normalisation; like the official script, [""] where none is."""
    return [right for right in gold if normalize_answer(right)] or [""]


def _token_f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    common = sum((Counter(answer) & Counter(gold)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(answer), common / len(gold)
    return 2 * precision * recall / (precision + recall)

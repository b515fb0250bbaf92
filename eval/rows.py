"""The row: what one system made of one question, as it stands in `results.jsonl`."""

import math
from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict

from eval.metrics import DEAR_METRICS, RANKED_DOCUMENTS, Sample, judge, judge_trust
from eval.qaset import Question
from eval.trust import Trust
from rag.cost import Prices, question_cost
from rag.datatypes import Answer, ScoredChunk, Usage, Verdict


class Record(BaseModel):
    """A frozen record on disk. Keys of later versions are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CitedSpan(Record):
    """A source of an answer; `span` is a half-open range of characters in the document."""

    document_id: str
    span: tuple[int, int]
    text: str


class RankedDocument(Record):
    """A retrieved document with the score of its best chunk."""

    document_id: str
    score: float | None


class Tokens(Record):
    """Tokens used; `cached` ones count in `prompt` too."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


class Work(Record):
    """What the machine did for a question: CPU seconds over all threads, and joules where its counters can be read."""

    cpu_seconds: float
    cores: int
    joules: float | None = None


class Row(Record):
    """What one system made of one question. `seconds` are those of the answering alone, `cost` US dollars.

    `human_right` is a person's verdict that came with the answer, `usage_estimated` says that the tokens were reckoned
    from the texts. A `recorded` answer was given elsewhere: its `seconds` mean nothing.

    `system_fingerprint` covers the system, its settings, weights and corpus, `fingerprint` the question as well.
    `work` is None where nobody measured it, as for recorded answers.
    `unattainable` says that it abstained because no answer at all could be given within the risk asked for.
    `answer` is empty where the system abstained, failed (`error` says how) or only retrieves. `original_answers` are
    those that were right before a counterfactual set rewrote its documents. `trust` follows from the scores.
    """

    system: str
    question_id: str
    question: str
    answerable: bool
    gold: tuple[str, ...]
    original_answers: tuple[str, ...] = ()
    relevant: tuple[str, ...]
    generates: bool
    retrieves: bool
    answer: str = ""
    abstained: bool = False
    unattainable: bool = False
    reason: str = ""
    confidence: float | None = None
    signals: dict[str, float | None] = {}
    citations: tuple[CitedSpan, ...] = ()
    retrieved: tuple[RankedDocument, ...] = ()
    evidence_tokens: int = 0
    finish_reason: str = ""
    scores: dict[str, float | None] = {}
    trust: Trust | None = None
    usage: Tokens = Tokens()
    seconds: float = 0.0
    timings: dict[str, float | None] = {}
    work: Work | None = None
    cost: float | None = None
    error: str | None = None
    human_right: bool | None = None
    usage_estimated: bool = False
    recorded: bool = False
    system_fingerprint: str
    fingerprint: str

    @property
    def failed(self) -> bool:
        """Whether the system came to an error instead of an answer or an abstention."""
        return self.error is not None

    @property
    def sample(self) -> Sample:
        """What the judges read."""
        return Sample(
            answerable=self.answerable,
            gold=self.gold,
            relevant=self.relevant,
            generates=self.generates,
            retrieves=self.retrieves,
            question=self.question,
            answer=self.answer,
            abstained=self.abstained,
            failed=self.failed,
            cited=tuple(citation.document_id for citation in self.citations),
            cited_texts=tuple(citation.text for citation in self.citations),
            ranked=tuple(document.document_id for document in self.retrieved),
            original=self.original_answers,
        )

    def with_answer(self, answer: Answer) -> Self:
        """Return the row with what the system answered, made fit for JSON."""
        return self.model_copy(
            update={
                "answer": "" if answer.abstained else printable(answer.text),
                "abstained": answer.abstained,
                "unattainable": answer.verdict is Verdict.UNATTAINABLE,
                "reason": answer.reason,
                "confidence": _finite(answer.confidence),
                "signals": _all_finite(answer.signals),
                "citations": tuple(
                    CitedSpan(document_id=c.document_id, span=c.span, text=printable(c.text)) for c in answer.citations
                ),
                "retrieved": rank_documents(answer.retrieved),
                "evidence_tokens": answer.evidence_tokens,
                "finish_reason": answer.finish_reason,
                "usage": Tokens(
                    prompt=answer.usage.prompt, cached=answer.usage.cached, completion=answer.usage.completion
                ),
                "timings": _all_finite(answer.timings),
            }
        )

    def judged(self, prices: Prices) -> Self:
        """Return the row with its scores and its cost, by the scorers and prices of now.

        Scores that a model gave are kept: they belong to the answer, which does not change.
        """
        sample = self.sample
        scores = judge(sample) | {name: self.scores.get(name) for name in DEAR_METRICS}
        return self.model_copy(
            update={"scores": scores, "trust": judge_trust(sample, scores), "cost": self._cost(prices)}
        )

    def _cost(self, prices: Prices) -> float | None:
        if self.failed:
            return None
        usage = Usage(self.usage.prompt, self.usage.cached, self.usage.completion)
        # An abstention before the model was asked has no time of generating, and rightly no tokens.
        generated = self.generates and (not self.abstained or bool(self.timings.get("generate")))
        # A question has the machine to itself for its share of the cores; another may use the rest meanwhile.
        seconds = self.work.cpu_seconds / self.work.cores if self.work else self.seconds
        return question_cost(prices, seconds=seconds, usage=usage, generated=generated)


def empty_row(
    question: Question, system: str, *, generates: bool, retrieves: bool, fingerprints: tuple[str, str]
) -> Row:
    """Return the row of a question before it is asked; `fingerprints` are the system's and the row's."""
    return Row(
        system=system,
        question_id=question.id,
        question=question.question,
        answerable=question.answerable,
        gold=question.answers,
        original_answers=question.original_answers,
        relevant=question.relevant,
        generates=generates,
        retrieves=retrieves,
        system_fingerprint=fingerprints[0],
        fingerprint=fingerprints[1],
    )


def rank_documents(chunks: Sequence[ScoredChunk], depth: int = RANKED_DOCUMENTS) -> tuple[RankedDocument, ...]:
    """Rank documents by their best chunk: the first that appears, as chunks come best first."""
    best: dict[str, float] = {}
    for scored in chunks:
        best.setdefault(scored.chunk.document_id, scored.score)
    ranked = [RankedDocument(document_id=id_, score=_finite(score)) for id_, score in best.items()]
    return tuple(ranked[:depth])


def printable(text: str) -> str:
    """Replace half surrogates, which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode()


def _finite(number: float | None) -> float | None:
    return float(number) if number is not None and math.isfinite(number) else None


def _all_finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(number) for name, number in numbers.items()}

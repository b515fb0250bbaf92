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


class SaidSentence(Record):
    """A sentence of an answer: its characters, and the places of its sources in the row's `citations`."""

    span: tuple[int, int]
    citations: tuple[int, ...]
    score: float
    supported: bool


class RankedDocument(Record):
    """A retrieved document with the score of its best chunk."""

    document_id: str
    score: float | None


class Tokens(Record):
    """Tokens used; `cached` ones count in `prompt` too."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


class AskedTokens(Record):
    """One model that a cascade asked: its tokens, whether an endpoint bills them, and how sure it was.

    `error` says why it could not be asked, "" where it could.
    """

    model: str
    usage: Tokens
    billed: bool
    confidence: float | None = None
    error: str = ""


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
    Of a cascade `model` is the one that gave the answer and `asked` are all that were asked.
    `answer` is empty where the system abstained, failed (`error` says how) or only retrieves. `original_answers` are
    those that were right before a counterfactual set rewrote its documents. `trust` follows from the scores, of which
    `scored_by` names the model that gave those which take one.
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
    scored_by: dict[str, str] = {}
    answer: str = ""
    abstained: bool = False
    unattainable: bool = False
    reason: str = ""
    confidence: float | None = None
    signals: dict[str, float | None] = {}
    citations: tuple[CitedSpan, ...] = ()
    sentences: tuple[SaidSentence, ...] = ()
    retrieved: tuple[RankedDocument, ...] = ()
    evidence_tokens: int = 0
    finish_reason: str = ""
    scores: dict[str, float | None] = {}
    trust: Trust | None = None
    usage: Tokens = Tokens()
    seconds: float = 0.0
    timings: dict[str, float | None] = {}
    work: Work | None = None
    model: str = ""
    asked: tuple[AskedTokens, ...] = ()
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
            pointers=tuple(sentence.citations for sentence in self.sentences),
            ranked=tuple(document.document_id for document in self.retrieved),
            original=self.original_answers,
        )

    def with_answer(self, answer: Answer, endpoints: frozenset[str] = frozenset()) -> Self:
        """Return the row with what the system answered, made fit for JSON; `endpoints` bill what their models read."""
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
                "sentences": _said(answer),
                "retrieved": rank_documents(answer.retrieved),
                "evidence_tokens": answer.evidence_tokens,
                "finish_reason": answer.finish_reason,
                "usage": _tokens(answer.usage),
                "model": answer.model,
                "asked": tuple(
                    AskedTokens(
                        model=asked.model,
                        usage=_tokens(asked.usage),
                        billed=asked.model in endpoints,
                        confidence=_finite(asked.confidence),
                        error=printable(asked.error),
                    )
                    for asked in answer.asked
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
        usage = _usage(self.usage)
        # An abstention before the model was asked has no time of generating, and rightly no tokens.
        generated = self.generates and (not self.abstained or bool(self.timings.get("generate")))
        if self.asked:  # prices by the token are those of the cascade's endpoint
            billed = [asked for asked in self.asked if asked.billed and not asked.error]
            usage, generated = sum((_usage(asked.usage) for asked in billed), Usage()), generated and bool(billed)
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
    """Rank documents by their best chunk: the first that appears, as chunks come best first.

    A document whose chunk says the same as one that was found comes right behind that one's.
    """
    best: dict[str, float] = {}
    for scored in chunks:
        for chunk in (scored.chunk, *scored.also_in):
            best.setdefault(chunk.document_id, scored.score)
    ranked = [RankedDocument(document_id=id_, score=_finite(score)) for id_, score in best.items()]
    return tuple(ranked[:depth])


def _said(answer: Answer) -> tuple[SaidSentence, ...]:
    place = {citation.index: at for at, citation in enumerate(answer.citations)}
    return tuple(
        SaidSentence(
            span=sentence.span,
            citations=tuple(place[index] for index in sentence.citations),
            score=sentence.score,
            supported=sentence.supported,
        )
        for sentence in answer.sentences
    )


def printable(text: str) -> str:
    """Replace half surrogates, which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode()


def _tokens(usage: Usage) -> Tokens:
    return Tokens(prompt=usage.prompt, cached=usage.cached, completion=usage.completion)


def _usage(tokens: Tokens) -> Usage:
    return Usage(tokens.prompt, tokens.cached, tokens.completion)


def _finite(number: float | None) -> float | None:
    return float(number) if number is not None and math.isfinite(number) else None


def _all_finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(number) for name, number in numbers.items()}

"""The straight path from a question to an answer with citations, or an honest abstention."""

import time
from collections.abc import Generator as Stream
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from rag.abstain import Abstention, generation_signals, retrieval_signals
from rag.cite import cite
from rag.datatypes import Answer, Delta, FinishReason, Message, Piece, Sampling, ScoredChunk, Usage, Verdict
from rag.errors import InvalidRequest
from rag.evidence import Evidence, recent_turns, select_evidence, standalone_question
from rag.prompt import Prompt
from rag.protocols import Generator, Reranker, Retriever, TokenCounter

ABSTENTION_TEXT = "The documents do not say."

# An answer is judged on its first tokens, before any of it is shown, so that nothing shown is taken back. Most
# answers are shorter than this; at 30 tokens a second a longer one is held back for half a second.
JUDGED_TOKENS = 16

MAX_QUESTION_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class AskOptions:
    """What one request may change. None takes the pipeline's own setting."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    abstain: bool | None = None
    passages: int | None = None


class RagPipeline:
    """Answers questions. Without a retriever it is closed-book: the model answers from memory, citing nothing.

    `abstention=None` gives every answer. Collaborators are passed in; `rag.build` assembles the usual ones.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        counter: TokenCounter,
        prompt: Prompt,
        retriever: Retriever | None = None,
        reranker: Reranker | None = None,
        abstention: Abstention | None = None,
        candidates: int = 100,
        passages: int = 1,
        evidence_tokens: int = 1024,
        history_tokens: int = 512,
        max_tokens: int = 96,
    ) -> None:
        self._generator = generator
        self._counter = counter
        self._prompt = prompt
        self._retriever = retriever
        self._reranker = reranker
        self._abstention = abstention
        self._candidates = candidates
        self._passages = passages
        self._evidence_tokens = evidence_tokens
        self._history_tokens = history_tokens
        self._max_tokens = max_tokens

    def answer(self, question: str, history: Sequence[Message] = (), options: AskOptions = AskOptions()) -> Answer:
        """Answer one question. `history` holds the earlier turns, oldest first.

        Raises `InvalidRequest` for an empty question, `PromptTooLong` where it does not fit the model.
        """
        for delta in self.stream(question, history, options):
            if delta.answer is not None:
                return delta.answer
        raise AssertionError("a stream ends with an answer")

    def stream(
        self,
        question: str,
        history: Sequence[Message] = (),
        options: AskOptions = AskOptions(),
    ) -> Stream[Delta, None, None]:
        """Answer one question piece by piece. The last delta, and only it, carries the whole `answer`.

        Text comes once the answer is judged worth giving; until then empty deltas come, at which the iterator can be
        closed to cancel.
        """
        clock = _Clock()
        retrieved = self._retrieve(question, history, clock)
        with clock.stage("evidence"):
            evidence = self._select(retrieved, options)
            signals = retrieval_signals(question, evidence.passages)
            draft = Answer("", retrieved=tuple(retrieved), signals=signals, evidence_tokens=evidence.tokens)
        judge = self._judge(options)
        if reason := self._too_little_found(evidence, signals, judge):
            yield Delta(answer=self._abstain(draft, reason, judge, clock))
            return
        with clock.stage("prompt"):
            turns = recent_turns(history, budget=self._history_tokens, count=self._counter.count)
            messages = self._prompt.messages(question, evidence.passages, turns)
        yield from self._generate(question, messages, evidence, draft, judge, options, clock)

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        """Return the ranked chunks alone, best first; empty for a closed-book pipeline."""
        return self._retrieve(question, history, _Clock())

    def _retrieve(self, question: str, history: Sequence[Message], clock: "_Clock") -> list[ScoredChunk]:
        if not question.strip():
            raise InvalidRequest("the question is empty")
        if len(question) > MAX_QUESTION_CHARACTERS:
            raise InvalidRequest(f"the question is longer than {MAX_QUESTION_CHARACTERS} characters")
        if self._retriever is None:
            return []
        with clock.stage("retrieve"):
            query = standalone_question(question, history)
            retrieved = self._retriever.retrieve(query, self._candidates)
        if self._reranker is not None:
            with clock.stage("rerank"):
                retrieved = self._reranker.rerank(query, retrieved)
        return retrieved

    def _select(self, retrieved: Sequence[ScoredChunk], options: AskOptions) -> Evidence:
        return select_evidence(
            retrieved,
            passages=options.passages or self._passages,
            budget=self._evidence_tokens,
            cost=lambda passage: self._counter.count(self._prompt.passage_text(passage)),
        )

    def _judge(self, options: AskOptions) -> Abstention | None:
        """Return what decides on this answer; nothing does where the caller or the pipeline switched it off."""
        return None if options.abstain is False or self._retriever is None else self._abstention

    def _too_little_found(self, evidence: Evidence, signals: Mapping[str, float], judge: Abstention | None) -> str:
        """Return why reading on is useless: no passage, or no answer from these could be trusted enough."""
        if self._retriever is not None and not evidence.passages:
            return "no passage was found"
        if judge is not None and not judge.trusts(signals):
            return "no passage is close enough to the question"
        return ""

    def _generate(
        self,
        question: str,
        messages: Sequence[Message],
        evidence: Evidence,
        draft: Answer,
        judge: Abstention | None,
        options: AskOptions,
        clock: "_Clock",
    ) -> Stream[Delta, None, None]:
        sampling = Sampling(
            options.max_tokens or self._max_tokens, options.temperature, options.top_p, options.seed, options.stop
        )
        written, withheld = _Written(), False
        with closing(self._generator.stream(messages, sampling)) as pieces, clock.stage("generate"):
            for piece in pieces:
                written.add(piece, clock)
                if not written.ready:
                    yield Delta()
                    continue
                if not written.judged:
                    written.judged = True
                    draft = self._judged(question, draft, written, evidence, judge)
                    if withheld := judge is not None and not judge.trusts(draft.signals):
                        break
                yield Delta(written.take())
        draft = replace(draft, usage=written.usage, finish_reason=written.finish_reason)
        if withheld:
            yield Delta(answer=self._abstain(draft, "the answer found is too unsure", judge, clock))
            return
        with clock.stage("cite"):
            text = written.text.strip()
            citations = cite(question, text, evidence.passages)
        yield Delta(answer=replace(draft, text=text, citations=citations, timings=clock.timings()))

    def _judged(
        self, question: str, draft: Answer, written: "_Written", evidence: Evidence, judge: Abstention | None
    ) -> Answer:
        signals = {**draft.signals, **generation_signals(question, written.text, evidence.passages, written.logprobs)}
        return replace(draft, signals=signals, confidence=judge.confidence(signals) if judge else None)

    def _abstain(self, draft: Answer, reason: str, judge: Abstention | None, clock: "_Clock") -> Answer:
        confidence = judge.confidence(draft.signals) if judge else None
        return replace(draft, verdict=Verdict.ABSTAINED, reason=reason, confidence=confidence, timings=clock.timings())


@dataclass
class _Written:
    """What the model has written so far, and how much of it has been shown."""

    text: str = ""
    shown: int = 0
    tokens: int = 0
    judged: bool = False
    logprobs: list[float] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    finish_reason: FinishReason = "cancelled"
    finished: bool = False

    @property
    def ready(self) -> bool:
        """Whether there is enough to judge, or to go on showing."""
        return self.judged or self.finished or self.tokens >= JUDGED_TOKENS

    def add(self, piece: Piece, clock: "_Clock") -> None:
        if piece.tokens and not self.tokens:
            clock.mark("read", since="generate")
        self.text = (self.text + piece.text).lstrip() if not self.shown else self.text + piece.text
        self.tokens += piece.tokens
        if piece.logprob is not None and len(self.logprobs) < JUDGED_TOKENS:
            self.logprobs.append(piece.logprob)
        if piece.usage is not None:
            self.usage = piece.usage
        if piece.finish_reason is None:
            self.usage = replace(self.usage, completion=max(self.tokens, self.usage.completion))
        else:  # what the backend says of the whole is believed; none told stays none
            self.finished, self.finish_reason = True, piece.finish_reason

    def take(self) -> str:
        """Return the text that is new since the last call."""
        new, self.shown = self.text[self.shown :], len(self.text)
        return new


class _Clock:
    """Seconds by stage. `read` lies within `generate`: the time until the first token of the answer."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._since: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._since[name] = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = time.perf_counter() - self._since[name]

    def mark(self, name: str, *, since: str) -> None:
        self._seconds[name] = time.perf_counter() - self._since[since]

    def timings(self) -> dict[str, float]:
        return {**self._seconds, "total": time.perf_counter() - self._began}

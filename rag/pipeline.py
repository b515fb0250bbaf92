"""The straight path from a question to an answer with citations, or an honest abstention."""

from collections.abc import Generator as Stream
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal

from rag.abstain import (
    ABSTENTION_TEXT,
    UNATTAINABLE_TEXT,
    Abstention,
    decline_signal,
    generation_signals,
    retrieval_signals,
)
from rag.asking import Asking, readings_of, sampling_of
from rag.cite import cite, is_supported, support
from rag.clock import Clock
from rag.closest import closest
from rag.compose import PASSAGES, compose, ended
from rag.datatypes import Answer, Delta, Message, Mode, Piece, ScoredChunk, Usage, Verdict
from rag.deliberation import Deliberation
from rag.draft import Draft
from rag.evidence import Evidence, recent_turns, select_evidence
from rag.filter import EVERYTHING, View
from rag.finder import Finder, Found, drained
from rag.followup import FollowUp
from rag.form import asks_at_length
from rag.hops import DOUBT, hop, may_need_two
from rag.judging import Judging
from rag.options import AS_SET, AskOptions
from rag.prompt import Prompt
from rag.protocols import Embedder, Generator, Reranker, Retriever, TokenCounter
from rag.reading import Reading, freed, given_up, read_apart, used
from rag.rewrite import Rewriter
from rag.window import nearest_window

# English takes 1.3 to 1.5 tokens a word.
TOKENS_A_WORD = 1.5


def said(answer: Answer) -> str:
    """Return what a reader is told: the answer, or in its place the fixed sentence that there is none."""
    if answer.verdict is Verdict.UNATTAINABLE:
        return UNATTAINABLE_TEXT
    return ABSTENTION_TEXT if answer.abstained else answer.text


class RagPipeline:
    """Answers questions. Without a retriever it is closed-book: the model answers from memory, citing nothing.

    `passages` are read in a `mode`: `each` in a prompt of its own until the model declines one with a probability of at
    most `enough`, or all in one `joint` prompt. Of each, `window` tokens are read, those nearest to the question; 0
    reads it whole. Where all are declined, up to `hops` further searches follow (`rag.hops`), none that begins after
    `hop_seconds`. `abstention` estimates whether an answer is right and, unless `abstain` is false, withholds the
    unsure ones: below its threshold, or below the one that keeps the share of wrong answers at `risk`. Without an
    estimate every answer is given. Questions that ask for more than a phrase get a composed answer of at most `words`
    words (`rag.compose`): by their form, all or none, as `long` says; others are thought over as `deliberation` says.
    Collaborators are passed in; `rag.build` assembles the usual ones.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        counter: TokenCounter,
        prompt: Prompt,
        retriever: Retriever | None = None,
        reranker: Reranker | None = None,
        rewriter: Rewriter | None = None,
        abstention: Abstention | None = None,
        abstain: bool = True,
        risk: float | None = None,
        deliberation: Deliberation | None = None,
        embedder: Embedder | None = None,
        long: Literal["auto", "always", "never"] = "never",
        words: int = 100,
        drop_unsupported: bool = True,
        candidates: int = 100,
        passages: int = 1,
        mode: Mode = "each",
        enough: float = 0.3,
        window: int = 0,
        hops: int = 0,
        hop_seconds: float = 10.0,
        evidence_tokens: int = 1024,
        history_tokens: int = 512,
        max_tokens: int = 96,
    ) -> None:
        self._generator = generator
        self._counter = counter
        self._prompt = prompt
        self._finder = Finder(retriever, reranker, rewriter, candidates=candidates)
        tested = AskOptions(max_tokens=max_tokens, passages=passages, mode=mode)
        self._judging = Judging(
            abstention if retriever is not None else None, abstain=abstain, risk=risk, tested=tested
        )
        self._deliberation = deliberation
        self._embedder = embedder
        self._long = long
        self._words = words
        self._drop_unsupported = drop_unsupported
        self._passages = passages
        self._mode = mode
        self._enough = enough
        self._window = window
        self._hops = hops
        self._hop_seconds = hop_seconds
        self._evidence_tokens = evidence_tokens
        self._history_tokens = history_tokens
        self._max_tokens = max_tokens

    def answer(self, question: str, history: Sequence[Message] = (), options: AskOptions = AS_SET) -> Answer:
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
        options: AskOptions = AS_SET,
        found: Found | None = None,
    ) -> Stream[Delta, None, None]:
        """Answer one question piece by piece. The last delta, and only it, carries the whole `answer`.

        `found` is what `find` returned to the same question, where it was asked already.

        Text comes once the answer is judged worth giving; until then empty deltas come, at which the iterator can be
        closed to cancel. What was used by then is the `usage` of the last one.
        """
        clock, judge = Clock(), self._judging.judge(options)
        if found is None:
            asked, spent = yield from self._finder.understand(question, history, clock, options.owner)
        else:
            asked, spent = found.asked, found.spent
        passages = None if found is None else found.passages
        with closing(self._answered(asked, history, options, passages, judge, clock)) as deltas:
            for delta in deltas:
                yield _with(spent, delta)

    def _answered(
        self,
        asked: FollowUp,
        history: Sequence[Message],
        options: AskOptions,
        found: Sequence[ScoredChunk] | None,
        judge: Abstention | None,
        clock: Clock,
    ) -> Stream[Delta, None, None]:
        """Answer a question of its own, of which `history` holds what was said before."""
        question = asked.question
        retrieved = self._finder.find(question, options.view, clock) if found is None else found
        with clock.stage("evidence"):
            evidence = self._select(question, retrieved, options)
            signals = retrieval_signals(question, evidence.passages)
            target = self._judging.target(options, judge)
            answer = Answer("", retrieved=tuple(retrieved), signals=signals, target=target, question=question)
        more = found is None and self._hops > 0 and may_need_two(question)
        if reason := self._hopeless(evidence, signals, judge, more=more):
            yield Delta(answer=self._refuse(question, answer, reason, judge, clock))
            return
        with clock.stage("prompt"):
            said = history[len(history) - asked.turns :]
            turns = recent_turns(said, budget=self._history_tokens, count=self._counter.count)
            ask, mode = self._asked(question, turns, evidence, options), options.mode or self._mode
        with clock.stage("generate"), freed(readings_of(evidence, mode, ask)) as readings:
            reading = yield from read_apart(readings, enough=self._enough)
            if found is None:
                reading, answer = yield from self._read_on(reading, readings, answer, options, ask, clock)
            answer = self._read(question, answer, reading, readings)
            if judge is not None and not judge.trusts(answer.signals):
                yield Delta(answer=self._refuse(question, answer, "no passage read holds the answer", judge, clock))
                return
            words = self._words_of(question, options)
            if not words:
                answer = yield from self._write(question, answer, reading, readings, ask, judge, clock)
        if words:
            answer = self._composed(question, answer, words, options, clock)
        if judge is not None and not judge.trusts(answer.signals):
            yield Delta(answer=self._refuse(question, answer, "the answer found is too unsure", judge, clock))
            return
        if not words:
            with clock.stage("cite"):
                sentences, citations = cite(question, answer.text, reading.passages, self._embedder)
            answer = replace(answer, sentences=sentences, citations=citations)
        yield Delta(answer=replace(answer, timings=clock.timings()))

    def retrieve(self, question: str, history: Sequence[Message] = (), view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return the ranked chunks alone, best first; empty for a closed-book pipeline."""
        return list(drained(self.find(question, history, AskOptions(view=view), Clock())).passages)

    def find(
        self, question: str, history: Sequence[Message], options: AskOptions, clock: Clock
    ) -> Stream[Delta, None, Found]:
        """Return what a question is taken to ask and the passages for it, yielding while the model is asked about that.

        `stream` goes on from there, of this pipeline or of one with another model.
        """
        asked, spent = yield from self._finder.understand(question, history, clock, options.owner)
        return Found(asked, tuple(self._finder.find(asked.question, options.view, clock)), spent)

    def _select(self, question: str, retrieved: Sequence[ScoredChunk], options: AskOptions) -> Evidence:
        passages = options.passages or self._passages
        return select_evidence(
            self._cut(question, retrieved[:passages]),
            passages=passages,
            budget=self._evidence_tokens,
            cost=lambda passage: self._counter.count(self._prompt.passage_text(passage)),
        )

    def _cut(self, question: str, passages: Sequence[ScoredChunk]) -> Sequence[ScoredChunk]:
        """Return what is read of passages: all, or the part nearest to the question."""
        if not self._window:
            return passages
        return [nearest_window(question, p, tokens=self._window, count=self._counter.count) for p in passages]

    def _hopeless(
        self, evidence: Evidence, signals: Mapping[str, float], judge: Abstention | None, *, more: bool
    ) -> str:
        """Return why reading on is useless: nothing may be answered, nothing was found, or nothing near enough.

        What is near enough may come yet where `more` may be searched for.
        """
        if judge is not None and not judge.attainable:
            return "the share of wrong answers asked for is not attainable with this model and these documents"
        if self._finder.has_documents and not evidence.passages:
            return "no passage was found"
        if judge is not None and not more and not judge.trusts(signals):
            return "no passage is close enough to the question"
        return ""

    def _asked(self, question: str, turns: Sequence[Message], evidence: Evidence, options: AskOptions) -> Asking:
        """Return what asks the model the question over some passages."""
        decline = self._prompt.decline if evidence.passages else ""
        sampling = sampling_of(options, max_tokens=self._max_tokens, decline=decline)
        return Asking(self._generator, self._prompt, question, turns, sampling)

    def _read_on(
        self,
        reading: Reading,
        readings: list[Reading],
        answer: Answer,
        options: AskOptions,
        ask: Asking,
        clock: Clock,
    ) -> Stream[Delta, None, tuple[Reading, Answer]]:
        """Search again for what those passages do not say that the model declined, and read what that finds.

        Each is read together with the one that led to it, as long as steps and seconds last.
        """
        lead: Sequence[ScoredChunk] = answer.retrieved
        for _ in range(self._hops if may_need_two(answer.question) else 0):
            if (reading.decline or 0.0) <= max(self._enough, DOUBT) or clock.elapsed() > self._hop_seconds:
                break
            with clock.stage("hop"):
                read = {passage.chunk.id for other in readings for passage in other.passages}
                led = hop(answer.question, lead, lambda text: self._finder.search(text, options.view), read)
            if not led:
                break
            reading.give_up()  # the model may hold one sequence alone
            known = {passage.chunk.id for passage in answer.retrieved}
            lead = [step.passage for step in led]
            answer = replace(answer, retrieved=(*answer.retrieved, *(p for p in lead if p.chunk.id not in known)))
            for passages in led[: options.passages or self._passages]:
                step = self._cut(answer.question, passages)
                tokens = sum(self._counter.count(self._prompt.passage_text(passage)) for passage in step)
                if tokens <= self._evidence_tokens:
                    readings.append(Reading(step, ask, tokens=tokens))
            reading = yield from read_apart(readings, enough=self._enough)
        return reading, answer

    def _read(self, question: str, answer: Answer, reading: Reading, readings: Sequence[Reading]) -> Answer:
        """Note what was read to come to `reading`, and what that says about the answer to come."""
        return replace(
            answer,
            signals={**retrieval_signals(question, reading.passages), **decline_signal(reading.decline)},
            evidence_tokens=sum(other.tokens for other in readings if other.begun),
            passages_read=sum(len(other.passages) for other in readings if other.begun),
            usage=used(readings),
        )

    def _write(
        self,
        question: str,
        answer: Answer,
        reading: Reading,
        readings: Sequence[Reading],
        ask: Asking,
        judge: Abstention | None,
        clock: Clock,
    ) -> Stream[Delta, None, Answer]:
        """Write the answer, showing it once it is judged worth giving; break off where it is not."""
        pieces: Iterable[Piece] = reading.pieces()
        if self._deliberation is not None:
            pieces, agreement = yield from self._deliberation.consider(reading, readings, ask, clock)
            answer = replace(answer, signals={**answer.signals, "agreement": agreement})
        draft, before = Draft(), given_up(readings)
        for piece in pieces:
            draft.add(piece, clock)
            if not draft.ready:
                yield Delta(usage=draft.usage + before)
                continue
            if not draft.judged:
                draft.judged = True
                answer = self._judged(question, answer, draft, reading)
                if judge is not None and not judge.trusts(answer.signals):
                    break
            yield Delta(
                draft.take(lambda said: self._may_say(said, reading)),
                usage=draft.usage + before,
                confidence=answer.confidence,
            )
        usage = draft.usage + before
        return replace(answer, text=draft.shown.strip(), usage=usage, finish_reason=draft.finish_reason)

    def _may_say(self, sentence: str, reading: Reading) -> bool:
        if not self._drop_unsupported or not reading.passages:
            return True
        return is_supported(support("", sentence, reading.passages, self._embedder))

    def _words_of(self, question: str, options: AskOptions) -> int:
        """Return how many words a composed answer may have, 0 where the model is to write a short one."""
        if not self._finder.has_documents or self._embedder is None:
            return 0
        wanted = self._long == "always" or (self._long == "auto" and asks_at_length(question))
        words = options.words if options.words is not None else self._words if wanted else 0
        if words and options.max_tokens is not None:
            return min(words, max(1, int(options.max_tokens / TOKENS_A_WORD)))
        return words

    def _composed(self, question: str, answer: Answer, words: int, options: AskOptions, clock: Clock) -> Answer:
        assert self._embedder is not None  # _words_of saw to it
        with clock.stage("compose"):
            read = answer.retrieved[: options.passages or PASSAGES]
            composed = compose(question, read, words=words, embedder=self._embedder)
            text, (sentences, citations) = ended(composed, options.stop)
            signals = {**answer.signals, **generation_signals(question, text, read, ())}
        return replace(
            answer,
            text=text,
            sentences=sentences,
            citations=citations,
            signals=signals,
            confidence=self._judging.confidence(signals),
        )

    def _judged(self, question: str, answer: Answer, draft: Draft, reading: Reading) -> Answer:
        signals = {**answer.signals, **generation_signals(question, draft.text, reading.passages, draft.logprobs)}
        return replace(answer, signals=signals, confidence=self._judging.confidence(signals))

    def _refuse(self, question: str, answer: Answer, reason: str, judge: Abstention | None, clock: Clock) -> Answer:
        """Return what is said in place of an answer: why there is none, and what comes closest."""
        return replace(
            answer,
            text="",
            sentences=(),
            citations=(),
            verdict=Verdict.ABSTAINED if judge is None or judge.attainable else Verdict.UNATTAINABLE,
            reason=reason,
            confidence=self._judging.confidence(answer.signals),
            closest=closest(question, answer.retrieved),
            timings=clock.timings(),
        )


def _with(spent: Usage, delta: Delta) -> Delta:
    """Return a delta whose usage counts what was spent before the question could be searched for, too."""
    usage = delta.usage and delta.usage + spent
    return replace(delta, usage=usage, answer=delta.answer and replace(delta.answer, usage=delta.answer.usage + spent))

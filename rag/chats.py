"""The routes of answers: chat completions, whole or streamed, and what people say of them."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rag import problems
from rag.access import key_of, view_of
from rag.api import ChatRequest, FeedbackRequest
from rag.budget import Ledger, charged
from rag.completion import (
    DONE,
    SILENT_SECONDS,
    STILL_THERE,
    EventStream,
    ask_options,
    completion,
    ending,
    event,
)
from rag.cost import Costs
from rag.datatypes import Answer, Delta, Usage
from rag.errors import FeedbackOff, SmallholdError
from rag.feedback import FeedbackBook, Opinion
from rag.jobs import Jobs
from rag.keys import Key
from rag.lanes import Job, JobCancelled
from rag.limits import ChatLimits
from rag.loader import Loader
from rag.replies import FeedbackKept, sent
from rag.service import Service, check_model
from rag.telemetry import Telemetry
from rag.traces import Traces

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ChatRoutes:
    """The routes as methods. What answers use in tokens is counted in `ledger`.

    `feedback` is None where none is taken, `traces` where none are made.
    """

    def __init__(
        self,
        loader: Loader,
        jobs: Jobs,
        telemetry: Telemetry,
        limits: ChatLimits,
        ledger: Ledger,
        feedback: FeedbackBook | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._loader = loader
        self._jobs = jobs
        self._telemetry = telemetry
        self._limits = limits
        self._ledger = ledger
        self._feedback = feedback
        self._traces = traces

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """Answer a question from the documents, at once or streamed."""
        service = self._loader.service()
        check_model(body.model, service.model)
        self._limits.check(body)
        key = key_of(request)
        options = ask_options(body, view_of(request, body.filter), owner="" if key is None else key.id)
        self._ledger.check(key)

        def begin() -> Iterator[Delta]:
            return self._loader.each(lambda now: now.pipeline.stream(body.question, body.history, options))

        traced = begin if self._traces is None else self._traces.of_answer(service.model, body, begin)
        job = self._jobs.write(request, lambda: charged(self._ledger, key, traced))
        deltas = self._noting_figures(job, service.costs)
        if not body.stream:
            answer = [delta.answer async for delta in deltas][-1]
            assert answer is not None  # _noting_figures saw to it
            whole = completion(answer, service.model, job.waited, service.costs)
            self._remember(whole.id, key, service, body, answer)
            return sent(whole)
        # What goes wrong before the model has taken the prompt, such as one that is too long or an endpoint that
        # refuses, still gets its status. What comes until then uses no tokens.
        first = await anext(deltas)
        while not first.text and first.answer is None and first.usage in (None, Usage()):
            first = await anext(deltas)
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        stream = EventStream(service.model, with_usage, service.costs)
        return StreamingResponse(
            self._events(
                stream, first, deltas, job, lambda answer: self._remember(stream.id, key, service, body, answer)
            ),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    async def feedback(self, request: Request, body: FeedbackRequest) -> Response:
        """Keep what somebody says of an answer that this server gave, where its settings allow that."""
        book, key = self._feedback, key_of(request)
        if book is None:
            raise FeedbackOff("this server takes no feedback", hint="The setting feedback.enabled allows it.")
        said = Opinion(body.rating, body.comment, body.right_answer) if body.rating else None
        job = self._jobs.quick(request, lambda: iter([book.rate(body.id, key, said)]))
        (kept,) = [kept async for kept in job]
        return sent(FeedbackKept(id=body.id, kept_until=kept))

    def _remember(self, id_: str, key: Key | None, service: Service, body: ChatRequest, answer: Answer) -> None:
        if self._feedback is not None:
            self._feedback.remember(id_, key, service.model, body.question, body.history, answer)

    async def _noting_figures(self, job: Job[Delta], costs: Costs | None) -> AsyncIterator[Delta]:
        """Pass on the deltas, of which the last one has the answer, and give the figures to the telemetry."""
        began = time.perf_counter()
        first_text: float | None = None
        answer: Answer | None = None
        async for delta in job:
            if delta.text and first_text is None:
                first_text = time.perf_counter() - began
            answer = delta.answer
            yield delta
        if answer is None:
            raise SmallholdError("the pipeline ended without an answer")
        self._telemetry.answered(answer, job.waited, first_text, None if costs is None else costs.of(answer))

    async def _events(
        self,
        stream: EventStream,
        first: Delta,
        rest: AsyncIterator[Delta],
        job: Job[Delta],
        remember: Callable[[Answer], None],
    ) -> AsyncIterator[bytes]:
        """The whole stream. Once it has begun, an error can only be told as an event; `[DONE]` then stays away."""
        yield stream.opening()
        spoke = time.monotonic()
        try:
            async for delta in _chain(first, rest):
                if delta.text:
                    yield stream.text(delta.text)
                    spoke = time.monotonic()
                elif time.monotonic() - spoke >= SILENT_SECONDS:
                    yield STILL_THERE
                    spoke = time.monotonic()
                if delta.answer is not None:
                    text, annotations = ending(delta.answer, stream.sent)
                    if text:
                        yield stream.text(text)
                    remember(delta.answer)
                    yield stream.finish(delta.answer, annotations, job.waited)
                    if stream.with_usage:
                        yield stream.usage(delta.answer)
        except JobCancelled:
            return
        except SmallholdError as error:
            yield event(problems.body_of(error).model_dump())
            return
        except Exception:
            logger.exception("a stream failed")
            yield event(problems.body_of(SmallholdError("something failed inside the server")).model_dump())
            return
        yield DONE


async def _chain(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    yield first
    async for item in rest:
        yield item

"""The routes that need the model or the index: chat completions, embeddings, search, models, documents, feedback."""

import asyncio
import base64
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rag import problems
from rag.access import BEARER, key_of, view_of
from rag.api import ChatRequest, EmbeddingsRequest, FeedbackRequest, SearchRequest
from rag.budget import Ledger, charged
from rag.cite import elsewhere
from rag.completion import DONE, EventStream, ask_options, completion, ending, event
from rag.cost import Costs
from rag.datatypes import Answer, Delta, ScoredChunk
from rag.errors import FeedbackOff, InvalidRequest, Overloaded, SmallholdError, UnknownDocument, UnknownModel
from rag.feedback import FeedbackBook, Opinion
from rag.filter import View
from rag.keys import Key
from rag.lanes import Job, JobCancelled, Lane
from rag.limits import ChatLimits
from rag.loader import Loader
from rag.replies import (
    ChatCompletion,
    DocumentList,
    DocumentRow,
    DocumentText,
    EmbeddingItem,
    EmbeddingList,
    EmbeddingUsage,
    FeedbackKept,
    Hit,
    ModelCard,
    ModelList,
    Place,
    SearchResult,
)
from rag.service import IndexedDocument, Service
from rag.telemetry import Telemetry
from rag.traces import Traces

logger = logging.getLogger(__name__)

T = TypeVar("T")

ALIASES = ("smallhold", "default")
EMBEDDED_AT_ONCE = 32  # texts between two looks at whether the client is still there
MAX_LISTED = 1000
MAX_ID = 4096  # characters of a document's id
MAX_TEXT = 100_000  # characters of a document that are given at once

# What every route may answer, what those that do some work may, and those that read a body.
_ANY = problems.documented(401, 413, 421, 500, 503)
_WORK = problems.documented(400, 429, 504)
_BODY = problems.documented(408, 415)
_MISSING = problems.documented(404)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A completion, or with `stream` its chunks.",
        "content": {"text/event-stream": {}},
    }
}


def _link(route: str, what: str, **link: dict[str, object]) -> dict[int | str, dict[str, Any]]:
    """Say which other route takes something of this one's answer."""
    return {200: {"links": {route: {"operationId": route, "description": what, **link}}}}


_TO_FEEDBACK = _link(
    "feedback_v1_feedback_post", "Rate the answer.", requestBody={"id": "$response.body#/id", "rating": "up"}
)
_TO_MODEL = _link(
    "model_v1_models__name__get", "Ask about the first one.", parameters={"name": "$response.body#/data/0/id"}
)
_DOCUMENT_TEXT = "document_text_v1_documents_text_get"
_TO_TEXT = _link(_DOCUMENT_TEXT, "Read the first one.", parameters={"id": "$response.body#/data/0/id"})
_HIT_TO_TEXT = _link(_DOCUMENT_TEXT, "Read the document.", parameters={"id": "$response.body#/data/0/document_id"})


class Endpoints:
    """The routes as methods. `chat` is the lane of the language model, `lookup` that of all that is quick.

    What they use in tokens is counted in `ledger`. `feedback` is None where none is taken, `traces` where none
    are made.
    """

    def __init__(
        self,
        loader: Loader,
        chat: Lane,
        lookup: Lane,
        telemetry: Telemetry,
        limits: ChatLimits,
        ledger: Ledger,
        feedback: FeedbackBook | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._loader = loader
        self._chat = chat
        self._lookup = lookup
        self._telemetry = telemetry
        self._limits = limits
        self._ledger = ledger
        self._feedback = feedback
        self._traces = traces
        self._watchers: set[asyncio.Task[None]] = set()

    def router(self) -> APIRouter:
        """The methods with their routes."""
        router = APIRouter(responses=_ANY, dependencies=[BEARER])

        def add(path: str, handler: Callable[..., Any], answer: type[BaseModel], *told: dict[int | str, Any]) -> None:
            responses: dict[int | str, dict[str, Any]] = {}
            for one in told:
                for status, said in one.items():
                    responses[status] = responses.get(status, {}) | said
            method = "POST" if _BODY in told else "GET"
            router.add_api_route(path, handler, methods=[method], response_model=answer, responses=responses)

        add("/v1/chat/completions", self.chat, ChatCompletion, _WORK, _BODY, _MISSING, _STREAM, _TO_FEEDBACK)
        add("/v1/embeddings", self.embeddings, EmbeddingList, _WORK, _BODY, _MISSING)
        add("/v1/search", self.search, SearchResult, _WORK, _BODY, _HIT_TO_TEXT)
        add("/v1/models", self.models, ModelList, _TO_MODEL)
        add("/v1/models/{name:path}", self.model, ModelCard, _MISSING)
        add("/v1/documents", self.documents, DocumentList, _WORK, _TO_TEXT)
        add("/v1/documents/text", self.document_text, DocumentText, _WORK, _MISSING)
        add("/v1/feedback", self.feedback, FeedbackKept, _WORK, _BODY, _MISSING)
        return router

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """Answer a question from the documents, at once or streamed."""
        service = self._loader.service()
        if body.model not in (service.model, *ALIASES):
            raise _unknown(body.model, service.model)
        self._limits.check(body)
        key, options = key_of(request), ask_options(body, view_of(request, body.filter))
        self._ledger.check(key)

        def begin() -> Iterator[Delta]:
            return self._loader.each(lambda now: now.pipeline.stream(body.question, body.history, options))

        traced = begin if self._traces is None else self._traces.of_answer(service.model, body, begin)
        job = self._submit(request, self._chat, lambda: charged(self._ledger, key, traced))
        deltas = self._noting_figures(job, service.costs)
        if not body.stream:
            answer = [delta.answer async for delta in deltas][-1]
            assert answer is not None  # _noting_figures saw to it
            whole = completion(answer, service.model, job.waited, service.costs)
            self._remember(whole.id, key, service, body, answer)
            return _json(whole)
        # What goes wrong before the first delta, such as a prompt too long, still gets its status.
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

    async def embeddings(self, request: Request, body: EmbeddingsRequest) -> Response:
        """Turn texts into vectors with the index's embedder."""
        service = self._loader.service()
        if body.model not in (service.embedder_model, *ALIASES):
            raise _unknown(body.model, service.embedder_model)
        key = key_of(request)
        self._ledger.check(key)
        job = self._submit(
            request, self._lookup, lambda: _embedded(service, body, lambda n: self._ledger.charge(key, n))
        )
        parts = [part async for part in job]
        vectors = [vector for vectors, _ in parts for vector in vectors]
        tokens = sum(tokens for _, tokens in parts)
        return _json(
            EmbeddingList(
                data=[EmbeddingItem(index=i, embedding=vector) for i, vector in enumerate(vectors)],
                model=service.embedder_model,
                usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
            )
        )

    async def search(self, request: Request, body: SearchRequest) -> Response:
        """Find passages; the language model is not asked."""
        view = view_of(request, body.filter)
        began = time.perf_counter()  # before the job is there: else its wait may be longer than the whole
        job = self._look_up(request, lambda service: service.pipeline.retrieve(body.query, view=view))
        (found,) = [found async for found in job]
        timings = {"queue": job.waited, "retrieve": time.perf_counter() - began - job.waited}
        self._telemetry.stages(timings)
        return _json(SearchResult(data=[_hit(i, s) for i, s in enumerate(found[: body.k])], timings=timings))

    async def models(self) -> Response:
        """List the names that may be sent as `model`."""
        return _json(ModelList(data=_cards(self._loader.service())))

    async def model(self, name: str) -> Response:
        """Tell of one model."""
        cards = {card.id: card for card in _cards(self._loader.service())}
        if name not in cards:
            raise _unknown(name, *cards)
        return _json(cards[name])

    async def documents(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
        offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
    ) -> Response:
        """List the documents of the index that the key may see, a page at a time."""
        view = view_of(request)
        job = self._look_up(request, lambda service: (service, service.documents(view)))
        ((service, documents),) = [found async for found in job]
        return _json(
            DocumentList(
                data=[_row(document) for document in documents[offset : offset + limit]],
                total=len(documents),
                chunks=sum(document.chunks for document in documents),
                bytes=sum(document.bytes for document in documents),
                changed=service.changed,
                synced=await asyncio.to_thread(service.synced),
            )
        )

    async def document_text(
        self,
        request: Request,
        id: Annotated[str, Query(min_length=1, max_length=MAX_ID)],
        start: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
        length: Annotated[int, Query(ge=1, le=MAX_TEXT)] = 20_000,
    ) -> Response:
        """Return a part of a document's text, `length` characters from `start` on."""
        view = view_of(request)
        job = self._look_up(request, lambda service: _part(service, id, start, length, view))
        (part,) = [part async for part in job]
        return _json(part)

    async def feedback(self, request: Request, body: FeedbackRequest) -> Response:
        """Keep what somebody says of an answer that this server gave, where its settings allow that."""
        book, key = self._feedback, key_of(request)
        if book is None:
            raise FeedbackOff("this server takes no feedback", hint="The setting feedback.enabled allows it.")
        said = Opinion(body.rating, body.comment, body.right_answer) if body.rating else None
        job = self._submit(request, self._lookup, lambda: iter([book.rate(body.id, key, said)]))
        (kept,) = [kept async for kept in job]
        return _json(FeedbackKept(id=body.id, kept_until=kept))

    def _remember(self, id_: str, key: Key | None, service: Service, body: ChatRequest, answer: Answer) -> None:
        if self._feedback is not None:
            self._feedback.remember(id_, key, service.model, body.question, body.history, answer)

    def _look_up(self, request: Request, find: Callable[[Service], T]) -> Job[T]:
        """Put one question to the index into the lane for what is quick."""
        return self._submit(request, self._lookup, lambda: self._loader.each(lambda service: iter([find(service)])))

    def _submit(self, request: Request, lane: Lane, work: Callable[[], Iterator[T]]) -> Job[T]:
        """Put work into a lane, to be cancelled when the client goes away."""
        try:
            job = lane.submit(work)
        except Overloaded:
            self._telemetry.overloaded(lane.name)
            raise
        # Ends by itself: a server reports a disconnect when the response is complete, too.
        watcher = asyncio.create_task(self._cancel_when_gone(request, job))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return job

    async def _cancel_when_gone(self, request: Request, job: Job[T]) -> None:
        with contextlib.suppress(HTTPException):  # a body that nobody reads is too large or too slow: gone, too
            while (await request.receive())["type"] != "http.disconnect":
                pass
        if not job.ended:
            self._telemetry.abandoned()
            job.cancel()

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
        try:
            async for delta in _chain(first, rest):
                if delta.text:
                    yield stream.text(delta.text)
                if delta.answer is not None:
                    text, annotations = ending(delta.answer, stream.sent)
                    if text:
                        yield stream.text(text)
                    remember(delta.answer)
                    yield stream.finish(delta.answer, annotations, job.waited)
                    if stream.with_usage:
                        yield stream.usage(delta.answer.usage)
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


def _embedded(
    service: Service, body: EmbeddingsRequest, charge: Callable[[int], None]
) -> Iterator[tuple[list[list[float] | str], int]]:
    """Yield some vectors at a time, encoded as asked for, with the tokens of their texts, which are charged."""
    for start in range(0, len(body.texts), EMBEDDED_AT_ONCE):
        texts = body.texts[start : start + EMBEDDED_AT_ONCE]
        vectors = service.embedder.embed(texts)
        if body.dimensions not in (None, vectors.shape[1]):
            raise InvalidRequest(f"this model's vectors have {vectors.shape[1]} dimensions, not {body.dimensions}")
        encoded: list[list[float] | str]
        if body.encoding_format == "base64":
            encoded = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        else:
            encoded = vectors.tolist()
        tokens = sum(service.counter.count(text) for text in texts)
        charge(tokens)
        yield encoded, tokens


def _hit(index: int, scored: ScoredChunk) -> Hit:
    chunk = scored.chunk
    page = chunk.metadata.get("page")
    return Hit(
        index=index,
        score=scored.score,
        dense=scored.dense,
        lexical=scored.lexical,
        document_id=chunk.document_id,
        title=chunk.title,
        uri=chunk.uri,
        chunk_id=chunk.id,
        span=chunk.span,
        text=chunk.text,
        headings=str(chunk.metadata.get("headings", "")),
        page=None if page is None else int(page),
        also_in=[Place(**dataclasses.asdict(elsewhere(other, other.span))) for other in scored.also_in],
    )


def _row(document: IndexedDocument) -> DocumentRow:
    return DocumentRow(**dataclasses.asdict(document))


def _part(service: Service, document_id: str, start: int, length: int, view: View) -> DocumentText:
    if service.document is None:
        raise UnknownDocument(f"there is no document {document_id!r}")
    document = service.document(document_id, view)
    text = document.text[start : start + length]
    start = min(start, len(document.text))
    return DocumentText(
        id=document.id,
        title=document.title,
        uri=document.uri,
        length=len(document.text),
        span=(start, start + len(text)),
        text=text,
    )


def _cards(service: Service) -> list[ModelCard]:
    names = dict.fromkeys((service.model, ALIASES[0], service.embedder_model))
    return [ModelCard(id=name, created=int(service.loaded_at)) for name in names]


def _unknown(name: str, *known: str) -> UnknownModel:
    return UnknownModel(f"there is no model {name!r} here", hint=f"Known: {', '.join((*known, *ALIASES))}.")


def _json(body: BaseModel) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")

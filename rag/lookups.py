"""The routes that need no language model: embeddings, search, documents and the models' names."""

import base64
import dataclasses
import time
from collections.abc import Iterator
from typing import Annotated

from fastapi import Query
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from rag.access import key_of, view_of
from rag.api import EmbeddingsRequest, SearchRequest
from rag.budget import Ledger
from rag.cite import elsewhere
from rag.datatypes import ScoredChunk
from rag.errors import InvalidRequest, UnknownDocument
from rag.filter import View
from rag.jobs import Jobs
from rag.keys import Key
from rag.loader import Loader
from rag.replies import (
    DocumentList,
    DocumentRow,
    DocumentText,
    EmbeddingItem,
    EmbeddingList,
    EmbeddingUsage,
    Hit,
    ModelCard,
    ModelList,
    Place,
    SearchResult,
    sent,
)
from rag.service import ALIASES, IndexedDocument, Service, check_model
from rag.telemetry import Telemetry

EMBEDDED_AT_ONCE = 32  # texts between two looks at whether the client is still there
MAX_LISTED = 1000
MAX_ID = 4096  # characters of a document's id
MAX_TEXT = 100_000  # characters of a document that are given at once

_ITEMS = TypeAdapter(list[EmbeddingItem])


class LookupRoutes:
    """The routes as methods. What is embedded is counted in `ledger`."""

    def __init__(self, loader: Loader, jobs: Jobs, telemetry: Telemetry, ledger: Ledger) -> None:
        self._loader = loader
        self._jobs = jobs
        self._telemetry = telemetry
        self._ledger = ledger

    async def embeddings(self, request: Request, body: EmbeddingsRequest) -> Response:
        """Turn texts into vectors with the index's embedder."""
        service = self._loader.service()
        check_model(body.model, service.embedder_model)
        key = key_of(request)
        self._ledger.check(key)
        job = self._jobs.embed(request, lambda: _embedded(service, body, key, self._ledger))
        parts = [part async for part in job]
        tokens = sum(tokens for _, tokens in parts)
        usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        whole = EmbeddingList(data=[], model=service.embedder_model, usage=usage).model_dump_json().encode()
        items = b",".join(items for items, _ in parts)
        return Response(whole.replace(b'"data":[]', b'"data":[%b]' % items, 1), media_type="application/json")

    async def search(self, request: Request, body: SearchRequest) -> Response:
        """Find passages; the language model is not asked."""
        view = view_of(request, body.filter)
        began = time.perf_counter()  # before the job is there: else its wait may be longer than the whole
        job = self._jobs.look_up(request, lambda service: service.pipeline.retrieve(body.query, view=view))
        (found,) = [found async for found in job]
        timings = {"queue": job.waited, "retrieve": time.perf_counter() - began - job.waited}
        self._telemetry.stages(timings)
        return sent(SearchResult(data=[_hit(i, s) for i, s in enumerate(found[: body.k])], timings=timings))

    async def models(self) -> Response:
        """List the names that may be sent as `model`."""
        service = self._loader.service()
        names = dict.fromkeys((service.model, ALIASES[0], service.embedder_model))
        return sent(ModelList(data=[_card(name, service) for name in names]))

    async def model(self, name: str) -> Response:
        """Tell of one model."""
        service = self._loader.service()
        check_model(name, service.model, service.embedder_model)
        return sent(_card(name, service))

    async def documents(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
        offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
    ) -> Response:
        """List the documents of the index that the key may see, a page at a time."""
        view = view_of(request)
        job = self._jobs.look_up(request, lambda service: (service.documents(view), service.changed, service.synced()))
        ((documents, changed, synced),) = [found async for found in job]
        return sent(
            DocumentList(
                data=[_row(document) for document in documents[offset : offset + limit]],
                total=len(documents),
                chunks=sum(document.chunks for document in documents),
                bytes=sum(document.bytes for document in documents),
                changed=changed,
                synced=synced,
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
        job = self._jobs.look_up(request, lambda service: _part(service, id, start, length, view))
        (part,) = [part async for part in job]
        return sent(part)


def _embedded(
    service: Service, body: EmbeddingsRequest, key: Key | None, ledger: Ledger
) -> Iterator[tuple[bytes, int]]:
    """Yield some vectors at a time, as items of a JSON list, with the tokens of their texts, which are charged.

    A million numbers take a second to write. Written here and piece by piece, they hold up no other request.

    Raises `BudgetSpent` before it begins, where others of the same key spent the rest while this one waited.
    """
    ledger.begin(key)
    for start in range(0, len(body.texts), EMBEDDED_AT_ONCE):
        texts = body.texts[start : start + EMBEDDED_AT_ONCE]
        vectors = service.embedder.embed(texts)
        if body.dimensions not in (None, vectors.shape[1]):
            refusal = InvalidRequest(f"this model's vectors have {vectors.shape[1]} dimensions, not {body.dimensions}")
            refusal.param = "dimensions"
            raise refusal
        encoded: list[list[float] | str]
        if body.encoding_format == "base64":
            encoded = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        else:
            encoded = vectors.tolist()
        tokens = sum(service.counter.count(text) for text in texts)
        ledger.charge(key, tokens)
        items = [EmbeddingItem(index=start + i, embedding=vector) for i, vector in enumerate(encoded)]
        yield _ITEMS.dump_json(items)[1:-1], tokens


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


def _card(name: str, service: Service) -> ModelCard:
    return ModelCard(id=name, created=int(service.loaded_at))

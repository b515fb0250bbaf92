"""The table of the routes that need the model or the index, and what the OpenAPI document says of each."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from rag import problems
from rag.access import BEARER
from rag.chats import ChatRoutes
from rag.lookups import LookupRoutes
from rag.replies import (
    ChatCompletion,
    DocumentList,
    DocumentText,
    EmbeddingList,
    FeedbackKept,
    ModelCard,
    ModelList,
    SearchResult,
)

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


def routes(chats: ChatRoutes, lookups: LookupRoutes) -> APIRouter:
    """Return the methods with their paths."""
    router = APIRouter(responses=_ANY, dependencies=[BEARER])

    def add(path: str, handler: Callable[..., Any], answer: type[BaseModel], *told: dict[int | str, Any]) -> None:
        responses: dict[int | str, dict[str, Any]] = {}
        for one in told:
            for status, said in one.items():
                responses[status] = responses.get(status, {}) | said
        method = "POST" if _BODY in told else "GET"
        router.add_api_route(path, handler, methods=[method], response_model=answer, responses=responses)
        if method == "GET":  # as HTTP has it, and probes ask
            router.add_api_route(path, handler, methods=["HEAD"], response_model=None, include_in_schema=False)

    add("/v1/chat/completions", chats.chat, ChatCompletion, _WORK, _BODY, _MISSING, _STREAM, _TO_FEEDBACK)
    add("/v1/embeddings", lookups.embeddings, EmbeddingList, _WORK, _BODY, _MISSING)
    add("/v1/search", lookups.search, SearchResult, _WORK, _BODY, _HIT_TO_TEXT)
    add("/v1/models", lookups.models, ModelList, _TO_MODEL)
    add("/v1/models/{name:path}", lookups.model, ModelCard, _MISSING)
    add("/v1/documents", lookups.documents, DocumentList, _WORK, _TO_TEXT)
    add("/v1/documents/text", lookups.document_text, DocumentText, _WORK, _MISSING)
    add("/v1/feedback", chats.feedback, FeedbackKept, _WORK, _BODY, _MISSING)
    return router

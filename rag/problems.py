"""Errors on the wire: every refusal and failure in OpenAI's error body, none with a traceback."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag.api import UNSUPPORTED
from rag.errors import BudgetSpent, DeadlinePassed, Overloaded, SmallholdError
from rag.lanes import JobCancelled
from rag.replies import ErrorBody, ErrorDetail

# Seconds a client is told to wait where nothing better is known, such as while the model is being loaded.
RETRY_AFTER_SECONDS = 2
# No standard's number, but the usual one: the client left. Nobody reads it but the figures.
CLIENT_GONE = 499

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    421: "host_not_allowed",
    500: "internal_error",
    503: "overloaded",
}

_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}}
# What each status that is sent means, for the OpenAPI document.
_DESCRIBED: Mapping[int, str] = {
    400: "The request cannot be honoured: `param` names the field, `code` `limit_exceeded` and the like the reason.",
    401: "There is no API key, or one that is unknown or revoked.",
    404: "There is no such model, document or answer here.",
    408: "The body took too long.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    421: "This server does not answer to that Host header.",
    429: "Too many requests wait, or the key's tokens of the day are spent (`insufficient_quota`).",
    500: "Something failed inside the server.",
    503: "The model or the index is not ready, or too many requests are under way.",
    504: "The answer took too long.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe refusals for the OpenAPI document, as FastAPI's `responses`."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": _DESCRIBED[status]} for status in statuses
    }
    for status in {429, 503}.intersection(statuses):
        told[status]["headers"] = _RETRY_AFTER
    return told


def install(app: FastAPI) -> None:
    """Answer the application's own errors, FastAPI's and Starlette's in OpenAI's shape."""
    app.add_exception_handler(SmallholdError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_routing)
    app.add_exception_handler(JobCancelled, _of_leaving)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)  # FastAPI's own for bad input, which is 400 here
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def body_of(error: SmallholdError) -> ErrorBody:
    """The body that tells of one of our own errors; the hint follows the message."""
    return _body(error.http_status, str(error), code=error.code, param=error.param)


def response(
    status: int, message: str, *, code: str | None = None, param: str | None = None, headers: Mapping[str, str] = {}
) -> JSONResponse:
    """A response with OpenAI's error body; 429 and 503 say when to try again, 401 how to show a key."""
    sent = dict(headers)
    if status in (429, 503):
        sent.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    if status == 401:
        sent.setdefault("WWW-Authenticate", "Bearer")
    body = _body(status, message, code=code or _CODES.get(status, "invalid_request"), param=param)
    return JSONResponse(body.model_dump(), status_code=status, headers=sent)


def refusal(error: SmallholdError) -> JSONResponse:
    """The answer that one of our own errors is."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Overloaded) else {}
    if isinstance(error, BudgetSpent | DeadlinePassed):
        # To OpenAI's clients, which would try thrice: what took too long would take that long again, three times over.
        headers["X-Should-Retry"] = "false"
    return response(error.http_status, str(error), code=error.code, param=error.param, headers=headers)


def internal(request_id: str) -> JSONResponse:
    """The answer to a failure that nobody foresaw: the log has the cause, under the request's id."""
    return response(500, f"something failed inside the server\nIts log names the cause, under request {request_id}.")


def _body(status: int, message: str, *, code: str, param: str | None = None) -> ErrorBody:
    if status >= 500:
        kind = "server_error"
    elif status == 429:
        kind = "rate_limit_error"
    else:
        kind = "invalid_request_error"
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))


async def _of_ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SmallholdError)
    return refusal(error)


async def _of_validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return response(400, f"the body is not valid JSON: {first['ctx']['error']} at character {first['loc'][1]}")
    param = _param(first["loc"][1:])
    code = UNSUPPORTED if first["type"] == UNSUPPORTED else "invalid_request"
    said = f"{param}: {first['msg']}" if param else f"the body is missing or no JSON object: {first['msg']}"
    return response(400, said, code=code, param=param)


async def _of_routing(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    said = {
        400: "the body cannot be read as JSON\nSend it in UTF-8, not compressed, with numbers of a usual length.",
        404: f"there is no {path}\nQuestions go to /v1/chat/completions; /openapi.json lists all that is there.",
        405: f"{path} does not take {request.method}",
    }
    message = said.get(error.status_code, str(error.detail))
    return response(error.status_code, message, headers=error.headers or {})


async def _of_leaving(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


def _param(loc: tuple[int | str, ...]) -> str | None:
    """Spell a place in the body as OpenAI does: `messages[0].content`. Tags of unions (`<text>`) are left out."""
    spelt = ""
    for part in loc:
        if isinstance(part, int):
            spelt += f"[{part}]"
        elif not part.startswith("<"):
            spelt += f".{part}" if spelt else part
    return spelt or None

"""The server's log as one JSON object a line, for programs: with request ids, without texts of documents, without keys.

A line for each request says its method, its route (never the path, which may name a document), status, seconds and the
id of its key. Of an exception that nobody foresaw its type and the places in the code are logged, not its message,
which may quote a document.
"""

import json
import logging
import sys
import time
import traceback
from contextvars import ContextVar
from typing import Any

from starlette.types import Scope

# The request that is worked on, in the event loop as in the threads that do its work.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_requests = logging.getLogger("smallhold.requests")


class JsonLines(logging.Formatter):
    """Formats a record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON; `time` is UTC."""
        told: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            told["request_id"] = request_id.get()
        told.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            told["error"] = type(error).__name__
            frames = traceback.extract_tb(error.__traceback__)
            told["stack"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(told, ensure_ascii=False)


def log_as_json() -> None:
    """Send all that is logged from now on to stderr in this form, and with it a line for each request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("rag", _requests.name):
        logging.getLogger(name).setLevel(logging.INFO)


def log_request(scope: Scope, status: int, seconds: float) -> None:
    """Note a request that has ended, where requests are logged."""
    if not _requests.isEnabledFor(logging.INFO):
        return
    key = scope.get("state", {}).get("key")
    fields = {
        "method": scope["method"],
        "route": route_of(scope),
        "status": status,
        "seconds": round(seconds, 4),
        "key": None if key is None else key.id,
    }
    _requests.info("request", extra={"fields": fields})


def route_of(scope: Scope) -> str:
    """Return the template of a request's route, "none" where no route took it.

    Paths are the client's: there is no end of them, they may name a document, and a line break in one would begin a
    line of its own in a log.
    """
    return str(getattr(scope.get("route"), "path", "none"))

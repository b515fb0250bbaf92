"""The routes that answer whether or not anything is loaded: health, readiness, figures, and the chat page's files."""

import dataclasses
from importlib import resources

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag import problems
from rag.access import BEARER, is_known, view_of
from rag.loader import IndexStatus, Loader
from rag.replies import Health, IndexNow, Ready
from rag.telemetry import Telemetry

# The page's files and their types. Listed, so that nothing else of the folder can be fetched.
_PAGE = {
    "index.html": "text/html; charset=utf-8",
    **dict.fromkeys(("style.css", "parts.css"), "text/css; charset=utf-8"),
    **dict.fromkeys(
        (
            "app.js",
            "cards.js",
            "chat.js",
            "client.js",
            "feedback.js",
            "figures.js",
            "history.js",
            "library.js",
            "make.js",
            "reader.js",
            "storage.js",
            "view.js",
        ),
        "text/javascript; charset=utf-8",
    ),
    **dict.fromkeys(("icon.svg", "thumb.svg"), "image/svg+xml"),
}
# What is answered without a key: that the server is there, and the page that asks for the key. No documents, no model.
OPEN_PATHS = frozenset({"/health", "/ready", "/", *(f"/static/{name}" for name in _PAGE if name != "index.html")})


class Operations:
    """The routes that answer whether or not anything is loaded."""

    def __init__(self, loader: Loader, telemetry: Telemetry, *, rated: bool) -> None:
        self._loader = loader
        self._rated = rated
        self._telemetry = telemetry
        folder = resources.files("rag.static")
        self._page = {name: (folder.joinpath(name).read_bytes(), kind) for name, kind in _PAGE.items()}

    def add_routes(self, app: FastAPI) -> None:
        """Add the methods with their paths."""
        figures = {"description": "The figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}
        refused, waiting = problems.documented(413, 421), problems.documented(503)
        waiting[503]["model"] = Ready
        app.add_api_route("/health", self.health, methods=["GET"], responses=refused)
        app.add_api_route("/ready", self.ready, methods=["GET"], response_model=Ready, responses={**refused, **waiting})
        app.add_api_route(
            "/metrics",
            self.metrics,
            methods=["GET"],
            response_class=Response,
            responses={200: figures, **problems.documented(401, 413, 421, 500, 503)},
            dependencies=[BEARER],
        )
        # Probes such as `wget --spider` ask with HEAD.
        for path, handler in (("/health", self.health), ("/ready", self.ready), ("/metrics", self.metrics)):
            app.add_api_route(path, handler, methods=["HEAD"], response_model=None, include_in_schema=False)
        app.add_route("/", self.page, include_in_schema=False)
        for name in _PAGE:
            if name != "index.html":
                app.add_route(f"/static/{name}", self.page, include_in_schema=False)

    async def health(self) -> Health:
        """Say that the process is up."""
        return Health()

    async def ready(self, request: Request) -> JSONResponse:
        """Say whether questions can be answered: 200, or 503 with the reason, to those who may ask any."""
        readiness = self._loader.readiness()
        body = Ready(status=readiness.status, reason=readiness.reason, hint=readiness.hint, code=readiness.code)
        known = is_known(request)
        if not known:  # reasons name paths
            body = Ready(status=readiness.status, authorized=False)
        if readiness.status != "ready":
            headers = {"Retry-After": str(problems.RETRY_AFTER_SECONDS)}
            return JSONResponse(body.model_dump(), status_code=503, headers=headers)
        if not known:
            return JSONResponse(body.model_dump())
        service = self._loader.service()
        named = body.model_copy(
            update={
                "model": service.model,
                "embedder": service.embedder_model,
                "feedback": self._rated,
                "index": _index_now(self._loader.index(view_of(request))),
            }
        )
        return JSONResponse(named.model_dump())

    def metrics(self, request: Request) -> Response:  # in a thread: the model's process is asked for its figures
        """Figures in Prometheus's text format; documents are counted that the key may see."""
        index = self._loader.index(view_of(request))
        return Response(self._telemetry.exposition(index), media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> Response:
        """Return the chat page or one of its files."""
        name = request.scope["path"].rpartition("/")[2] or "index.html"
        content, kind = self._page[name]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})


def _index_now(status: IndexStatus) -> IndexNow | None:
    if status.facts is None:
        return None
    fault = status.fault
    return IndexNow(
        **dataclasses.asdict(status.facts),
        refused="" if fault is None else fault.message,
        hint="" if fault is None else fault.hint,
    )

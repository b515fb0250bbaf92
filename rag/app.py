"""The HTTP application: OpenAI's endpoints over a pipeline, the chat page, and what operators ask for.

    /v1/chat/completions  /v1/embeddings  /v1/models  /v1/search  /v1/documents  /v1/feedback    (rag.endpoints)
    /health  /ready  /metrics  /openapi.json  /

A request passes `Measured` (figures), then `Guard` (Host, body, headers), `CORSMiddleware` where the settings name
origins, and `Access` (its API key), then its route. To serve it, let the server's graceful shutdown have a timeout
(uvicorn: `timeout_graceful_shutdown`): streams end within it or are cut.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources

from fastapi import Depends, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag import problems
from rag.access import BEARER, Access, demands_key, is_known
from rag.budget import Ledger, ledger_path
from rag.config import FeedbackSettings, ServerSettings
from rag.endpoints import Endpoints
from rag.errors import FeedbackDamaged
from rag.feedback import FeedbackBook
from rag.guard import UNCOUNTED, Guard, require_json
from rag.keys import Keyring
from rag.lanes import Lane
from rag.limits import ChatLimits
from rag.loader import IndexStatus, Loader
from rag.replies import Health, IndexNow, Ready
from rag.service import IndexedDocument, Service
from rag.telemetry import Measured, Telemetry
from rag.traces import Traces

__all__ = ["IndexedDocument", "Service", "create_app"]

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
            "view.js",
        ),
        "text/javascript; charset=utf-8",
    ),
    **dict.fromkeys(("icon.svg", "thumb.svg"), "image/svg+xml"),
}
# What is answered without a key: that the server is there, and the page that asks for the key. No documents, no model.
OPEN_PATHS = frozenset({"/health", "/ready", "/", *(f"/static/{name}" for name in _PAGE if name != "index.html")})

_DESCRIPTION = """
Every error has OpenAI's body. Unless the server listens on loopback alone, each request but those to `/health`,
`/ready` and the chat page needs the header `Authorization: Bearer KEY`; 401 says that it has none, or one that is
unknown or revoked. 429 and 503 come with `Retry-After`: too many requests wait, the key's tokens of the day are spent
(`insufficient_quota`, to try again after midnight UTC), or the model is not there. 400 with `limit_exceeded` and 413
name the limit that a request goes past, 408 a body that did not come, 504 an answer that took too long.
"""


def create_app(
    load: Callable[[], Service],
    settings: ServerSettings,
    *,
    published: Callable[[], object] = lambda: None,
    feedback: FeedbackSettings | None = None,
    at_once: int = 1,
    traces: Traces | None = None,
) -> FastAPI:
    """Return the application. Started, it answers `/health` at once and calls `load` in a thread.

    `at_once` answers are written at the same time; the pipeline must be safe for as many threads.

    Until `load` has returned, `/ready` and every route that needs the model answer 503 and say why; if it raised,
    they keep saying what. `load` may raise any `SmallholdError`. While the model's process is down,
    `/ready` answers 503, too.
    Whenever `published` returns another value, the service is asked for a newer one (`Service.renew`), which answers
    from then on; where loading failed for lack of a good index, `load` is called again.
    At the end `pipeline.close()` is called if there is one, and `Service.close`.

    Answers can be rated where `feedback` says so; what was kept for long enough is removed by the hour.

    `traces` makes the spans of requests and answers, and is closed at the end.

    Where the settings demand keys, every path but `OPEN_PATHS` needs one; `rag.access.check_keys` says whether there
    are any.
    """
    telemetry = Telemetry()
    loader = Loader(load, published)
    # What only looks things up goes past the language model's queue.
    chat = Lane("chat", waiting=settings.queue, workers=at_once, deadline=settings.deadline)
    lookup = Lane("lookup", waiting=4 * settings.queue, deadline=settings.deadline)
    ledger = Ledger(ledger_path(settings.keys))
    book = FeedbackBook(feedback.file, feedback.days) if feedback is not None and feedback.enabled else None
    operations = _Operations(loader, telemetry, rated=book is not None)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loader.start()
        forgetting = asyncio.create_task(_forget_by_the_hour(book)) if book is not None else None
        try:
            yield
        finally:
            if forgetting is not None:
                forgetting.cancel()
            await chat.close()
            await lookup.close()
            await asyncio.to_thread(loader.close)
            ledger.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="smallhold",
        summary="Answers from your documents, with the passages they rest on.",
        description=_DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(require_json)],
        docs_url=None,  # FastAPI's documentation pages load their scripts from elsewhere
        redoc_url=None,
        telemetry={
            "tracing": traces is not None,
            "tracer_provider": None if traces is None else traces.provider,
            "operation_spans": False,
            "exclude": lambda scope: scope.get("path") in UNCOUNTED,
            "metrics": False,  # they are Prometheus's
            "logs": False,  # they would have the messages of errors, which may quote a document
            "auto_configure": False,
        },
    )
    limits = ChatLimits.of(settings)
    app.include_router(Endpoints(loader, chat, lookup, telemetry, limits, ledger, book, traces).router())
    operations.add_routes(app)
    problems.install(app)
    for lane in (chat, lookup):
        telemetry.watch_lane(lane)
    telemetry.watch_ready(lambda: loader.readiness().status == "ready")
    telemetry.watch_index(loader.index)
    telemetry.watch_restarts(loader.restarts)
    telemetry.watch_prefixes(loader.prefixes)
    # Each one that is added stands before those that were.
    app.add_middleware(Access, keyring=Keyring(settings.keys), demanded=demands_key(settings), open_paths=OPEN_PATHS)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client for browsers sends a dozen of its own
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Measured, telemetry=telemetry)
    return app


async def _forget_by_the_hour(book: FeedbackBook) -> None:
    """Remove feedback whose time is over, however seldom anything is said."""
    while True:
        with contextlib.suppress(FeedbackDamaged):  # logged where it happened
            await asyncio.to_thread(book.forget_old)
        await asyncio.sleep(3600)


def _index_now(status: IndexStatus) -> IndexNow | None:
    if status.facts is None:
        return None
    fault = status.fault
    return IndexNow(
        **dataclasses.asdict(status.facts),
        refused="" if fault is None else fault.message,
        hint="" if fault is None else fault.hint,
    )


class _Operations:
    """The routes that answer whether or not anything is loaded."""

    def __init__(self, loader: Loader, telemetry: Telemetry, *, rated: bool) -> None:
        self._loader = loader
        self._rated = rated
        self._telemetry = telemetry
        folder = resources.files("rag.static")
        self._page = {name: (folder.joinpath(name).read_bytes(), kind) for name, kind in _PAGE.items()}

    def add_routes(self, app: FastAPI) -> None:
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
                "index": _index_now(self._loader.index()),
            }
        )
        return JSONResponse(named.model_dump())

    def metrics(self) -> Response:  # in a thread: the model's process is asked for its figures
        """Figures in Prometheus's text format."""
        return Response(self._telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def page(self, request: Request) -> Response:
        """Return the chat page or one of its files."""
        name = request.scope["path"].rpartition("/")[2] or "index.html"
        content, kind = self._page[name]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

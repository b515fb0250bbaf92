"""The HTTP application: OpenAI's endpoints over a pipeline, the chat page, and what operators ask for.

    /v1/chat/completions  /v1/feedback                          (rag.chats)
    /v1/search  /v1/documents  /v1/models  /v1/embeddings       (rag.lookups)
    /health  /ready  /metrics  /                                (rag.operations)
    /openapi.json

A request passes `Measured` (figures), then `Envelope` (id, headers, log), `CORSMiddleware` where the settings name
origins, `Guard` (Host, number, body), and `Access` (its API key), then its route. To serve it, let the server's
graceful shutdown have a timeout (uvicorn: `timeout_graceful_shutdown`): streams end within it or are cut.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from rag import problems
from rag.access import Access, demands_key
from rag.budget import Ledger, ledger_path
from rag.chats import ChatRoutes
from rag.config import FeedbackSettings, ServerSettings
from rag.endpoints import routes
from rag.errors import FeedbackDamaged
from rag.feedback import FeedbackBook
from rag.guard import UNCOUNTED, Envelope, Guard, require_json
from rag.jobs import Jobs
from rag.keys import Keyring
from rag.lanes import Lane
from rag.limits import ChatLimits
from rag.loader import Loader
from rag.lookups import LookupRoutes
from rag.operations import OPEN_PATHS, Operations
from rag.service import IndexedDocument, Service
from rag.telemetry import Measured, Telemetry
from rag.traces import Traces

__all__ = ["OPEN_PATHS", "IndexedDocument", "Service", "create_app"]

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
    # What only looks things up goes past the language model's queue, and past texts that are embedded.
    chat = Lane("chat", waiting=settings.queue, workers=at_once, deadline=settings.deadline)
    embed = Lane("embed", waiting=4 * settings.queue, deadline=settings.deadline)
    lookup = Lane("lookup", waiting=4 * settings.queue, deadline=settings.deadline)
    ledger = Ledger(ledger_path(settings.keys))
    book = FeedbackBook(feedback.file, feedback.days) if feedback is not None and feedback.enabled else None
    operations = Operations(loader, telemetry, rated=book is not None)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loader.start()
        forgetting = asyncio.create_task(_forget_by_the_hour(book)) if book is not None else None
        try:
            yield
        finally:
            if forgetting is not None:
                forgetting.cancel()
            await asyncio.gather(*(lane.close() for lane in (chat, embed, lookup)))
            await asyncio.to_thread(loader.close)
            ledger.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="smallhold",
        summary="Answers from your documents, with the passages they rest on.",
        description=_DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # what is not there is said to be so; a redirect would trust the Host header
        dependencies=[Depends(require_json)],
        docs_url=None,  # FastAPI's documentation pages load their scripts from elsewhere
        redoc_url=None,
        telemetry={
            "tracing": traces is not None,
            "tracer_provider": None if traces is None else traces.for_requests,
            "operation_spans": False,
            "exclude": lambda scope: scope.get("path") in UNCOUNTED,
            "metrics": False,  # they are Prometheus's
            "logs": False,  # they would have the messages of errors, which may quote a document
            "auto_configure": False,
        },
    )
    jobs = Jobs(loader, chat, embed, lookup, telemetry)
    chats = ChatRoutes(loader, jobs, telemetry, ChatLimits.of(settings), ledger, book, traces)
    app.include_router(routes(chats, LookupRoutes(loader, jobs, telemetry, ledger)))
    operations.add_routes(app)
    problems.install(app)
    for lane in (chat, embed, lookup):
        telemetry.watch_lane(lane)
    telemetry.watch_ready(lambda: loader.readiness().status == "ready")
    telemetry.watch_process(loader.restarts, loader.model_bytes)
    telemetry.watch_prefixes(loader.prefixes)
    # Each one that is added stands before those that were.
    app.add_middleware(Access, keyring=Keyring(settings.keys), demanded=demands_key(settings), open_paths=OPEN_PATHS)
    app.add_middleware(Guard, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client for browsers sends a dozen of its own
            expose_headers=["Retry-After", "X-Request-Id", "X-Should-Retry"],
        )
    app.add_middleware(Envelope)
    app.add_middleware(Measured, telemetry=telemetry)
    return app


async def _forget_by_the_hour(book: FeedbackBook) -> None:
    """Remove feedback whose time is over, however seldom anything is said."""
    while True:
        with contextlib.suppress(FeedbackDamaged):  # logged where it happened
            await asyncio.to_thread(book.forget_old)
        await asyncio.sleep(3600)

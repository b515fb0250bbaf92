"""`smallhold serve`: the HTTP endpoint on a socket, with everything it needs loaded behind it."""

import contextlib
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from rag.access import check_keys
from rag.app import create_app
from rag.build import (
    build_abstention,
    build_costs,
    build_embedder,
    build_pipeline,
    build_prompt,
    build_retriever,
    build_served_generator,
    model_store,
    open_index,
)
from rag.config import ServerSettings, Settings
from rag.console import err
from rag.engine.guarded import GuardedGenerator
from rag.errors import Unavailable
from rag.guard import is_loopback
from rag.manifest import read_synced
from rag.pipeline import RagPipeline
from rag.remote import EndpointGenerator
from rag.service import IndexedDocument, Service


def run_server(settings: Settings) -> None:
    """Serve until interrupted. Raises `Unavailable` where the address cannot be had or API keys are missing."""
    check_keys(settings.server)
    with _listen(settings.server) as listener:
        app = create_app(
            lambda: load_service(settings),
            settings.server,
            feedback=settings.feedback,
            at_once=settings.generator.sequences,
        )
        url = _url(settings.server.host, listener.getsockname()[1])
        err.print(f"smallhold at [bold]{url}[/]  (Ctrl-C ends it; ready when {url}/ready says so)")
        if not is_loopback(settings.server.host):
            err.print("[yellow]Keys and answers travel in the clear: put a proxy with TLS before this address.[/]")
        config = uvicorn.Config(app, log_level="warning", ws="none", server_header=False, timeout_graceful_shutdown=10)
        server = uvicorn.Server(config)
        # uvicorn ends in good order and then raises the signal anew; by then being told to end is no failure.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def load_service(settings: Settings) -> Service:
    """Open index, embedder and language model. Closing the service's pipeline closes them."""
    build_abstention(settings, build_prompt(settings))  # what it cannot promise is told before anything is loaded
    store = model_store(settings)
    embedder = build_embedder(settings, store)
    index = open_index(settings, embedder)
    generator = build_served_generator(settings, store)
    pipeline = build_pipeline(settings, generator, build_retriever(settings, index, embedder))
    embedder.embed(["warm"])  # the first embedding imports torch: seconds that no question should wait for
    documents = [IndexedDocument(d.id, d.title, d.uri, d.chunks, d.bytes) for d in index.documents()]
    return Service(
        pipeline=_Closing(pipeline, [generator.close, index.close]),
        embedder=embedder,
        counter=embedder,
        model=Path(settings.generator.model).stem
        if settings.generator.model.endswith(".gguf")
        else settings.generator.model,
        embedder_model=settings.embedder.model,
        documents=lambda: documents,
        keeper=generator if isinstance(generator, GuardedGenerator) else None,
        prefixes=None if isinstance(generator, EndpointGenerator) else generator.prefixes,
        document=index.document,
        changed=index.manifest.created,
        synced=lambda: read_synced(settings.index.dir),
        costs=build_costs(settings.cost),
    )


class _Closing:
    """A pipeline that takes what it stands on with it when the server ends."""

    def __init__(self, pipeline: RagPipeline, closes: Sequence[Callable[[], None]]) -> None:
        self._closes = closes
        self.stream = pipeline.stream
        self.retrieve = pipeline.retrieve

    def close(self) -> None:
        """Release model and index."""
        for close in self._closes:
            close()


def _listen(settings: ServerSettings) -> socket.socket:
    """Take the port before anything is loaded: a port in use is known at once, not after the model."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name TCP; without it every streamed token waits some 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}",
            hint="Give another --port (0 takes a free one) or --host.",
        ) from error
    return listener


def _url(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"

"""`smallhold serve`: the HTTP endpoint on a socket, with everything it needs loaded behind it."""

import ipaddress
import socket
from contextlib import ExitStack
from pathlib import Path

import uvicorn

from rag.app import create_app
from rag.build import build_embedder, build_generator, build_pipeline, build_retriever, model_store, open_index
from rag.config import ServerSettings, Settings
from rag.console import err
from rag.errors import Unavailable
from rag.service import IndexedDocument, Service


def run_server(settings: Settings) -> None:
    """Serve until interrupted. Raises `Unavailable` where the address cannot be had."""
    with ExitStack() as resources, _listen(settings.server) as listener:
        app = create_app(lambda: load_service(settings, resources), settings.server)
        url = _url(settings.server.host, listener.getsockname()[1])
        err.print(f"smallhold at [bold]{url}[/]  (Ctrl-C ends it; ready when {url}/ready says so)")
        if not is_loopback(settings.server.host):
            err.print("[yellow]Anybody who can reach this address can ask: there are no API keys yet.[/]")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10))
        server.run(sockets=[listener])


def load_service(settings: Settings, resources: ExitStack) -> Service:
    """Open index, embedder and language model; `resources` closes them when the server ends."""
    store = model_store(settings)
    embedder = build_embedder(settings, store)
    index = resources.enter_context(open_index(settings, embedder))
    generator = build_generator(settings, store)
    resources.callback(generator.close)
    embedder.embed(["warm"])  # the first embedding imports torch: seconds that no question should wait for
    documents = [IndexedDocument(d.id, d.title, d.uri, d.chunks, d.bytes) for d in index.documents()]
    return Service(
        pipeline=build_pipeline(settings, generator, build_retriever(settings, index, embedder)),
        embedder=embedder,
        counter=embedder,
        model=Path(settings.generator.model).stem
        if settings.generator.model.endswith(".gguf")
        else settings.generator.model,
        embedder_model=settings.embedder.model,
        documents=lambda: documents,
    )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(settings: ServerSettings) -> socket.socket:
    """Take the port before anything is loaded: a port in use is known at once, not after the model."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, reuse_port=False)
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}",
            hint="Give another --port (0 takes a free one) or --host.",
        ) from error


def _url(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"

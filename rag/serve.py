"""`smallhold serve`: the HTTP endpoint on a socket, with everything it needs loaded behind it."""

import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import compress
from operator import attrgetter
from types import FrameType

import uvicorn
from rich.markup import escape
from rich.text import Text

from rag.access import check_keys
from rag.app import create_app
from rag.build import (
    build_abstention,
    build_cascade,
    build_costs,
    build_deliberation,
    build_embedder,
    build_large,
    build_pipeline,
    build_prompt,
    build_retriever,
    build_served_generator,
    model_name,
    model_store,
    open_index,
    open_newer,
)
from rag.cascade import Cascade
from rag.config import ServerSettings, Settings
from rag.console import err
from rag.embedder import SentenceEmbedder
from rag.engine.generator import LlamaGenerator
from rag.engine.guarded import GuardedGenerator
from rag.errors import Unavailable
from rag.filter import View
from rag.fusion import with_fusion
from rag.guard import is_loopback
from rag.index import Index
from rag.lazy import LazyModel
from rag.logs import log_as_json
from rag.malformed import Protocol
from rag.manifest import published_stamp, read_synced
from rag.pipeline import RagPipeline
from rag.remote import EndpointGenerator
from rag.segment import Segment
from rag.service import IndexedDocument, IndexFacts, Service
from rag.traces import open_traces

logger = logging.getLogger(__name__)


def run_server(settings: Settings) -> None:
    """Serve until interrupted. Raises `Unavailable` where the address cannot be had or API keys are missing."""
    check_keys(settings.server)
    traces = open_traces(settings.server.traces)
    plain = settings.server.log == "plain"
    if not plain:
        log_as_json()
    with _listen(settings.server) as listener:
        app = create_app(
            lambda: _load_collected(settings),
            settings.server,
            published=lambda: published_stamp(settings.index.dir),
            feedback=settings.feedback,
            at_once=settings.generator.sequences,
            traces=traces,
        )
        _announce(_url(settings.server.host, listener.getsockname()[1]), settings.server)
        server = _Server(
            uvicorn.Config(
                app,
                http=Protocol,
                log_level="warning",
                log_config=uvicorn.config.LOGGING_CONFIG if plain else None,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=math.ceil(settings.server.drain),
            )
        )
        # uvicorn ends in good order and then raises the signal anew; by then being told to end is no failure.
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # who was started by nohup stays
                signal.signal(signal.SIGHUP, server.handle_exit)
            server.run(sockets=[listener])
    _leave()


def _announce(url: str, settings: ServerSettings) -> None:
    """Say where the server is: to people, or in the log where programs read that."""
    shown = escape(url)  # the brackets of an IPv6 address are no markup
    said = [f"smallhold at [bold]{shown}[/]  (Ctrl-C ends it; ready when {shown}/ready says so)"]
    if not is_loopback(settings.host):
        said.append("[yellow]Keys and answers travel in the clear: put a proxy with TLS before this address.[/]")
    for line in said:
        if settings.log == "plain":
            err.print(line)
        else:
            logger.info(Text.from_markup(line).plain)


class _Server(uvicorn.Server):
    """Told to end by SIGTERM or Ctrl-C, it takes nothing new and answers what it has begun; told twice, it ends.

    A terminal that is closed tells it, too (SIGHUP), but hurries nobody: shell and kernel both say so, and a service
    manager may send both signals at once.
    """

    told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end at once: what threads are at work on is not waited for."""
        if self.told:
            if sig != signal.SIGHUP:
                os._exit(128 + sig)  # the model's process ends when it hears that this one is gone
            return
        self.told = sig != signal.SIGHUP
        if not self.should_exit:
            super().handle_exit(sig, frame)


def _leave() -> None:
    """End the process where a thread of ours is stuck, in native code that does not return or while it loads a model.

    Python would wait for the one and pull the ground from under the other. What has to be closed is closed by now.
    """
    if any(thread.name.startswith("smallhold-") for thread in threading.enumerate()):
        logging.shutdown()
        with contextlib.suppress(OSError):  # the terminal is gone
            sys.stderr.flush()
        os._exit(0)


def _load_collected(settings: Settings) -> Service:
    """Load, without what loading leaves behind.

    Importing torch leaves errors that hold each other and, through their frames, the first generation of the index with
    its files. Of what stays nothing is garbage, which no later collection need find out anew.
    """
    service = load_service(settings)
    gc.collect()
    gc.freeze()
    return service


def load_service(settings: Settings) -> Service:
    """Open index, embedder and language model, all or none."""
    settings = with_fusion(settings)
    prompt = build_prompt(settings)  # what cannot be kept or done is told before anything is loaded
    build_abstention(settings, prompt), build_deliberation(settings, prompt)
    store = model_store(settings)
    large = build_large(settings, store, build_served_generator) if settings.cascade.generator else None
    embedder = build_embedder(settings, store)
    with ExitStack() as opened:
        index = opened.enter_context(open_index(settings, embedder))
        generator = opened.enter_context(closing(build_served_generator(settings, store)))
        embedder.embed(["warm"])  # the first embedding imports torch: seconds that no question should wait for
        service = _Models(settings, embedder, generator, large).over(index)
        opened.pop_all()
    return service


@dataclass(frozen=True)
class _Models:
    """What stays while one generation of the index takes the place of another."""

    settings: Settings
    embedder: SentenceEmbedder
    generator: GuardedGenerator | LlamaGenerator | EndpointGenerator
    large: LazyModel | None

    def over(self, index: Index) -> Service:
        """Return the service over a generation, which is closed with the service's pipeline."""
        documents = listed(index)
        index.masks.rows(View(labels=frozenset()))  # the labels are looked up now, not by the first question
        settings, generator = self.settings, self.generator
        return Service(
            pipeline=_Closing(self._pipeline(index), index),
            embedder=self.embedder,
            counter=self.embedder,
            model=model_name(settings),
            embedder_model=settings.embedder.model,
            documents=lambda view: left(documents, index, view),
            keeper=_Keepers(generator, self.large) if isinstance(generator, GuardedGenerator) else None,
            prefixes=None if isinstance(generator, EndpointGenerator) else generator.prefixes,
            document=index.document,
            changed=index.manifest.created,
            synced=lambda: read_synced(settings.index.dir),
            costs=build_costs(settings.cost),
            index=lambda view: seen(index, view),
            renew=lambda: self._newer(index),
            close=self._close,
        )

    def _newer(self, index: Index) -> Service | None:
        newer = open_newer(self.settings, self.embedder, index)
        if newer is None:
            return None
        with ExitStack() as opened:
            opened.enter_context(newer)
            service = self.over(newer)
            opened.pop_all()
        return service

    def _pipeline(self, index: Index) -> RagPipeline | Cascade:
        settings, embedder = self.settings, self.embedder
        small = build_pipeline(settings, self.generator, build_retriever(settings, index, embedder), embedder)
        return small if self.large is None else build_cascade(settings, small, self.large, embedder)

    def _close(self) -> None:
        self.generator.close()
        if self.large is not None:
            self.large.close()


def listed(index: Index) -> list[IndexedDocument]:
    """Return every document with what filters ask for, in the order of their rows.

    Those of a segment are made once, and shared by all generations that it belongs to.
    """
    found: list[IndexedDocument] = []
    for segment, deleted in index.segments():
        documents = segment.store.made("listed", partial(_listed, segment))
        found += [document for number, document in enumerate(documents) if number not in deleted]
    return found


def _listed(segment: Segment) -> list[IndexedDocument]:
    """Return the documents of a segment, the deleted ones included."""
    return [
        IndexedDocument(
            *(entry.id, entry.title, entry.uri, entry.chunks, entry.bytes),
            type=str(metadata.get("format", "")),
            date=str(metadata.get("date", "")),
            tags=tuple(str(metadata.get("tags", "")).splitlines()),
        )
        for entry, (*_, metadata) in zip(segment.catalog.entries(), segment.store.descriptions(), strict=True)
    ]


def left(documents: Sequence[IndexedDocument], index: Index, view: View) -> Sequence[IndexedDocument]:
    """Return the documents that a view leaves, ordered by id, of all of them in the order of their rows."""
    seen = index.masks.documents(view)
    return sorted(documents if seen is None else compress(documents, seen), key=attrgetter("id"))


def seen(index: Index, view: View) -> IndexFacts:
    """Return the generation, and how many documents and passages of it a view leaves."""
    counts, documents, rows = index.manifest.counts, index.masks.documents(view), index.masks.rows(view)
    return IndexFacts(
        index.generation,
        counts.documents if documents is None else int(documents.sum()),
        counts.chunks if rows is None else int(rows.sum()),
    )


class _Closing:
    """A pipeline that takes the index it stands on with it."""

    def __init__(self, pipeline: RagPipeline | Cascade, index: Index) -> None:
        self.stream = pipeline.stream
        self.retrieve = pipeline.retrieve
        self.close = index.close


class _Keepers:
    """How the models' processes are. While only a cascade's large one is down, the small one answers."""

    def __init__(self, small: GuardedGenerator, large: LazyModel | None) -> None:
        self._small = small
        self._large = large
        self.fault = small.fault

    @property
    def restarts(self) -> int:
        """How often either was started again."""
        return sum(process.restarts for process in self._processes())

    def resident_bytes(self) -> int | None:
        """Return the memory that both processes take, None where that is not known."""
        taken = [size for process in self._processes() if (size := process.resident_bytes()) is not None]
        return sum(taken) if taken else None

    def _processes(self) -> list[GuardedGenerator]:
        large = None if self._large is None else self._large.loaded
        return [self._small, large] if isinstance(large, GuardedGenerator) else [self._small]


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

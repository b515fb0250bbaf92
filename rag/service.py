"""What the HTTP endpoint serves, loaded in the background so that the port answers from the first moment."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from rag.cost import Costs
from rag.datatypes import Delta, Document, Message, PrefixCounters, ScoredChunk
from rag.errors import ModelDied, SmallholdError, Unavailable
from rag.filter import EVERYTHING, View
from rag.options import AskOptions
from rag.protocols import Embedder, TokenCounter

logger = logging.getLogger(__name__)


class Pipeline(Protocol):
    """What the endpoint needs of `rag.pipeline.RagPipeline`. One with a `close()` is closed when the server ends."""

    def stream(self, question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
        """Answer piece by piece; the last delta carries the answer. Closing the iterator cancels.

        The `usage` of the others is what a cancelled answer is charged with.
        """
        ...

    def retrieve(self, question: str, history: Sequence[Message] = (), view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return the ranked chunks alone, best first, of what the view leaves."""
        ...


class Keeper(Protocol):
    """What the endpoint needs of `rag.engine.guarded.GuardedGenerator`: how the model's process is."""

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        ...

    def fault(self) -> SmallholdError | None:
        """Return why no question can be answered at the moment, None where one can."""
        ...


@dataclass(frozen=True, slots=True)
class IndexedDocument:
    """One document of the index: `chunks` passages, `bytes` the size of its text or file, and what filters ask for."""

    id: str
    title: str
    uri: str
    chunks: int
    bytes: int
    type: str = ""
    date: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """Everything a loaded server holds. `model` and `embedder_model` are the names that clients see.

    `embedder` is called from another thread than `pipeline`, which may be embedding at that moment.
    `counter` counts in the embedder's tokens; `documents` is called for every listing, so that it stays current, and
    returns those that a view leaves. `document` returns one with its text, or raises `UnknownDocument`, also where the
    view leaves it out; `changed` is when the index was made, `synced` when it was last compared with its folders.
    `costs` says what an answer costs, None where nobody stated a price.
    `keeper` is None where the model runs in this process, `prefixes` where no model of ours runs. The latter may take a
    second.
    """

    pipeline: Pipeline
    embedder: Embedder
    counter: TokenCounter
    model: str
    embedder_model: str
    documents: Callable[[View], Sequence[IndexedDocument]]
    loaded_at: float = field(default_factory=time.time)
    keeper: Keeper | None = None
    prefixes: Callable[[], PrefixCounters] | None = None
    document: Callable[[str, View], Document] | None = None
    changed: datetime | None = None
    synced: Callable[[], datetime | None] = lambda: None
    costs: Costs | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether questions can be answered, in words for people: `reason` is what is the matter, `hint` what to do."""

    status: Literal["loading", "ready", "failed"]
    reason: str = ""
    hint: str = ""
    code: str | None = None


class Loader:
    """Runs `load` once in a thread of its own and hands out what it returned."""

    def __init__(self, load: Callable[[], Service]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._service: Service | None = None
        self._error: SmallholdError | None = None
        self._closed = False

    def start(self) -> None:
        """Begin loading. The thread is a daemon: an interrupt need not wait for gigabytes to be read."""
        threading.Thread(target=self._run, name="smallhold-load", daemon=True).start()

    def service(self) -> Service:
        """Return what was loaded. Raises `Unavailable` while loading, and the loading's own error if it failed."""
        with self._lock:
            if self._service is not None:
                return self._service
            if self._error is not None:
                raise _again(self._error)
        raise Unavailable("the model and the index are still being loaded", hint="Try again in a moment.")

    def readiness(self) -> Readiness:
        """Return how far loading came, and after it how the model's process is."""
        with self._lock:
            service, error = self._service, self._error
        if service is not None and service.keeper is not None:
            error = service.keeper.fault()
        if error is not None:
            coming = isinstance(error, ModelDied) and error.coming
            return Readiness("loading" if coming else "failed", error.message, error.hint, error.code)
        if service is not None:
            return Readiness("ready")
        return Readiness("loading", "the model and the index are being loaded")

    def restarts(self) -> int:
        """Return how often the model's process was started again."""
        with self._lock:
            service = self._service
        return service.keeper.restarts if service is not None and service.keeper is not None else 0

    def prefixes(self) -> PrefixCounters | None:
        """Return how the model uses what it has read before, None while there is no model of ours."""
        with self._lock:
            service = self._service
        return service.prefixes() if service is not None and service.prefixes is not None else None

    def close(self) -> None:
        """Close the pipeline, now or as soon as a loading that is still under way hands it over. Idempotent."""
        with self._lock:
            service, self._service, self._closed = self._service, None, True
        if service is not None:
            _close(service)

    def _run(self) -> None:
        try:
            service = self._load()
        except SmallholdError as error:
            logger.error("loading failed: %s", error)
            self._fail(error)
        except Exception:
            logger.exception("loading failed")
            self._fail(
                Unavailable(
                    "the model or the index could not be loaded",
                    hint="The server's log names the cause; `smallhold doctor` checks machine, weights and index.",
                )
            )
        else:
            self._done(service)

    def _fail(self, error: SmallholdError) -> None:
        with self._lock:
            self._error = error

    def _done(self, service: Service) -> None:
        with self._lock:
            if not self._closed:
                self._service = service
                return
        _close(service)


def _again(error: SmallholdError) -> SmallholdError:
    """A fresh copy to raise: one instance raised by many requests would gather all their tracebacks."""
    return type(error)(error.message, hint=error.hint)


def _close(service: Service) -> None:
    close = getattr(service.pipeline, "close", None)
    if close is not None:
        close()

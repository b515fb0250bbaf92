"""What the HTTP endpoint serves: the records and protocols. `rag.loader` loads it and takes what is newer."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from rag.cost import Costs
from rag.datatypes import Delta, Document, Message, PrefixCounters, ScoredChunk
from rag.errors import SmallholdError, UnknownModel
from rag.filter import EVERYTHING, View
from rag.options import AskOptions
from rag.protocols import Embedder, TokenCounter

ALIASES = ("smallhold", "default")  # names that any client may send as `model`


class Pipeline(Protocol):
    """What the endpoint needs of `rag.pipeline.RagPipeline`.

    One with a `close()` is closed when nothing is answered from it any more: after a newer one took its place, or when
    the server ends.
    """

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

    def resident_bytes(self) -> int | None:
        """Return the memory that the process takes, None where that is not known."""
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
class IndexFacts:
    """What generation of the index answers come from, and how much of it may be seen."""

    generation: str
    documents: int
    chunks: int


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
    `index` says what answers come from, and how much of it a view leaves. `renew` returns a service over a newer
    generation of the index, with the same models, None where this one is the newest; it raises the `SmallholdError`
    that says why a newer one cannot be used.
    `close` releases what all generations share; what belongs to this one is closed with the pipeline.
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
    index: Callable[[View], IndexFacts] | None = None
    renew: Callable[[], "Service | None"] | None = None
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether questions can be answered, in words for people: `reason` is what is the matter, `hint` what to do."""

    status: Literal["loading", "ready", "failed"]
    reason: str = ""
    hint: str = ""
    code: str | None = None


def check_model(name: str, *known: str) -> None:
    """Let a model's name pass that is known here, or an alias. Raises `UnknownModel`, which lists them."""
    if name not in (*known, *ALIASES):
        raise UnknownModel(f"there is no model {name!r} here", hint=f"Known: {', '.join((*known, *ALIASES))}.")

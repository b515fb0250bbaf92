"""Loads what a server serves, in the background, and takes the next generation of the index when it is published.

A thread of its own looks four times a second whether the index was published anew, which costs one `stat`. What it
opens then is put in the place of the old at one moment: answers under way go on in the generation that they began in,
whose files are closed with the last of them. A generation that cannot be opened is refused, the old one goes on, and it
is tried again when something was published, and now and then, since a copy that arrives file by file is damaged until
it is whole.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from rag.datatypes import PrefixCounters
from rag.errors import IndexDamaged, IndexIncompatible, IndexMissing, ModelDied, SmallholdError, Unavailable
from rag.filter import EVERYTHING, View
from rag.service import IndexFacts, Readiness, Service

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 0.25
# Seconds before what was refused is tried again: opening reads and hashes every file that is new.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """What answers come from: its `facts`, how often a generation was `taken` after the first, how often one `refused`.

    `fault` says why what was published last is not served, None where it is.
    """

    facts: IndexFacts | None
    taken: int
    refused: int
    fault: SmallholdError | None


class _Edition:
    """A service with the number of those who are at work on its index."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.users = 0
        self.retired = False


class Loader:
    """Runs `load` in a thread of its own, hands out what it returned, and after it what its `renew` returns.

    `published` returns something that changes whenever the index is published, such as the stamp of a file. Where
    `load` could not open the index, it is run again then.
    """

    def __init__(
        self,
        load: Callable[[], Service],
        published: Callable[[], object] = lambda: None,
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._load = load
        self._published = published
        self._look_seconds = look_seconds
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards what follows
        self._edition: _Edition | None = None
        self._error: SmallholdError | None = None  # why nothing could be loaded
        self._fault: SmallholdError | None = None  # why the newest generation is not served
        self._taken = 0
        self._refused = 0

    def start(self) -> None:
        """Begin loading. The thread is a daemon: an interrupt need not wait for gigabytes to be read."""
        threading.Thread(target=self._run, name="smallhold-load", daemon=True).start()

    def service(self) -> Service:
        """Return what is loaded, for what all generations share: names, embedder, prices. For the rest see `each`.

        Raises `Unavailable` while loading, and the loading's own error if it failed.
        """
        with self._lock:
            return self._current().service

    def each(self, work: Callable[[Service], Iterator[T]]) -> Iterator[T]:
        """Yield what `work` does with the service of the moment at which the first item is asked for.

        Its index stays open until the iterator has ended or is closed. Raises what `service` raises.
        """
        with self._held() as service:
            yield from work(service)

    def readiness(self) -> Readiness:
        """Return how far loading came, and after it how the model's process is."""
        with self._lock:
            service, error = self._served(), self._error
        if service is not None and service.keeper is not None:
            error = service.keeper.fault()
        if error is not None:
            coming = isinstance(error, ModelDied) and error.coming
            return Readiness("loading" if coming else "failed", error.message, error.hint, error.code)
        if service is not None:
            return Readiness("ready")
        return Readiness("loading", "the model and the index are being loaded")

    def index(self, view: View = EVERYTHING) -> IndexStatus:
        """Return what answers come from, counted as a view leaves it, and what became of what was published since."""
        with self._lock:
            taken, refused, fault = self._taken, self._refused, self._fault
        facts = None
        with suppress(SmallholdError), self._held() as service:  # there may be none yet
            facts = None if service.index is None else service.index(view)
        return IndexStatus(facts, taken, refused, fault)

    def restarts(self) -> int:
        """Return how often the model's process was started again."""
        with self._lock:
            service = self._served()
        return service.keeper.restarts if service is not None and service.keeper is not None else 0

    def model_bytes(self) -> int | None:
        """Return the memory that the model's process takes, None where there is none, or it is not known."""
        with self._lock:
            service = self._served()
        return service.keeper.resident_bytes() if service is not None and service.keeper is not None else None

    def prefixes(self) -> PrefixCounters | None:
        """Return how the model uses what it has read before, None while there is no model of ours."""
        with self._lock:
            service = self._served()
        return service.prefixes() if service is not None and service.prefixes is not None else None

    def close(self) -> None:
        """Close everything, now or as soon as a loading that is still under way hands it over. Idempotent."""
        self._closing.set()
        with self._lock:
            edition, self._edition = self._edition, None
        if edition is not None:
            self._retire(edition)
            edition.service.close()

    def _served(self) -> Service | None:
        return None if self._edition is None else self._edition.service

    def _current(self) -> _Edition:
        if self._edition is not None:
            return self._edition
        if self._error is not None:
            raise _again(self._error)
        raise Unavailable("the model and the index are still being loaded", hint="Try again in a moment.")

    @contextmanager
    def _held(self) -> Iterator[Service]:
        with self._lock:
            edition = self._current()
            edition.users += 1
        try:
            yield edition.service
        finally:
            with self._lock:
                edition.users -= 1
                last = edition.retired and edition.users == 0
            if last:
                _close(edition.service)

    def _retire(self, edition: _Edition) -> None:
        """Close what belongs to an edition alone, now or when the last who is at work on it has ended."""
        with self._lock:
            edition.retired = True
            idle = edition.users == 0
        if idle:
            _close(edition.service)

    def _run(self) -> None:
        """Load, then look for what is newer until the end."""
        seen, pause, due = self._published(), FIRST_PAUSE, 0.0
        done = self._take_first()
        while not self._closing.wait(self._look_seconds):
            stamp = self._published()
            if stamp != seen:
                pause = FIRST_PAUSE
            elif done or time.monotonic() < due:
                continue
            # What is published while this is being opened has another stamp, and is seen by the next look.
            seen = stamp
            done = self._take_newer() if self._edition is not None else self._take_first()
            due, pause = time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE)

    def _take_first(self) -> bool:
        """Load; whether there is nothing to be tried again. What only a change of the index can mend, is."""
        try:
            service = self._load()
        except (IndexMissing, IndexDamaged, IndexIncompatible) as error:
            self._fail(error)
            return False
        except SmallholdError as error:
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
            self._put(service)
        return True

    def _take_newer(self) -> bool:
        """Put a newer generation in the place of the one that is served; whether the newest is served now."""
        try:
            before = self.service()
            newer = before.renew() if before.renew is not None else None
        except SmallholdError as error:
            self._refuse(error)
            return False
        except Exception:
            if not self._closing.is_set():
                logger.exception("a newer generation of the index could not be opened")
            self._refuse(Unavailable("it could not be opened", hint="The server's log names the cause."))
            return False
        if newer is not None:
            self._put(replace(newer, loaded_at=before.loaded_at))
        with self._lock:
            self._fault = None
        return True

    def _fail(self, error: SmallholdError) -> None:
        error = _again(error)
        with self._lock:
            told, self._error = self._error, error
        if told is None or told.message != error.message:
            logger.error("loading failed: %s", error)

    def _refuse(self, error: SmallholdError) -> None:
        if self._closing.is_set():
            return
        error = _again(error)
        with self._lock:
            told, self._fault = self._fault, error
            self._refused += 1
        if told is None or told.message != error.message:
            logger.error("a newer generation of the index is refused, the one before stays: %s", error)

    def _put(self, service: Service) -> None:
        """Let what is asked from now on be answered by `service`."""
        with self._lock:
            before, closed = self._edition, self._closing.is_set()
            if not closed:
                self._edition, self._error = _Edition(service), None
                self._taken += before is not None
        if closed:
            _close(service)
            if before is None:
                service.close()
        elif before is not None:
            self._retire(before)
            generation = service.index(EVERYTHING).generation if service.index is not None else None
            logger.info("generation %s of the index is served now", generation)


def _again(error: SmallholdError) -> SmallholdError:
    """A copy without the traceback, which would keep alive what failed, and grow where many requests raise it."""
    return type(error)(error.message, hint=error.hint)


def _close(service: Service) -> None:
    close = getattr(service.pipeline, "close", None)
    if close is not None:
        close()

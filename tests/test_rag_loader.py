"""What is loaded, and what takes its place when the index is published: editions played by fakes, in real threads."""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import pytest

from rag.datatypes import Delta, Message, ScoredChunk
from rag.errors import ConfigError, IndexDamaged, IndexMissing, SmallholdError, Unavailable
from rag.filter import EVERYTHING, View
from rag.loader import Loader
from rag.pipeline import AskOptions
from rag.service import IndexFacts, Service
from tests.conftest import WordEmbedder


class Edition:
    """A pipeline that says which one it is."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0

    def stream(self, question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
        for _ in range(3):
            assert not self.closed
            yield Delta(str(self.number))

    def retrieve(self, question: str, history: Sequence[Message] = (), view: View = EVERYTHING) -> list[ScoredChunk]:
        return []

    def close(self) -> None:
        self.closed += 1


class Shelf:
    """An index that is published by `publish`; `broken` says what opening it raises."""

    def __init__(self) -> None:
        self.stamp = 0
        self.editions: list[Edition] = []
        self.broken: Exception | None = None
        self.opened_at: list[float] = []
        self.models_closed = 0

    def publish(self, broken: Exception | None = None) -> None:
        self.broken = broken
        self.stamp += 1

    def load(self) -> Service:
        self.opened_at.append(time.monotonic())
        if self.broken is not None:
            raise self.broken
        edition = Edition(self.stamp)
        self.editions.append(edition)

        def renew() -> Service | None:
            return None if self.broken is None and edition.number == self.stamp else self.load()

        def close() -> None:
            self.models_closed += 1

        return Service(
            edition,
            WordEmbedder(),
            Counter(),
            "small",
            "words",
            lambda _: [],
            loaded_at=float(len(self.opened_at)),
            index=lambda _: IndexFacts(f"{edition.number:06}", 10 * edition.number, 100),
            renew=renew,
            close=close,
        )


class Counter:
    def count(self, text: str) -> int:
        return len(text.split())


@contextmanager
def loading(shelf: Shelf) -> Iterator[Loader]:
    loader = Loader(shelf.load, lambda: shelf.stamp, look_seconds=0.01)
    loader.start()
    try:
        yield loader
    finally:
        loader.close()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def ready(loader: Loader) -> bool:
    return loader.readiness().status == "ready"


def served(loader: Loader) -> str:
    facts = loader.index().facts
    return "" if facts is None else facts.generation


def ask(loader: Loader) -> Iterator[Delta]:
    return loader.each(lambda service: service.pipeline.stream("?", [], AskOptions()))


def text(deltas: Iterator[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def test_a_new_generation_answers_what_is_asked_from_then_on() -> None:
    shelf = Shelf()
    with loading(shelf) as loader:
        until(lambda: ready(loader))
        assert text(ask(loader)) == "000"
        shelf.publish()
        until(lambda: served(loader) == "000001")
        assert text(ask(loader)) == "111"
        assert shelf.editions[0].closed == 1
        assert shelf.models_closed == 0
        assert loader.service().loaded_at == 1.0, "the models are as old as they were"
        assert (loader.index().taken, loader.index().refused, loader.index().fault) == (1, 0, None)
    assert [edition.closed for edition in shelf.editions] == [1, 1]
    assert shelf.models_closed == 1


def test_what_is_under_way_keeps_its_generation_until_the_last_of_it_has_ended() -> None:
    shelf = Shelf()
    with loading(shelf) as loader:
        until(lambda: ready(loader))
        first, second, unasked = ask(loader), ask(loader), ask(loader)
        begun = [next(first).text, next(second).text]
        shelf.publish()
        until(lambda: served(loader) == "000001")
        assert shelf.editions[0].closed == 0
        assert begun[0] + text(first) == "000"
        assert shelf.editions[0].closed == 0
        second.close()  # type: ignore[attr-defined]
        assert shelf.editions[0].closed == 1
        assert text(unasked) == "111", "what was not begun yet begins in the newest"


def test_an_answer_that_fails_lets_go_of_its_generation() -> None:
    shelf = Shelf()
    with loading(shelf) as loader:
        until(lambda: ready(loader))

        def fail(service: Service) -> Iterator[Delta]:
            shelf.publish()
            until(lambda: served(loader) == "000001")
            raise ConfigError("no")

        with pytest.raises(ConfigError):
            next(loader.each(fail))
        assert shelf.editions[0].closed == 1


def test_an_old_generation_is_not_kept_alive() -> None:
    shelf = Shelf()
    gc.collect()
    gc.disable()
    try:
        with loading(shelf) as loader:
            until(lambda: ready(loader))
            gone = weakref.ref(shelf.editions.pop())
            assert text(ask(loader)) == "000"
            shelf.publish(IndexDamaged("torn"))
            until(lambda: loader.index().fault is not None)
            shelf.publish()
            until(lambda: served(loader) == "000002")
            until(lambda: gone() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [IndexDamaged("torn", hint="Mend it."), IndexMissing("gone"), ValueError("odd")])
def test_a_bad_generation_is_refused_and_the_old_one_stays(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    with caplog.at_level(logging.ERROR, "rag.loader"), loading(shelf) as loader:
        until(lambda: ready(loader))
        shelf.publish(error)
        until(lambda: loader.index().fault is not None)
        assert (ready(loader), served(loader), text(ask(loader))) == (True, "000000", "000")
        fault = loader.index().fault
        assert isinstance(fault, SmallholdError)
        assert fault.__traceback__ is None
        if isinstance(error, SmallholdError):
            assert (fault.message, fault.hint) == (error.message, error.hint)
        shelf.publish()
        until(lambda: served(loader) == "000002")
        status = loader.index()
        assert (status.taken, status.fault) == (1, None)
        assert status.refused >= 1
    assert shelf.editions[0].closed == 1


def test_what_was_refused_is_tried_again_by_itself_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    with caplog.at_level(logging.ERROR, "rag.loader"), loading(shelf) as loader:
        until(lambda: ready(loader))
        shelf.publish(IndexDamaged("torn"))
        until(lambda: loader.index().refused == 2)
        assert [record.message for record in caplog.records] == [
            "a newer generation of the index is refused, the one before stays: torn"
        ]
        shelf.broken = None  # as when the rest of a copy has come, behind the pointer
        until(lambda: served(loader) == "000001")
        assert loader.index().fault is None


def test_pauses_between_tries_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.loader.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("rag.loader.LONGEST_PAUSE", 0.1)
    shelf = Shelf()
    with loading(shelf) as loader:
        until(lambda: ready(loader))
        shelf.publish(IndexDamaged("torn"))
        until(lambda: loader.index().refused >= 4)
    gaps = [later - earlier for earlier, later in pairwise(shelf.opened_at[1:5])]
    assert [gap >= pause for gap, pause in zip(gaps, (0.05, 0.1, 0.1), strict=True)] == [True, True, True]


def test_the_first_index_may_come_later() -> None:
    shelf = Shelf()
    shelf.broken = IndexMissing("there is no index", hint="Build one.")
    with loading(shelf) as loader:
        until(lambda: loader.readiness().status == "failed")
        assert loader.readiness().hint == "Build one."
        with pytest.raises(IndexMissing):
            loader.service()
        with pytest.raises(IndexMissing):
            next(ask(loader))
        shelf.publish()
        until(lambda: ready(loader))
        assert text(ask(loader)) == "111"
        assert loader.index().taken == 0


def test_what_no_index_can_mend_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.loader.FIRST_PAUSE", 0.01)
    shelf = Shelf()
    shelf.broken = Unavailable("no weights")
    with loading(shelf) as loader:
        until(lambda: loader.readiness().status == "failed")
        time.sleep(0.2)
        assert len(shelf.opened_at) == 1


def test_a_server_that_ends_meanwhile_closes_what_it_was_opening() -> None:
    shelf, entered, release = Shelf(), threading.Event(), threading.Event()
    load = shelf.load

    def slow() -> Service:
        service = load()
        entered.set()
        assert release.wait(10)
        return service

    loader = Loader(slow, lambda: shelf.stamp, look_seconds=0.01)
    loader.start()
    assert entered.wait(10)
    loader.close()
    release.set()
    until(lambda: shelf.models_closed == 1)
    assert shelf.editions[0].closed == 1

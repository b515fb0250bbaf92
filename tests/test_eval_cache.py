"""Answers that are kept: by the content of the request, with the seconds of their first time."""

import multiprocessing
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Thread

import pytest

from eval.cache import FILE, AnswerCache, request_key
from eval.recording import Recording, SavedAnswer
from eval.replay import CachedGenerator, CachedPipeline
from rag.datatypes import Answer, Message, Piece, Sampling, ScoredChunk, Usage
from rag.errors import EndpointFailed, Unavailable

ASK = [Message("system", "Be short."), Message("user", "Where is the mill?")]
PIECES = (
    Piece("", usage=Usage(20, 8, 0)),
    Piece("By ", -0.25, 1),
    Piece("the ", -0.5, 1),
    Piece("ri\ud800ver", None, 1),
    Piece("", finish_reason="stop", usage=Usage(20, 8, 3)),
)


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fixed = Clock()
    monkeypatch.setattr("eval.replay.time.perf_counter", fixed)
    return fixed


class Model:
    """Writes `PIECES`, a second each, and counts how often it was asked and closed."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock
        self.asked = 0
        self.closed = 0
        self.waited = 0.0
        self.breaks_at: int | None = None

    def count(self, text: str) -> int:
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        self.asked += 1
        if self.clock is not None:
            self.clock.now += self.waited
        try:
            for place, piece in enumerate(PIECES):
                if place == self.breaks_at:
                    raise EndpointFailed("broke off")
                if self.clock is not None:
                    self.clock.now += 1
                yield piece
        finally:
            self.closed += 1


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    opened = AnswerCache(tmp_path)
    yield opened
    opened.close()


def test_the_second_time_the_model_is_not_asked_and_says_the_same(cache: AnswerCache) -> None:
    model = Model()
    generator = CachedGenerator(model, cache, "weights")
    first = list(generator.stream(ASK, Sampling()))
    again = list(generator.stream(ASK, Sampling()))
    assert first == list(PIECES) and again == first
    assert (model.asked, model.closed, len(cache)) == (1, 1, 1)
    assert generator.count("one two") == 2


def test_whatever_moves_an_answer_is_part_of_the_request() -> None:
    base = request_key("weights", ASK, Sampling())
    assert request_key("weights", list(ASK), Sampling()) == base
    others = [
        request_key("other", ASK, Sampling()),
        request_key("weights", ASK[1:], Sampling()),
        request_key("weights", [ASK[0], Message("assistant", ASK[1].content)], Sampling()),
        request_key("weights", ASK, Sampling(max_tokens=65)),
        request_key("weights", ASK, Sampling(temperature=0.5)),
        request_key("weights", ASK, Sampling(seed=1)),
        request_key("weights", ASK, Sampling(top_p=0.5)),
        request_key("weights", ASK, Sampling(stop=("\n",))),
    ]
    assert len({base, *others}) == 9


def test_answers_outlive_the_process_and_hold_no_request(tmp_path: Path) -> None:
    first = AnswerCache(tmp_path)
    list(CachedGenerator(Model(), first, "https://host/?key=secret").stream(ASK, Sampling()))
    first.close()
    content = (tmp_path / FILE).read_bytes()
    assert b"secret" not in content and b"Where is the mill" not in content
    second, model = AnswerCache(tmp_path), Model()
    assert list(CachedGenerator(model, second, "https://host/?key=secret").stream(ASK, Sampling())) == list(PIECES)
    assert model.asked == 0
    second.close()


def test_what_is_damaged_is_asked_again(cache: AnswerCache, tmp_path: Path) -> None:
    model = Model()
    generator = CachedGenerator(model, cache, "weights")
    list(generator.stream(ASK, Sampling()))
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE answers SET answer = replace(answer, 'By', 'At')")
    assert [piece.text for piece in generator.stream(ASK, Sampling())][1] == "By "
    assert model.asked == 2


def test_an_error_is_not_kept(cache: AnswerCache) -> None:
    model = Model()
    model.breaks_at = 2
    with pytest.raises(EndpointFailed):
        list(CachedGenerator(model, cache, "weights").stream(ASK, Sampling()))
    assert len(cache) == 0


def test_a_reader_that_has_enough_leaves_a_beginning_that_another_one_may_want_to_go_beyond(cache: AnswerCache) -> None:
    model = Model()
    generator = CachedGenerator(model, cache, "weights")

    def read(pieces: int) -> list[Piece]:
        stream = generator.stream(ASK, Sampling())
        read = [next(stream) for _ in range(pieces)]
        stream.close()
        return read

    assert read(2) == read(2) == list(PIECES[:2])
    assert (model.asked, model.closed) == (1, 1)
    assert list(generator.stream(ASK, Sampling())) == list(PIECES)  # the rest is written by asking again
    assert model.asked == 2
    assert read(2) == read(3)[:2] == list(PIECES[:2])  # a whole answer serves all
    assert model.asked == 2 and len(cache) == 1


class Fickle(Model):
    """Writes its answers in turn, the last one for ever."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self._answers = list(answers)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        yield from (Piece(word + " ", -0.1, 1) for word in answer.split())
        yield Piece("", finish_reason="stop", usage=Usage(20, 8, 3))


class Reader:
    """A pipeline that reads as many pieces as it is told."""

    def __init__(self, generator: CachedGenerator) -> None:
        self._generator = generator
        self.pieces = 100

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        text = ""
        with closing(self._generator.stream(ASK, Sampling())) as stream:
            for piece in islice(stream, self.pieces):
                text += piece.text
        return Answer(text.strip())

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        return []


@pytest.mark.parametrize("second", ["In the north", "By", "Bythe river"])
def test_an_answer_is_never_put_together_of_two(cache: AnswerCache, second: str) -> None:
    """Endpoints do not answer alike each time, nor in the same pieces: what another run cut short may not go on."""
    generator = CachedGenerator(Fickle("By the river", second), cache, "endpoint")
    reader = Reader(generator)
    pipeline = CachedPipeline(reader, generator)
    reader.pieces = 2
    assert pipeline.answer("Where?").text == "By the"
    reader.pieces = 100
    for _ in range(2):
        assert pipeline.answer("Where?").text == second
    saved = cache.get(request_key("endpoint", ASK, Sampling()))
    assert saved is not None and saved.complete


def test_a_model_that_begins_otherwise_each_time_is_read_from_the_beginning(cache: AnswerCache) -> None:
    """A passage that is given up and chosen after all is asked for twice, and the second time counts whole."""
    generator = CachedGenerator(Fickle("A a", "B b", "C c", "D d"), cache, "weights")

    class Twice(Reader):
        def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
            self.pieces = 1
            super().answer(question)
            self.pieces = 100
            return super().answer(question)

    pipeline = CachedPipeline(Twice(generator), generator)
    assert [pipeline.answer("Where?").text for _ in range(2)] == ["D d"] * 2


def test_how_likely_declining_was_is_kept_and_asked_for_by_the_key(cache: AnswerCache) -> None:
    told = Recording((Piece("x", -0.5, 1, decline=0.25), Piece("", finish_reason="stop")), (1.0, 2.0), complete=True)
    cache.put("key", told)
    assert cache.get("key") == SavedAnswer(told)
    assert request_key("m", ASK, Sampling()) != request_key("m", ASK, Sampling(decline="unanswerable"))


def test_several_requests_of_one_question_add_up(cache: AnswerCache, clock: Clock) -> None:
    model = Model(clock)
    generator = CachedGenerator(model, cache, "weights")

    class TwoReadings(Pipeline):
        def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
            began = self._clock.now
            given_up = self._generator.stream([Message("user", "first")], Sampling())
            next(given_up), next(given_up), given_up.close()
            list(self._generator.stream([Message("user", question)], Sampling()))
            return Answer("", timings={"generate": self._clock.now - began})

    pipeline = CachedPipeline(TwoReadings(generator, clock), generator)
    assert pipeline.answer("Where?").timings == {"generate": 7.0}  # two pieces of the one, five of the other
    assert pipeline.answer("Where?").timings == {"generate": 7.0, "replayed": 7.0}


def test_a_replayed_answer_has_the_processor_seconds_of_its_first_time(cache: AnswerCache, clock: Clock) -> None:
    """Two threads: each second on the clock takes two of the processor."""
    generator = CachedGenerator(Model(clock), cache, "weights", cpu=lambda: 2 * clock.now)
    pipeline = CachedPipeline(Pipeline(generator, clock), generator)
    assert "replayed_cpu" not in pipeline.answer("Where?").timings
    again = pipeline.answer("Where?").timings
    assert (again["replayed"], again["replayed_cpu"]) == (5.0, 10.0)
    pipeline.answer("Where else?")
    cache.put("of before", Recording(PIECES, (1.0, 2.0, 3.0, 4.0, 5.0), complete=True))  # nobody measured it
    kept = cache.get("of before")
    assert kept is not None and kept.first.cpu == ()


def test_what_was_given_up_and_written_after_all_takes_the_processor_seconds_of_both(cache: AnswerCache) -> None:
    begun = Recording(PIECES[:2], (1.0, 2.0), complete=False, cpu=(2.0, 4.0))
    whole = Recording(PIECES, (3.0, 3.5, 4.0, 5.0, 6.0), complete=True, cpu=(6.0, 7.0, 8.0, 10.0, 12.0))
    saved = SavedAnswer(begun, whole)
    # The rest takes what it took the second time: 8, 10 and 12 less the 7 by the second piece, on top of 4.
    assert saved.replayed(again=False).cpu == (2.0, 4.0, 5.0, 7.0, 9.0)
    # Read again within one question the prompt is spared: the 7 until its first token.
    assert saved.replayed(again=True).cpu == (0.0, 0.0, 1.0, 3.0, 5.0)
    cache.put("key", begun), cache.put("key", whole)
    assert cache.get("key") == saved
    assert SavedAnswer(begun._replace(cpu=()), whole).replayed(again=False).cpu == ()


def test_two_models_one_after_the_other_take_the_seconds_of_both(cache: AnswerCache, clock: Clock) -> None:
    small, large = (CachedGenerator(Model(clock), cache, name) for name in ("small", "large"))
    away = CachedGenerator(Model(clock), cache, "away", here=False)

    class Two(Pipeline):
        """Reads three pieces of the first, and all of the second, whose reading a user has to wait for longer."""

        def __init__(self, second: CachedGenerator) -> None:
            self.second = second

        def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
            began = clock.now
            first = small.stream([Message("user", question)], Sampling())
            next(first), next(first), next(first), first.close()
            pieces = self.second.stream([Message("user", question)], Sampling())
            next(pieces), next(pieces)
            read = clock.now - began
            list(pieces)
            return Answer("", timings={"read": read, "generate": clock.now - began, "total": clock.now - began})

    for second, here in ((large, {}), (away, {"replayed_here": 3.0})):
        pipeline = CachedPipeline(Two(second), small, second)
        timings = {"read": 5.0, "generate": 8.0, "total": 8.0}
        first = pipeline.answer("Where?").timings
        assert {name: first[name] for name in timings} == timings
        assert pipeline.answer("Where?").timings == {**timings, "replayed": 8.0, **here}


def test_a_model_that_was_not_asked_changes_nothing(cache: AnswerCache, clock: Clock) -> None:
    generator, idle = (CachedGenerator(Model(clock), cache, name) for name in ("asked", "idle"))
    pipeline = CachedPipeline(Pipeline(generator, clock), generator, idle)
    assert pipeline.answer("Where?").timings == {"retrieve": 0.5, "read": 2.0, "generate": 5.0, "total": 5.5}
    again = {"retrieve": 0.5, "read": 2.0, "generate": 5.0, "total": 5.5, "replayed": 5.0}
    assert pipeline.answer("Where?").timings == again


def test_a_complete_answer_stays_as_it_was_the_first_time(cache: AnswerCache) -> None:
    whole = Recording(PIECES, (1.0, 2.0, 3.0, 4.0, 5.0), complete=True)
    cache.put("key", Recording(PIECES[:1], (9.0,), complete=False))
    cache.put("key", whole)
    cache.put("key", Recording(PIECES, (0.0,) * 5, complete=True))
    cache.put("key", Recording(PIECES[:1], (9.0,), complete=False))
    assert cache.get("key") == SavedAnswer(Recording(PIECES[:1], (9.0,), complete=False), whole)
    cache.drop("key")
    assert cache.get("key") is None


class Pipeline:
    """Reads as many pieces as it is told to; its clock is the model's."""

    def __init__(self, generator: CachedGenerator, clock: Clock, pieces: int = 5) -> None:
        self._generator, self._clock, self.pieces = generator, clock, pieces

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        began = self._clock.now
        self._clock.now += 0.5  # retrieval, which is not replayed
        generate, timings, text = self._clock.now, {"retrieve": 0.5}, ""
        stream = self._generator.stream([Message("user", question)], Sampling())
        for _ in range(self.pieces):
            piece = next(stream)
            if piece.tokens and "read" not in timings:
                timings["read"] = self._clock.now - generate
            text += piece.text
        generated = self._clock.now - generate
        stream.close()  # after the stage, as in RagPipeline
        return Answer(
            text,
            timings={**timings, "generate": generated, "total": self._clock.now - began},
        )

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        return []


def test_a_replayed_answer_has_the_seconds_of_its_first_time(cache: AnswerCache, clock: Clock) -> None:
    model = Model(clock)
    generator = CachedGenerator(model, cache, "weights")
    pipeline = CachedPipeline(Pipeline(generator, clock), generator)
    first = pipeline.answer("Where?")
    assert first.timings == {"retrieve": 0.5, "read": 2.0, "generate": 5.0, "total": 5.5}
    again = pipeline.answer("Where?")
    assert again.timings == {"retrieve": 0.5, "read": 2.0, "generate": 5.0, "total": 5.5, "replayed": 5.0}
    assert (again.text, model.asked, clock.now) == (first.text, 1, 6.0)  # 5.5 seconds, then half a second


def test_a_reader_that_stops_early_gets_the_seconds_up_to_there(cache: AnswerCache, clock: Clock) -> None:
    generator = CachedGenerator(Model(clock), cache, "weights")
    CachedPipeline(Pipeline(generator, clock), generator).answer("Where?")
    early = CachedPipeline(Pipeline(generator, clock, pieces=3), generator).answer("Where?")
    assert early.timings == {"retrieve": 0.5, "read": 2.0, "generate": 3.0, "total": 3.5, "replayed": 3.0}


def test_a_pipeline_that_reads_on_has_the_answer_written_again(cache: AnswerCache, clock: Clock) -> None:
    model = Model(clock)
    generator = CachedGenerator(model, cache, "weights")
    CachedPipeline(Pipeline(generator, clock, pieces=3), generator).answer("Where?")
    whole = CachedPipeline(Pipeline(generator, clock), generator).answer("Where?")
    assert model.asked == 2
    assert whole.timings == {"retrieve": 0.5, "read": 2.0, "generate": 5.0, "total": 5.5}


class Returning:
    """Reads, gives up after the first token, and unless `declines` asks for the same once more: passages read apart."""

    def __init__(self, generator: CachedGenerator, clock: Clock, *, declines: bool = False) -> None:
        self._generator = generator
        self._clock = clock
        self._declines = declines

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        began = self._clock.now
        opening = self._generator.stream([Message("user", question)], Sampling())
        text = next(opening).text + next(opening).text
        read = self._clock.now - began
        opening.close()
        if not self._declines:
            text = "".join(piece.text for piece in self._generator.stream([Message("user", question)], Sampling()))
        total = self._clock.now - began
        return Answer(text, timings={"read": read, "generate": total, "total": total})

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        return []


class Remembering(Model):
    """A model that keeps what it has read: asked again at once, the first token takes no time."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        assert self.clock is not None
        if self.asked:
            self.clock.now -= 2
        yield from super().stream(messages, sampling)


def test_a_passage_that_was_given_up_and_chosen_after_all_is_replayed_with_both_times(
    cache: AnswerCache, clock: Clock
) -> None:
    generator = CachedGenerator(Remembering(clock), cache, "weights")
    pipeline = CachedPipeline(Returning(generator, clock), generator)
    first = pipeline.answer("Where?")
    assert first.timings == {"read": 2.0, "generate": 5.0, "total": 5.0}  # two seconds of reading, three of writing
    assert pipeline.answer("Where?").timings == {**first.timings, "replayed": 5.0}


def test_a_passage_that_another_run_had_given_up_is_not_read_twice_within_a_question(
    cache: AnswerCache, clock: Clock
) -> None:
    model = Model(clock)
    generator = CachedGenerator(model, cache, "weights")
    declined = CachedPipeline(Returning(generator, clock, declines=True), generator).answer("Where?")
    assert declined.timings == {"read": 2.0, "generate": 2.0, "total": 2.0}
    pipeline = CachedPipeline(Returning(generator, clock), generator)
    whole = pipeline.answer("Where?")
    assert (whole.text, model.asked) == ("".join(piece.text for piece in PIECES), 2)
    assert whole.timings == {"read": 2.0, "generate": 5.0, "total": 5.0, "replayed": 2.0}
    assert pipeline.answer("Where?").timings == {**whole.timings, "replayed": 5.0}


def test_who_reads_on_at_once_gets_the_seconds_of_reading_and_of_writing(cache: AnswerCache, clock: Clock) -> None:
    generator = CachedGenerator(Remembering(clock), cache, "weights")
    CachedPipeline(Returning(generator, clock), generator).answer("Where?")
    straight = CachedPipeline(Pipeline(generator, clock), generator).answer("Where?")
    assert straight.timings == {"retrieve": 0.5, "read": 2.0, "generate": 5.0, "total": 5.5, "replayed": 5.0}


def test_waiting_for_a_turn_is_not_part_of_the_answer(cache: AnswerCache, clock: Clock) -> None:
    model = Model(clock)
    told = iter([0.0, *[7.0] * 5])  # before the request, and with each piece
    generator = CachedGenerator(model, cache, "weights", waited=lambda: next(told))
    model.waited = 7.0
    pipeline = CachedPipeline(Pipeline(generator, clock), generator)
    timings = {"retrieve": 0.5, "read": 2.0, "generate": 5.0, "total": 5.5}
    assert pipeline.answer("Where?").timings == timings
    assert clock.now == 12.5
    assert pipeline.answer("Where?").timings == {**timings, "replayed": 5.0}


def test_looking_up_and_saving_are_not_part_of_the_answer(
    cache: AnswerCache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, put = cache.get, cache.put

    def slow_get(key: str) -> Recording | None:
        clock.now += 10
        return get(key)

    def slow_put(key: str, recording: Recording) -> None:
        clock.now += 20
        put(key, recording)

    monkeypatch.setattr(cache, "get", slow_get)
    monkeypatch.setattr(cache, "put", slow_put)
    generator = CachedGenerator(Model(clock), cache, "weights")
    pipeline = CachedPipeline(Pipeline(generator, clock), generator)
    first, again = pipeline.answer("Where?").timings, pipeline.answer("Where?").timings
    assert first == {"retrieve": 0.5, "read": 2.0, "generate": 5.0, "total": 5.5}
    assert again == {**first, "replayed": 5.0}
    cut = CachedPipeline(Pipeline(generator, clock, pieces=3), generator).answer("How?").timings
    assert cut == {"retrieve": 0.5, "read": 2.0, "generate": 3.0, "total": 3.5}


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("something else, long enough to be looked at" * 100)
    with pytest.raises(Unavailable, match=r"answers.sqlite cannot be used: file is not a database"):
        AnswerCache(tmp_path)


def test_the_oldest_make_way(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, max_bytes=100_000)
    for number in range(100):
        cache.put(f"key {number}", Recording((Piece("x" * 4000, finish_reason="stop"),), (1.0,), complete=True))
    assert (tmp_path / FILE).stat().st_size < 130_000
    assert cache.get("key 0") is None and cache.get("key 99") is not None
    cache.put("huge", Recording((Piece("x" * 4_000_001),), (1.0,), complete=True))
    assert cache.get("huge") is None
    cache.close()


def write_many(folder: str, name: str) -> None:
    cache = AnswerCache(Path(folder))
    for number in range(50):
        cache.put(f"{name} {number}", Recording(PIECES, (1.0,) * 5, complete=True))
        cache.put(f"shared {number}", Recording(PIECES, (1.0,) * 5, complete=True))
    cache.close()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_many, args=(str(tmp_path), name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    cache = AnswerCache(tmp_path)
    assert len(cache) == 150
    assert all(cache.get(f"{name} {i}") is not None for name in ("a", "b", "shared") for i in range(50))
    cache.close()


def test_threads_share_the_answers_and_have_clocks_of_their_own(cache: AnswerCache) -> None:
    generator = CachedGenerator(Model(), cache, "weights")
    mine, theirs = generator.clock, []
    saved = Recording((Piece("a", finish_reason="stop"),), (0.5,), complete=True)

    def save() -> None:
        cache.put("key", saved)
        theirs.append(generator.clock)

    other = Thread(target=save)
    other.start()
    other.join()
    assert cache.get("key") == SavedAnswer(saved)
    assert theirs[0] is not mine and generator.clock is mine

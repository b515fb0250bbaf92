import math
import random
import threading
from collections.abc import Sequence
from itertools import pairwise

import pytest

from rag.datatypes import Sampling
from rag.engine import watch
from rag.engine.batch import AnyTask, plan
from rag.engine.context import Part
from rag.engine.sampling import Writer
from rag.engine.task import Scoring, Writing
from rag.errors import DeadlinePassed, ModelLoadFailed, Overloaded, SmallholdError, Unavailable
from rag.tuning import UNTUNED
from tests.engine_fakes import (
    VOCABULARY,
    FakeContext,
    FakeSpeller,
    follow,
    following,
    pieces,
    scheduler,
    scores,
    spelt,
    text,
    until,
    writing,
    written,
)

RANDOM = random.Random(4)


def prompt(length: int, first: int = 1) -> list[int]:
    return [first, *(RANDOM.randrange(1, VOCABULARY) for _ in range(length - 1))]


def test_one_answer_with_its_usage_and_progress() -> None:
    context = FakeContext()
    ask = prompt(300)
    with scheduler(context) as engine:
        task = writing(ask)
        engine.submit(task)
        told = pieces(task)
    assert "".join(piece.text for piece in told) == spelt(written(ask, 8))
    assert [piece.tokens for piece in told] == [0, 0, 0, *[1] * 8, 0]  # three chunks of at most 128
    assert told[-1].usage is not None
    assert (told[-1].usage.prompt, told[-1].usage.cached, told[-1].usage.completion) == (300, 0, 8)
    assert told[-1].finish_reason == "length"
    assert all(piece.logprob is not None and -1 < piece.logprob < 0 for piece in told if piece.tokens)


def test_many_answers_at_once_are_those_that_each_would_get_alone() -> None:
    context = FakeContext()
    asks = [prompt(RANDOM.randrange(1, 400)) for _ in range(40)]
    with scheduler(context) as engine:
        tasks = [writing(ask, Sampling(max_tokens=1 + i % 9)) for i, ask in enumerate(asks)]
        for task in tasks:
            engine.submit(task)
        for i, (ask, task) in enumerate(zip(asks, tasks, strict=True)):
            assert text(task) == spelt(written(ask, 1 + i % 9))
    assert max(len(batch) for batch in context.batches) == 4


def test_a_prefix_is_taken_over_and_only_the_rest_is_read() -> None:
    context = FakeContext()
    passage, first, second = prompt(200), prompt(20, 2), prompt(20, 3)
    with scheduler(context) as engine:
        asked = [[*passage, *first], [*passage, *second], [*passage, *second]]
        cached = []
        for ask in asked:
            task = writing(ask)
            engine.submit(task)
            last = pieces(task)[-1]
            assert last.usage is not None
            cached.append(last.usage.cached)
        counters = engine.counters()
    assert cached == [0, 200, 219]
    assert (counters.context.hits, counters.misses, counters.context.tokens) == (2, 1, 419)


def test_what_somebody_said_is_known_to_whoever_said_it_alone() -> None:
    context = FakeContext()
    passage, question = prompt(200), prompt(30, 2)
    with scheduler(context) as engine:

        def cached(owner: int) -> int | None:
            task = writing([*passage, *question], keep=200, common=200, owner=owner)
            engine.submit(task)
            assert text(task) == spelt(written([*passage, *question], 8))
            return task.cached

        assert [cached(owner) for owner in (1, 2, 2, 1)] == [0, 200, 229, 200]


def test_what_another_one_is_just_reading_is_taken_over_too() -> None:
    context = FakeContext()
    passage = prompt(300)
    with scheduler(context) as engine:
        context.gate.clear()
        first = writing([*passage, 1, 2])
        engine.submit(first)
        assert context.reading.wait(20)
        second = writing([*passage, 3, 4])
        engine.submit(second)
        context.gate.set()
        assert text(first) == spelt(written([*passage, 1, 2], 8))
        assert text(second) == spelt(written([*passage, 3, 4], 8))
    assert second.cached == 2 * UNTUNED.batch  # it waited for all but the last 44, which are read anew as fast


def test_a_passage_that_a_crowd_asks_about_is_read_once() -> None:
    context = FakeContext()
    passage = prompt(2 * UNTUNED.batch)
    asks = [[*passage, *prompt(10, 2 + i)] for i in range(8)]
    with scheduler(context, sequences=8) as engine:
        context.gate.clear()
        tasks = [writing(ask, Sampling(max_tokens=1)) for ask in asks]
        for task in tasks:
            engine.submit(task)
        context.gate.set()
        for ask, task in zip(asks, tasks, strict=True):
            assert text(task) == spelt(written(ask, 1))
    assert sum(len(part.tokens_n) for batch in context.batches for part in batch) == len(passage) + 8 * 10


def test_prompts_are_read_one_after_the_other_and_a_short_one_passes() -> None:
    context = FakeContext()
    with scheduler(context, sequences=6) as engine:
        context.gate.clear()
        long = [writing(prompt(600, i)) for i in range(1, 4)]
        for task in long:
            engine.submit(task)
        assert context.reading.wait(20)
        short = writing(prompt(40, 9))
        engine.submit(short)
        context.gate.set()
        for task in (*long, short):
            pieces(task)
    begun = {part.tokens_n[0]: at for at, batch in enumerate(context.batches) for part in batch if not part.position}
    assert begun[9] <= 2
    assert begun[2] >= begun[1] + 600 // UNTUNED.batch
    assert begun[3] >= begun[2] + 600 // UNTUNED.batch


def test_an_old_prompt_is_not_passed_for_ever() -> None:
    context = FakeContext()
    with scheduler(context, sequences=4) as engine:
        context.gate.clear()
        long = writing(prompt(2000), Sampling(max_tokens=1))
        engine.submit(long)
        assert context.reading.wait(20)
        crowd = [writing(prompt(100, 2 + i % 60), Sampling(max_tokens=1)) for i in range(60)]
        for task in crowd:
            engine.submit(task)
        context.gate.set()
        for task in (long, *crowd):
            pieces(task)
    ends = [at for at, batch in enumerate(context.batches) for p in batch if p.position + len(p.tokens_n) == 2000]
    later = sum(p.position == 0 for batch in context.batches[ends[0] + 1 :] for p in batch)
    assert later > 30, "half of the steps were its own"


def test_a_long_prompt_stalls_neither_an_answer_nor_a_short_prompt() -> None:
    context = FakeContext()
    with scheduler(context) as engine:
        context.gate.clear()
        running, long, short = writing(prompt(5), Sampling(max_tokens=900)), writing(prompt(1500)), writing(prompt(30))
        for task in (running, long, short):
            engine.submit(task)
        context.gate.set()
        for task in (running, long, short):
            pieces(task)
    sizes = [sorted(len(part.tokens_n) for part in batch) for batch in context.batches]
    reading = [batch for batch in sizes if batch[-1] > 100]
    assert len(reading) >= 1500 // UNTUNED.batch
    at = [i for i, batch in enumerate(sizes) if batch[-1] > 100]
    assert all(any(set(step) == {1} for step in sizes[a + 1 : b]) for a, b in pairwise(at[1:])), "tokens after each"
    begun = [
        i for i, batch in enumerate(context.batches) if any((p.position, len(p.tokens_n)) == (0, 30) for p in batch)
    ]
    assert begun[0] <= 2


def test_while_nobody_writes_more_is_read_at_once() -> None:
    context = FakeContext(batch=512)
    with scheduler(context, alone_tokens=500) as engine:
        context.gate.clear()
        long, running = writing(prompt(1200), Sampling(max_tokens=1)), writing(prompt(5), Sampling(max_tokens=60))
        engine.submit(long)
        assert context.reading.wait(20)
        engine.submit(running)
        context.gate.set()
        for task in (long, running):
            pieces(task)
    sizes = [sorted(len(part.tokens_n) for part in batch) for batch in context.batches]
    assert sizes[:3] == [[500], [500], [4, 200]]  # in turns, the newcomer after the one that is there
    assert len(sizes) == 3 + 59


def test_cancelling_frees_the_slot_also_while_reading_and_waiting() -> None:
    context = FakeContext()
    with scheduler(context, sequences=1) as engine:
        context.gate.clear()
        long, queued, last = writing(prompt(1000)), writing(prompt(1000)), writing(ask := prompt(10))
        for task in (long, queued, last):
            engine.submit(task)
        assert context.reading.wait(20)
        for task in (queued, long):
            engine.cancel(task)
        for task in (queued, long):
            with pytest.raises(Unavailable):
                pieces(task)  # while the gate is closed: the step was given up
        context.gate.set()
        assert text(last) == spelt(written(ask, 8))
    assert sum(len(part.tokens_n) for batch in context.batches for part in batch) == 10 + 7


def test_a_full_queue_refuses_at_once() -> None:
    context = FakeContext()
    with scheduler(context, sequences=1, waiting=2) as engine:
        context.gate.clear()
        first = writing(prompt(10))
        engine.submit(first)
        assert context.reading.wait(20)
        waiting = [writing(prompt(10)) for _ in range(2)]
        for task in waiting:
            engine.submit(task)
        with pytest.raises(Overloaded):
            engine.submit(writing(prompt(10)))
        context.gate.set()
        for task in (first, *waiting):
            assert len(text(task)) == 8


def test_deadlines_end_running_and_waiting_tasks() -> None:
    context = FakeContext()
    with scheduler(context, sequences=1) as engine:
        context.gate.clear()
        running = writing(prompt(10), Sampling(max_tokens=50, deadline=0.05))
        queued = writing(prompt(10), Sampling(max_tokens=50, deadline=0.05))
        free = writing(ask := prompt(10))
        for task in (running, queued, free):
            engine.submit(task)
        for task in (running, queued):
            with pytest.raises(DeadlinePassed):
                pieces(task)  # while the gate is closed: the step was given up
        context.gate.set()
        assert text(free) == spelt(written(ask, 8))


def shape(parts: Sequence[Part], without: int | None = None) -> list[tuple[int, int, int]]:
    return [(p.sequence, p.position, len(p.tokens_n)) for p in parts if p.sequence != without]


def test_a_step_that_others_share_is_done_again_for_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GRACE", 0.01)
    context = FakeContext()
    short, long, late = writing(ask := prompt(5)), writing(prompt(1000)), writing(other := prompt(7))
    before, gone = [], []
    with scheduler(context) as engine:

        def meanwhile(parts: Sequence[Part]) -> None:
            if len(parts) == 2 and not context.stopped:
                before.append(len(context.batches))
                gone.append(long.sequence)
                engine.submit(late)
                engine.cancel(long)
                until(lambda: context.stop)

        context.meanwhile = meanwhile
        engine.submit(short)
        engine.submit(long)
        assert text(short) == spelt(written(ask, 8))
        assert text(late) == spelt(written(other, 8))
        with pytest.raises(Unavailable):
            pieces(long)
    (given_up,) = context.stopped
    assert shape(context.batches[before[0]]) == shape(given_up, without=gone[0])


def test_a_step_that_others_share_may_end_by_itself_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GRACE", 60)
    context = FakeContext()
    short, long = writing(ask := prompt(5)), writing(prompt(1000))
    with scheduler(context) as engine:
        context.meanwhile = lambda parts: engine.cancel(long) if len(parts) == 2 else None
        engine.submit(short)
        engine.submit(long)
        assert text(short) == spelt(written(ask, 8))
        with pytest.raises(Unavailable):
            pieces(long)
    assert not context.stopped


def test_of_a_step_that_was_given_up_no_token_counts_as_read() -> None:
    context = FakeContext()
    ask = prompt(300)
    task, again = writing(ask), writing(ask)

    def meanwhile(parts: Sequence[Part]) -> None:
        if parts[0].position == UNTUNED.batch and not context.stopped:
            engine.cancel(task)
            until(lambda: context.stop)

    context.meanwhile = meanwhile
    with scheduler(context) as engine:
        engine.submit(task)
        with pytest.raises(Unavailable):
            pieces(task)
        engine.submit(again)
        assert text(again) == spelt(written(ask, 8))
    assert again.cached == UNTUNED.batch


def test_a_model_that_cannot_forget_gives_up_only_what_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GRACE", 0)
    context = FakeContext(forgets_parts=False)
    both = [writing(prompt(5)), writing(prompt(1000))]
    due: list[float] = []

    def meanwhile(parts: Sequence[Part]) -> None:
        if len(parts) == 2 and not context.stopped:
            engine.cancel(both[1])
            due.append(engine._watch._due())
            engine.cancel(both[0])
            until(lambda: context.stop)

    context.meanwhile = meanwhile
    with scheduler(context) as engine:
        for task in both:
            engine.submit(task)
        for task in both:
            with pytest.raises(Unavailable):
                pieces(task)
        again = writing(ask := prompt(200))
        engine.submit(again)
        assert text(again) == spelt(written(ask, 8))
    assert due == [math.inf]
    assert len(context.stopped) == 1


def test_a_pulse_shows_whether_the_thread_comes_round() -> None:
    context = FakeContext()
    with scheduler(context) as engine:
        engine.pulse()  # asleep
        context.gate.clear()
        engine.submit(task := writing(prompt(10)))
        assert context.reading.wait(20)
        pulse = threading.Thread(target=engine.pulse)
        pulse.start()
        until(lambda: bool(engine._pulses))
        assert pulse.is_alive()
        context.gate.set()
        pulse.join(20)
        assert not pulse.is_alive()
        assert len(text(task)) == 8
        engine.close()
        engine.pulse()  # does not wait for a thread that has ended


def test_a_failed_batch_fails_its_requests_and_the_engine_goes_on() -> None:
    context = FakeContext()
    with scheduler(context) as engine:
        context.broken = 1
        broken = writing(prompt(10))
        engine.submit(broken)
        with pytest.raises(ModelLoadFailed, match="could not be run"):
            pieces(broken)
        again = writing(ask := prompt(10))
        engine.submit(again)
        assert text(again) == spelt(written(ask, 8))


def test_closing_tells_those_in_flight() -> None:
    context = FakeContext()
    with scheduler(context, sequences=1) as engine:
        context.gate.clear()
        running, queued = writing(prompt(10)), writing(prompt(10))
        engine.submit(running)
        assert context.reading.wait(20)
        engine.submit(queued)
        engine.close()  # while the gate is closed: the step was given up
        for task in (running, queued):
            with pytest.raises(Unavailable):
                pieces(task)
        with pytest.raises(ModelLoadFailed):
            engine.submit(writing(prompt(3)))


def test_where_cells_run_out_nothing_is_lost() -> None:
    """Four answers of 200 tokens beside prompts of 100 fit by what is foreseen, and not by what they become."""
    context = FakeContext(cells=4 * (100 + 128) + 10)
    asks = [prompt(100, first) for first in (1, 2, 3, 4)]
    with scheduler(context, idle_cells=200) as engine:
        tasks = [writing(ask, Sampling(max_tokens=200)) for ask in asks]
        for task in tasks:
            engine.submit(task)
        for ask, task in zip(asks, tasks, strict=True):
            assert text(task) == spelt(written(ask, 200))
    again = [p for b in context.batches for p in b if p.position == 0 and len(p.tokens_n) > 100]
    assert again, "one was put back and read again, with what it had written"


def test_a_prompt_with_no_room_at_all_is_an_error() -> None:
    context = FakeContext(cells=50)
    with scheduler(context) as engine:
        task = writing(prompt(60))
        engine.submit(task)
        with pytest.raises(ModelLoadFailed, match="no room"):
            pieces(task)


def test_a_model_that_cannot_forget_reads_everything_anew() -> None:
    context = FakeContext(forgets_parts=False)
    ask = prompt(150)
    with scheduler(context) as engine:
        for _ in range(2):
            task = writing(ask)
            engine.submit(task)
            assert text(task) == spelt(written(ask, 8))
            assert task.cached == 0


def test_declining_holds_the_answer_until_its_reader_goes_on() -> None:
    context = FakeContext()
    ask = prompt(20)
    declined = following(ask)
    with scheduler(context, sequences=2) as engine:
        task = writing(ask, Sampling(max_tokens=5, decline=spelt([declined])))
        engine.submit(task)
        until(lambda: task.held)
        other = writing(rest := prompt(20))
        engine.submit(other)
        assert text(other) == spelt(written(rest, 8))
        assert task.length == 21, "nothing was written meanwhile"
        task.held = False
        engine.wake()
        told = [piece for piece in pieces(task) if piece.tokens]
    assert told[0].decline is not None and told[0].decline > 0.5
    assert told[0].text != spelt([declined])
    assert len(told) == 5


def test_scores_are_those_of_the_given_tokens() -> None:
    context = FakeContext()
    ask = prompt(200)
    right = written(ask, 3)
    with scheduler(context) as engine:
        first = Scoring(ask, right)
        engine.submit(first)
        high = scores(first)
        others = [Scoring(ask, [right[0], 1 + right[1] % 60, right[2]], inner=True)]
        others += [Scoring(ask, written(ask, n), inner=True) for n in range(1, 40)]
        for task in others:
            engine.submit(task)
        mixed = scores(others[0])
        assert all(len(scores(task)) == n + 1 for n, task in enumerate(others[1:]))
    assert min(high) > -1
    assert mixed[0] == high[0]
    assert mixed[1] < -4
    read = sum(len(part.tokens_n) for batch in context.batches for part in batch if part.position < 199)
    assert read == 202, "the prompt was read once, with the first continuation"


def test_scorings_and_a_long_prompt_fit_into_one_batch_together() -> None:
    """Eight scorings at their last token come on top of the answers that the batch has room for."""
    context = FakeContext(batch=UNTUNED.batch + 2)
    scorings: list[AnyTask] = []
    for number in range(8):
        task = Scoring(prompt(20 + number), [1], inner=True)
        task.sequence, task.read = number, task.length - 1
        scorings.append(task)
    long = writing(prompt(1000))
    long.sequence = 8
    turns = plan([*scorings, long], context, UNTUNED.batch)
    assert sum(turn.tokens for turn in turns) == context.batch
    assert [turn.tokens for turn in turns] == [1] * 8 + [UNTUNED.batch - 6]


@pytest.mark.parametrize("fickle", [0, 0.2])
def test_random_disconnects_lose_double_or_cross_nothing(fickle: float) -> None:
    """200 clients in 16 threads, a third of which break off somewhere, over a cache too small for all.

    A share of the steps is given up whether or not anybody has gone.
    """
    context = FakeContext(cells=900)
    whim = random.Random(7)

    def meanwhile(_: Sequence[Part]) -> None:
        context.stop = context.stop or whim.random() < fickle

    context.meanwhile = meanwhile
    passages = [prompt(150, first) for first in range(1, 6)]
    errors: list[BaseException] = []

    with scheduler(context, waiting=8, idle_cells=300) as engine:

        def client(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(13):
                question = [chance.randrange(1, VOCABULARY) for _ in range(chance.randrange(1, 30))]
                ask = [*chance.choice(passages), *question]
                count = chance.randrange(1, 60)
                task = writing(ask, Sampling(max_tokens=count))
                try:
                    engine.submit(task)
                except Overloaded:
                    continue
                try:
                    cut = chance.randrange(0, count) if chance.random() < 0.33 else None
                    follow(engine, task, spelt(written(ask, count)), cut)
                except BaseException as error:
                    errors.append(error)

        clients = [threading.Thread(target=client, args=(seed,)) for seed in range(16)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(120)
        assert errors == []
        until(lambda: not engine._active and not engine._queue)
        kept = {cell for held in context.held for cell, _ in held}
        assert len(kept) <= 300, "only idle prefixes stay"


def test_an_error_in_one_answer_leaves_the_others_alone() -> None:
    context = FakeContext()

    class Refusing(Writing):
        def take(self, *_: object) -> None:
            raise SmallholdError("refused")

    with scheduler(context) as engine:
        sampling = Sampling(max_tokens=8)
        bad, good = Refusing(prompt(10), sampling, Writer(FakeSpeller(), sampling)), writing(ask := prompt(10))
        engine.submit(bad)
        engine.submit(good)
        with pytest.raises(SmallholdError, match="refused"):
            pieces(bad)
        assert text(good) == spelt(written(ask, 8))

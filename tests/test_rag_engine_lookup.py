"""Guessing ahead changes nothing but the number of steps: the fake context's next token depends on all before it."""

import random
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from rag.datatypes import Piece, Sampling
from rag.engine.context import ContextFull, Part
from rag.engine.lookup import WRONG_IN_A_ROW, Lookup, LookupCounters, spellings
from rag.engine.sampling import Writer
from rag.engine.task import Scoring, Writing
from rag.errors import DeadlinePassed, InvalidRequest, ModelLoadFailed
from rag.protocols import FloatArray
from tests.engine_fakes import (
    VOCABULARY,
    FakeContext,
    FakeSpeller,
    copying,
    follow,
    pieces,
    scheduler,
    scores,
    spelt,
    text,
    until,
    writing,
    written,
)

MOST = 4


def tokens(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, np.int32)


def guess(source: Sequence[int], answer: Sequence[int], most: int = MOST) -> list[int]:
    return Lookup(FakeSpeller(), MOST).draft(tokens(*source), tokens(*answer), most).tolist()


def test_what_followed_the_longest_match_is_drafted() -> None:
    source = [1, 2, 3, 10, 11, 9, 2, 3, 20, 21, 22, 23, 24, 9, 9, 3, 30, 31]
    assert guess(source, [1, 2, 3]) == [10, 11, 9, 2]  # three are the same in one place alone
    assert guess(source, [5, 2, 3]) == [20, 21, 22, 23]  # two in two places: the later
    assert guess(source, [5, 5, 3]) == [30, 31]  # one; then the source is at its end
    assert guess(source, [3]) == [30, 31]
    assert guess(source, [2, 3], most=2) == [20, 21]
    assert guess(source, [1, 1, 2, 3]) == [10, 11, 9, 2]  # what lies further back is not compared


def test_nothing_is_drafted_from_nothing() -> None:
    assert guess([1, 2, 3], [40]) == []
    assert guess([1, 2, 3], [3]) == []  # nothing follows it
    assert guess([1, 2, 3], [2], most=0) == []
    assert guess([1, 2, 3], []) == []
    assert guess([], [1]) == []
    assert guess([1], [1]) == []


class Spaced(FakeSpeller):
    """A vocabulary in which every token from 10 on has a brother with a space before it, 20 further on."""

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        letter = super().tokens(text.strip())[0]
        return [letter + 20] if text.startswith(" ") and letter >= 10 else [1, letter]


def test_an_answer_s_first_token_is_found_with_the_space_that_it_has_within_a_sentence() -> None:
    assert spellings(Spaced(), 12) == (12, 32)
    assert spellings(Spaced(), 2) == (2,)
    lookup = Lookup(Spaced(), MOST)
    source_n = tokens(5, 32, 13, 14, 7, 8, 13, 15, 33)
    assert lookup.draft(source_n, tokens(12), 4).tolist() == [13, 14, 7, 8]
    assert lookup.draft(source_n, tokens(12, 13), 4).tolist() == [14, 7, 8, 13]  # and not the later 13
    assert Lookup(Spaced(), MOST).draft(source_n, tokens(8, 13), 4).tolist() == [15, 33]
    assert Lookup(Spaced(), MOST).draft(source_n, tokens(5, 12), 4).tolist() == []  # only the first one is spelt anew


def test_an_answer_that_is_guessed_wrong_again_and_again_is_left_alone() -> None:
    lookup, source_n = Lookup(FakeSpeller(), MOST), tokens(1, 2, 3)
    for accepted in [0] * (WRONG_IN_A_ROW - 1) + [1] + [0] * WRONG_IN_A_ROW:
        assert len(lookup.draft(source_n, tokens(1), 4))
        lookup.learn(accepted)
    assert not len(lookup.draft(source_n, tokens(1), 4))


def ask(chance: random.Random, length: int) -> list[int]:
    """A prompt with much repetition: a few words again and again."""
    words = [[chance.randrange(1, VOCABULARY) for _ in range(chance.randrange(1, 6))] for _ in range(6)]
    told = [token for _ in range(length) for token in chance.choice(words)]
    return told[:length]


def sampling_of(chance: random.Random) -> Sampling:
    """Any way of choosing tokens and of ending."""
    stop = tuple(spelt([chance.randrange(1, VOCABULARY) for _ in range(2)]) for _ in range(chance.randrange(0, 60)))
    temperature = chance.choice([0.0, 0.0, 0.7, 1.5])
    return Sampling(
        max_tokens=chance.randrange(0, 50),
        temperature=temperature,
        top_p=chance.choice([1.0, 0.9]),
        seed=chance.randrange(1000),
        stop=stop,
    )


def told_by(task: Writing) -> list[Piece]:
    """All that an answer says, without the pieces that only tell of progress."""
    return [piece for piece in pieces(task) if piece.tokens or piece.finish_reason]


def test_alone_every_piece_is_the_same_in_fewer_steps() -> None:
    """Text, probabilities, reasons to end and usage of 200 answers, greedy and drawn, with stop strings and ends."""
    chance = random.Random(7)
    asked = [(ask(chance, chance.randrange(1, 300)), sampling_of(chance)) for _ in range(200)]
    told, contexts = [], []
    for lookup in (0, MOST):
        contexts.append(context := FakeContext(follows=copying))
        with scheduler(context, sequences=1) as engine:
            told.append([])
            for prompt, sampling in asked:
                task = writing(prompt, sampling, lookup=lookup)
                engine.submit(task)
                told[-1].append(told_by(task))
            counters = engine.lookups()
    assert told[0] == told[1]
    reasons = [piece.finish_reason for said in told[0] for piece in said]
    assert reasons.count("stop") > 30 and reasons.count("length") > 30
    plain, guessed = (len(context.batches) for context in contexts)
    assert counters.drafted > counters.accepted > 300
    assert plain - guessed == counters.accepted, "every accepted token is a step less"


def test_greedy_answers_are_those_of_the_plain_loop() -> None:
    chance = random.Random(1)
    with scheduler(context := FakeContext(follows=copying), sequences=1) as engine:
        for most in range(1, 9):
            for _ in range(20):
                prompt, count = ask(chance, 150), chance.randrange(1, 60)
                task = writing(prompt, Sampling(max_tokens=count), lookup=most)
                engine.submit(task)
                assert text(task) == spelt(written(prompt, count, copying))
    widest = max(len(part.tokens_n) for batch in context.batches for part in batch if part.outputs > 1)
    assert widest == 1 + 8


@pytest.mark.parametrize("sequences", [2, 4])
def test_beside_others_every_answer_is_the_same(sequences: int) -> None:
    """Answers of 200 prompts, long and short, over a cache that is too small for all; some are scored too."""
    chance = random.Random(sequences)
    context = FakeContext(cells=900, follows=copying)
    with scheduler(context, sequences=sequences, waiting=500, idle_cells=200) as engine:
        asked = []
        for i in range(200):
            prompt, sampling = ask(chance, chance.randrange(1, 200)), Sampling(max_tokens=chance.randrange(1, 80))
            asked.append((writing(prompt, sampling, lookup=MOST), written(prompt, sampling.max_tokens, copying)))
            engine.submit(asked[-1][0])
            if i % 20 == 0:
                engine.submit(scoring := Scoring(prompt, right := written(prompt, 12, copying) or [3]))
                assert len(scores(scoring)) == len(right)
        for task, wanted in asked:
            assert text(task) == spelt(wanted)
        assert engine.lookups().accepted > 0


class Every:
    """Allows tokens that leave the remainder of how many there are already; says what it took note of."""

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        self.accepted: list[int] = []

    def allows(self, token: int) -> bool:
        return token % self.divisor == len(self.accepted) % self.divisor

    def masked(self, logits_v: FloatArray) -> FloatArray:
        places_v = np.arange(len(logits_v)) % self.divisor == len(self.accepted) % self.divisor
        return np.where(places_v, logits_v, np.float32(-np.inf)).astype(np.float32)

    def accept(self, token: int) -> None:
        assert self.allows(token)
        self.accepted.append(token)


def test_a_grammar_hears_only_of_what_is_written() -> None:
    chance = random.Random(3)
    accepted = 0
    for _ in range(50):
        prompt, sampling = ask(chance, 100), Sampling(max_tokens=30, temperature=chance.choice([0.0, 1.0]))
        told = []
        for lookup in (0, MOST):
            only = Every(2)
            with scheduler(FakeContext(follows=copying), sequences=1) as engine:
                task = writing(prompt, sampling, lookup=lookup, only=only)
                engine.submit(task)
                told.append(told_by(task))
                accepted += engine.lookups().accepted
            written_n = task.tokens_n[task.prompt : task.length].tolist()
            assert only.accepted == [token for token in written_n if token]
        assert told[0] == told[1]
    assert accepted > 25


class Nothing(Every):
    """Allows nothing after some tokens."""

    def allows(self, token: int) -> bool:
        return len(self.accepted) < self.divisor

    def masked(self, logits_v: FloatArray) -> FloatArray:
        return np.full_like(logits_v, -np.inf)


def repeating(tokens: Sequence[int]) -> int:
    """A model that says what followed the last token before, without fail."""
    return tokens[list(tokens[:-1]).index(tokens[-1]) + 1]


LOOP = [*range(1, 40), 1]


def test_an_error_in_the_middle_of_a_draft_ends_that_answer_alone() -> None:
    with scheduler(context := FakeContext(follows=repeating), sequences=2) as engine:
        bad = writing(LOOP, Sampling(max_tokens=20), lookup=MOST, only=Nothing(3))
        good = writing(LOOP, Sampling(max_tokens=20), lookup=MOST)
        for task in (bad, good):
            engine.submit(task)
        with pytest.raises(InvalidRequest, match="grammar"):
            pieces(bad)
        assert text(good) == spelt(written(LOOP, 20, repeating))
        again = writing(LOOP, Sampling(max_tokens=20), lookup=MOST)
        engine.submit(again)
        assert text(again) == spelt(written(LOOP, 20, repeating))
        assert all(context.tokens(s) == LOOP[: len(context.tokens(s))] for s in range(context.sequences))


def test_a_perfect_copy_takes_a_step_for_every_five_tokens() -> None:
    with scheduler(context := FakeContext(follows=repeating), sequences=1) as engine:
        task = writing(LOOP, Sampling(max_tokens=21), lookup=4)
        engine.submit(task)
        assert text(task) == spelt(written(LOOP, 21, repeating))
        counters = engine.lookups()
    # The prompt gives the first token; then 4 steps bring 5 each, the last of them 4 and the one that ends it.
    assert [len(batch[0].tokens_n) for batch in context.batches] == [40, 5, 5, 5, 5]
    assert (counters.drafted, counters.accepted) == (16, 16)


def test_no_guess_goes_beyond_the_longest_answer() -> None:
    with scheduler(context := FakeContext(follows=repeating), sequences=1) as engine:
        for count in range(5):
            task = writing(LOOP, Sampling(max_tokens=count), lookup=4)
            engine.submit(task)
            told = pieces(task)
            assert sum(piece.tokens for piece in told) == count
            assert told[-1].usage is not None and told[-1].usage.completion == count
    longest = max(part.position + len(part.tokens_n) for batch in context.batches for part in batch)
    assert longest == 40 + 3, "of four tokens the last is not read"


def test_the_question_is_not_copied_from() -> None:
    with scheduler(context := FakeContext(follows=repeating), sequences=1) as engine:
        task = writing([*range(50, 60), *LOOP], Sampling(max_tokens=8), keep=10, lookup=4)
        engine.submit(task)
        text(task)
        assert engine.lookups().drafted == 0
    assert len(context.batches) == 8


def test_with_three_answers_at_once_none_is_guessed() -> None:
    for answers, guesses in ((1, True), (2, True), (3, False)):
        with scheduler(context := FakeContext(follows=repeating)) as engine:
            context.gate.clear()
            tasks = [writing(LOOP, Sampling(max_tokens=20), lookup=4) for _ in range(answers)]
            for task in tasks:
                engine.submit(task)
            context.gate.set()
            for task in tasks:
                assert text(task) == spelt(written(LOOP, 20, repeating))
            assert (engine.lookups().drafted > 0) is guesses


def test_a_model_that_cannot_forget_is_not_guessed_for() -> None:
    with scheduler(context := FakeContext(follows=repeating, forgets_parts=False), sequences=1) as engine:
        task = writing(LOOP, Sampling(max_tokens=20), lookup=4)
        engine.submit(task)
        assert text(task) == spelt(written(LOOP, 20, repeating))
        assert engine.lookups().drafted == 0
    assert len(context.batches) == 20


def test_a_guess_takes_only_what_is_left_of_the_batch() -> None:
    """The answer's token, 41 of the prompt, and room for two more."""
    with scheduler(context := FakeContext(follows=repeating, batch=44)) as engine:
        context.gate.clear()
        answer = writing(LOOP, Sampling(max_tokens=40), lookup=4)
        engine.submit(answer)
        assert context.reading.wait(20)
        other = writing([60, *LOOP], Sampling(max_tokens=4), lookup=4)
        engine.submit(other)
        context.gate.set()
        text(answer)
        text(other)
    both = [sorted(len(part.tokens_n) for part in batch) for batch in context.batches if len(batch) > 1]
    assert [3, 41] in both
    assert max(sum(sizes) for sizes in both) == 44


def test_guesses_share_the_rows_of_logits() -> None:
    context = FakeContext(follows=repeating)
    context.outputs = 2 + 5
    with scheduler(context) as engine:
        context.gate.clear()
        tasks = [writing(LOOP, Sampling(max_tokens=30), lookup=4) for _ in range(2)]
        for task in tasks:
            engine.submit(task)
        context.gate.set()
        for task in tasks:
            assert text(task) == spelt(written(LOOP, 30, repeating))
    both = [sorted(part.outputs for part in batch) for batch in context.batches]
    assert [2, 5] in both


class Tight(FakeContext):
    """Has no cell for any draft."""

    refused = 0

    def read(self, parts: Sequence[Part]) -> None:
        if any(part.position and part.outputs > 1 for part in parts):
            self.refused += 1
            raise ContextFull
        super().read(parts)


def test_nobody_makes_room_for_a_guess() -> None:
    with scheduler(context := Tight(follows=repeating)) as engine:
        earlier = writing([50, *LOOP, *LOOP])
        engine.submit(earlier)
        text(earlier)
        tasks = [writing(LOOP, Sampling(max_tokens=20), lookup=4) for _ in range(2)]
        for task in tasks:
            engine.submit(task)
        for task in tasks:
            assert text(task) == spelt(written(LOOP, 20, repeating))
        counters = engine.lookups()
        assert context.refused > 0
        assert (counters.drafted, counters.accepted) == (0, 0)
        assert engine.counters().context.states == 2, "the earlier prefix is still there"
    begun = [part for batch in context.batches for part in batch if part.position == 0]
    assert len(begun) == 2 or (len(begun) == 3 and len(begun[-1].tokens_n) == len(LOOP)), "none was put back"


def test_a_held_answer_is_not_guessed_for() -> None:
    with scheduler(context := FakeContext(follows=repeating), sequences=1) as engine:
        task = writing(LOOP, Sampling(max_tokens=9, decline=spelt([50])), lookup=4)
        engine.submit(task)
        until(lambda: task.held)
        other = Scoring(LOOP, [2, 3], inner=True)
        engine.submit(other)
        scores(other)
        assert (task.length, engine.lookups().drafted) == (41, 0)
        task.held = False
        engine.wake()
        told = told_by(task)
    assert "".join(piece.text for piece in told) == spelt(written(LOOP, 9, repeating))
    assert [piece.decline is not None for piece in told] == [True, *[False] * 9]
    assert all(sum(len(p.tokens_n) for p in batch) <= 5 for batch in context.batches[1:])


class Pausing(Writing):
    """Is held after its fourth token, in the middle of a draft."""

    def take(self, index: int, logits_v: FloatArray, scratch_v: FloatArray) -> None:
        super().take(index, logits_v, scratch_v)
        self.held = self.length == self.prompt + 4


def test_what_was_guessed_after_an_answer_is_held_is_not_written() -> None:
    speller, sampling = FakeSpeller(), Sampling(max_tokens=12)
    with scheduler(FakeContext(follows=repeating), sequences=1) as engine:
        task = Pausing(LOOP, sampling, Writer(speller, sampling), lookup=Lookup(speller, 8))
        engine.submit(task)
        until(lambda: engine.lookups().drafted == 8)
        assert (task.length, engine.lookups().accepted) == (44, 2)
        task.held = False
        engine.wake()
        assert text(task) == spelt(written(LOOP, 12, repeating))


def test_an_answer_that_does_not_copy_is_soon_written_without() -> None:
    def backwards(tokens: Sequence[int]) -> int:
        return tokens[-1] - 1 or 39

    with scheduler(FakeContext(follows=backwards), sequences=1) as engine:
        for answers in (1, 2):
            task = writing(LOOP, Sampling(max_tokens=30), lookup=1)
            engine.submit(task)
            assert text(task) == spelt(written(LOOP, 30, backwards))
            assert engine.lookups() == LookupCounters(WRONG_IN_A_ROW * answers, 0)


def test_a_prompt_that_is_read_again_is_not_guessed_for() -> None:
    task = writing(LOOP, lookup=4)
    assert not len(task.draft(4))
    task.read = task.length
    logits_v = np.zeros(VOCABULARY, np.float32)
    logits_v[2] = 1.0
    task.take(task.length - 1, logits_v, np.empty_like(logits_v))
    assert task.draft(4).tolist() == [3, 4, 5, 6]
    task.read = 0  # it was put back
    assert not len(task.draft(4))


def test_deadlines_and_a_failing_context_are_as_without() -> None:
    with scheduler(context := FakeContext(follows=repeating), sequences=1) as engine:
        late = writing(LOOP, Sampling(max_tokens=20, deadline=0.0), lookup=4)
        engine.submit(late)
        with pytest.raises(DeadlinePassed):
            pieces(late)
        broken = writing(LOOP, Sampling(max_tokens=20), lookup=4)
        context.gate.clear()
        engine.submit(broken)
        assert context.reading.wait(20)
        context.broken = 1
        context.gate.set()
        with pytest.raises(ModelLoadFailed, match="could not be run"):
            pieces(broken)
        again = writing(LOOP, Sampling(max_tokens=20), lookup=4)
        engine.submit(again)
        assert text(again) == spelt(written(LOOP, 20, repeating))


def test_random_disconnects_lose_double_or_cross_nothing() -> None:
    """Two answers at once for 12 threads, a third of which break off somewhere, over a cache too small for all."""
    context = FakeContext(cells=700, follows=copying)
    chance = random.Random(5)
    passages = [ask(chance, 150) for _ in range(4)]
    errors: list[BaseException] = []

    with scheduler(context, sequences=2, idle_cells=300) as engine:

        def client(seed: int) -> None:
            chance = random.Random(seed)
            try:
                for _ in range(15):
                    prompt = [*chance.choice(passages), *ask(chance, chance.randrange(1, 30))]
                    count = chance.randrange(1, 60)
                    task = writing(prompt, Sampling(max_tokens=count), keep=150, lookup=MOST)
                    engine.submit(task)
                    cut = chance.randrange(0, count) if chance.random() < 0.33 else None
                    follow(engine, task, spelt(written(prompt, count, copying)), cut)
            except BaseException as error:
                errors.append(error)

        clients = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(120)
        assert errors == []
        until(lambda: not engine._active and not engine._queue)
        assert engine.lookups().accepted > 100
        assert context.used() <= 300, "only idle prefixes stay"

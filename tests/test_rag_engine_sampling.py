from collections.abc import Sequence

import numpy as np
import pytest

from rag.datatypes import Sampling
from rag.engine.sampling import StopText, Writer, choose_token, log_total
from rag.errors import InvalidRequest
from rag.protocols import FloatArray
from tests.engine_fakes import FakeSpeller, spelt


def test_greedy_choice_and_its_probability() -> None:
    logits = np.log(np.array([0.2, 0.5, 0.3], np.float32))
    assert choose_token(logits, Sampling(), np.random.default_rng(0)) == 1
    choice = Writer(FakeSpeller(), Sampling()).write(logits + 3, np.empty_like(logits))
    assert (choice.token, choice.text, choice.decline) == (1, spelt([1]), None)
    assert choice.logprob == pytest.approx(np.log(0.5), abs=1e-6)


def test_a_small_nucleus_leaves_only_the_likeliest() -> None:
    logits = np.log(np.array([0.2, 0.5, 0.3], np.float32))
    random = np.random.default_rng(0)
    chosen = {choose_token(logits, Sampling(temperature=1.0, top_p=0.4), random) for _ in range(50)}
    assert chosen == {1}


def test_sampling_follows_the_probabilities_and_the_seed() -> None:
    logits = np.log(np.array([0.2, 0.5, 0.3], np.float32))

    def draw(seed: int) -> list[int]:
        random = np.random.default_rng(seed)
        return [choose_token(logits, Sampling(temperature=1.0), random) for _ in range(2000)]

    assert draw(3) == draw(3)
    assert np.bincount(draw(3)) / 2000 == pytest.approx([0.2, 0.5, 0.3], abs=0.04)


def test_a_stop_string_is_found_across_pieces_and_never_shown() -> None:
    text = StopText(["\nQ:", "END"])
    shown = [text.add(piece) for piece in ("one\n", "two\n", "Q", ": more")]
    assert shown == ["one", "\ntwo", "", ""]
    assert text.stopped
    assert text.finish("rest") == ""


def test_what_only_looked_like_a_stop_string_comes_out_in_the_end() -> None:
    text = StopText(["END"])
    assert text.add("the EN") == "the "
    assert text.finish("") == "EN"
    assert not text.stopped


def test_the_softmaxs_denominator_is_that_of_double_precision() -> None:
    logits = np.random.default_rng(1).normal(0, 6, 150_000).astype(np.float32)
    exact = np.log(np.exp(logits.astype(np.float64)).sum())
    assert log_total(logits, np.empty_like(logits)) == pytest.approx(exact, abs=1e-4)


def test_declining_is_ruled_out_and_told_for_the_first_token_alone() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))
    writer = Writer(FakeSpeller(), Sampling(decline=spelt([1])))
    first, second = (writer.write(logits, np.empty_like(logits)) for _ in range(2))
    assert (first.token, first.decline) == (2, pytest.approx(0.6, abs=1e-6))
    assert first.logprob == pytest.approx(np.log(0.3 / 0.4), abs=1e-6)  # given that there is an answer
    assert (second.token, second.decline) == (1, None)


def test_an_answer_ends_by_its_end_token_its_length_or_a_stop_string() -> None:
    def finish(tokens: Sequence[int], sampling: Sampling) -> tuple[str, str | None]:
        writer, text = Writer(FakeSpeller(), sampling), ""
        for token in tokens:
            assert writer.finish is None
            logits = np.zeros(9, np.float32)
            logits[token] = 9
            text += writer.write(logits, np.empty_like(logits)).text
        return text + writer.rest(), writer.finish

    assert finish([3, 4, 0], Sampling()) == (spelt([3, 4]), "stop")
    assert finish([3, 4], Sampling(max_tokens=2)) == (spelt([3, 4]), "length")
    assert finish([3, 4, 5], Sampling(stop=(spelt([4, 5]),))) == (spelt([3]), "stop")


class Only:
    """Allows some tokens."""

    def __init__(self, *allowed: int) -> None:
        self.allowed = allowed
        self.accepted: list[int] = []

    def allows(self, token: int) -> bool:
        return token in self.allowed

    def masked(self, logits_v: FloatArray) -> FloatArray:
        masked = np.full_like(logits_v, -np.inf)
        masked[list(self.allowed)] = logits_v[list(self.allowed)]
        return masked

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_a_filter_leaves_the_distribution_among_what_it_allows() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.1, 0.3], np.float32))
    drawn = [0] * 4
    for seed in range(2000):
        only = Only(2, 3)
        choice = Writer(FakeSpeller(), Sampling(temperature=1.0, seed=seed), only).write(logits, np.empty_like(logits))
        assert only.accepted == [choice.token]
        drawn[choice.token] += 1
    assert np.array(drawn) / 2000 == pytest.approx([0, 0, 0.25, 0.75], abs=0.04)


def test_a_filter_that_allows_nothing_is_an_error() -> None:
    logits = np.zeros(4, np.float32)
    with pytest.raises(InvalidRequest, match="grammar"):
        Writer(FakeSpeller(), Sampling(), Only()).write(logits, np.empty_like(logits))

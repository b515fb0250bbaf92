"""The stages and the rule of `models tune`, with a made-up machine in place of llama.cpp."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.statistics import NOTHING, Estimate
from eval.tune import Outcome, Plan, search
from eval.tune_choice import (
    REGISTRY,
    Candidate,
    Shape,
    Speed,
    difference,
    faster,
    good_enough,
    pareto,
)
from eval.tune_lookup import QUESTIONS, Guesses, saved, total
from eval.tune_notes import Notes
from rag.errors import ModelLoadFailed
from rag.speed import Sample
from rag.tuning import Tuning

SHAPE = Shape(prompt=256, answer=8, written=16)
N = 40
KEY = {"cpu": "a"}

Seconds = Callable[[Candidate], tuple[float, float]]


def quiet(stage: str, done: int, total: int) -> None:
    assert 0 < done <= total, stage


def plan(*quantizations: str) -> Plan:
    return Plan(
        quantizations=quantizations,
        threads=[{"threads": 1}],
        batches=[{"batch": 64, "micro_batch": 64}, {"batch": 256, "micro_batch": 256}],
        attention=[
            {"flash_attention": "off", "kv_type": "f16"},
            {"flash_attention": "on", "kv_type": "q8_0"},
        ],
        shape=SHAPE,
        questions=tuple(f"q{i}" for i in range(N)),
        groups=np.arange(N),
    )


class Machine:
    """Times and answers by the book; counts what it is asked."""

    def __init__(self, seconds: Seconds, wrong: dict[str, int] | None = None) -> None:
        self.seconds = seconds
        self.wrong = wrong or {}  # quantization -> how many of the questions it gets wrong
        self.timed: list[Candidate] = []
        self.asked: list[tuple[Candidate, int]] = []
        self.dropped: list[str] = []
        self.stop_after = 10_000
        self.guessing: list[Candidate] = []
        self.right = 0.5  # of the guessed tokens

    def speed(self, candidate: Candidate) -> Sample:
        if len(self.timed) == self.stop_after:
            raise KeyboardInterrupt
        self.timed.append(candidate)
        return Sample(*self.seconds(candidate))

    def f1(self, candidate: Candidate, question: int) -> float:
        assert candidate.quantization not in self.dropped
        if len(self.timed) + len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((candidate, question))
        return float(question >= self.wrong.get(candidate.quantization, 0))

    def steps(self, candidate: Candidate, widths: Sequence[int]) -> Mapping[int, float]:
        # As with kernels that take four tokens at once: one more or less is not what it should be.
        return {width: {1: 0.03, 3: 0.07, 4: 0.045, 6: 0.09}[width] for width in widths}

    def guesses(self, candidate: Candidate, question: int) -> Guesses:
        assert 0 <= question < N
        self.guessing.append(candidate)
        drafted = 2 * candidate.tuning.lookup
        return Guesses(6, drafted, int(drafted * self.right))

    def drop(self, quantization: str) -> None:
        self.dropped.append(quantization)


def by_weights(**seconds: tuple[float, float]) -> Seconds:
    """Only weights matter; settings change nothing."""
    return lambda candidate: seconds[candidate.quantization or "own"]


def run(machine: Machine, tmp_path: Path, plan_: Plan) -> Outcome:
    return search(machine, Notes(tmp_path / "tune.json", KEY), plan_, quiet)


def test_seconds_of_the_usual_answer_and_rates() -> None:
    speed = Speed.of([Sample(2.0, 1.0), Sample(1.0, 0.5), Sample(4.0, 2.0)], SHAPE)
    # 8 of the 16 written tokens are an answer: 2 + 1/2, 1 + 1/4, 4 + 1 seconds.
    assert speed.seconds == (2.5, 1.25, 5.0)
    assert speed.read == (128.0, 64.0, 256.0)
    assert speed.write == (16.0, 8.0, 32.0)


def speed(read: float, write: float) -> Speed:
    return Speed.of([Sample(256 / read, 16 / write)], SHAPE)


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    a, b, c, d = (Candidate(name) for name in "abcd")
    speeds = {a: speed(100, 30), b: speed(200, 20), c: speed(90, 30), d: speed(150, 10)}
    assert pareto(speeds) == [b, a]  # 1.68 and 2.83 s; c reads and d writes slower than another that is no worse else
    assert pareto({a: speed(100, 30), b: speed(100, 30)}) == [a, b]


def test_a_gain_within_the_noise_is_none() -> None:
    assert faster(speed(100, 1000), speed(97, 970)) is False
    assert faster(speed(104, 1040), speed(100, 1000)) is True


def test_the_rule_wants_the_whole_interval_above_the_tolerance() -> None:
    assert good_enough(Estimate(-0.01, -0.029, 0.01, 76), 0.03)
    assert not good_enough(Estimate(0.02, -0.03, 0.07, 76), 0.03)  # better on average, but that cannot be told
    assert not good_enough(NOTHING, 0.03)


def test_the_difference_is_paired() -> None:
    # One of 40 questions lost: the mean is -1/40, and no draw of questions can be better than 0.
    own, other = [1.0] * N, [0.0, *[1.0] * (N - 1)]
    found = difference(own, other, np.arange(N))
    assert found.value == pytest.approx(-1 / N)
    assert found.low is not None and found.low < -1 / N
    assert found.high == 0.0
    assert difference(own, own, np.arange(N)) == Estimate(0.0, 0.0, 0.0, N)


def test_the_fastest_that_answers_as_well_is_chosen(tmp_path: Path) -> None:
    machine = Machine(by_weights(own=(2.5, 0.6), fast=(1.0, 0.4), slow=(3.0, 0.8)))
    outcome = run(machine, tmp_path, plan("fast", "slow"))
    assert outcome.chosen == Candidate("fast")
    assert outcome.verdicts == {Candidate("fast"): "chosen"}
    assert outcome.quality[Candidate("fast")] == (1.0, Estimate(0.0, 0.0, 0.0, N))
    assert set(machine.dropped) == {"slow"}


def test_a_faster_one_that_answers_worse_is_passed_over(tmp_path: Path) -> None:
    # "sound" is beaten by "fast" in both, and on the front once that is out.
    seconds = by_weights(own=(2.5, 0.6), fast=(1.0, 0.4), sound=(1.5, 0.4))
    machine = Machine(seconds, wrong={"fast": 12})
    outcome = run(machine, tmp_path, plan("fast", "sound"))
    assert outcome.chosen == Candidate("sound")
    worse = {c for c, verdict in outcome.verdicts.items() if verdict == "answers are worse"}
    assert len(worse) == 3 and {c.quantization for c in worse} == {"fast"}  # as it is, and with either attention
    assert outcome.verdicts[Candidate("sound")] == "chosen"
    assert outcome.quality[Candidate("fast")][0] == 28 / N
    assert set(machine.dropped) == {"fast"}


def test_what_cannot_be_told_is_not_taken(tmp_path: Path) -> None:
    machine = Machine(by_weights(own=(2.5, 0.6), fast=(1.0, 0.4)), wrong={"fast": 1})  # 1 of 40: -0.075 to 0
    outcome = run(machine, tmp_path, plan("fast"))
    assert outcome.chosen == REGISTRY
    assert outcome.verdicts[Candidate("fast")] == "not shown to answer as well"
    assert run(machine, tmp_path, replace(plan("fast"), tolerance=0.2)).chosen == Candidate("fast")


def test_where_nothing_is_faster_no_question_is_asked(tmp_path: Path) -> None:
    machine = Machine(by_weights(own=(1.0, 0.4), large=(0.99, 0.4)))
    outcome = run(machine, tmp_path, plan("large"))
    assert outcome.chosen == REGISTRY
    assert machine.asked == []


def test_candidates_take_turns(tmp_path: Path) -> None:
    machine = Machine(by_weights(own=(2.5, 0.6), a=(1.0, 0.4), b=(3.0, 0.8), c=(4.0, 0.8)))
    run(machine, tmp_path, plan("a", "b", "c"))
    names = [candidate.quantization for candidate in machine.timed]
    assert names[:8] == ["", "a", "b", "c", "", "a", "b", "c"]
    assert set(Counter(machine.timed).values()) == {5}
    # Settings are varied for the two best alone, one of which is the registry's own file here.
    assert {c.quantization for c in machine.timed if c.tuning != Tuning()} == {"a", ""}
    assert len(machine.timed) <= plan("a", "b", "c").most_samples


def test_settings_are_varied_one_after_the_other_from_the_best_so_far(tmp_path: Path) -> None:
    def seconds(candidate: Candidate) -> tuple[float, float]:
        t = candidate.tuning
        read = 1.0 - 0.2 * (t.threads == 1) - 0.2 * (t.batch == 256) - 0.2 * (t.kv_type == "q8_0")
        return read, 0.2

    machine = Machine(seconds)
    outcome = run(machine, tmp_path, plan())
    best = Tuning(threads=1, batch=256, micro_batch=256, flash_attention="on", kv_type="q8_0")
    assert outcome.chosen == Candidate("", best)
    assert {c.tuning.threads for c in machine.timed if c.tuning.batch != 128} == {1}
    assert {c.tuning.batch for c in machine.timed if c.tuning.kv_type == "q8_0"} == {256}


def test_threads_alone_change_no_answer_so_none_is_asked_twice(tmp_path: Path) -> None:
    machine = Machine(lambda c: (1.0 if c.tuning.threads == 1 else 2.0, 0.2))
    outcome = run(machine, tmp_path, plan())
    assert outcome.chosen == Candidate("", Tuning(threads=1))
    assert Counter(question for _, question in machine.asked) == dict.fromkeys(range(N), 1)


def test_a_batch_that_takes_longer_than_a_second_is_left_out(tmp_path: Path) -> None:
    machine = Machine(by_weights(own=(2.56, 0.6)))  # 100 tokens a second
    run(machine, tmp_path, plan())
    assert {c.tuning.batch for c in machine.timed} == {64, 128}


def test_what_does_not_run_is_out_of_the_race_and_told(tmp_path: Path) -> None:
    def seconds(candidate: Candidate) -> tuple[float, float]:
        if candidate.quantization == "bad":
            raise ModelLoadFailed("llama.cpp crashed")
        return (1.0 if candidate.quantization else 2.0), 0.2

    machine = Machine(seconds)
    outcome = run(machine, tmp_path, plan("bad", "good"))
    assert outcome.chosen == Candidate("good")
    assert outcome.verdicts[Candidate("bad")] == "llama.cpp crashed"
    assert "bad" in machine.dropped


def test_what_guessing_saves() -> None:
    # 50 steps of 30 ms saved; 120 guesses of a third of 15 ms; 100 steps without.
    assert saved({1: 0.03, 4: 0.045}, 3, Guesses(100, 120, 50)) == pytest.approx(0.30)
    assert saved({1: 0.03, 4: 0.12}, 3, Guesses(100, 120, 50)) == pytest.approx(-0.70)
    assert saved({1: 0.03, 4: 0.045}, 3, total([])) == 0.0
    assert total([Guesses(1, 2, 3), Guesses(10, 20, 30)]) == Guesses(11, 22, 33)


def test_the_best_guesses_ahead_as_far_as_that_pays(tmp_path: Path) -> None:
    machine = Machine(by_weights(own=(2.5, 0.6), fast=(1.0, 0.4)))
    outcome = run(machine, tmp_path, replace(plan("fast"), lookups=(2, 3, 5)))
    # Of 6 steps of 30 ms: 2 saved and 4 guesses of 20 ms, 3 and 6 of 5 ms, 5 and 10 of 12 ms.
    assert (outcome.chosen, outcome.lookup) == (Candidate("fast"), 3)
    assert outcome.lookup_saves == pytest.approx((3 * 30 - 6 * 5) / 180)
    asked = Counter(machine.guessing)
    assert asked == {Candidate("fast", Tuning(lookup=most)): QUESTIONS for most in (2, 3, 5)}
    machine.right = 0.2
    assert run(machine, tmp_path, replace(plan("fast"), lookups=(2, 3, 5))).lookup == 0  # 1 of 6: 30 ms against 30


def test_without_the_registry_s_file_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    def seconds(candidate: Candidate) -> tuple[float, float]:
        raise ModelLoadFailed("llama.cpp crashed")

    with pytest.raises(ModelLoadFailed):
        run(Machine(seconds), tmp_path, plan("a"))


@pytest.mark.parametrize("stop_after", [0, 7, 33, 60, 95])
def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path: Path, stop_after: int) -> None:
    seconds = by_weights(own=(2.5, 0.6), fast=(1.0, 0.4))
    whole = Machine(seconds)
    expected = run(whole, tmp_path / "whole", plan("fast"))
    first, second = Machine(seconds), Machine(seconds)
    first.stop_after = stop_after
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path, plan("fast"))
    assert run(second, tmp_path, plan("fast")) == expected
    assert len(first.timed) + len(second.timed) == len(whole.timed)
    assert len(first.asked) + len(second.asked) == len(whole.asked)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"key": {"cpu": "a"}, "samples": {"x": [[1]]}, "f1": {}}', '{"key": 1, "samples": 3}']
)
def test_damaged_notes_are_started_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "tune.json").write_text(text)
    notes = Notes(tmp_path / "tune.json", KEY)
    assert notes.samples("x") == []
    notes.add_sample("x", Sample(1.0, 2.0))
    assert Notes(tmp_path / "tune.json", KEY).samples("x") == [Sample(1.0, 2.0)]


def test_notes_of_another_machine_are_not_taken(tmp_path: Path) -> None:
    Notes(tmp_path / "tune.json", KEY).add_score("x", "q", 1.0)
    assert Notes(tmp_path / "tune.json", KEY).scores("x") == {"q": 1.0}
    assert Notes(tmp_path / "tune.json", {"cpu": "b"}).scores("x") == {}

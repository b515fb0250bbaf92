"""The engine's benchmark: its arithmetic from made-up timings, its judge, and one quick run with a real model."""

import json
import math
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine.__main__ import main, parse
from benchmarks.engine.client import PeerFailed, _events
from benchmarks.engine.journal import (
    BARE,
    LLAMA_CPP_PYTHON,
    LLAMA_SERVER,
    MACHINE,
    OURS,
    Journal,
    Spread,
)
from benchmarks.engine.limits import bytes_per_token, measure_bandwidth, prompt_matrices
from benchmarks.engine.measure import QUICK, Scale, measure_cold, measure_seen
from benchmarks.engine.ours import Weights
from benchmarks.engine.peers import settings_of
from benchmarks.engine.ratios import FURTHER, RATIOS
from benchmarks.engine.report import write
from benchmarks.engine.rounds import share_out
from benchmarks.engine.soak import Heard, Lead, Token, _lead_in, judge, plan_jobs, soak
from benchmarks.engine.systems import Reply
from benchmarks.engine.workload import Case, Shapes, seen_pairs, turns
from eval.flops import Tensor
from rag.datatypes import Message, Piece, Sampling, Usage
from rag.errors import DataError, Overloaded
from rag.prompt import Prompt
from tests.conftest import REPOSITORY, located, scored

PROMPT = Prompt(name="p", system="S", passage="{text}", user="{passages}\n\n{question}", closed_book="C")


def journal_of(*samples: tuple[str, str, Iterable[float]]) -> Journal:
    journal = Journal()
    for figure, system, values in samples:
        for run, value in enumerate(values):
            journal.add(figure, system, run, value)
    return journal


def ratio(journal: Journal, name: str) -> float | None:
    return next(r for r in (*RATIOS, *FURTHER) if r.name == name).compute(journal)


def case(question: str, *passages: str) -> Case:
    return Case(question, (f"answer to {question}",), tuple(scored(text, document=text) for text in passages))


class TalkingSystem:
    """A system that notes what it is asked and answers at once."""

    def __init__(self, name: str, first: float = 1.0) -> None:
        self.name = name
        self.first = first
        self.asked: list[str] = []

    def ask(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        self.asked.append(messages[-1].content)
        return Reply("word", 1, 7, self.first, self.first, self.first)


def test_the_ratios_have_the_names_that_are_asked_for() -> None:
    assert [r.name for r in RATIOS] == [
        "ttft_seen", "ttft_cold", "answers_per_minute", "tokens_per_second_8", "decode_share_of_limit",
        "prefill_share_of_limit", "python_share",
    ]  # fmt: skip


def test_medians_lie_between_quartiles() -> None:
    journal = journal_of(("x", OURS, [5.0, 1.0, 3.0, 2.0, 4.0]))
    assert journal.spread("x", OURS) == Spread(3.0, 2.0, 4.0, 5)
    assert journal.spread("x", LLAMA_SERVER) is None


def test_times_are_compared_with_the_quickest_peer() -> None:
    journal = journal_of(
        ("ttft_seen", OURS, [0.1, 0.1, 0.4]), ("ttft_seen", LLAMA_SERVER, [0.8]), ("ttft_seen", LLAMA_CPP_PYTHON, [0.5])
    )
    assert ratio(journal, "ttft_seen") == pytest.approx(0.2)
    assert RATIOS[0].reached(0.2) is True
    assert RATIOS[0].reached(0.21) is False
    assert RATIOS[0].reached(None) is None


def test_rates_are_compared_with_the_best_peer_and_eight_clients_with_llama_server() -> None:
    journal = journal_of(
        ("answers_per_minute", OURS, [60.0]), ("answers_per_minute", LLAMA_SERVER, [20.0]),
        ("answers_per_minute", LLAMA_CPP_PYTHON, [10.0]), ("f1", OURS, [1.0, 0.5]), ("f1", LLAMA_SERVER, [0.5, 0.0]),
        ("tokens_per_second_8", OURS, [30.0]), ("tokens_per_second_8", LLAMA_SERVER, [20.0]),
        ("tokens_per_second_8", LLAMA_CPP_PYTHON, [40.0]),
    )  # fmt: skip
    assert ratio(journal, "answers_per_minute") == 3.0
    assert ratio(journal, "f1_lead") == 0.5
    assert ratio(journal, "tokens_per_second_8") == 1.5
    assert ratio(journal, "tokens_per_second_8_python") == 0.75


def test_what_was_not_measured_is_no_ratio() -> None:
    assert {r.name: r.compute(Journal()) for r in (*RATIOS, *FURTHER)} == dict.fromkeys(
        r.name for r in (*RATIOS, *FURTHER)
    )
    alone = journal_of(("ttft_cold", OURS, [1.0]))
    assert ratio(alone, "ttft_cold") is None


def test_shares_of_the_limits() -> None:
    journal = journal_of(
        ("decode_tokens_per_second", OURS, [50.0]), ("bytes_per_token", MACHINE, [400e6]),
        ("bandwidth_read", MACHINE, [20e9]), ("bandwidth_copy", MACHINE, [40e9]),
        ("prefill_tokens_per_second", OURS, [100.0]), ("prompt_matrices", MACHINE, [350e6]),
        ("gemm_float32", MACHINE, [100e9]), ("gemm_int8", MACHINE, [280e9]),
        ("seconds_per_token", OURS, [0.020]), ("seconds_per_token", BARE, [0.019]),
    )  # fmt: skip
    # 50 tokens x 400 MB are 20 GB of the 40 that the faster kernel moved.
    assert ratio(journal, "decode_share_of_limit") == pytest.approx(0.5)
    # 2 x 350 M x 100 are 70 G of the 280 that int8 reached.
    assert ratio(journal, "prefill_share_of_limit") == pytest.approx(0.25)
    assert ratio(journal, "python_share") == pytest.approx(0.05)


def test_weights_that_are_read_and_those_that_a_prompt_passes() -> None:
    tied = {
        "token_embd.weight": Tensor(80, 100, 2),
        "blk.0.attn_q.weight": Tensor(64, 70, 2),
        "blk.0.attn_norm.weight": Tensor(8, 32, 1),
    }
    assert bytes_per_token(tied) == 202
    assert bytes_per_token({**tied, "output.weight": Tensor(80, 90, 2)}) == 192
    assert prompt_matrices({**tied, "output.weight": Tensor(80, 90, 2)}) == 64


def test_bandwidth_is_measured_by_every_kernel() -> None:
    journal = Journal()
    measure_bandwidth(journal, 0, threads=2, megabytes=2)
    assert journal.figures() == ["bandwidth_read", "bandwidth_copy", "bandwidth_scale"]
    assert all(sample.value > 0 for sample in journal.samples)


def test_pairs_share_the_best_passage_of_the_later_question() -> None:
    first, second, third = case("q1", "a", "b", "c"), case("q2", "b", "d", "e"), case("q3", "x", "y", "z")
    pairs = seen_pairs([second, third], [first, second, third], 3)
    assert pairs[0].found
    assert pairs[0].earlier.question == "q1"
    # Nobody else has x among the best: it is put second into another question's passages.
    assert not pairs[1].found
    assert [p.chunk.text for p in pairs[1].earlier.retrieved][:3] == ["b", "x", "d"]
    with pytest.raises(ValueError, match="two questions"):
        seen_pairs([first], [first], 3)


def test_seen_asks_ours_over_one_passage_and_peers_over_three() -> None:
    pairs = seen_pairs([case("q2", "b", "d", "e")], [case("q1", "a", "b", "c")], 3)
    ours, peer, journal = TalkingSystem(OURS, 0.1), TalkingSystem(LLAMA_SERVER, 0.9), Journal()
    steps: list[None] = []
    measure_seen(journal, 0, [ours, peer], pairs, Shapes(PROMPT, 3, 9), lambda: steps.append(None))
    assert ours.asked == ["b\n\nq1", "b\n\nq2"]
    assert peer.asked == ["a\n\nb\n\nc\n\nq1", "b\n\nd\n\ne\n\nq2", "b\n\nd\n\ne\n\nq1", "b\n\nd\n\ne\n\nq1"]
    assert journal.values("ttft_seen", OURS) == [0.1]
    assert journal.values("ttft_seen_prompt", LLAMA_SERVER) == [0.9]
    assert len(steps) == 2


def test_cold_prompts_are_the_same_for_all_and_new_each_time() -> None:
    systems, journal = [TalkingSystem(OURS), TalkingSystem(LLAMA_SERVER)], Journal()
    shapes, question = Shapes(PROMPT, 3, 9), case("q", "a", "b", "c")
    measure_cold(journal, 0, systems, [question], shapes, lambda: None)
    assert systems[0].asked == systems[1].asked
    beginnings = {shapes.unseen(question, f"Sheet {run}")[0].content for run in range(3)}
    assert beginnings == {"Sheet 0. S", "Sheet 1. S", "Sheet 2. S"}


def test_systems_take_turns() -> None:
    a, b, c = (TalkingSystem(name) for name in "abc")
    assert [[s.name for s in turns([a, b, c], at)] for at in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]
    ]  # fmt: skip


def test_a_small_set_is_shared_out() -> None:
    assert share_out(1000, Scale(runs=5, answers=12, seen=4, warm=12)) == (12, 4, 12)
    assert share_out(70, Scale(runs=5, answers=12, seen=4, warm=12)) == (6, 2, 6)
    with pytest.raises(DataError, match="too few"):
        share_out(4, Scale(runs=5))


def test_peers_are_not_handicapped() -> None:
    weights = Weights(Path("m.gguf"), repacked=True)
    server = settings_of(LLAMA_SERVER, weights, clients=8, room=1024, threads=2, port=1)
    assert (server["n_parallel"], server["n_ctx"], server["no_extra_bufts"]) == (8, 8192, False)
    python = settings_of(LLAMA_CPP_PYTHON, weights, clients=8, room=1024, threads=2, port=1)
    assert (python["interrupt_requests"], python["logits_all"], python["cache"]) == ("false", "false", "true")


def test_events_of_a_stream() -> None:
    lines = [": ping", 'data: {"choices": []}', "", "event: x", "data: [DONE]"]
    assert list(_events(iter(lines))) == [{"choices": []}]
    with pytest.raises(ValueError, match="full"):
        list(_events(iter(['data: {"error": "full"}'])))
    assert PeerFailed("llama-server", "is gone").peer == "llama-server"


EXPECTED = [Token("a"), Token(" b"), Token(" c"), Token(" d")]


def lead_of(nats: float) -> Lead:
    return lambda _expected, _heard: nats


@pytest.mark.parametrize(
    ("texts", "counted", "verdict"),
    [
        (["a", " b", " c", " d"], 4, "right"),
        (["a", " b"], None, "right"),  # hung up
        ([], None, "right"),
        (["a", " b"], 2, "lost"),  # its end is missing
        (["a", " b", " c", " d"], 5, "lost"),  # the engine wrote one more than came
        (["a", " c", " d"], 3, "lost"),
        (["a", " c", " d"], None, "lost"),
        (["a", " b", " b", " c"], None, "doubled"),
        (["a", " b", " c", " d", " d"], 4, "doubled"),
        (["a", " other"], None, "crossed"),
    ],
)
def test_tokens_lost_doubled_and_crossed(texts: list[str], counted: int | None, verdict: str) -> None:
    assert judge(EXPECTED, Heard([Token(text) for text in texts], counted), lead_of(9.0)) == verdict


def test_two_tokens_of_nearly_the_same_probability_may_change_places() -> None:
    asked: list[tuple[str, str]] = []

    def lead(expected: Sequence[Token], heard: Sequence[Token]) -> float:
        asked.append(("".join(t.text for t in expected), "".join(t.text for t in heard)))
        return 0.4

    assert judge(EXPECTED, Heard([Token("a"), Token(" z"), Token(" y")], 3), lead) == "near_tie"
    assert asked == [("a b", "a z")]
    assert judge(EXPECTED, Heard([Token("z")], 1), lead_of(4.0)) == "crossed"
    assert judge(EXPECTED, Heard([Token("z")], 1), lead_of(math.nan)) == "unclear"


def test_several_tokens_in_one_piece_are_the_same_answer() -> None:
    assert judge(EXPECTED, Heard([Token("a b", 2), Token(" c d", 2)], 4), lead_of(9.0)) == "right"


def test_hang_ups_are_drawn_within_the_answers() -> None:
    jobs = plan_jobs(3, 60, 12, [4, 1, 9], seed=1)
    broken = [job for job in jobs if job.hang_up is not None]
    assert (len(jobs), len(broken)) == (60, 12)
    assert all(job.hang_up is not None and job.hang_up < [4, 1, 9][job.prompt] for job in broken)
    assert jobs == plan_jobs(3, 60, 12, [4, 1, 9], seed=1)


class SpellingEngine:
    """Spells out each prompt's letters; `fault` spoils every answer but the first, as a broken engine would.

    Its own spelling is certain to it, any other 9 nats less likely, or 1 where it is the fault.
    """

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.asked: list[str] = []

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        text = messages[-1].content
        repeated = text in self.asked
        self.asked.append(text)
        if self.fault == "refuse" and self.asked.count(text) == 2:
            raise Overloaded("full")
        letters = list(text)
        yield Piece("", usage=Usage(3, 0, 0))
        for at, letter in enumerate(letters):
            if repeated and self.fault == "lose" and at == 1:
                continue
            wrong = repeated and self.fault in ("tie", "cross", "merge") and at == 1
            yield Piece("?" if wrong else letter, -0.1, 1)
        yield Piece("", finish_reason="length", usage=Usage(3, 0, len(letters)))

    def tokens(self, text: str) -> list[int]:
        return list(text.replace("?", "??").encode() if self.fault == "merge" else text.encode())

    end_of_turn = -1

    def score_tokens(self, messages: Sequence[Message], told: Sequence[list[int]]) -> list[list[float]]:
        unlikely = -1.0 if self.fault == "tie" else -9.0
        word = messages[-1].content.encode()
        return [[0.0 if word.startswith(bytes(tokens)) else unlikely] for tokens in told]


def run_soak(fault: str) -> dict[str, object]:
    chats = [[Message("user", word)] for word in ("first", "second", "third")]
    return soak(
        SpellingEngine(fault), chats, answers=30, hang_ups=6, clients=1, max_tokens=9, advance=lambda: None
    )  # fmt: skip


def test_a_soak_counts_every_answer() -> None:
    ends = run_soak("")
    assert (ends["right"], ends["hung_up"], ends["lost"], ends["refused_first"]) == (30, 6, 0, 0)


def test_a_soak_sees_what_is_lost_and_waits_where_the_queue_is_full() -> None:
    lost = run_soak("lose")["lost"]
    assert isinstance(lost, int)
    assert 24 <= lost <= 30  # those that hung up before the missing letter heard nothing wrong
    crossed = run_soak("cross")
    assert crossed["crossed"] == lost
    assert isinstance(crossed["apart"], list)
    assert len(crossed["apart"]) == lost
    assert crossed["apart"][0]["lead"] == 9.0
    assert run_soak("merge")["unclear"] == lost
    assert run_soak("tie")["near_tie"] == lost
    refused = run_soak("refuse")
    assert (refused["refused_first"], refused["right"]) == (3, 30)


def test_what_is_written(tmp_path: Path) -> None:
    journal = journal_of(("f1", OURS, [1.0, 0.0, 0.0]))
    write(tmp_path / "results" / "engine.json", journal, {"machine": {}, "complete": False}, None)
    content = json.loads((tmp_path / "results" / "engine.json").read_text())
    assert set(content["ratios"]) == {r.name for r in RATIOS}
    assert content["complete"] is False
    assert content["figures"]["f1"][OURS]["mean"] == pytest.approx(1 / 3)
    assert len(content["runs"]) == 3


def test_the_command_line() -> None:
    plan, path = parse(["--quick", "--runs", "3", "--skip-peers", "--out", "x.json"])
    assert plan.scale == QUICK._replace(runs=3)
    assert (plan.peers, plan.soak, path) == (False, False, Path("x.json"))
    with pytest.raises(SystemExit):
        parse(["--workloads", "nonsense"])


@pytest.mark.model
def test_a_quick_run_without_peers(tmp_path: Path) -> None:
    located("all-MiniLM-L6-v2")
    located("smollm2-135m-instruct")
    out = tmp_path / "engine.json"
    options = ["--quick", "--skip-peers", "--soak", "--model", "smollm2-135m-instruct", "--cache", str(tmp_path)]
    assert main([*options, "--data", str(REPOSITORY / "examples" / "qa"), "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["complete"] is True
    assert content["soak"]["right"] + content["soak"]["near_tie"] == content["soak"]["answers"]
    measured = {name for name, value in content["ratios"].items() if value is not None}
    assert measured == {"decode_share_of_limit", "prefill_share_of_limit", "python_share"}
    assert content["ratios"]["python_share"] < 1
    assert {"ttft_seen", "ttft_cold", "answers_per_minute", "tokens_per_second_8"} <= set(content["figures"])


def test_an_answer_that_ended_sooner_is_weighed_by_the_probability_of_its_end() -> None:
    chances = {(1, 2): -1.0, (1, 9): -1.2, (1,): -0.5}

    class Told:
        end_of_turn = 9

        def tokens(self, text: str) -> list[int]:
            return [1, 2][: len(text)]

        def score_tokens(self, messages: Any, told: Any) -> list[list[float]]:
            return [[chances[tuple(tokens)]] for tokens in told]

    lead = _lead_in(Told(), [])  # type: ignore[arg-type]
    on, ended = [Token("a"), Token("b")], [Token("a"), Token("")]
    assert lead(on, ended) == pytest.approx(0.2)
    heard = Heard(ended, 2)
    assert judge([*on, Token("")], heard, lead) == "near_tie"
    chances[1, 9] = -9.0
    assert judge([*on, Token("")], heard, lead) == "lost"
    assert math.isnan(lead(on, [Token("a"), Token("x", 2)]))

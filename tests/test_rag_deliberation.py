import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from rag.abstain import Abstention, Signal
from rag.build import build_deliberation, build_prompt
from rag.config import load_settings
from rag.datatypes import Delta, Message, Piece, Sampling, Usage, Verdict
from rag.deliberation import Attempt, Deliberation, load_wordings, vote
from rag.engine.generator import LlamaGenerator
from rag.errors import ConfigError
from rag.options import AskOptions
from rag.pipeline import RagPipeline
from rag.prompt import Example, Prompt, load_prompt
from tests.conftest import ListRetriever, scored

PROMPT = Prompt(
    name="test",
    system="Quote.",
    passage="{text}",
    user="{passages}\nQ: {question}",
    closed_book="From memory.",
    examples=(Example(title="t", passage="p", question="q", answer="a"),),
)
MILL = scored("The mill was built in 1874. It burned in 1902.", document="mill.md")
WORDINGS = load_wordings()


@dataclass
class Scripted:
    """A model that holds one sequence and says in turn what it was given, with a probability each."""

    says: list[tuple[str, float]]
    declines: Mapping[str, float] = field(default_factory=dict)
    asked: list[list[Message]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    open: int = 0

    def count(self, text: str) -> int:
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        assert self.open == 0, "the model holds one sequence"
        self.asked.append(list(messages))
        self.samplings.append(sampling)
        said, probability = self.says.pop(0)
        self.open += 1
        try:
            yield Piece("", usage=Usage(10, 0, 0))
            yield Piece(said, math.log(probability), 1, usage=Usage(10, 0, 1))
            yield Piece("", finish_reason="stop", usage=Usage(10, 0, 1))
        finally:
            self.open -= 1


def pipeline(model: Scripted, thinking: Deliberation | None, abstention: Abstention | None = None) -> RagPipeline:
    return RagPipeline(
        generator=model,
        counter=model,
        prompt=PROMPT,
        retriever=ListRetriever(MILL),
        deliberation=thinking,
        abstention=abstention,
        max_tokens=50,
    )


def attempt(text: str, probability: float) -> Attempt:
    return Attempt((Piece(text, math.log(probability), 1),), Usage())


def test_answers_vote_with_their_probability_and_those_that_say_the_same_together() -> None:
    # 0.6 against 0.4 + 0.3, of 1.3 in all.
    winner, agreement = vote([attempt("1874", 0.6), attempt("In 1902.", 0.3), attempt("in 1902", 0.4)])
    assert (winner.text, agreement) == ("In 1902.", pytest.approx(0.7 / 1.3))


def test_the_probability_of_an_answer_is_the_geometric_mean_of_its_tokens() -> None:
    pieces = (Piece("a", math.log(0.5), 1), Piece("b c", math.log(0.25 * 0.5), 2), Piece("", finish_reason="stop"))
    assert Attempt(pieces, Usage()).probability == pytest.approx(0.0625 ** (1 / 3))
    assert Attempt((Piece("a", tokens=1),), Usage()).probability == 1.0


def test_of_even_votes_the_first_wins_and_silence_has_none() -> None:
    assert vote([attempt("a1", 0.5), attempt("b1", 0.5)])[0].text == "a1"
    assert vote([attempt("", 0.9), attempt("b1", 0.2)]) == (attempt("b1", 0.2), 1.0)
    assert vote([attempt("", 0.9), attempt("the", 0.9)])[0].text == ""  # an article alone says nothing either


def test_samples_read_the_same_passage_with_seeds_of_their_own_and_the_winner_is_cited() -> None:
    model = Scripted([("1874", 0.5), ("in 1902", 0.4), ("1902", 0.3), ("In 1902", 0.45)])
    answer = pipeline(model, Deliberation(WORDINGS, samples=4, temperature=0.8)).answer("When did it burn?")
    assert (answer.text, answer.finish_reason) == ("in 1902", "stop")
    assert answer.signals["agreement"] == pytest.approx(0.85 / 1.65)
    assert [c.text for c in answer.citations] == ["It burned in 1902."]
    assert model.asked == [model.asked[0]] * 4
    assert [(s.temperature, s.seed) for s in model.samplings] == [(0.0, 0), (0.8, 1), (0.8, 2), (0.8, 3)]
    assert answer.usage == Usage(40, 0, 4)
    assert (answer.passages_read, model.open) == (1, 0)
    # The estimate is made from the first of those that agree, not from the likeliest.
    assert answer.signals["first_logprob"] == pytest.approx(math.log(0.4))


def test_a_request_that_draws_anyhow_keeps_its_temperature() -> None:
    model = Scripted([("1874", 0.5), ("1874", 0.4)])
    options = AskOptions(temperature=1.3, seed=7)
    pipeline(model, Deliberation(WORDINGS, samples=2)).answer("When?", options=options)
    assert [(s.temperature, s.seed) for s in model.samplings] == [(1.3, 7), (1.3, 8)]


def test_phrasings_ask_in_other_words_and_multiply_with_samples() -> None:
    model = Scripted([("1874", 0.5)] * 4)
    pipeline(model, Deliberation(WORDINGS, phrasings=2, samples=2)).answer("When?")
    asked = [messages[-1].content.partition("Q: ")[2] for messages in model.asked]
    other = WORDINGS.phrasings[0].replace("{question}", "When?")
    assert asked == ["When?", other, "When?", other]
    assert [s.temperature for s in model.samplings] == [0.0, 0.0, 0.7, 0.7]


def test_reasoning_comes_before_the_answer_and_is_neither_shown_nor_limited_by_its_length() -> None:
    model = Scripted([("begun", 0.9), ("The passage says it burned late.", 0.5), ("1902", 0.8)])
    answer = pipeline(model, Deliberation(WORDINGS, reason_tokens=20)).answer("When did it burn?")
    assert answer.text == "1902"
    assert [s.max_tokens for s in model.samplings] == [50, 20, 50]
    begun, thinking, concluding = model.asked
    # The worked examples answer at once, which is what is not wanted.
    assert [m.role for m in thinking] == ["system", "user"]
    assert thinking[0].content == WORDINGS.reason
    assert thinking[1] == begun[-1]
    assert concluding[:2] == thinking
    assert concluding[2:] == [
        Message("assistant", "The passage says it burned late."),
        Message("user", WORDINGS.conclude.replace("{question}", "When did it burn?")),
    ]
    assert answer.usage == Usage(30, 0, 3)  # what was begun and given up counts too
    assert [c.text for c in answer.citations] == ["It burned in 1902."]


def test_no_attempt_begins_after_its_time_but_the_first() -> None:
    model = Scripted([("1874", 0.5)] * 3)
    answer = pipeline(model, Deliberation(WORDINGS, samples=3, seconds=0.0)).answer("When?")
    assert (answer.text, len(model.asked), answer.signals["agreement"]) == ("1874", 1, 1.0)


def test_an_answer_that_won_is_still_withheld_where_it_is_unsure() -> None:
    grounded = Abstention(
        fitted_on="hand", threshold=0.5, intercept=-1.0, signals={"grounding": Signal(weight=2.0, best=1.0)}
    )
    model = Scripted([("1874", 0.2), ("Bonaparte", 0.4), ("Bonaparte", 0.5)])
    deltas = list(pipeline(model, Deliberation(WORDINGS, samples=3), grounded).stream("Who?"))
    assert all(delta.text == "" for delta in deltas)
    answer = deltas[-1].answer
    assert answer is not None and answer.verdict is Verdict.ABSTAINED
    assert answer.confidence == pytest.approx(0.2689, abs=1e-4)
    assert answer.usage == Usage(30, 0, 3)


@pytest.mark.parametrize("taken", range(1, 12))
@pytest.mark.parametrize("reason_tokens", [0, 5])
def test_it_can_be_cancelled_at_every_delta_and_leaves_no_stream_open(taken: int, reason_tokens: int) -> None:
    model = Scripted([("1874", 0.5)] * 9)
    thinking = Deliberation(WORDINGS, samples=3, phrasings=1, reason_tokens=reason_tokens)
    stream = pipeline(model, thinking).stream("When?")
    deltas: list[Delta] = [next(stream) for _ in range(taken)]
    stream.close()
    assert model.open == 0
    used = [delta.usage.prompt for delta in deltas if delta.usage is not None]
    assert used == sorted(used) and used[-1] == 10 * len(model.asked)


def test_without_deliberation_nothing_is_asked_twice() -> None:
    model = Scripted([("1874", 0.5)])
    answer = pipeline(model, None).answer("When?")
    assert (answer.text, len(model.asked)) == ("1874", 1)
    assert "agreement" not in answer.signals


def test_the_settings_are_off_as_shipped_and_refused_where_the_model_was_taught_to_copy() -> None:
    settings = load_settings()
    assert build_deliberation(settings, build_prompt(settings)) is None
    reasoning = load_settings(flags={"deliberation": {"reason_tokens": 32}})
    with pytest.raises(ConfigError, match="taught to copy") as refused:
        build_deliberation(reasoning, load_prompt("reader"))
    assert refused.value.hint is not None and "qwen2.5-coder-0.5b-instruct" in refused.value.hint
    plain = build_deliberation(reasoning, load_prompt("extractive"))
    assert plain is not None and plain.reason_tokens == 32
    many = load_settings(flags={"deliberation": {"phrasings": 9}})
    with pytest.raises(ConfigError, match="there are 5"):
        build_deliberation(many, load_prompt("reader"))


def test_a_real_model_samples_reasons_and_answers(tiny_llama: LlamaGenerator) -> None:
    thinking = Deliberation(WORDINGS, samples=2, reason_tokens=6)
    answering = RagPipeline(
        generator=tiny_llama,
        counter=tiny_llama,
        prompt=load_prompt("extractive"),
        retriever=ListRetriever(MILL),
        deliberation=thinking,
        max_tokens=6,
    )
    answer = answering.answer("When did the mill burn?")
    assert answer.text and 0 < answer.signals["agreement"] <= 1
    assert [c.document_id for c in answer.citations] == ["mill.md"]
    # One token was begun; each of the two attempts may think and answer in 6 tokens each.
    assert 4 < answer.usage.completion <= 1 + 2 * (6 + 6)
    assert answer.usage.cached > 0  # the second attempt reads little that the first has not read

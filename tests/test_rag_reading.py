import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rag.abstain import Abstention, Signal, decline_signal
from rag.build import build_pipeline
from rag.config import load_settings
from rag.datatypes import Delta, Message, Mode, Piece, Sampling, ScoredChunk, Usage
from rag.pipeline import RagPipeline
from rag.prompt import Prompt
from rag.reading import Reading, read_apart
from tests.conftest import ListRetriever, scored

PROMPT = Prompt(
    name="test", system="Quote.", passage="{text}", user="{passages}", closed_book="Guess.", decline="unanswerable"
)
A, B, C = (scored(text, document=text[0]) for text in ("a is red", "b is blue", "c is grey"))


class Declining:
    """Declines each passage with the probability it was given, else says the passage's last word."""

    def __init__(self, **declines: float | None) -> None:
        self.declines = declines
        self.asked: list[str] = []
        self.samplings: list[Sampling] = []
        self.open = 0

    def count(self, text: str) -> int:
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        text = messages[-1].content
        self.asked.append(text[0])
        self.samplings.append(sampling)
        assert self.open == 0, "the model holds one sequence"
        self.open += 1
        try:
            yield Piece("", usage=Usage(10, 2, 0))
            yield Piece(text.split()[-1], -0.1, 1, decline=self.declines[text[0]])
            yield Piece("", finish_reason="stop", usage=Usage(10, 2, 1))
        finally:
            self.open -= 1


def pipeline(model: Declining, *, abstention: Abstention | None = None, mode: Mode = "each") -> RagPipeline:
    return RagPipeline(
        generator=model,
        counter=model,
        prompt=PROMPT,
        retriever=ListRetriever(A, B, C),
        abstention=abstention,
        passages=3,
        mode=mode,
        enough=0.5,
    )


def test_the_first_passage_that_is_not_declined_is_answered_from() -> None:
    model = Declining(a=0.9, b=0.4, c=0.1)
    answer = pipeline(model).answer("which?")
    assert (answer.text, model.asked) == ("blue", ["a", "b"])
    assert [citation.document_id for citation in answer.citations] == ["b"]
    assert answer.signals["decline"] == pytest.approx(math.log(0.4 / 0.6))
    # One token was written of the first passage before it was given up; both prompts were read.
    assert answer.usage == Usage(20, 4, 2)
    assert answer.evidence_tokens == 6
    assert model.samplings[0].decline == "unanswerable"


@pytest.mark.parametrize(("enough", "read"), [(0.9, ["a"]), (0.3, ["a", "b", "c", "b"])])
def test_the_settings_say_from_which_doubt_on_the_next_passage_is_read(
    enough: float, read: list[str], tmp_path: Path
) -> None:
    prompt = tmp_path / "prompt.toml"
    prompt.write_text(
        'name = "t"\nsystem = "Quote."\npassage = "{text}"\nuser = "{passages} {question}"\nclosed_book = "Guess."\n'
    )
    chosen = {"generator": {"prompt": str(prompt)}, "abstention": {"enabled": False}}
    settings = load_settings(flags={**chosen, "evidence": {"enough": enough, "hops": 0}})
    model = Declining(a=0.9, b=0.4, c=0.5)
    build_pipeline(settings, model, ListRetriever(A, B, C)).answer("which?")
    assert model.asked == read


def test_where_all_are_declined_the_least_declined_is_read_again() -> None:
    model = Declining(a=0.9, b=0.7, c=0.8)
    answer = pipeline(model).answer("which?")
    assert (answer.text, model.asked) == ("blue", ["a", "b", "c", "b"])
    assert answer.usage == Usage(40, 8, 4)


def test_the_last_one_goes_on_where_it_is_the_least_declined() -> None:
    model = Declining(a=0.9, b=0.8, c=0.7)
    assert pipeline(model).answer("which?").text == "grey"
    assert model.asked == ["a", "b", "c"]


def test_a_passage_that_could_not_win_is_not_read() -> None:
    # log(1 - 0.7) = -1.2. A tenth of the score counts 0.5: b would reach -0.5 with one less, -1.5 with three less.
    def asked(score: float) -> list[str]:
        model, near = Declining(a=0.7, b=0.1), replace(B, score=score)
        answering = RagPipeline(
            generator=model, counter=model, prompt=PROMPT, retriever=ListRetriever(A, near), passages=2, enough=0.5
        )
        assert answering.answer("which?").passages_read == len(set(model.asked))
        return model.asked

    assert asked(A.score - 0.1) == ["a", "b"]
    assert asked(A.score - 0.3) == ["a"]


def test_nothing_is_read_again_for_an_answer_that_would_be_withheld() -> None:
    # -1 * log odds of 0.7 = -0.85: an estimate of 0.30.
    unsure = Abstention(fitted_on="hand", threshold=0.5, intercept=0, signals={"decline": Signal(weight=-1, best=-12)})
    model = Declining(a=0.9, b=0.7, c=0.8)
    answer = pipeline(model, abstention=unsure).answer("which?")
    assert answer.abstained and answer.text == ""
    assert "no passage read" in answer.reason
    assert model.asked == ["a", "b", "c"]
    assert answer.confidence == pytest.approx(0.3)


def test_a_model_that_cannot_tell_answers_from_the_best_passage() -> None:
    model = Declining(a=None)
    answer = pipeline(model).answer("which?")
    assert (answer.text, model.asked) == ("red", ["a"])
    assert "decline" not in answer.signals


def test_together_all_passages_are_one_prompt() -> None:
    model = Declining(a=0.9)
    answer = pipeline(model, mode="joint").answer("which?")
    assert (answer.text, model.asked, answer.evidence_tokens) == ("grey", ["a"], 9)


def test_cancelling_frees_the_model_whichever_passage_it_is_at() -> None:
    model = Declining(a=0.9, b=0.9, c=0.9)
    stream = pipeline(model).stream("which?")
    # The first prompt was given up with one token written; of the second one, nothing is written yet.
    assert [next(stream), next(stream)] == [Delta(usage=Usage(10, 2, 0)), Delta(usage=Usage(20, 4, 1))]
    assert model.asked == ["a", "b"]
    stream.close()
    assert model.open == 0


def test_what_was_used_is_told_up_to_the_delta_at_which_a_stream_may_be_closed() -> None:
    # Passage a is given up after one token, b begins its answer with the token that decided for it.
    *deltas, last = pipeline(Declining(a=0.9, b=0.4, c=0.1)).stream("which?")
    assert [delta.usage for delta in deltas] == [
        Usage(10, 2, 0),
        Usage(20, 4, 1),
        Usage(20, 4, 1),
        Usage(20, 4, 2),
        Usage(20, 4, 2),
    ]
    assert last.answer is not None
    assert last.answer.usage == Usage(20, 4, 2)


def test_a_reading_that_was_given_up_counts_what_it_used() -> None:
    model = Declining(a=0.9)

    def ask(passages: Sequence[ScoredChunk]) -> Generator[Piece, None, None]:
        return model.stream([Message("user", passages[0].chunk.text)], Sampling())

    reading = Reading([A], ask, tokens=3)
    assert (reading.begun, reading.usage) == (False, Usage())
    list(read_apart([reading], enough=0.5))
    assert (reading.decline, reading.usage) == (0.9, Usage(10, 2, 1))
    reading.give_up()
    assert (reading.usage, model.open) == (Usage(10, 2, 1), 0)


@pytest.mark.parametrize(("decline", "odds"), [(0.5, 0.0), (0.0, -12.0), (1.0, 12.0), (0.9, 2.1972)])
def test_odds_of_declining_are_kept_finite(decline: float, odds: float) -> None:
    assert decline_signal(decline)["decline"] == pytest.approx(odds, abs=1e-4)

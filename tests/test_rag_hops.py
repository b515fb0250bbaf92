"""Questions that need two passages: what is searched for next, and what is read of it."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import pytest

from rag.abstain import Abstention, Signal
from rag.datatypes import Message, Piece, Sampling, ScoredChunk, Usage
from rag.filter import EVERYTHING, View
from rag.hops import Hop, hop, may_need_two, missing
from rag.options import AskOptions
from rag.pipeline import RagPipeline
from rag.prompt import Prompt
from tests.conftest import scored

PROMPT = Prompt(
    name="test", system="Quote.", passage="{text}", user="{passages}", closed_book="Guess.", decline="unanswerable"
)
QUESTION = "In which old town was the director of the film The Salt Road born?"
FILM = scored("It was directed by Imre Valko and shot in Norrin.", document="film", title="The Salt Road", dense=0.8)
ROAD = scored("Salt was carried on roads.", document="road", title="Roads", dense=0.4)
VALKO = scored("Imre Valko was born in Tarsk.", document="valko", title="Imre Valko", dense=0.9)
NORRIN = scored("Norrin is a port.", document="norrin", title="Norrin", dense=0.5)


def test_what_the_passage_does_not_say_is_searched_for_with_the_names_in_it() -> None:
    words = missing(QUESTION, FILM)
    assert "born" in words.split()
    assert "Imre Valko" in words and "Norrin" in words
    assert "Salt" not in words and "Road" not in words


def test_a_question_about_two_things_has_more_to_say() -> None:
    assert may_need_two(QUESTION)
    assert not may_need_two("Who was the director of The Salt Road?")


def test_a_passage_that_names_nothing_new_leads_nowhere() -> None:
    assert missing(QUESTION, ROAD) == ""


def test_passages_are_as_good_as_the_search_and_what_led_to_them() -> None:
    def search(text: str) -> list[ScoredChunk]:
        assert "Valko" in text
        return [VALKO, FILM, NORRIN]

    led = hop(QUESTION, [FILM, ROAD], search, {FILM.chunk.id})
    assert [(step.bridge, step.passage.chunk.document_id) for step in led] == [(FILM, "valko"), (FILM, "norrin")]
    assert led[0].passage.score == pytest.approx(0.9)


def test_of_two_ways_to_a_passage_the_better_counts() -> None:
    other = scored("Norrin was ruled by Imre Valko.", document="rule", title="Rulers", dense=0.4)
    led = hop(QUESTION, [FILM, other], lambda text: [VALKO], ())
    assert led == [Hop(FILM, led[0].passage)]
    assert hop(QUESTION, [], lambda text: [VALKO], ()) == []


class Searching:
    """Finds the film, and whom it names once asked for him; keeps what was searched for and the views."""

    def __init__(self, later: Sequence[ScoredChunk] = (VALKO,)) -> None:
        self.asked: list[str] = []
        self.views: list[View] = []
        self.later = list(later)

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        self.asked.append(question)
        self.views.append(view)
        return [FILM, ROAD] if question == QUESTION else self.later


class Reader:
    """Declines every prompt but those over the passages named, from which it answers."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.open = 0

    def count(self, text: str) -> int:
        return len(text.split())

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        text = messages[-1].content
        self.asked.append(text)
        answer = next((said for part, said in self.answers.items() if part in text), None)
        assert self.open == 0, "the model holds one sequence"
        self.open += 1
        try:
            yield Piece(answer or "unanswerable", -0.1, 1, decline=0.1 if answer else 0.9)
            yield Piece("", finish_reason="stop", usage=Usage(10, 0, 1))
        finally:
            self.open -= 1


def pipeline(reader: Reader, found: Searching, **options: int | float | Abstention) -> RagPipeline:
    settings = {"passages": 2, "hops": 1, **options}
    return RagPipeline(generator=reader, counter=reader, prompt=PROMPT, retriever=found, **settings)  # type: ignore[arg-type]


def test_the_second_passage_is_read_with_the_one_that_led_to_it() -> None:
    reader, found = Reader({"born in Tarsk": "Tarsk"}), Searching()
    answer = pipeline(reader, found).answer(QUESTION)
    assert answer.text == "Tarsk"
    assert found.asked[0] == QUESTION and len(found.asked) == 2
    assert reader.asked[1] == f"{FILM.chunk.text}\n\n{VALKO.chunk.text}"
    assert [passage.chunk.document_id for passage in answer.retrieved] == ["film", "road", "valko"]
    assert [citation.document_id for citation in answer.citations] == ["valko"]
    assert answer.timings["hop"] >= 0
    assert answer.passages_read == 3  # the roads could not have won


def test_what_only_a_further_search_finds_near_enough_is_not_refused_before_it() -> None:
    """Else fewer answers would be given than were tested for a promise."""
    near = Abstention(fitted_on="", threshold=0.5, intercept=-8.5, signals={"cosine": Signal(weight=10.0, best=1.0)})
    assert near.confidence({"cosine": 0.8}) < 0.5 < near.confidence({"cosine": 0.9})
    reader = Reader({"born in Tarsk": "Tarsk"})
    assert pipeline(reader, Searching(), abstention=near).answer(QUESTION).text == "Tarsk"
    reader = Reader({"born in Tarsk": "Tarsk"})
    refused = pipeline(reader, Searching(), abstention=near, hops=0).answer(QUESTION)
    assert (refused.abstained, reader.asked) == (True, [])


def test_a_window_is_kept_to_in_what_a_further_search_finds() -> None:
    padded = [
        replace(passage, chunk=replace(passage.chunk, text=f"{passage.chunk.text} {'Nothing else is known. ' * 20}"))
        for passage in (FILM, VALKO)
    ]
    found = Searching([padded[1]])
    found.retrieve = lambda question, k, view=EVERYTHING: padded[:1] if question == QUESTION else padded[1:]  # type: ignore[method-assign]
    reader = Reader({"born in Tarsk": "Tarsk"})
    assert pipeline(reader, found, window=16).answer(QUESTION).text == "Tarsk"
    assert len(reader.asked) == 2 and all(len(prompt.split()) <= 2 * 16 for prompt in reader.asked)


def test_nothing_more_is_searched_for_once_a_passage_answers() -> None:
    reader, found = Reader({"directed by": "Norrin"}), Searching()
    assert pipeline(reader, found).answer(QUESTION).text == "Norrin"
    assert found.asked == [QUESTION]


def test_where_the_further_passages_are_declined_too_the_likeliest_of_all_is_taken() -> None:
    reader, found = Reader({}), Searching()
    answer = pipeline(reader, found, hops=2).answer(QUESTION)
    assert answer.signals["decline"] == pytest.approx(2.197, abs=0.01)
    assert len(found.asked) == 3 and found.asked[2].endswith("Imre Valko Tarsk")
    assert len(reader.asked) == 2  # the third search found nothing that was not read


def test_a_short_question_is_not_searched_for_again() -> None:
    found = Searching()
    pipeline(Reader({}), found).answer("Who carried salt?")
    assert found.asked == ["Who carried salt?"]


def test_steps_and_seconds_are_limited() -> None:
    for options in ({"hops": 0}, {"hop_seconds": 0.0}):
        found = Searching()
        pipeline(Reader({"born in Tarsk": "Tarsk"}), found, **options).answer(QUESTION)
        assert found.asked == [QUESTION]


def test_what_does_not_fit_the_budget_is_left_out() -> None:
    reader, found = Reader({"born in Tarsk": "Tarsk"}), Searching()
    pipeline(reader, found, evidence_tokens=15).answer(QUESTION)
    assert len(found.asked) == 2 and not any(VALKO.chunk.text in asked for asked in reader.asked)


def test_a_further_search_sees_no_more_than_the_first() -> None:
    found, view = Searching(), View(labels=frozenset({"hr"}))
    pipeline(Reader({}), found).answer(QUESTION, options=AskOptions(view=view))
    assert found.views == [view, view]

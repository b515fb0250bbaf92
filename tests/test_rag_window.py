"""Which sentences of a passage are read."""

import pytest

from rag.datatypes import Chunk, ScoredChunk, Span
from rag.text import words
from rag.window import nearest_window

TEXT = (
    "The mill stands in Tolmen. It was built in 1840. Ada Brandt built it of oak. It burned twice. Nobody lives there."
)


def count(text: str) -> int:
    return len(words(text))


def narrowed(question: str, tokens: int, text: str = TEXT) -> Chunk:
    chunk = Chunk("c", "d", text, Span(100, 100 + len(text)), {"title": "Tolmen mill"})
    return nearest_window(question, ScoredChunk(chunk, 1.0), tokens=tokens, count=count).chunk


@pytest.mark.parametrize(
    ("tokens", "read"),
    [
        (6, "Ada Brandt built it of oak."),
        (11, "It was built in 1840. Ada Brandt built it of oak."),
        (14, "It was built in 1840. Ada Brandt built it of oak. It burned twice."),
        (2, "Ada Brandt built it of oak."),  # whole, however long
        (100, TEXT),
    ],
)
def test_the_nearest_sentence_and_its_neighbours(tokens: int, read: str) -> None:
    chunk = narrowed("Who was the builder of the mill, Brandt?", tokens)
    assert chunk.text == read
    start = 100 + TEXT.index(read)
    assert chunk.span == Span(start, start + len(read))


def test_the_title_is_what_all_of_it_is_about() -> None:
    # Two words of the question are in the first sentence, but they only name the document.
    assert narrowed("Did Tolmen mill burn?", 4).text == "It burned twice."
    # Where nothing else is asked, the title's words count.
    assert narrowed("Tolmen?", 5).text == "The mill stands in Tolmen."


def test_a_neighbour_that_does_not_fit_ends_its_side() -> None:
    text = "One. " + "long " * 20 + "sentence. The oak fell. Two words. Three more words."
    assert narrowed("oak", 9, text).text == "The oak fell. Two words. Three more words."


def test_a_question_of_no_known_words_reads_from_the_beginning() -> None:
    assert narrowed("?", 10).text == "The mill stands in Tolmen. It was built in 1840."


def test_text_without_sentences() -> None:
    assert narrowed("oak", 3, "oak, " * 50 + "oak").text == "oak, " * 50 + "oak"

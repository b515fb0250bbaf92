import pytest

from rag.cite import cite, grounding
from tests.conftest import scored


def test_grounding_counts_the_words_that_stand_in_the_text() -> None:
    assert grounding("the Ada Brandt bridge", "Built by ADA Brandt.") == pytest.approx(2 / 3)
    assert grounding("", "anything") == 0
    assert grounding("of the", "end of the line") == 1  # where nothing carries meaning, every word counts


def test_the_sentence_that_says_so_is_quoted() -> None:
    passage = scored("Ada Brandt lived here. The mill was finished in 1874 by Ada Brandt.", start=10)
    (citation,) = cite("Who finished the mill?", "Ada Brandt", [passage])
    assert citation.text == "The mill was finished in 1874 by Ada Brandt."
    assert passage.chunk.text[citation.span.start - 10 : citation.span.end - 10] == citation.text


def test_passages_that_hold_less_of_the_answer_are_not_sources() -> None:
    whole = scored("Founded by Ada Brandt.", document="a")
    half = scored("Ada was here.", document="b")
    assert [c.document_id for c in cite("Who?", "Ada Brandt", [half, whole])] == ["a"]


def test_two_passages_that_say_the_same_are_both_cited_in_order() -> None:
    first, second = scored("In 1874.", document="a"), scored("It was 1874.", document="b")
    assert [(c.index, c.document_id) for c in cite("When?", "1874", [first, second])] == [(1, "a"), (2, "b")]


def test_an_answer_in_no_passage_cites_what_was_read_first() -> None:
    passages = [scored("The mill was closed.", document="a"), scored("Nothing.", document="b")]
    assert [c.document_id for c in cite("Is it open?", "no", passages)] == ["a"]
    assert cite("Is it open?", "no", []) == ()

from collections.abc import Sequence

import numpy as np
import pytest

from rag.cite import cite, grounding
from rag.protocols import FloatArray
from tests.conftest import scored


class Meanings:
    """An embedder that knows which texts mean the same: by the number given to each, orthogonal where they differ."""

    def __init__(self, **same: int) -> None:
        self._same = {text.replace("_", " "): number for text, number in same.items()}
        self.asked = 0

    def embed(self, texts: Sequence[str]) -> FloatArray:
        self.asked += 1
        rows = [self._same.get(text.rstrip("."), 7) for text in texts]
        return np.eye(8, dtype=np.float32)[rows]


def test_grounding_counts_the_words_that_stand_in_the_text() -> None:
    assert grounding("the Ada Brandt bridge", "Built by ADA Brandt.") == pytest.approx(2 / 3)
    assert grounding("", "anything") == 0
    assert grounding("of the", "end of the line") == 1  # where nothing carries meaning, every word counts


def test_the_sentence_that_says_so_is_quoted() -> None:
    passage = scored("Ada Brandt lived here. The mill was finished in 1874 by Ada Brandt.", start=10)
    (sentence,), (citation,) = cite("Who finished the mill?", "Ada Brandt", [passage])
    assert citation.text == "The mill was finished in 1874 by Ada Brandt."
    assert passage.chunk.text[citation.span.start - 10 : citation.span.end - 10] == citation.text
    assert (sentence.span, sentence.citations, sentence.score, sentence.supported) == ((0, 10), (1,), 1.0, True)


def test_passages_that_hold_less_of_the_answer_are_not_sources() -> None:
    whole = scored("Founded by Ada Brandt.", document="a")
    half = scored("Ada was here.", document="b")
    assert [c.document_id for c in cite("Who?", "Ada Brandt", [half, whole]).citations] == ["a"]


def test_a_passage_that_has_the_words_apart_is_no_source_beside_one_with_a_sentence_of_them() -> None:
    apart = scored("The Scottish weather is wet. No government changes that.", document="a")
    together = scored("Members ask the Scottish Government.", document="b")
    assert [c.document_id for c in cite("Who is asked?", "Scottish Government", [apart, together]).citations] == ["b"]
    (sentence,), (citation,) = cite("Who is asked?", "Scottish Government", [apart])
    assert (citation.document_id, sentence.supported) == ("a", False)


def test_two_passages_that_say_the_same_are_both_cited_in_order() -> None:
    first, second = scored("In 1874.", document="a"), scored("It was 1874.", document="b")
    found = cite("When?", "1874", [first, second])
    assert [(c.index, c.document_id) for c in found.citations] == [(1, "a"), (2, "b")]
    assert found.sentences[0].citations == (1, 2)


def test_an_answer_in_no_passage_cites_what_was_read_first() -> None:
    passages = [scored("The mill was closed.", document="a"), scored("Nothing.", document="b")]
    (sentence,), citations = cite("Is it open?", "no", passages)
    assert [c.document_id for c in citations] == ["a"]
    assert (sentence.citations, sentence.supported) == ((1,), False)
    assert cite("Is it open?", "no", []).citations == ()


def test_each_sentence_points_to_its_own_source_and_equal_sources_share_a_number() -> None:
    mill = scored("The mill was built in 1874. It burned down in 1902.", document="a")
    lake = scored("The lake is salty.", document="b")
    answer = "It burned down in 1902. The lake is salty. The mill burned down."
    sentences, citations = cite("What happened?", answer, [mill, lake])
    assert [(c.index, c.text) for c in citations] == [(1, "It burned down in 1902."), (2, "The lake is salty.")]
    assert [s.citations for s in sentences] == [(1,), (2,), (1,)]
    assert [answer[s.span.start : s.span.end] for s in sentences][2] == "The mill burned down."
    assert sentences[2].score == pytest.approx(2 / 3)  # burned and down; the mill stands in another sentence


def test_a_sentence_that_nothing_supports_points_nowhere_beside_others() -> None:
    passage = scored("The mill was built in 1874.", document="a")
    sentences, citations = cite("When?", "It was built in 1874. Napoleon owned an elephant.", [passage])
    assert [(s.citations, s.supported) for s in sentences] == [((1,), True), ((), False)]
    assert len(citations) == 1


def test_other_words_for_the_same_are_found_by_meaning_alone() -> None:
    passage = scored("It rained. The water level rose quickly.", document="a")
    meanings = Meanings(The_water_level_rose_quickly=1, Floods_came_soon=1)
    (sentence,), (citation,) = cite("What?", "Floods came soon.", [passage], meanings)
    assert (citation.text, sentence.score, sentence.supported) == ("The water level rose quickly.", 1.0, True)
    (sentence,), (citation,) = cite("What?", "Floods came soon.", [passage])
    assert (citation.text, sentence.supported) == ("It rained.", False)
    (sentence,), _ = cite("What?", "Nobody came.", [passage], Meanings(Nobody_came=2))
    assert not sentence.supported


def test_a_number_that_stands_nowhere_is_never_supported_and_quotes_are_not_embedded() -> None:
    passage = scored("The mill was built in 1874.", document="a")
    alike = Meanings(The_mill_was_built_in_1874=1, The_mill_was_built_in_1875=1)
    (sentence,), citations = cite("When?", "The mill was built in 1875.", [passage], alike)
    assert (sentence.supported, len(citations)) == (False, 1)
    assert cite("When?", "1874", [passage], alike).sentences[0].supported
    assert alike.asked == 0


def test_a_number_that_stands_beside_another_thing_supports_nothing() -> None:
    built = scored("The stone mill was built by Ada Brandt in 1850.", document="a")
    burned = scored("The mill burned in 1874.", document="b")
    answer = "The stone mill was built by Ada Brandt in 1874."
    for passages in ([built, burned], [scored(f"{built.chunk.text} {burned.chunk.text}")]):
        (sentence,), (citation,) = cite("When?", answer, passages)
        assert (citation.text, sentence.supported) == (burned.chunk.text, False)
        assert cite("When?", answer.replace("1874", "1850"), passages).sentences[0].supported


def test_a_number_may_stand_in_the_heading() -> None:
    passage = scored("# 1874\n\nThe mill was built by Ada Brandt.")
    (sentence,), (citation,) = cite("When?", "The mill was built by Ada Brandt in 1874.", [passage])
    assert (citation.text, sentence.supported) == ("The mill was built by Ada Brandt.", True)


def test_numbers_of_two_passages_may_stand_in_one_sentence() -> None:
    passages = [scored("The mill was built in 1850.", document="a"), scored("It burned in 1874.", document="b")]
    assert cite("When?", "The mill was built in 1850, not in 1874.", passages).sentences[0].supported


@pytest.mark.parametrize("marks", [" [7].", "[7].", " [7][8].", " [7, 8].", ". [7] [8]"])
def test_made_up_marks_are_no_numbers(marks: str) -> None:
    passage = scored("The mill was built in 1874.")
    assert cite("When?", f"The mill was built in 1874{marks}", [passage]).sentences[0].supported


def test_marks_that_the_model_made_up_are_no_citations() -> None:
    passage = scored("The mill was built in 1874.", document="a")
    (sentence,), citations = cite("When?", "The mill was built in 1874 [7].", [passage])
    assert [(c.index, c.document_id) for c in citations] == [(1, "a")]
    assert (sentence.citations, sentence.supported) == ((1,), True)


@pytest.mark.parametrize(
    ("answer", "text", "quoted"),
    [
        ("50%", "About 50 people came. Exactly 50% agreed.", "Exactly 50% agreed."),
        ("C++", "C is old. C++ is newer.", "C++ is newer."),
        ("-5 °C", "It was 5 °C in May. It was -5 °C in June.", "It was -5 °C in June."),
        ("$5", "The plan costs $5.50. The trial costs $5.", "The trial costs $5."),
    ],
)
def test_of_sentences_with_the_same_words_the_one_that_has_them_as_they_stand_is_quoted(
    answer: str, text: str, quoted: str
) -> None:
    (citation,) = cite("How much?", answer, [scored(text)]).citations
    assert citation.text == quoted


def test_the_row_that_was_asked_for_is_quoted_whatever_the_form_of_its_word() -> None:
    table = scored("Name | Price | Stock\nApple | 3 | 4\nPear | 4 | 3")
    assert [c.text for c in cite("What is the price of pears?", "4", [table]).citations] == ["Pear | 4 | 3"]


@pytest.mark.parametrize("answer", ["Yes.", "No", "yes", "Yes, it is.", "No, it is not", "Ja.", "non"])
def test_a_verdict_is_quoted_from_nowhere_and_points_to_what_was_asked_about(answer: str) -> None:
    passage = scored("It has no doors. The museum is open on Sundays. Yes, it said.")
    (sentence,), (citation,) = cite("Is the museum open on Sunday?", answer, [passage])
    assert (citation.text, sentence.supported) == ("The museum is open on Sundays.", False)


def test_a_list_is_quoted_as_its_items_in_a_row() -> None:
    passage = scored("It runs on:\n- Linux\n- macOS\n- Windows\n- Plan 9")
    (sentence,), (citation,) = cite("On what?", "Linux, macOS and Windows", [passage])
    assert (citation.text, sentence.supported, sentence.score) == ("- Linux\n- macOS\n- Windows", True, 1.0)
    prose = scored("Linux came first. macOS followed. Windows is there.")
    (sentence,), (citation,) = cite("On what?", "Linux, macOS and Windows", [prose])
    assert (citation.text, sentence.supported) == ("Linux came first.", False)  # words of sentences apart prove nothing


@pytest.mark.parametrize("said", ["Norrin has 1234 inhabitants.", "Norrin has 1,234 inhabitants.", "It has 1’234."])
def test_thousands_are_the_same_number_however_they_are_parted(said: str) -> None:
    for told in ("There are 1,234 inhabitants in Norrin.", "There are 1234 inhabitants in Norrin."):
        (sentence,), (citation,) = cite("How many?", said, [scored(told)])
        assert (citation.text, sentence.supported) == (told, True)
    assert cite("How many?", said, [scored("Of 234 inhabitants of Norrin 1 left.")]).sentences[0].supported is False


def test_text_without_spaces_is_compared_by_its_characters() -> None:
    passage = scored("大阪的人口是八百八十万。东京的人口是一千四百万。")
    (sentence,), (citation,) = cite("东京的人口是多少？", "一千四百万", [passage])
    assert (citation.text, sentence.supported) == ("东京的人口是一千四百万。", True)

"""Which spans of a passage are taken for answers, and which passages are asked about."""

import pytest

from eval.synth_candidates import find_candidates, find_names, occurrences, sentence_around
from eval.synth_passages import draw_passages, is_prose
from rag.datatypes import Chunk, Document, Span

MILL = (
    "THE MILL\n\nThe Tolmen mill was finished on 14 March 1874 by Ada Brandt of Norrin, at 18,750 crowns. "
    "In 1901 it burnt for nine days. Brandt said that a loose lamp was to blame."
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("date", ["14 March 1874", "1901"]),
        ("number", ["18,750 crowns", "nine days"]),
        ("name", ["Tolmen", "Ada Brandt of Norrin"]),  # "Brandt" begins its sentence, and stands there twice
        ("phrase", ["loose lamp"]),
    ],
)
def test_answers_are_exact_spans(kind: str, expected: list[str]) -> None:
    found = find_candidates(MILL)
    assert [c.text for c in found if c.kind == kind] == expected
    assert all(MILL[c.start : c.start + len(c.text)] == c.text for c in found)


def test_what_stands_twice_or_in_a_heading_answers_nothing() -> None:
    text = "# Mills of Norrin 1850\n\nIn 1874 they built one mill, and by 1874 they built another at Sile Water."
    assert [c.text for c in find_candidates(text)] == ["Sile Water"]


def test_metres_are_no_year() -> None:
    assert [(c.text, c.kind) for c in find_candidates("The road climbs 1500 metres to the old pass.")] == [
        ("1500 metres", "number"),
        ("old pass", "phrase"),
    ]


def test_a_piece_of_a_number_is_no_answer() -> None:
    found = find_candidates("The water runs out for two and a half hours, about 12 of them.")
    assert [c.text for c in found if c.kind == "number"] == ["12"]


def test_names_without_days_and_first_words() -> None:
    assert find_names("On Monday Ada Brandt met the Duke of Sile. Where was Norrin? At ULLAVANE.") == [
        "Ada Brandt",
        "Duke of Sile",
        "Norrin",
    ]


@pytest.mark.parametrize(
    ("answer", "text", "count"),
    [("mill", "The mill, the mill and a millwheel", 2), ("the mill", "Mill mill", 2), ("a", "a b", 0), ("b c", "b", 0)],
)
def test_occurrences_are_of_whole_words(answer: str, text: str, count: int) -> None:
    assert occurrences(answer, text) == count


def test_the_sentence_before_comes_along() -> None:
    text = "One is here. Two is there. Three is far."
    assert sentence_around(text, text.index("Three")) == "Two is there. Three is far."
    assert sentence_around(text, text.index("One")) == "One is here."
    assert sentence_around(text, text.index("Two"), before=0) == "Two is there."


PROSE = "The mill by the river was built of grey stone, and it ground barley for the farms around it. " * 3


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        (PROSE, True),
        (PROSE[:150], False),
        ("- the mill is old\n- the ford is new\n- the road is long\n" * 8, False),
        ("| 1 | 2 | 3 |\n" * 40, False),
        ("word " * 60, False),  # no sentence ends
    ],
)
def test_only_running_text_is_asked_about(text: str, prose: bool) -> None:
    assert is_prose(text) is prose


def chunks_of(document: Document) -> list[Chunk]:
    size = len(PROSE)
    return [
        Chunk(f"{document.id}/{n}", document.id, document.text[at : at + size], Span(at, at + size))
        for n, at in enumerate(range(0, len(document.text), size))
    ]


def test_passages_are_spread_over_documents_by_the_seed_alone() -> None:
    documents = [Document("long", "", "Long", PROSE * 5), Document("a", "", "A", PROSE), Document("b", "", "B", PROSE)]
    drawn = draw_passages(documents, chunks_of, seed=1)
    assert sorted(p.document_id for p in drawn[:3]) == ["a", "b", "long"]
    assert [p.document_id for p in drawn[3:]] == ["long"] * 4
    assert draw_passages(documents[::-1], chunks_of, seed=1) == drawn
    orders = {tuple(p.key for p in draw_passages(documents, chunks_of, seed)) for seed in range(8)}
    assert len(orders) > 4

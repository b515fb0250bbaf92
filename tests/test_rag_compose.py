import pytest

from rag.compose import compose, ended
from tests.conftest import WordEmbedder, scored

DAM = scored(
    "The Selk dam failed in 1911. Its gates had rusted shut after years of neglect. The council had cut the budget.",
    document="dam",
    start=50,
    dense=0.9,
)
GATES = scored(
    "Rusted gates made the Selk dam fail. The museum opens at nine in the morning.", document="gates", dense=0.88
)


def test_sentences_of_several_passages_each_with_its_source() -> None:
    text, (sentences, citations) = compose(
        "Why did the Selk dam fail?", [DAM, GATES], words=40, embedder=WordEmbedder()
    )
    assert [text[s.span.start : s.span.end] for s in sentences] == [c.text for c in citations]
    assert {c.document_id for c in citations} == {"dam", "gates"}
    assert [s.citations for s in sentences] == [(c.index,) for c in citations]
    assert all(s.supported for s in sentences)
    for citation in citations:
        passage = DAM if citation.document_id == "dam" else GATES
        start = citation.span.start - passage.chunk.span.start
        assert passage.chunk.text[start : start + len(citation.text)] == citation.text
    assert "museum" not in text  # says nothing about the question
    places = [(c.document_id, c.span.start) for c in citations]
    assert places == sorted(places)  # in the order of reading: the better passage first


def test_the_length_is_kept_and_where_nothing_fits_the_shortest_sentence_is_said() -> None:
    for words in (10, 15, 20, 40):
        text, _ = compose("Why did the Selk dam fail?", [DAM, GATES], words=words, embedder=WordEmbedder())
        assert 0 < len(text.split()) <= words
    text, found = compose("Why did the Selk dam fail?", [DAM, GATES], words=1, embedder=WordEmbedder())
    assert text == "The Selk dam failed in 1911."  # 6 words
    assert [c.document_id for c in found.citations] == ["dam"]


def test_it_ends_before_a_stop_string_with_the_sources_of_what_is_left() -> None:
    composed = compose("Why did the Selk dam fail?", [DAM, GATES], words=40, embedder=WordEmbedder())
    assert len(composed.cited.citations) > 1
    text, (sentences, citations) = ended(composed, ("\n", " in 1911", "gates"))
    assert text == "The Selk dam failed"
    assert [(text[s.span.start : s.span.end], s.citations) for s in sentences] == [(text, (1,))]
    assert [citation.index for citation in citations] == [1]
    assert ended(composed, ("nowhere",)) == composed
    assert ended(composed, ("The",)) == ("", ((), ()))


def test_a_sentence_that_points_back_brings_the_one_before_it() -> None:
    passage = scored("The old weir was rebuilt. It stops the salmon from going up the river Selk in spring.")
    question = "How does it stop the salmon going up the river Selk?"
    assert compose(question, [passage], words=30, embedder=WordEmbedder()).text == passage.chunk.text


def test_the_same_is_not_said_twice() -> None:
    again = [scored("The dam failed since its gates rusted.", document=name) for name in "abc"]
    text, found = compose("Why did the dam fail?", again, words=100, embedder=WordEmbedder())
    assert (text, len(found.citations)) == ("The dam failed since its gates rusted.", 1)


@pytest.mark.parametrize("marks", ["[3]", " [3][4]", " [3, 4]", "[3;14] [15]"])
def test_marks_of_references_are_not_said(marks: str) -> None:
    passage = scored(f"The gates of the Selk dam rusted shut.{marks}")
    assert compose("Why did it fail?", [passage], words=50, embedder=WordEmbedder()).text == passage.chunk.text[:38]


def test_what_says_no_more_than_the_title_is_not_said() -> None:
    passage = scored("# The Selk dam: its gates\n\nThe gates rusted shut.", title="The Selk dam: its gates")
    assert (
        compose("Why did the Selk dam fail?", [passage], words=50, embedder=WordEmbedder()).text
        == "The gates rusted shut."
    )


def test_of_equal_passages_the_sentence_with_the_questions_own_terms_comes_first() -> None:
    passage = scored("Ferry ferry ferry runs. In a gale it stays in port.", title="Ferry")
    composed = compose("How does the ferry cross in a gale?", [passage], words=8, embedder=WordEmbedder())
    assert composed.text == "In a gale it stays in port."


def test_marks_of_lists_and_references_are_not_shown_but_cited() -> None:
    passage = scored("- The dam failed since its\ngates rusted [12].")
    text, (_, (citation,)) = compose("Why did the dam fail?", [passage], words=20, embedder=WordEmbedder())
    assert text == "The dam failed since its gates rusted."
    assert citation.text == passage.chunk.text


def test_labels_are_said_where_there_is_nothing_else() -> None:
    assert compose("Why?", [scored("Opening hours")], words=50, embedder=WordEmbedder()).text == "Opening hours"
    assert compose("Why?", [], words=50, embedder=WordEmbedder()).text == ""


MANUAL = scored(
    "Resetting\n\nTo reset the meter:\n\n1. Open the door.\n2. Press the red button. It clicks.\n3. Wait.\n\n"
    "The meter was made in Selk."
)


def test_what_leads_to_a_list_brings_its_items_as_far_as_the_length_goes() -> None:
    question, meaning = "How do I reset the meter?", WordEmbedder()
    text, (sentences, citations) = compose(question, [MANUAL], words=18, embedder=meaning)
    assert text == "To reset the meter: 1. Open the door. 2. Press the red button. It clicks. 3. Wait."
    assert [c.text for c in citations] == [MANUAL.chunk.text[11:-29]]
    assert len(sentences) == 1
    assert compose(question, [MANUAL], words=9, embedder=meaning).text == "To reset the meter: 1. Open the door."


def test_items_with_bullets_are_parted_by_semicolons() -> None:
    passage = scored("The ferry to Selk takes:\n\n- cars\n- dogs on a lead,\n- bicycles.\n\nIt is green.")
    found = compose("What does the ferry to Selk take? List it.", [passage], words=14, embedder=WordEmbedder())
    assert found.text == "The ferry to Selk takes: cars; dogs on a lead, bicycles."


RECIPE = scored(
    "---\ntitle: Ferry buns of Norrin\ndate: 2021-03-22\n---\n\n![Ferry buns](/pix/buns.webp)\n\n"
    "## Ingredients\n\n- flour\n- two eggs\n- butter\n\n"
    "## Directions\n\n1. Mix flour and eggs. Wait.\n2. Roll it out.\n![rolled](/pix/2.webp)\n3. Bake for 40 minutes.",
    title="Ferry buns",
)


def test_the_steps_of_a_way_that_is_asked_for_stay_together() -> None:
    text, (_, citations) = compose("How do I make ferry buns?", [RECIPE], words=30, embedder=WordEmbedder())
    assert "Directions: 1. Mix flour and eggs. Wait. 2. Roll it out. 3. Bake for 40 minutes." in text
    assert "![rolled]" in "".join(citation.text for citation in citations)  # a citation is what stands there
    text, _ = compose("How do I mix ferry buns?", [RECIPE], words=10, embedder=WordEmbedder())
    assert text.startswith("Directions: 1. Mix flour and eggs. Wait.")


def test_steps_in_a_passage_that_begins_among_them_stay_together() -> None:
    passage = scored("4. Roll the ferry buns.\n5. Bake the ferry buns. Wait.\n6. Eat.", title="Ferry buns")
    text, _ = compose("How do I make ferry buns?", [passage], words=30, embedder=WordEmbedder())
    assert text == "4. Roll the ferry buns. 5. Bake the ferry buns. Wait. 6. Eat."


def test_a_heading_that_is_asked_for_brings_its_list() -> None:
    text, _ = compose("List the ingredients of ferry buns.", [RECIPE], words=9, embedder=WordEmbedder())
    assert text == "Ingredients: flour; two eggs; butter"


def test_front_matter_and_pictures_are_not_said() -> None:
    text, _ = compose(
        "Tell me about the title, the date and the flour of ferry buns.", [RECIPE], words=100, embedder=WordEmbedder()
    )
    assert "2021" not in text and "pix" not in text

"""The checks of synthetic questions."""

import pytest

from eval import synth_checks as checks
from eval.synth_ask import Asker, load_synth_prompts, tidy_question
from eval.synth_passages import Passage
from rag.datatypes import Message, Span
from rag.prompt import load_prompt
from tests.conftest import QueueGenerator, WordEmbedder


def passage(text: str, document: str = "d") -> Passage:
    return Passage(document, "T", text, Span(0, len(text)))


@pytest.mark.parametrize(
    ("question", "is_one"),
    [
        ("Who built the Tolmen mill?", True),
        ("In which year did Mr. Brisk leave Norrin?", True),
        ("Tell me who built the Tolmen mill.", False),
        ("The Tolmen mill was built by whom exactly?", True),
        ("Ada Brandt?", False),
        ("The Tolmen mill is old, right?", True),
        ("The Tolmen mill, right?", False),  # nothing asks
        ("Who built it? And when was it built?", False),
        ("The mill burnt. Who built the mill?", False),
        ("Who " + "really " * 40 + "built it?", False),
        ("", False),
    ],
)
def test_what_a_question_is(question: str, is_one: bool) -> None:
    assert checks.is_question(question) is is_one


@pytest.mark.parametrize(
    ("question", "alone"),
    [
        ("Who built the Tolmen mill?", True),
        ("What does the passage say of the Tolmen mill?", False),
        ("According to Brandt, how old is the mill?", False),
        ("Where did the paper come from?", False),  # which paper?
        ("How much wool does a black sheep give?", True),
        ("Who built it in 1874?", False),
        ("When did she build the mill?", False),
        ("When did Ada Brandt finish her mill?", True),
        ("How old is this mill?", False),
        ("How long does it take to cross Lake Sile?", True),
        ("What is the text of the Kelp Charter?", False),  # strict: a few good questions are lost
    ],
)
def test_what_is_clear_without_the_passage(question: str, alone: bool) -> None:
    assert checks.is_self_contained(question) is alone


@pytest.mark.parametrize(
    ("question", "answer", "leaks"),
    [
        ("Who is Ada Brandt?", "Ada Brandt", True),
        ("What did Ada, the Brandt of Norrin, build?", "Ada Brandt", True),
        ("Who built the mill of Brandt?", "Ada Brandt", False),  # half is no more than half
        ("How many days did it burn?", "nine days", False),
        ("When was the mill finished?", "1874", False),
    ],
)
def test_leaks(question: str, answer: str, leaks: bool) -> None:
    assert checks.leaks(question, answer) is leaks


def test_reading_and_remembering() -> None:
    assert checks.reads_right("nine days", "nine days")
    assert checks.reads_right("for nine days", "nine days")  # F1 0.8
    assert not checks.reads_right("days", "nine long days", 0.6)  # precision 1, recall 1/3: F1 0.5
    assert not checks.reads_right("", "nine")
    assert checks.remembers("It is said to have burnt for nine days in all", "nine days")
    assert not checks.remembers("ten days", "nine days")  # F1 0.5


def test_a_rewording_has_new_words() -> None:
    base = "In which year was the Tolmen mill finished?"
    assert checks.is_reworded("When did they complete the Tolmen mill?", base)  # complete is new
    assert not checks.is_reworded("The Tolmen mill was finished in which year?", base)


@pytest.mark.parametrize(
    ("reworded", "same"),
    [
        ("When was the building of the Tolmen mill finished?", True),
        ("When was the mill finished?", False),  # the name is gone
        ("Who owned Tolmen?", False),
    ],
)
def test_a_rewording_keeps_names_and_meaning(reworded: str, same: bool) -> None:
    assert checks.means_the_same(reworded, "When was the Tolmen mill finished?", WordEmbedder()) is same


def test_a_swapped_question_must_not_be_answered_elsewhere() -> None:
    others = [passage("The Sile bridge was built by Piet Callow.")]
    assert checks.may_be_answered("Who built the Sile bridge?", "Sile", "Ada Brandt", others)
    assert not checks.may_be_answered("Who ran the Sile ferry in winter?", "Sile", "Ada Brandt", others)
    assert checks.may_be_answered("Who ran the Sile ferry in winter?", "Sile", "Piet Callow", others)
    assert not checks.may_be_answered("Who built the Orrin bridge?", "Orrin", "Ada Brandt", others)


def test_duplicates_by_words_and_by_cosine() -> None:
    kept = checks.Kept(WordEmbedder())
    assert kept.nearest("Who built the mill?") == 0.0
    kept.add("Who built the mill?")
    assert kept.nearest("who built mill") == 1.0  # the same after normalising
    same_words = kept.nearest("The mill: built who, who?")
    assert same_words == pytest.approx(5 / 28**0.5)  # (1,1,1,1) and (1,1,1,2): 5 / (2 * sqrt 7)
    assert kept.has(same_words)
    assert not kept.has(kept.nearest("How deep is Lake Sile?"))


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("Who built it?", "Who built it?"),
        ("\n Question: Who built it?\nAnswer: Ada", "Who built it?"),
        ('1. "Who built it?"', "Who built it?"),
        ("In other words: **Who?**", "**Who?**"),
        ("", ""),
    ],
)
def test_what_a_model_says_is_tidied(said: str, question: str) -> None:
    assert tidy_question(said) == question


def test_the_model_is_asked_with_examples_and_braces_stay() -> None:
    generator = QueueGenerator("Who?", "x", "y")
    asker = Asker(generator, load_prompt("extractive"), load_synth_prompts())
    assert asker.write("T", "A {answer} in braces.", "braces") == "Who?"
    chat = generator.asked[0]
    assert chat[-1] == Message("user", "Text (T): A {answer} in braces.\nAnswer: braces\nQuestion:")
    assert [m.role for m in chat[:3]] == ["system", "user", "assistant"] and chat[2].content.endswith("?")
    asker.read("Who?", [passage("One."), passage("Two.")])
    assert "One." in generator.asked[1][-1].content and "Two." in generator.asked[1][-1].content
    asker.remember("Who?")
    assert [m.content for m in generator.asked[2][1:]] == ["Who?"]
    assert {s.temperature for s in generator.samplings} == {0.0}

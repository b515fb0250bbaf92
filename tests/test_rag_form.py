import time

import pytest

from rag.form import asks_at_length


@pytest.mark.parametrize(
    "question",
    [
        "Why did the dam fail?",
        "how does the ferry cross in winter",
        "How do I reset the meter?",
        "How to keep bees?",
        "Could you please explain the tide tables?",
        "I'd like to know why the mill burned.",
        "According to the minutes, why was the slip dredged?",
        "Compare the north ferry and the south ferry.",
        "What is the difference between a hare and a rabbit?",
        "What are the main advantages of heather honey?",
        "List the farms that keep goats.",
        "Tell me about the lighthouse.",
        "Who built it, and why?",
        "What happens when the cone is hoisted?",
        "And how did it end?",
        "Give me the list of farms.",
        "Could you give a short summary of the minutes?",
        "Do you know why the mill burned?",
        "Difference between a hare and a rabbit",
        "the main differences between moor and heath",
    ],
)
def test_questions_that_want_more_than_a_phrase(question: str) -> None:
    assert asks_at_length(question)


@pytest.mark.parametrize(
    "question",
    [
        "Who built the mill?",
        "How many ferries are there?",
        "About how many people live there?",
        "How old is the lighthouse?",
        "How similar were the treaties?",
        "How often does it rain?",
        "How is the island called?",
        "How do you pronounce Ullavane?",
        "And how does one spell it?",
        "What did the explainer list?",
        "Which is larger, the moor or the wood?",
        "When was the list of farms printed?",
        "Is the ferry open?",
        "Do you sell maps?",
        "Do I need a permit to list my farm?",
        "Did the council settle the difference between them?",
        "",
    ],
)
def test_questions_that_want_a_phrase(question: str) -> None:
    assert not asks_at_length(question)


@pytest.mark.parametrize("again", ["can you, ", "what is, ", "ok, ", "is it, "])
def test_a_question_without_end_takes_no_time(again: str) -> None:
    """The interpreter does nothing else while it matches: a server would stand still for all."""
    began = time.process_time()
    assert not asks_at_length(again * 200_000)
    assert time.process_time() - began < 1


def test_pros_and_cons_may_stand_anywhere() -> None:
    assert asks_at_length("The new ferry: its pros\nand  cons?")
    assert not asks_at_length("Who pros and consults?")

import time

import pytest

from rag.form import asks_at_length, asks_for_steps


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


@pytest.mark.parametrize(
    "question",
    [
        "Warum brannte die Mühle ab?",
        "Wie kann ich den Zähler zurücksetzen?",
        "Und wie ging es weiter?",
        "Kannst du mir erklären, wie die Gezeiten wirken?",
        "Könnten Sie bitte die Gezeiten erklären?",
        "Vergleiche die Nordfähre mit der Südfähre.",
        "Was ist der Unterschied zwischen Hase und Kaninchen?",
        "Worin unterscheiden sich Moor und Heide?",
        "Was sind die wichtigsten Vorteile von Heidehonig?",
        "Welche Folgen hatte der Brand?",
        "Was passiert, wenn der Kegel gehisst wird?",
        "Wer baute die Mühle, und warum?",
        "Pourquoi le moulin a-t-il brûlé ?",
        "Comment fonctionne le bac ?",
        "Comment éteindre le feu ?",
        "Et comment cela a-t-il fini ?",
        "Explique-moi les marées.",
        "Peux-tu m'expliquer les marées ?",
        "Comparez le bac du nord et celui du sud.",
        "Quelle est la différence entre un lièvre et un lapin ?",
        "Quels sont les principaux avantages du miel de bruyère ?",
        "Que se passe-t-il quand le cône est hissé ?",
        "Qui a construit le moulin, et pourquoi ?",
    ],
)
def test_questions_in_german_and_french_that_want_more_than_a_phrase(question: str) -> None:
    assert asks_at_length(question)


@pytest.mark.parametrize(
    "question",
    [
        "Wie viele Fähren gibt es?",
        "Wie hoch ist der Eiffelturm?",
        "Wie heißt die Insel?",
        "Wie wird die Insel genannt?",
        "Wie oft fährt die Fähre?",
        "Welche Farbe hat er?",
        "Was ist ein Moor?",
        "Können Sie mir die Adresse geben?",
        "Combien de bacs y a-t-il ?",
        "Comment s'appelle l'île ?",
        "Comment appelle-t-on un bateau à fond plat ?",
        "Comment s'écrit Ullavane ?",
        "Quelle est la hauteur du phare ?",
        "Who wrote Warum?",
        "Comment syntax in TOML?",
    ],
)
def test_questions_in_german_and_french_that_want_a_phrase(question: str) -> None:
    assert not asks_at_length(question)


@pytest.mark.parametrize("question", ["Wie macht man Glühwein?", "Comment faire du vin chaud ?", "Which steps?"])
def test_a_way_of_doing_something_has_steps(question: str) -> None:
    assert asks_for_steps(question)
    assert not asks_for_steps("Warum brannte die Mühle ab?") and not asks_for_steps("Pourquoi ?")


@pytest.mark.parametrize(
    "again",
    [
        "can you, ",
        "what is, ",
        "ok, ",
        "is it, ",
        "und bitte, ",
        "was sind die ",
        "wie kann ",
        "et alors, ",
        "comment , ",
    ],
)
def test_a_question_without_end_takes_no_time(again: str) -> None:
    """The interpreter does nothing else while it matches: a server would stand still for all."""
    began = time.process_time()
    asks_at_length(again * 200_000)
    asks_for_steps(again * 200_000)
    assert time.process_time() - began < 1


def test_pros_and_cons_may_stand_anywhere() -> None:
    assert asks_at_length("The new ferry: its pros\nand  cons?")
    assert not asks_at_length("Who pros and consults?")


@pytest.mark.parametrize(
    "question",
    [
        "For what reasons did he leave?",
        "In which ways do they differ?",
        "Aus welchen Gründen ging er?",
        "Worin besteht der Unterschied zwischen A und B?",
        "Pour quelles raisons est-il parti ?",
    ],
)
def test_reasons_and_ways_are_told_at_length(question: str) -> None:
    assert asks_at_length(question)


@pytest.mark.parametrize("question", ["How do you say cheese in French?", "Wie hat der Film geheißen?"])
def test_what_something_is_called_is_short(question: str) -> None:
    assert not asks_at_length(question)

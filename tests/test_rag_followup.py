"""Follow-ups in made-up dialogues of many domains: each becomes a question of its own, or is left alone."""

import time

import pytest

from rag.abstain import ABSTENTION_TEXT, UNATTAINABLE_TEXT
from rag.datatypes import Message
from rag.followup import MAX_TURN_CHARACTERS, follow_up
from rag.phrases import phrases
from rag.pronouns import is_foreign


def talk(*turns: str) -> list[Message]:
    """A conversation, the user first."""
    return [Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns)]


MILL = talk("Who built the Tolmen mill?", "Ada Brandt")


@pytest.mark.parametrize(
    ("history", "turn", "question"),
    [
        # pronouns
        (MILL, "When was it finished?", "When was the Tolmen mill finished?"),
        (MILL, "When was she born?", "When was Ada Brandt born?"),
        (talk("What does aspirin do?", "It thins the blood."), "What are its risks?", "What are aspirin's risks?"),
        (talk("Where do bees live?", "In hives."), "How do they make honey?", "How do bees make honey?"),
        (talk("Does currency expire?", "No."), "Who prints it?", "Who prints currency?"),
        (talk("Which lake is the deepest?", "Lake Orrin"), "How long is it?", "How long is Lake Orrin?"),
        (talk("How do I bake sourdough bread?", "With flour."), "Can I freeze it?", "Can I freeze sourdough bread?"),
        (talk("Did Napoleon invade Russia?", "In 1812."), "Why did he do that?", "Why did Napoleon do that?"),
        # ellipsis, put in its place where that is plain
        (talk("How many lived in Norrin in 1980?", "4,200"), "And in 1990?", "How many lived in Norrin in 1990?"),
        (talk("How tall is Ben Nevis?", "1,345 m"), "What about Snowdon?", "How tall is Snowdon?"),
        (talk("Why do leaves fall?", "To save water."), "How so?", "Why do leaves fall? How so?"),
        (
            talk("What is the notice period?", "A month."),
            "And for interns?",
            "What is the notice period? And for interns?",
        ),
        (talk("Who won?", "Who won what?"), "The 1998 cup final", "Who won? The 1998 cup final"),
        (talk("How do I reset it?", "…"), "I mean the router", "How do I reset it? I mean the router"),
        (talk("What was revenue in 2021?", "12 million"), "2022?", "What was revenue in 2022?"),
        (talk("What is the melting point of tin?", "232 °C"), "And of lead?", "What is the melting point of lead?"),
        (talk("Does Alice like tea?", "Yes."), "And Bob?", "Does Bob like tea?"),
        # the answer is the new topic where it was asked for
        (talk("what is the capital of australia", "Canberra"), "how old is it", "how old is Canberra"),
        (
            talk("Where is the Eastfield depot?", "On Mill Lane."),
            "When does it open?",
            "When does the Eastfield depot open?",
        ),
        (talk("Which vaccines do infants need?", "Hepatitis B"), "Are they free?", "vaccines, infants: Are they free?"),
        # what it is about goes in front
        (
            talk("Where is the court of Los Angeles?", "…"),
            "Do they work online?",
            "Los Angeles, the court: Do they work online?",
        ),
        (
            talk("How are fines paid by owners of cars?", "By card."),
            "Do they expire?",
            "fines, owners: Do they expire?",
        ),
        (
            talk("What is the Pallin bridge made of?", "Steel."),
            "Is the bridge safe?",
            "the Pallin bridge: Is the bridge safe?",
        ),
        (
            talk("Where was Signe Maddow born?", "In Norrin."),
            "Who else was born there?",
            "Norrin, Signe Maddow: Who else was born there?",
        ),
        (MILL, "What did they pay her?", "Ada Brandt, the Tolmen mill: What did they pay her?"),
        (
            talk("How do I bake sourdough bread?", "…"),
            "How long must the loaf rest?",
            "sourdough bread: How long must the loaf rest?",
        ),
    ],
)
def test_what_a_turn_leans_on_is_put_into_it(history: list[Message], turn: str, question: str) -> None:
    found = follow_up(turn, history)
    assert found.question == question
    assert found.why
    assert found.turns == len(history)


@pytest.mark.parametrize(
    "turn",
    [
        "How do I bake sourdough bread?",
        "What is the boiling point of ethanol?",
        "Which planets have rings?",
        "Is it legal to fly a drone over a park?",  # "it" stands for what comes
        "Are there any bus stops near Selk station?",
        "Why do cats lick their paws?",  # the antecedent stands in the turn
        "If my dog eats chocolate, will it die?",
        "When Lake Orrin freezes, who clears it?",
        "And who was the first president of France?",
        "What time is it in Norrin?",
        "What is the longest pier in the country?",
        "I walked past the cheese shop. Who owns it?",
        "What does isobaric mean?",
        'Who directed "They Flew Alone"?',
        "How many of those living in Norrin fish?",
        "Does the law say that Tolmen ferries may sail on Sundays?",
        "x" * (MAX_TURN_CHARACTERS + 1) + " it",
    ],
)
def test_a_turn_that_stands_alone_is_left_as_it_is(turn: str) -> None:
    assert follow_up(turn, MILL) == (turn, "", (), 0, True)


PILLS = talk("What is the dosage of ibuprofen for adults?", "200 to 400 mg every four to six hours.")
MUSEUM = talk("Does the museum open on Mondays?", "No, it is closed on Mondays.")
BORDERS = talk("Which countries border Switzerland?", "Germany, France, Italy, Austria and Liechtenstein")


@pytest.mark.parametrize(
    ("history", "turn", "question"),
    [
        # what a thing is of goes along
        (PILLS, "Can I take it with alcohol?", "Can I take the dosage of ibuprofen with alcohol?"),
        (talk("What is the melting point of tin?", "232 °C"), "Is it high?", "Is the melting point of tin high?"),
        # "it" is no day, and stands for something in "is it safe during ..."
        (MUSEUM, "Where is it?", "Where is the museum?"),
        (PILLS, "Is it safe during pregnancy?", "Is the dosage of ibuprofen safe during pregnancy?"),
        (PILLS, "Is it safe for children?", "Is the dosage of ibuprofen safe for children?"),
        # "they" are all items of a list, "it" is none of them
        (BORDERS, "Do they use the euro?", "Do Germany, France, Italy, Austria and Liechtenstein use the euro?"),
        (
            BORDERS,
            "Which is the largest?",
            "Germany, France, Italy, Austria and Liechtenstein, Switzerland: Which is the largest?",
        ),
        (BORDERS, "Is it in the EU?", "Is Switzerland in the EU?"),
        (
            talk("Who was Marie Curie?", "Marie Curie was a Polish and French physicist."),
            "When did they marry?",
            "Marie Curie, the Polish and French physicist: When did they marry?",
        ),
        # what tells one of several apart is no name, and one thing does not take the place of two
        (
            talk("When did the Second World War end?", "In 1945."),
            "And the First?",
            "When did the Second World War end? And the First?",
        ),
        (
            talk("Compare the MK3 and the MK4 printer.", "…"),
            "And the Mini?",
            "Compare the MK3 and the MK4 printer. And the Mini?",
        ),
        (
            talk("What is the dosage for horses?", "2 g"),
            "For cats and dogs?",
            "What is the dosage for horses? For cats and dogs?",
        ),
        (talk("What is the torque for the M8 bolts?", "25 Nm"), "M12?", "What is the torque for the M12?"),
        (talk("How tall is Ben Nevis?", "1,345 m"), "Mount Snowdon?", "How tall is Mount Snowdon?"),
    ],
)
def test_what_is_meant_by_a_turn_of_other_domains(history: list[Message], turn: str, question: str) -> None:
    assert follow_up(turn, history).question == question


def test_a_name_without_a_question_mark_is_a_topic_of_its_own() -> None:
    assert follow_up("Mount Snowdon", talk("How tall is Ben Nevis?", "1,345 m")).why == ""


@pytest.mark.parametrize("turn", ["When was it built?", "And in 1990?", "Why?", "x", "", "  ", "“It”", "日本の首都は?"])
def test_without_a_conversation_every_turn_is_left_as_it_is(turn: str) -> None:
    assert follow_up(turn, []).question == turn
    assert follow_up(turn, [Message("assistant", "Hello! What can I do for you?")]).question == turn


def test_a_change_of_topic_is_noticed_and_the_new_one_is_meant_from_then_on() -> None:
    history = [*MILL, *talk("When was it finished?", "1874", "How deep is Lake Orrin?", "60 metres")]
    found = follow_up("Who owns it?", history)
    assert found.question == "Who owns Lake Orrin?"
    assert "Tolmen mill" not in found.topic
    assert found.turns == 2


def test_a_topic_that_is_named_again_is_taken_up() -> None:
    history = [*MILL, *talk("How deep is Lake Orrin?", "60 metres", "Is the Tolmen mill open on Sundays?", "No.")]
    assert follow_up("And on Mondays?", history).question == "Is the Tolmen mill open on Mondays?"
    assert follow_up("What does it grind?", history).question == "What does the Tolmen mill grind?"


def test_what_was_understood_before_is_carried_on() -> None:
    history = talk("How many lived in Norrin in 1980?", "4,200", "And in 1990?", "3,900")
    assert follow_up("What about Selk?", history).question == "How many lived in Selk in 1990?"
    assert follow_up("Why did they leave?", [*history, *talk("What about Selk?", "810")]).topic[0] == "Selk"


STRUDEL = talk("How long is apple strudel baked?", "40 minutes", "At what temperature?", "180 °C")


def test_what_is_asked_about_a_topic_is_not_the_next_topic() -> None:
    assert follow_up("How do I make it?", STRUDEL).question == "How do I make apple strudel?"
    longer = [*STRUDEL, *talk("Can I freeze it in a bag?", "Yes.", "Does it need a pan?", "No.")]
    assert follow_up("Is it healthy?", longer).question == "Is apple strudel healthy?"
    assert follow_up("Is there a faster way?", longer).topic[0] == "apple strudel"


def test_a_pronoun_goes_on_with_its_own_kind() -> None:
    mill = [*MILL, *talk("When was she born?", "1840")]
    assert follow_up("Where does it stand?", mill).question == "Where does the Tolmen mill stand?"
    lake = talk("Who owns Lake Orrin?", "Ada Brandt", "How deep is it?", "60 metres")
    assert follow_up("When was she born?", lake).question == "When was Ada Brandt born?"
    prize = talk("Who was Ada Brandt?", "A builder", "What did she win?", "The Norrin Prize")
    assert follow_up("Who awards it?", prize).topic[0] == "Norrin Prize"
    pills = talk("What is the dosage of ibuprofen?", "400 mg", "What about paracetamol?", "500 mg")
    assert follow_up("Can I take it with wine?", pills).question == "Can I take paracetamol with wine?"


def test_an_answer_withheld_names_no_topic() -> None:
    history = talk("When was the Pallin bridge built?", "The documents do not say.")
    assert follow_up("Who designed it?", history).question == "Who designed the Pallin bridge?"


@pytest.mark.parametrize(
    ("name", "is_"),
    [
        ("J. R. R. Tolkien", "How old is J. R. R. Tolkien?"),
        ("Dr. Watson", "How old is Dr. Watson?"),
        ("St. Louis", "How old is St. Louis?"),
        ("John F. Kennedy", "How old is John F. Kennedy?"),
        ("the U.S. Navy", "How old is the U.S. Navy?"),
        ("the $1,200 grant", "How old is the 1,200 grant?"),
        ("George W. Bush's father", "How old is George W. Bush's father?"),
    ],
)
def test_a_name_with_stops_is_kept_whole(name: str, is_: str) -> None:
    assert follow_up("How old is it?", talk(f"Where is {name}?", "Not here.")).question == is_


@pytest.mark.parametrize("thing", ["machine learning", "black holes", "albert einstein", "deep reinforcement learning"])
def test_what_is_asked_for_in_lower_case_is_kept_whole(thing: str) -> None:
    (phrase,) = phrases(f"what is {thing}?")
    assert phrase.text == thing


def test_what_is_said_of_a_thing_is_no_part_of_it() -> None:
    assert phrases("does korean war have a different name?")[0].text == "korean war"
    assert [phrase.text for phrase in phrases("Are black holes dangerous?")] == ["black holes"]


def test_thousands_are_one_number() -> None:
    history = talk("Can I buy 2,500 shares?", "Yes.")
    assert follow_up("And 12,000?", history).question == "Can I buy 12,000 shares?"


@pytest.mark.parametrize("turn", ["How much does it cost for children?", "How much does it cost on Sundays?"])
def test_a_price_is_that_of_what_was_spoken_of(turn: str) -> None:
    history = talk("When does the ferry to Selk leave?", "At 9.")
    assert follow_up(turn, history).question == f"Selk, the ferry: {turn}"
    assert follow_up("How much does it cost to insure a bicycle?", history).why == ""


@pytest.mark.parametrize(
    ("withheld", "next_"),
    [(ABSTENTION_TEXT, "What documents does a passport take?"), (UNATTAINABLE_TEXT, "Is one dog enough for a farm?")],
)
def test_the_words_of_an_abstention_are_no_topic(withheld: str, next_: str) -> None:
    history = talk("Who founded Acme?", withheld, next_, "Two.")
    assert follow_up("Why is that so?", history).turns == 2


def test_a_long_conversation_of_hostile_turns_takes_no_time() -> None:
    turns = [text * 2000 for text in ("it ", "there there ", "A a ", "who, ", "“”?!", "in 1 ", "the ")] * 30
    history = talk(*turns)
    began = time.process_time()
    for turn in ("Why?", "it " * 300, "the A a, and its " * 50, "in 1 " * 200):
        assert len(follow_up(turn, history).question) < 3 * MAX_TURN_CHARACTERS
    assert time.process_time() - began < 10


def test_a_line_of_names_takes_no_time() -> None:
    """A passage may be a table of them."""
    began = time.process_time()
    assert len(phrases("Aa " * 1700)) == 1
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("turn", "question"),
    [
        ("How about in the year 1990?", "How many people lived in Norrin in 1990?"),
        ("in 1990", "How many people lived in Norrin in 1990?"),
        ("In Selk?", "How many people lived in Selk in 2010?"),
        ("And in May 1990?", "How many people lived in Norrin in May 1990?"),
        ("And in june 1990?", "How many people lived in Norrin in june 1990?"),
        ("for the islands?", "How many people lived in Norrin in 2010? for the islands?"),
    ],
)
def test_a_place_or_a_time_alone_goes_on_with_the_question(turn: str, question: str) -> None:
    assert follow_up(turn, talk("How many people lived in Norrin in 2010?", "4,200")).question == question


def test_a_year_that_is_called_one_gives_way_to_another() -> None:
    asked = follow_up("And in 1990?", talk("Who ran the ferry in the year 2010?", "Piet Callow"))
    assert asked.question == "Who ran the ferry in the year 1990?"
    asked = follow_up("And on May 4, 1990?", talk("Who was heard on 3 May 1990 in Norrin?", "Piet Callow"))
    assert asked.question == "Who was heard on May 4, 1990 in Norrin?"
    asked = follow_up("And in Selk?", talk("Who may vote in Norrin in March 2010?", "Everyone"))
    assert asked.question == "Who may vote in Selk in March 2010?"


def test_names_of_programs_are_one_word() -> None:
    history = talk("What is the max_tokens setting?", "How long an answer may be.")
    assert follow_up("What is its default?", history).question == "What is the max_tokens setting's default?"
    assert [p.text for p in phrases("set SMALLHOLD_SERVER__PORT to 80")] == ["SMALLHOLD_SERVER__PORT", "80"]


def test_what_is_written_in_capitals_throughout_is_read_like_small_letters() -> None:
    history = talk("WHO BUILT THE TOLMEN MILL?", "Nobody knows.")
    assert follow_up("WHEN WAS IT BUILT?", history).question == "WHEN WAS the TOLMEN MILL BUILT?"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("What happened in Norrin in May 1990?", ["Norrin", "May 1990"]),
        ("Where did Will Smith and Ada Brandt meet?", ["Will Smith and Ada Brandt"]),
        ("Who Will Go to the Island of Selk?", ["Island of Selk"]),
        ("Will it rain in May?", []),
    ],
)
def test_may_and_will_are_names_too(text: str, names: list[str]) -> None:
    assert [p.text for p in phrases(text) if p.name] == names


@pytest.mark.parametrize(
    ("asked", "turn"),
    [
        ("Wie viel Wasser brauchen Tomaten?", "Brauchen sie Dünger?"),
        ("Wie viel Wasser brauchen Tomaten?", "Was ist mit Paprika?"),
        ("Wie viel Wasser brauchen Tomaten?", "Wie oft muss ich sie gießen?"),
        ("Wie viel Wasser brauchen Tomaten?", "Wie groß sind ihre Blüten?"),
        ("Wer baute die Mühle?", "In welchem Jahr wurde er geboren?"),
        ("Quelle est la capitale de la France ?", "Et de l'Espagne ?"),
        ("Quelle est la capitale de la France ?", "Quand a-t-elle été fondée ?"),
        ("Quelle est la capitale de la France ?", "Combien d'habitants y vivent ?"),
        ("Quelle est la capitale de la France ?", "Quelle est sa superficie ?"),
        ("Wann wurde die Mühle gebaut?", "Und wer hat sie gebaut?"),
        ("Wann wurde die Mühle gebaut?", "Warum?"),
        ("Quand le moulin a-t-il été construit ?", "Et par qui ?"),
        ("Quand le moulin a-t-il été construit ?", "Pourquoi ?"),
    ],
)
def test_what_plainly_goes_on_in_another_language_keeps_its_question(asked: str, turn: str) -> None:
    found = follow_up(turn, talk(asked, "1874"))
    assert (found.question, found.turns, found.sure) == (f"{asked} {turn}", 2, False)


def test_a_place_in_another_language_takes_the_place_of_its_like() -> None:
    asked = follow_up("Und in Selk?", talk("Wie viele Menschen leben in Norrin?", "4200"))
    assert asked.question == "Wie viele Menschen leben in Selk?"
    asked = follow_up("Et Marseille ?", talk("Quelle est la population de Lyon ?", "500 000"))
    assert asked.question == "Quelle est la population de Marseille ?"


@pytest.mark.parametrize(
    "turn",
    [
        "Wie hoch ist der Eiffelturm?",
        "Wann wurde Napoleon geboren und wann starb er?",
        "Wenn Tomaten blühen, brauchen sie dann Dünger?",
        "Warum lecken Katzen ihre Pfoten?",
        "Können Sie mir den Eiffelturm erklären?",
        "Welche Sorten Äpfel gibt es?",
        "Quand le moulin a-t-il été construit ?",
        "Comment Marie Curie est-elle morte ?",
        "Combien de temps faut-il pour cuire des pommes ?",
        "Combien d'îles y a-t-il en Bretagne ?",
        "Où la Seine prend-elle sa source ?",
        "Who is the son of Ada Brandt?",
        "Who is y and what does Elle print?",
    ],
)
def test_what_stands_alone_in_another_language_is_left_as_it_is(turn: str) -> None:
    assert follow_up(turn, talk("Wie viel Wasser brauchen Tomaten?", "Zwei Liter am Tag.")).question == turn


FERRY = talk("When does the ferry from Selk to the mainland leave?", "At 8:15 and 17:40.")
CHEESES = talk("Which cheeses are made on Selk?", "Three are made: Old Ovrick, Selk Blue and Lowdle Cream.")
SURVEY = talk("How much does a house in Norrin cost?", "About 210,000 crowns, according to the survey.")
PRIZE = talk("Who won the Nobel Prize in Physics in 1921?", "Albert Einstein, for what he said of light.")


@pytest.mark.parametrize(
    "turn",
    [
        "How do you make Old Ovrick?",
        "How do I make cheese?",
        "Do you like Old Trafford?",
        "How is Great Barrier Reef sand made?",
        "How did The Beatles get their name?",
        "how did the dominican republic get its name",
        "Which country changed its flag?",
        "Whose factory closed when it was sold?",
        "Do doctors think they should warn?",
        "Fast foods - are they a risk factor for asthma?",
        "Low-grade glioma: does it have a psychotic subtype?",
        "Besides Britain, where else did refugees settle?",
        "Who won World War one?",
        "How are smaller states dominated by larger ones?",
        "I keep seeing bare metal servers. What is that, exactly?",
        "Was ist das Grundgesetz?",
        "Wie heißt das höchste alte Gebäude der Welt?",
        "Was geschah in diesem Jahr in Norrin?",
        "Qu'est-ce que c'est un moulin ?",
        "Lequel des moulins est le plus ancien ?",
    ],
)
def test_a_turn_that_names_what_it_asks_about_is_complete(turn: str) -> None:
    assert follow_up(turn, FERRY).question == turn


@pytest.mark.parametrize(
    ("history", "turn", "question"),
    [
        # what is asked about, not where it is
        (FERRY, "Who runs it?", "Who runs the ferry from Selk?"),
        (SURVEY, "What was it in 2013?", "What was the house in Norrin in 2013?"),
        (talk("How many people live in Norrin?", "4,200"), "When was it founded?", "When was Norrin founded?"),
        (PRIZE, "When was he born?", "When was Albert Einstein born?"),
        # a day is no place
        (FERRY, "What about Sundays?", f"{FERRY[0].content} What about Sundays?"),
        (talk("Who lives on Selk?", "Few."), "And on Sundays?", "Who lives on Selk? And on Sundays?"),
        # the place of an item in the list that was the answer
        (CHEESES, "What about the second one?", "Which cheeses are made on Selk? What about Selk Blue?"),
        (CHEESES, "How long is the first one aged?", "How long is Old Ovrick aged?"),
        (CHEESES, "Who makes the last one?", "Who makes Lowdle Cream?"),
        (
            talk("Which sizes are there?", "- **Small**: 2 kg\n- **Large**: 9 kg"),
            "And the second?",
            "Which sizes are there? And Large?",
        ),
        (PRIZE, "And the second?", f"{PRIZE[0].content} And the second?"),
        (
            talk("Welche Käse gibt es?", "Ovrick und Lowdler."),
            "Was ist mit dem zweiten?",
            "Welche Käse gibt es? Was ist mit Lowdler?",
        ),
        (talk("Quels fromages ?", "Brie et Comté."), "Et le premier ?", "Quels fromages ? Et Brie ?"),
    ],
)
def test_what_is_meant_is_what_was_asked_about_or_told(history: list[Message], turn: str, question: str) -> None:
    assert follow_up(turn, history).question == question


@pytest.mark.parametrize(
    ("asked", "turn"),
    [
        *[
            ("Wer hat die Mühle gebaut?", turn)
            for turn in (
                "Seit wann?",
                "Wer noch?",
                "Wie heißt ihr Sohn?",
                "Nur am Wochenende?",
                "Im Winter?",
                "Wie lange dauert das?",
                "Wie viel ist das in Euro?",
                "Wurde diese später erweitert?",
                "Wem gehört diese Mühle?",
                "Welche ist die älteste?",
            )
        ],
        *[
            ("Qui a construit le moulin ?", turn)
            for turn in (
                "Depuis quand ?",
                "Qui d'autre ?",
                "Pour les enfants ?",
                "C'est combien en euros ?",
                "Combien ça coûte ?",
                "Lequel est le plus ancien ?",
                "Peut-on le visiter ?",
                "Pourquoi pas ?",
            )
        ],
    ],
)
def test_what_points_back_in_another_language_keeps_its_question(asked: str, turn: str) -> None:
    assert follow_up(turn, talk(asked, "Ada Brandt")).question == f"{asked} {turn}"


def test_a_word_of_english_is_no_french_pronoun() -> None:
    assert follow_up("when was son of a preacher man released", FERRY).why == ""


@pytest.mark.parametrize("turn", ["Did the owners comment?", "At 9 am EST?", "And at MIT?", "What did the Pour cost?"])
def test_an_english_turn_with_a_word_that_german_or_french_has_too_is_english(turn: str) -> None:
    assert not is_foreign(turn)
    assert is_foreign("Comment y va-t-on ?")
    assert is_foreign("Und wie lange?")

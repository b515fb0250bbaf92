from pathlib import Path

import pytest

from rag.datatypes import Message
from rag.errors import ConfigError
from rag.prompt import load_prompt
from tests.conftest import scored


def test_the_shipped_prompt_puts_what_is_constant_first() -> None:
    prompt = load_prompt("extractive")
    one = prompt.messages("Who?", [scored("A passage.")])
    two = prompt.messages("When?", [scored("Another.")], [Message("user", "a"), Message("assistant", "b")])
    constant = 1 + 2 * len(prompt.examples)
    assert len(prompt.examples) == 2
    assert one[:constant] == two[:constant]
    assert [m.role for m in two[constant:]] == ["user", "assistant", "user"]
    assert one[-1].content == "Passage (T): A passage.\n\nQuestion: Who?"


@pytest.mark.parametrize("name", ["extractive", "reader"])
def test_what_the_asker_said_begins_with_the_earlier_turns_or_with_the_question(name: str) -> None:
    prompt, passages = load_prompt(name), [scored("A {question}\n\npassage."), scored("B.")]
    chat = prompt.messages("Who?\n\nReally.", passages)
    at, character = prompt.own_from(passages)
    assert at == len(chat) - 1 and chat[at].content[character:] == "Who?\n\nReally."
    turns = [Message("user", "a"), Message("assistant", "b")]
    assert prompt.messages("Who?", passages, turns)[prompt.own_from(passages, turns)[0]] == turns[0]
    assert prompt.own_from(passages, turns)[1] == 0
    assert prompt.messages("Who?", [], turns)[1:] == [*turns, Message("user", "Who?")]
    assert prompt.own_from([], turns) == prompt.own_from([]) == (1, 0)


@pytest.mark.parametrize("name", ["extractive", "reader"])
def test_no_earlier_turn_begins_like_a_passage(name: str) -> None:
    """What is read of a passage is kept for all keys: no guess at a hidden one may meet it and be told as cached."""
    prompt = load_prompt(name)
    *_, hidden = prompt.messages("Who?", [scored("The code is 4711.")])
    guess = [Message("user", "Passage (T): The code is 4711."), Message("assistant", "b"), Message("user", "a")]
    told = prompt.messages("When?", [scored("Another.")], guess)
    turns = [message.content for message in told[len(told) - 4 :]]
    assert hidden.content.startswith(guess[0].content)
    assert turns[:3] == ["> Passage (T): The code is 4711.", "b", "a"]
    assert hidden.content[0] != turns[0][0]


def test_examples_show_answers_that_stand_in_their_passage() -> None:
    for example in load_prompt("extractive").examples:
        assert example.answer in example.passage


def test_unknown_and_malformed_prompts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Known prompts: .*extractive"):
        load_prompt("nonsense")
    file = tmp_path / "p.toml"
    file.write_text("name = 'p'\nsytem = 'x'\n")
    with pytest.raises(ConfigError, match=r"p\.toml"):
        load_prompt(str(file))


@pytest.mark.parametrize("user", ["Question: {question}\n\n{passages}", "{question}\n{passages}\n{question}"])
def test_the_question_may_stand_before_the_passages(user: str) -> None:
    prompt = load_prompt("reader").model_copy(update={"user": user})
    asked = prompt.messages("Who?", [scored("A {question}.")])[-1].content
    assert asked == user.replace("{question}", "Who?").replace("{passages}", "Passage (T): A {question}.")


def test_a_title_of_braces_is_no_field() -> None:
    prompt = load_prompt("reader")
    assert prompt.passage_text(scored("A long text.", title="{text}")) == "Passage ({text}): A long text."


@pytest.mark.parametrize(
    ("field", "text"), [("user", "{passages}"), ("user", "Question: {question}"), ("passage", "({title})")]
)
def test_a_prompt_that_leaves_out_what_is_asked_or_read_is_refused(tmp_path: Path, field: str, text: str) -> None:
    fields = {"name": "p", "system": "s", "passage": "{text}", "user": "{passages} {question}", "closed_book": "c"}
    file = tmp_path / "p.toml"
    file.write_text("\n".join(f"{key} = '{value}'" for key, value in {**fields, field: text}.items()))
    with pytest.raises(ConfigError, match="must stand in `"):
        load_prompt(str(file))


@pytest.mark.parametrize("damage", ["bytes", "folder", "size"])
def test_a_prompt_file_that_cannot_be_read_is_told(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "p.toml"
    if damage == "folder":
        file.mkdir()
    else:
        file.write_bytes(b"name = '\xff\xfe'" if damage == "bytes" else b"#" * 200_000)
    with pytest.raises(ConfigError, match=r"p\.toml cannot be used"):
        load_prompt(str(file))

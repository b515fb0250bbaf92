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

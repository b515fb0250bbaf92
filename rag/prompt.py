"""Prompts as data: a TOML file with the instructions, the shape of a passage and worked examples.

The part before the passage is the same for every question, so that a generator that keeps its keys and values reads it
once; passage and question come last.
"""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rag.datatypes import Message, ScoredChunk
from rag.errors import ConfigError
from rag.toml import read_toml

_FIELDS = {"passage": ("{text}",), "user": ("{passages}", "{question}")}


class Example(BaseModel):
    """A worked example: a passage, a question and the answer we want."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    passage: str
    question: str
    answer: str


class Prompt(BaseModel):
    """How a model is asked. `passage` has the fields {title} and {text}, `user` {passages} and {question}, in any order
    and more than once.

    `decline` is what a model that was taught to says where the passage holds no answer. `abstention` names the estimate
    of `configs/abstention` that was fitted to answers to this prompt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    system: str
    passage: str
    user: str
    closed_book: str
    decline: str = ""
    abstention: str = "extractive"
    examples: tuple[Example, ...] = ()

    def messages(
        self, question: str, passages: Sequence[ScoredChunk], history: Sequence[Message] = ()
    ) -> list[Message]:
        """Return the chat that asks `question` over `passages`, or from memory where there are none.

        Earlier turns come after the worked examples, so that those stay one prefix for every conversation. One that
        begins as a passage does is marked as a quotation: what has been read of a passage is known by its tokens, and
        nobody is to find out by guesses, from `cached_tokens`, what stands in one that is hidden from them.
        """
        if not passages:
            return [Message("system", self.closed_book), *history, Message("user", question)]
        chat = [Message("system", self.system)]
        for example in self.examples:
            text = self._passage(example.title, example.passage)
            chat.append(Message("user", self._user(text, example.question)))
            chat.append(Message("assistant", example.answer))
        text = "\n\n".join(self.passage_text(p) for p in passages)
        return [*chat, *map(self._quoted, history), Message("user", self._user(text, question))]

    def own_from(self, passages: Sequence[ScoredChunk], history: Sequence[Message] = ()) -> tuple[int, int]:
        """Return with which of those messages, and which character of it, what the asker said begins."""
        if history or not passages:
            return (1 + 2 * len(self.examples) if passages else 1), 0
        before, _, after = self.user.partition("{passages}")
        text = "\n\n".join(self.passage_text(p) for p in passages)
        return 1 + 2 * len(self.examples), len(before) + len(text) + len(after.partition("{question}")[0])

    def _quoted(self, turn: Message) -> Message:
        """Return a turn that begins like no passage."""
        head = self._user(self.passage, "").partition("{")[0]
        return Message(turn.role, f"> {turn.content}") if turn.content.startswith(head) else turn

    def passage_text(self, passage: ScoredChunk) -> str:
        """Return a passage as it stands in the prompt, for counting its tokens too."""
        return self._passage(passage.chunk.title, passage.chunk.text)

    def _passage(self, title: str, text: str) -> str:
        return _filled(self.passage, {"{title}": title, "{text}": text})

    def _user(self, passages: str, question: str) -> str:
        return _filled(self.user, {"{passages}": passages, "{question}": question})


def _complete(prompt: Prompt) -> Prompt:
    """Return a prompt that says all it is to say. Raises `ValueError`."""
    for name, wanted in _FIELDS.items():
        if missing := [field for field in wanted if field not in getattr(prompt, name)]:
            raise ValueError(f"{' and '.join(missing)} must stand in `{name}`")
    return prompt


def _filled(template: str, fields: Mapping[str, str]) -> str:
    """Put all fields in at once, so that braces in titles, passages and questions stay what they are."""
    return re.sub("|".join(map(re.escape, fields)), lambda found: fields[found[0]], template)


def load_prompt(name: str) -> Prompt:
    """Read a prompt of `configs/prompts` by name, or any TOML file by path. Raises `ConfigError`."""
    file = Path(name) if name.endswith(".toml") else resources.files("configs") / "prompts" / f"{name}.toml"
    try:
        return _complete(Prompt.model_validate(read_toml(file)))
    except FileNotFoundError as error:
        names = ", ".join(sorted(p.name[:-5] for p in (resources.files("configs") / "prompts").iterdir()))
        raise ConfigError(f"there is no prompt {name!r}", hint=f"Known prompts: {names}; or give a path.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the prompt {file} cannot be used: {error}") from error

"""A follow-up rewritten by the language model, where rules do not suffice. Off by default (docs/lab.md)."""

import tomllib
from collections.abc import Generator as Stream
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib import resources

from pydantic import BaseModel, ConfigDict, ValidationError

from rag.datatypes import Delta, Message, Sampling, Usage
from rag.errors import ConfigError
from rag.followup import FollowUp
from rag.phrases import EMPTY_WORDS, tokens
from rag.protocols import Generator

PROMPT = "followup.toml"
MAX_SHOWN_CHARACTERS = 300  # of each turn
MAX_SHOWN = 4  # turns

_SAMPLING = Sampling(max_tokens=48, stop=("\n",))


class RewriteExample(BaseModel):
    """A worked example: the turns before, the last question, and that question as one of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history: str
    question: str
    rewritten: str


class RewritePrompt(BaseModel):
    """How the model is asked. `user` has the fields {history} and {question}."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    user: str
    examples: tuple[RewriteExample, ...] = ()

    def messages(self, turn: str, history: Sequence[Message]) -> list[Message]:
        """Return the chat that asks for `turn` as a question of its own. The conversation is data in one message."""
        chat = [Message("system", self.system)]
        for example in self.examples:
            chat.append(Message("user", self._filled(example.history, example.question)))
            chat.append(Message("assistant", example.rewritten))
        said = [f"{m.role.title()}: {' '.join(m.content[:MAX_SHOWN_CHARACTERS].split())}" for m in history[-MAX_SHOWN:]]
        return [*chat, Message("user", self._filled("\n".join(said), turn))]

    def _filled(self, history: str, question: str) -> str:
        before, _, after = self.user.partition("{history}")
        return before + history + after.replace("{question}", question)


class Rewriter:
    """Asks the language model. What it writes counts only where it keeps to what was said."""

    def __init__(self, generator: Generator, prompt: RewritePrompt) -> None:
        self._generator = generator
        self._prompt = prompt

    def rewrite(
        self, turn: str, history: Sequence[Message], ruled: FollowUp, owner: str = ""
    ) -> Stream[Delta, None, tuple[FollowUp, Usage]]:
        """Return the model's rewriting, or what the rules made of the turn where that is not to be trusted.

        `owner` is who said all that. Yields empty deltas with what was used so far, at which it can be cancelled.
        """
        said = history[len(history) - ruled.turns :]
        text, usage = "", Usage()
        chat = self._prompt.messages(turn, said)
        sampling = replace(_SAMPLING, owner=owner, own_from=(len(chat) - 1, 0))
        with closing(self._generator.stream(chat, sampling)) as pieces:
            for piece in pieces:
                text += piece.text
                usage = piece.usage or usage
                yield Delta(usage=piece.usage)
        text = text.strip()
        return (ruled._replace(question=text) if _keeps_to(text, turn, said) else ruled), usage


def _keeps_to(text: str, turn: str, said: Sequence[Message]) -> bool:
    """Whether a rewriting has all that the turn says, something of what was said before, and nothing else."""
    rewritten, own = _content(text), _content(turn)
    before = {word for message in said for word in _content(message.content)}
    return own <= rewritten <= own | before and rewritten > own


def _content(text: str) -> set[str]:
    return {w.low for w in tokens(text)} - EMPTY_WORDS


def load_rewrite_prompt() -> RewritePrompt:
    """Read the prompt that comes with the program. Raises `ConfigError` where it is malformed."""
    file = resources.files("configs") / "prompts" / PROMPT
    try:
        return RewritePrompt.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt {file} is malformed: {error}") from error

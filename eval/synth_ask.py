"""What a model is asked while test questions are made: to write, reword, describe, read, and answer from memory."""

import re
import tomllib
from collections.abc import Sequence
from contextlib import closing
from importlib import resources

from pydantic import BaseModel, ConfigDict, ValidationError

from eval.synth_passages import Passage
from rag.datatypes import Message, Sampling
from rag.errors import ConfigError
from rag.prompt import Prompt
from rag.protocols import Generator

PROMPTS = "synth.toml"

_QUESTION_TOKENS = 60
_WRITING, _ANSWERING = Sampling(max_tokens=_QUESTION_TOKENS), Sampling(max_tokens=48)
_LABEL = re.compile(
    r"^\s*(?:[-*]\s+|\d{1,2}[.)]\s+)?(?:(?:question|one question|in other words)\s*:\s*)?", re.IGNORECASE
)


class Task(BaseModel):
    """One way of asking: instructions, the shape of a request, worked examples. `{name}` stands for a field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str
    user: str
    examples: tuple[dict[str, str], ...]

    def messages(self, answer_field: str, **fields: str) -> list[Message]:
        """Return the chat; `answer_field` is the key of an example that holds what the model should say."""
        chat = [Message("system", self.system)]
        for example in self.examples:
            chat += [Message("user", self._filled(example)), Message("assistant", example[answer_field])]
        return [*chat, Message("user", self._filled(fields))]

    def _filled(self, fields: dict[str, str]) -> str:
        # One pass, so that braces in documents stay what they are.
        return re.sub(r"\{(\w+)\}", lambda m: fields.get(m[1], m[0]), self.user)


class SynthPrompts(BaseModel):
    """The prompts of `configs/prompts/synth.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    write: Task
    reword: Task
    ask_about: Task
    describe: Task


def load_synth_prompts() -> SynthPrompts:
    """Read the prompts that come with the program. Raises `ConfigError` where they are malformed."""
    file = resources.files("configs") / "prompts" / PROMPTS
    try:
        return SynthPrompts.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"the prompt {file} is malformed: {error}") from error


class Asker:
    """A model at work on test questions. Greedy, or sampled by a fixed seed: the same set comes out again.

    `prompt` is that of the systems under test: reading and answering from memory are done as they would do them.
    """

    def __init__(self, generator: Generator, prompt: Prompt, prompts: SynthPrompts) -> None:
        self._generator = generator
        self._prompt = prompt
        self._prompts = prompts

    def write(self, title: str, text: str, answer: str) -> str:
        """Return a question about `text` whose answer should be `answer`."""
        return self._question(self._prompts.write.messages("question", title=title, text=text, answer=answer))

    def ask_about(self, name: str, text: str, answer: str) -> str:
        """Return a question with `name` in it, about `text`, whose answer should be `answer`."""
        return self._question(self._prompts.ask_about.messages("question", name=name, text=text, answer=answer))

    def describe(self, name: str, title: str, text: str) -> str:
        """Return what `text` says that `name` is, as a noun phrase without the name."""
        hidden = text.replace(name, "X")
        said = self._question(self._prompts.describe.messages("description", title=title, text=hidden))
        return said.rstrip(" .!?")

    def reword(self, question: str, forbidden: Sequence[str], turn: int = 0) -> str:
        """Return the same question without the `forbidden` words; each `turn` after the first says it otherwise."""
        chat = self._prompts.reword.messages("reworded", question=question, forbidden=", ".join(forbidden))
        return self._question(chat, Sampling(_QUESTION_TOKENS, temperature=1.0 if turn else 0.0, seed=turn))

    def read(self, question: str, passages: Sequence[Passage]) -> str:
        """Return the answer that the passages give."""
        return self._said(self._prompt.messages(question, [p.scored for p in passages]), _ANSWERING).strip()

    def remember(self, question: str) -> str:
        """Return the answer from memory alone."""
        return self._said(self._prompt.messages(question, []), _ANSWERING).strip()

    def _question(self, messages: Sequence[Message], sampling: Sampling = _WRITING) -> str:
        return tidy_question(self._said(messages, sampling))

    def _said(self, messages: Sequence[Message], sampling: Sampling) -> str:
        with closing(self._generator.stream(messages, sampling)) as pieces:
            return "".join(piece.text for piece in pieces)


def tidy_question(said: str) -> str:
    """Return the first line of what a model said, without a label, a number or quotes around it."""
    line = next((line for line in said.splitlines() if line.strip()), "")
    line = _LABEL.sub("", line).strip()
    while len(line) > 1 and line[0] in "\"'“`" and line[-1] in "\"'”`":
        line = line[1:-1].strip()
    return line

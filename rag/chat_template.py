"""A model's chat template, rendered so that the template's own text and the messages' text stay apart.

A GGUF file carries a Jinja template that turns messages into one string with control tokens such as
`<|im_start|>`. If that string were tokenized as a whole, a document containing `<|im_start|>system` would open a
system turn. Here every message's content is replaced by a private mark, the template is rendered, and the result
is cut at the marks: only the template's text is trusted to hold control tokens.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rag.datatypes import Message
from rag.errors import InvalidRequest, ModelLoadFailed

_MARK = re.compile("\ue000(\\d+)\ue001")


class TextPart(NamedTuple):
    """A piece of a prompt; control tokens are looked for in trusted text only."""

    text: str
    trusted: bool


class ChatTemplate:
    """A compiled chat template. Raises `ModelLoadFailed` where it is not valid Jinja."""

    def __init__(self, source: str, *, bos: str, eos: str, adds_bos: bool) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelLoadFailed(f"the model's chat template is not valid: {error}") from error
        self._names = {"bos_token": bos, "eos_token": eos}
        self._bos = bos if adds_bos else ""

    def render(self, messages: Sequence[Message]) -> list[TextPart]:
        """Return the prompt's parts in order, the opening of the assistant's turn last.

        Raises `InvalidRequest` where the template refuses the messages (two user turns in a row, say).
        """
        marked = [{"role": m.role, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        try:
            text = self._template.render(messages=marked, add_generation_prompt=True, **self._names)
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}") from error
        if self._bos and not text.startswith(self._bos):
            text = self._bos + text
        return list(_cut(text, messages))


def _cut(text: str, messages: Sequence[Message]) -> Iterator[TextPart]:
    end = 0
    for mark in _MARK.finditer(text):
        yield TextPart(text[end : mark.start()], trusted=True)
        yield TextPart(messages[int(mark[1])].content, trusted=False)
        end = mark.end()
    yield TextPart(text[end:], trusted=True)


def _refuse(message: str) -> Any:
    raise InvalidRequest(f"the model's chat template refuses these messages: {message}")

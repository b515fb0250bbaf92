"""Requests of the HTTP endpoint: OpenAI's shapes, and ours where OpenAI has none. The responses are in `rag.replies`.

Unknown fields are ignored, so that clients may send what they always send; a field that asks for something that
cannot be honoured is refused with the code `unsupported_parameter`. How long a chat may be is in `rag.limits`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rag.datatypes import Message, Mode
from rag.filter import EXAMPLE, Filter

UNSUPPORTED = "unsupported_parameter"
MAX_STOPS = 16
MAX_INPUTS = 2048  # texts of one embeddings request, as OpenAI has it
MAX_INPUT_CHARACTERS = 32_000
MAX_PASSAGES = 50
MAX_HITS = 100
MAX_WORDS = 2000
MAX_TOKENS = 100_000
# As OpenAI has it: 64 bits, and a bound that an OpenAPI document, whose bounds are floats, can spell to the digit.
MAX_SEED = 9_223_372_036_854_776_000

# The marks that this server put behind the sentences of an earlier answer, of no use to the model that reads it again.
_MARKS = re.compile(r"(?: \[\d+\])+(?=\s|$)")


def _encodable(text: str) -> str:
    """Refuse lone surrogates: JSON can spell them, UTF-8, and so every tokenizer, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("text", "the text holds half of a surrogate pair (\\ud800 to \\udfff)") from error
    return text


def _whole(value: object) -> object:
    """To JSON, 3.0 and 3 are the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, AfterValidator(_encodable)]
# Stands behind the bounds of an int: before them, pydantic writes them into the schema as keywords of its own.
Whole = BeforeValidator(_whole)


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class TextPart(_Request):
    """A part of a message's content. Only text can be read here."""

    type: Literal["text"]
    text: Text


class RefusalPart(_Request):
    """A part of an assistant's turn with which it declined: what OpenAI's models answer instead of text."""

    type: Literal["refusal"]
    refusal: Text


def _one_or_many(value: object) -> str:
    """Tell pydantic which branch of a union is meant, so that its error speaks of that one alone."""
    return "<many>" if isinstance(value, list) else "<one>"


def _kind_of_part(value: object) -> str:
    """Likewise: whatever is no refusal should have been text."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "<refusal>" if kind == "refusal" else "<text>"


Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[RefusalPart, Tag("<refusal>")], Discriminator(_kind_of_part)
]
Content = Annotated[
    Annotated[Text, Tag("<one>")] | Annotated[list[Part], Field(fail_fast=True), Tag("<many>")],
    Discriminator(_one_or_many),
]
Stop = Annotated[Text, Field(min_length=1, max_length=200)]
Stops = Annotated[
    Annotated[Stop, Tag("<one>")] | Annotated[list[Stop], Field(max_length=MAX_STOPS), Tag("<many>")],
    Discriminator(_one_or_many),
]
Input = Annotated[Text, Field(min_length=1, max_length=MAX_INPUT_CHARACTERS)]
Inputs = Annotated[
    Annotated[Input, Tag("<one>")] | Annotated[list[Input], Field(min_length=1, max_length=MAX_INPUTS), Tag("<many>")],
    Discriminator(_one_or_many),
]


class Turn(_Request):
    """One message of a chat. Content may be null, and a refusal stand for it, in the assistant's turns alone.

    Turns in which an assistant called tools, and what these returned, are accepted and left out.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = Field(None, validate_default=True)
    refusal: Text | None = Field(None, description="With what the assistant declined, where it has no content.")
    tool_calls: list[Any] | None = Field(None, description="Not looked into.")
    function_call: dict[str, Any] | None = Field(None, description="The older name; not looked into.")

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: Content | None, info: ValidationInfo) -> Content | None:
        if content is None and info.data.get("role", "assistant") not in ("assistant", "function"):
            raise PydanticCustomError("content", "only the assistant's turns may be without content")
        declined = isinstance(content, list) and any(isinstance(part, RefusalPart) for part in content)
        if declined and info.data.get("role", "assistant") != "assistant":
            raise PydanticCustomError("content", "only the assistant's turns may hold a refusal")
        return content

    @property
    def text(self) -> str:
        """The content as one string, its parts joined by line breaks."""
        if isinstance(self.content, list):
            return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in self.content)
        return self.content or (self.refusal if self.role == "assistant" else None) or ""

    @property
    def spoken(self) -> bool:
        """Whether it belongs to the conversation of user and assistant, which the one with tools is apart from."""
        return self.role == "user" or (self.role == "assistant" and not (self.tool_calls or self.function_call))


class StreamOptions(_Request):
    """What a stream tells besides the answer."""

    include_usage: bool | None = Field(None, description="Send one more chunk, without choices, that has the `usage`.")


class ResponseFormat(_Request):
    """The form of the answer: text."""

    type: Literal["text"]


# Fields that ask for what this server has not, each with the values that ask for nothing and what to say of others.
_NOT_HERE: Mapping[str, tuple[tuple[object, ...], str]] = {
    "n": ((None, 1), "only one answer is given to a question: leave `n` out or send 1"),
    "tools": ((None, []), "tools cannot be called: leave `tools` out, or send them with `tool_choice` none"),
    "tool_choice": ((None, "none", "auto"), "tools cannot be called: leave `tool_choice` out"),
    "functions": (
        (None, []),
        "functions cannot be called: leave `functions` out, or send them with `function_call` none",
    ),
    "function_call": ((None, "none", "auto"), "functions cannot be called: leave `function_call` out"),
    "web_search_options": ((None,), "the web is not searched: leave `web_search_options` out"),
    "response_format": ((None, {"type": "text"}), "only text can be written: leave `response_format` out"),
    "logprobs": ((None, False), "log probabilities are not reported: leave `logprobs` out"),
    "top_logprobs": ((None, 0), "log probabilities are not reported: leave `top_logprobs` out"),
    "logit_bias": ((None, {}), "tokens cannot be biased: leave `logit_bias` out"),
    "frequency_penalty": ((None, 0), "penalties are not supported: leave `frequency_penalty` out or send 0"),
    "presence_penalty": ((None, 0), "penalties are not supported: leave `presence_penalty` out or send 0"),
    "modalities": ((None, [], ["text"]), "only text can be written: leave `modalities` out"),
}


class ChatRequest(_Request):
    """A question to the documents, in the shape of OpenAI's chat completions.

    The last user message is the question; earlier user and assistant turns are the conversation it belongs to. System
    messages are accepted, since many clients always send one, and have no effect: what the model is told is to answer
    from the passages, and a client cannot replace that. Nor have calls of tools in the conversation, and what they
    returned.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"messages": [{"role": "user", "content": "When does the first ferry leave?"}]},
                {
                    "model": "smallhold",
                    "stream": True,
                    "stream_options": {"include_usage": True},
                    "top_k": 3,
                    "messages": [
                        {"role": "user", "content": "Who built the lighthouse?"},
                        {"role": "assistant", "content": "Dorit Hask. [1]"},
                        {"role": "user", "content": "When?"},
                    ],
                },
                {"filter": EXAMPLE, "messages": [{"role": "user", "content": "How many days off are there?"}]},
                {
                    "mode": "joint",
                    "abstain": False,
                    "top_k": 5,
                    "messages": [{"role": "user", "content": "What do the bus and the ferry cost together?"}],
                },
            ]
        }
    )

    model: str = Field("default", max_length=200, description="A name from `/v1/models`, or `default`.")
    messages: list[Turn] = Field(
        min_length=1,
        fail_fast=True,  # of 300,000 that are wrong one is told of, and all would take seconds to be written down
        description="Their number, their length and that of the answer have limits of the server's.",
    )
    stream: bool | None = Field(None, description="Send the answer piece by piece, as server-sent events.")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(
        None, ge=0, le=2, description="0, the default here, takes the likeliest token each time."
    )
    top_p: float | None = Field(None, ge=0, le=1)
    seed: Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED), Whole] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), Whole] | None = Field(
        None, description="Longest answer; the older name."
    )
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), Whole] | None = Field(
        None, description="Longest answer."
    )
    stop: Stops | None = Field(None, description="The answer ends before any of these strings.")
    user: str | None = Field(None, max_length=1000, description="Ignored.")
    abstain: bool | None = Field(
        None, description="false: always answer; true or left out: say so where the documents do not hold the answer."
    )
    risk: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Of the answers given, at most this share may be wrong, as `smallhold calibrate` has tested. Goes "
        "without `top_k`, `mode`, `filter`, `length`, `stop`, a temperature or another length, which the promise is "
        "not about.",
    )
    length: Annotated[int, Field(ge=0, le=MAX_WORDS), Whole] | None = Field(
        None,
        description="Most words of an answer composed of the documents' sentences, whatever the question; 0 asks for a "
        "short answer. Left out: the server's settings and the question decide.",
    )
    top_k: Annotated[int, Field(ge=1, le=MAX_PASSAGES), Whole] | None = Field(
        None, description="Passages that the model is given to read."
    )
    mode: Mode | None = Field(
        None,
        description="How passages are read: `each` in a prompt of its own until one holds the answer, or all in one "
        "`joint` prompt, for questions that need several. Left out: the server's settings decide.",
    )
    filter: Filter | None = Field(None, description="Answer from these documents alone. Goes without `risk`.")

    n: Literal[1] | None = None
    tools: list[Any] | None = Field(None, description="Empty, unless `tool_choice` is `none`: then not looked into.")
    tool_choice: Literal["none", "auto"] | None = None
    functions: list[Any] | None = Field(None, description="The older name, which goes with `function_call`.")
    function_call: Literal["none", "auto"] | None = None
    web_search_options: None = None
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _leaves_out_what_may_not_be_called(cls, body: object) -> object:
        """Frameworks send their tools with every turn, and say at the last one that none may be called."""
        if not isinstance(body, dict):
            return body
        unused: dict[str, list[Any]] = {
            tools: []
            for tools, choice in (("tools", "tool_choice"), ("functions", "function_call"))
            if body.get(choice) == "none" and isinstance(body.get(tools), list)
        }
        return {**body, **unused}

    @field_validator(*_NOT_HERE, mode="before")
    @classmethod
    def _asks_for_nothing(cls, value: object, info: Any) -> object:
        harmless, message = _NOT_HERE[info.field_name]
        value = _whole(value)
        if not any(value == one and type(value) is type(one) for one in harmless):
            raise PydanticCustomError(UNSUPPORTED, message)
        return value

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, turns: list[Turn]) -> list[Turn]:
        spoken = [turn for turn in turns if turn.spoken]
        if not spoken or spoken[-1].role != "user":
            raise PydanticCustomError("question", "the last message must be the user's question")
        if not spoken[-1].text.strip():
            raise PydanticCustomError("question", "the last message, the question, is empty")
        return turns

    @property
    def question(self) -> str:
        """What is asked: the last user message."""
        return self._spoken()[-1].content

    @property
    def history(self) -> list[Message]:
        """The turns before the question."""
        return self._spoken()[:-1]

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were sent."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def _spoken(self) -> list[Message]:
        return [
            Message("user", turn.text) if turn.role == "user" else Message("assistant", _MARKS.sub("", turn.text))
            for turn in self.messages
            if turn.spoken
        ]


class EmbeddingsRequest(_Request):
    """Texts to turn into vectors. Arrays of token numbers are not accepted: their vocabulary would be unknown."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["first text", "second text"]}]})

    model: str = Field("default", max_length=200)
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: the vector's float32 numbers, little-endian. Left out: float."
    )
    dimensions: Annotated[int, Field(ge=1), Whole] | None = Field(
        None, description="Only the model's own number is accepted."
    )
    user: str | None = Field(None, max_length=1000, description="Ignored.")

    @field_validator("input", mode="before")
    @classmethod
    def _no_tokens(cls, value: object) -> object:
        if isinstance(value, list) and value and isinstance(value[0], int | list):
            raise PydanticCustomError(
                "tokens",
                "token numbers are not accepted: send text (LangChain: OpenAIEmbeddings(check_embedding_ctx_length="
                "False))",
            )
        return value

    @property
    def texts(self) -> list[str]:
        """The texts, however they were sent."""
        return [self.input] if isinstance(self.input, str) else self.input


class FeedbackRequest(_Request):
    """What somebody says of an answer; the last word counts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "chatcmpl-0123456789abcdef0123456789abcdef", "rating": "down", "comment": "Too old."}]
        }
    )

    id: str = Field(max_length=100, description="The `id` of the completion.")
    rating: Literal["up", "down"] | None = Field(description="null takes back what was said.")
    comment: Text = Field("", max_length=2000)
    right_answer: Text = Field("", max_length=2000, description="What would have been right, as the documents say it.")


class SearchRequest(_Request):
    """A question to the index alone; no language model is asked."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "first ferry on Sundays", "k": 5}, {"query": "days off", "filter": EXAMPLE}]
        }
    )

    query: Text = Field(min_length=1, max_length=20_000)
    k: Annotated[int, Field(ge=1, le=MAX_HITS), Whole] = Field(10, description="How many chunks to return.")
    filter: Filter | None = Field(None, description="Search these documents alone.")

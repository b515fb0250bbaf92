"""Responses of the HTTP endpoint: OpenAI's shapes, with smallhold's own fields beside them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, WithJsonSchema
from starlette.responses import Response

# Said as a list of two and not by `prefixItems`, which not every reader of OpenAPI knows.
Range = Annotated[
    tuple[int, int], WithJsonSchema({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2})
]


class ErrorDetail(BaseModel):
    """What went wrong, for a person (`message`) and for a program (`code`, `param`)."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's error body."""

    error: ErrorDetail


class UrlCitation(BaseModel):
    """Where in the message a source is marked: half-open `[start_index, end_index)` in characters (code points)."""

    start_index: int
    end_index: int
    title: str
    url: str


class Annotation(BaseModel):
    """OpenAI's annotation of a message."""

    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation


class Passage(BaseModel):
    """The passage that the model read around a citation; `span` lies in the document, like the citation's own."""

    text: str
    span: Range
    headings: str = ""


class Place(BaseModel):
    """Another place where a text stands; `span` lies in that document."""

    document_id: str
    title: str
    uri: str
    chunk_id: str
    span: Range
    page: int | None = None


class Source(BaseModel):
    """A numbered source: `text` is what stands at `span` (`[start, end)` in characters) of the document."""

    index: int
    document_id: str
    title: str
    uri: str
    chunk_id: str
    span: Range
    text: str
    page: int | None = None
    score: float = Field(0.0, description="How well it supports what it is cited for, from 0 to 1.")
    passage: Passage | None = None
    also_in: list[Place] = Field([], description="Other documents in which the same words stand.")


class Said(BaseModel):
    """A sentence of the answer with the `index` of each source that supports it best."""

    text: str
    citations: list[int]
    score: float = Field(description="How well the best of them supports it, from 0 to 1.")
    supported: bool = Field(description="Whether that is enough; where not, take it as the model's own word.")


class PromptTokensDetails(BaseModel):
    """`cached_tokens` of the prompt were reused, not read again."""

    cached_tokens: int


class UsageBody(BaseModel):
    """Tokens of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Near(BaseModel):
    """A document that comes close to a question without answering it; `text` is its sentence nearest to that."""

    document_id: str
    title: str
    uri: str
    score: float = Field(description="The retrieval's score of its best passage, comparable within one question.")
    dense: float | None = Field(description="Cosine similarity of that passage to the question, where it was computed.")
    text: str
    headings: str = ""
    page: int | None = None
    span: Range | None = Field(None, description="Where that passage stands in the document.")


class CostBody(BaseModel):
    """US dollars, as the server's settings state the prices; null is unknown.

    `baseline_dollars` is what the same tokens had cost at the prices of the model that the settings compare with.
    """

    dollars: float | None
    baseline_dollars: float | None
    baseline: str


class Target(BaseModel):
    """The promise: at most the share `risk` of the answers given is wrong, at this confidence."""

    risk: float
    confidence: float
    attainable: bool = Field(description="Whether any answer can be given under it.")


class AskedModel(BaseModel):
    """One model that was asked, where there are two: what it used, its seconds, how sure it was of its answer."""

    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float
    confidence: float | None
    error: str = Field(description="Why it could not be asked; empty where it could.")


class AnswerFields(BaseModel):
    """What smallhold tells besides OpenAI's fields, at the top level of a completion or of a stream's last choice."""

    question: str = Field(description="What was searched for and answered: a follow-up as a question of its own.")
    citations: list[Source]
    sentences: list[Said]
    verdict: Literal["answered", "abstained", "unattainable"] = Field(
        description="`abstained`: no answer is sure enough; `unattainable`: none can be, within the risk asked for."
    )
    closest: list[Near] = Field(description="Where no answer is given: the documents that come closest, best first.")
    risk_target: Target | None = Field(description="The promise under which this was decided, where one was asked for.")
    reason: str = Field(description="Why the answer was withheld; empty where it was given.")
    confidence: float | None = Field(description="Estimated probability that the answer is right, where one was made.")
    timings: dict[str, float] = Field(description="Seconds by stage; `queue` was spent waiting for the model.")
    answered_by: str = Field("", description="Where a larger model helps out: which one gave the answer.")
    asked: list[AskedModel] = Field([], description="And all that were asked, in order; `usage` is theirs together.")
    passages_read: int = Field(description="Passages that the model read for this answer.")
    cost: CostBody | None = Field(description="What it cost, where the server's settings state prices.")


class AssistantMessage(BaseModel):
    """The answer. A mark like `[1]` stands behind the sentence that a source supports; in a stream, at the end."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Annotation]


class Choice(BaseModel):
    """The one choice of a completion."""

    index: Literal[0] = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(AnswerFields):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageBody


class EmbeddingItem(BaseModel):
    """One vector, of length 1: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of the texts, counted by the embedder's tokenizer."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Vectors in the order of the input."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class ModelCard(BaseModel):
    """A name that may be sent as `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "smallhold"


class ModelList(BaseModel):
    """Every such name."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Hit(BaseModel):
    """A chunk that was found: fused `score`, `dense` cosine and `lexical` BM25 score where those were computed."""

    index: int
    score: float
    dense: float | None
    lexical: float | None
    document_id: str
    title: str
    uri: str
    chunk_id: str
    span: Range
    text: str
    headings: str = ""
    page: int | None = None
    also_in: list[Place] = Field([], description="Passages that say the same and are left out for this one.")


class SearchResult(BaseModel):
    """Chunks, best first."""

    object: Literal["list"] = "list"
    data: list[Hit]
    timings: dict[str, float]


class DocumentRow(BaseModel):
    """A document of the index, with what filters ask for; `type` and `date` are empty where they are not known."""

    id: str
    title: str
    uri: str
    chunks: int
    bytes: int
    type: str
    date: str
    tags: list[str]


class DocumentList(BaseModel):
    """A page of the documents that the key may see; `total` counts all of these, `chunks` their passages, `bytes` their
    originals.

    `changed` is when this index was made, `synced` when its folders were last compared with it.
    """

    object: Literal["list"] = "list"
    data: list[DocumentRow]
    total: int
    chunks: int
    bytes: int
    changed: datetime | None
    synced: datetime | None


class DocumentText(BaseModel):
    """A part of a document: `text` is what stands at `span`, of `length` characters (code points) in all."""

    object: Literal["document"] = "document"
    id: str
    title: str
    uri: str
    length: int
    span: Range
    text: str


class FeedbackKept(BaseModel):
    """What was said of an answer is kept until then; null: it was taken back."""

    object: Literal["feedback"] = "feedback"
    id: str
    kept_until: datetime | None


class Health(BaseModel):
    """The process runs and answers."""

    status: Literal["ok"] = "ok"


class IndexNow(BaseModel):
    """What answers come from: a generation of the index, and why what was published after it is not served.

    `documents` and `chunks` are those that the key may see.
    """

    generation: str
    documents: int
    chunks: int
    refused: str = Field("", description="Empty where the newest generation is served.")
    hint: str = ""


class Ready(BaseModel):
    """Whether questions can be answered, and where not, why and what to do about it.

    `authorized` says whether this client may ask any. One that sent no valid API key, where one is needed, is told
    the status alone.
    """

    status: Literal["loading", "ready", "failed"]
    authorized: bool = True
    reason: str = ""
    hint: str = ""
    code: str | None = None
    model: str | None = None
    embedder: str | None = None
    feedback: bool = Field(False, description="Whether answers can be rated.")
    index: IndexNow | None = None


def sent(body: BaseModel) -> Response:
    """The response that carries a record, in the words of pydantic's own serializer."""
    return Response(body.model_dump_json(), media_type="application/json")

"""The records that travel along the path from documents to an answer. All are immutable.

Spans are half-open `[start, end)` offsets in characters (code points) of `Document.text`, so that for every
chunk `document.text[chunk.span.start:chunk.span.end] == chunk.text` holds.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

MetadataValue = str | int | float | bool
Metadata = Mapping[str, MetadataValue]
Role = Literal["system", "user", "assistant"]

# How several passages are read: each in a prompt of its own, or all in one.
Mode = Literal["each", "joint"]


class Span(NamedTuple):
    """A half-open range of characters in a document's text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Document:
    """One readable document: what a loader made of a file, or one row of a QA set's corpus.

    `id` is stable across runs (the path relative to the indexed root, with forward slashes, or the corpus id).
    `uri` is where a person finds the original. `text` is what spans point into; for text and Markdown it is the
    file's own text, character for character, for other formats the extracted text.
    """

    id: str
    uri: str
    title: str
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of one document, at most the chunker's token budget long.

    `metadata` carries `title` (the document's), `uri`, and where known `headings` (the path of headings above it,
    joined with " > "), `page` (1-based, where the passage starts) and `page_breaks` (the offsets in the document at
    which further pages start in the passage, as "606,812").
    """

    id: str
    document_id: str
    text: str
    span: Span
    metadata: Metadata = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The document's title, or its id where it has none."""
        return str(self.metadata.get("title") or self.document_id)

    @property
    def uri(self) -> str:
        """Where the original is found."""
        return str(self.metadata.get("uri", ""))

    def page_at(self, offset: int) -> int | None:
        """The page on which a character of this passage stands, by its offset in the document; None without pages."""
        if "page" not in self.metadata:
            return None
        breaks = [int(start) for start in str(self.metadata.get("page_breaks", "")).split(",") if start]
        return int(self.metadata["page"]) + bisect_right(breaks, offset)

    @property
    def context_text(self) -> str:
        """What is embedded and matched lexically: the title path, then the text.

        A passage in the middle of a document often never names its subject; its title does.
        """
        head = " > ".join(p for p in (self.title, str(self.metadata.get("headings", ""))) if p)
        return f"{head}\n{self.text}"


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """A chunk with the score of the stage that returned it (higher is better; comparable within one list only).

    `dense` is the cosine similarity to the question and `lexical` the BM25 score, each None where that retriever
    did not score the chunk; they survive fusion because the abstention needs them. `also_in` are other chunks that say
    the same and were left out for this one (`rag.duplicates`).
    """

    chunk: Chunk
    score: float
    dense: float | None = None
    lexical: float | None = None
    also_in: tuple[Chunk, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more generations. `cached` prompt tokens were reused, not read; they count in `prompt` too."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. Temperature 0 is greedy; then `top_p` and `seed` have no effect.

    `decline` is the phrase with which this model was taught to say that the passage holds no answer. It is not
    written: how likely it was comes in the first token's piece, and the answer begins with what is likeliest beside it.
    `grammar` (GBNF, see `rag.engine.grammar`) allows only texts of its form. `deadline` is the longest time in seconds
    until the answer's end, None for no limit; a remote endpoint has its own, and takes no grammar.
    `owner` is whose question it is. From the message and the character of `own_from` on, the prompt holds what the
    owner said: what was read of that is kept in memory alone, and serves prompts of the same owner alone.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    decline: str = ""
    grammar: str = ""
    deadline: float | None = None
    owner: str = ""
    own_from: tuple[int, int] | None = None


FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of generated text.

    `logprob` sums the natural-log probabilities of its `tokens` tokens (None where the backend does not tell).
    `decline` is, in the piece of the first token, the probability of declining instead, where that was asked for.
    `usage` is what has been used so far, where it is known; the last piece of a stream, and only it, has a
    `finish_reason`, and it always has the `usage`.
    """

    text: str
    logprob: float | None = None
    tokens: int = 0
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    decline: float | None = None


@dataclass(frozen=True, slots=True)
class PrefixTier:
    """One place where read beginnings of prompts are kept.

    `hits` prompts took their beginning from there, and did not have to read `tokens`; `states` are kept there at the
    moment, in `bytes`.
    """

    hits: int = 0
    tokens: int = 0
    states: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class PrefixCounters:
    """How a model uses what it has read before, since it was loaded. `misses` prompts were read from the first token.

    `context` is llama.cpp's own cache, `memory` and `disk` hold saved states; the bytes on disk are those of every
    model that keeps states there.
    """

    misses: int = 0
    context: PrefixTier = PrefixTier()
    memory: PrefixTier = PrefixTier()
    disk: PrefixTier = PrefixTier()


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another place where a text stands: `span` lies in that document's text."""

    document_id: str
    title: str
    uri: str
    chunk_id: str
    span: Span
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """A numbered source. `span` lies in the document's text, `text` is what stands there.

    `score` tells how well it supports what is said, from 0 to 1, where it is quoted (see `rag.cite`). `also_in` are
    other documents in which the same words stand.
    """

    index: int
    document_id: str
    title: str
    uri: str
    chunk_id: str
    span: Span
    text: str
    page: int | None = None
    score: float = 0.0
    also_in: tuple[Elsewhere, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerSentence:
    """A sentence of an answer: `span` lies in the answer's text, `citations` are the numbers of its sources.

    `score` tells from 0 to 1 how well the best of the sources supports it, `supported` whether that is enough.
    """

    span: Span
    citations: tuple[int, ...]
    score: float
    supported: bool


class Verdict(StrEnum):
    """What became of a question."""

    ANSWERED = "answered"
    ABSTAINED = "abstained"
    UNATTAINABLE = "unattainable"  # no answer can be given within the risk that was asked for


@dataclass(frozen=True, slots=True)
class RiskTarget:
    """A promise asked for: of the answers given, at most the share `risk` is wrong, at this confidence.

    `attainable` is whether any answer can be given under it.
    """

    risk: float
    confidence: float
    attainable: bool


@dataclass(frozen=True, slots=True)
class Closest:
    """A document that comes close to a question without answering it: its best passage that was found.

    `text` is the sentence in it that says most of what was asked. `score` is the retrieval's, comparable within one
    question, `dense` the cosine similarity to the question, None where that was not computed. `headings` and `page` are
    where the passage begins, "" and None where not known; `span` is the passage's place in the document.
    """

    document_id: str
    title: str
    uri: str
    score: float
    text: str
    headings: str = ""
    page: int | None = None
    dense: float | None = None
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One model that a cascade asked: what it used, its seconds, and the estimate that its answer is right.

    `confidence` is None where no estimate was made; `error` says why it could not be asked, "" where it could.
    """

    model: str
    usage: Usage
    seconds: float
    confidence: float | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a question.

    `text` is the plain answer without citation marks (empty when abstaining). Its `sentences` point to the `citations`,
    each of which stands in a passage that was retrieved. `confidence` is the estimated probability that the answer is
    right (None where nothing estimated it), `signals` the numbers it came from,
    `reason` why the answer was withheld, `timings` seconds by stage, `retrieved` what the retriever returned,
    best first, `passages_read` how many of it the model read and `evidence_tokens` how many prompt tokens those took.
    `target` is the promise under which it was decided, None where there is none; `closest` are the documents that come
    closest to a question without an answer. Of a cascade `model` is the one that gave the answer and `asked` are all
    that were asked, in order; `usage` is what they used together. `question` is what was searched for and answered: the
    turn itself, or what `rag.followup` made of it.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    sentences: tuple[AnswerSentence, ...] = ()
    verdict: Verdict = Verdict.ANSWERED
    usage: Usage = Usage()
    timings: Mapping[str, float] = field(default_factory=dict)
    confidence: float | None = None
    signals: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    retrieved: tuple[ScoredChunk, ...] = ()
    evidence_tokens: int = 0
    finish_reason: FinishReason = "stop"
    target: RiskTarget | None = None
    closest: tuple[Closest, ...] = ()
    model: str = ""
    asked: tuple[Asked, ...] = ()
    question: str = ""
    passages_read: int = 0

    @property
    def abstained(self) -> bool:
        """Whether no answer is given: the documents do not hold one, or none that is sure enough."""
        return self.verdict is not Verdict.ANSWERED


@dataclass(frozen=True, slots=True)
class Delta:
    """One event of a streamed answer: text to append, and at the end, once, the whole `answer`.

    `usage` is what has been used up to here, where it is known; the end's is in the answer. `confidence` comes with the
    text, where an estimate was made.
    """

    text: str = ""
    answer: Answer | None = None
    usage: Usage | None = None
    confidence: float | None = None

"""An `Answer` in the words of OpenAI's chat completions: text with numbered marks, annotations, sources, usage."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from rag.api import ChatRequest
from rag.cost import Costs
from rag.datatypes import Answer, AnswerSentence, Asked, Citation, FinishReason, Usage
from rag.filter import View
from rag.marks import marked
from rag.options import AskOptions
from rag.pipeline import said
from rag.replies import (
    Annotation,
    AnswerFields,
    AskedModel,
    AssistantMessage,
    ChatCompletion,
    Choice,
    CostBody,
    Near,
    Passage,
    Place,
    PromptTokensDetails,
    Said,
    Source,
    Target,
    UrlCitation,
    UsageBody,
)

DONE = b"data: [DONE]\n\n"
# A comment, which readers of server-sent events pass over: proxies cut connections on which nothing comes for a minute.
STILL_THERE = b": still at it\n\n"
SILENT_SECONDS = 15.0
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}

_FINISHED: Mapping[FinishReason, Literal["stop", "length"]] = {
    "stop": "stop",
    "length": "length",
    # OpenAI has no name for it; what counts for a client is that the text is not whole.
    "cancelled": "length",
}


def ask_options(request: ChatRequest, view: View, owner: str = "") -> AskOptions:
    """What the request changes about answering, within what its sender, the `owner` of a key, may see."""
    return AskOptions(
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=0.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        # Clients send up to 64 bits, signed; samplers take 32.
        seed=(request.seed or 0) & 0xFFFFFFFF,
        stop=request.stops,
        abstain=request.abstain,
        passages=request.top_k,
        mode=request.mode,
        words=request.length,
        risk=request.risk,
        view=view,
        owner=owner,
    )


class Ending(NamedTuple):
    """What follows the text that was already sent: the rest of it with the marks, and where each mark stands."""

    text: str
    annotations: list[Annotation]


def ending(answer: Answer, sent: str = "") -> Ending:
    """Return what is still to be said of `answer` after `sent`; with nothing sent, that is the whole content."""
    whole = said(answer)
    rest, annotations = "", []
    sources = {citation.index: citation for citation in answer.citations}
    for text, marks in marked(answer, whole[len(sent) :] if whole.startswith(sent) else ""):
        rest += text
        for index in marks:
            rest += f" [{index}]"
            end = len(sent) + len(rest)
            annotations.append(_annotation(sources[index], end - len(f"[{index}]"), end))
    return Ending(rest, annotations)


def answer_fields(answer: Answer, waited: float, costs: Costs | None) -> dict[str, Any]:
    """Our own fields, as JSON values. `waited` seconds were spent in the queue."""
    fields = AnswerFields(
        question=answer.question,
        citations=_sources(answer),
        sentences=[_said(answer, sentence) for sentence in answer.sentences],
        verdict=answer.verdict.value,
        closest=[Near(**asdict(near)) for near in answer.closest],
        risk_target=Target(**asdict(answer.target)) if answer.target else None,
        reason=answer.reason,
        confidence=answer.confidence,
        timings={"queue": waited, **answer.timings},
        answered_by=answer.model,
        asked=[_asked(asked) for asked in answer.asked],
        passages_read=answer.passages_read,
        cost=CostBody(**asdict(costs.of(answer))) if costs is not None else None,
    )
    return fields.model_dump(mode="json")


def _asked(asked: Asked) -> AskedModel:
    return AskedModel(
        model=asked.model,
        prompt_tokens=asked.usage.prompt,
        cached_tokens=asked.usage.cached,
        completion_tokens=asked.usage.completion,
        seconds=asked.seconds,
        confidence=asked.confidence,
        error=asked.error,
    )


def usage_body(usage: Usage) -> UsageBody:
    """OpenAI's spelling of the tokens."""
    return UsageBody(
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached),
    )


def completion(answer: Answer, model: str, waited: float, costs: Costs | None = None) -> ChatCompletion:
    """The whole answer in one response."""
    content, annotations = ending(answer)
    return ChatCompletion(
        id=_new_id(),
        created=int(time.time()),
        model=model,
        choices=[
            Choice(
                message=AssistantMessage(content=content, annotations=annotations),
                finish_reason=_FINISHED[answer.finish_reason],
            )
        ],
        usage=usage_body(answer.usage),
        **answer_fields(answer, waited, costs),
    )


@dataclass
class EventStream:
    """The server-sent events of one streamed completion; each method returns one, encoded."""

    model: str
    with_usage: bool
    costs: Costs | None = None
    id: str = field(default_factory=lambda: _new_id())
    created: int = field(default_factory=lambda: int(time.time()))
    sent: str = ""

    def opening(self) -> bytes:
        """The first chunk, which names the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """A piece of the answer."""
        self.sent += text
        return self._chunk({"content": text})

    def finish(self, answer: Answer, annotations: Sequence[Annotation], waited: float) -> bytes:
        """The last choice: why it ended, the sources in full, and our own fields."""
        delta = {"annotations": [a.model_dump() for a in annotations]} if annotations else {}
        return self._chunk(delta, _FINISHED[answer.finish_reason], **answer_fields(answer, waited, self.costs))

    def usage(self, answer: Answer) -> bytes:
        """The chunk without choices that `include_usage` asks for; being the last one, it has the sources, too."""
        citations = [source.model_dump(mode="json") for source in _sources(answer)]
        usage = usage_body(answer.usage).model_dump()
        return event({**self._head(), "choices": [], "usage": usage, "citations": citations})

    def _chunk(self, delta: Mapping[str, object], finish_reason: str | None = None, **more: object) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self.with_usage else {}
        return event({**self._head(), "choices": [choice], **usage, **more})

    def _head(self) -> dict[str, object]:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}


def event(payload: Mapping[str, object]) -> bytes:
    """One server-sent event. JSON escapes line breaks, so that one `data:` line always suffices.

    All that Unicode calls a line's end is escaped, too: clients such as httpx's `iter_lines` break lines there.
    """
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    return b"data: " + text.encode() + b"\n\n"


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _annotation(citation: Citation, start: int, end: int) -> Annotation:
    url = citation.uri or citation.document_id
    return Annotation(url_citation=UrlCitation(start_index=start, end_index=end, title=citation.title, url=url))


def _said(answer: Answer, sentence: AnswerSentence) -> Said:
    text = answer.text[sentence.span.start : sentence.span.end]
    return Said(text=text, citations=list(sentence.citations), score=sentence.score, supported=sentence.supported)


def _sources(answer: Answer) -> list[Source]:
    chunks = {scored.chunk.id: scored.chunk for scored in answer.retrieved}
    sources = []
    for citation in answer.citations:
        chunk = chunks.get(citation.chunk_id)
        passage = chunk and Passage(text=chunk.text, span=chunk.span, headings=str(chunk.metadata.get("headings", "")))
        sources.append(
            Source(
                index=citation.index,
                document_id=citation.document_id,
                title=citation.title,
                uri=citation.uri,
                chunk_id=citation.chunk_id,
                span=citation.span,
                text=citation.text,
                page=citation.page,
                score=citation.score,
                passage=passage,
                also_in=[Place(**asdict(place)) for place in citation.also_in],
            )
        )
    return sources

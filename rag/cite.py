"""Tie an answer to the evidence: which passages support it, and which sentence in them says so."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rag.datatypes import Citation, ScoredChunk, Span
from rag.sentences import sentence_spans
from rag.text import content_words, words


class _Support(NamedTuple):
    passage: ScoredChunk
    sentence: Span  # within the chunk's text
    grounding: float


def grounding(answer: str, text: str) -> float:
    """Return the share of the answer's words that stand in the text; 1 where it is quoted, 0 for no words at all."""
    said = content_words(answer)
    known = set(words(text))
    return sum(w in known for w in said) / len(said) if said else 0.0


def cite(question: str, answer: str, passages: Sequence[ScoredChunk]) -> tuple[Citation, ...]:
    """Return numbered citations, best first: the passages that hold the answer's words, each with its best sentence.

    Where no passage holds them (a "yes", a sum) the first passage is cited: it is what the model read.
    """
    supports = [_support(question, answer, p) for p in passages]
    best = max((s.grounding for s in supports), default=0.0)
    # A passage that holds fewer of the answer's words than another one is no source of the answer.
    chosen = [s for s in supports if s.grounding == best] if best > 0 else supports[:1]
    return tuple(_citations(chosen))


def _support(question: str, answer: str, passage: ScoredChunk) -> _Support:
    text = passage.chunk.text
    sentences = sentence_spans(text) or [Span(0, len(text))]
    asked = set(content_words(question))

    def rank(span: Span) -> tuple[float, int]:
        sentence = text[span.start : span.end]
        return grounding(answer, sentence), len(asked & set(words(sentence)))

    return _Support(passage, max(sentences, key=rank), grounding(answer, text))


def _citations(supports: Sequence[_Support]) -> Iterator[Citation]:
    for index, support in enumerate(supports, start=1):
        chunk = support.passage.chunk
        start = chunk.span.start + support.sentence.start
        end = chunk.span.start + support.sentence.end
        yield Citation(
            index=index,
            document_id=chunk.document_id,
            title=chunk.title,
            uri=chunk.uri,
            chunk_id=chunk.id,
            span=Span(start, end),
            text=chunk.text[support.sentence.start : support.sentence.end],
            page=chunk.page_at(start),
        )

"""What comes closest to a question that gets no answer: so that a reader can look there, or ask otherwise."""

from collections.abc import Sequence

from rag.datatypes import Closest, ScoredChunk
from rag.sentences import sentence_spans
from rag.text import content_words, words

MOST = 3

_LONGEST = 300  # characters of a sentence; a table or a list may be one of thousands


def closest(question: str, retrieved: Sequence[ScoredChunk], most: int = MOST) -> tuple[Closest, ...]:
    """Return the best documents, each by its best passage; `retrieved` comes best first."""
    best: dict[str, ScoredChunk] = {}
    for scored in retrieved:
        best.setdefault(scored.chunk.document_id, scored)
        if len(best) == most:
            break
    asked = set(content_words(question))
    return tuple(_closest(asked, scored) for scored in best.values())


def _closest(asked: set[str], scored: ScoredChunk) -> Closest:
    chunk = scored.chunk
    page, headings = chunk.metadata.get("page"), str(chunk.metadata.get("headings", ""))
    return Closest(
        document_id=chunk.document_id,
        title=chunk.title,
        uri=chunk.uri,
        score=scored.score,
        text=_nearest_sentence(asked, chunk.text, {*words(chunk.title), *words(headings)}),
        headings=headings,
        page=int(page) if page is not None else None,
        dense=scored.dense,
        span=chunk.span,
    )


def _nearest_sentence(asked: set[str], text: str, told: set[str]) -> str:
    """Return the sentence that holds most words of the question; the first of those that hold equally many.

    Words that title and headings have `told` count nothing, and a sentence of no others, such as a heading, comes last.
    """
    sentences = [text[span.start : span.end] for span in sentence_spans(text)] or [text]

    def rank(sentence: str) -> tuple[int, bool]:
        new = set(words(sentence)) - told
        return len(asked & new), bool(new)

    nearest = " ".join(max(sentences, key=rank).split())
    return nearest if len(nearest) <= _LONGEST else nearest[: _LONGEST - 1] + "…"

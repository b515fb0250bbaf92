"""What comes closest to a question that gets no answer: so that a reader can look there, or ask otherwise."""

from collections.abc import Callable, Sequence

from rag.datatypes import Closest, ScoredChunk
from rag.lexical import Analyzer
from rag.sentences import sentence_spans

MOST = 3

Terms = Callable[[str], Sequence[str]]  # of a text, as the lexical search has them

_LONGEST = 300  # characters of a sentence; a table or a list may be one of thousands


def closest(question: str, retrieved: Sequence[ScoredChunk], most: int = MOST) -> tuple[Closest, ...]:
    """Return the best documents, each by its best passage; `retrieved` comes best first."""
    best: dict[str, ScoredChunk] = {}
    for scored in retrieved:
        best.setdefault(scored.chunk.document_id, scored)
        if len(best) == most:
            break
    terms = Analyzer().terms
    return tuple(_closest(question, scored, terms) for scored in best.values())


def _closest(question: str, scored: ScoredChunk, terms: Terms) -> Closest:
    chunk = scored.chunk
    page, headings = chunk.metadata.get("page"), str(chunk.metadata.get("headings", ""))
    return Closest(
        document_id=chunk.document_id,
        title=chunk.title,
        uri=chunk.uri,
        score=scored.score,
        text=_nearest_sentence(question, chunk.text, f"{chunk.title}\n{headings}", terms),
        headings=headings,
        page=int(page) if page is not None else None,
        dense=scored.dense,
        span=chunk.span,
    )


def _nearest_sentence(question: str, text: str, head: str, terms: Terms) -> str:
    """Return the sentence that holds most terms of the question; the first of those that hold equally many.

    Terms that title and headings tell count nothing, and a sentence of no others, such as a heading, comes last.
    """
    asked, told = set(terms(question)), set(terms(head))
    sentences = [text[span.start : span.end] for span in sentence_spans(text)] or [text]

    def rank(sentence: str) -> tuple[int, bool]:
        new = set(terms(sentence)) - told
        return len(asked & new), bool(new)

    nearest = " ".join(max(sentences, key=rank).split())
    return nearest if len(nearest) <= _LONGEST else nearest[: _LONGEST - 1] + "…"

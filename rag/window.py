"""The part of a passage that is read: the sentence nearest to the question, with its neighbours, up to a budget.

Reading is what costs, and a small model is distracted by what it need not read. A sentence is as near as it has many of
the question's terms that the passage's title does not name: the title says what all of it is about. The cosine of
sentence embeddings would cost a forward pass and finds the answer's sentence no more often (docs/lab.md; how often the
answer is kept by the budget: benchmarks/window.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rag.datatypes import Chunk, ScoredChunk, Span
from rag.lexical import Analyzer
from rag.sentences import sentence_spans


def nearest_window(question: str, passage: ScoredChunk, *, tokens: int, count: Callable[[str], int]) -> ScoredChunk:
    """Return the passage cut to whole sentences of at most `tokens` together, its span cut with it.

    Neighbours of the nearest sentence are added in turn, the one before it first, since pronouns point back. A passage
    that fits is returned as it is, and the nearest sentence is read however long it is.
    """
    chunk = passage.chunk
    if count(chunk.text) <= tokens:
        return passage
    sentences = sentence_spans(chunk.text) or [Span(0, len(chunk.text))]
    texts = [chunk.text[span.start : span.end] for span in sentences]
    first, last = _around(_nearest(question, chunk.title, texts), [count(text) for text in texts], tokens)
    return replace(passage, chunk=_cut(chunk, sentences[first].start, sentences[last].end))


def _nearest(question: str, title: str, sentences: Sequence[str]) -> int:
    terms = Analyzer().terms
    asked = set(terms(question))
    asked = asked - set(terms(title)) or asked
    return max(range(len(sentences)), key=lambda i: len(asked.intersection(terms(sentences[i]))))


def _around(middle: int, costs: Sequence[int], budget: int) -> tuple[int, int]:
    """Return the first and the last of the sentences around `middle` that fit the budget together."""
    first = last = middle
    left = budget - costs[middle]
    for distance in range(1, len(costs)):
        if middle - distance == first - 1 >= 0 and costs[first - 1] <= left:
            first -= 1
            left -= costs[first]
        if middle + distance == last + 1 < len(costs) and costs[last + 1] <= left:
            last += 1
            left -= costs[last]
    return first, last


def _cut(chunk: Chunk, start: int, end: int) -> Chunk:
    span = Span(chunk.span.start + start, chunk.span.start + end)
    return replace(chunk, text=chunk.text[start:end], span=span)

"""Tie an answer to the evidence: for each of its sentences the passages that support it, and the sentence in them.

No model is asked. How well a sentence of a passage supports one of the answer is the share of the latter's words that
stand in it; where that does not suffice and an embedder is at hand, the cosine similarity of the two, since the same
may be said in other words. A number that no passage has is never supported: similar sentences differ in just that.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rag.datatypes import AnswerSentence, Chunk, Citation, Elsewhere, ScoredChunk, Span
from rag.lexical import Analyzer
from rag.protocols import Embedder
from rag.sentences import sentence_spans
from rag.text import IDEOGRAPHS, STOP_WORDS, content_words, words

# From which share of words, or else cosine, on a sentence is supported. Of 132 sentences that experts wrote about a
# document of long-answers these find support for 0.50 in it, for 0.01 in the other documents found for the question.
_WORDS = 0.6
_MEANING = 0.7

# What looks like marks of ours in a model's text points to nothing, and is no number that the text would have to have.
_MARK = re.compile(r"\[\d{1,3}(?:[,;]\s?\d{1,3})*\]")
# A verdict on what was asked is quoted from nowhere: "no" stands in many sentences.
_VERDICTS = frozenset("yes no ja nein oui non".split())
_THOUSANDS = re.compile(r"(?<=\d)[,.'’\u00a0\u202f](?=\d{3}(?!\d))")
_IDEOGRAPH = re.compile(f"([{IDEOGRAPHS}])")
_MOST_LINES = 8  # of a list that are quoted together


class Quote(NamedTuple):
    """A sentence of a passage, `span` within the chunk's text; how well it supports what it is quoted for, and whether
    that is enough.
    """

    passage: ScoredChunk
    span: Span
    score: float = 1.0
    supports: bool = True

    @property
    def text(self) -> str:
        """What stands there."""
        return self.passage.chunk.text[self.span.start : self.span.end]


class Cited(NamedTuple):
    """The sentences of an answer, in order, and the numbered sources that they point to."""

    sentences: tuple[AnswerSentence, ...]
    citations: tuple[Citation, ...]


def grounding(answer: str, text: str) -> float:
    """Return the share of the answer's words that stand in the text; 1 where it is quoted, 0 for no words at all."""
    said = content_words(answer)
    known = set(words(text))
    return sum(w in known for w in said) / len(said) if said else 0.0


def cite(question: str, answer: str, passages: Sequence[ScoredChunk], embedder: Embedder | None = None) -> Cited:
    """Return the answer's sentences with their sources, numbered as they come.

    A sentence points to the passages that hold most of its words, to each by its best sentence. Where no sentence of
    the answer is supported (a "yes", a sum) the first points to the first passage: it is what the model read.
    """
    spans = sentence_spans(answer)
    quotes = [support(question, answer[span.start : span.end], passages, embedder) for span in spans]
    if quotes and not any(is_supported(found) for found in quotes):
        said = "" if _is_verdict(answer) else answer
        read = [_quote(question, said, p)._replace(supports=False) for p in passages[:1]]
        quotes = [quotes[0] or read, *([] for _ in quotes[1:])]
    return cited(spans, quotes)


def cited(spans: Sequence[Span], quotes: Sequence[Sequence[Quote]]) -> Cited:
    """Return sentences at these places of an answer, the quotes of each as citations; the same quote has one number."""
    numbered: dict[tuple[str, Span], Citation] = {}
    sentences = []
    for span, found in zip(spans, quotes, strict=True):
        indexes = []
        for quote in found:
            key = (quote.passage.chunk.id, quote.span)
            citation = numbered.setdefault(key, _citation(len(numbered) + 1, quote))
            indexes.append(citation.index)
        score = max((quote.score for quote in found), default=0.0)
        sentences.append(AnswerSentence(span, tuple(indexes), score, is_supported(found)))
    return Cited(tuple(sentences), tuple(numbered.values()))


def support(
    question: str, sentence: str, passages: Sequence[ScoredChunk], embedder: Embedder | None = None
) -> list[Quote]:
    """Return the quotes that support one sentence of an answer best, one for each passage that does; none where a
    number of it stands in no passage, or no word, and for a "yes" or "no" alone.
    """
    sentence = _MARK.sub("", sentence)
    if _is_verdict(sentence):
        return []
    numbers, told = _numbers(sentence), [_told(p.chunk.context_text) for p in passages]
    if not numbers.issubset(frozenset().union(*told)):
        return []
    # They may stand in several passages together; where one has them all, one that lacks some is no source.
    passages = [p for p, known in zip(passages, told, strict=True) if numbers <= known] or passages
    held = [grounding(_apart(sentence), _apart(p.chunk.text)) for p in passages]
    best = max(held, default=0.0)
    # A passage that holds fewer of the words than another one is no source of them, nor is one that has them in several
    # sentences beside one that has them in one.
    by_words = [_quote(question, sentence, p) for p, share in zip(passages, held, strict=True) if 0 < share == best]
    by_words = [quote for quote in by_words if quote.supports] or by_words
    if is_supported(by_words) or embedder is None or not passages:
        return by_words
    by_meaning = _nearest(sentence, passages, embedder)
    return [by_meaning] if by_meaning.supports else by_words


def is_supported(quotes: Sequence[Quote]) -> bool:
    """Whether one of the quotes for a sentence supports it well enough."""
    return any(quote.supports for quote in quotes)


def sentences_of(passage: ScoredChunk) -> list[Span]:
    """Return the spans of a passage's sentences within its text; the whole text where it has none."""
    return sentence_spans(passage.chunk.text) or [Span(0, len(passage.chunk.text))]


def _is_verdict(text: str) -> bool:
    """Whether a text says yes or no and nothing else: "Yes, it is." is in the document as little as "yes"."""
    said = words(text)
    return not said or (said[0] in _VERDICTS and (_VERDICTS | STOP_WORDS).issuperset(said))


def _apart(text: str) -> str:
    """Return a text whose words are apart: a number with thousands is one, an ideograph one of its own."""
    return _IDEOGRAPH.sub(r" \1 ", _THOUSANDS.sub("", text))


def _numbers(text: str) -> frozenset[str]:
    return frozenset(word for word in words(_apart(text)) if word.isdecimal())


def _told(text: str) -> frozenset[str]:
    """Return the words of a text that may be said; numbers with thousands, or dates, may be taken apart."""
    return frozenset([*words(text), *words(_apart(text))])


def _agreeing(numbers: frozenset[str], passage: ScoredChunk) -> list[Span]:
    """Return the sentences of a passage that have no other numbers in the place of these; all where each has.

    One without any may be about a number that stands before it, as in a heading.
    """
    text, spans = passage.chunk.text, sentences_of(passage)
    own = [_numbers(text[span.start : span.end]) for span in spans]
    return [span for span, its in zip(spans, own, strict=True) if numbers <= its or its <= numbers] or spans


def _quote(question: str, answer: str, passage: ScoredChunk) -> Quote:
    """Return the passage's sentence with most words of the answer, among equals one that has them as they stand, then
    the one with most of the question.

    One that has other numbers than the answer says something else. Where none holds enough of them, the lines of a list
    may together.
    """
    text, terms = passage.chunk.text, Analyzer().terms
    said, asked, verbatim = _apart(answer), set(terms(question)), _verbatim(answer)

    def rank(span: Span) -> tuple[float, bool, int]:
        sentence = text[span.start : span.end]
        as_it_stands = verbatim.search(sentence) is not None
        return grounding(said, _apart(sentence)), as_it_stands, len(asked.intersection(terms(sentence)))

    best = max(_agreeing(_numbers(answer), passage), key=rank)
    share = rank(best)[0]
    if share < _WORDS and (lines := _lines(said, passage)) is not None:
        best, share = lines, grounding(said, _apart(text[lines.start : lines.end]))
    return Quote(passage, best, share, share >= _WORDS)


def _verbatim(answer: str) -> re.Pattern[str]:
    """Return what finds an answer as it stands, spaces and case aside: "50%" not in "50 people", "C++" not in "C"."""
    as_said = r"\s+".join(map(re.escape, answer.strip(" .!?").split()))
    return re.compile(rf"(?<!\w)(?<!\d[.,]){as_said}(?!\w|[.,]\d)", re.IGNORECASE)


def _lines(said: str, passage: ScoredChunk) -> Span | None:
    """Return the fewest lines in a row, such as items of a list, that hold all that the passage holds of the words.

    None where that is too little, or where the words are spread over more or over what is no line.
    """
    text, spans = passage.chunk.text, sentences_of(passage)
    held = grounding(said, _apart(text))
    if held < _WORDS:
        return None
    broken = ["\n" in text[one.end : other.start] for one, other in pairwise(spans)]
    for many in range(2, min(_MOST_LINES, len(spans)) + 1):
        for first in range(len(spans) - many + 1):
            run = Span(spans[first].start, spans[first + many - 1].end)
            if all(broken[first : first + many - 1]) and grounding(said, _apart(text[run.start : run.end])) == held:
                return run
    return None


def _nearest(sentence: str, passages: Sequence[ScoredChunk], embedder: Embedder) -> Quote:
    """Return the sentence of the passages with the greatest cosine similarity to `sentence`."""
    numbers = _numbers(sentence)
    quotes = [Quote(passage, span) for passage in passages for span in _agreeing(numbers, passage)]
    vectors_nd = embedder.embed([sentence, *(quote.text for quote in quotes)])
    cosines_n = vectors_nd[1:] @ vectors_nd[0]
    best = int(cosines_n.argmax())
    cosine = min(1.0, float(cosines_n[best]))
    return quotes[best]._replace(score=cosine, supports=cosine >= _MEANING)


def _citation(index: int, quote: Quote) -> Citation:
    chunk = quote.passage.chunk
    start = chunk.span.start + quote.span.start
    return Citation(
        index=index,
        document_id=chunk.document_id,
        title=chunk.title,
        uri=chunk.uri,
        chunk_id=chunk.id,
        span=Span(start, chunk.span.start + quote.span.end),
        text=quote.text,
        page=chunk.page_at(start),
        score=quote.score,
        also_in=tuple(place for other in quote.passage.also_in if (place := _place(quote.text, other))),
    )


def _place(text: str, chunk: Chunk) -> Elsewhere | None:
    """Return where a chunk says just this, spaces aside; None where it says it in other words."""
    found = re.search(r"\s+".join(map(re.escape, text.split())), chunk.text)
    return found and elsewhere(chunk, Span(chunk.span.start + found.start(), chunk.span.start + found.end()))


def elsewhere(chunk: Chunk, span: Span) -> Elsewhere:
    """Return a place in a chunk's document as another source of what stands there."""
    return Elsewhere(chunk.document_id, chunk.title, chunk.uri, chunk.id, span, chunk.page_at(span.start))

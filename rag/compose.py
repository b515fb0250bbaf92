"""Long answers, composed from evidence: the sentences of several passages that say most about the question.

Sentences are chosen one after the other by maximal marginal relevance (Carbonell and Goldstein 1998): near to the
question, and not near to what has been chosen. One that begins with a pronoun brings the sentence before it along, one
that leads to a list its items, and the steps of a way that is asked for stay together. They are put in the order in
which one would read them. Nothing is generated, so nothing is said that a document does not say; a 0.5B model that
writes over the same sentences does worse (docs/lab.md, benchmarks/long_answers.py).
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rag.cite import Cited, Quote, cited, sentences_of
from rag.datatypes import ScoredChunk, Span
from rag.form import asks_for_steps
from rag.lexical import Analyzer
from rag.protocols import Embedder, FloatArray
from rag.sentences import LIST_ITEM

# Chosen on 60 questions of long-answers and 40 of conversations, where most of these are flat (docs/lab.md).
PASSAGES = 8
_RELEVANCE = 0.7  # the rest is the weight of not saying the same again
_PASSAGE = 4.0  # weight of the passage's retrieval score, which lies in [0, 1], beside the sentence's cosine
_TERMS = 0.3  # weight of the share of the question's terms that a sentence holds, beside its cosine
_BEHIND = 0.2  # passages whose score lacks more of the best one's are not looked at: their sentences never come in
_LEAST = 0.6  # share of the best sentence's relevance: what has less is not worth its words
_SHORTEST = 4  # words; less is a heading or a label

# A sentence that begins so says little without the one before it.
_POINTS_BACK = re.compile(
    r"(?:\W*)(?:(?:and|but|so|thus|hence|therefore|however|moreover|furthermore|also|then|instead|otherwise|finally)\W+)?"
    r"(?:it|its|this|these|that|those|they|their|them|he|his|him|she|her|such|both|one|the former|the latter)\b",
    re.IGNORECASE,
)
# Marks of references, which a reader would take for ours.
_REFERENCE = re.compile(r"\s*\[\d{1,3}(?:[,;]\s?\d{1,3})*\]")
_NEXT_ITEM = re.compile(r"(\S)\s*\n\s*[-*+•‣◦▪·][ \t]+")
_ITEM = re.compile(r"^(?:[-*+•‣◦▪·>]|#{1,6})[ \t]+")
# What stands before a text to describe it (YAML), and pictures: nothing that a reader is told.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_PICTURE = re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)")
_STEP = re.compile(r"\(?\d{1,3}[.)][ \t]")
_LONGEST_HEADING = 8  # words
_LIST_HEAD = re.compile(rf"\A(?!{LIST_ITEM.pattern})([^\n]*[^\s.:;,!?*_])[ \t]*\n\s*(?={LIST_ITEM.pattern})")


class _Candidate(NamedTuple):
    passage: int  # its place in the ranking
    place: int  # its place in the passage
    quote: Quote
    words: int
    share: float  # of the question's terms that the title does not name, those that stand in it


class Composed(NamedTuple):
    """A composed answer: its text, and its sentences with their sources."""

    text: str
    cited: Cited


def compose(question: str, passages: Sequence[ScoredChunk], *, words: int, embedder: Embedder) -> Composed:
    """Return an answer of at most `words` words from the passages, best first, whose scores lie in [0, 1].

    Where no sentence is as short as that, the shortest is the answer. Empty where no passage holds any text.
    """
    candidates = _candidates(question, passages, words)
    if not candidates:
        return Composed("", Cited((), ()))
    vectors_nd = embedder.embed([question, *(c.quote.text for c in candidates)])
    relevance_n = _relevance(candidates, vectors_nd)
    chosen = _choose(candidates, relevance_n, vectors_nd[1:], words)
    return _written([candidates[i] for i in chosen])


def ended(composed: Composed, stop: Sequence[str]) -> Composed:
    """Return what comes before the first of the stop strings, with the sources of that alone."""
    text, (sentences, citations) = composed
    end = min((at for string in stop if (at := text.find(string)) >= 0), default=len(text))
    text = text[:end].rstrip()
    left = [
        replace(sentence, span=Span(sentence.span.start, min(sentence.span.end, len(text))))
        for sentence in sentences
        if sentence.span.start < len(text)
    ]
    told = {index for sentence in left for index in sentence.citations}
    return Composed(text, Cited(tuple(left), tuple(citation for citation in citations if citation.index in told)))


def _candidates(question: str, passages: Sequence[ScoredChunk], words: int) -> list[_Candidate]:
    """Return the sentences of the passages near the best one, each text once; headings where there is nothing else."""
    terms = Analyzer().terms
    asked, steps = set(terms(question)), asks_for_steps(question)
    found: dict[str, _Candidate] = {}
    labels: dict[str, _Candidate] = {}
    best = max((passage.score for passage in passages), default=0.0)
    for rank, passage in enumerate(p for p in passages if p.score >= best - _BEHIND):
        told = {*terms(passage.chunk.title), *terms(str(passage.chunk.metadata.get("headings", "")))}
        sought = asked - told or asked
        head = _FRONT_MATTER.match(passage.chunk.text) if passage.chunk.span.start == 0 else None
        for place, span in _units(passage, words, steps=steps, sought=sought):
            quote = Quote(passage, span)
            length, held = len(_shown(quote).split()), set(terms(quote.text))
            share = len(sought & held) / len(sought) if sought else 0.0
            # What says no more than the title is a heading.
            says = length >= _SHORTEST and held - told and not (head and span.start < head.end())
            kind = found if says else labels
            kind.setdefault(quote.text, _Candidate(rank, place, quote, length, share))
    return list((found or labels).values())


def _units(passage: ScoredChunk, words: int, *, steps: bool, sought: Collection[str]) -> Iterator[tuple[int, Span]]:
    """Yield the sentences of a passage with their places; one that leads to a list together with its items.

    Without them "To reset the meter:" says nothing. So does a heading that has a word of what is `sought`, and with
    `steps` those of a numbered list are one. Items come along as far as all is at most `words` long.
    """
    text, spans = passage.chunk.text, sentences_of(passage)
    place = 0
    while place < len(spans):
        start, end = spans[place]
        numbered = steps and _STEP.match(text, start) is not None
        leads = numbered or text[start:end].rstrip("*_").endswith(":") or _heads(text, spans, place, steps, sought)
        after = _list_end(text, spans, place, words) if leads else place + 1
        yield place, Span(start, spans[after - 1].end)
        place = after


def _heads(text: str, spans: Sequence[Span], place: int, steps: bool, sought: Collection[str]) -> bool:
    """Whether a short line stands over a list that is asked for: over steps, or by a word of its own."""
    start, end = spans[place]
    line = text[start:end]
    follows = next((span.start for span in spans[place + 1 : place + 2]), len(text))
    if LIST_ITEM.match(text, start) or len(line.split()) > _LONGEST_HEADING or line.endswith((".", "!", "?")):
        return False
    if "\n" not in text[end:follows] or not LIST_ITEM.match(text, follows):
        return False
    return (steps and _STEP.match(text, follows) is not None) or not set(Analyzer().terms(line)).isdisjoint(sought)


def _list_end(text: str, spans: Sequence[Span], lead: int, words: int) -> int:
    """Return the place behind the last item of the list that follows a sentence, or behind that sentence."""
    listed = LIST_ITEM.match(text, spans[lead].start) is not None
    for place in range(lead + 1, len(spans)):
        start, end = spans[place]
        begins = LIST_ITEM.match(text, start) is not None or _PICTURE.fullmatch(text, start, end) is not None
        goes_on = (listed or place > lead + 1) and "\n" not in text[spans[place - 1].end : start]
        if not (begins or goes_on) or len(text[spans[lead].start : end].split()) > words:
            return place
    return len(spans)


def _relevance(candidates: Sequence[_Candidate], vectors_nd: FloatArray) -> FloatArray:
    """Return `(n,)`: cosine to the question and share of its terms, less what the passage's score lacks of the best."""
    shares_n = np.array([c.share for c in candidates], np.float32)
    scores_n = np.array([c.quote.passage.score for c in candidates], np.float32)
    behind_n = scores_n.max() - scores_n
    relevance: FloatArray = (
        vectors_nd[1:] @ vectors_nd[0] + np.float32(_TERMS) * shares_n - np.float32(_PASSAGE) * behind_n
    )
    return relevance


def _choose(
    candidates: Sequence[_Candidate], relevance_n: FloatArray, vectors_nd: FloatArray, budget: int
) -> list[int]:
    """Return the rows of the chosen sentences that fit `budget` words together, in the order of reading."""
    alike_nn = vectors_nd @ vectors_nd.T
    shortest = min(candidate.words for candidate in candidates)
    open_ = {i for i, candidate in enumerate(candidates) if candidate.words <= max(budget, shortest)}
    least = _LEAST * max(float(relevance_n[i]) for i in open_)
    chosen: list[int] = []
    while open_:
        repeats_n = alike_nn[:, chosen].max(axis=1) if chosen else np.zeros(len(candidates), np.float32)
        gain_n = _RELEVANCE * relevance_n - (1 - _RELEVANCE) * repeats_n
        best = max(sorted(open_), key=lambda i: gain_n[i])
        together = [i for i in (*_before(candidates, best), best) if i not in chosen]
        if sum(candidates[i].words for i in together) > budget:
            together = [] if chosen else [best]
        if not chosen or relevance_n[best] >= least:
            chosen += together
            budget -= sum(candidates[i].words for i in together)
        open_ -= {best, *chosen}
    return sorted(chosen, key=lambda i: (candidates[i].passage, candidates[i].place))


def _before(candidates: Sequence[_Candidate], row: int) -> list[int]:
    """Return the row of the sentence that the one in `row` points back to, if it does."""
    that = candidates[row]
    if row == 0 or not _POINTS_BACK.match(that.quote.text):
        return []
    previous = candidates[row - 1]
    return [row - 1] if (previous.passage, previous.place) == (that.passage, that.place - 1) else []


def _written(chosen: Sequence[_Candidate]) -> Composed:
    text, spans = "", []
    for candidate in chosen:
        text += " " if text else ""
        begin = len(text)
        text += _shown(candidate.quote)
        spans.append(Span(begin, len(text)))
    return Composed(text, cited(spans, [[candidate.quote] for candidate in chosen]))


def _shown(quote: Quote) -> str:
    """Return a sentence on one line, without pictures and the marks of a list and of references."""
    text = _LIST_HEAD.sub(r"\1:\n", _PICTURE.sub("", quote.text))
    listed = _NEXT_ITEM.sub(lambda end: end[1] + (" " if end[1] in ".:;,!?" else "; "), text)
    return _REFERENCE.sub("", " ".join(_ITEM.sub("", listed).split()))

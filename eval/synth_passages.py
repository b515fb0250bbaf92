"""Which passages questions are written from: proper prose, drawn by a seed, spread over the documents."""

import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rag.datatypes import Chunk, Document, ScoredChunk, Span
from rag.sentences import sentence_spans

# Enough for thousands of questions; at 1,000 characters each they take 5 MB.
MAX_PASSAGES = 5_000
PER_DOCUMENT = 8

_LEAST_CHARACTERS, _LEAST_WORDS = 200, 35
_LIST_LINE = re.compile(r"\s*(?:[-*+•|#>]|\d{1,3}[.)]\s)")


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a document; `span` lies in the document's text."""

    document_id: str
    title: str
    text: str
    span: Span

    @property
    def key(self) -> str:
        """Names the passage in a set."""
        return f"{self.document_id}:{self.span.start}"

    @property
    def scored(self) -> ScoredChunk:
        """The passage as evidence for the prompt of a system."""
        return ScoredChunk(Chunk(self.key, self.document_id, self.text, self.span, {"title": self.title}), 1.0)


def draw_passages(
    documents: Iterable[Document], passages_of: Callable[[Document], Sequence[Chunk]], seed: int
) -> list[Passage]:
    """Return at most `MAX_PASSAGES` passages of prose in a random order that depends on the seed alone.

    First one of each document, then a second one, and so on: a long document does not crowd out the others. What is
    drawn does not depend on the order of the documents.
    """
    ordered = heapq.nsmallest(MAX_PASSAGES, _ranked(documents, passages_of, seed), key=lambda item: item[0])
    return [passage for _, passage in ordered]


def seeded(seed: int, *parts: str) -> str:
    """Return a sort key that is as good as random, and the same on every machine."""
    return hashlib.sha256("\0".join([str(seed), *parts]).encode("utf-8", "replace")).hexdigest()


def is_prose(text: str) -> bool:
    """Whether a passage is running text of some length: no table, list, code or heading alone."""
    words = text.split()
    if len(text) < _LEAST_CHARACTERS or len(words) < _LEAST_WORDS:
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    if sum(bool(_LIST_LINE.match(line)) for line in lines) > len(lines) / 3:
        return False
    if sum(word.strip(".,;:!?()\"'").isalpha() and word[:1].islower() for word in words) < 0.5 * len(words):
        return False
    sentences = [text[span.start : span.end] for span in sentence_spans(text)]
    return sum(len(s.split()) >= 5 and s.rstrip("\"'”’)")[-1:] in ".!?" for s in sentences) >= 2


def _ranked(
    documents: Iterable[Document], passages_of: Callable[[Document], Sequence[Chunk]], seed: int
) -> Iterator[tuple[tuple[int, str], Passage]]:
    for document in documents:
        usable = [
            Passage(document.id, document.title, chunk.text, chunk.span)
            for chunk in passages_of(document)
            if is_prose(chunk.text)
        ]
        usable.sort(key=lambda passage: seeded(seed, passage.key))
        of_document = seeded(seed, document.id)
        yield from (((rank, of_document), passage) for rank, passage in enumerate(usable[:PER_DOCUMENT]))

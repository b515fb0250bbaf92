"""Where the marks of an answer's sources stand: behind each sentence, or at the end of what has been shown already."""

import re
from collections.abc import Iterator

from rag.datatypes import Answer

_LIST = r"\d{1,3}(?:[,;]\s?\d{1,3})*"
# What a model writes or copies and a reader would take for marks of ours. Right behind a word it may be code.
_MADE_UP = re.compile(rf"\s?(?<=[\s.,;:!?)\]])\[{_LIST}\]")
_BEGUN = re.compile(rf"\s?\[(?:{_LIST}[,;]?\s?)?$")


def unmarked(text: str, begin: int, end: int) -> str:
    """Return `text[begin:end]` without marks that are none of ours; what stands before it tells what is one."""
    kept, at = "", begin
    for mark in _MADE_UP.finditer(text, begin, end):
        kept += text[at : mark.start()]
        at = mark.end()
    return kept + text[at:end]


def end_of_unmarked(text: str, begin: int, end: int) -> int:
    """Return where in `text[begin:end]` a mark may have begun that is not written to its end, `end` where none has."""
    begun = _BEGUN.search(text, begin, end)
    return begun.start() if begun else end


def marked(answer: Answer, text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the pieces of `text` in order, each with the numbers of the sources to be marked behind it.

    `text` is what is still to be shown of the answer: all of it, an end of it, or the sentence in place of one.
    """
    indexes = tuple(citation.index for citation in answer.citations)
    if answer.abstained or text != answer.text or len(answer.sentences) < 2:
        yield text, () if answer.abstained else indexes
        return
    begin = 0
    for sentence in answer.sentences:
        yield text[begin : sentence.span.end], sentence.citations
        begin = sentence.span.end
    yield text[begin:], ()

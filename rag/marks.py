"""Where the marks of an answer's sources stand: behind each sentence, or at the end of what has been shown already."""

from collections.abc import Iterator

from rag.datatypes import Answer


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

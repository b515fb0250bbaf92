"""Which of several things an answer told is meant by its place: "what about the second one?"."""

import re
from collections.abc import Iterator

from rag.phrases import phrases
from rag.sentences import LIST_ITEM, sentence_spans

_PLACES = {
    "first": 0, "former": 0, "erste": 0, "premier": 0, "première": 0,
    "second": 1, "zweite": 1, "deuxième": 1, "seconde": 1,
    "third": 2, "dritte": 2, "troisième": 2,
    "fourth": 3, "vierte": 3, "quatrième": 3,
    "last": -1, "latter": -1, "letzte": -1, "dernier": -1, "dernière": -1,
}  # fmt: skip
_NTH = re.compile(
    rf"\b(?:the|d(?:er|ie|as|em|en)|l[ea]) (?P<nth>{'|'.join(sorted(_PLACES, key=len, reverse=True))})(?:[nrms]\b)?"
    r"(?: one\b|(?=\s*(?:[?.!,]|$)))",
    re.IGNORECASE,
)
_GAP = re.compile(
    r"\s*(?:,|;|,?\s*(?:\b(?:and|or|und|oder|et|ou)\b|&))\s*(?:(?:the|an?|d[eai][rsen]?|l[ea]s?)\s+)?", re.I
)
_CONJUNCTION = re.compile(r"\b(?:and|or|und|oder|et|ou)\b|&", re.IGNORECASE)
_FOREIGN_AND = re.compile(r"\b(?:und|oder|et|ou)\b", re.IGNORECASE)
_JOINED = re.compile(r" (?:and|und|et|&) ")
_LABEL_END = re.compile(r"[:(;.!?]|,| [-–—] ")
_LONGEST_LABEL = 8  # words


def item_named(turn: str, answer: str) -> str:
    """Return a turn with the item of the answer's list in the place of its number, as it is where there is no such."""
    nth = _NTH.search(turn)
    items = _items(answer) if nth else []
    if nth is None or len(items) < 2:
        return turn
    place = _PLACES[nth["nth"].casefold()]
    return turn[: nth.start()] + items[place] + turn[nth.end() :] if place < len(items) else turn


def _items(answer: str) -> list[str]:
    """Return what an answer lists: the beginnings of a list's lines, or the longest row of names or nouns."""
    lines = [line.strip() for line in answer.splitlines()]
    heads = [_label(line[mark.end() :]) for line in lines if (mark := LIST_ITEM.match(line))]
    if len(heads) > 1:
        return heads if all(heads) else []
    rows = [row for span in sentence_spans(answer) for row in _rows(answer[span.start : span.end])]
    return max(rows, key=len, default=[])


def _rows(sentence: str) -> Iterator[list[str]]:
    """Yield the rows of names or nouns that a conjunction ends: without one, a comma may add what is no other thing."""
    row: list[str] = []
    end, closed = 0, False
    sentence = _FOREIGN_AND.sub("and", sentence)  # what joins names is known of English alone
    for phrase in phrases(sentence):
        gap, parts = sentence[end : phrase.start], _JOINED.split(phrase.text)
        if not row or not _GAP.fullmatch(gap):
            if closed:
                yield row
            row, closed = [], False
        elif _CONJUNCTION.search(gap):
            closed = True
        row, closed = [*row, *parts], closed or len(parts) > 1
        end = phrase.start + len(phrase.text)
    if closed:
        yield row


def _label(line: str) -> str:
    """Return what a line of a list is about, "" where it is no name of anything."""
    text = line.replace("*", "").replace("_", "").strip()
    end = _LABEL_END.search(text)
    label = text[: end.start()].strip() if end else text
    return label if len(label.split()) <= _LONGEST_LABEL else ""

"""Several lessons over one passage, learnt together: the passage is read once for all questions asked of it.

A question and its answer have some 30 tokens, the passage before them some 200. So a sheet holds the passage once and
each lesson after it, as if it stood alone there (`training/reader.py` masks the others): five times fewer tokens for
the seven questions that a paragraph of SQuAD has.

Beside what people asked, a sheet may hold questions made of theirs that the passage does not answer, since real ones
are rare: a name, number or opposite in the question exchanged, as many of SQuAD 2.0's were made by its authors
(Rajpurkar et al. 2018, table 1), or the sentence with the answer taken out.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rag.sentences import sentence_spans
from training.examples import Example

MOST = 12  # lessons of a sheet
DENIED = 0.1  # of the twins are the question denied
TWISTED = 0.5  # of the answered questions get a twin that the passage does not answer
SHORTENED = 0.3  # of the passages lose a sentence

_OPPOSITES = [
    ("first", "last"),
    ("largest", "smallest"),
    ("highest", "lowest"),
    ("most", "least"),
    ("oldest", "youngest"),
    ("before", "after"),
    ("more", "less"),
    ("increase", "decrease"),
    ("north", "south"),
    ("northern", "southern"),
    ("east", "west"),
    ("eastern", "western"),
    ("win", "lose"),
    ("won", "lost"),
    ("begin", "end"),
    ("began", "ended"),
    ("start", "finish"),
    ("early", "late"),
    ("earliest", "latest"),
    ("male", "female"),
    ("mother", "father"),
    ("son", "daughter"),
    ("accept", "reject"),
    ("support", "oppose"),
    ("best", "worst"),
    ("longest", "shortest"),
    ("minimum", "maximum"),
    ("rural", "urban"),
    ("positive", "negative"),
    ("allowed", "forbidden"),
]
_OPPOSITE = {a: b for pair in _OPPOSITES for a, b in (pair, pair[::-1])}
_NAME = re.compile(r"(?<![.?!] )(?<!^)\b[A-Z][\w'’-]+(?: (?:of |the |de )?[A-Z][\w'’-]+)*")
_MID_NAME = re.compile(r"[A-Z][\w.]* $")
_YEAR = re.compile(r"\b1\d{3}\b|\b20\d{2}\b")
_DENIALS = (("did", "did not"), ("was", "was not"), ("is", "is not"), ("were", "were not"), ("are", "are not"))


class Sheet(NamedTuple):
    """A passage and what is asked of it: questions, each with the answer wanted."""

    title: str
    text: str
    asked: tuple[tuple[str, str], ...]


def sheets(examples: Iterable[Example]) -> Iterator[Sheet]:
    """Put lessons over the same text on one sheet, at most `MOST`."""
    by_text: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for example in examples:
        by_text.setdefault((example.title, example.text), []).append((example.question, example.answer))
    for (title, text), asked in by_text.items():
        for start in range(0, len(asked), MOST):
            yield Sheet(title, text, tuple(asked[start : start + MOST]))


def harder(given: Sequence[Sheet], decline: str, rng: random.Random) -> Iterator[Sheet]:
    """Add to each sheet questions its passage does not answer, or take from the passage what answers some of them."""
    names: dict[str, list[str]] = {}
    for sheet in given:
        names.setdefault(sheet.title, []).extend(_NAME.findall(sheet.text))
    for sheet in given:
        if rng.random() < SHORTENED and (shorter := _without_a_sentence(sheet, decline, rng)):
            yield shorter
            continue
        twins = []
        for question, answer in sheet.asked:
            if answer == decline or rng.random() >= TWISTED:
                continue
            if twin := _twin(question, answer, sheet.text, names[sheet.title], rng):
                twins.append((twin, decline))
        yield sheet._replace(asked=(*sheet.asked, *twins))


def _without_a_sentence(sheet: Sheet, decline: str, rng: random.Random) -> Sheet | None:
    """Take out one sentence that answers a question; questions whose answer is gone are to be declined then."""
    spans = sentence_spans(sheet.text)
    sentences = [sheet.text[span.start : span.end] for span in spans]
    telling = [s for s in sentences if any(answer in s for _, answer in sheet.asked if answer != decline)]
    if len(sentences) < 3 or not telling:
        return None
    taken = rng.choice(telling)
    text = " ".join(sentence for sentence in sentences if sentence != taken)
    asked = tuple(
        (question, answer if answer == decline or answer.lower() in text.lower() else decline)
        for question, answer in sheet.asked
        # A short answer that stands elsewhere too may be answered there or not: nothing is learnt from it.
        if answer == decline or answer not in taken or answer.lower() not in text.lower()
    )
    return Sheet(sheet.title, text, asked) if asked else None


def _twin(question: str, answer: str, text: str, names: Sequence[str], rng: random.Random) -> str | None:
    """Return the question with one thing changed that makes the passage no answer to it, or None."""
    if rng.random() < DENIED:
        return _denied(question)
    ways = [_other_opposite, _other_year, _other_name]
    rng.shuffle(ways)
    return next((twin for way in ways if (twin := way(question, answer, text, names, rng))), None)


def _other_opposite(question: str, _answer: str, _text: str, _names: Sequence[str], _rng: random.Random) -> str | None:
    for word in re.findall(r"\w+", question):
        if other := _OPPOSITE.get(word):
            return re.sub(rf"\b{word}\b", other, question, count=1)
    return None


def _other_year(question: str, answer: str, text: str, _names: Sequence[str], rng: random.Random) -> str | None:
    if found := _YEAR.search(question):
        others = [year for year in _YEAR.findall(text) if year not in question and year not in answer]
        other = rng.choice(others) if others else str(int(found[0]) + rng.choice((-7, -3, -2, 2, 4, 9)))
        return question.replace(found[0], other, 1)
    return None


def _other_name(question: str, answer: str, text: str, names: Sequence[str], rng: random.Random) -> str | None:
    """Exchange a name that the passage mentions for another of the same document, as long as it is no part of one."""
    matches = [match for match in _NAME.finditer(question) if match[0] in text and len(match[0]) > 3]
    found = [match[0] for match in matches if not _MID_NAME.search(question[: match.start()])]
    if not found:
        return None
    taken = rng.choice(found)
    words = len(taken.split())
    others = [
        name
        for name in names
        if name not in question
        and name not in answer
        and answer not in name
        and taken not in name
        and abs(len(name.split()) - words) <= 1
        and len(name) > 3
    ]
    return question.replace(taken, rng.choice(others), 1) if others else None


def _denied(question: str) -> str | None:
    for word, denied in _DENIALS:
        if re.search(rf" {word} \w", question) and " not " not in question and "n't" not in question:
            return re.sub(rf" {word} ", f" {denied} ", question, count=1)
    return None

"""Answers that a question could have: spans of a passage, picked by rules.

A small model that must think of an answer and of its question at once does both badly; given the answer, it writes
usable questions. Names, dates and numbers are exact enough to be checked by comparing words; noun phrases come last.
English rules: in other languages numbers and names are still found.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from eval.metrics import normalize_answer
from rag.datatypes import Span
from rag.sentences import sentence_spans
from rag.text import STOP_WORDS

CandidateKind = Literal["date", "number", "name", "phrase"]

MAX_ANSWER_WORDS = 8
_LEAST_SENTENCE = 4

_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Oct|Nov|Dec)"
)
_DATE = re.compile(
    rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)? {_MONTH}(?:,? \d{{4}})?|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?"
    rf"|{_MONTH} \d{{4}})\b|(?<![\d.,-])(?:1\d{{3}}|20\d{{2}})(?![\d%]|[.,-]\d| [a-z]{{3,}}s\b)"
)
_COUNT = (
    "(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty|seventy"
    "|eighty|ninety|half a dozen|a dozen|a hundred|a thousand)(?:[ -](?:one|two|three|four|five|six|seven|eight|nine"
    "|hundred|thousand|million))*"
)
_NUMBER = re.compile(
    r"(?<![\w.,/-])(?:[$£€]\s?)?\d{1,3}(?:,?\d{3})*(?:\.\d+)?(?![\d/-])(?:\s?%| (?!and\b|or\b)[a-z]{3,}|)"
    rf"|\b{_COUNT} [a-z]{{3,}}\b",
)
_WORD = r"[A-Z][\w'’-]*\w"
_NAME = re.compile(rf"\b{_WORD}(?: (?:of|of the|de|van|von|the) {_WORD}| {_WORD})*")
_PHRASE = re.compile(
    r"\b(?:a|an|the|its|their|his|her) ((?:[a-z][a-z-]+ ){1,3}?[a-z][a-z-]+)"
    r"(?=[.,;:]| (?:of|in|on|at|for|from|with|by|to|and|or|but|that|which|when|until|because|is|was|are|were)\b)"
)
_NOT_NOUNS = ("ed", "ing", "ly")
_NO_NAMES = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays saturdays "
    "sundays i mr mrs dr note table figure section chapter page "
    "january february march april may june july august september october november december".split()
)


class Candidate(NamedTuple):
    """A span of a passage that could be the answer of a question."""

    text: str
    start: int
    kind: CandidateKind


def find_candidates(text: str) -> list[Candidate]:
    """Return the possible answers in a passage: dates, numbers, names, then phrases, each in reading order.

    One that stands in the passage more than once is left out: which of its places a question is after is not clear.
    """
    sentences = sentence_spans(text)
    told = [span for span in sentences if _is_sentence(text[span.start : span.end])]
    found: list[Candidate] = []
    taken: list[Span] = []
    for candidate in _all(text, {span.start for span in sentences}):
        span = Span(candidate.start, candidate.start + len(candidate.text))
        if any(span.start < other.end and other.start < span.end for other in taken):
            continue
        if not any(sentence.start <= span.start and span.end <= sentence.end for sentence in told):
            continue
        if len(candidate.text.split()) <= MAX_ANSWER_WORDS and occurrences(candidate.text, text) == 1:
            found.append(candidate)
            taken.append(span)
    return found


def find_names(text: str) -> list[str]:
    """Return the names in a text, each once; unlike as candidates, they may occur several times."""
    starts = {span.start for span in sentence_spans(text)}
    return list(dict.fromkeys(candidate.text for candidate in _names(text, starts)))


def occurrences(answer: str, text: str) -> int:
    """Count how often the normalised words of `answer` stand in `text`, whole and in a row."""
    wanted, told = normalize_answer(answer).split(), normalize_answer(text).split()
    places = range(len(told) - len(wanted) + 1) if wanted else ()
    return sum(told[place : place + len(wanted)] == wanted for place in places)


def sentence_around(text: str, start: int, *, before: int = 1) -> str:
    """Return the sentence at `start` and `before` sentences before it."""
    spans = sentence_spans(text)
    place = next((i for i, span in enumerate(spans) if start < span.end), len(spans) - 1)
    return text[spans[max(0, place - before)].start : spans[place].end] if spans else text


def _is_sentence(text: str) -> bool:
    """Whether something is told, or asked: a heading or a number in a list answers nothing."""
    return len(text.split()) >= _LEAST_SENTENCE and text.rstrip("\"'”’)")[-1:] in (".", "!", "?")


def _all(text: str, starts: set[int]) -> Iterator[Candidate]:
    for match in _DATE.finditer(text):
        yield Candidate(match[0], match.start(), "date")
    for match in _NUMBER.finditer(text):
        yield from _number(match[0], match.start())
    yield from _names(text, starts)
    for match in _PHRASE.finditer(text):
        words = match[1].split()
        if not any(word in STOP_WORDS for word in words) and not words[-1].endswith(_NOT_NOUNS):
            yield Candidate(match[1], match.start(1), "phrase")


def _number(text: str, start: int) -> Iterator[Candidate]:
    """A number with its unit. A function word is no unit; a spelt number without one is a piece of a longer one.

    Of "two and a half hours", for instance.
    """
    head, _, unit = text.rpartition(" ")
    if unit not in STOP_WORDS:
        yield Candidate(text, start, "number")
    elif not head.replace(" ", "").isalpha():
        yield Candidate(head, start, "number")


def _names(text: str, starts: set[int]) -> Iterator[Candidate]:
    for match in _NAME.finditer(text):
        words, start = match[0].split(" "), match.start()
        if start in starts and (words[0].lower() in STOP_WORDS or len(words) == 1):
            # Every sentence begins with a capital letter: that says nothing about the word.
            start += len(words[0]) + 1
            words = words[1:]
        while words and (words[0].lower() in STOP_WORDS or words[0].lower() in _NO_NAMES):
            start += len(words[0]) + 1
            words = words[1:]
        if words and len(words[-1]) > 2 and words[-1].lower() not in _NO_NAMES and not words[-1].isupper():
            yield Candidate(" ".join(words), start, "name")

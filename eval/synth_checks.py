"""Which written questions are kept. Every check says yes or no to one draft; the first no ends it."""

import re
from collections.abc import Sequence

import numpy as np

from eval.metrics import contains, f1, normalize_answer
from eval.synth_candidates import find_names, occurrences
from eval.synth_passages import Passage
from rag.protocols import Embedder, FloatArray
from rag.text import content_words, words

# A reading counts as right from here on: an article or a unit more than the span is no fault.
MIN_F1 = 0.6
# Cosine of all-MiniLM-L6-v2; questions that ask the same in other words come to 0.9 and more, others about the same
# thing to 0.6 to 0.8.
MAX_COSINE = 0.9
# A rewording has at least this share of content words that the first wording had not.
MIN_NEW_WORDS = 0.25
# Of eleven rewordings looked at, the two that ask for something else came to 0.73 and 0.79, the others to 0.81 to 0.95.
MIN_COSINE_OF_REWORDING = 0.8
# A passage that holds the name put in and this share of the question's other words may answer it.
_ELSEWHERE = 0.6

_LEAST_WORDS, _MOST_WORDS = 4, 40
_LEAST_CONTENT = 3
_ASKING = frozenset(
    "who whom whose what which when where why how is are was were do does did has have had can could will would "
    "should may might must".split()
)
_OF_THE_TEXT = re.compile(
    r"\b(?:the|this|that|given|above|following|provided) (?:given |provided |above )?"
    r"(?:passage|text|paragraph|article|excerpt|sentence|document|answer|statement|context|author|speaker|narrator"
    r"|writer)\b|\baccording to\b|\bmentioned\b|\bdescribed (?:above|here)\b|\bin the (?:story|question)\b",
    re.IGNORECASE,
)
_POINTING = re.compile(
    r"\b(?:he|she|him|her|hers|his|they|them|their|theirs|it|its|i|we|us|our|you|your)\b", re.IGNORECASE
)
_SHOWING = re.compile(r"\b(?:this|these|those)\b|\bthat (?=[a-z]+\?$)", re.IGNORECASE)
# "How long does it take to ...": this "it" points at nothing.
_EXPLETIVE = re.compile(
    r"\b(?:does|did|do|will|would|can|is|was) it (?=cost|take|mean|possible|necessary)", re.IGNORECASE
)
_NAMED = re.compile(r"(?<=[\w,] )[A-Z][\w'’-]+|\d")


def is_question(question: str) -> bool:
    """One sentence with a question word and a question mark at its end, neither a stump nor a story."""
    asked = words(question)
    return (
        question.endswith("?")
        and question.count("?") == 1
        and _LEAST_WORDS <= len(asked) <= _MOST_WORDS
        and bool(_ASKING & set(asked))
        and not re.search(r"[.!] +[A-Z].*\?", question.replace("Mr. ", "").replace("Dr. ", ""))
    )


def is_self_contained(question: str) -> bool:
    """Whether it is clear without the passage: it speaks of no text, has no pronoun in the air, and is of something.

    A pronoun is in the air where nothing was named before it in the question. "Where did the paper come from?" names
    nothing and has too few words to be of one paper.
    """
    if _OF_THE_TEXT.search(question) or _SHOWING.search(question):
        return False
    plain = _EXPLETIVE.sub("does ", question)
    pronoun = _POINTING.search(plain)
    if pronoun is not None and not _NAMED.search(plain[: pronoun.start()]):
        return False
    return bool(_NAMED.search(question)) or len(set(content_words(question))) >= _LEAST_CONTENT


def leaks(question: str, answer: str) -> bool:
    """Whether the question gives the answer away: all of it, or most of its words that carry meaning."""
    if occurrences(answer, question):
        return True
    asked, told = set(content_words(question)), set(content_words(answer))
    return len(told & asked) > len(told) / 2


def stands_in(answer: str, passages: Sequence[Passage]) -> bool:
    """Whether the answer stands word for word in one of the passages."""
    return any(occurrences(answer, passage.text) for passage in passages)


def reads_right(said: str, answer: str, min_f1: float = MIN_F1) -> bool:
    """Whether what was read is the answer: token F1 of at least `min_f1`."""
    return bool(said) and f1(said, [answer]) >= min_f1


def remembers(said: str, answer: str, min_f1: float = MIN_F1) -> bool:
    """Whether an answer from memory is right, or has the right one in it."""
    return reads_right(said, answer, min_f1) or contains(said, [answer]) == 1


def is_reworded(question: str, base: str) -> bool:
    """Whether enough words are new for retrieval by words to have it harder."""
    new, old = set(content_words(question)), set(content_words(base))
    return len(new - old) >= MIN_NEW_WORDS * len(new)


def means_the_same(question: str, base: str, embedder: Embedder) -> bool:
    """Whether a rewording keeps every name and most of the meaning, by the cosine of the two."""
    if not all(occurrences(name, question) for name in find_names(base)):
        return False
    one, other = embedder.embed([question, base])
    return float(one @ other) >= MIN_COSINE_OF_REWORDING


def may_be_answered(question: str, name: str, answer: str, passages: Sequence[Passage]) -> bool:
    """Whether a passage could answer a question into which `name` was put.

    It holds the name, and beside it `answer` (that of the question before) or most of the question's other words.
    """
    others = set(content_words(question)) - set(words(name))
    for passage in passages:
        if not occurrences(name, passage.text):
            continue
        shared = len(others & set(words(passage.text)))
        if occurrences(answer, passage.text) or shared >= _ELSEWHERE * len(others):
            return True
    return False


class Kept:
    """The questions kept so far, to find those that are asked already."""

    def __init__(self, embedder: Embedder, max_cosine: float = MAX_COSINE) -> None:
        self._embedder = embedder
        self._max_cosine = max_cosine
        self._texts: set[str] = set()
        self._vectors: list[FloatArray] = []

    def add(self, question: str) -> None:
        """Remember a question."""
        self._texts.add(normalize_answer(question))
        self._vectors.append(self._embedder.embed([question])[0])

    def nearest(self, question: str) -> float:
        """Return the cosine to the nearest kept question, 1 for the same words, 0 where none is kept."""
        if normalize_answer(question) in self._texts:
            return 1.0
        if not self._vectors:
            return 0.0
        return float(np.max(np.stack(self._vectors) @ self._embedder.embed([question])[0]))

    def has(self, nearest: float) -> bool:
        """Whether a question of this cosine is a duplicate."""
        return nearest >= self._max_cosine

"""How an answer matches the right ones: a few numbers, one for each thing that a person looks at when judging it.

They are worked out on folded words (`eval.folding`). What the question says already counts neither for nor against
an answer: "The treaty of Lisbon was signed in 2009" adds 2009 to "When was the treaty of Lisbon signed?".
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from eval.amounts import Amount, amounts
from eval.dates import as_date, without_other_dates
from eval.folding import MAX_TEXT, content, fold, is_number, same_number
from eval.ranges import ends_of

# A gold answer's word counts as found where its trigrams agree that much with those of a word of the answer: Jinkx and
# Jinks, Argentine and Argentina do. So do Austria and Australia, which is the price.
_ALIKE = 0.6

# Parts of an answer between separators that are that short are items of a list, longer ones are clauses.
_ITEM_WORDS = 5

# A gold answer of so many words with a number is that number of something: without it nothing of it is said.
_QUANTITY_WORDS = 3

# TriviaQA's gold answers have up to 700 aliases; beyond this they would be misspellings of misspellings.
MAX_GOLD = 1_000

_ASIDE = re.compile(r"\s*\([^)]*\)")
_REFUSAL = re.compile(
    r"\b(?:sorry|could(?: no|n[o'])t find|unable to|not (?:sure|clear|aware|certain)|do(?:es)?(?: no|n[o'])t "
    r"(?:have|know|provide)|no (?:information|record|mention|definitive)|unclear|cannot)\b"
)
# "not Paris", "rather than Paris" up to the end of the clause; "not only Paris" denies nothing.
_DENIED = re.compile(
    r"(?:\bnot\b|n't\b|\brather than\b|\binstead of\b)(?! (?:only|just|merely|until|before|after))"
    r"\W+(?:[\w'.-]+\W{1,2}){0,3}?[\w'-]+(?=\s*(?:[,;.!?)]|\bbut\b|$))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
# Several things that are all wanted: "War, Famine, Pestilence and Death". A comma alone may add where a place lies.
_AND = re.compile(r"\band\b|&", re.IGNORECASE)
_PART = re.compile(rf"{_AND.pattern}|,", re.IGNORECASE)
_LIST = re.compile(
    r"(?:(?!\band\b|&)[^,])+(?:,(?:(?!\band\b|&)[^,])+)*,?\s*(?:\band\b|&)(?:(?!\band\b|&)[^,])+", re.IGNORECASE
)
_SEPARATOR = re.compile(r"[,;/|•]|\bor\b|\band\b")
# They stand for what the question names. Not "us", which is a country as well.
_PRONOUNS = frozenset(fold("i me my we our you your he him his she her they them their"))
# Words with which an item of a list is put forward.
_HEDGES = frozenset(fold("could perhaps maybe possibly might may it either was is are or and be not sure"))


class Match(NamedTuple):
    """What a person looks at, each between 0 and 1 but the last two, which are counts.

    `whole`: the gold answer stands in the answer, whole and in a row. `found`: share of the gold answer's words that
    the question does not say already and that stand in the answer, spelt alike, times the share of its numbers that
    do, as the same amounts (`eval.amounts`); of a date only the year is wanted, and of several things joined by "and"
    the one that is found least counts.
    `exact`: share of what the answer adds to the question that is gold, 0 for a unit or a name without its number,
    for one end of a range, and for one item of a list.
    `refused`: the answer says that it has none.
    `options`: how many other things of its kind stand in the list that holds the gold answer, 0 where the answer
    commits itself. `strays`: how many sentences have nothing to do with question or gold answer.
    """

    whole: float
    found: float
    exact: float
    refused: float
    options: int
    strays: int


def match(question: str, answer: str, gold: Sequence[str]) -> Match:
    """Return how the answer matches the gold answer that it matches best.

    Where letters have marks, those that are written in their place are tried as well: Köln is Koeln and Koln.
    """
    as_it_stands = _match(question, answer, gold)
    spelt = [_spelt_out(text) for text in (question, answer, *gold[:MAX_GOLD])]
    if spelt == [question, answer, *gold[:MAX_GOLD]]:
        return as_it_stands
    return max(as_it_stands, _match(spelt[0], spelt[1], spelt[2:]), key=lambda found: (found[0] + found[1], found[2]))


def _match(question: str, answer: str, gold: Sequence[str]) -> Match:
    plain, gold = answer[:MAX_TEXT].replace("’", "'"), gold[:MAX_GOLD]
    asked = frozenset(fold(question))
    said = _Said(fold(_meant(plain, gold)), asked | _PRONOUNS)
    named = [_alias(right) for right in gold]
    aliases = [alias for alias in named if alias.words]
    # What the question says already is told by no answer, if there is another right one.
    telling = [alias for alias in aliases if not said.asked.issuperset(alias.content)] or aliases
    best = max((_compare(alias, said) for alias in telling), key=lambda m: (m[0] + m[1], m[2]), default=_NONE)
    golden = frozenset(word for alias in named for word in alias.golden)
    sentences = _SENTENCE_END.split(plain)
    refused = float(_REFUSAL.search(plain.lower()) is not None)
    return Match(*best, refused, _options(sentences, asked, golden), _strays(sentences, asked | golden))


_NONE = (0.0, 0.0, 0.0)
_MARKED = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "Ø": "Oe", "Å": "Aa"}
)


def _spelt_out(text: str) -> str:
    return unicodedata.normalize("NFC", text).translate(_MARKED)


class _Alias(NamedTuple):
    """A gold answer in words, asides apart: all, those that carry meaning, and these by the parts that are all wanted.

    `listed` is whether they are three or more, as in "A, B and C". `golden` are those of
    the asides as well. `year` is that of a date, else empty. `amounts` are its numbers', `ends`
    the two of a range, else empty.
    """

    words: tuple[str, ...]
    content: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    listed: bool
    golden: tuple[str, ...]
    year: str
    amounts: tuple[Amount, ...]
    ends: tuple[str, ...]


class _Said:
    """The words of an answer, and what it adds to `asked`; tells how far a word stands there."""

    def __init__(self, words: Sequence[str], asked: frozenset[str]) -> None:
        self.words, self.asked = words, asked
        self.added = Counter(word for word in content(words) if word not in asked)
        self._known = dict.fromkeys(words, 1.0)
        self._spelt = [(word, _trigrams(word)) for word in dict.fromkeys(words) if not is_number(word)]
        self._numbers = [word for word in dict.fromkeys(words) if is_number(word)]
        self._amounts = amounts(words)

    def tells(self, number: str, wanted: Sequence[Amount]) -> bool:
        """Whether a number stands there, in the unit that it is `wanted` in where both are told, with the same sign."""
        meant = [amount for amount in wanted if amount.number == number] or [Amount(number, "", negative=False)]
        return any(right.may_be(said) for right in meant for said in self._amounts)

    def converted(self, wanted: Sequence[Amount]) -> frozenset[str]:
        """Return the numbers and units of those amounts that stand there in another unit."""
        return frozenset(
            word
            for right in wanted
            if any(right.is_converted(said) for said in self._amounts)
            for word in (right.number, right.unit)
        )

    def likeness(self, word: str) -> float:
        """1 where the word stands there, else the best likeness of one that does, else 0; numbers are right or not."""
        if word not in self._known:
            if is_number(word):
                self._known[word] = float(any(same_number(word, number) for number in self._numbers))
            else:
                self._known[word] = self._best_spelling(word)
        return self._known[word]

    def _best_spelling(self, word: str) -> float:
        if len(word) < 4:
            return 0.0
        mine, length = _trigrams(word), len(word)
        best = max((_dice(mine, theirs) for other, theirs in self._spelt if abs(len(other) - length) < 5), default=0.0)
        return best if best >= _ALIKE else 0.0


@lru_cache(maxsize=20_000)
def _alias(right: str) -> _Alias:
    everything = tuple(fold(right))
    words = tuple(fold(_ASIDE.sub("", right))) or everything
    meant, date = tuple(content(words)), as_date(right)
    split = [frozenset(fold(part)) for part in _PART.split(right)] if date is None and _AND.search(right) else []
    parts = (tuple(word for word in meant if word in part) for part in split)
    year, golden = str(date.year) if date else "", tuple(content(everything))
    counted, ends = tuple(amounts(words)), ends_of(_ASIDE.sub("", right))
    listed = bool(split) and "," in right and _LIST.fullmatch(right.strip()) is not None
    return _Alias(words, meant, tuple(filter(None, parts)), listed, golden, year, counted, ends)


def _compare(alias: _Alias, said: _Said) -> tuple[float, float, float]:
    """Return `whole`, `found` and `exact` for one gold answer."""
    wanted = [word for word in alias.content if word not in said.asked] or list(alias.content)
    if alias.year in wanted:
        wanted = [alias.year]
    parts = [part for part in ([word for word in part if word in wanted] for part in alias.parts) if part] or [wanted]
    numbers = _years(wanted) or [word for word in wanted if is_number(word)]
    converted = said.converted(alias.amounts)
    shares = [_mean([1.0 if word in converted else said.likeness(word) for word in part]) for part in parts]
    least = min(shares)
    # "Death" is one of the four horsemen, not all. Of two, people often take one for the answer.
    one_part = alias.listed and sum(share > 0 for share in shares) == 1 < len(parts)
    counted = _mean([float(said.tells(number, alias.amounts)) for number in numbers]) if numbers else 1.0
    told = [said.tells(end, alias.amounts) for end in alias.ends if end in wanted]
    one_end = len(told) == 2 and sum(told) == 1
    added = said.added.total()
    unit_alone = not counted and len(wanted) <= _QUANTITY_WORDS
    return (
        float(_in_a_row(alias.words, said.words)),
        least * min(counted, _mean(told)) if one_end else least * counted,
        sum((said.added & Counter(wanted)).values()) / added
        if added and not (unit_alone or one_end or one_part)
        else 0.0,
    )


def _meant(plain: str, gold: Sequence[str]) -> str:
    """Return an answer without what it denies and without dates that are near the right one and not it."""
    # "Not the Nine O'Clock News" denies nothing where that is what is asked for.
    if not any(re.search(r"\bnot\b", right, re.IGNORECASE) for right in gold):
        plain = _DENIED.sub(" ", plain)
    return without_other_dates(plain, filter(None, map(as_date, gold)))


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares)


def _in_a_row(words: Sequence[str], said: Sequence[str]) -> bool:
    wanted = [word for word in words if word not in ("a", "an", "the")] or words
    return f" {' '.join(wanted)} " in f" {' '.join(said)} "


def _years(words: Sequence[str]) -> list[str]:
    # People take the year for the date.
    return [word for word in words if len(word) == 4 and word.isdecimal()]


def _dice(a: frozenset[str], b: frozenset[str]) -> float:
    return 2 * len(a & b) / (len(a) + len(b))


@lru_cache(maxsize=100_000)
def _trigrams(word: str) -> frozenset[str]:
    edged = f"^{word}$"
    return frozenset(edged[i : i + 3] for i in range(len(edged) - 2))


def _options(sentences: Sequence[str], asked: frozenset[str], golden: frozenset[str]) -> int:
    """Count the rivals of the gold answer in the list that holds it, in the one with the fewest where several do.

    A list is a row of short parts of one sentence, or a row of short sentences. Where a longer part holds the gold
    answer, or one that repeats the question, the answer commits itself, and nothing is a rival.
    """
    counts = [_rivals(items, golden - asked or golden) for items in _lists(sentences, asked, golden)]
    return min((count for count in counts if count is not None), default=0)


def _lists(
    sentences: Sequence[str], asked: frozenset[str], golden: frozenset[str]
) -> Iterator[list[tuple[str, list[str]]]]:
    """Yield the lists of an answer, each item with its folded words; a part that commits itself is its own list."""
    short_sentences: list[tuple[str, list[str]]] = []
    for sentence in sentences:
        parts = [(part, _said(part)) for part in _SEPARATOR.split(sentence)]
        items = []
        for part, words in parts:
            others = [word for word in words if word not in golden]
            if len(others) <= _ITEM_WORDS and not asked.intersection(others):
                items.append((part, words))
            else:
                yield [(part, words)]
        if len(parts) == 1:
            short_sentences += items
        elif items:
            yield items
    yield short_sentences


def _rivals(items: Sequence[tuple[str, list[str]]], golden: frozenset[str]) -> int | None:
    """Count the items of the gold answer's kind that are not it; None where it is not among them."""
    kinds = {_kind(part) for part, words in items if golden.intersection(words)}
    others = [part for part, words in items if words and not golden.intersection(words)]
    return sum(_kind(part) in kinds for part in others) if kinds else None


def _said(part: str) -> list[str]:
    words = [word for word in fold(part) if word not in _HEDGES]
    return content(words) if words else []


def _kind(item: str) -> str:
    words = [word for word in re.findall(r"[^\W_]+", _ASIDE.sub("", item)) if not _HEDGES.intersection(fold(word))]
    if any(word[0].isdigit() for word in words):
        return "number"
    return "name" if any(word[0].isupper() for word in words) else "word"


def _strays(sentences: Sequence[str], explained: frozenset[str]) -> int:
    contents = (content(fold(sentence)) for sentence in sentences)
    return sum(len(words) > _ITEM_WORDS and not explained.intersection(words) for words in contents)

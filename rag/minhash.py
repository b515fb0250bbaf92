"""Near-duplicate passages: which texts may say the same, told by signatures, and whether two of them do.

Signatures are MinHash over shingles of words in locality-sensitive bands (Broder 1997, "On the resemblance and
containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4): a signature
depends on its text alone, and two texts that share a band are compared exactly. With 12 bands of 4 hashes a pair of
Jaccard similarity 0.75 shares one with a probability of 0.989, one of 0.9 of 0.99999, one of 0.3 of 0.09.

Resemblance is not enough: a fee of 100 and one of 120 are two words apart. So the facts of a text, all that a changed
word is most likely to turn into something else, must be the same and in the same order: they go into every band, and
what is left to differ is words in lower case.
"""

import hashlib
import re
import unicodedata
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bands = npt.NDArray[np.uint32]

# The first three are part of the index format (docs/format.md): raise its version where one changes.
SHINGLE = 2  # words
BANDS = 12
ROWS = 4  # hashes a band
# Passages of squad2-tune with one word of twenty replaced have 0.82 at the median and never less than this.
LEAST = 0.75
# In a text of fewer words a single one is too much of what it says: such texts are alike word for word or not at all.
SHORT = 40

# A word, with its apostrophes; a minus sign; signs that make something else of a number; what ends a phrase.
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[-−](?=\d)|[%‰°<>=±≤≥≠$€£¥₹§]|[.,;:!?()|]")
_PAUSES = frozenset(".,;:!?()|")
# What turns a statement round, bounds it or counts, in the languages that most documents are in. Longer lists only fold
# less; in a language without one, texts that differ in such a word alone may be folded.
_TURNS = frozenset(
    """no not never none neither nor nobody nothing nowhere without cannot hardly unless except only but if until till
    before after above below over under more less most least fewer greater higher lower larger smaller
    increase increases increased decrease decreases decreased all any some every each both either must may might shall
    should can always sometimes rarely or
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half
    quarter third first second fourth fifth once twice double triple hourly daily weekly monthly quarterly yearly
    annual annually
    nicht kein keine keinen keinem keiner keines nie niemals ohne nur oder wenn außer
    ne pas jamais aucun aucune sans ni ou sauf nunca sin ningún ninguna sino não nem sem non mai senza nessun nessuna
    niet geen nooit zonder inte ingen inga aldrig utan ikke nie bez не нет ни без никогда""".split()
)
_NUMBERS = frozenset(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half
    third quarter""".split()
)
_NEGATING = ("un", "in", "im", "ir", "il", "dis", "non", "mis")

_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STEP = 0x9E3779B97F4A7C15


class Profile(NamedTuple):
    """What of a text is compared: its distinct words and shingles, case-folded, and its facts in order.

    A short text has one shingle, itself.
    """

    words: frozenset[str]
    shingles: frozenset[tuple[str, ...]]
    facts: tuple[str, ...]


def signature(text: str) -> Bands:
    """Return the `(BANDS,)` hashes of a text; texts that share one at the same place may say the same."""
    words, facts = _read(text)
    sums = np.array([word.checksum for word in words] or [0], np.uint64)
    shingles_m = sums if len(sums) < SHINGLE else sums[:-1] * np.uint64(_STEP) + sums[1:]
    least_h = _mixed(shingles_m[:, None] ^ _SEEDS_H).min(axis=0).reshape(BANDS, ROWS)
    seed = hashlib.blake2b("\0".join(facts).encode(), digest_size=8).digest()
    bands = np.full(BANDS, int.from_bytes(seed, "little"), np.uint64)
    for row in range(ROWS):
        bands = _mixed(bands ^ least_h[:, row])
    return (bands >> np.uint64(32)).astype(np.uint32)


@lru_cache(maxsize=512)
def profile(text: str) -> Profile:
    """Return what of a text is compared with others."""
    found, facts = _read(text)
    words = [word.folded for word in found]
    size = SHINGLE if len(words) >= SHORT else max(1, len(words))
    shingles = zip(*(words[i:] for i in range(size)), strict=False) if words else [(text,)]
    return Profile(frozenset(words), frozenset(shingles), facts)


def jaccard(one: Profile, other: Profile) -> float:
    """Return the share of the shingles of both that both have."""
    shared = len(one.shingles & other.shingles)
    return shared / (len(one.shingles) + len(other.shingles) - shared)


def say_the_same(one: str, other: str) -> bool:
    """Whether either of two texts may stand for both: equal, or alike in their words and equal in their facts."""
    if one == other:
        return True
    a, b = profile(one), profile(other)
    return a.facts == b.facts and jaccard(a, b) >= LEAST and not _negated(a.words - b.words, b.words - a.words)


class _Word(NamedTuple):
    """A token's word, case-folded, with its checksum, whether it is a fact, and whether it is a number.

    A pause is none of these, and its word is empty.
    """

    folded: str
    checksum: int
    fact: bool
    number: bool


@lru_cache(maxsize=1 << 16)
def _word(token: str) -> _Word:
    if token in _PAUSES:
        return _Word("", 0, fact=False, number=False)
    folded = token.casefold()
    number = folded in _NUMBERS or any(map(str.isdigit, token))
    # In capitals are names; no case have signs and the letters of scripts that do not tell names apart.
    named = token != token.lower() or token == token.upper()
    turns = folded in _TURNS or folded.endswith(("n't", "n’t"))
    return _Word(folded, zlib.crc32(folded.encode()), number or named or turns, number)


def _read(text: str) -> tuple[list[_Word], tuple[str, ...]]:
    """Return the words of a text and its facts."""
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text).replace("\u00ad", ""))
    found = [_word(token) for token in tokens]
    # What is counted, or its unit, belongs to the number.
    counted = [False, *(word.number for word in found)]
    facts = (
        token
        for token, word, after in zip(tokens, found, counted, strict=False)
        if word.fact or (after and word.folded)
    )
    return [word for word in found if word.folded], tuple(facts)


def _negated(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether a word of one is the negative of a word of the other: lawful, unlawful."""
    return any(prefix + word in b for a, b in ((one, other), (other, one)) for word in a for prefix in _NEGATING)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014): a bijection that scatters what is near."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


# One hash function each: scattered multiples of the golden ratio.
_SEEDS_H = _mixed(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64) * np.uint64(_STEP))

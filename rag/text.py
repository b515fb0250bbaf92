"""Words of a text, compared the way a reader would: case and punctuation aside."""

import re
import string

_WORD = re.compile(r"\w+", re.UNICODE)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = frozenset(string.punctuation)

# Chinese characters and Japanese kana are not divided by spaces: each is a word of its own. For a class of `re`.
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

# Words that say nothing about what a question is after; English only, and harmless elsewhere.
STOP_WORDS = frozenset(
    """a an the of in on at to for from by with and or is are was were be been being am do does did has have had what
    which who whom whose when where why how many much that this these those it its they their there as than then into
    about not no can could would should will may might any some all most more other such""".split()
)


def words(text: str) -> list[str]:
    """Return the words of a text in order, case-folded."""
    return [w.casefold() for w in _WORD.findall(text)]


def content_words(text: str) -> list[str]:
    """Return the words that carry meaning, or all words where none of them does."""
    found = words(text)
    return [w for w in found if w not in STOP_WORDS] or found


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation, drop the articles, squeeze white space: SQuAD's order and rules."""
    bare = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())

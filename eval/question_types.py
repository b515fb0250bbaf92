"""What kind of thing a question asks for, told from its words alone: coarse, and the same for every system."""

import re

WHO, WHEN, WHERE, HOW_MANY, HOW, WHY, WHAT, YES_NO, OTHER = QUESTION_TYPES = (
    "who",
    "when",
    "where",
    "how many",
    "how",
    "why",
    "what, which",
    "yes or no",
    "other",
)

_WORD = re.compile(r"[^\W_]+")
_BEFORE = frozenset(
    "about after and at before between but by for from in into of on since so to under until with".split()
)
_TIMES = frozenset("century date day decade month season time year years".split())
_PLACES = frozenset("city continent country county place region state town".split())
_AMOUNTS = frozenset("big deep far fast high large long many much often old tall".split())
_SIMPLE = {"who": WHO, "whom": WHO, "whose": WHO, "when": WHEN, "where": WHERE, "why": WHY}
_CHOICES = frozenset({"what", "which"})
_VERBS = frozenset(
    "am are can could did do does had has have is may might must shall should was were will would".split()
)
# "..., ended when?" and "a place where ..." look alike, so only these are looked for in the middle of a sentence.
_IN_THE_MIDDLE = frozenset({"what", "which", "who", "whom", "whose"})


def question_type(question: str) -> str:
    """Return one of `QUESTION_TYPES` for a question in English; "other" where its words do not tell.

    "In what year" asks when, "in which country" where, "how long" how many.
    """
    words = _WORD.findall(question.lower())
    begin = 0
    while begin < len(words) and words[begin] in _BEFORE:
        begin += 1
    found = _asked_for(words, begin)
    if found:
        return found
    if begin < len(words) and words[begin] in _VERBS:
        return YES_NO
    for place in range(begin, len(words)):
        amount = words[place] == "how" and _asked_for(words, place) == HOW_MANY
        if amount or words[place] in _IN_THE_MIDDLE:
            return _asked_for(words, place)
    return OTHER


def _asked_for(words: list[str], place: int) -> str:
    """Return what the question word at `place` asks for, "" where there stands none."""
    word = words[place] if place < len(words) else ""
    following = words[place + 1] if place + 1 < len(words) else ""
    if word in _SIMPLE:
        return _SIMPLE[word]
    if word == "how":
        return HOW_MANY if following in _AMOUNTS else HOW
    if word in _CHOICES:
        return WHEN if following in _TIMES else WHERE if following in _PLACES else WHAT
    return ""

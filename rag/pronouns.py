"""Pronouns of German and French in a turn that says nothing that they could stand for.

Where such a turn gets its meaning is not worked out: its grammar is not known here as that of English is
(`rag.cues`), and the question before it says what it is about. German writes nouns with capitals, French puts articles
before them, which tells where one stands. "Es" and "il" alone stand for nothing too often to count.
"""

import re

_CLAUSE = r"[,.;:?!]|\b(?:und|oder|aber|dass|weil|wenn|ob|als)\b"

# He, she, they; there; what is made of prepositions. "Sie" with a capital is the one who is asked.
_GERMAN = re.compile(r"\b(?:er|sie|ihn|ihm|ihnen|dort|da(?:von|für|mit|zu|ran|rin|raus|rauf|rüber|gegen|nach|bei))\b")
_GERMAN_OWN = re.compile(r"\b(?:ihre[mnrs]?|seine[mnrs]?|deren|dessen|(?:ihr|sein)(?= [A-ZÄÖÜ]))\b")
# "Das" with no noun behind it, "diese" with or without one, and "welche" beside a verb; a comma opens a clause.
_GERMAN_POINTING = re.compile(
    r"(?<!, )\b(?:das|dies|dieses|dieser|diesen|diesem|diese)\b"
    r"(?!\s+(?:(?:\w+(?:e|er|es|en|em)|\d+\.?)\s+){0,3}[„\"»(]?(?-i:[A-ZÄÖÜ]|\w[A-ZÄÖÜ]))"
    r"|\bdiese[rsnm]?\b(?!\s+(?:\w+e[rsnm]?\s+)?(?:Jahre?s?|Monats?|Woche|Morgen|Abend|Jahrhunderts?)\b)"
    r"|^\W*welche[rsn]?(?= (?:ist|sind|war|waren|hat|haben|wird|wurde)\b(?-i:[^A-ZÄÖÜ]*$))",
    re.IGNORECASE,
)
_GERMAN_NOUN = re.compile(r"(?<=\s)[A-ZÄÖÜ][\wäöüß-]+")
# What of the above is a word in another language as well counts beside one of these.
_GERMAN_WORDS = re.compile(
    r"\b(?:wer|wem|wen|wessen|was|wie|wann|wo|warum|wieso|weshalb|welche[mnrs]?|und|ist|sind|war|hat|haben|kann|muss|soll|wird|wurde"
    r"|der|das|dem|den|ein|eine|nicht|für|mit|auf|bei|man|ich)\b",
    re.IGNORECASE,
)
# Some of both are English words as well, or names and marks in English texts: MIT, 9 am EST.
_ENGLISH = frozenset("hat war was wo man die den dem mit bei et est pour sur comment sera".split())
_ALSO_ELSEWHERE = frozenset({"er"})

_FRENCH = re.compile(r"(?:(?<=-)il|\belle|\bils|\belles)\b|\b(?:y|lui|leurs?|son|sa|ses|celui-ci|celle-ci)\b")
# What points to something said, whatever stands before it.
_FRENCH_POINTING = re.compile(
    r"\b(?:ça|cela)\b(?! va\b)|\bc['’](?:est|était)\b"
    r"(?! (?:quoi|qui|quand|où|combien),? (?:une?|le|la|les|l['’]|des|du)\b)"
    r"|^\W*(?:lequel|laquelle|lesquel(?:le)?s)\b(?! d(?:e|u|es)\b)"
    r"|-(?:on|je|tu|nous|vous) (?:le|la|les) \w+(?:er|ir|re)\b",
    re.IGNORECASE,
)
_FRENCH_NOUN = re.compile(
    r"\b(?:le|la|les|un|une|du|des|au|aux|ce|cet|cette|ces|mon|ma|mes|votre|vos|notre|nos)\s+[^\W\d_]{2,}"
    r"|\b(?:l|d)['’](?!est\b|a\b)[^\W\d_]{2,}|(?<=\s)[A-ZÀ-Ü][\w’'-]+",
)
_FRENCH_WORDS = re.compile(
    r"\b(?:qui|que|quoi|quand|où|comment|combien|pourquoi|quel|quelle|quels|quelles|est|sont|est-ce|était|et|dans|pour"
    r"|avec|sur|peut|ont|fut|sera|ça|cela|c['’]est|lequel|laquelle|lesquel(?:le)?s)\b|\b(?:y|il|on) a\b|-t-\w",
    re.IGNORECASE,
)
_FRENCH_EMPTY = re.compile(
    r"\b(?:il )?y (?:a|avait|aura|aurait)\b(?:(?:-t)?-il\b)?|\b(?:faut|s['’]agit|existe-t|pleut|vaut)-il\b",
    re.IGNORECASE,
)
_FRENCH_ASKING = re.compile(r"\bqu['’]est-ce que c['’]est\b", re.IGNORECASE)  # asks what something is, named or not
_COUNTED = re.compile(r"\b(?:combien|beaucoup|plus|moins|peu) (?:de\s+|d['’])[^\W\d_]+", re.IGNORECASE)


def foreign_pronoun(turn: str) -> str:
    """Return the German or French pronoun of a turn that stands for something outside of it, "" where none does."""
    return _german(turn) or _french(turn)


def is_foreign(turn: str) -> bool:
    """Whether a turn has words of German or French that English has not."""
    found = (match for words in (_GERMAN_WORDS, _FRENCH_WORDS) for match in words.finditer(turn))
    return any(match.group().casefold() not in _ENGLISH for match in found)


def _german(turn: str) -> str:
    marked = _GERMAN_WORDS.search(turn) is not None
    for found in _GERMAN.finditer(turn):
        before = turn[: found.start()]
        # A noun of its own clause is not what it stands for: "Welche Farbe hat er?"
        clauses = re.split(_CLAUSE, before)
        named = any(_GERMAN_NOUN.search(f" {clause}") for clause in clauses[:-1])
        if not named and (marked or found.group() not in _ALSO_ELSEWHERE):
            return found.group()
    pointing = _GERMAN_POINTING.search(turn)
    if marked and pointing and (turn != turn.lower() or not turn[pointing.end() :].strip(" ?.!")):
        return pointing.group().strip()
    for found in _GERMAN_OWN.finditer(turn):
        if marked and not _GERMAN_NOUN.search(turn[: found.start()]):
            return found.group()
    return ""


def _french(turn: str) -> str:
    if not _FRENCH_WORDS.search(turn):
        return ""
    if pointing := _FRENCH_POINTING.search(_FRENCH_ASKING.sub("", turn)):
        return pointing.group().strip()
    said = _FRENCH_EMPTY.sub(lambda found: " " * len(found.group()), turn)
    for found in _FRENCH.finditer(said):
        before = _COUNTED.sub(" ", said[: found.start()])  # "Combien d'habitants a-t-elle ?"
        if not _FRENCH_NOUN.search(before):
            return found.group()
    return ""

"""Pronouns of German and French in a turn that says nothing that they could stand for.

Where such a turn gets its meaning is not worked out: its grammar is not known here as that of English is
(`rag.cues`), and the question before it says what it is about. German writes nouns with capitals, French puts articles
before them, which tells where one stands. "Es" and "il" alone stand for nothing too often to count.
"""

import re

_CLAUSE = r"[,.;:?!]|\b(?:und|oder|aber|dass|weil|wenn|ob|als)\b"

# He, she, they; there; what is made of prepositions. "Sie" with a capital is the one who is asked.
_GERMAN = re.compile(r"\b(?:er|sie|ihn|ihm|ihnen|dort|da(?:von|für|mit|zu|ran|rin|raus|rauf|rüber|gegen|nach|bei))\b")
_GERMAN_OWN = re.compile(r"\b(?:ihre[mnrs]?|seine[mnrs]?|deren|dessen)\b")
_GERMAN_NOUN = re.compile(r"(?<=\s)[A-ZÄÖÜ][\wäöüß-]+")
# What of the above is a word in another language as well counts beside one of these.
_GERMAN_WORDS = re.compile(
    r"\b(?:wer|was|wie|wann|wo|warum|wieso|weshalb|welche[mnrs]?|und|ist|sind|war|hat|haben|kann|muss|soll|wird|wurde"
    r"|der|das|dem|den|ein|eine|nicht|für|mit|auf|bei|man|ich)\b",
    re.IGNORECASE,
)
_ALSO_ELSEWHERE = frozenset({"er"})

_FRENCH = re.compile(r"(?:(?<=-)il|\belle|\bils|\belles)\b|\b(?:y|lui|leurs?|son|sa|ses|celui-ci|celle-ci)\b")
_FRENCH_NOUN = re.compile(
    r"\b(?:le|la|les|un|une|du|des|au|aux|ce|cet|cette|ces|mon|ma|mes|votre|vos|notre|nos)\s+[^\W\d_]{2,}"
    r"|\b(?:l|d)['’](?!est\b|a\b)[^\W\d_]{2,}|(?<=\s)[A-ZÀ-Ü][\w’'-]+",
)
_FRENCH_WORDS = re.compile(
    r"\b(?:qui|que|quoi|quand|où|comment|combien|pourquoi|quel|quelle|quels|quelles|est|sont|est-ce|était|et|dans|pour"
    r"|avec|sur|peut|a|ont|fut|sera)\b",
    re.IGNORECASE,
)
_FRENCH_EMPTY = re.compile(
    r"\b(?:il )?y (?:a|avait|aura|aurait)\b(?:(?:-t)?-il\b)?|\b(?:faut|s['’]agit|existe-t|pleut|vaut)-il\b",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"\b(?:combien|beaucoup|plus|moins|peu) (?:de\s+|d['’])[^\W\d_]+", re.IGNORECASE)


def foreign_pronoun(turn: str) -> str:
    """Return the German or French pronoun of a turn that stands for something outside of it, "" where none does."""
    return _german(turn) or _french(turn)


def _german(turn: str) -> str:
    marked = _GERMAN_WORDS.search(turn) is not None
    for found in _GERMAN.finditer(turn):
        before = turn[: found.start()]
        # A noun of its own clause is not what it stands for: "Welche Farbe hat er?"
        clauses = re.split(_CLAUSE, before)
        named = any(_GERMAN_NOUN.search(f" {clause}") for clause in clauses[:-1])
        if not named and (marked or found.group() not in _ALSO_ELSEWHERE):
            return found.group()
    for found in _GERMAN_OWN.finditer(turn):
        if marked and not _GERMAN_NOUN.search(turn[: found.start()]):
            return found.group()
    return ""


def _french(turn: str) -> str:
    if not _FRENCH_WORDS.search(turn):
        return ""
    said = _FRENCH_EMPTY.sub(lambda found: " " * len(found.group()), turn)
    for found in _FRENCH.finditer(said):
        before = _COUNTED.sub(" ", said[: found.start()])  # "Combien d'habitants a-t-elle ?"
        if not _FRENCH_NOUN.search(before):
            return found.group()
    return ""

"""Whether a question asks for more than a phrase: an explanation, a way of doing something, a comparison, a list.

Told from the words that ask, never from what is asked about: the English ones, and the German and French ones
(`rag.foreign_form`). Questions in other languages get short answers.
"""

import re

from rag.foreign_form import FRENCH, FRENCH_MANNER, GERMAN, GERMAN_MANNER, STEPS

# What people put before the question itself; no more of it, or "ok, ok, ok, ..." would take seconds.
_POLITE = (
    r"(?:(?:and|but|so|then|ok|okay|well|also|please|kindly|can|could|would|will|you|i|we|us|me|to|need|want|like|d"
    r"|love|help|understand|know|tell|let|show|briefly|exactly|just|do\W+you(?=\W+know\b))\W+){0,20}"
)
# "how many", "how similar" and "how often" ask for a measure; a way or an account is asked for with a verb.
_VERB = (
    r"(?:do|does|did|is|are|was|were|am|can|could|should|shall|would|will|must|may|might|has|have|had|to|come|i|you|we"
    r"|one|people)"
)
_MANNER = rf"how\s+(?:exactly\s+|best\s+|else\s+)?{_VERB}\b"
# A name is asked for with "how", too.
_NAME = (
    rf"how\s+{_VERB}\b.*\b(?:called|named|spelled|spelt|pronounced|abbreviated)\b"
    rf"|how\s+{_VERB}(?:\s+(?:i|you|we|one|people))?\s+(?:spell|pronounce|abbreviate|say)\b"
)
_ORDER = (
    r"(?:explain|describe|compare|contrast|discuss|summari[sz]e|outline|list|enumerate|elaborate|illustrate|justify"
    r"|analy[sz]e|walk\s+me\s+through|give\s+(?:(?:me|us)\s+)?(?:(?:an?|the)\s+)?(?:\w+\s+)?"
    r"(?:overview|summary|explanation|description|list|account)"
    r"|tell\s+(?:me|us)\s+(?:more\s+|everything\s+|something\s+)?about\b)"
)
_KINDS = (
    r"(?:advantages|arguments|benefits|causes|characteristics|consequences|differences|disadvantages|downsides|drawbacks"
    r"|effects|features|implications|options|pros|reasons|requirements|risks|similarities|steps|strategies|symptoms"
    r"|uses|ways)"
)
_SEVERAL = rf"(?:what|which)\s+(?:are|were)\s+(?:\w+\s+){{0,4}}{_KINDS}\b"
_BETWEEN = (
    r"(?:(?:what|which|is|are)\b.*\b(?:differences?|similarit(?:y|ies)|comparison)\b"
    r"|(?:the\s+)?(?:\w+\s+)?(?:differences?|similarit(?:y|ies)|comparison)\s+between\b)"
)
_HAPPENS = r"what\s+(?:happens|would\s+happen|should\s+(?:i|we|you|one)\s+do|can\s+(?:i|we|you|one)\s+do)\b"

_REASONS = r"(?:for\s+(?:what|which)\s+reasons?|in\s+(?:what|which)\s+ways?)\b"

# A question may follow another sentence or clause: "According to the report, why ...".
_LONG = re.compile(
    rf"(?:^|[,;:.!?]\s+)(?:{_POLITE}"
    rf"(?:why\b|(?!{_NAME}){_MANNER}|{_ORDER}|{_SEVERAL}|{_BETWEEN}|{_HAPPENS}|{_REASONS})|{GERMAN}|{FRENCH})",
    re.IGNORECASE,
)
_PROS = re.compile(r"\bpros\s+and\s+cons\b", re.IGNORECASE)  # anywhere
_STEPS = re.compile(
    rf"(?:^|[,;:.!?]\s+)(?:{_POLITE}(?!{_NAME}){_MANNER}|{GERMAN_MANNER}|{FRENCH_MANNER})"
    rf"|\b(?:steps|procedure|instructions|recipe)\b|{STEPS}",
    re.IGNORECASE,
)
_READ = 2_000  # characters of a question that are looked at


def asks_at_length(question: str) -> bool:
    """Whether the question asks why or how, or to explain, describe, compare or list."""
    read = " ".join(question[:_READ].split())
    return _PROS.search(read) is not None or _LONG.search(read) is not None


def asks_for_steps(question: str) -> bool:
    """Whether the question asks for a way of doing something, whose steps belong together."""
    return _STEPS.search(" ".join(question[:_READ].split())) is not None

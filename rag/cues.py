"""Signs in a turn that it leans on what was said before: pronouns, ellipsis, comparison to something unsaid.

Rules of English grammar; of German and French only what plainly goes on is known, and pronouns (`rag.pronouns`). A
pronoun whose antecedent stands in the turn itself leans on nothing, and a personal pronoun cannot have it in its own
clause ("when did Napoleon invade it": principle B of Chomsky 1981, "Lectures on Government and Binding"); a possessive
can ("why do cats lick their paws").
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rag.phrases import (
    ALSO_NAMES,
    AUXILIARIES,
    EMPTY_WORDS,
    PREPOSITIONS,
    QUESTION_WORDS,
    Phrase,
    Token,
    phrases,
    tokens,
)
from rag.pronouns import foreign_pronoun

_PERSONAL = frozenset("it they them he him she her".split())
POSSESSIVE = frozenset("its their theirs his hers".split())
PERSON = frozenset("he him his she her hers".split())
SEVERAL = frozenset("they them their theirs these those".split())
THIRD_PERSON = _PERSONAL | POSSESSIVE
_POINTING = frozenset("this that these those".split())
_CLAUSE_WORDS = frozenset(
    "and but or so if when while because before after until since although though that which who where whether".split()
)
_NEW = frozenset("a an my our your".split())  # what they introduce was not told apart before
_TELLS_APART = frozenset("of for that who which in on from at with".split())
_UNIQUE = frozenset("sun moon earth world internet web sky sea ocean universe weather government past future".split())

# "It" that stands for nothing: the weather, the time, or what comes later in the sentence.
_EMPTY_IT = re.compile(
    r"\bit(?:['’]s| is| was| be| been| has been)?(?: not| so| very| really| still| ever| even| too| more| less)*"
    r" (?:possible|true|safe|okay|ok|necessary|important|better|best|good|bad|hard|easy|difficult|legal|illegal|normal"
    r"|common|worth|likely|required|allowed|wise|fair|wrong|right|enough|said|known|believed|a good idea|a bad idea)"
    r" (?:to|that|for\b(?=.*\bto\b)|if|when|(?!during|morning|evening|spring)\w+ing)\b"
    r"|\bit (?:take|takes|took|cost|costs|make sense|makes sense|made sense|matter|matters|mean|means|seem|seems"
    r"|happen|turn out|turns out|rain|rains|snow|snows)\b"
    r"|\bwhat (?:time|day|date|year|season) (?:is|was) it\b|\bit (?:is|was) (?:raining|snowing|cold|hot|dark)\b"
    r"|\b(?:raining|snowing) it\b",
    re.IGNORECASE | re.DOTALL,
)
# It stands for nothing where a clause follows that says what costs so much: "does it cost much to build a mill".
_PRICED_IT = re.compile(
    r"\bit (?:takes?|took|costs?|happens?|matters?)\b(?!.*\b(?:to|that|if|whether|when|who|what|where|why|how)\b)",
    re.IGNORECASE | re.DOTALL,
)
_EXISTENTIAL = re.compile(
    r"\bthere(?:['’]s| is| are| was| were| be| been| will| has| have| had| may| might| must| can| should| exists?)\b"
    r"|\b(?:is|are|was|were|be|been|isn['’]t|aren['’]t|can|could|will|would|has|have|had|may|might|must|should) there\b"
    r"(?! *[?.!,]*$)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“«][^\"”»]*[\"”»]")  # a title's words point to nothing
_REPAIR = re.compile(
    r"\s*(?:(?:no|nope|sorry|oh|well|yes|ok|okay|actually)[,.!]? +)*"
    r"(?:i (?:mean|meant)\b|i(?:['’]m| am| was) (?:talking|asking|speaking) (?:about|of)\b|rather\b)",
    re.IGNORECASE,
)
_FRAGMENT = re.compile(
    r"\s*(?:(?:ok|okay|well|so|yes|no|and|but)[,.!]? +)*(?:(?:what|how) about|why not|what if|what of"
    r"|was ist mit|wie (?:steht|sieht) es mit|qu['’]en est-il)\b|\s*\d[\w.:/-]*\W*$",
    re.IGNORECASE,
)
# A question word alone in languages whose grammar is not known here.
BARE_QUESTION = re.compile(
    r"\s*(?:warum|wieso|weshalb|wann|wo|wer|wie|pourquoi|quand|où|qui|comment|combien"
    r"|por qué|cuándo|dónde|quién|cómo)\W*",
    re.IGNORECASE,
)
_LONGEST_PLACE = 5  # words of a turn that only says where or when
_CONNECTIVE_START = re.compile(r"\s*(?:and|but|or|then|also|plus|und|aber|oder|et|mais|pero)\b", re.IGNORECASE)
_UNSAID = re.compile(
    r"\b(?:(?:what|who|where|when|how|why|anything|anyone|anybody|something|someone|nothing|nobody|everything|everyone"
    r"|anywhere|somewhere) else"
    r"|the (?:others?|former|latter|same|rest|next|previous|second|third|last|first)(?: ones?)?"
    r"(?= *(?:[?.!,]|$))|(?:the|any|what|which|these|those) others?\b(?= *(?:[?.!,]|$))|instead(?! of)"
    r"|the same(?= (?:apply|applies|hold|holds|go|goes|true|for|with)\b)"
    r"|(?:as well|too|either|also|again)(?= *(?:[?.!]|$)))",
    re.IGNORECASE,
)
_ONE = re.compile(
    r"\b(?:which|that|this|another|first|second|third|last|next|other|any|have|has|get|make) ones?\b"
    r"(?! (?:of|day|year|month|week|hour|minute|time))|\bones?(?= *(?:[?.!,]|$))",
    re.IGNORECASE,
)

_DEFINITION = re.compile(
    r"\W*(?:(?:what|who)(?:['’]s| is| are| was| were)(?: an?| the)? \S+|what do(?:es)? \S+ mean)\W*", re.IGNORECASE
)


class Cue(NamedTuple):
    """What shows that a turn leans on the conversation, in words (`why`) and in kind.

    A "pronoun" at `token` stands for the topic; an "ellipsis" leaves out what the question before it said; what is
    "open" leaves out what it is about.
    """

    kind: Literal["pronoun", "ellipsis", "open"]
    why: str
    token: Token | None = None
    words: frozenset[str] = frozenset()  # all that stands for something said before


def find_cue(turn: str, earlier: frozenset[str] = frozenset(), *, asked_back: bool = False) -> Cue | None:
    """Return what shows that a turn leans on the conversation, None where it stands alone.

    `earlier` holds the case-folded words said before; `asked_back` is whether the turn before it was a question of the
    assistant's.
    """
    words, named = tokens(turn), phrases(turn)
    if _REPAIR.match(turn):
        return Cue("ellipsis", "it mends what was said")
    if asked_back and not is_question(turn, words):
        return Cue("ellipsis", "it answers a question")
    if unbound := _pronouns(turn, words, named):
        third = [w for w in unbound if w.low in THIRD_PERSON]
        clear = len({w.low for w in third}) == 1  # which of several stands for what is not for rules to say
        first = third[0] if clear else unbound[0]
        why = f"“{first.text}” stands for something said before"
        return Cue("pronoun" if clear else "open", why, first, frozenset(w.low for w in unbound))
    if not named or _is_fragment(turn, words):
        return Cue("ellipsis", "it is no whole question")
    if foreign := foreign_pronoun(turn):
        return Cue("ellipsis", f"“{foreign}” stands for something said before")
    if found := _UNSAID.search(turn) or _ONE.search(turn) or _PRICED_IT.search(turn):
        return Cue("open", f"“{found.group().strip()}” compares with something said before")
    why = "" if any(p.name for p in named) else _nameless(turn, words, named, earlier)
    return Cue("open", why) if why else None


def is_question(turn: str, words: Sequence[Token]) -> bool:
    """Whether a turn has a question's mark or word order."""
    return turn.rstrip().endswith("?") or (bool(words) and words[0].low in QUESTION_WORDS | AUXILIARIES)


def has_verb(words: Sequence[Token]) -> bool:
    """Whether a turn has a finite verb, as far as the closed word classes tell."""
    return any(
        w.low in AUXILIARIES | QUESTION_WORDS and not (i and w.low in ALSO_NAMES and w.text.istitle())
        for i, w in enumerate(words)
    )


def _is_fragment(turn: str, words: Sequence[Token]) -> bool:
    """Whether a turn is a part of a question: by its form, or without a verb and begun with "and" or as a place."""
    if _FRAGMENT.match(turn) or BARE_QUESTION.fullmatch(turn) or _is_name_alone(turn):
        return True
    place = words[0].low in PREPOSITIONS and len(words) <= _LONGEST_PLACE
    return (place or _CONNECTIVE_START.match(turn) is not None) and not has_verb(words)


def _is_name_alone(turn: str) -> bool:
    """Whether a turn is nothing but a name that is asked about: "The Tolmen?", without its mark a topic of its own."""
    named = phrases(turn)
    rest = re.sub(r"^(?:the|an?) ", "", turn.strip(), flags=re.IGNORECASE)
    return len(named) == 1 and named[0].name and rest.endswith("?") and rest.rstrip("?!. ") == named[0].text


def _nameless(turn: str, words: Sequence[Token], named: Sequence[Phrase], earlier: frozenset[str]) -> str:
    """Return the cue of a turn without a name: a fragment, or a definite noun that was told apart before."""
    if _CONNECTIVE_START.match(turn):
        return "it goes on"
    content = [w for w in words if w.low not in EMPTY_WORDS]
    if not has_verb(words) and len(content) <= 3:
        return "it is a fragment"
    if len(content) == 1 and not _DEFINITION.fullmatch(turn):
        return "it says too little to be searched for"
    for phrase in named:
        if phrase.determiner == "the" and phrase.key <= earlier:
            return f"“the {phrase.text}” was told apart before"
        after = next((w.low for w in words if w.start >= phrase.start + len(phrase.text)), "")
        bare = " " not in phrase.text and after not in _TELLS_APART and phrase.text.casefold() not in _UNIQUE
        before = [w.low for w in words if w.end <= phrase.start][-2:-1]
        placed = len(named) > 1 and before and before[0] in PREPOSITIONS  # "the longest pier in the country"
        if phrase.determiner == "the" and bare and not placed and len(named) <= 2:
            return f"“the {phrase.text}” was told apart before"
    return ""


def _pronouns(turn: str, words: Sequence[Token], named: Sequence[Phrase]) -> list[Token]:
    """Return the pronouns that stand for something outside the turn, in order."""
    empty = [m.span() for pattern in (_EMPTY_IT, _EXISTENTIAL, _QUOTED) for m in pattern.finditer(turn)]
    return [
        word
        for i, word in enumerate(words)
        if not any(start <= word.start < end for start, end in empty) and _unbound(turn, words, named, i)
    ]


def _unbound(turn: str, words: Sequence[Token], named: Sequence[Phrase], i: int) -> bool:
    word = words[i]
    if word.low == "there":
        return not any(p.name and p.start < word.start for p in named)
    if word.low in _POINTING:
        return _points_back(turn, words, i)
    return word.low in THIRD_PERSON and not _antecedent(turn, words, named, i)


def _antecedent(turn: str, words: Sequence[Token], named: Sequence[Phrase], i: int) -> bool:
    """Whether the turn itself says what its pronoun at `i` stands for: a name or a new thing, in a clause before."""
    pronoun = words[i]
    own_clause = pronoun.low in POSSESSIVE or pronoun.low == "her"
    for phrase in named:
        end = phrase.start + len(phrase.text)
        if end > pronoun.start:
            break
        new = phrase.name or phrase.determiner in _NEW or (not phrase.determiner and phrase.text.endswith("s"))
        if new and (own_clause or _parted(turn, words, end, pronoun.start)):
            return True
        if re.search(r"[.?!]\s", turn[end : pronoun.start]):  # what a sentence before speaks of, new or not
            return True
    return False


def _parted(turn: str, words: Sequence[Token], start: int, end: int) -> bool:
    """Whether a clause ends somewhere between two places of a turn."""
    joined = any(w.low in _CLAUSE_WORDS for w in words if start <= w.start < end)
    return joined or bool(re.search(r"[.,;:?!]", turn[start:end]))


def _points_back(turn: str, words: Sequence[Token], i: int) -> bool:
    """Whether "this", "that", "these" or "those" points to something said, and does not join two clauses."""
    word = words[i]
    rest = turn[word.end :].lstrip()
    if word.low in {"this", "these", "those"}:
        later = words[i + 1].low if i + 1 < len(words) else ""
        return not later.endswith("ing") and later not in {
            "year",
            "month",
            "week",
            "morning",
            "evening",
            "century",
            "who",
            "whose",
            "that",
            "which",
        }
    before = words[i - 1].low if i else ""
    closed = bool(before) and not turn[words[i - 1].end : word.start].isspace()
    first = not before or closed or before in {"and", "but", "so", "or", "if", "how", "why", "when", "where"}
    return first or not rest or rest[0] in "?.!," or before in _BEFORE_POINTING


_BEFORE_POINTING = frozenset(
    "is was are were does did do can could will would has about of like with for from to in on at by after before "
    "during since than".split()
)

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
from rag.pronouns import foreign_pronoun, is_foreign

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
_INTRODUCING = frozenset("which what whose many much every each any no some all several".split())
_NOMINATIVE = frozenset("he she they".split())
# What a question is about put before it: "Fast foods - are they a risk?", "Low-grade glioma: is it dangerous?"
_LEFT = re.compile(r"[^:?!.]{4,}(?::| [-–—]+)\s+[^:]*\Z")
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
    r"\s*(?:(?:seit|ab|bis|von|für|mit|bei|zu|um|an|auf|nach|vor|aus|depuis|jusqu['’]?à?|à partir de|pour|avec|par"
    r"|chez|de|à|en) ?)?"
    r"(?:warum|wieso|weshalb|wann|wo|woher|wohin|wer|wem|wen|was|wie|pourquoi|quand|où|qui|quoi|comment|combien"
    r"|por qué|cuándo|dónde|quién|cómo)"
    r"(?: (?:denn|noch|sonst|nicht|genau|eigentlich|viel|lange|oft|weit|exactement|pas|donc|d['’]autre))*\W*",
    re.IGNORECASE,
)
_MAKES = frozenset("make makes made".split())  # "how do I make bread" says all, "where can I get bread" does not
_ORDERS = frozenset("explain describe define compare summarize summarise list name tell show give".split())
# Where, when or for whom, without more: "Im Winter?", "Pour les enfants ?".
FOREIGN_PLACE = re.compile(
    r"\s*(?:(?:nur|auch|erst|und|aber|seulement|aussi|même|et|mais) )?"
    r"(?:am|im|in|auf|bei|beim|für|mit|ohne|nach|vor|seit|ab|bis|um|von|vom|zum|zur|en|au|aux|à|dans|pour|avec|sans|après"
    r"|avant|depuis|chez|sur)(?: (?!was|wem|wen|wann|welche|qui|quoi|quel|combien)[^\W_]+){1,3}\s*\?\s*",
    re.IGNORECASE,
)
_LONGEST_PLACE = 5  # words of a turn that only says where or when
_CONNECTIVE_START = re.compile(r"\s*(?:and|but|or|then|also|plus|und|aber|oder|et|mais|pero)\b", re.IGNORECASE)
_UNSAID = re.compile(
    r"\b(?:(?:what|who|where|when|how|why|anything|anyone|anybody|something|someone|nothing|nobody|everything|everyone"
    r"|anywhere|somewhere) else"
    r"|the (?:others?|former|latter|same|rest|next|previous|second|third|last|first)(?: ones?)?"
    r"(?= *(?:[?.!,]|$))|(?:do|does|did|are|were|can|will|have) both(?! [\w-]+s\b)(?!.*\band\b)"
    r"|(?:the|any|what|which|these|those) others?\b(?= *(?:[?.!,]|$))|instead(?! of)"
    r"|the same(?= (?:apply|applies|hold|holds|go|goes|true|for|with)\b)"
    r"|(?:as well|too|either|also|again)(?= *(?:[?.!]|$)))",
    re.IGNORECASE,
)
_ONE = re.compile(
    r"\b(?:which|that|this|another|first|second|third|last|next|other|any|have|has|get|make) ones?\b"
    r"(?! (?:of|day|year|month|week|hour|minute|time))|\b(?<!\bwar )(?<!\bpart )(?<!\btype )(?<!\bnumber )(?<!\bstep )"
    r"(?<!\bchapter )(?<!\blevel )(?<!\bday )(?<!\bformula )ones?(?= *(?:[?.!,]|$))",
    re.IGNORECASE,
)
_EXCEPT = re.compile(r"\b(?:besides|except|other than|apart from|aside from|in addition to)\b", re.IGNORECASE)

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
    if found := _compared(turn, named) or _PRICED_IT.search(turn):
        return Cue("open", f"“{found.group().strip()}” compares with something said before")
    why = "" if any(p.name for p in named) else _nameless(turn, words, named, earlier)
    # Which of its words name something is known of English alone.
    return Cue("ellipsis" if why and is_foreign(turn) else "open", why) if why else None


def is_question(turn: str, words: Sequence[Token]) -> bool:
    """Whether a turn has a question's mark or word order."""
    return turn.rstrip().endswith("?") or (bool(words) and words[0].low in QUESTION_WORDS | AUXILIARIES)


def has_verb(words: Sequence[Token]) -> bool:
    """Whether a turn has a finite verb, as far as the closed word classes tell, or begins with an order."""
    return any(w.low in _ORDERS for w in words[:1]) or any(
        w.low in AUXILIARIES | QUESTION_WORDS and not (i and w.low in ALSO_NAMES and w.text.istitle())
        for i, w in enumerate(words)
    )


def _compared(turn: str, named: Sequence[Phrase]) -> re.Match[str] | None:
    """Return what compares with something that the turn does not say itself, as "where else besides Britain" does."""
    if (found := _UNSAID.search(turn)) and not (found.group().endswith(("else", "ELSE")) and _EXCEPT.search(turn)):
        return found
    one = _ONE.search(turn)
    if one is None:
        return None
    before = [phrase for phrase in named if phrase.start + len(phrase.text) <= one.start() and not phrase.name]
    if one.group().casefold() == "ones":  # "are smaller states dominated by larger ones"
        return None if any(phrase.text.endswith("s") for phrase in before) else one
    return one


def _is_fragment(turn: str, words: Sequence[Token]) -> bool:
    """Whether a turn is a part of a question: by its form, or without a verb and begun with "and" or as a place."""
    if _FRAGMENT.match(turn) or FOREIGN_PLACE.fullmatch(turn) or BARE_QUESTION.fullmatch(turn) or _is_name_alone(turn):
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
    content = [w for w in words if w.low not in EMPTY_WORDS - _MAKES]
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
        return _points_back(turn, words, i) and not _said_before(turn, named, word)
    return word.low in THIRD_PERSON and not _antecedent(turn, words, named, i)


def _antecedent(turn: str, words: Sequence[Token], named: Sequence[Phrase], i: int) -> bool:
    """Whether the turn itself says what its pronoun at `i` stands for: a name or a new thing, in a clause before."""
    pronoun = words[i]
    own_clause = pronoun.low in POSSESSIVE or pronoun.low == "her"
    for phrase in named:
        end = phrase.start + len(phrase.text)
        if end > pronoun.start:
            break
        parted = _parted(turn, words, end, pronoun.start) or _begins_clause(words, i)
        if _is_new(phrase, words) and (own_clause or parted):
            return True
        if own_clause and phrase.determiner == "the" and " " in phrase.text:  # "how did the old mill get its name"
            return True
    return _said_before(turn, named, pronoun) or _LEFT.match(turn[: pronoun.start]) is not None


def _is_new(phrase: Phrase, words: Sequence[Token]) -> bool:
    """Whether a phrase brings up something: a name, what an indefinite or asking word introduces, things in general."""
    before = next((w.low for w in reversed(words) if w.end <= phrase.start), "")
    bare = not phrase.determiner and phrase.text.endswith("s")
    return phrase.name or phrase.determiner in _NEW or before in _INTRODUCING or bare


def _said_before(turn: str, named: Sequence[Phrase], word: Token) -> bool:
    """Whether a sentence before in the turn names something, new or not, that a word may stand for."""
    ends = (phrase.start + len(phrase.text) for phrase in named if phrase.start < word.start)
    return any(re.search(r"[.?!]\s", turn[end : word.start]) for end in ends)


def _begins_clause(words: Sequence[Token], i: int) -> bool:
    """Whether "he", "she" or "they" is the subject of a clause: "do doctors think they should"."""
    before = words[i - 1].low if i else ""
    return words[i].low in _NOMINATIVE and before not in AUXILIARIES | QUESTION_WORDS | PREPOSITIONS


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

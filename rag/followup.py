"""A turn of a conversation as a question of its own: what it leans on is put in its place or in front of it.

Whether it leans on anything is told by `rag.cues`; a turn that does not is left as it is, whatever was said before.
What it leans on is the topic: the names and noun phrases of the turns since the topic last changed, weighted by how
lately and how often they were said, as in historical query expansion (Lin et al. 2021, "Multi-Stage Conversational
Passage Retrieval"), here without a collection's statistics. Two phrases do best (docs/lab.md): more of them outweigh
the question.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from rag.abstain import ABSTENTION_TEXT, UNATTAINABLE_TEXT
from rag.cues import BARE_QUESTION, FOREIGN_PLACE, PERSON, POSSESSIVE, SEVERAL, THIRD_PERSON, Cue, find_cue
from rag.datatypes import Message
from rag.ordinals import item_named
from rag.phrases import EMPTY_WORDS, Phrase, phrases, tokens
from rag.sentences import sentence_spans

TOPIC_PHRASES = 2
# What of a conversation is looked at: the latest exchanges, and the beginning of each turn, in characters.
MAX_EXCHANGES = 8
MAX_TURN_CHARACTERS = 1000
MAX_ANSWER_CHARACTERS = 300
MAX_QUESTION_CHARACTERS = 400  # of an earlier question that others were put in front of

_WITHHELD = frozenset({ABSTENTION_TEXT, UNATTAINABLE_TEXT})  # in place of an answer: its words tell of no topic

_NAME_WEIGHT = 2.0  # beside 1 of another phrase
_ANSWER_WEIGHT = 1.0  # of a name that the assistant said ...
_ASKED_WEIGHT = 3.0  # ... and where it is all that was asked for
_SIDE_WEIGHT = 0.4  # of what has no name beside what a turn leans on
_FITTING = 4.0
_DECAY = 0.5  # from one exchange to the one before it
_PREPOSITIONS = "in|on|at|by|since|until|before|after|during|from|for|of|to|with"
_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
# A date is one like a number is; "may" and "march" are months with a capital, or before a day or a year.
_NUMBER = (
    rf"(?:(?:\d{{1,2}}(?:st|nd|rd|th)?(?: of)? )?(?:(?-i:{_MONTH}\b)|{_MONTH}(?= \d))(?: \d{{1,2}}(?:st|nd|rd|th)?\b)?"
    r"(?:,? \d{4}\b)?|\d(?:[\w.:/-]|,(?=\d{3}(?!\d)))*)"
)
_NUMBERED = re.compile(
    rf"(?:\b(?P<preposition>{_PREPOSITIONS}) (?:the )?(?:year )?)?\b(?P<number>{_NUMBER})", re.IGNORECASE
)
_PARALLEL = re.compile(
    rf"(?:(?P<preposition>{_PREPOSITIONS}) )?(?:(?:the|an?) )?(?:(?:year )?(?P<number>{_NUMBER})|(?P<rest>.+))",
    re.IGNORECASE,
)
_LEADING = re.compile(
    r"\W*(?:\b(?:ok|okay|well|so|yes|no|and|but|or|then|also|(?:what|how) (?:about|of)|und|aber|oder|et|mais|ou)\b"
    r"[,.!]?\s*)+",
    re.I,
)
# They tell which of several is meant, and are not its name: "And the First?"
_ORDINAL = re.compile(
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|next|other|others|former|latter|same|one|ones)",
    re.I,
)
# When something was, which no pronoun stands for beside a thing.
_TIME = re.compile(
    rf"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?|{_MONTH}|[\d.:/-]+(?:st|nd|rd|th|s)?|\s|,)+", re.IGNORECASE
)
_TIME_WEIGHT = 0.1
# Of a name that only says where: what is asked about in "a house in Norrin" is a house.
_PLACE_WEIGHT = 0.4
_PLACED = re.compile(r"\b(?:in|on|at|from|to|by|for|between)(?: the)? $", re.IGNORECASE)
# "It" is one thing.
_PLURAL_WEIGHT = 0.3
_PLURAL = re.compile(r"(?:.*[^su]s|people|children|men|women|we|you)", re.IGNORECASE | re.DOTALL)
_ONE_THING = frozenset({"it", "its"})
_LIST_GAP = re.compile(r"\s*(?:,|;|,?\s*(?:\band\b|\bor\b|&))\s*(?:(?:the|an?)\s+)?", re.IGNORECASE)


_ASKS_WHICH = re.compile(
    r"\W*(?:(?:in|at|on|to|from|of) )?(?:which\b"
    r"|what(?:['’]s| is| was) the (?:[\w-]+ ){1,3}(?:of|in|on|at|for|from) \w)",
    re.IGNORECASE,
)
_ASKS_WHERE = re.compile(rf"{_ASKS_WHICH.pattern}|\W*where\b", re.IGNORECASE)
_ASKS_WHO = re.compile(r"\W*(?:who|whom|whose|which|what)\b", re.IGNORECASE)
_ASIDE = re.compile(r"(?:,| \(| [-–—]) *(?!\d)")
_BARE = re.compile(rf"(?:\W|\b(?:{_PREPOSITIONS}|the|an?|it|is|was|by)\b)*", re.IGNORECASE)


class FollowUp(NamedTuple):
    """A turn as a question of its own.

    `why` says what shows that the turn leans on the conversation, "" where it stands alone and `question` is the turn
    itself. `turns` is how many messages at the history's end are about the same, 0 where it stands alone.
    `sure` is whether what it leans on was put in its place; else it only stands in front.
    """

    question: str
    why: str = ""
    topic: tuple[str, ...] = ()
    turns: int = 0
    sure: bool = True


@dataclass(frozen=True, slots=True)
class _Exchange:
    """What the user said, as a question of its own too, and the assistant's answer; "" where there was none.

    `cue` shows that it leant on something, None where it stood alone; `topic` is what that was.
    """

    said: str
    answer: str
    question: str = ""
    messages: int = 1
    cue: Cue | None = None
    topic: tuple[Phrase, ...] = ()


class _Understood(NamedTuple):
    """A turn as a question of its own; what shows that it leans on the conversation, and the phrases it leans on."""

    asked: FollowUp
    cue: Cue | None = None
    topic: tuple[Phrase, ...] = ()


def follow_up(turn: str, history: Sequence[Message]) -> FollowUp:
    """Return `turn` as a question of its own. `history` holds the earlier turns, oldest first."""
    segment: list[_Exchange] = []
    for exchange in _exchanges(history)[-MAX_EXCHANGES:]:
        alone, cue, topic = _against(exchange.said, segment)
        if not alone.why and not _on_topic(exchange.said, segment):
            segment = []  # the topic has changed: what was said before is not meant any more
        segment.append(_Exchange(exchange.said, exchange.answer, alone.question, exchange.messages, cue, topic))
    return _against(turn, segment).asked


def _exchanges(history: Sequence[Message]) -> list[_Exchange]:
    """Pair the turns. What the assistant said before the first question belongs to nothing; an abstention is empty."""
    pairs: list[_Exchange] = []
    for message in history:
        text = message.content[:MAX_TURN_CHARACTERS]
        if message.role == "user":
            pairs.append(_Exchange(text, ""))
        elif message.role == "assistant" and pairs:
            answer = "" if message.content.strip() in _WITHHELD else message.content
            pairs[-1] = _Exchange(pairs[-1].said, answer, messages=pairs[-1].messages + 1)
    return pairs


def _against(turn: str, segment: Sequence[_Exchange]) -> _Understood:
    """Return a turn as a question of its own, given what was said about its topic, if anything."""
    if not segment or len(turn) > MAX_TURN_CHARACTERS:  # so long a turn says itself what it is about
        return _Understood(FollowUp(turn))
    cue = find_cue(turn, _words(segment), asked_back=segment[-1].answer.rstrip().endswith("?"))
    if cue is None:
        return _Understood(FollowUp(turn))
    topic = _topic(turn, segment, cue.words)
    last = segment[-1]
    before = last.question if len(last.question) <= MAX_QUESTION_CHARACTERS else last.said
    told = item_named(turn, last.answer[:MAX_TURN_CHARACTERS])
    if told != turn:
        question = f"{before} {told}" if cue.kind == "ellipsis" else told
    else:
        question = _completed(turn, before) if cue.kind == "ellipsis" else _named(turn, cue, topic, segment)
    turns = sum(exchange.messages for exchange in segment)
    asked = FollowUp(question, cue.why, tuple(p.text for p in topic), turns, sure=not question.endswith(turn))
    return _Understood(asked, cue, tuple(topic[:1] if cue.kind == "pronoun" else topic))


def _words(segment: Sequence[_Exchange]) -> frozenset[str]:
    return frozenset(w.low for e in segment for text in (e.said, e.answer) for w in tokens(text[:MAX_TURN_CHARACTERS]))


def _on_topic(turn: str, segment: Sequence[_Exchange]) -> bool:
    """Whether a turn that stands alone is still about the same: it shares a word that means something."""
    return bool({w.low for w in tokens(turn)} - EMPTY_WORDS & _words(segment))


def _topic(turn: str, segment: Sequence[_Exchange], pronouns: frozenset[str]) -> list[Phrase]:
    """Return the phrases that the conversation is about and the turn does not say itself, heaviest first."""
    weights: dict[frozenset[str], float] = {}
    found: dict[frozenset[str], Phrase] = {}
    for age, exchange in enumerate(reversed(segment)):
        for phrase, weight in [*_said(exchange, pronouns), *_told(exchange, pronouns)]:
            weights[phrase.key] = weights.get(phrase.key, 0.0) + weight * _fit(phrase, pronouns) * _DECAY**age
            found.setdefault(phrase.key, phrase)
    own = {w.low for w in tokens(turn)}
    chosen: list[Phrase] = []
    for key in sorted(weights, key=lambda k: -weights[k]):
        if not key <= own and not any(key <= other.key for other in chosen):
            chosen.append(found[key])
    return chosen[:TOPIC_PHRASES]


def _said(exchange: _Exchange, pronouns: frozenset[str]) -> list[tuple[Phrase, float]]:
    """Return what a turn names. One that leant on the topic asks for a side of it, and is still about the topic."""
    cue, said = exchange.cue, phrases(exchange.said)
    if cue is None or cue.kind == "ellipsis":
        return [(phrase, _weight(phrase) * _placed(phrase, exchange.said, said, pronouns)) for phrase in said]
    sides = [(phrase, _weight(phrase) if phrase.name else _SIDE_WEIGHT) for phrase in said]
    return [*sides, *((phrase, _weight(phrase)) for phrase in exchange.topic if _goes_on(cue, pronouns))]


def _weight(phrase: Phrase) -> float:
    return _NAME_WEIGHT if phrase.name else 1.0


def _placed(phrase: Phrase, text: str, said: Sequence[Phrase], pronouns: frozenset[str]) -> float:
    """Return what a name weighs for a pronoun beside the phrase before it, of which it only says where or to whom."""
    behind = phrase.name and phrase.start > min(p.start for p in said)
    return _PLACE_WEIGHT if behind and pronouns & THIRD_PERSON and _PLACED.search(text[: phrase.start]) else 1.0


def _goes_on(cue: Cue, pronouns: frozenset[str]) -> bool:
    """Whether pronouns may stand for what a turn before leant on: "it" may for what "it" did, "she" may not."""
    kinds = [bool(words & PERSON) + 2 * bool(words & SEVERAL) for words in (cue.words, pronouns)]
    return not pronouns or (kinds[0] == kinds[1] if cue.words else not pronouns & PERSON)


def _told(exchange: _Exchange, pronouns: frozenset[str]) -> list[tuple[Phrase, float]]:
    """Return the names that an answer begins with; where it only names what was asked for, that is the new topic."""
    answer = exchange.answer[:MAX_ANSWER_CHARACTERS]
    first = next(iter(sentence_spans(answer)), None)
    told = phrases(answer[first.start : first.end]) if first else []
    if pronouns <= SEVERAL:
        told = _as_one(answer, told)
    asks = _ASKS_WHERE if "there" in pronouns else _ASKS_WHO if pronouns & PERSON else _ASKS_WHICH
    if told and asks.match(exchange.said) and _is_bare(answer, told):
        return [(told[0]._replace(name=True), _ASKED_WEIGHT)]
    return [(phrase, _ANSWER_WEIGHT) for phrase in told if phrase.name]


def _is_bare(answer: str, told: Sequence[Phrase]) -> bool:
    """Whether an answer names what was asked for and nothing else, or adds to it behind a comma: no list does."""
    first = told[0]
    before, after = answer[: first.start], answer[first.start + len(first.text) :]
    if not first.text[0].isupper() or not _BARE.fullmatch(before):
        return False
    listed = any(p.name and _LIST_GAP.fullmatch(answer[first.start + len(first.text) : p.start]) for p in told[1:])
    return _BARE.fullmatch(after) is not None or (_ASIDE.match(after) is not None and not listed)


def _as_one(answer: str, told: list[Phrase]) -> list[Phrase]:
    """Return the phrases of an answer, as one where they are the items of a list: "they" are all of them."""
    gaps = [answer[one.start + len(one.text) : other.start] for one, other in pairwise(told)]
    if not gaps or not all(_LIST_GAP.fullmatch(gap) for gap in gaps):
        return told
    return [told[0]._replace(text=answer[told[0].start : told[-1].start + len(told[-1].text)])]


def _fit(phrase: Phrase, pronouns: frozenset[str]) -> float:
    """Return by how much likelier than another phrase this one is what pronouns stand for, by its form."""
    if _fits(phrase, pronouns):
        return _FITTING
    if pronouns and pronouns <= _ONE_THING and not phrase.name and _PLURAL.fullmatch(phrase.text):
        return _PLURAL_WEIGHT
    return _TIME_WEIGHT if _TIME.fullmatch(phrase.text) else 1.0


def _fits(phrase: Phrase, pronouns: frozenset[str]) -> bool:
    """Whether a phrase may be what a pronoun stands for, by its form: a person's name, or several of something."""
    if pronouns & PERSON:
        return phrase.name and not phrase.determiner
    plural = not phrase.name and phrase.text.endswith("s") and not phrase.text.endswith("ss")
    joined = re.search(r", | and | or ", phrase.text) is not None and phrase.determiner not in {"a", "an"}
    return bool(pronouns & SEVERAL) and (plural or joined)


def _completed(turn: str, before: str) -> str:
    """Return a fragment with what it leaves out: in its place in the question before, or behind that question."""
    fragment = _PARALLEL.fullmatch(_rest(turn).rstrip("?!. "))
    foreign = FOREIGN_PLACE.fullmatch(turn) and not (fragment and fragment["preposition"])
    if (
        fragment
        and not BARE_QUESTION.fullmatch(turn)
        and not foreign
        and not _ORDINAL.fullmatch(fragment["rest"] or "")
    ):
        preposition, number, new = fragment["preposition"], fragment["number"], phrases(f"of {fragment['rest']}")
        if number:
            places = [m.span("number") for m in _NUMBERED.finditer(before) if _same(m["preposition"], preposition)]
        elif len(new) == 1 and new[0].text == fragment["rest"]:
            places = [(p.start, p.start + len(p.text)) for p in _parallel(before, preposition, new[0])]
        else:
            places = []
        if len(places) == 1:
            start, end = places[0]
            return before[:start] + (number or fragment["rest"]) + before[end:]
    return f"{before} {turn}"


def _rest(turn: str) -> str:
    """Return a turn without what leads it on."""
    turn = turn.strip()
    leading = _LEADING.match(turn)
    return turn[leading.end() :] if leading else turn


def _same(there: str | None, here: str | None) -> bool:
    """Whether a preposition is that of a fragment, which may have left it out."""
    return here is None or (there or "").casefold() == here.casefold()


def _parallel(before: str, preposition: str | None, new: Phrase) -> list[Phrase]:
    """Return what a fragment may take the place of: a phrase behind the same preposition, or a name for a name."""
    times = [m.span("number") for m in _NUMBERED.finditer(before)]
    timed = _TIME.fullmatch(new.text) is not None  # "what about Sundays" is asked of no place
    free = [p for p in phrases(before) if not any(begin <= p.start < end for begin, end in times)]
    found = [p for p in free if (_TIME.fullmatch(p.text) is not None) == timed]
    if " and " not in new.text and any(" and " in p.text for p in found):
        return []  # one thing is not like two
    if preposition is None:
        return [p for p in found if p.name] if new.name else []
    behind = re.compile(rf"\b{preposition} (?:(?:the|an?) )?$", re.IGNORECASE)
    return [p for p in found if behind.search(before[: p.start])]


def _named(turn: str, cue: Cue, topic: Sequence[Phrase], segment: Sequence[_Exchange]) -> str:
    """Return a turn with the topic in its pronoun's place, or else in front of it."""
    if not topic:
        return turn
    token = cue.token
    # "They" is clear where one phrase alone is of several things.
    unclear = cue.words <= SEVERAL and [_fits(phrase, SEVERAL) for phrase in topic] not in ([True], [True, False])
    if cue.kind != "pronoun" or token is None or unclear:
        return f"{', '.join(_as_said(p) for p in topic)}: {turn}"
    own = token.low in POSSESSIVE or (token.low == "her" and turn[token.end :].lstrip()[:1].isalpha())
    name = _as_said(_whole(topic[0], segment)) + ("'s" if own else "")
    return turn[: token.start] + name + turn[token.end :]


def _whole(phrase: Phrase, segment: Sequence[_Exchange]) -> Phrase:
    """Return a phrase with what it was said to be of, or where: the dosage of ibuprofen is not any dosage."""
    head_of = re.compile(rf"\b{re.escape(phrase.text)} (of|in|on|at|from|to) (?:(?:the|an?) )?", re.IGNORECASE)
    for exchange in reversed(segment):
        for head in head_of.finditer(exchange.said):
            for named in phrases(exchange.said):
                if named.start == head.end() and (head[1].casefold() == "of" or _is_place(named, phrase)):
                    return phrase._replace(text=exchange.said[head.start() : named.start + len(named.text)])
    return phrase


def _is_place(named: Phrase, head: Phrase) -> bool:
    """Whether a name tells apart what it stands behind, which is no name itself."""
    return named.name and not head.name and _TIME.fullmatch(named.text) is None


def _as_said(phrase: Phrase) -> str:
    return f"the {phrase.text}" if phrase.determiner in {"the", "a", "an"} else phrase.text

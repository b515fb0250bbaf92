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
from typing import NamedTuple

from rag.cues import POSSESSIVE, Cue, find_cue
from rag.datatypes import Message
from rag.phrases import EMPTY_WORDS, Phrase, phrases, tokens
from rag.sentences import sentence_spans

TOPIC_PHRASES = 2
# What of a conversation is looked at: the latest exchanges, and the beginning of each turn, in characters.
MAX_EXCHANGES = 8
MAX_TURN_CHARACTERS = 1000
MAX_ANSWER_CHARACTERS = 300
MAX_QUESTION_CHARACTERS = 400  # of an earlier question that others were put in front of

_NAME_WEIGHT = 2.0  # beside 1 of another phrase
_ANSWER_WEIGHT = 1.0  # of a name that the assistant said ...
_ASKED_WEIGHT = 3.0  # ... and where the name is the thing that was asked for
_PERSON_WEIGHT = 12.0
_SHORT_ANSWER = 8  # words
_DECAY = 0.5  # from one exchange to the one before it
_PREPOSITIONS = "in|on|at|by|since|until|before|after|during|from|for|of|to|with"
_DATED = re.compile(rf"\b({_PREPOSITIONS}) (?:the )?(\d[\w.:/-]*)", re.IGNORECASE)
_LEADING = re.compile(
    r"(?:\b(?:ok|okay|well|so|yes|no|and|but|or|then|also|(?:what|how) (?:about|of))\b[,.!]?\s*)+", re.I
)


_ASKS_FOR_A_THING = re.compile(r"\W*(?:(?:in|at|on|to|from) )?(?:which|what|where)\b", re.IGNORECASE)


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
    """What the user said, as a question of its own too, and the assistant's answer; "" where there was none."""

    said: str
    answer: str
    question: str = ""
    messages: int = 1


def follow_up(turn: str, history: Sequence[Message]) -> FollowUp:
    """Return `turn` as a question of its own. `history` holds the earlier turns, oldest first."""
    segment: list[_Exchange] = []
    for exchange in _exchanges(history)[-MAX_EXCHANGES:]:
        alone = _against(exchange.said, segment)
        if not alone.why and not _on_topic(exchange.said, segment):
            segment = []  # the topic has changed: what was said before is not meant any more
        segment.append(_Exchange(exchange.said, exchange.answer, alone.question, exchange.messages))
    return _against(turn, segment)


def _exchanges(history: Sequence[Message]) -> list[_Exchange]:
    """Pair the turns; what the assistant said before the first question belongs to nothing."""
    pairs: list[_Exchange] = []
    for message in history:
        text = message.content[:MAX_TURN_CHARACTERS]
        if message.role == "user":
            pairs.append(_Exchange(text, ""))
        elif message.role == "assistant" and pairs:
            pairs[-1] = _Exchange(pairs[-1].said, message.content, messages=pairs[-1].messages + 1)
    return pairs


def _against(turn: str, segment: Sequence[_Exchange]) -> FollowUp:
    """Return a turn as a question of its own, given what was said about its topic, if anything."""
    if not segment or len(turn) > MAX_TURN_CHARACTERS:  # so long a turn says itself what it is about
        return FollowUp(turn)
    cue = find_cue(turn, _words(segment), asked_back=segment[-1].answer.rstrip().endswith("?"))
    if cue is None:
        return FollowUp(turn)
    topic = _topic(turn, segment, person=cue.person)
    last = segment[-1]
    before = last.question if len(last.question) <= MAX_QUESTION_CHARACTERS else last.said
    question = _completed(turn, before) if cue.kind == "ellipsis" else _named(turn, cue, topic)
    turns = sum(exchange.messages for exchange in segment)
    return FollowUp(question, cue.why, tuple(p.text for p in topic), turns, sure=not question.endswith(turn))


def _words(segment: Sequence[_Exchange]) -> frozenset[str]:
    return frozenset(w.low for e in segment for text in (e.said, e.answer) for w in tokens(text[:MAX_TURN_CHARACTERS]))


def _on_topic(turn: str, segment: Sequence[_Exchange]) -> bool:
    """Whether a turn that stands alone is still about the same: it shares a word that means something."""
    return bool({w.low for w in tokens(turn)} - EMPTY_WORDS & _words(segment))


def _topic(turn: str, segment: Sequence[_Exchange], *, person: bool) -> list[Phrase]:
    """Return the phrases that the conversation is about and the turn does not say itself, heaviest first.

    `person` where the turn speaks of one: then names without an article come first, the assistant's before the user's.
    """
    weights: dict[frozenset[str], float] = {}
    found: dict[frozenset[str], Phrase] = {}
    for age, exchange in enumerate(reversed(segment)):
        for phrase, weight in _weighted(exchange, person=person):
            weights[phrase.key] = weights.get(phrase.key, 0.0) + weight * _DECAY**age
            found.setdefault(phrase.key, phrase)
    own = {w.low for w in tokens(turn)}
    chosen: list[Phrase] = []
    for key in sorted(weights, key=lambda k: -weights[k]):
        if not key <= own and not any(key <= other.key for other in chosen):
            chosen.append(found[key])
    return chosen[:TOPIC_PHRASES]


def _weighted(exchange: _Exchange, *, person: bool) -> list[tuple[Phrase, float]]:
    """Return the phrases of an exchange: all of the user's, and the names that the answer begins with."""
    said = [(p, _NAME_WEIGHT if p.name else 1.0) for p in phrases(exchange.said)]
    first = next(iter(sentence_spans(exchange.answer[:MAX_ANSWER_CHARACTERS])), None)
    answer = exchange.answer[first.start : first.end] if first else ""
    asked_for = _ASKS_FOR_A_THING.match(exchange.said) and len(tokens(exchange.answer)) <= _SHORT_ANSWER
    weight = _ASKED_WEIGHT if asked_for else _ANSWER_WEIGHT
    told = [(p, weight) for p in phrases(answer) if p.name]
    if not person:
        return said + told
    return [(p, w * 4 if p.name and not p.determiner else w) for p, w in said] + [(p, _PERSON_WEIGHT) for p, _ in told]


def _completed(turn: str, before: str) -> str:
    """Return a fragment with what it leaves out: in its place in the question before, or behind that question."""
    fragment = _LEADING.sub("", turn.strip(), count=1).rstrip("?!. ")
    if (dated := _DATED.fullmatch(fragment)) and (slots := _same_slot(dated, before)):
        return before[: slots.start()] + dated.group() + before[slots.end() :]
    new, old = phrases(f"of {fragment}"), [p for p in phrases(before) if p.name]
    bare = re.sub(rf"^(?:(?:{_PREPOSITIONS}) )?(?:the )?", "", fragment, flags=re.IGNORECASE)
    if len(new) == 1 and new[0].name and new[0].text == bare and len(old) == 1:
        start = old[0].start
        return before[:start] + new[0].text + before[start + len(old[0].text) :]
    return f"{before} {turn}"


def _same_slot(dated: re.Match[str], before: str) -> re.Match[str] | None:
    """Return the one place of a question where a number stands behind the same preposition."""
    found = [m for m in _DATED.finditer(before) if m.group(1).lower() == dated.group(1).lower()]
    return found[0] if len(found) == 1 else None


def _named(turn: str, cue: Cue, topic: Sequence[Phrase]) -> str:
    """Return a turn with the topic in its pronoun's place, or else in front of it."""
    if not topic:
        return turn
    token = cue.token
    if cue.kind != "pronoun" or token is None:
        return f"{', '.join(_as_said(p) for p in topic)}: {turn}"
    own = token.low in POSSESSIVE or (token.low == "her" and turn[token.end :].lstrip()[:1].isalpha())
    name = _as_said(topic[0]) + ("'s" if own else "")
    return turn[: token.start] + name + turn[token.end :]


def _as_said(phrase: Phrase) -> str:
    return f"the {phrase.text}" if phrase.determiner in {"the", "a", "an"} else phrase.text

"""The further search of a question that needs several passages: for what those read do not say.

"Where was the director of the film born?" names the film; the passage about the film names the director; only that name
finds the passage with the birthplace. So what is searched for next is what of the question a passage does not say,
together with the names in it that the question does not have: the bridge entities of HotpotQA (Yang et al. 2018), found
by rules. Of 100 questions that need two passages both are then among the best five for 0.81 instead of 0.64
(docs/lab.md).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from rag.datatypes import ScoredChunk
from rag.lexical import Analyzer
from rag.phrases import phrases, tokens

# More names say less about each: six are what was measured.
MAX_NAMES = 6
# So many of the best passages may lead on.
BRIDGES = 3

# How likely the model must be to decline what it would answer from: below even odds a further search mended 1 answer of
# 16 such questions of two sets, above 7 of 30, and spoilt 2.
DOUBT = 0.5
# Terms that a question has at least that needs two passages: it has to describe what links them. The 7 mended had 7 and
# more; half of the questions that one passage answers have 5, and a second search for them is only waited for.
LEAST_TERMS = 7

Search = Callable[[str], Sequence[ScoredChunk]]


class Hop(NamedTuple):
    """A passage that was found by what another one, the `bridge`, names."""

    bridge: ScoredChunk
    passage: ScoredChunk


def may_need_two(question: str) -> bool:
    """Whether a question says enough to be about two things, one of which it does not name."""
    return len(set(Analyzer().terms(question))) >= LEAST_TERMS


def missing(question: str, passage: ScoredChunk) -> str:
    """Return what to search for after a passage, "" where it names nothing that the question does not."""
    terms = Analyzer().terms
    asked, told = set(terms(question)), set(terms(passage.chunk.context_text))
    left = [word.text for word in tokens(question) if not set(terms(word.text)) & told]
    named = [phrase.text for phrase in phrases(passage.chunk.text) if phrase.name]
    names = list(dict.fromkeys(name for name in named if not set(terms(name)) <= asked))[:MAX_NAMES]
    return " ".join([*left, *names]) if names else ""


def hop(question: str, found: Sequence[ScoredChunk], search: Search, read: Collection[str]) -> list[Hop]:
    """Return what the best of `found` lead to, best first; none of the chunks in `read`, and none twice.

    `search` returns ranked chunks. A passage is as good as it answers the further search and as the one that led to it
    answers the question: the product of both scores, the latter as a share of the best.
    """
    bridges = found[:BRIDGES]
    best: dict[str, Hop] = {}
    for bridge in bridges:
        further = missing(question, bridge)
        share = bridge.score / bridges[0].score if bridges[0].score > 0 else 0.0
        for passage in search(further) if further else ():
            led = Hop(bridge, replace(passage, score=passage.score * share))
            before = best.get(passage.chunk.id)
            if passage.chunk.id not in read and (before is None or before.passage.score < led.passage.score):
                best[passage.chunk.id] = led
    return sorted(best.values(), key=lambda led: (-led.passage.score, led.passage.chunk.id))

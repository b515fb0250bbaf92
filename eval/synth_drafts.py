"""Questions to write, in an order that depends on the seed alone, and how a question of each kind is written.

- one fact: the model is given a span of a passage and writes the question that it answers.
- paraphrase: such a question, asked again in other words.
- two passages: two passages share a name. A question about it is written from one, and in it the name gives way to
  what the other says that it is: who is meant stands there, what is asked for stands here.
- unanswerable: a name or number in a question of the first kind gives way to one of another document. The question
  looks as if the documents answered it and they do not (as some of SQuAD 2.0's, Rajpurkar et al. 2018).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from eval.metrics import normalize_answer
from eval.synth_ask import Asker
from eval.synth_candidates import (
    Candidate,
    CandidateKind,
    find_candidates,
    find_names,
    occurrences,
    sentence_around,
)
from eval.synth_checks import is_reworded
from eval.synth_passages import Passage, seeded
from rag.text import content_words

# Answers tried in one passage: more of them make questions about few things.
PER_PASSAGE = 4
# Small models often repeat the question: then they are asked again, with some chance in it.
_REWORDINGS = 3
_MOST_FORBIDDEN = 3
# A name in more passages than this is a commonplace of the documents.
_MOST_PASSAGES_OF_A_NAME = 8
_MOST_PAIRS = 20_000


class Kind(StrEnum):
    """How a question is made, from easy to hard."""

    ONE_FACT = "one fact"
    PARAPHRASE = "paraphrase"
    TWO_PASSAGES = "two passages"
    UNANSWERABLE = "unanswerable"


SHARES: Mapping[Kind, float] = {
    Kind.ONE_FACT: 0.4,
    Kind.PARAPHRASE: 0.2,
    Kind.TWO_PASSAGES: 0.2,
    Kind.UNANSWERABLE: 0.2,
}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A question to write: its kind, the passage with the `answer`, and for two passages the one that leads there.

    `bridge` is the name that the passages share.
    """

    kind: Kind
    passage: Passage
    answer: Candidate
    leading: Passage | None = None
    bridge: str = ""

    @property
    def key(self) -> str:
        """Names the assignment in a set."""
        parts = [self.kind.value, self.passage.key, str(self.answer.start)]
        return " | ".join([*parts, self.leading.key, self.bridge] if self.leading else parts)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """What must be read for the answer, in the order of reading."""
        return (self.leading, self.passage) if self.leading else (self.passage,)


@dataclass(frozen=True, slots=True)
class Draft:
    """What was written. `base` holds what it was made from: nothing, a question, or a question and a description.

    `swapped` is the name or number that was put in to make it unanswerable.
    """

    assignment: Assignment
    question: str
    base: tuple[str, ...] = ()
    swapped: str = ""


@dataclass(frozen=True)
class Assignments:
    """The assignments over some passages, each given out once."""

    passages: Sequence[Passage]
    seed: int
    _singles: Iterator[tuple[Passage, Candidate]] = field(init=False)
    _pairs: Iterator[Assignment] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_singles", self._each_passage())
        object.__setattr__(self, "_pairs", iter(find_pairs(self.passages, self.seed)))

    def next(self, kind: Kind) -> Assignment | None:
        """Return the next assignment of a kind, None where there is no more.

        Kinds of one passage take from the same row of passages, so that no two questions are after the same span.
        """
        if kind is Kind.TWO_PASSAGES:
            return next(self._pairs, None)
        passage, answer = next(self._singles, (None, None))
        return Assignment(kind, passage, answer) if passage and answer else None

    def _each_passage(self) -> Iterator[tuple[Passage, Candidate]]:
        """Yield one answer of each passage, then a second one of each, and so on."""
        for turn in range(PER_PASSAGE):
            for passage in self.passages:
                answers = rank_candidates(passage, self.seed)
                if turn < len(answers):
                    yield passage, answers[turn]


def rank_candidates(passage: Passage, seed: int) -> list[Candidate]:
    """Return the answers of a passage in the order in which to try them: at random, phrases last."""
    found = find_candidates(passage.text)
    return sorted(found, key=lambda c: (c.kind == "phrase", seeded(seed, passage.key, str(c.start))))


def find_pairs(passages: Sequence[Passage], seed: int) -> list[Assignment]:
    """Return the assignments of two passages that share a name; those of two documents come first.

    The answer stands in the sentence that names the bridge, so that a question about it can name the bridge too.
    """
    holders: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        for name in find_names(passage.text):
            holders[name].append(passage)
    pairs = [
        pair
        for name, found in holders.items()
        if 2 <= len(found) <= _MOST_PASSAGES_OF_A_NAME
        for pair in _pairs_of(name, found)
    ]
    pairs.sort(key=lambda a: (a.passage.document_id == a.passages[0].document_id, seeded(seed, a.key)))
    return pairs[:_MOST_PAIRS]


def _pairs_of(name: str, found: Sequence[Passage]) -> Iterator[Assignment]:
    for leading in found:
        # The leading question's answer is the name: it must be one place that the question is after.
        if occurrences(name, leading.text) != 1:
            continue
        for passage in found:
            if passage is leading or leading.title == name:
                continue
            for answer in find_candidates(passage.text):
                told = sentence_around(passage.text, answer.start, before=0)
                fresh = not occurrences(answer.text, leading.text) and not occurrences(name, answer.text)
                if answer.kind != "phrase" and occurrences(name, told) and fresh:
                    yield Assignment(Kind.TWO_PASSAGES, passage, answer, leading, name)


class Swaps:
    """Names, dates and numbers of all passages, to put into questions of other documents."""

    def __init__(self, passages: Sequence[Passage], seed: int) -> None:
        self._seed = seed
        self._by_kind: dict[CandidateKind, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for passage in passages:
            for candidate in find_candidates(passage.text):
                self._by_kind[candidate.kind][candidate.text].add(passage.document_id)

    def swap(self, question: str, passage: Passage) -> tuple[str, str]:
        """Return the question with a name, date or number of another document in it, and what was put in.

        Both are empty where the question has nothing to put it for.
        """
        for candidate in self._named(question, passage):
            others = [
                text
                for text, documents in self._by_kind[candidate.kind].items()
                if passage.document_id not in documents and self._alike(text, candidate.text)
            ]
            if others:
                chosen = min(others, key=lambda text: seeded(self._seed, question, text))
                before, _, after = question.partition(candidate.text)
                return before + chosen + after, chosen
        return "", ""

    def _named(self, question: str, passage: Passage) -> list[Candidate]:
        """Names first: what a question is about is a name more often than a number."""
        found = [c for c in find_candidates(question) if c.kind != "phrase" and occurrences(c.text, passage.text)]
        return sorted(found, key=lambda c: (c.kind != "name", -len(c.text)))

    @staticmethod
    def _alike(text: str, other: str) -> bool:
        same = normalize_answer(text) == normalize_answer(other)
        return not same and len(text.split()) == len(other.split()) and not set(text.split()) & set(other.split())


def write_draft(assignment: Assignment, asker: Asker, swaps: Swaps) -> Draft:
    """Have the model write the question of an assignment. An empty question means that it did not come to one."""
    if assignment.leading is not None:
        return _linked(assignment, assignment.leading, asker)
    question = _written(assignment.passage, assignment.answer, asker)
    if not question or assignment.kind is Kind.ONE_FACT:
        return Draft(assignment, question)
    if assignment.kind is Kind.PARAPHRASE:
        return Draft(assignment, _reworded(question, asker), base=(question,))
    swapped, put_in = swaps.swap(question, assignment.passage)
    return Draft(assignment, swapped, base=(question,), swapped=put_in)


def _linked(assignment: Assignment, leading: Passage, asker: Asker) -> Draft:
    passage, answer, bridge = assignment.passage, assignment.answer, assignment.bridge
    question = asker.ask_about(bridge, sentence_around(passage.text, answer.start), answer.text)
    if question.count(bridge) != 1:
        return Draft(assignment, "")
    described = asker.describe(bridge, leading.title, sentence_around(leading.text, leading.text.find(bridge)))
    before, _, after = question.partition(bridge)
    # "the Norrin Head" must not become "the the lighthouse"; "Norrin Head's" may become "the lighthouse's".
    before = re.sub(r"\b(?:the|a|an) $", "", before, flags=re.IGNORECASE)
    return Draft(assignment, before + described + after, base=(question, described))


def _written(passage: Passage, answer: Candidate, asker: Asker) -> str:
    # A sentence more than the answer's own says who "she" is; a whole passage leads small models astray.
    return asker.write(passage.title, sentence_around(passage.text, answer.start), answer.text)


def _reworded(question: str, asker: Asker) -> str:
    """Return the first wording that is new, or the last one tried."""
    reworded, forbidden = "", [word for word in content_words(question) if word in question][:_MOST_FORBIDDEN]
    for turn in range(_REWORDINGS if forbidden else 1):
        reworded = asker.reword(question, forbidden, turn)
        if is_reworded(reworded, question):
            break
    return reworded

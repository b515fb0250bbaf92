"""The checks of each kind of question, in order: what costs nothing comes first, what asks the model comes last."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from eval import synth_checks as checks
from eval.synth_ask import Asker
from eval.synth_drafts import Draft, Kind
from eval.synth_passages import Passage
from rag.protocols import Embedder
from rag.text import content_words, words

_FORM = ("question", "self_contained", "no_leak")
_MODEL = ("not_duplicate", "read", "not_remembered")
CHECKS: Mapping[Kind, tuple[str, ...]] = {
    Kind.ONE_FACT: ("written", *_FORM, "in_passage", *_MODEL),
    Kind.PARAPHRASE: ("written", *_FORM, "reworded", "same_meaning", "in_passage", *_MODEL),
    Kind.TWO_PASSAGES: ("written", *_FORM, "linked", "in_passage", *_MODEL),
    # What the documents do not answer cannot be read; that the question it was made from can be shows that it is sound.
    Kind.UNANSWERABLE: ("written", "swapped", *_FORM, "in_passage", "not_elsewhere", "not_duplicate", "read"),
}

MEANINGS: Mapping[str, str] = {
    "written": "the model wrote something of the form asked for",
    "swapped": "a name or number could be put for one of the question's",
    "question": "it is one question",
    "self_contained": "it is clear without the passage",
    "no_leak": "it does not give the answer away",
    "reworded": "it has words that the first wording had not",
    "same_meaning": "it asks what the first wording asked",
    "linked": "it describes the name that links the passages and does not tell it",
    "in_passage": "the answer stands in the passage",
    "not_elsewhere": "no other passage seems to answer it",
    "not_duplicate": "it is not asked already",
    "read": "the model finds the answer by reading the passage",
    "not_remembered": "the model does not know the answer without the passage",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a draft. `failed` names the check that ended it, empty where it passed all.

    `read` and `remembered` are what the model answered with the passages and without, `nearest` is the cosine to the
    nearest question kept before; all are empty or None where it did not come to that.
    """

    failed: str
    read: str = ""
    remembered: str = ""
    nearest: float | None = None


@dataclass(slots=True)
class _Found:
    read: str = ""
    remembered: str = ""
    nearest: float | None = None


@dataclass
class Judge:
    """Judges drafts, each against the passages and the questions kept before."""

    asker: Asker
    embedder: Embedder
    passages: Sequence[Passage]
    min_f1: float = checks.MIN_F1
    _kept: checks.Kept = field(init=False)

    def __post_init__(self) -> None:
        self._kept = checks.Kept(self.embedder)

    def keep(self, question: str) -> None:
        """Remember a question that was kept."""
        self._kept.add(question)

    def judge(self, draft: Draft) -> Judgement:
        """Put a draft through the checks of its kind, up to the first that it fails."""
        found = _Found()
        for name in CHECKS[draft.assignment.kind]:
            if not self._passes[name](draft, found):
                return Judgement(name, found.read, found.remembered, found.nearest)
        return Judgement("", found.read, found.remembered, found.nearest)

    @property
    def _passes(self) -> Mapping[str, Callable[[Draft, _Found], bool]]:
        return {
            "written": lambda draft, _: bool(draft.question or draft.base) and all(draft.base),
            "swapped": lambda draft, _: bool(draft.swapped),
            "question": lambda draft, _: checks.is_question(draft.question),
            "self_contained": lambda draft, _: checks.is_self_contained(draft.question),
            "no_leak": _leaks_nothing,
            "reworded": lambda draft, _: checks.is_reworded(draft.question, draft.base[0]),
            "same_meaning": lambda d, _: checks.means_the_same(d.question, d.base[0], self.embedder),
            "linked": _is_linked,
            "in_passage": lambda d, _: checks.stands_in(d.assignment.answer.text, d.assignment.passages),
            "not_elsewhere": self._not_elsewhere,
            "not_duplicate": self._not_duplicate,
            "read": self._read,
            "not_remembered": self._not_remembered,
        }

    def _not_elsewhere(self, draft: Draft, _: _Found) -> bool:
        answer = draft.assignment.answer.text
        return not checks.may_be_answered(draft.question, draft.swapped, answer, self.passages)

    def _not_duplicate(self, draft: Draft, found: _Found) -> bool:
        found.nearest = self._kept.nearest(draft.question)
        return not self._kept.has(found.nearest)

    def _read(self, draft: Draft, found: _Found) -> bool:
        asked = draft.base[0] if draft.assignment.kind is Kind.UNANSWERABLE else draft.question
        found.read = self.asker.read(asked, draft.assignment.passages)
        return checks.reads_right(found.read, draft.assignment.answer.text, self.min_f1)

    def _not_remembered(self, draft: Draft, found: _Found) -> bool:
        found.remembered = self.asker.remember(draft.question)
        return not checks.remembers(found.remembered, draft.assignment.answer.text, self.min_f1)


def _leaks_nothing(draft: Draft, _found: _Found) -> bool:
    """Whether neither the question nor, where it was made by a swap, the one before gives the answer away."""
    asked = (draft.question, *draft.base) if draft.swapped else (draft.question,)
    return not any(checks.leaks(question, draft.assignment.answer.text) for question in asked)


def _is_linked(draft: Draft, _found: _Found) -> bool:
    """Whether the description is a noun phrase from the leading passage and the question tells nothing of the name.

    Two words of it at least, or all where it has fewer, stand in the passage: what the model made up leads nowhere.
    """
    described = draft.base[1]
    assignment = draft.assignment
    assert assignment.leading is not None, "only questions of two passages are linked"
    said = set(content_words(described))
    told = set(words(draft.question)) & {"x", *content_words(assignment.bridge)}
    known = said & set(words(assignment.leading.text))
    return described.lower().startswith("the ") and not told and len(known) >= min(2, len(said))

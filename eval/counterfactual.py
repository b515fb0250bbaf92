"""A QA set whose documents say something else: does a system follow them, or answer from memory?

A right answer that stands in a relevant document is replaced by another of its kind (a number by one of the same format
and size, a date by another date, a name by a name of the same shape that no document holds), throughout the corpus, so
that documents stay consistent with each other; what is too common for that (2, two, a year) in the relevant documents
alone. The questions stay as they are. After Longpre et al. 2021, "Entity-Based Knowledge Conflicts in Question
Answering", with names invented instead of drawn from a knowledge base.
"""

import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eval.files import dump_line
from eval.qaset import QASet, Question, load_qaset
from eval.qaset_draft import new_folder, write_meta
from rag.errors import DataError
from rag.text import STOP_WORDS

# Longer answers are clauses: putting another in their place would not leave a sentence.
MAX_ANSWER_WORDS = 6

_MONTHS = "January February March April May June July August September October November December".split()
_NUMBER_WORDS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_ROMAN = re.compile(r"[IVX]{2,}")
_MONTH = re.compile(rf"\b(?:{'|'.join(_MONTHS)})\b")
_YEAR = re.compile(r"\b(?:1\d|20)\d\d\b")
_WORD = re.compile(r"[^\W\d_]+")
# Words that stand within names and are kept in them.
_PARTICLES = STOP_WORDS | frozenset(
    "de la le du van von der den di da del al bin ibn s st jr sr mr mrs dr rev sir".split()
)
_ONSETS = "b br c d dr f g gr h j k kl l m n p pl r s st t tr v w".split()
_VOWELS = "a e i o u ai ea o a e".split()
_CODAS = "n r l s th nd rk m t ck".split()
_ATTEMPTS = 200


class Counterfactual(NamedTuple):
    """The set that was written, and how many questions were asked of before, kept, and why others were not."""

    qaset: QASet
    questions: int
    kept: int
    left_out: Mapping[str, int]


class Swaps:
    """What is said instead of what: seeded, and the same word gets the same replacement wherever it is asked for."""

    def __init__(self, vocabulary: Iterable[str], seed: int) -> None:
        words = set(vocabulary)
        self._lower = {word for word in words if word.islower()}
        self._known = {word.lower() for word in words}
        self._seed = seed
        self._words: dict[str, str] = {}

    def replacement(self, answer: str) -> str | None:
        """Return what is put in the place of an answer, None where its kind cannot be swapped."""
        if not answer.strip() or len(answer.split()) > MAX_ANSWER_WORDS:
            return None
        if _NUMBER.search(answer) or _MONTH.search(answer):
            return self._swap_numbers(answer)
        words = _WORD.findall(answer)
        if len(words) == 1 and words[0].lower() in _NUMBER_WORDS:
            return self._number_word(answer)
        # "Increased pressure" begins like a sentence and is no name; "conductor Leonard Bernstein" holds one.
        capitals = [i for i, word in enumerate(words) if word[0].isupper() and word.lower() not in _PARTICLES]
        if not capitals or (capitals == [0] and any(word.lower() not in _PARTICLES for word in words[1:])):
            return None
        return _WORD.sub(lambda word: self._name(word[0]), answer)

    def parts(self, answer: str) -> dict[str, str]:
        """Return what stands for the answer elsewhere, a name's surname or a date's year, with its replacement."""
        parts = {year: self._number(year) for year in _YEAR.findall(answer)}
        words = _WORD.findall(answer)
        last = words[-1] if len(words) > 1 else ""
        if len(last) > 3 and last[0].isupper() and last.lower() not in self._lower:
            parts[last] = self._name(last)
        return {part: new for part, new in parts.items() if part != answer}

    def _swap_numbers(self, text: str) -> str:
        text = _MONTH.sub(lambda month: self._pick(month[0], _MONTHS), text)
        return _NUMBER.sub(lambda number: self._number(number[0]), text)

    def _number(self, number: str) -> str:
        """Another number of as many digits and the same separators, near in size; a year within its century."""
        if number in self._words:
            return self._words[number]
        draw = self._draw(number)
        digits = [i for i, c in enumerate(number) if c.isdigit()]
        is_year = len(number) == 4 and number.isdigit() and number[:2] in ("15", "16", "17", "18", "19", "20")
        is_day = number.isdigit() and len(number) <= 2 and 1 <= int(number) <= 28
        for _ in range(_ATTEMPTS):
            if is_day and len(number) == 2:
                made = str(draw.randint(10, 28))
            elif is_year:
                made = number[:2] + (f"{draw.randint(0, 19):02}" if number[:2] == "20" else f"{draw.randint(0, 99):02}")
            else:
                first = str(draw.randint(1, 9))
                fresh = {i: first if i == digits[0] else str(draw.randint(0, 9)) for i in digits}
                made = "".join(fresh.get(i, c) for i, c in enumerate(number))
            if made != number:
                break
        return self._words.setdefault(number, made)

    def _number_word(self, answer: str) -> str:
        other = self._pick(answer.lower(), _NUMBER_WORDS)
        return other.capitalize() if answer[0].isupper() else other

    def _name(self, word: str) -> str:
        """Another word of the same shape that no document holds; particles and small words stay."""
        if not word[0].isupper() or word.lower() in _PARTICLES or _ROMAN.fullmatch(word):
            return word
        if len(word) == 1:
            return self._pick(word, "ABCDEFGHIKLMNOPRSTVW")
        if word.lower() not in self._words:
            self._words[word.lower()] = self._invent(word.lower())
        made = self._words[word.lower()]
        return made.upper() if word.isupper() else made.capitalize()

    def _invent(self, word: str) -> str:
        draw = self._draw(word)
        made = word
        for _ in range(_ATTEMPTS):
            syllables = max(1, round(len(word) / 3))
            made = "".join(draw.choice(_ONSETS) + draw.choice(_VOWELS) for _ in range(syllables)) + draw.choice(_CODAS)
            if made not in self._known:
                break
        self._known.add(made)
        return made

    def _pick(self, word: str, choices: Sequence[str]) -> str:
        others = [choice for choice in choices if choice != word]
        return self._words.setdefault(word, self._draw(word).choice(others))

    def _draw(self, word: str) -> random.Random:
        # By word, so that what is swapped for it does not depend on the order of the questions.
        return random.Random(zlib.crc32(f"{self._seed}:{word}".encode()))  # noqa: S311 - a sample, no secret


def counterfactual_qaset(folder: Path, out: Path, *, seed: int = 0) -> Counterfactual:
    """Write the counterfactual copy of a QA set with the questions whose answers could be swapped.

    A question is left out where its answers are no number, date or name, where none stands in a relevant document, or
    where a question names one: the questions are asked as they were. `original_answers` of a question are those before.
    Raises `DataError` where no question is left.
    """
    source = load_qaset(folder)
    texts = {document.id: document.text for document in source.documents()}
    swaps = Swaps((word for text in texts.values() for word in _WORD.findall(text)), seed)
    asked = "\n".join(_asked(question) for question in source.questions)
    left_out: Counter[str] = Counter()
    kept: list[tuple[Question, dict[str, str]]] = []
    for question in source.questions:
        swapped = {a: new for a in question.answers if (new := swaps.replacement(a)) is not None and new != a}
        reason = _why_not(question, [texts[id_] for id_ in question.relevant], swapped, asked)
        if reason:
            left_out[reason] += 1
        else:
            parts = {part: new for a in swapped for part, new in swaps.parts(a).items() if not _stands_in(part, asked)}
            kept.append((question, parts | swapped))
    if not kept:
        raise DataError(
            f"{folder}: no question has an answer that can be swapped: {dict(left_out)}",
            hint="Numbers, dates and names that stand in a relevant document can.",
        )
    with new_folder(out) as draft:
        kind = f"{source.kind}, answers rewritten in documents and gold"
        write_meta(draft, f"{source.name}-counterfactual", kind, source.license, f"{source.name}, seed {seed}")
        _write(draft, source, kept)
    return Counterfactual(load_qaset(out), len(source.questions), len(kept), left_out)


def _write(draft: Path, source: QASet, kept: Sequence[tuple[Question, dict[str, str]]]) -> None:
    everywhere = {old: new for _, swapped in kept for old, new in swapped.items() if not _is_common(old)}
    here: dict[str, dict[str, str]] = {}
    for question, swapped in kept:
        for document_id in question.relevant:
            here.setdefault(document_id, {}).update(swapped)
    rewrite = Rewriter(everywhere)
    with (draft / "corpus.jsonl").open("wb") as corpus:
        for document in source.documents():
            own = Rewriter(everywhere | here[document.id]) if document.id in here else rewrite
            corpus.write(dump_line({"id": document.id, "title": own(document.title), "text": own(document.text)}))
    with (draft / "questions.jsonl").open("wb") as questions:
        for question, swapped in kept:
            questions.write(dump_line(_rewritten(question, Rewriter(everywhere | swapped))))


class Rewriter:
    """Puts replacements in the place of whole words, the longest phrase first, in one pass over the text."""

    def __init__(self, swapped: Mapping[str, str]) -> None:
        self._swapped = swapped
        phrases = sorted(swapped, key=len, reverse=True)
        self._pattern = re.compile("|".join(rf"(?<!\w){re.escape(phrase)}(?!\w)" for phrase in phrases) or r"(?!)")

    def __call__(self, text: str) -> str:
        """Return the text rewritten."""
        return self._pattern.sub(lambda found: self._swapped[found[0]], text)


def _why_not(question: Question, relevant: Sequence[str], swapped: Mapping[str, str], asked: str) -> str:
    """Return why a question cannot be asked of rewritten documents, "" where it can."""
    if not question.answers:
        return "has no answer"
    rewrite = Rewriter(swapped)
    if any(rewrite(answer) == answer for answer in question.answers):
        return "an answer is no number, date or name"
    if {rewrite(answer) for answer in question.answers}.intersection(question.answers):
        return "an answer would become another right one"
    if not any(_stands_in(answer, text) for answer in swapped for text in relevant):
        return "no relevant document says the answer"
    if any(_stands_in(answer, asked if not _is_common(answer) else _asked(question)) for answer in swapped):
        return "a question names the answer"
    return ""


def _asked(question: Question) -> str:
    return "\n".join([question.question, *(turn.content for turn in question.history)])


def _is_common(phrase: str) -> bool:
    """Whether a phrase stands for many things: bare numbers up to years, and numbers in words."""
    return (phrase.isdecimal() and len(phrase) <= 4) or phrase.lower() in _NUMBER_WORDS


def _stands_in(phrase: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def _rewritten(question: Question, rewrite: Rewriter) -> dict[str, object]:
    line: dict[str, object] = {
        "id": question.id,
        "question": question.question,
        "answers": list(dict.fromkeys(rewrite(answer) for answer in question.answers)),
        "original_answers": list(question.answers),
        "answerable": True,
        "relevant": list(question.relevant),
    }
    if question.history:
        line["history"] = [{"role": turn.role, "content": turn.content} for turn in question.history]
    return line

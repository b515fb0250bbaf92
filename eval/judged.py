"""Answers that people judged, and where they come from: the measure of every answer scorer.

Three sources: a JSON list in EVOUNA's format (Wang et al. 2023: `golden_answer` with aliases between slashes, and for
each system `answer_NAME` and `judge_NAME`); a QA-set folder with `recorded/NAME.jsonl` (`{"id", "answer",
"judged_right"}`); the folder of a run whose rows have `human_right`.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.files import read_bounded, read_jsonl
from eval.qaset import MAX_QUESTION_LINE, load_qaset
from eval.results import RUN, read_rows, read_run
from rag.errors import DataError

MAX_JUDGED_FILE = 200_000_000
MAX_ANSWERS = 1_000_000

# EVOUNA's first 1,000 questions choose, the others report.
FIT_QUESTIONS = 1_000

_HINT = "Wanted is EVOUNA's JSON, a QA-set folder with recorded/*.jsonl, or a run on recorded answers with verdicts."


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """What one system answered, and whether a person called it right. `place` is the question's number from 0."""

    place: int
    system: str
    question: str
    gold: tuple[str, ...]
    answer: str
    right: bool


def load_judged(source: Path) -> list[JudgedAnswer]:
    """Read judged answers in order of questions. Raises `DataError` where there are none or they are malformed."""
    if source.is_file():
        answers = list(_evouna(source))
    elif (source / RUN).is_file():
        answers = list(_run(source))
    elif (source / "recorded").is_dir():
        answers = list(_recorded(source))
    else:
        raise DataError(f"{source} holds no judged answers", hint=_HINT)
    if not answers:
        raise DataError(f"{source}: no answer has a person's verdict", hint=_HINT)
    if len(answers) > MAX_ANSWERS:
        raise DataError(f"{source}: more than {MAX_ANSWERS:,} answers")
    return sorted(answers, key=lambda answer: answer.place)


def option_lists(answers: Sequence[JudgedAnswer], *, seed: int = 0) -> list[JudgedAnswer]:
    """Return one answer a question that lists 4 to 12 things of a kind, the right one among them, in four wordings.

    No person has judged these; that they are wrong is by intention. They show what a scorer makes of an answer that
    lists whatever may be right.
    """
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret
    asked = {answer.place: answer for answer in answers}
    firsts = [_named(answer) for answer in asked.values()]
    made = []
    for number, answer in enumerate(asked.values()):
        mine = _named(answer)
        same = [other for other in firsts if other != mine and _shape(other) == _shape(mine)]
        if len(same) < 11:
            continue
        options = [*draw.sample(same, draw.choice((3, 5, 7, 11))), mine]
        draw.shuffle(options)
        worded = _worded(options, number % 4)
        made.append(JudgedAnswer(answer.place, "option lists", answer.question, answer.gold, worded, False))
    return made


def _named(answer: JudgedAnswer) -> str:
    """The first right answer as a list would have it, without an aside such as "(film)"."""
    return re.sub(r"\s*\([^)]*\)", "", answer.gold[0]).strip() or answer.gold[0]


def _worded(options: Sequence[str], way: int) -> str:
    if way == 0:
        return f"{', '.join(options[:-1])} or {options[-1]}"
    if way == 1:
        return "\n".join(f"- {option}" for option in options)
    if way == 2:
        return ", ".join(options) + "."
    return " ".join(f"It could be {option}." for option in options)


def _shape(text: str) -> tuple[bool, bool, bool]:
    """Whether a text has a digit, begins with a capital, and has more than three words."""
    return any(c.isdigit() for c in text), text[:1].isupper(), len(text.split()) > 3


def _evouna(path: Path) -> Iterator[JudgedAnswer]:
    try:
        rows = json.loads(read_bounded(path, MAX_JUDGED_FILE))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}", hint=_HINT) from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: a list of questions is wanted", hint=_HINT)
    for place, row in enumerate(rows):
        yield from _evouna_question(row, place, f"{path}: [{place}]")


def _evouna_question(row: Any, place: int, where: str) -> Iterator[JudgedAnswer]:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise DataError(f"{where}: the key 'question' with a text is missing", hint=_HINT)
    gold = tuple(right.strip() for right in str(row.get("golden_answer", "")).split("/") if right.strip())
    for system in (key.removeprefix("answer_") for key in row if key.startswith("answer_")):
        verdict, answer = row.get(f"judge_{system}"), row[f"answer_{system}"]
        # 15 questions of the published file have "nan" for all verdicts: nobody judged them.
        if isinstance(verdict, bool) and isinstance(answer, str) and gold:
            yield JudgedAnswer(place, system, row["question"], gold, answer, verdict)


def _recorded(folder: Path) -> Iterator[JudgedAnswer]:
    questions = {question.id: (place, question) for place, question in enumerate(load_qaset(folder).questions)}
    for file in sorted((folder / "recorded").glob("*.jsonl")):
        for number, row in read_jsonl(file, max_line=MAX_QUESTION_LINE):
            id_, answer, verdict = row.get("id"), row.get("answer"), row.get("judged_right")
            if id_ not in questions or not isinstance(answer, str):
                raise DataError(f"{file}:{number}: the id of a question of the set and an answer are wanted")
            place, question = questions[id_]
            if isinstance(verdict, bool) and question.answers:
                yield JudgedAnswer(place, file.stem, question.question, question.answers, answer, verdict)


def _run(out: Path) -> Iterator[JudgedAnswer]:
    """Yield the answers that count in a run: those of before a change stay in the folder until it is through."""
    run = read_run(out)
    places = {question: place for place, question in enumerate(run.questions)}
    rows = {(row.system, row.question_id): row for row in read_rows(out) if run.counts(row)}
    for row in rows.values():
        if row.human_right is not None and row.gold and not row.failed:
            place = places[row.question_id]
            yield JudgedAnswer(place, row.system, row.question, row.gold, row.answer, row.human_right)


def by_system(answers: Iterable[JudgedAnswer]) -> dict[str, list[JudgedAnswer]]:
    """Return the answers of each system, in order of appearance."""
    systems: dict[str, list[JudgedAnswer]] = {}
    for answer in answers:
        systems.setdefault(answer.system, []).append(answer)
    return systems

"""Answers that were given elsewhere, read from a file: a paid baseline is run once and compared with for ever.

A file of JSON lines, `{"id": question id, "answer": text}`, with `"judged_right"` (true, false or null: a person's
verdict) and `"usage"` (`{"prompt", "cached", "completion"}` tokens) where they are known.
"""

import hashlib
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.files import JsonObject, open_data, parse_object
from eval.qaset import Question
from eval.system_row import SystemRow
from eval.systems import Reply
from rag.datatypes import Answer, ScoredChunk, Usage, Verdict
from rag.errors import DataError

MAX_LINE = 4_000_000
MAX_ANSWERS = 1_000_000

# A token is about four characters of English prose (OpenAI's rule of thumb; within some 20% for the models at hand).
CHARACTERS_PER_TOKEN = 4

_HINT = 'A line is {"id": "...", "answer": "...", "judged_right": true or false}; the last key may be missing.'


Count = Callable[[str], int]


def estimate_tokens(text: str) -> int:
    """Return the tokens of a text where no tokenizer is at hand: a quarter of its characters, rounded up."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def check_recorded(rows: list[SystemRow]) -> list[SystemRow]:
    """Return the rows, their files of recorded answers read through: a mistake shows before anything is asked.

    Raises `DataError` with file, line and what is wrong.
    """
    for row in rows:
        if row.recorded:
            _find_answers(Path(row.recorded))
    return rows


class RecordedSystem:
    """A system whose answers stand in `file`; the answers stay there, only their places are held.

    A question that the file has no answer to is left unscored; an empty answer is an abstention. Tokens that the file
    does not tell are estimated, with what `counter` returns when it is first needed: the question's and the answer's,
    without whatever else the prompt held.
    Making one raises `DataError` with file, line and what is wrong.
    """

    def __init__(self, file: Path, counter: Callable[[], Count] = lambda: estimate_tokens) -> None:
        self._file = file
        self._counter = counter
        self._count: Count = estimate_tokens
        self._places = _find_answers(file)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        with open_data(self._file) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def prepare(self) -> str:
        """Load what counts tokens."""
        self._count = self._counter()
        return ""

    def ask(self, question: Question) -> Reply | None:
        """Look up the answer to a question; None where there is none."""
        if question.id not in self._places:
            return None
        place, number = self._places[question.id]
        with open_data(self._file) as file:
            file.seek(place)
            row = parse_object(file.readline(MAX_LINE + 1), f"{self._file}:{number}")
        if _check(row, f"{self._file}:{number}") != question.id:
            raise DataError(f"{self._file} has changed while it was read", hint="Run the same command again.")
        text = str(row["answer"]).strip()
        usage, told = row.get("usage"), row.get("usage") is not None
        answer = Answer(
            text,
            verdict=Verdict.ANSWERED if text else Verdict.ABSTAINED,
            reason="" if text else "the recorded answer is empty",
            usage=_usage(usage) if usage is not None else self._estimate(question, text),
        )
        return Reply(answer, human_right=row.get("judged_right"), usage_estimated=not told, recorded=True)

    def retrieve(self, question: Question) -> list[ScoredChunk]:
        """Return nothing: whatever was retrieved elsewhere is not known."""
        del question
        return []

    def _estimate(self, question: Question, answer: str) -> Usage:
        asked = [*(turn.content for turn in question.history), question.question]
        return Usage(prompt=sum(self._count(text) for text in asked), completion=self._count(answer))


def _find_answers(file: Path) -> dict[str, tuple[int, int]]:
    """Check every line; return byte offset and line number of the answer to each question id."""
    places: dict[str, tuple[int, int]] = {}
    with open_data(file) as opened:
        number, place = 0, 0
        while line := opened.readline(MAX_LINE + 1):
            number += 1
            where = f"{file}:{number}"
            if len(line) > MAX_LINE:
                raise DataError(f"{where}: the line is longer than {MAX_LINE:,} bytes")
            if line.strip():
                id_ = _check(parse_object(line, where), where)
                if id_ in places:
                    raise DataError(f"{where}: the id {id_!r} was used on line {places[id_][1]} already")
                if len(places) == MAX_ANSWERS:
                    raise DataError(f"{file}: more than {MAX_ANSWERS:,} answers")
                places[id_] = (place, number)
            place += len(line)
    if not places:
        raise DataError(f"{file} holds no answer", hint=_HINT)
    return places


def _check(row: JsonObject, where: str) -> str:
    for key in ("id", "answer"):
        if not isinstance(row.get(key), str):
            raise DataError(f"{where}: {key!r} must be a string", hint=_HINT)
    if not isinstance(row.get("judged_right"), bool | None):
        raise DataError(f"{where}: 'judged_right' must be true, false or null", hint=_HINT)
    usage = row.get("usage")
    if usage is not None and not _is_usage(usage):
        raise DataError(f"{where}: 'usage' must hold counts of tokens: prompt, completion and maybe cached")
    return str(row["id"])


def _is_usage(value: Any) -> bool:
    if not isinstance(value, dict) or not {"prompt", "completion"} <= set(value) <= {"prompt", "cached", "completion"}:
        return False
    counts = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 10**12 for n in value.values())
    return counts and value.get("cached", 0) <= value["prompt"]


def _usage(row: dict[str, int]) -> Usage:
    return Usage(row["prompt"], row.get("cached", 0), row["completion"])

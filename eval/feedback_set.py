"""What people said of answers as a QA set: tomorrow's evaluation has today's questions.

An answer that was found helpful is right, and so is what somebody wrote in place of a wrong one; an abstention that was
found helpful is a question without an answer. Of what was only found wrong nobody knows the right answer: that goes
into `review.jsonl`, for a person to complete.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.files import JsonObject, atomic_writer, dump_line
from eval.qaset_draft import UNKNOWN_LICENSE, new_folder, write_meta
from rag.datatypes import Document, Verdict
from rag.errors import DataError
from rag.feedback import Feedback

REVIEW = "review.jsonl"


class Exported(NamedTuple):
    """How many documents and questions went into a set, and how many wait for a person in `review.jsonl`."""

    documents: int
    questions: int
    review: int


def write_feedback_set(
    out: Path, documents: Iterable[Document], feedback: Sequence[Feedback], find: Callable[[str], Document | None]
) -> Exported:
    """Write the QA-set folder `out`, new or empty. `find` gives a document by its id, None where it is gone.

    `feedback` comes oldest first; of the same question in the same conversation the last word counts. Raises
    `DataError` where none of it makes a question.
    """
    questions: list[JsonObject] = []
    review: list[JsonObject] = []
    for one in _last_words(feedback):
        row, why = _row(one, find)
        if why:
            review.append({**row, "said": one.answer, "comment": one.opinion.comment, "why": why})
        else:
            questions.append(row)
    if not questions:
        raise DataError(
            f"none of {len(review)} rated answers makes a question: that takes a helpful answer, or what is right",
            hint="`smallhold feedback list` shows what was said.",
        )
    with new_folder(out) as folder:
        with atomic_writer(folder / "corpus.jsonl") as file:
            count = 0
            for document in documents:
                file.write(dump_line({"id": document.id, "title": document.title, "text": document.text}))
                count += 1
        for name, rows in (("questions.jsonl", questions), (REVIEW, review)):
            if rows:
                with atomic_writer(folder / name) as file:
                    file.writelines(dump_line(row) for row in rows)
        days = f"{feedback[0].at.date()} to {feedback[-1].at.date()}"
        write_meta(folder, out.resolve().name, "user feedback", UNKNOWN_LICENSE, f"smallhold feedback, {days}")
    return Exported(count, len(questions), len(review))


def _last_words(feedback: Sequence[Feedback]) -> Iterable[Feedback]:
    last = {(" ".join(one.question.casefold().split()), one.history): one for one in feedback}
    return sorted(last.values(), key=lambda one: (one.at, one.id))


def _row(one: Feedback, find: Callable[[str], Document | None]) -> tuple[JsonObject, str]:
    """The question, and why a person must look at it first, "" where it can go as it is."""
    here = [document for document in (find(id_) for id_ in one.cited) if document is not None]
    right, helpful = one.opinion.right_answer.strip(), one.opinion.rating == "up"
    answerable, why = True, ""
    if right:
        answers = [right]
        here = [document for document in here if right.casefold() in document.text.casefold()]
    elif helpful and one.verdict == Verdict.ANSWERED and one.answer.strip():
        answers = [one.answer]
        why = "" if here else "the documents that it cited are gone"
    elif helpful and one.verdict == Verdict.ABSTAINED:
        answers, answerable = [], False
    else:
        answers, why = [], "nobody said what is right"
    row: dict[str, Any] = {
        "id": one.id,
        "question": one.question,
        "answers": answers,
        "answerable": answerable,
        "relevant": [document.id for document in here],
    }
    if one.history:
        row["history"] = [{"role": turn.role, "content": turn.content} for turn in one.history]
    return row, why

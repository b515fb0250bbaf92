"""Unanswerable questions made of answerable ones: what fitting an abstention needs, from afar and from near."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from eval.files import JsonObject, dump_line
from eval.qaset import QASet, Question, load_qaset
from eval.qaset_draft import new_folder, write_meta
from rag.errors import DataError


def foreign_to_qaset(questions: Path, corpus: Path, out: Path) -> QASet:
    """Put the questions of one set to the documents of another: all unanswerable, and far from what these are about.

    Questions from elsewhere are what people ask first of a system over documents, and fitting when to abstain needs
    some. That the documents hold none of the answers is assumed: take sets of different subjects. Raises `DataError`.
    """
    asked, documents = load_qaset(questions), load_qaset(corpus)
    with new_folder(out) as draft:
        source = f"questions of {asked.name} ({asked.license}) over the documents of {documents.name}"
        write_meta(draft, f"{asked.name}-foreign", "unanswerable questions", documents.license, source)
        shutil.copyfile(documents.corpus, draft / "corpus.jsonl")
        with (draft / "questions.jsonl").open("wb") as written:
            written.writelines(_unanswerable(asked.questions))
    return load_qaset(out)


def withheld_to_qaset(folder: Path, out: Path, *, seed: int = 0) -> QASet:
    """Take from a set a random half of the documents that hold answers, and keep the questions that only they answer.

    What is retrieved for such a question is about its subject and does not answer it: the near misses on which small
    models go wrong most. A question one of whose answers stands in a document that is left is dropped, since that
    document may answer it. Raises `DataError` where no question is left.
    """
    whole = load_qaset(folder)
    holding = sorted({document for question in whole.questions for document in question.relevant})
    taken = set(random.Random(seed).sample(holding, len(holding) // 2))  # noqa: S311 - a seeded choice
    left = [document for document in whole.documents() if document.id not in taken]
    asked = [q for q in whole.questions if q.relevant and taken.issuperset(q.relevant)]
    asked = [q for q in asked if not any(_holds(document.text, q.answers) for document in left)]
    if not asked:
        raise DataError(f"{folder}: no question is left without its documents", hint="Take a larger set.")
    with new_folder(out) as draft:
        source = f"{whole.name}, {len(taken)} documents withheld, seed {seed}; {whole.source}"
        write_meta(draft, f"{whole.name}-withheld", "unanswerable questions", whole.license, source)
        with (draft / "corpus.jsonl").open("wb") as corpus:
            rows = ({"id": document.id, "title": document.title, "text": document.text} for document in left)
            corpus.writelines(map(dump_line, rows))
        with (draft / "questions.jsonl").open("wb") as written:
            written.writelines(_unanswerable(asked))
    return load_qaset(out)


def _holds(text: str, answers: Sequence[str]) -> bool:
    lower = text.lower()
    return any(answer.lower() in lower for answer in answers)


def _unanswerable(questions: Sequence[Question]) -> list[bytes]:
    return [dump_line(_row(question)) for question in questions]


def _row(asked: Question) -> JsonObject:
    row: JsonObject = {"id": asked.id, "question": asked.question, "answers": [], "answerable": False, "relevant": []}
    if asked.history:
        row["history"] = [{"role": turn.role, "content": turn.content} for turn in asked.history]
    return row

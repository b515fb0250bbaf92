"""QA sets: a folder with `corpus.jsonl`, `questions.jsonl` and `meta.json`, read and checked as a whole.

The format is written down in docs/evaluation.md. A mistake is a `DataError` with file, line and what is wrong.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.files import JsonObject, open_data, parse_object, read_jsonl
from rag.datatypes import Document, Message
from rag.errors import DataError

# The longest line of the sets at hand has 10 kB, a whole book about 1 MB; an index takes documents of 20 million
# characters, of at most 6 bytes each as JSON, and a set may be made of it.
MAX_CORPUS_LINE = 128_000_000
MAX_QUESTION_LINE = 4_000_000
MAX_META = 1_000_000
MAX_QUESTIONS = 1_000_000

_FILES_HINT = "A QA set is a folder with corpus.jsonl, questions.jsonl and meta.json."
_KINDS = {str: "a string", bool: "true or false", list: "a list"}


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its gold `answers` (any of them is right) and the corpus ids that are `relevant` to it.

    An unanswerable question has no answers and asks for an abstention. `history` holds the earlier turns, oldest first.
    `original_answers` are those that were right before a counterfactual set rewrote its documents.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    answerable: bool
    relevant: tuple[str, ...]
    history: tuple[Message, ...] = ()
    original_answers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of everything that is asked and of what counts as right."""
        turns = [[turn.role, turn.content] for turn in self.history]
        content: list[Any] = [self.id, self.question, self.answers, self.answerable, self.relevant, turns]
        if self.original_answers:  # sets without them keep their digests, and runs on them their rows
            content.append(self.original_answers)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class QASet:
    """A checked QA set. The questions are held, the corpus is streamed from its file.

    `digest` is over all three files, `corpus_digest` over the corpus; both stay the same under `limited`.
    `retrieval_only` says that no question has an answer to compare with and none asks for an abstention.
    """

    name: str
    kind: str
    license: str
    source: str
    corpus: Path
    questions: tuple[Question, ...]
    documents_count: int
    retrieval_only: bool
    corpus_digest: str
    digest: str

    def documents(self) -> Iterator[Document]:
        """Stream the corpus. Raises `DataError` where the file is no longer what was checked."""
        return read_corpus(self.corpus)

    def limited(self, limit: int | None, skip: int = 0) -> "QASet":
        """Return the set with `limit` questions after the first `skip`; None takes all that are left."""
        if limit is not None and limit < 1:
            raise DataError("a limit of at least 1 question is wanted")
        if skip and skip >= len(self.questions):
            raise DataError(f"{self.name} has {len(self.questions)} questions: none is left after the first {skip}")
        return replace(self, questions=self.questions[skip : None if limit is None else skip + limit])


def read_corpus(path: Path) -> Iterator[Document]:
    """Stream a `corpus.jsonl`. Raises `DataError` with file, line and what is wrong."""
    for number, row in read_jsonl(path, max_line=MAX_CORPUS_LINE):
        yield _document(row, path, number)


def load_qaset(folder: Path) -> QASet:
    """Read and check a QA-set folder. Raises `DataError` with file, line and what is wrong."""
    if not folder.is_dir():
        raise DataError(f"there is no QA-set folder {folder}", hint=_FILES_HINT)
    meta = load_meta(folder / "meta.json")
    corpus_ids = _check_corpus(folder / "corpus.jsonl")
    questions = _load_questions(folder / "questions.jsonl", corpus_ids)
    digests = [_digest(folder / name) for name in ("corpus.jsonl", "questions.jsonl", "meta.json")]
    return QASet(
        **meta,
        corpus=folder / "corpus.jsonl",
        questions=questions,
        documents_count=len(corpus_ids),
        retrieval_only=all(q.answerable and not q.answers for q in questions),
        corpus_digest=digests[0],
        digest=hashlib.sha256("".join(digests).encode()).hexdigest(),
    )


def load_meta(path: Path) -> dict[str, str]:
    """Read a `meta.json`: `name`, `kind`, `license`, `source`. Raises `DataError`."""
    with open_data(path) as file:
        text = file.read(MAX_META + 1)
    if len(text) > MAX_META:
        raise DataError(f"{path}: larger than {MAX_META:,} bytes")
    meta = parse_object(text, str(path))
    return {key: _text(meta, key, str(path)) for key in ("name", "kind", "license", "source")}


def _check_corpus(path: Path) -> frozenset[str]:
    seen: dict[str, int] = {}
    for number, row in read_jsonl(path, max_line=MAX_CORPUS_LINE):
        document = _document(row, path, number)
        _refuse_repeated(document.id, seen, path, number)
    if not seen:
        raise DataError(f"{path}: holds no document")
    return frozenset(seen)


def _load_questions(path: Path, corpus_ids: frozenset[str]) -> tuple[Question, ...]:
    seen: dict[str, int] = {}
    questions: list[Question] = []
    for number, row in read_jsonl(path, max_line=MAX_QUESTION_LINE):
        if len(questions) == MAX_QUESTIONS:
            raise DataError(f"{path}: more than {MAX_QUESTIONS:,} questions")
        question = _question(row, f"{path}:{number}")
        _refuse_repeated(question.id, seen, path, number)
        for missing in (id_ for id_ in question.relevant if id_ not in corpus_ids):
            raise DataError(f"{path}:{number}: `relevant` names {missing!r}, which is not in corpus.jsonl")
        questions.append(question)
    if not questions:
        raise DataError(f"{path}: holds no question")
    _refuse_half_answered(questions, seen, path)
    return tuple(questions)


def _refuse_half_answered(questions: list[Question], lines: dict[str, int], path: Path) -> None:
    """A set either has answers for all that is answerable, or is for retrieval alone and then has none at all."""
    if all(q.answerable and not q.answers for q in questions):
        return
    for question in questions:
        if question.answerable and not question.answers:
            raise DataError(
                f"{path}:{lines[question.id]}: the question is answerable but has no answers",
                hint="Give it answers, or set `answerable` to false; only a set for retrieval alone has no answers.",
            )


def _refuse_repeated(id_: str, seen: dict[str, int], path: Path, number: int) -> None:
    if id_ in seen:
        raise DataError(f"{path}:{number}: the id {id_!r} was used on line {seen[id_]} already")
    seen[id_] = number


def _document(row: JsonObject, path: Path, number: int) -> Document:
    where = f"{path}:{number}"
    id_ = _text(row, "id", where, filled=True)
    return Document(id=id_, uri=f"{path}#{id_}", title=_text(row, "title", where), text=_text(row, "text", where))


def _question(row: JsonObject, where: str) -> Question:
    answerable = _value(row, "answerable", bool, where)
    answers = _texts(row, "answers", where)
    if answers and not answerable:
        raise DataError(f"{where}: the question has answers but `answerable` is false")
    return Question(
        id=_text(row, "id", where, filled=True),
        question=_text(row, "question", where, filled=True),
        answers=answers,
        answerable=answerable,
        relevant=tuple(dict.fromkeys(_texts(row, "relevant", where))),
        history=_history(row, where),
        original_answers=_texts({"original_answers": [], **row}, "original_answers", where),
    )


def _history(row: JsonObject, where: str) -> tuple[Message, ...]:
    turns = []
    for place, turn in enumerate(_value({"history": [], **row}, "history", list, where)):
        here = f"{where}: history[{place}]"
        if not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant"):
            raise DataError(f'{here}: {{"role": "user" or "assistant", "content": ...}} is wanted')
        turns.append(Message(turn["role"], _text(turn, "content", here)))
    return tuple(turns)


def _value(row: JsonObject, key: str, kind: type, where: str) -> Any:
    if key not in row:
        raise DataError(f"{where}: the key {key!r} is missing")
    if not isinstance(row[key], kind):
        raise DataError(f"{where}: {key!r} must be {_KINDS[kind]}, not {json.dumps(row[key])[:60]}")
    return row[key]


def _text(row: JsonObject, key: str, where: str, *, filled: bool = False) -> str:
    text: str = _value(row, key, str, where)
    if filled and not text.strip():
        raise DataError(f"{where}: {key!r} is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{where}: {key!r} holds half of a surrogate pair, which is no character")
    return text


def _texts(row: JsonObject, key: str, where: str) -> tuple[str, ...]:
    items = _value(row, key, list, where)
    return tuple(_text({f"{key}[{i}]": item}, f"{key}[{i}]", where, filled=True) for i, item in enumerate(items))


def _digest(path: Path) -> str:
    with open_data(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

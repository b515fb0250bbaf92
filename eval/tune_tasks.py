"""The questions of a QA set with the passage that each is to be answered from: reading alone is measured."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from eval.qaset import QASet, Question
from eval.scorers import contains
from eval.statistics import Labels, clusters
from rag.datatypes import Chunk, Document, Message, ScoredChunk
from rag.errors import DataError
from rag.prompt import Prompt
from rag.text import content_words


@dataclass(frozen=True, slots=True)
class Task:
    """One answerable question as it is asked. `id` stands for everything that the model is given."""

    id: str
    question: Question
    messages: tuple[Message, ...]


def given_passages(qaset: QASet, cut: Callable[[Document], Iterable[Chunk]], prompt: Prompt) -> list[Task]:
    """Return the answerable questions that have a relevant document, each with its best passage in the prompt.

    `cut` makes passages of a document. Raises `DataError` where the set has no such question.
    """
    wanted = {id_ for question in qaset.questions if question.answers for id_ in question.relevant}
    chunks = {document.id: list(cut(document)) for document in qaset.documents() if document.id in wanted}
    tasks = []
    for question in qaset.questions:
        passages = [chunk for id_ in question.relevant for chunk in chunks.get(id_, ())]
        if question.answers and passages:
            passage = ScoredChunk(best_passage(question, passages), 1.0)
            tasks.append(_task(question, prompt.messages(question.question, [passage], question.history)))
    if not tasks:
        raise DataError(
            f"{qaset.name}: no question has both an answer and a relevant document",
            hint="Name another QA set with --data, or raise --limit.",
        )
    return tasks


def best_passage(question: Question, passages: Sequence[Chunk]) -> Chunk:
    """Return the passage that holds an answer, of several the one that shares most words with the question."""
    asked = set(content_words(question.question))

    def rank(chunk: Chunk) -> tuple[float, int]:
        return contains(chunk.text, question.answers), len(asked.intersection(content_words(chunk.context_text)))

    return max(passages, key=rank)


def task_clusters(tasks: Sequence[Task]) -> Labels:
    """Return the clusters of the questions: those that share a document belong together."""
    return clusters([task.question.relevant for task in tasks])


def _task(question: Question, messages: Sequence[Message]) -> Task:
    text = "\n".join([question.digest, *(f"{message.role} {message.content}" for message in messages)])
    return Task(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16], question, tuple(messages))

"""What the reader is taught with: passages, questions and the answers we want, made from QA sets.

A question of a QA set gives, from the passages that the usual retriever finds for it:

* its passage and the answer that stands in it;
* the same in a window of one to four sentences, so that the answer is not learnt by its place;
* the passage without the sentences that hold the answer, which must be declined: the nearest of misses;
* passages without the answer that were retrieved all the same, which must be declined;
* for an unanswerable question its best passage, which must be declined.

Windows and misses lifted F1 on documents of another kind from 0.44 to 0.52 (docs/lab.md).
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from eval.qaset import Question, load_qaset
from indexer.chunk import Chunker
from indexer.sync import build
from rag.build import build_embedder, build_retriever, model_store, open_index
from rag.config import Settings
from rag.datatypes import Chunk
from rag.sentences import sentence_spans

READ = 5  # retrieved passages looked at


class Example(NamedTuple):
    """One lesson: read `text` of the document `title`, answer `question` with `answer`."""

    title: str
    text: str
    question: str
    answer: str


class Choice(NamedTuple):
    """Which lessons of a set: of its first `questions`, and at most `each` of every one, drawn at random; None: all.

    `whole`: of whole passages alone, which several questions can share (training/sheets.py).
    """

    questions: int | None = None
    each: int | None = None
    whole: bool = False


def examples_of(folder: Path, index: Path, settings: Settings, choice: Choice, *, decline: str) -> list[Example]:
    """Return the lessons of a QA set; its corpus is indexed in the folder `index`."""
    qaset = load_qaset(folder)
    embedder = build_embedder(settings, model_store(settings))
    chunker = Chunker(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)
    build(index, qaset.documents(), embedder=embedder, chunker=chunker)
    rng = random.Random(11)  # noqa: S311 - a seeded choice of lessons
    lessons = Lessons(rng, decline, whole=choice.whole)
    with open_index(settings, embedder, index) as opened:
        retriever = build_retriever(settings, opened, embedder)
        found: list[Example] = []
        for question in qaset.questions[: choice.questions]:
            made = list(lessons.of(question, [hit.chunk for hit in retriever.retrieve(question.question, READ)]))
            found += made if choice.each is None else rng.sample(made, min(choice.each, len(made)))
        return found


def asked_of(path: Path, decline: str) -> Iterator[Example]:
    """Yield the lessons of SQuAD 2.0 JSON: each question over its own paragraph, nothing retrieved."""
    for article in json.loads(path.read_bytes())["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answer = asked["answers"][0]["text"] if asked["answers"] else decline
                title = article["title"].replace("_", " ")
                yield Example(title, paragraph["context"], asked["question"], answer)


class Lessons:
    """Makes the lessons of one question after the other."""

    def __init__(self, rng: random.Random, decline: str, *, whole: bool = False) -> None:
        self._rng = rng
        self._decline = decline
        self._whole = whole

    def of(self, question: Question, passages: Sequence[Chunk]) -> Iterator[Example]:
        """Yield the lessons of a question and what was retrieved for it, best first."""
        if not question.answerable:
            if passages:
                yield self._example(passages[0], passages[0].text, question, self._decline)
            return
        found = False
        for rank, passage in enumerate(passages):
            holds = _holds(passage.text, question.answers)
            if holds and passage.document_id in question.relevant:
                if not found:
                    yield from self._found(passage, question)
                found = True
            elif not holds and self._rng.random() < (0.6, 0.15, 0.15, 0.03, 0.03)[rank]:
                yield self._example(passage, passage.text, question, self._decline)

    def _found(self, passage: Chunk, question: Question) -> Iterator[Example]:
        answer = _as_it_stands(question.answers, passage.text)
        yield self._example(passage, passage.text, question, answer)
        if not self._whole:
            yield from self._windows(passage, question, answer)

    def _windows(self, passage: Chunk, question: Question, answer: str) -> Iterator[Example]:
        sentences = [passage.text[span.start : span.end] for span in sentence_spans(passage.text)]
        place = next((i for i, sentence in enumerate(sentences) if answer in sentence), None)
        if place is None or len(sentences) < 3:
            return
        if self._rng.random() < 0.8:
            window = sentences[max(0, place - self._rng.randint(0, 2)) : place + 1 + self._rng.randint(0, 1)]
            yield self._example(passage, " ".join(window), question, answer)
        rest = [sentence for sentence in sentences if not _holds(sentence, question.answers)]
        if len(rest) >= 2 and self._rng.random() < 0.45:
            yield self._example(passage, " ".join(rest), question, self._decline)

    def _example(self, passage: Chunk, text: str, question: Question, answer: str) -> Example:
        return Example(passage.title, text, question.question, answer)


def _holds(text: str, answers: Sequence[str]) -> bool:
    return any(answer.lower() in text.lower() for answer in answers)


def _as_it_stands(answers: Sequence[str], text: str) -> str:
    """Return the answer most people gave among those in the text, the shortest of equals, spelt as in the text."""
    counts = Counter(answer for answer in answers if answer.lower() in text.lower())
    most = max(counts.values())
    answer = min((a for a in counts if counts[a] == most), key=len)
    start = text.lower().index(answer.lower())
    return text[start : start + len(answer)].strip()

"""What is asked: questions of a QA set with the passages retrieved for them, and prompts made of both."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from benchmarks.engine.systems import System
from eval.qaset import QASet, Question, load_qaset
from indexer.chunk import Chunker
from indexer.sync import build
from rag.build import build_embedder, build_retriever, model_store, open_index
from rag.config import Settings
from rag.console import StageProgress
from rag.datatypes import Document, Message, ScoredChunk
from rag.prompt import Prompt
from rag.protocols import Retriever

# A question that any passage answers, at length: an answer as long as may be, without switching the end token off.
AT_LENGTH = "What is the whole text of the passage, word for word?"
STORY = [Message("user", "Write a long story about a mill, of at least three hundred words.")]


class Case(NamedTuple):
    """An answerable question with what was retrieved for it, best first."""

    question: str
    answers: tuple[str, ...]
    retrieved: tuple[ScoredChunk, ...]


class Shapes:
    """The two shapes of a prompt: the best passage alone, as our pipeline reads, and the usual one of `passages`.

    `max_tokens` bounds the answers.
    """

    def __init__(self, prompt: Prompt, passages: int, max_tokens: int) -> None:
        self.prompt = prompt
        self.passages = passages
        self.max_tokens = max_tokens

    def joint(self, case: Case, question: str | None = None) -> list[Message]:
        """All passages of a case in one prompt, under its own question or another."""
        return self.prompt.messages(question or case.question, case.retrieved[: self.passages])

    def alone(self, case: Case, passage: ScoredChunk | None = None) -> list[Message]:
        """One passage, by default the best."""
        return self.prompt.messages(case.question, [passage or case.retrieved[0]])

    def unseen(self, case: Case, word: str, question: str | None = None) -> list[Message]:
        """The joint prompt, its first words changed by `word`: nothing of it is in any cache."""
        first, *rest = self.joint(case, question)
        return [Message(first.role, f"{word}. {first.content}"), *rest]


class Pair(NamedTuple):
    """Two questions: for the earlier one the passage was read that is the best one of the later.

    `found` says that retrieval brought it up for both; otherwise it was put second among those of the earlier one.
    """

    earlier: Case
    later: Case
    found: bool


@contextmanager
def open_cases(
    folder: Path, settings: Settings, cache: Path, progress: StageProgress, few: int | None
) -> Iterator[tuple[list[Case], Retriever]]:
    """Retrieve for all answerable questions of a set, over its whole corpus; with `few`, of and over so many only.

    The retriever can be asked until the block ends. The index is kept in `cache`. Raises `DataError`, `ModelMissing`.
    """
    qaset = load_qaset(folder)
    questions = [q for q in qaset.questions if q.answerable and q.answers and not q.history][:few]
    store = model_store(settings)
    embedder = build_embedder(settings, store)
    tokenizer = store.locate(settings.embedder.model).path / "tokenizer.json"
    chunker = Chunker(tokenizer, settings.chunk.tokens, settings.chunk.overlap)
    cut = f"{settings.chunk.tokens}-{settings.chunk.overlap}"
    directory = cache / f"{qaset.corpus_digest[:16]}-{cut}-{'all' if few is None else few}"
    build(directory, _documents(qaset, questions, few), embedder=embedder, chunker=chunker, progress=progress)
    with closing(open_index(settings, embedder, directory)) as index:
        retriever = build_retriever(settings, index, embedder)
        cases = []
        for done, q in enumerate(questions):
            cases.append(Case(q.question, q.answers, tuple(retriever.retrieve(q.question, 10))))
            progress("retrieve", done + 1, len(questions))
        yield cases, retriever


def _documents(qaset: QASet, questions: Sequence[Question], few: int | None) -> Iterator[Document]:
    """The corpus; with `few`, the shortest documents of those that the questions are about, and some others."""
    if few is None:
        return qaset.documents()
    wanted = {id_ for question in questions for id_ in question.relevant}
    others = islice((d for d in qaset.documents() if d.id not in wanted), few)
    return iter([*(d for d in qaset.documents() if d.id in wanted), *others])


def seen_pairs(later: Sequence[Case], earlier: Sequence[Case], passages: int) -> list[Pair]:
    """Return a pair for each of the `later` cases, those that retrieval found itself first.

    Raises `ValueError` where there is no second question to come before one.
    """
    found, made = [], []
    for at, case in enumerate(later):
        best = case.retrieved[0]
        others = [other for other in earlier if other.question != case.question]
        if not others:
            raise ValueError("a passage read before takes two questions")
        sharing = next((c for c in others if best.chunk.id in _ids(c, passages)), None)
        if sharing is not None:
            found.append(Pair(sharing, case, True))
        else:
            other = others[at % len(others)]
            company = (other.retrieved[0], best, *other.retrieved[1:])
            made.append(Pair(other._replace(retrieved=company), case, False))
    return found + made


def _ids(case: Case, passages: int) -> set[str]:
    return {passage.chunk.id for passage in case.retrieved[:passages]}


def turns(systems: Sequence[System], at: int) -> list[System]:
    """Return the systems in the order of turn `at`: another one begins each time."""
    start = at % len(systems)
    return [*systems[start:], *systems[:start]]

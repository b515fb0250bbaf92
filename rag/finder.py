"""What a turn is taken to ask, and the passages that are found for it."""

from collections.abc import Generator as Stream
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from rag.clock import Clock
from rag.datatypes import Delta, Message, ScoredChunk, Usage
from rag.errors import InvalidRequest, PromptTooLong
from rag.filter import View
from rag.followup import FollowUp, follow_up
from rag.protocols import Reranker, Retriever
from rag.rewrite import Rewriter

MAX_QUESTION_CHARACTERS = 20_000

_T = TypeVar("_T")


class Found(NamedTuple):
    """What a turn is taken to ask and the passages for it, best first; `spent` is what the former took of the model."""

    asked: FollowUp
    passages: tuple[ScoredChunk, ...]
    spent: Usage = Usage()


class Finder:
    """Finds passages for turns of conversations: `candidates` from the retriever, put in order by the reranker.

    Without a retriever nothing is found, and every turn is asked as it was said. A turn that leans on what was said
    before becomes a question of its own by rules (`rag.followup`), by the rewriter where those do not suffice.
    """

    def __init__(
        self, retriever: Retriever | None, reranker: Reranker | None, rewriter: Rewriter | None, *, candidates: int
    ) -> None:
        self._retriever = retriever
        self._reranker = reranker
        self._rewriter = rewriter
        self._candidates = candidates

    @property
    def has_documents(self) -> bool:
        """Whether there is anything to search."""
        return self._retriever is not None

    def understand(
        self, turn: str, history: Sequence[Message], clock: Clock, owner: str = ""
    ) -> Stream[Delta, None, tuple[FollowUp, Usage]]:
        """Return the turn as a question of its own, and what that took of the model, if it was asked.

        From memory a turn is answered as it was said, with all that was said before. Raises `InvalidRequest` for what
        is no question.
        """
        _check(turn)
        if self._retriever is None:
            return FollowUp(turn, turns=len(history)), Usage()
        asked = follow_up(turn, history)
        if asked.sure or self._rewriter is None:
            return asked, Usage()
        with clock.stage("rewrite"):
            return (yield from self._rewriter.rewrite(turn, history, asked, owner))

    def find(self, question: str, view: View, clock: Clock) -> list[ScoredChunk]:
        """Return the ranked passages for a question, best first."""
        if self._retriever is None:
            return []
        with clock.stage("retrieve"):
            found = self.search(question, view)
        if self._reranker is not None:
            with clock.stage("rerank"):
                found = self._reranker.rerank(question, found)
        return found

    def search(self, text: str, view: View) -> list[ScoredChunk]:
        """Return what the retriever alone finds for a text, best first."""
        return self._retriever.retrieve(text, self._candidates, view) if self._retriever is not None else []


def drained(stream: Stream[Delta, None, _T]) -> _T:
    """Return what a stream returns in the end, however long that takes."""
    try:
        while True:
            next(stream)
    except StopIteration as end:
        result: _T = end.value
        return result


def _check(question: str) -> None:
    if not question.strip():
        raise InvalidRequest("the question is empty")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise PromptTooLong(f"the question is longer than {MAX_QUESTION_CHARACTERS:,} characters")
    if any("\ud800" <= character <= "\udfff" for character in question):  # no tokenizer takes them
        raise InvalidRequest("the question holds bytes that are no UTF-8", hint="Is the terminal set to UTF-8?")

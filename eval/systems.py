"""What the runner asks of a system under comparison once it is opened."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from eval.qaset import Question
from eval.system_row import SystemRow
from rag.datatypes import Answer, Message, ScoredChunk


@dataclass(frozen=True, slots=True)
class Reply:
    """What a system made of a question.

    `human_right` is a person's verdict where one came with the answer, `usage_estimated` says that the tokens were
    reckoned from the texts, not told by the model, `recorded` that there are no seconds of ours.
    """

    answer: Answer
    human_right: bool | None = None
    usage_estimated: bool = False
    recorded: bool = False


class System(Protocol):
    """An opened system. The first question is asked after `prepare`, which is not timed."""

    @property
    def fingerprint(self) -> str:
        """What the answers depend on besides row and settings: weights, prompt, index. Cheap: loads no model."""
        ...

    def prepare(self) -> str:
        """Load what answering needs; called once, and only where there is something to ask.

        Returns what else was done beforehand, as a sentence for the reader of the report; "" where nothing was.
        """
        ...

    def ask(self, question: Question) -> Reply | None:
        """Answer one question; None leaves it unscored."""
        ...

    def retrieve(self, question: Question) -> list[ScoredChunk]:
        """Return the ranked chunks alone, best first."""
        ...


# Opens a row; a row without generator must come without a language model being loaded. Leaving frees the model.
OpenSystem = Callable[[SystemRow], AbstractContextManager[System]]


class Pipeline(Protocol):
    """The part of `rag.pipeline.RagPipeline` that is evaluated."""

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        """Answer one question."""
        ...

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        """Return the ranked chunks alone."""
        ...


class PipelineSystem:
    """A system over a pipeline that is built when the first question is due.

    `remote` is one behind an endpoint, which tells no tokens of an answer that is cut short. `ahead` does before that
    what `prepare` tells of.
    """

    def __init__(
        self,
        fingerprint: str,
        build: Callable[[], Pipeline],
        *,
        remote: bool = False,
        ahead: Callable[[], str] = str,
    ) -> None:
        self._fingerprint = fingerprint
        self._build = build
        self._ahead = ahead
        self._remote = remote
        self._pipeline: Pipeline | None = None

    @property
    def fingerprint(self) -> str:
        """Weights, prompt and index, as the caller knows them without loading."""
        return self._fingerprint

    def prepare(self) -> str:
        """Build the pipeline."""
        done = self._ahead()
        self._pipeline = self._build()
        return done

    def ask(self, question: Question) -> Reply:
        """Answer one question with the pipeline's own options."""
        answer = self._prepared().answer(question.question, question.history)
        return Reply(answer, usage_estimated=self._remote and answer.finish_reason == "cancelled")

    def retrieve(self, question: Question) -> list[ScoredChunk]:
        """Return the ranked chunks alone."""
        return self._prepared().retrieve(question.question, question.history)

    def _prepared(self) -> Pipeline:
        assert self._pipeline is not None, "prepare() comes first"
        return self._pipeline

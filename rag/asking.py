"""What is put to the language model for one question: the same words for every passage, or other ones."""

from collections.abc import Sequence
from dataclasses import replace

from rag.datatypes import Message, Mode, Sampling, ScoredChunk
from rag.evidence import Evidence
from rag.options import AskOptions
from rag.prompt import Prompt
from rag.protocols import Generator
from rag.reading import Pieces, Reading


class Asking:
    """Asks the model one question over some passages. `turns` are those of the conversation that go along."""

    def __init__(
        self, generator: Generator, prompt: Prompt, question: str, turns: Sequence[Message], sampling: Sampling
    ) -> None:
        self.prompt = prompt
        self.question = question
        self.turns = turns
        self.sampling = sampling
        self._generator = generator

    def __call__(self, passages: Sequence[ScoredChunk]) -> Pieces:
        """Return the answer as it is written."""
        return self.put(self.messages(passages), self.sampling_over(passages))

    def sampling_over(self, passages: Sequence[ScoredChunk]) -> Sampling:
        """Return how tokens are chosen for a prompt of these passages."""
        return replace(self.sampling, own_from=self.prompt.own_from(passages, self.turns))

    def messages(self, passages: Sequence[ScoredChunk], wording: str = "{question}") -> list[Message]:
        """Return the chat that asks; `wording` has the field {question}."""
        return self.prompt.messages(self.worded(wording), passages, self.turns)

    def worded(self, wording: str) -> str:
        """Return the question in a wording."""
        return wording.replace("{question}", self.question)

    def put(self, messages: Sequence[Message], sampling: Sampling) -> Pieces:
        """Return what the model writes to a chat."""
        return self._generator.stream(messages, sampling)


def sampling_of(options: AskOptions, *, max_tokens: int, decline: str) -> Sampling:
    """Return how tokens are chosen for a request, whose own wishes go first."""
    return Sampling(
        max_tokens=options.max_tokens or max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        stop=options.stop,
        decline=decline,
        owner=options.owner,
    )


def readings_of(evidence: Evidence, mode: Mode, ask: Asking) -> list[Reading]:
    """Return what may be read, in order: every passage by itself, or all of them at once."""
    if mode == "joint" or not evidence.passages:
        return [Reading(evidence.passages, ask, tokens=evidence.tokens)]
    return [
        Reading((passage,), ask, tokens=cost) for passage, cost in zip(evidence.passages, evidence.costs, strict=True)
    ]

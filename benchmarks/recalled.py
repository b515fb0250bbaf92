"""A retriever that was asked before, for measurements of what comes after retrieval."""

from collections.abc import Mapping, Sequence

from rag.datatypes import ScoredChunk
from rag.filter import EVERYTHING, View
from rag.protocols import Retriever


class Recalled:
    """Gives what was `found` for each question before, so that what is timed is the reading.

    What else is searched for, where no passage holds the answer, nobody can know before: that is searched, and timed.
    """

    def __init__(self, found: Mapping[str, Sequence[ScoredChunk]], retriever: Retriever) -> None:
        self._found = found
        self._retriever = retriever

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return at most `k` chunks, best first."""
        found = self._found.get(question)
        return self._retriever.retrieve(question, k, view) if found is None else list(found[:k])

"""The seams of the query path, each one method wide. Implementations are passed in; `rag.build` chooses them."""

from collections import abc
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rag.datatypes import Message, Piece, Sampling, ScoredChunk
from rag.filter import EVERYTHING, View

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Embedder(Protocol):
    """Texts to unit-length vectors."""

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 `(n, d)`, each row of Euclidean length 1, in the order of `texts`."""
        ...


class VectorStore(Protocol):
    """Nearest neighbours by inner product."""

    def search(self, query_d: FloatArray, k: int, allowed_n: BoolArray | None = None) -> tuple[FloatArray, IntArray]:
        """For one query `(d,)` return scores `(m,)` and row numbers `(m,)`, best first, m <= k.

        With a mask they are the best of the rows that it allows.
        """
        ...


class Retriever(Protocol):
    """A question to chunks, best first."""

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return at most `k` chunks, best first, of what the view leaves; an empty list where nothing matches."""
        ...


class Reranker(Protocol):
    """A second, dearer look at the order of a few chunks."""

    def rerank(self, question: str, chunks: Sequence[ScoredChunk]) -> list[ScoredChunk]:
        """Return the same chunks in a new order, with the reranker's scores."""
        ...


class Generator(Protocol):
    """A language model. Message contents are data: control tokens spelt in them stay plain text."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> abc.Generator[Piece, None, None]:
        """Yield pieces as they are generated, the first empty ones while the prompt is read.

        Closing the iterator early cancels the rest and frees the model. Raises `PromptTooLong` where prompt and
        answer do not fit.
        """
        ...


class TokenCounter(Protocol):
    """Counts the tokens that a text takes in a model's prompt."""

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, special tokens not included."""
        ...


class LanguageModel(Generator, TokenCounter, Protocol):
    """A generator that counts in its own tokens."""

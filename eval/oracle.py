"""Systems that are handed the relevant documents of a question, so that errors of retrieval and of reading separate."""

import threading
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from eval.qaset import Question
from eval.systems import Pipeline, PipelineSystem, Reply
from rag.datatypes import ScoredChunk
from rag.filter import EVERYTHING, View
from rag.index import Index
from rag.protocols import Embedder
from rag.retrieve import combine


class OracleRetriever:
    """Finds the chunks of the documents it was told are `relevant`, and no others. Implements `Retriever`.

    They come in the order of the usual retriever: by its dense and lexical scores, fused as in `FusedRetriever`, among
    the relevant chunks alone. Where no document is relevant nothing is found. What a thread hands over is its own.
    """

    def __init__(self, index: Index, embedder: Embedder, dense_weight: float) -> None:
        self._of_thread = threading.local()
        self._index = index
        self._embedder = embedder
        self._dense_weight = dense_weight
        self._rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, chunk in enumerate(index.store.all_chunks()):
            self._rows[chunk.document_id].append(row)

    @property
    def relevant(self) -> tuple[str, ...]:
        """The documents that this thread has handed over."""
        found: tuple[str, ...] = getattr(self._of_thread, "relevant", ())
        return found

    @relevant.setter
    def relevant(self, ids: tuple[str, ...]) -> None:
        self._of_thread.relevant = ids

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return at most `k` chunks, best first; `score` lies in [0, 1], `dense` and `lexical` are both set."""
        rows = np.array([row for document in self.relevant for row in self._rows.get(document, ())], dtype=np.int64)
        allowed_n = self._index.masks.rows(view)
        rows = rows if allowed_n is None else rows[allowed_n[rows]]
        if k <= 0 or not len(rows):
            return []
        dense = self._index.vectors.rows(rows) @ self._embedder.embed([question])[0]
        lexical = self._index.lexical.scores(question, allowed_n)[rows]
        fused = combine(dense, lexical, self._dense_weight)
        order = np.lexsort((rows, -fused))[:k]
        chunks = self._index.chunks(rows[order].tolist())
        scores = zip(fused[order].tolist(), dense[order].tolist(), lexical[order].tolist(), strict=True)
        return [ScoredChunk(chunk, *three) for chunk, three in zip(chunks, scores, strict=True)]


class OracleSystem(PipelineSystem):
    """A system over a pipeline that reads what an `OracleRetriever` finds; the two are built together."""

    def __init__(
        self,
        fingerprint: str,
        build: Callable[[], tuple[Pipeline, OracleRetriever]],
        *,
        remote: bool = False,
        ahead: Callable[[], str] = str,
    ) -> None:
        super().__init__(fingerprint, self._build_both, remote=remote, ahead=ahead)
        self._build_oracle = build
        self._retriever: OracleRetriever | None = None

    def ask(self, question: Question) -> Reply:
        """Answer one question from its relevant documents."""
        self._hand_over(question)
        return super().ask(question)

    def retrieve(self, question: Question) -> list[ScoredChunk]:
        """Return the chunks of the relevant documents."""
        self._hand_over(question)
        return super().retrieve(question)

    def _hand_over(self, question: Question) -> None:
        assert self._retriever is not None, "prepare() comes first"
        self._retriever.relevant = question.relevant

    def _build_both(self) -> Pipeline:
        pipeline, self._retriever = self._build_oracle()
        return pipeline

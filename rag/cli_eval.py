"""`smallhold eval`: what opens a system of the evaluation, with the corpus indexed beside the run's results."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rag.abstain import load_abstention
from rag.build import (
    build_embedder,
    build_generator,
    build_pipeline,
    build_retriever,
    model_store,
    open_index,
)
from rag.config import Settings
from rag.console import stage_progress
from rag.datatypes import Answer, Message, ScoredChunk
from rag.errors import InvalidRequest
from rag.evidence import standalone_question
from rag.index import Index
from rag.models import ModelStore
from rag.pipeline import RagPipeline
from rag.prompt import load_prompt

if TYPE_CHECKING:
    from eval.qaset import QASet
    from eval.systems import OpenSystem, PipelineSystem, SystemRow
    from indexer.chunk import Chunker
    from rag.embedder import SentenceEmbedder
    from rag.protocols import Retriever


def open_systems(qaset: "QASet", settings: Settings, out: Path) -> "OpenSystem":
    """Return what opens a system for a QA set. Indexes of the corpus lie in `out/index`, one for each way to cut it.

    They belong to the run and go with its folder: no copy of the corpus stays elsewhere.
    """

    @contextmanager
    def open_system(row: "SystemRow") -> "Iterator[PipelineSystem]":
        from eval.systems import PipelineSystem

        own = row.apply(settings)
        with ExitStack() as opened:
            yield PipelineSystem(_fingerprint(row, own), lambda: _pipeline(row, own, qaset, out, opened))

    return open_system


class _RetrievalOnly:
    """The pipeline of a system without a language model."""

    def __init__(self, retriever: "Retriever", candidates: int) -> None:
        self._retriever = retriever
        self._candidates = candidates

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:  # noqa: ARG002 - the protocol
        raise InvalidRequest(f"{question!r} wants an answer, and this system has no language model")

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        return self._retriever.retrieve(standalone_question(question, history), self._candidates)


def _pipeline(
    row: "SystemRow", settings: Settings, qaset: "QASet", out: Path, opened: ExitStack
) -> "RagPipeline | _RetrievalOnly":
    store = model_store(settings)
    retriever = None
    if row.retrieval:
        embedder = build_embedder(settings, store)
        index = opened.enter_context(_corpus_index(qaset, settings, embedder, out))
        retriever = build_retriever(settings, index, embedder)
        embedder.embed(["warm"])  # importing torch is not part of the first question's seconds
        if not row.generator:
            return _RetrievalOnly(retriever, settings.retrieval.candidates)
    generator = opened.enter_context(closing(build_generator(settings, store)))
    return build_pipeline(settings, generator, retriever)


def _corpus_index(qaset: "QASet", settings: Settings, embedder: "SentenceEmbedder", out: Path) -> Index:
    from indexer.sync import build

    chunker = _chunker(settings, embedder)
    directory = out / "index" / _short(embedder.fingerprint, chunker.fingerprint)
    with stage_progress() as progress:
        build(directory, qaset.documents(), embedder=embedder, chunker=chunker, progress=progress)
    return open_index(settings, embedder, directory)


def _chunker(settings: Settings, embedder: "SentenceEmbedder") -> "Chunker":
    from indexer.chunk import Chunker

    return Chunker(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)


def _fingerprint(row: "SystemRow", settings: Settings) -> str:
    """Hash what answers depend on besides settings and corpus: weights, cutting, prompt and fitted abstention."""
    store = model_store(settings)
    parts = []
    if row.retrieval:
        embedder = build_embedder(settings, store)
        parts += [embedder.fingerprint, _chunker(settings, embedder).fingerprint]
    if row.generator:
        parts += [_weights(settings, store), load_prompt(settings.generator.prompt).model_dump_json()]
    if row.generator and row.retrieval and settings.abstention.enabled:
        parts.append(load_abstention(settings.abstention.file, settings.abstention.threshold).model_dump_json())
    return _short(*parts)


def _weights(settings: Settings, store: ModelStore) -> str:
    if settings.generator.endpoint:
        return f"{settings.generator.endpoint} {settings.generator.model}"
    if settings.generator.model.endswith(".gguf"):
        file = Path(settings.generator.model).expanduser()
        return f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" if file.is_file() else str(file)
    return store.locate(settings.generator.model).fingerprint


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

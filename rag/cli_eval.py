"""`smallhold eval`: what opens a system of the evaluation, with the corpus indexed beside the run's results.

Indexes of the corpus (one for each way to cut it) and the answers of language models are kept in the run's own folder,
and go with it, or where asked for in a folder that several runs share.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from rag.build import (
    ahead_prefix,
    build_abstention,
    build_ahead,
    build_cascade,
    build_deliberation,
    build_embedder,
    build_generator,
    build_pipeline,
    build_prompt,
    build_retriever,
    cascade_rule,
    generator_file,
    large_settings,
    local_model,
    model_store,
    open_index,
)
from rag.config import GeneratorSettings, Settings
from rag.console import stage_progress
from rag.datatypes import Answer, Message, ScoredChunk
from rag.engine.native import LlamaVocabulary
from rag.errors import ConfigError, InvalidRequest, Unavailable
from rag.followup import follow_up
from rag.index import Index
from rag.machine import free_bytes
from rag.manifest import GENERATIONS, read_current, read_manifest
from rag.models import ModelStore
from rag.remote import EndpointGenerator
from rag.warm import check_room, make_plan, warm

if TYPE_CHECKING:
    from eval.cache import AnswerCache
    from eval.oracle import OracleRetriever
    from eval.qaset import QASet
    from eval.replay import CachedGenerator, CachedPipeline
    from eval.system_row import SystemRow
    from eval.systems import OpenSystem, Pipeline, System
    from indexer.chunk import Chunker
    from rag.embedder import SentenceEmbedder
    from rag.protocols import Embedder, Retriever


# Settings that move no answer but its seconds: saved answers are those of the same ones.
_OF_SPEED = ("lookup", "prefix_mb", "prefix_disk_mb")


def open_systems(
    qaset: "QASet", settings: Settings, out: Path, cache: Path | None = None, index: Path | None = None
) -> "OpenSystem":
    """Return what opens a system for a QA set; indexes and answers are kept in `out`, or in the folder `cache`.

    With `index` the questions are put to that index directory instead of one of the set's own documents.
    """

    @contextmanager
    def open_system(row: "SystemRow") -> "Iterator[System]":
        from eval.recorded import RecordedSystem

        with ExitStack() as opened:
            if row.recorded:
                yield RecordedSystem(Path(row.recorded), lambda: _token_counter(settings, opened))
            else:
                yield _Assembly(row, row.apply(settings), qaset, out, cache, index, opened).system()

    return open_system


def _token_counter(settings: Settings, opened: ExitStack) -> Callable[[str], int]:
    """Return the count of the configured model's tokenizer, or an estimate where that model is not here."""
    from eval.recorded import estimate_tokens

    if settings.generator.endpoint:
        return estimate_tokens
    try:
        file = generator_file(settings, model_store(settings))
        return opened.enter_context(closing(LlamaVocabulary(file))).count
    except Unavailable:
        return estimate_tokens


class _RetrievalOnly:
    """The pipeline of a system without a language model."""

    def __init__(self, retriever: "Retriever", candidates: int) -> None:
        self._retriever = retriever
        self._candidates = candidates

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:  # noqa: ARG002 - the protocol
        raise InvalidRequest(f"{question!r} wants an answer, and this system has no language model")

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        return self._retriever.retrieve(follow_up(question, history).question, self._candidates)


@dataclass(frozen=True)
class _Assembly:
    """One system being put together; what is open while it answers is released by `opened`."""

    row: "SystemRow"
    settings: Settings
    qaset: "QASet"
    out: Path
    cache: Path | None
    index: Path | None
    opened: ExitStack

    def system(self) -> "System":
        """Return the system, nothing loaded yet."""
        from eval.oracle import OracleSystem
        from eval.systems import PipelineSystem

        remote = bool(self.settings.generator.endpoint or self.settings.cascade.endpoint)
        fingerprint = _fingerprint(self.row, self.settings, _published(self.index) if self.index else ())
        ahead = self._read_ahead if self.row.warm else str
        if self.row.oracle:
            return OracleSystem(fingerprint, self._oracle, remote=remote, ahead=ahead)
        return PipelineSystem(fingerprint, self._pipeline, remote=remote, ahead=ahead)

    def _read_ahead(self) -> str:
        """Read every passage of the corpus before the first question; return what that took."""
        if self.settings.evidence.mode == "joint" or self.settings.evidence.window:
            raise ConfigError(
                f"{self.row.name}: what is read ahead would not be used",
                hint='A `warm` system reads whole passages, each apart: evidence.mode "each" and no evidence.window.',
            )
        began = time.perf_counter()
        with ExitStack() as opened:
            index, _ = replace(self, opened=opened)._search()
            ahead = opened.enter_context(closing(build_ahead(self.settings, model_store(self.settings))))
            progress = opened.enter_context(stage_progress())
            chunks = index.manifest.counts.chunks
            prefix = ahead_prefix(self.settings, ahead)
            plan = make_plan(index.store.all_chunks(), prefix, ahead, lambda n: progress("counting", n, chunks))
            check_room(plan, ahead.files, free_bytes(ahead.files.folder))
            written = warm(plan, ahead, lambda n: progress("reading ahead", n, len(plan.missing)))
        return (
            f"{plan.states} passages were read before the first question, {len(plan.kept)} of them by an earlier run; "
            f"{(plan.bytes_kept + written) / 1e6:,.0f} MB of disk, {time.perf_counter() - began:,.0f} seconds that are "
            "in no question's"
        )

    def _pipeline(self) -> "Pipeline":
        if not self.row.retrieval:
            return self._answering(None)
        index, embedder = self._search()
        retriever = build_retriever(self.settings, index, embedder)
        if not self.row.generator:
            return _RetrievalOnly(retriever, self.settings.retrieval.candidates)
        return self._answering(retriever, embedder)

    def _oracle(self) -> "tuple[Pipeline, OracleRetriever]":
        from eval.oracle import OracleRetriever

        index, embedder = self._search()
        retriever = OracleRetriever(index, embedder, self.settings.retrieval.dense_weight)
        return self._answering(retriever, embedder), retriever

    def _answering(self, retriever: "Retriever | None", embedder: "Embedder | None" = None) -> "CachedPipeline":
        """Load the model, and put the saved answers before it."""
        from eval.cache import AnswerCache
        from eval.replay import CachedPipeline

        answers = self.opened.enter_context(closing(AnswerCache(self.cache or self.out)))
        generator = self._model(self.settings, answers, warm=self.row.warm)
        pipeline = build_pipeline(self.settings, generator, retriever, embedder)
        if not self.settings.cascade.generator:
            return CachedPipeline(pipeline, generator)
        # Loaded now, not when it is first needed: loading is part of no question's seconds.
        large = self._model(large_settings(self.settings), answers)
        return CachedPipeline(build_cascade(self.settings, pipeline, large, embedder), generator, large)

    def _model(self, settings: Settings, answers: "AnswerCache", *, warm: bool = False) -> "CachedGenerator":
        """Load the model of some settings behind the saved answers, those of a `warm` one apart for their seconds."""
        from eval.replay import CachedGenerator

        store = model_store(settings)
        model = self.opened.enter_context(closing(build_generator(settings, store)))
        identity = _model_identity(settings, store) + (" warm" if warm else "")
        if isinstance(model, EndpointGenerator):
            return CachedGenerator(model, answers, identity, waited=lambda: model.waited, here=False)
        return CachedGenerator(model, answers, identity, cpu=time.process_time)

    def _search(self) -> "tuple[Index, SentenceEmbedder]":
        """Index the corpus where that has not been done; return the open index and what embeds the questions."""
        from indexer.sync import build

        embedder = build_embedder(self.settings, model_store(self.settings))
        if self.index is not None:
            return self.opened.enter_context(open_index(self.settings, embedder, self.index)), embedder
        chunker = _chunker(self.settings, embedder)
        directory = self._index_directory(embedder, chunker)
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Runs that share a folder wait for the one that indexes the corpus.
        with FileLock(f"{directory}.lock"), stage_progress() as progress:
            build(directory, self.qaset.documents(), embedder=embedder, chunker=chunker, progress=progress)
        embedder.embed(["warm"])  # importing torch is not part of the first question's seconds
        return self.opened.enter_context(open_index(self.settings, embedder, directory)), embedder

    def _index_directory(self, embedder: "SentenceEmbedder", chunker: "Chunker") -> Path:
        """A run has one corpus, and a changed one is indexed by its changes; a shared folder has several."""
        parts = [embedder.fingerprint, chunker.fingerprint]
        if self.cache is not None:
            parts.append(self.qaset.corpus_digest)
        return (self.cache or self.out) / "index" / _short(*parts)


def _chunker(settings: Settings, embedder: "SentenceEmbedder") -> "Chunker":
    from indexer.chunk import Chunker

    return Chunker(embedder.tokenizer_file, settings.chunk.tokens, settings.chunk.overlap)


def _published(index: Path) -> tuple[str, ...]:
    """Return what an index directory holds at the moment: the checksums of its files. Raises `IndexMissing`."""
    manifest = read_manifest(index / GENERATIONS / read_current(index))
    files = [(name, info) for segment in manifest.segments for name, info in sorted(segment.files.items())]
    return tuple(f"{name} {info.sha256}" for name, info in [*files, ("deleted", manifest.deleted)])


def _fingerprint(row: "SystemRow", settings: Settings, index: Sequence[str]) -> str:
    """Hash what answers depend on besides settings and corpus: weights, cutting, prompt and fitted abstention."""
    store = model_store(settings)
    parts = list(index)
    if row.retrieval:
        embedder = build_embedder(settings, store)
        parts += [embedder.fingerprint, _chunker(settings, embedder).fingerprint]
    if row.generator:
        prompt = build_prompt(settings)
        parts += [_weights(settings, store), prompt.model_dump_json()]
        if row.retrieval:
            # Also where nothing is withheld: the rows tell how likely each answer is right.
            parts.append(build_abstention(settings, prompt).model_dump_json(exclude_none=True))
        if (deliberation := build_deliberation(settings, prompt)) is not None:
            parts.append(deliberation.wordings.model_dump_json())
        if settings.cascade.generator:
            own = large_settings(settings)
            second = build_prompt(own)
            estimate = build_abstention(own, second).model_dump_json(exclude_none=True)
            parts += [_weights(own, store), second.model_dump_json(), estimate, repr(cascade_rule(settings))]
    return _short(*parts)


def _model_identity(settings: Settings, store: ModelStore) -> str:
    """Name what answers a request, for the cache. A local model's seconds, and its last digits, are the machine's."""
    if settings.generator.endpoint:
        return _weights(settings, store)
    from eval.machine import describe_machine

    machine, wanted = describe_machine(), settings.generator
    parts = (machine["cpu"], machine["cores"], machine["versions"].get("llama-cpp-python"), wanted.threads)
    usual = GeneratorSettings()
    speed = [f"{key}={getattr(wanted, key)}" for key in _OF_SPEED if getattr(wanted, key) != getattr(usual, key)]
    # Reading in int8, unless it is forbidden, is decided by the machine; answers from before it was there differ.
    return _short(_weights(settings, store), *map(str, parts), *speed, *(["int8"] if wanted.int8 else []))


def _weights(settings: Settings, store: ModelStore) -> str:
    if settings.generator.endpoint:
        return f"{settings.generator.endpoint} {settings.generator.model}"
    if settings.generator.model.endswith(".gguf"):
        file = Path(settings.generator.model).expanduser()
        return f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" if file.is_file() else str(file)
    return local_model(settings, store).fingerprint


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

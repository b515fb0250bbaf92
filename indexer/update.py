"""From the documents that should be in an index to its next generation, doing only what is not done already."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from indexer import checkpoint
from indexer.compact import counts, infos, tidied
from indexer.embedding import IndexEmbedder, chunk_vectors
from indexer.merge import MergePolicy
from indexer.segment import Part, StoreWriter, finish_segment
from indexer.store import IndexWriter
from rag.catalog import DocumentEntry, Original
from rag.datatypes import Chunk, Document
from rag.docstore import DocumentStore
from rag.errors import UnreadableDocument, UnsupportedFormat
from rag.index import Generation
from rag.labels import Labeller, LabelRule
from rag.manifest import SEGMENTS, STORE, ChunkerInfo, EmbedderInfo
from rag.segment import Segment

Progress = Callable[[str, int, int], None]
"""Told the stage (`scan`, `read`, `embed` or `write`), how many of its steps are done, and how many there are."""


class DocumentChunker(Protocol):
    """Cuts documents into chunks. The fingerprint changes with everything that moves a cut."""

    @property
    def tokens(self) -> int:
        """The token budget of a chunk."""
        ...

    @property
    def overlap(self) -> int:
        """How many tokens a chunk may repeat of the one before."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides where a given document is cut."""
        ...

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the chunks of a document in reading order."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """A document that should be in the index, not read yet. `name` is what a report calls it.

    `read` raises `UnreadableDocument`. It is not called where id, uri and original are those of the old generation.
    """

    id: str
    uri: str
    original: Original
    name: str
    read: Callable[[], Document]

    def is_among(self, entries: Mapping[str, DocumentEntry]) -> bool:
        """Whether the index already holds this very document."""
        entry = entries.get(self.id)
        return entry is not None and (entry.uri, entry.original) == (self.uri, self.original)


@dataclass(slots=True)
class SyncReport:
    """What a run did. Documents are named by id; `failed` and `skipped` hold names of files with the reason.

    `generation` is the current one afterwards, `published` whether this run made it. Of `chunks` in the index,
    `embedded` texts went through the embedder in this run; `reused` chunks got their vector from earlier work or from
    an equal chunk. `unused_rules` are the patterns of label rules that decide on no document. `seconds` are by stage.
    """

    generation: str = ""
    published: bool = False
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0
    embedded: int = 0
    reused: int = 0
    unused_rules: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Update:
    """One run over an index: from the old generation, if there is one, to the next, if anything differs."""

    def __init__(
        self,
        writer: IndexWriter,
        old: Generation | None,
        *,
        embedder: IndexEmbedder,
        chunker: DocumentChunker,
        policy: MergePolicy,
        progress: Progress,
        report: SyncReport,
    ) -> None:
        self._writer = writer
        self._old = old
        self._embedder = embedder
        self._chunker = chunker
        self._policy = policy
        self._progress = progress
        self._report = report
        entries = old.entries() if old else []
        self._places = {entry.id: (segment, number) for segment, number, entry in entries}
        self._before = {entry.id: entry for _, _, entry in entries}
        self._same_cut = old is not None and old.manifest.chunker.fingerprint == chunker.fingerprint

    def run(
        self,
        sources: Sequence[Source],
        keep: Collection[str],
        roots: Mapping[str, str],
        labels: Sequence[LabelRule],
        check: Callable[[Collection[str]], None],
    ) -> None:
        """Make the index hold `sources` and the old documents `keep`, under the rules `labels`, and fill in the report.

        `check` is given the ids of the sources that can be had, before anything is published, and may raise.
        """
        report = self._report
        report.unchanged = [source.id for source in sources if source.is_among(self._before)]
        fresh = [source for source in sources if not source.is_among(self._before)]
        untouched = [*keep, *report.unchanged]
        with self._writer.guard(), self._writer.staging() as folder:
            name = self._writer.new_segment(folder)
            with report.timed("read"), StoreWriter(folder / SEGMENTS / name) as incoming:
                self._read(sorted(fresh, key=lambda source: source.id), incoming)
                check({*report.unchanged, *report.added, *report.changed})
                if self._old and not self._same_cut:
                    self._cut_again(self._old, untouched, incoming)
            wanted = {*untouched, *report.added, *report.changed}
            report.removed = [document_id for document_id in self._before if document_id not in wanted]
            if self._old and self._nothing_differs(self._old, roots, labels):
                report.generation = self._old.name
                report.chunks = report.reused = self._old.manifest.counts.chunks
                self._writer.confirm()
            else:
                kept = wanted.intersection(self._places) - {*report.changed} if self._same_cut else set()
                self._publish(folder, incoming, kept, roots, labels)
            report.unused_rules = _unused_rules(labels, wanted)
            checkpoint.discard(self._writer.directory)

    def _read(self, fresh: Sequence[Source], incoming: StoreWriter) -> None:
        report = self._report
        for done, source in enumerate(fresh):
            self._progress("read", done, len(fresh))
            try:
                document = _storable(source.read())
            except UnsupportedFormat as error:
                report.skipped.append((source.name, error.message))
            except UnreadableDocument as error:
                report.failed.append((source.name, error.message))
            else:
                incoming.add(document, self._chunker.chunk(document), source.original)
                (report.changed if source.id in self._before else report.added).append(source.id)
        self._progress("read", len(fresh), len(fresh))

    def _cut_again(self, old: Generation, document_ids: Sequence[str], incoming: StoreWriter) -> None:
        """Cut documents anew, from the text in the old generation, for a chunker that has changed."""
        for document_id in document_ids:
            segment, _ = self._places[document_id]
            found = old.segments[segment].store.document(document_id)
            assert found is not None
            incoming.add(found[1], self._chunker.chunk(found[1]), self._before[document_id].original)

    def _nothing_differs(self, old: Generation, roots: Mapping[str, str], labels: Sequence[LabelRule]) -> bool:
        report, manifest = self._report, old.manifest
        same_documents = not (report.added or report.changed or report.removed)
        return self._same_cut and same_documents and (manifest.roots, manifest.labels) == (dict(roots), tuple(labels))

    def _publish(
        self,
        folder: Path,
        incoming: StoreWriter,
        kept: Collection[str],
        roots: Mapping[str, str],
        labels: Sequence[LabelRule],
    ) -> None:
        """Publish the old documents that are `kept` and the incoming ones."""
        report = self._report
        parts = self._old_parts(kept)
        if incoming.documents:
            parts.append(Part(self._new_segment(folder, incoming), frozenset()))
        self._progress("write", 1, 3)
        with report.timed("write"):
            dimension = self._embedder.dimension
            parts = tidied(self._writer, folder, parts, self._policy, incoming.chunks, dimension)
            self._progress("write", 2, 3)
            found = counts(parts)
            report.generation = self._writer.publish(
                folder,
                segments=infos(parts),
                deleted={part.segment.info.name: part.deleted for part in parts},
                embedder=_embedder_info(self._embedder),
                chunker=_chunker_info(self._chunker),
                roots=roots,
                labels=labels,
                counts=found,
            )
            self._progress("write", 3, 3)
        report.published = True
        report.chunks = found.chunks
        report.reused = report.chunks - report.embedded

    def _old_parts(self, kept: Collection[str]) -> list[Part]:
        """The segments of the old generation, with what is deleted in the next one."""
        if not self._old:
            return []
        gone: list[set[int]] = [set(numbers) for numbers in self._old.deleted]
        for document_id, (segment, number) in self._places.items():
            if document_id not in kept:
                gone[segment].add(number)
        return [Part(segment, frozenset(numbers)) for segment, numbers in zip(self._old.segments, gone, strict=True)]

    def _new_segment(self, folder: Path, incoming: StoreWriter) -> Segment:
        """Complete the incoming segment: vectors and terms for its chunks."""
        report = self._report
        with closing(DocumentStore(incoming.folder / STORE)) as store, report.timed("embed"):
            vectors_nd, report.embedded = chunk_vectors(
                store, self._old, self._embedder, self._writer.directory, self._embed_progress
            )
        self._progress("write", 0, 3)
        with report.timed("write"):
            info = finish_segment(incoming, vectors_nd)
        return Segment(folder, info, self._embedder.dimension)

    def _embed_progress(self, done: int, total: int) -> None:
        self._progress("embed", done, total)


def _unused_rules(rules: Sequence[LabelRule], document_ids: Collection[str]) -> list[str]:
    """Return the patterns of the rules that decide on no document: often a slip, which leaves something unlabelled."""
    labeller = Labeller(rules)
    for document_id in document_ids if rules else ():
        labeller.labels(document_id)
    return labeller.unused


def _storable(document: Document) -> Document:
    """Refuse what no file can hold: JSON and file names let lone surrogates through, UTF-8 does not."""
    metadata = json.dumps(dict(document.metadata), ensure_ascii=False)
    try:
        f"{document.id}{document.uri}{document.title}{document.text}{metadata}".encode()
    except UnicodeEncodeError:
        raise UnreadableDocument("it holds characters that are no valid text (lone surrogates)") from None
    return document


def _embedder_info(embedder: IndexEmbedder) -> EmbedderInfo:
    return EmbedderInfo(name=embedder.name, fingerprint=embedder.fingerprint, dimension=embedder.dimension)


def _chunker_info(chunker: DocumentChunker) -> ChunkerInfo:
    return ChunkerInfo(tokens=chunker.tokens, overlap=chunker.overlap, fingerprint=chunker.fingerprint)

"""From the documents that should be in an index to its next generation, doing only what is not done already."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from indexer import checkpoint
from indexer.ahead import Ahead
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
from rag.manifest import SEGMENTS, STORE, ChunkerInfo, EmbedderInfo, Patterns
from rag.segment import Segment

Progress = Callable[[str, int, int], None]
"""Told the stage (`fetch`, `wait` for another writer, `scan`, `read`, `embed`, `write`), how many of its steps are done
and how many there are, 0 where nobody knows."""


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
    A `lasting` one that cannot be read leaves in the index what is there under its id; so does any whose failure may
    pass by itself, such as a file that may not be opened. `held` is what is there, where the index is built again.
    """

    id: str
    uri: str
    original: Original
    name: str
    read: Callable[[], Document]
    lasting: bool = False
    held: "Source | None" = None

    def is_among(self, entries: Mapping[str, DocumentEntry]) -> bool:
        """Whether the index already holds this very document."""
        entry = entries.get(self.id)
        return entry is not None and entry.uri == self.uri and entry.original.serves(self.original)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a generation says beside its documents: roots with their labels, the roots' patterns, the label rules."""

    roots: Mapping[str, str]
    patterns: Mapping[str, Patterns]
    labels: tuple[LabelRule, ...]


@dataclass(slots=True)
class SyncReport:
    """What a run did, or would do.

    Documents are named by id; `failed` and `skipped` hold names of files with the reason, `warnings` those of files
    of which something was left out, or that were read as something else. `renamed` are pairs of the id before and the
    one now, of documents made from the same bytes; they are neither in `added` nor in `removed`.
    `excluded` names what patterns leave out, a folder once for all that is in it. Of what `failed`, `untried` had
    failed before and has not changed since, `passing` may be had later though nothing changes; of `kept` the index
    still holds what it held before. `generation` is the current one afterwards, `published` whether this run made it.
    Of `chunks` in the index, `embedded` texts went through the embedder in this run; `reused` chunks got their vector
    from earlier work or from an equal chunk.
    `unused_rules` are the patterns of label rules that decide on no document. `seconds` are by stage.
    """

    generation: str = ""
    published: bool = False
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    untried: int = 0
    passing: int = 0
    kept: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
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
        terms: Terms,
        check: Callable[[Collection[str]], None],
    ) -> None:
        """Make the index hold `sources` and the old documents `keep`, under these terms, and fill in the report.

        `check` is given the ids of the sources that can be had, before anything is published, and may raise.
        """
        report = self._report
        fresh = fresh_sources(sources, self._before, report)
        with self._writer.guard(), self._writer.staging() as folder:
            name = self._writer.new_segment(folder)
            with report.timed("read"), StoreWriter(folder / SEGMENTS / name) as incoming:
                with Ahead(self._old, self._embedder, self._writer.directory) as ahead:
                    for source, document in read_sources(fresh, self._before, report, self._progress):
                        chunks = self._chunker.chunk(document)
                        incoming.add(document, chunks, source.original)
                        ahead.add(chunks)
                report.embedded = ahead.embedded
                check({*report.unchanged, *report.added, *report.changed})
                untouched = [*keep, *report.unchanged]
                if self._old and not self._same_cut:
                    self._cut_again(self._old, untouched, incoming)
            wanted = {*untouched, *report.added, *report.changed}
            report.removed = [document_id for document_id in self._before if document_id not in wanted]
            if self._old and self._nothing_differs(self._old, terms):
                report.generation = self._old.name
                report.chunks = report.reused = self._old.manifest.counts.chunks
                self._writer.confirm(self._old.name)
            else:
                kept = wanted.intersection(self._places) - {*report.changed} if self._same_cut else set()
                self._publish(folder, incoming, kept, terms)
            tell_renamed(report, fresh, self._before)
            report.unused_rules = unused_rules(terms.labels, wanted)
            checkpoint.discard(self._writer.directory)

    def _cut_again(self, old: Generation, document_ids: Sequence[str], incoming: StoreWriter) -> None:
        """Cut documents anew, from the text in the old generation, for a chunker that has changed."""
        for document_id in document_ids:
            segment, _ = self._places[document_id]
            found = old.segments[segment].store.document(document_id)
            assert found is not None
            incoming.add(found[1], self._chunker.chunk(found[1]), self._before[document_id].original)

    def _nothing_differs(self, old: Generation, terms: Terms) -> bool:
        report, manifest = self._report, old.manifest
        same_documents = not (report.added or report.changed or report.removed)
        before = Terms(manifest.roots, manifest.patterns, manifest.labels)
        return self._same_cut and same_documents and before == terms

    def _publish(self, folder: Path, incoming: StoreWriter, kept: Collection[str], terms: Terms) -> None:
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
                roots=terms.roots,
                patterns=terms.patterns,
                labels=terms.labels,
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
            vectors_nd, embedded = chunk_vectors(
                store, self._old, self._embedder, self._writer.directory, self._embed_progress
            )
            report.embedded += embedded
        self._progress("write", 0, 3)
        with report.timed("write"):
            info = finish_segment(incoming, vectors_nd)
        return Segment(folder, info, self._embedder.dimension)

    def _embed_progress(self, done: int, total: int) -> None:
        self._progress("embed", done, total)


def fresh_sources(sources: Sequence[Source], before: Mapping[str, DocumentEntry], report: SyncReport) -> list[Source]:
    """Return by id the sources that must be read, and note the others as unchanged."""
    report.unchanged = [source.id for source in sources if source.is_among(before)]
    return sorted((source for source in sources if not source.is_among(before)), key=lambda source: source.id)


def read_sources(
    fresh: Sequence[Source], before: Mapping[str, DocumentEntry], report: SyncReport, progress: Progress
) -> Iterator[tuple[Source, Document]]:
    """Read one source after the other, noting each as added or changed, or why it cannot be had."""
    for done, source in enumerate(fresh):
        progress("read", done, len(fresh))
        try:
            document = _storable(source.read())
        except UnsupportedFormat as error:
            report.skipped.append((source.name, error.message))
        except UnreadableDocument as error:
            report.failed.append((source.name, error.message))
            report.passing += error.passing
            if not (source.lasting or error.passing):
                continue
            if source.id in before:
                report.unchanged.append(source.id)
                report.kept += 1
            elif source.held is not None:
                yield from _held(source.held, report)
        else:
            yield source, document
            if source.original.loader and (warning := document.metadata.get("warning")):
                report.warnings.append((source.name, str(warning)))
            (report.changed if source.id in before else report.added).append(source.id)
    progress("read", len(fresh), len(fresh))


def _held(source: Source, report: SyncReport) -> Iterator[tuple[Source, Document]]:
    """Take what an index that is built again held of a document."""
    with suppress(UnreadableDocument):
        yield source, source.read()
        report.added.append(source.id)
        report.kept += 1


def tell_renamed(report: SyncReport, fresh: Sequence[Source], before: Mapping[str, DocumentEntry]) -> None:
    """Note as renamed what was removed and came back under another id, with the same bytes."""
    gone: dict[tuple[str, int], list[str]] = {}
    for document_id in sorted(report.removed, reverse=True):
        original = before[document_id].original
        gone.setdefault((original.sha256, original.bytes), []).append(document_id)
    contents = {source.id: (source.original.sha256, source.original.bytes) for source in fresh}
    for document_id in report.added:
        if names := gone.get(contents[document_id]):
            report.renamed.append((names.pop(), document_id))
    old, new = {name for name, _ in report.renamed}, {name for _, name in report.renamed}
    report.removed = [document_id for document_id in report.removed if document_id not in old]
    report.added = [document_id for document_id in report.added if document_id not in new]


def unused_rules(rules: Sequence[LabelRule], document_ids: Collection[str]) -> list[str]:
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

"""Bringing an index directory up to date with folders of files, or with a set of records.

An index mirrors its sources: after a run it holds what could be read in that run. A file that could not be read is
reported and is not in the index, also where an earlier version of it was. Documents are recognized by id and checksum,
vectors by the text that was embedded, so that neither reading nor embedding is done twice.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from indexer import describe
from indexer.embedding import IndexEmbedder
from indexer.load import Contents, Member, member_address
from indexer.merge import MERGE_POLICY, MergePolicy
from indexer.scan import FoundFile, RootPlan, Scan, find_files, plan_roots, printable
from indexer.stamps import Stamps, discard
from indexer.store import IndexWriter
from indexer.update import DocumentChunker, Progress, Source, SyncReport, Update
from rag.catalog import Original
from rag.datatypes import Document
from rag.errors import DataError, IndexMissing, InvalidRequest, UnreadableDocument
from rag.index import Generation
from rag.labels import LabelRule
from rag.manifest import read_label_rules, read_roots

_OTHER_DIR = "Name another folder for the index with --index."


class DocumentLoader(Protocol):
    """Reads files. The version changes with everything that changes what a file is read as."""

    @property
    def version(self) -> str:
        """What the index remembers to tell whether files must be read again."""
        ...

    @property
    def suffixes(self) -> frozenset[str]:
        """The suffixes of files that can be read, in lower case, with the dot."""
        ...

    def load_file(self, path: Path, document_id: str, uri: str) -> Document:
        """Read a file. Raises `UnreadableDocument`, also where the file cannot be opened."""
        ...

    def unpack(self, path: Path) -> Contents | None:
        """Return the documents in an archive, None where the file is none. Raises `UnreadableDocument`."""
        ...


def sync(
    index_dir: Path,
    roots: Sequence[Path],
    *,
    embedder: IndexEmbedder,
    chunker: DocumentChunker,
    loader: DocumentLoader,
    rebuild: bool = False,
    remove: Sequence[Path] = (),
    allow_empty: bool = False,
    labels: Sequence[LabelRule] | None = None,
    policy: MergePolicy = MERGE_POLICY,
    progress: Progress | None = None,
) -> SyncReport:
    """Add `roots` (folders or files) to an index, or bring them up to date; drop the roots in `remove`.

    Other roots keep their documents. With neither given, all known roots are brought up to date. `rebuild` reads and
    embeds everything anew, all known roots included, whatever state the index is in. A document's id is its path
    relative to its root, after the root's label where it has one (`scan.plan_roots`). `labels` are rules for who may
    see which document; None leaves those that the index has.

    Raises `InvalidRequest` for a root that does not exist, that lies in the index directory, or that had documents
    and now has none unless `allow_empty`; `IndexLocked`, `IndexDamaged`, `IndexIncompatible`; `Unavailable` where the
    disk refuses. In each case the old generation stays.
    """
    report, tell = SyncReport(), progress or _silent
    with IndexWriter(index_dir) as writer, _old_generation(index_dir, embedder, rebuild) as old:
        if old and old.manifest.counts.documents and not old.manifest.roots:
            raise InvalidRequest(f"the index in {index_dir} was built from records, not from files", hint=_OTHER_DIR)
        known = old.manifest.roots if old else read_roots(index_dir) if rebuild else {}
        before = {entry.id: entry.original.root for _, _, entry in old.entries()} if old else {}
        rules = _rules(index_dir, old, labels)
        plan = _plan(index_dir, known, before, roots, remove, rebuild)
        keep = {id_: root for id_, root in before.items() if root in plan.labels and root not in plan.sync}
        if rebuild:
            discard(index_dir)
        with report.timed("scan"):
            scan = find_files(plan, loader.suffixes, index_dir.resolve(), keep)
            stamps = Stamps(index_dir)
            sources = _file_sources(scan, loader, stamps, report, tell)
            with writer.guard():
                stamps.save([root for root in plan.labels if root not in plan.sync])
        had_documents = {*before.values()} if old else {*known}
        Update(writer, old, embedder=embedder, chunker=chunker, policy=policy, progress=tell, report=report).run(
            sources,
            keep,
            plan.labels,
            rules,
            _accept if allow_empty else partial(_refuse_emptied, plan, had_documents, sources),
        )
    return report


def build(
    index_dir: Path,
    documents: Iterable[Document],
    *,
    embedder: IndexEmbedder,
    chunker: DocumentChunker,
    rebuild: bool = False,
    labels: Sequence[LabelRule] | None = None,
    policy: MergePolicy = MERGE_POLICY,
    progress: Progress | None = None,
) -> SyncReport:
    """Make an index hold exactly these records, such as the corpus of a QA set. Equal records cost nothing again.

    `labels` as in `sync`.
    Raises `DataError` where an id occurs twice, `InvalidRequest` for an index of files, and what `sync` raises.
    """
    report = SyncReport()
    with IndexWriter(index_dir) as writer, _old_generation(index_dir, embedder, rebuild) as old:
        if old and old.manifest.roots:
            raise InvalidRequest(f"the index in {index_dir} was built from files, not from records", hint=_OTHER_DIR)
        with report.timed("scan"):
            sources = _record_sources(documents)
        tell = progress or _silent
        Update(writer, old, embedder=embedder, chunker=chunker, policy=policy, progress=tell, report=report).run(
            sources, (), {}, _rules(index_dir, old, labels), _accept
        )
    return report


@contextmanager
def _old_generation(index_dir: Path, embedder: IndexEmbedder, rebuild: bool) -> Iterator[Generation | None]:
    """Open the generation to start from; None for a new index, and for one that is built again whatever its state."""
    try:
        old = None if rebuild else Generation.open(index_dir, embedder.fingerprint)
    except IndexMissing:
        old = None
    try:
        yield old
    finally:
        if old:
            old.close()


def _rules(index_dir: Path, old: Generation | None, given: Sequence[LabelRule] | None) -> Sequence[LabelRule]:
    """Return the label rules from now on. Raises `InvalidRequest` where none are given and the old ones are lost."""
    if given is not None:
        return given
    return old.manifest.labels if old else read_label_rules(index_dir)


def _plan(
    index_dir: Path,
    known: Mapping[str, str],
    before: Collection[str],
    roots: Sequence[Path],
    remove: Sequence[Path],
    rebuild: bool,
) -> RootPlan:
    for root in roots:
        if root.resolve().is_relative_to(index_dir.resolve()):
            raise InvalidRequest(f"{root} lies in the index directory {index_dir}", hint=_OTHER_DIR)
    plan = plan_roots(known, roots, remove, taken={document_id.partition("/")[0] for document_id in before})
    if rebuild:
        return plan_roots(plan.labels, [Path(root) for root in plan.labels])
    return plan


def _file_sources(
    scan: Scan, loader: DocumentLoader, stamps: Stamps, report: SyncReport, progress: Progress
) -> list[Source]:
    report.skipped += scan.skipped
    report.failed += scan.failed
    version = f"{loader.version}, described {describe.VERSION}"
    sources = []
    for done, file in enumerate(scan.files):
        progress("scan", done, len(scan.files))
        try:
            contents = loader.unpack(file.path)
            if contents is None:
                sources.append(_file_source(file, loader, stamps, version))
            else:
                sources += _member_sources(file, contents, version)
                report.skipped += [(f"{printable(file.path)}/{name}", reason) for name, reason in contents.skipped]
        except UnreadableDocument as error:
            report.failed.append((printable(file.path), error.message))
        except OSError as error:
            report.failed.append((printable(file.path), error.strerror or "it cannot be read"))
    progress("scan", len(scan.files), len(scan.files))
    return sources


def _file_source(file: FoundFile, loader: DocumentLoader, stamps: Stamps, version: str) -> Source:
    # The checksum is taken before the file is read: what changes in between is found changed by the next run.
    found = stamps.describe(file.path)
    uri = file.path.as_uri()
    original = Original(file.root, found.sha256, found.bytes, version)
    read = partial(_read, loader, file, uri)
    return Source(file.document_id, uri, original, printable(file.path), read)


def _read(loader: DocumentLoader, file: FoundFile, uri: str) -> Document:
    return describe.described(loader.load_file(file.path, file.document_id, uri), file.path)


def _member_sources(file: FoundFile, contents: Contents, version: str) -> Iterator[Source]:
    """The documents in an archive: their ids are their paths in it, after its own."""
    for member in contents.members:
        document_id, uri = member_address(file.document_id, file.path.as_uri(), member.name)
        original = Original(file.root, member.sha256, member.bytes, version)
        name = f"{printable(file.path)}/{member.name}"
        yield Source(document_id, uri, original, name, partial(_read_member, member, document_id, uri, file.path))


def _read_member(member: Member, document_id: str, uri: str, archive: Path) -> Document:
    return describe.described(member.load(document_id, uri), archive)


def _record_sources(documents: Iterable[Document]) -> list[Source]:
    sources: dict[str, Source] = {}
    for document in documents:
        if document.id in sources:
            raise DataError(f"two documents have the id {document.id!r}", hint="Give each its own.")
        content = json.dumps([document.title, document.text, dict(document.metadata)], sort_keys=True).encode()
        original = Original("", sha256(content).hexdigest(), len(content), "")
        sources[document.id] = Source(document.id, document.uri, original, document.id, partial(_same, document))
    return list(sources.values())


def _refuse_emptied(
    plan: RootPlan, had_documents: Collection[str], sources: Sequence[Source], readable: Collection[str]
) -> None:
    """An unmounted disk looks like an empty folder and must not empty the index."""
    have_documents = {source.original.root for source in sources if source.id in readable}
    for root in plan.sync:
        if root in had_documents and root not in have_documents:
            raise InvalidRequest(
                f"{root} had documents and now has none that can be read; the index was left as it is",
                hint="Is its disk mounted? If it is meant to be empty: smallhold index --allow-empty, or --remove it.",
            )


def _accept(readable: Collection[str]) -> None:
    del readable


def _same(document: Document) -> Document:
    return document


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total

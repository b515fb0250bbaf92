"""Bringing an index directory up to date with folders of files, or with a set of records.

An index mirrors its sources: after a run it holds what could be read in that run. A file that could not be read is
reported and is not in the index, also where an earlier version of it was. Documents are recognized by id and checksum,
vectors by the text that was embedded, so that neither reading nor embedding is done twice.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from indexer.embedding import IndexEmbedder
from indexer.fetch import Fetcher
from indexer.letters import DeadLetters
from indexer.merge import MERGE_POLICY, MergePolicy
from indexer.scan import URLS, RootPlan, find_files, is_path, plan_patterns, plan_roots
from indexer.sources import DocumentLoader, FileSources, record_sources
from indexer.stamps import Stamps
from indexer.store import IndexWriter, refuse_foreign
from indexer.stream import Stream
from indexer.update import (
    DocumentChunker,
    Progress,
    Source,
    SyncReport,
    Terms,
    Update,
    fresh_sources,
    read_sources,
    tell_renamed,
    unused_rules,
)
from indexer.urls import Pages, UrlList, UrlSources
from rag.datatypes import Document
from rag.docstore import DocumentStore
from rag.errors import IndexMissing, InvalidRequest, Unavailable
from rag.index import Generation
from rag.labels import LabelRule
from rag.manifest import Patterns, describe_file, read_label_rules, read_patterns, read_roots

_OTHER_DIR = "Name another folder for the index with --index."


def sync(
    index_dir: Path,
    roots: Sequence[Path],
    *,
    embedder: IndexEmbedder,
    chunker: DocumentChunker,
    loader: DocumentLoader,
    rebuild: bool = False,
    remove: Sequence[Path | str] = (),
    stream: Stream | None = None,
    lists: Sequence[Path] = (),
    fetcher: Fetcher | None = None,
    allow_empty: bool = False,
    labels: Sequence[LabelRule] | None = None,
    patterns: Patterns | None = None,
    retry: bool = False,
    dry_run: bool = False,
    policy: MergePolicy = MERGE_POLICY,
    progress: Progress | None = None,
) -> SyncReport:
    """Add `roots` (folders or files) to an index, or bring them up to date; drop the roots in `remove`.

    The documents of a `stream` take the place of those that its source had before. `lists` are files of URLs, whose
    pages the `fetcher` gets; without one nothing is fetched. Other roots keep their documents. With none of these
    given, all known files and folders are brought up to date, and with a fetcher all known lists. `rebuild` reads and
    embeds everything anew, all known roots included, whatever state the index is in; of pages that are not fetched,
    what the index holds. A document's id is its path relative to its root, after the root's label where it has one
    (`scan.plan_roots`), or its URL. `labels` are rules for who may see which document; None leaves those that the index
    has. `patterns` say what of the roots that are brought up to date is indexed, from now on; None leaves those that
    each of them has. What could not be read is tried again when it has changed, or with `retry`. `dry_run` scans,
    fetches and reads, tells what would be done, and writes nothing.

    Raises `InvalidRequest` for a root that does not exist, that lies in the index directory, or that had documents
    and now has none unless `allow_empty`; `DataError` for a pattern that cannot be understood; `IndexLocked`,
    `IndexDamaged`, `IndexIncompatible`; `Unavailable` where the disk refuses. In each case the old generation stays.
    """
    report, tell = SyncReport(), progress or _silent
    with (
        _writer(index_dir, dry_run) as writer,
        _old_generation(index_dir, embedder, rebuild) as old,
        ExitStack() as opened,
    ):
        if old and old.manifest.counts.documents and not old.manifest.roots:
            raise InvalidRequest(f"the index in {index_dir} was built from records, not from files", hint=_OTHER_DIR)
        known = old.manifest.roots if old else read_roots(index_dir) if rebuild else {}
        before = {entry.id: entry.original.root for _, _, entry in old.entries()} if old else {}
        everything = not (roots or remove or stream or lists)
        pages = _url_lists(lists, known.keys() - {*map(str, remove)} if fetcher and (everything or rebuild) else ())
        if everything and pages:
            roots = [Path(root) for root in known if is_path(root)]
        others = {listed.root: "" for listed in pages} | ({stream.root: stream.label} if stream else {})
        plan = _plan(index_dir, known, before, roots, remove, others)
        known_patterns = old.manifest.patterns if old else read_patterns(index_dir) if rebuild else {}
        plan = plan_patterns(plan, known_patterns, patterns, remove)
        if rebuild:
            plan = _with_all_paths(plan)
        terms = Terms(plan.labels, plan.patterns, _rules(index_dir, old, labels))
        keep = {id_: root for id_, root in before.items() if root in plan.labels and root not in plan.sync}
        stamps, letters = Stamps(index_dir, empty=rebuild), DeadLetters(index_dir, retry=retry or rebuild)
        untouched = [root for root in plan.labels if root not in plan.sync]
        with report.timed("scan"):
            scan = find_files(plan, loader.suffixes, index_dir.resolve(), keep)
            sources = FileSources(loader, stamps.describe, letters, report).of(scan, tell)
            if stream:
                sources += _stream_sources(stream, plan.labels[stream.root], {*keep, *(s.id for s in sources)}, report)
        if rebuild and (lasting := [root for root in untouched if not is_path(root)]):
            sources += _stored_sources(index_dir, lasting, opened)
        answers = Pages(index_dir) if rebuild else Pages.of(index_dir)
        if pages and fetcher:
            folder = Path(opened.enter_context(TemporaryDirectory(prefix="smallhold-")))
            files = FileSources(loader, describe_file, letters, report)
            fetched = UrlSources(fetcher, files, answers, letters, report, folder)
            stored = old or _stored_generation(index_dir, opened)
            with report.timed("fetch"):
                for listed in pages:
                    taken = {*keep, *(source.id for source in sources)}
                    sources += fetched.of(listed, _held(stored, listed.root), loader.suffixes, taken, tell)
        had_documents = {*before.values()} if old else {*known}
        check = _accept if allow_empty else partial(_refuse_emptied, plan, had_documents, sources)
        if writer is None:
            _foresee(old, sources, keep, terms, check, report, tell)
            return report
        with writer.guard():
            stamps.save(untouched)
        Update(writer, old, embedder=embedder, chunker=chunker, policy=policy, progress=tell, report=report).run(
            sources, keep, terms, check
        )
        with writer.guard():
            letters.save(report.failed, plan.sync, untouched)
            answers.save(untouched)
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
            sources = record_sources(documents)
        tell = progress or _silent
        Update(writer, old, embedder=embedder, chunker=chunker, policy=policy, progress=tell, report=report).run(
            sources, (), Terms({}, {}, _rules(index_dir, old, labels)), _accept
        )
    return report


def _foresee(
    old: Generation | None,
    sources: Sequence[Source],
    keep: Collection[str],
    terms: Terms,
    check: Callable[[Collection[str]], None],
    report: SyncReport,
    progress: Progress,
) -> None:
    """Fill in the report as a run over these sources would, up to embedding and writing."""
    before = {entry.id: entry for _, _, entry in old.entries()} if old else {}
    fresh = fresh_sources(sources, before, report)
    with report.timed("read"):
        for _ in read_sources(fresh, before, report, progress):
            pass
    check({*report.unchanged, *report.added, *report.changed})
    wanted = {*keep, *report.unchanged, *report.added, *report.changed}
    report.removed = [document_id for document_id in before if document_id not in wanted]
    tell_renamed(report, fresh, before)
    report.unused_rules = unused_rules(terms.labels, wanted)
    report.generation = old.name if old else ""


def _writer(index_dir: Path, dry_run: bool) -> AbstractContextManager[IndexWriter | None]:
    """The right to write the index; None for a run that only looks, which neither waits for a writer nor stops one."""
    if not dry_run:
        return IndexWriter(index_dir)
    refuse_foreign(index_dir)
    return nullcontext()


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


def _rules(index_dir: Path, old: Generation | None, given: Sequence[LabelRule] | None) -> tuple[LabelRule, ...]:
    """Return the label rules from now on. Raises `InvalidRequest` where none are given and the old ones are lost."""
    if given is not None:
        return tuple(given)
    return old.manifest.labels if old else read_label_rules(index_dir)


def _plan(
    index_dir: Path,
    known: Mapping[str, str],
    before: Collection[str],
    roots: Sequence[Path],
    remove: Sequence[Path | str],
    others: Mapping[str, str],
) -> RootPlan:
    for root in roots:
        if root.resolve().is_relative_to(index_dir.resolve()):
            raise InvalidRequest(f"{root} lies in the index directory {index_dir}", hint=_OTHER_DIR)
    taken = {document_id.partition("/")[0] for document_id in before}
    return plan_roots(known, roots, remove, taken, others)


def _url_lists(given: Sequence[Path], known: Iterable[str]) -> list[UrlList]:
    """Read the lists that were given, and those of the `known` roots."""
    paths = [*given, *(Path(root.removeprefix(URLS)) for root in sorted(known) if root.startswith(URLS))]
    return [UrlList.read(path) for path in dict.fromkeys(path.resolve() for path in paths)]


def _with_all_paths(plan: RootPlan) -> RootPlan:
    """The plan of a rebuild: all files and folders are looked through, beside what the run was given."""
    paths = [Path(root) for root in plan.labels if is_path(root)]
    found = plan_roots(plan.labels, paths).sync if paths else []
    return replace(plan, sync=[*found, *(root for root in plan.sync if not is_path(root))])


def _stream_sources(stream: Stream, label: str, taken: Collection[str], report: SyncReport) -> Iterator[Source]:
    report.failed += stream.failed
    for source in stream.sources(label):
        if source.id in taken:
            report.failed.append((source.name, f"its id {source.id!r} belongs to a document of another source"))
        else:
            yield source


def _stored_sources(index_dir: Path, roots: Collection[str], opened: ExitStack) -> Iterator[Source]:
    """The documents of streams that a rebuild is not given again: their texts are in the index alone."""
    hint = f"Send it again in the same run, or give it up: --remove {min(roots)}"
    try:
        old = opened.enter_context(Generation.open(index_dir))
        entries = [(segment, entry) for segment, _, entry in old.entries() if entry.original.root in roots]
        stores = {segment: old.segments[segment].store for segment, _ in entries}
    except Unavailable as error:
        raise InvalidRequest(f"{min(roots)} cannot be built again: {error.message}", hint=hint) from error
    for segment, entry in entries:
        yield Source(entry.id, entry.uri, entry.original, entry.id, partial(_stored, stores[segment], entry.id))


def _stored_generation(index_dir: Path, opened: ExitStack) -> Generation | None:
    """What a rebuild can still read of the old index; None where it cannot."""
    with suppress(Unavailable):
        return opened.enter_context(Generation.open(index_dir))
    return None


def _held(generation: Generation | None, root: str) -> dict[str, list[Source]]:
    """What an index holds of a list's pages, by URL: of an archive each of its documents."""
    held: dict[str, list[Source]] = {}
    for segment, _, entry in generation.entries() if generation else ():
        if generation and entry.original.root == root:
            read = partial(_stored, generation.segments[segment].store, entry.id)
            source = Source(entry.id, entry.uri, entry.original, entry.id, read)
            held.setdefault(entry.uri.partition("#")[0], []).append(source)
    return held


def _stored(store: DocumentStore, document_id: str) -> Document:
    found = store.document(document_id)
    assert found is not None
    return found[1]


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


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total

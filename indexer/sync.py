"""Bringing an index directory up to date with folders of files, or with a set of records.

An index mirrors its sources: after a run it holds what could be read in that run. A file that no parser can read is
reported and is not in the index, also where an earlier version of it was. What could not even be looked at, such as a
folder whose permissions were withdrawn, is reported too, and what the index holds of it stays: it was not deleted.
Documents are recognized by id and checksum, vectors by the text that was embedded, so that neither reading nor
embedding is done twice.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import gettempdir

from indexer.embedding import IndexEmbedder
from indexer.fetch import Fetcher
from indexer.letters import DeadLetters
from indexer.merge import MERGE_POLICY, MergePolicy
from indexer.mounts import note_mounts
from indexer.plan import OTHER_DIR, Given, plan_run
from indexer.scan import RootPlan, find_files, is_path
from indexer.scratch import scratch
from indexer.sources import DocumentLoader, FileSources, distinct, record_sources, source_version
from indexer.stamps import Stamps
from indexer.store import IndexWriter, refuse_foreign
from indexer.stored import held_below, held_pages, held_sources, stored_generation, stored_sources
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
from indexer.urls import Fetched, Pages, UrlSources, to_ask
from rag.datatypes import Document
from rag.errors import IndexMissing, InvalidRequest, SourceEmptied, Unavailable
from rag.index import Generation
from rag.labels import LabelRule
from rag.manifest import CURRENT, Patterns, describe_file, read_label_rules, read_roots

PATIENCE_SECONDS = 600.0  # for another writer, once pages have been fetched


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

    Raises `InvalidRequest` for a root that does not exist or lies in the index directory; `SourceEmptied` for one that
    had documents and now has none, unless `allow_empty`; `DataError` for a pattern that cannot be understood;
    `IndexLocked`, `IndexDamaged`, `IndexIncompatible`; `Unavailable` where the disk refuses. In each case the old
    generation stays.
    """
    report, tell = SyncReport(), progress or _silent
    given = Given(index_dir, roots, remove, stream, lists, patterns, rebuild, dry_run, fetching=fetcher is not None)
    with ExitStack() as opened:
        fetched = _fetch(given, fetcher, embedder, loader, report, tell, opened) if fetcher else Fetched()
        writer = opened.enter_context(_writer(given, fetched, tell))
        old = opened.enter_context(_old_generation(index_dir, embedder, rebuild))
        run = plan_run(given, old, fetched.roots)
        plan, keep = run.roots, run.kept
        terms = Terms(plan.labels, plan.patterns, _rules(index_dir, old, labels))
        stamps, letters = Stamps(index_dir, empty=rebuild), DeadLetters(index_dir, retry=retry or rebuild)
        disks = {root: _disk(root) for root in filter(is_path, plan.sync)}
        lasting = [root for root in run.untouched if not is_path(root)] if rebuild else []
        stored_streams = list(stored_sources(index_dir, lasting, opened)) if lasting else []
        owners = keep | {source.id: source.original.root for source in stored_streams}
        with report.timed("scan"):
            scan = find_files(plan, loader.suffixes, index_dir.resolve(), owners, run.before)
            note_mounts(scan, plan, stamps, run.before, allow_empty=allow_empty)
            files = FileSources(loader, stamps.describe, letters, report, run.before)
            sources = distinct(files.of(scan, tell), owners, report)
            unseen = {*scan.unseen, *files.unseen}
            stored = old or (stored_generation(index_dir, opened) if rebuild else None)
            taken = {*owners, *(source.id for source in sources)}
            held = held_below(stored, unseen, taken, plan)
            report.kept += len(held)
            report.passing += len(unseen)
            sources += chain.from_iterable(held.values())
            if stream:
                taken = {*owners, *(source.id for source in sources)}
                sources += _stream_sources(stream, plan.labels[stream.root], taken, report)
        sources += stored_streams
        answers = Pages(index_dir) if rebuild else Pages.of(index_dir)
        if run.lists:
            pages = UrlSources(
                fetched, FileSources(loader, describe_file, letters, report, run.before), answers, letters, report
            )
            for listed in run.lists:
                taken = {*keep, *(source.id for source in sources)}
                sources += pages.of(listed, held_pages(stored, listed.root), taken)
        if rebuild:
            held_ids = {(source.original.root, source.id): source for source in held_sources(stored)}
            sources = [replace(s, held=held_ids.get((s.original.root, s.id))) for s in sources]
        had_documents = {*run.before.values()} if old else {*read_roots(index_dir)} if rebuild else set()

        def check(readable: Collection[str]) -> None:
            _refuse_gone(disks)
            if not allow_empty:
                _refuse_emptied(plan, had_documents, sources, readable)

        if writer is None:
            _foresee(old, sources, keep, terms, check, report, tell)
            return report
        with writer.guard():
            stamps.save(run.untouched)
        Update(writer, old, embedder=embedder, chunker=chunker, policy=policy, progress=tell, report=report).run(
            sources, keep, terms, check
        )
        with writer.guard():
            letters.save(report.failed, plan.sync, run.untouched)
            answers.save(run.untouched)
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
            raise InvalidRequest(f"the index in {index_dir} was built from files, not from records", hint=OTHER_DIR)
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


def _fetch(
    given: Given,
    fetcher: Fetcher,
    embedder: IndexEmbedder,
    loader: DocumentLoader,
    report: SyncReport,
    tell: Progress,
    opened: ExitStack,
) -> Fetched:
    """Fetch the pages of a run into files that stay until `opened` is closed, while others may write the index.

    What would stop the run is told before anything is fetched.
    """
    if not given.has_lists():
        return Fetched()
    with (
        _writer(given, Fetched(), tell),
        _old_generation(given.index_dir, embedder, given.rebuild) as old,
    ):
        run = plan_run(given, old)
        pages = Pages(given.index_dir) if given.rebuild else Pages.of(given.index_dir)
        held = {listed.root: held_pages(old, listed.root) for listed in run.lists}
        asked = to_ask(run.lists, held, run.kept, pages, source_version(loader))
    folder = opened.enter_context(scratch(Path(gettempdir()) if given.dry_run else given.index_dir))
    with report.timed("fetch"):
        replies = fetcher.fetch(
            list(asked.items()), folder, loader.suffixes, lambda done: tell("fetch", done, len(asked))
        )
    return Fetched(frozenset(held), dict(zip(asked, replies, strict=True)))


def _writer(given: Given, fetched: Fetched, tell: Progress) -> AbstractContextManager[IndexWriter | None]:
    """The right to write the index; None for a run that only looks, which neither waits for a writer nor stops one.

    Where pages have been fetched another writer is waited for: they would have to be fetched again.
    """
    if not given.dry_run:
        wait = PATIENCE_SECONDS if fetched.roots else 0.0
        return IndexWriter(given.index_dir, wait=wait, waiting=lambda: tell("wait", 0, 0))
    try:
        refuse_foreign(given.index_dir)
    except OSError as error:
        raise Unavailable(
            f"the index in {given.index_dir} cannot be looked at: {error.strerror or error}",
            hint="Run it as a user who may read that folder, or name another with --index.",
        ) from error
    return nullcontext()


@contextmanager
def _old_generation(index_dir: Path, embedder: IndexEmbedder, rebuild: bool) -> Iterator[Generation | None]:
    """Open the generation to start from; None for a new index, and for one that is built again whatever its state.

    Where `CURRENT` is lost it is the newest: without it the run would drop what other roots and streams have.
    """
    old: Generation | None = None
    with suppress(IndexMissing):
        if not rebuild and (index_dir / CURRENT).exists():
            old = Generation.open(index_dir, embedder.fingerprint)
        elif not rebuild:
            old = Generation.latest(index_dir, embedder.fingerprint)
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


def _stream_sources(stream: Stream, label: str, taken: Collection[str], report: SyncReport) -> Iterator[Source]:
    report.failed += stream.failed
    for source in stream.sources(label):
        if source.id in taken:
            report.failed.append((source.name, f"its id {source.id!r} belongs to a document of another source"))
        else:
            yield source


def _disk(root: str) -> int | None:
    """On which file system a root is; None where it is not there, or cannot be looked at."""
    try:
        return Path(root).stat().st_dev
    except OSError:
        return None


def _refuse_gone(disks: Mapping[str, int | None]) -> None:
    """What could not be read because its disk went away has not been deleted."""
    for root, disk in disks.items():
        if _disk(root) != disk:
            raise SourceEmptied(
                f"{root} went away while it was being read; the index was left as it is",
                hint="Is its disk mounted? Then run it again.",
            )


def _refuse_emptied(
    plan: RootPlan, had_documents: Collection[str], sources: Sequence[Source], readable: Collection[str]
) -> None:
    """An unmounted disk looks like an empty folder and must not empty the index."""
    have_documents = {source.original.root for source in sources if source.id in readable}
    for root in plan.sync:
        if root in had_documents and root not in have_documents:
            raise SourceEmptied(
                f"{root} had documents and now has none that can be read; the index was left as it is",
                hint="Is its disk mounted? If it is meant to be empty: smallhold index --allow-empty, or --remove it.",
            )


def _accept(readable: Collection[str]) -> None:
    del readable


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total

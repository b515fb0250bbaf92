"""Documents that a run takes from the index itself, since it does not read their originals again."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from indexer.ignore import Ignore
from indexer.load_image import PICTURES
from indexer.scan import Place, RootPlan
from indexer.update import Source
from rag.datatypes import Document
from rag.docstore import DocumentStore
from rag.errors import IndexDamaged, IndexMissing, InvalidRequest, Unavailable, UnreadableDocument
from rag.index import Generation
from rag.manifest import Patterns


def stored_sources(index_dir: Path, roots: Collection[str], opened: ExitStack) -> Iterator[Source]:
    """The documents of streams that a rebuild is not given again: their texts are in the index alone."""
    hint = f"Send it again in the same run, or give it up: --remove {min(roots)}"
    try:
        old = opened.enter_context(Generation.latest(index_dir))
        entries = [(segment, entry) for segment, _, entry in old.entries() if entry.original.root in roots]
        stores = {segment: old.segments[segment].store for segment, _ in entries}
    except Unavailable as error:
        raise InvalidRequest(f"{min(roots)} cannot be built again: {error.message}", hint=hint) from error
    for segment, entry in entries:
        yield Source(entry.id, entry.uri, entry.original, entry.id, partial(_stored, stores[segment], entry.id))


def stored_generation(index_dir: Path, opened: ExitStack) -> Generation | None:
    """What a rebuild can still read of the old index; None where it cannot."""
    with suppress(Unavailable):
        return opened.enter_context(Generation.latest(index_dir))
    return None


def held_sources(generation: Generation | None) -> Iterator[Source]:
    """All that an index holds; of one that is built again, and is damaged, what can still be told."""
    for segment, part in enumerate(generation.segments if generation else ()):
        try:
            entries = part.catalog.entries()
        except IndexDamaged:
            continue
        for number, entry in enumerate(entries):
            if generation and number not in generation.deleted[segment]:
                read = partial(_read, generation, segment, entry.id)
                yield Source(entry.id, entry.uri, entry.original, entry.id, read)


def held_pictures(index_dir: Path) -> frozenset[str]:
    """The suffixes of the pictures whose print is in an index: once changed they are out of date, whoever reads them.

    Raises `IndexDamaged` and `IndexIncompatible`.
    """
    with suppress(IndexMissing), Generation.open(index_dir) as parts:
        suffixes = {PurePosixPath(entry.id).suffix.lower() for _, _, entry in parts.entries()}
        return frozenset(suffixes & PICTURES)
    return frozenset()


def held_pages(generation: Generation | None, root: str) -> dict[str, list[Source]]:
    """What an index holds of a list's pages, by URL: of an archive each of its documents."""
    held: dict[str, list[Source]] = {}
    for source in held_sources(generation):
        if source.original.root == root:
            held.setdefault(source.uri.partition("#")[0], []).append(source)
    return held


def held_below(
    generation: Generation | None, places: Collection[Place], taken: Collection[str], plan: RootPlan
) -> dict[Place, list[Source]]:
    """What an index holds of files and folders that could not be looked at.

    Ids that are `taken` are left out, and so is what the plan's patterns leave out: these may be new.
    """
    held: dict[Place, list[Source]] = {}
    ignores = {
        place.root: Ignore(Path(place.root), plan.patterns.get(place.root, Patterns()), unseen=True) for place in places
    }
    for source in held_sources(generation) if places else ():
        place = next((place for place in Place.around(source.original.root, source.id) if place in places), None)
        if place is not None and source.id not in taken and not _is_left_out(source, ignores, plan):
            held.setdefault(place, []).append(source)
    return held


def _is_left_out(source: Source, ignores: Mapping[str, Ignore], plan: RootPlan) -> bool:
    """Whether patterns leave out the file that a document was made from: no pattern speaks of a root that is one."""
    root, label = source.original.root, plan.labels[source.original.root]
    file, _, member = source.uri.partition("#")
    if file == Path(root).as_uri():
        return False
    below = source.id.removesuffix(f"/{unquote(member)}") if member else source.id
    return ignores[root].leaves_out_below(below.removeprefix(f"{label}/") if label else below)


def _read(generation: Generation, segment: int, document_id: str) -> Document:
    try:
        return _stored(generation.segments[segment].store, document_id)
    except IndexDamaged as error:  # of an index that is being built again, whatever its state
        raise UnreadableDocument(f"what the index held of it is lost: {error.message}") from error


def _stored(store: DocumentStore, document_id: str) -> Document:
    found = store.document(document_id)
    assert found is not None
    return found[1]

"""Making a damaged index whole again, with what is left of it."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from indexer import checkpoint
from indexer.compact import publish_parts
from indexer.embedding import IndexEmbedder, chunk_vectors
from indexer.ivf import write_clusters
from indexer.relist import relisted
from indexer.segment import Part, StoreWriter, describe_segment, finish_lexical
from indexer.store import IndexWriter
from indexer.update import Progress
from indexer.urls import Pages
from rag.docstore import DocumentStore
from rag.errors import IndexDamaged, IndexIncompatible, IndexMissing, SmallholdError
from rag.index import Generation
from rag.labels import LabelRule
from rag.manifest import (
    CATALOG,
    CLUSTERS,
    GENERATIONS,
    LEXICAL,
    MANIFEST,
    MANIFEST_SUM,
    READABLE,
    REBUILD_HINT,
    SEGMENTS,
    STORE,
    VECTORS,
    Manifest,
    damages,
    manifest_sum,
    read_current,
    read_label_rules,
)
from rag.segment import Segment
from rag.vectors import FlatVectors

_SUM = re.compile(rf"[0-9a-f]{{64}}  {re.escape(MANIFEST)}\n")
_FEW_DIGITS = 8  # of 64


@dataclass(slots=True)
class Repair:
    """What a repair did. `done` is "nothing", "went back" to a whole generation, or "rebuilt" one from what is whole.

    A whole generation is published again, which counts as going back, where its label rules are not those wanted.
    `lost` are the ids of the documents that are no longer in the index and must be read again; `unnamed` counts those
    whose names were lost too. Of `mended` segments the terms were counted, the vectors made or clustered, or the
    documents listed anew, which loses nothing; `manifest.sha256` is among them where that was written anew.
    """

    done: str
    generation: str
    lost: list[str] = field(default_factory=list)
    unnamed: int = 0
    dropped: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)


def repair(
    directory: Path,
    labels: Sequence[LabelRule] | None = None,
    embedder: Callable[[], IndexEmbedder] | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Make an index whole: as it is, mended, as another whole generation that is there, or without damaged segments.

    A segment whose texts are whole is mended: what came as a stream has them nowhere else. Where its vectors are not,
    `embedder` gives what makes them again, which must be what made the others: `IndexIncompatible` else. With None such
    a segment is dropped like one whose texts are damaged.

    Its label rules are `labels`; for None they are those of the current generation, also where it is another one that
    is whole: that one's may be older and show what was hidden since. Raises `InvalidRequest` where they cannot be told,
    `IndexMissing`, `IndexLocked`, `IndexDamaged` where no generation can be told, or what is deleted in it, and
    `Unavailable` where something may not be read, which is no damage.
    """
    if not (directory / GENERATIONS).is_dir():
        raise IndexMissing(f"there is no index in {directory}")
    with IndexWriter(directory, keep_leftovers=True) as writer:
        names = _candidates(directory)
        with writer.guard():
            summed = [name for name in names if _mend_sum(directory / GENERATIONS / name)]
        whole = next((name for name in names if _is_whole(directory, name)), None)
        if whole and whole != names[0] and _loses_nothing(directory, names[0], embedder):
            whole, names = None, names[:1]  # an older one lacks what was published since
        for name in [whole] if whole else names:
            try:
                old = Generation.named(directory, name)
            except (IndexDamaged, IndexIncompatible):
                continue
            with old:
                rules = read_label_rules(directory) if labels is None else tuple(labels)
                done = (
                    _gone_back(writer, old, rules)
                    if whole
                    else _rebuilt(writer, old, rules, embedder, progress or _silent)
                )
                done.mended += [MANIFEST_SUM] if name in summed else []
                return done
    raise IndexDamaged(
        f"the index in {directory} is damaged: no generation can be told, or what is deleted in it", hint=REBUILD_HINT
    )


def _candidates(directory: Path) -> list[str]:
    """The generations that are there, the current one first, then the newest."""
    found = sorted((p.name for p in (directory / GENERATIONS).iterdir() if p.name.isdecimal()), reverse=True)
    current = _current(directory)
    return sorted(found, key=lambda name: name != current)


def _current(directory: Path) -> str:
    try:
        return read_current(directory)
    except SmallholdError:
        return ""


def _mend_sum(generation: Path) -> bool:
    """Write the checksum of a manifest anew where that is what is damaged; whether it was.

    It is where it is missing, or no checksum, or differs in a few digits: with another manifest nearly all would.
    """
    path = generation / MANIFEST_SUM
    try:
        content = (generation / MANIFEST).read_bytes()
        summed = json.loads(content).get("format_version") in READABLE
        found = path.read_bytes()[:200].decode("ascii", "replace") if path.exists() else ""
    except (OSError, ValueError, RecursionError, AttributeError):
        return False
    wanted = manifest_sum(content)
    another = _SUM.fullmatch(found) and sum(map(str.__ne__, found, wanted)) > _FEW_DIGITS
    if not summed or found == wanted or another:
        return False
    path.with_suffix(".tmp").write_text(wanted, encoding="ascii")
    path.with_suffix(".tmp").replace(path)
    return True


def _is_whole(directory: Path, name: str) -> bool:
    try:
        with Generation.named(directory, name) as parts:
            for segment in parts.segments:
                segment.open_all()
    except (IndexDamaged, IndexIncompatible):
        return False
    return True


def _loses_nothing(directory: Path, name: str, embedder: Callable[[], IndexEmbedder] | None) -> bool:
    """Whether all that is damaged of a generation can be made anew."""
    try:
        with Generation.named(directory, name) as parts:
            return all(_can_be_mended(_damaged_files(segment), embedder) for segment in parts.segments)
    except (IndexDamaged, IndexIncompatible):
        return False


def _damaged_files(segment: Segment) -> list[str]:
    return [name for name in segment.info.files if damages(segment.folder, {name: segment.info.files[name]})]


def _can_be_mended(damaged: Sequence[str], embedder: Callable[[], IndexEmbedder] | None) -> bool:
    return STORE not in damaged and (embedder is not None or VECTORS not in damaged)


def _gone_back(writer: IndexWriter, whole: Generation, rules: tuple[LabelRule, ...]) -> Repair:
    """Make a whole generation the current one, under these label rules."""
    if whole.manifest.labels != rules:
        parts = [Part(segment, deleted) for segment, deleted in zip(whole.segments, whole.deleted, strict=True)]
        with writer.guard(), writer.staging() as staging:
            return Repair("went back", publish_parts(writer, staging, parts, whole, rules))
    if whole.name == _current(writer.directory):
        return Repair("nothing", whole.name)
    writer.switch(whole.name)
    return Repair("went back", whole.name)


def _rebuilt(
    writer: IndexWriter,
    old: Generation,
    rules: tuple[LabelRule, ...],
    embedder: Callable[[], IndexEmbedder] | None,
    progress: Progress,
) -> Repair:
    """Publish the whole segments of a generation, and what can be mended, under these label rules."""
    done = Repair("rebuilt", "")
    parts = []
    with writer.guard(), writer.staging() as staging:
        for segment, deleted in zip(old.segments, old.deleted, strict=True):
            damaged = _damaged_files(segment)
            if not damaged:
                parts.append(Part(segment, deleted))
            elif _can_be_mended(damaged, embedder):
                makes = _maker(old, segment, embedder) if embedder and VECTORS in damaged else None
                mended = _mended(writer, staging, segment, damaged, old.manifest, makes, progress)
                parts.append(Part(mended, deleted))
                done.mended.append(segment.info.name)
            else:
                done.dropped.append(segment.info.name)
                _name_lost(segment, deleted, damaged, done)
        done.generation = publish_parts(writer, staging, parts, old, rules)
        for part in parts:
            if part.segment.folder.is_relative_to(staging):
                part.segment.close()
        checkpoint.discard(writer.directory)
    done.lost.sort()
    return done


def _maker(old: Generation, segment: Segment, embedder: Callable[[], IndexEmbedder]) -> IndexEmbedder:
    """Return what made the vectors of this generation. Raises `IndexIncompatible` where there is only another one."""
    made, found = old.manifest.embedder, embedder()
    if found.fingerprint != made.fingerprint:
        raise IndexIncompatible(
            f"the vectors of {segment.folder} are damaged and must be made by the embedder {made.name} (fingerprint "
            f"{made.fingerprint}); configured is {found.name} (fingerprint {found.fingerprint})",
            hint=f"Configure the embedder {made.name} and repair it again. {REBUILD_HINT}",
        )
    return found


def _mended(
    writer: IndexWriter,
    staging: Path,
    segment: Segment,
    damaged: Sequence[str],
    manifest: Manifest,
    embedder: IndexEmbedder | None,
    progress: Progress,
) -> Segment:
    """A copy of a segment with what is damaged of its catalog, vectors, clusters and terms made anew."""
    folder = staging / SEGMENTS / writer.new_segment(staging)
    anew = {LEXICAL if name.startswith(LEXICAL) else name for name in damaged}
    anew |= {CLUSTERS} if VECTORS in anew else set()  # codes of the vectors that were there
    if CATALOG in anew:
        anew.add(STORE)  # both are written at once
        pages = Pages.of(writer.directory).lists()
        with StoreWriter(folder) as incoming:
            incoming.copy(Part(segment, frozenset()), relisted(segment.store, manifest.roots, pages))
    shutil.copytree(segment.folder, folder, ignore=shutil.ignore_patterns(*anew), dirs_exist_ok=True)
    if embedder is not None:
        with closing(DocumentStore(folder / STORE)) as store:
            vectors_nd, _ = chunk_vectors(
                store, None, embedder, writer.directory, lambda done, total: progress("embed", done, total)
            )
        FlatVectors.build(vectors_nd).save(folder / VECTORS)
    if CLUSTERS in anew:
        write_clusters(folder)
    finish = finish_lexical if LEXICAL in anew else describe_segment
    info = finish(folder, segment.info.documents, segment.info.chunks)
    return Segment(staging, info, manifest.embedder.dimension)


def _name_lost(segment: Segment, deleted: frozenset[int], damaged: list[str], done: Repair) -> None:
    """Say which documents a dropped segment held, by whichever of its databases is whole."""
    if CATALOG not in damaged:
        done.lost += [entry.id for number, entry in enumerate(segment.catalog.entries()) if number not in deleted]
    elif STORE not in damaged:
        rows = segment.store.query("SELECT number, id FROM documents")
        done.lost += [document_id for number, document_id in rows if number not in deleted]
    else:
        done.unnamed += segment.info.documents - len(deleted)


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total

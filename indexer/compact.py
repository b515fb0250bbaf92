"""The next generation out of segments that are there: merged as the policy says, or all into one."""

from collections.abc import Sequence
from pathlib import Path

from indexer import ivf
from indexer.merge import MergePolicy, Size
from indexer.segment import Part, merge_segments
from indexer.store import IndexWriter
from rag.index import Generation
from rag.labels import LabelRule
from rag.manifest import CLUSTERS, Counts, SegmentInfo
from rag.segment import Segment


def merged(
    writer: IndexWriter, staging: Path, parts: Sequence[Part], groups: Sequence[Sequence[int]], dimension: int
) -> list[Part]:
    """Write one segment for each group of positions, and return what the next generation is made of.

    The new segments come last; groups of which nothing is live leave none.
    """
    gone = {position for group in groups for position in group}
    left = [part for position, part in enumerate(parts) if position not in gone]
    for group in groups:
        chosen = [parts[position] for position in group]
        try:
            if any(part.segment.info.documents > len(part.deleted) for part in chosen):
                info = merge_segments(chosen, staging, writer.new_segment(staging), dimension)
                left.append(Part(Segment(staging, info, dimension), frozenset()))
        finally:
            for part in chosen:
                if part.segment.folder.is_relative_to(staging):  # the old generation closes its own
                    part.segment.close()
    return left


def tidied(
    writer: IndexWriter, staging: Path, parts: Sequence[Part], policy: MergePolicy, added: int, dimension: int
) -> list[Part]:
    """Drop the segments of which nothing is live, and merge others as the policy says."""
    parts = [part for part in parts if part.segment.info.documents > len(part.deleted)]
    sizes = [Size(part.segment.info.chunks, live_chunks(part)) for part in parts]
    return merged(writer, staging, parts, policy.choose(sizes, added), dimension)


def live_chunks(part: Part) -> int:
    """The number of a segment's chunks whose documents are not deleted."""
    return int(part.segment.catalog.live_rows(part.deleted).sum()) if part.deleted else part.segment.info.chunks


def compact(directory: Path) -> bool:
    """Merge all segments into one and drop what is deleted; False where nothing was to be done.

    Afterwards no file of the directory holds a deleted document's text, terms or vectors. Raises `IndexMissing`,
    `IndexDamaged`, `IndexIncompatible`, `IndexLocked`, and `Unavailable` where the disk refuses.
    """
    with IndexWriter(directory) as writer, Generation.open(directory) as old:
        parts = [Part(segment, gone) for segment, gone in zip(old.segments, old.deleted, strict=True)]
        if len(parts) < 2 and not any(part.deleted or _is_of_an_older_program(part.segment) for part in parts):
            return False
        with writer.guard(), writer.staging() as staging:
            left = merged(writer, staging, parts, [range(len(parts))], old.manifest.embedder.dimension)
            publish_parts(writer, staging, left, old, old.manifest.labels)
    return True


def _is_of_an_older_program(segment: Segment) -> bool:
    """Whether a segment lacks what is written by now: signatures, or clusters where it is large and they would pay."""
    lacks_clusters = segment.info.chunks >= ivf.EXACT_BELOW and CLUSTERS not in segment.info.files
    return lacks_clusters or segment.store.signatures() is None


def publish_parts(
    writer: IndexWriter, staging: Path, parts: Sequence[Part], old: Generation, labels: Sequence[LabelRule]
) -> str:
    """Publish other segments under the old generation's embedder, chunker and roots, and these label rules."""
    return writer.publish(
        staging,
        segments=infos(parts),
        deleted={part.segment.info.name: part.deleted for part in parts},
        embedder=old.manifest.embedder,
        chunker=old.manifest.chunker,
        roots=old.manifest.roots,
        patterns=old.manifest.patterns,
        labels=labels,
        counts=counts(parts),
    )


def infos(parts: Sequence[Part]) -> list[SegmentInfo]:
    """What the manifest says of the segments."""
    return [part.segment.info for part in parts]


def counts(parts: Sequence[Part]) -> Counts:
    """What is live in the segments."""
    return Counts(
        documents=sum(part.segment.info.documents - len(part.deleted) for part in parts),
        chunks=sum(map(live_chunks, parts)),
    )

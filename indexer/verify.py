"""What is wrong with an index: every checksum, and whether its parts agree with each other."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from rag.errors import IndexDamaged
from rag.index import Generation
from rag.ivf import ClusteredVectors
from rag.manifest import GENERATIONS, SEGMENTS, damages, published_stamp
from rag.segment import Segment

# float32 vectors that were normalized once are this close to length 1, in any number of dimensions in use.
_UNIT = 1e-3
# Codes of one byte a dimension come this close to their vectors (cosine); measured 0.9999 and more.
_CODED = 0.99


@dataclass(slots=True)
class Findings:
    """The current generation, empty where it cannot be told; what is wrong; folders that no generation needs."""

    generation: str = ""
    problems: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def verify(directory: Path) -> Findings:
    """Check an index in full. Raises `IndexMissing`, and `IndexIncompatible` for another format.

    What a run publishes meanwhile takes files away, which is no damage: then what it has published is checked.
    """
    while True:
        stamp = published_stamp(directory)
        findings = _findings(directory)
        if not findings.problems or published_stamp(directory) == stamp:
            return findings


def _findings(directory: Path) -> Findings:
    findings = Findings()
    try:
        parts = Generation.open(directory)
    except IndexDamaged as error:
        findings.problems.append(error.message)
        return findings
    with closing(parts):
        findings.generation = parts.name
        for segment in parts.segments:
            findings.problems += damages(segment.folder, segment.info.files) or _disagreements(segment)
        if not findings.problems:
            findings.problems += _whole(parts)
        findings.leftovers = _leftovers(directory, parts)
    return findings


def _disagreements(segment: Segment) -> list[str]:
    """What does not fit in a segment whose files are as they were written: a fault of the program that wrote them."""
    try:
        return [f"{segment.folder}: {reason}" for reason in _check(segment)]
    except IndexDamaged as error:
        return [error.message]


def _check(segment: Segment) -> Iterator[str]:
    for name, database in (("catalog", segment.catalog), ("store", segment.store)):
        if database.query("PRAGMA integrity_check") != [("ok",)]:
            yield f"SQLite finds its {name} damaged"
    entries = segment.catalog.entries()
    listed = [(number, *entry[:3]) for number, entry in enumerate(entries)]
    if segment.store.query("SELECT number, id, title, uri FROM documents ORDER BY number") != listed:
        yield "its documents are not those of the catalog"
    owners = np.repeat(np.arange(len(entries)), [entry.chunks for entry in entries])
    if segment.store.query("SELECT row, number FROM chunks ORDER BY row") != [*enumerate(owners.tolist())]:
        yield "its chunks are not those that the catalog counts"
    if (len(entries), len(owners)) != (segment.info.documents, segment.info.chunks):
        yield "it holds other documents or chunks than the manifest says"
    yield from _check_texts(segment)
    segment.store.signatures()
    for block_md in segment.vectors.blocks(None):
        if not np.allclose(np.linalg.norm(block_md, axis=1), 1, atol=_UNIT):
            yield "it has vectors that are not of length 1"
    if isinstance(segment.vectors, ClusteredVectors):
        yield from _check_clusters(segment.vectors)
    postings = segment.postings
    if not np.array_equal(np.bincount(postings.rows, postings.counts, len(postings)), postings.lengths):
        yield "its postings are not those that its lengths count"


def _check_clusters(vectors: ClusteredVectors) -> Iterator[str]:
    """That each row has a place in one cluster was checked when they were opened: it must also be its own code."""
    for rows, decoded_md in vectors.decoded():
        cosines = np.sum(decoded_md * vectors.exact.rows(rows), axis=1) / np.linalg.norm(decoded_md, axis=1)
        # Few may be far off: a code has no room for values beyond those of the vectors that it was trained on.
        if np.median(cosines) < _CODED:
            yield "its clusters hold codes of other vectors"
            return


def _check_texts(segment: Segment) -> Iterator[str]:
    contexts, document_id, text = set(), None, ""
    for chunk, context in zip(segment.store.all_chunks(), segment.store.contexts(), strict=True):
        if chunk.document_id != document_id:
            found = segment.store.document(chunk.document_id)
            document_id, text = chunk.document_id, found[1].text if found else ""
        if text[chunk.span.start : chunk.span.end] != chunk.text:
            yield f"chunk {chunk.id!r} is not what stands in its document"
        if sha256(chunk.context_text.encode()).digest() != context:
            yield f"chunk {chunk.id!r} has another context than was embedded"
        contexts.add(context)
    if {context for (context,) in segment.catalog.query("SELECT context FROM contexts")} != contexts:
        yield "its catalog lists other contexts"


def _whole(parts: Generation) -> Iterator[str]:
    live = parts.entries()
    twice = [document_id for document_id, times in Counter(entry.id for *_, entry in live).items() if times > 1]
    if twice:
        yield f"document {twice[0]!r} is there more than once"
    counts = parts.manifest.counts
    if (len(live), sum(entry.chunks for *_, entry in live)) != (counts.documents, counts.chunks):
        yield f"generation {parts.name} counts other documents or chunks than its segments hold"


def _leftovers(directory: Path, parts: Generation) -> list[str]:
    named = {directory / GENERATIONS / parts.name, *(segment.folder for segment in parts.segments)}
    parents = [folder for part in (GENERATIONS, SEGMENTS) if (folder := directory / part).is_dir()]
    folders = [path for parent in parents for path in parent.iterdir()]
    return sorted(str(path) for path in folders if path.name.isdecimal() and path not in named)

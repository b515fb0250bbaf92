"""Vectors for the chunks of a new segment: taken from earlier work where their text is the same, else made."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from indexer.checkpoint import Checkpoint
from rag.docstore import DocumentStore
from rag.index import Generation
from rag.protocols import Embedder, FloatArray

# Texts between two checkpoints: 5 to 15 seconds of work on two cores, also the step of the progress bar.
WINDOW = 128


class IndexEmbedder(Embedder, Protocol):
    """An embedder that says who it is."""

    name: str
    fingerprint: str
    dimension: int


def chunk_vectors(
    store: DocumentStore,
    old: Generation | None,
    embedder: IndexEmbedder,
    directory: Path,
    progress: Callable[[int, int], None],
) -> tuple[FloatArray, int]:
    """Return the vectors `(n, d)` of all chunks of `store` in row order, and how many texts had to be embedded.

    Equal texts are embedded once. Finished vectors are kept in `directory` until the caller discards them.
    """
    keys = store.contexts()
    vectors_nd = np.empty((len(keys), embedder.dimension), np.float32)
    missing = _reuse(keys, old, vectors_nd)
    if not missing:
        return vectors_nd, 0
    with closing(Checkpoint(directory, embedder.fingerprint, embedder.dimension)) as checkpoint:
        for key, vector_d in checkpoint.vectors().items():
            vectors_nd[missing.pop(key, [])] = vector_d
        done = 0
        progress(done, len(missing))
        for window in _windows(store, [rows[0] for rows in missing.values()]):
            chunks = store.chunks(window)
            found_nd = embedder.embed([chunks[row].context_text for row in window])
            checkpoint.add([keys[row] for row in window], found_nd)
            for row, vector_d in zip(window, found_nd, strict=True):
                vectors_nd[missing[keys[row]]] = vector_d
            done += len(window)
            progress(done, len(missing))
    return vectors_nd, done


def _reuse(keys: list[bytes], old: Generation | None, vectors_nd: FloatArray) -> dict[bytes, list[int]]:
    """Fill in what the old generation has, and return the rows of every other key."""
    missing: dict[bytes, list[int]] = {}
    for row, key in enumerate(keys):
        missing.setdefault(key, []).append(row)
    for segment in old.segments if old else ():
        found = segment.catalog.find(missing)
        # Only where something is found are the vectors opened, which has them compared with their checksum.
        for key, vector_d in zip(found, segment.exact.rows([*found.values()]) if found else (), strict=True):
            vectors_nd[missing.pop(key)] = vector_d
    return missing


def _windows(store: DocumentStore, rows: list[int]) -> Iterator[list[int]]:
    """Yield rows in windows of like length, the longest first, so that batches need little padding."""
    length: dict[int, int] = {}
    for start in range(0, len(rows), WINDOW):
        part = rows[start : start + WINDOW]
        length.update((row, len(chunk.context_text)) for row, chunk in store.chunks(part).items())
    ordered = sorted(rows, key=lambda row: -length[row])
    for start in range(0, len(ordered), WINDOW):
        yield ordered[start : start + WINDOW]

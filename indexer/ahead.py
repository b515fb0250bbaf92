"""Embedding while further documents are still being read: into the checkpoint, where `chunk_vectors` finds it."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from indexer.checkpoint import Checkpoint
from indexer.embedding import WINDOW, IndexEmbedder
from indexer.segment import context_key
from rag.datatypes import Chunk
from rag.index import Generation

# Texts that begin a round: enough that those of a window are of like length.
_BEGIN = 256
# Texts that wait at most: a few MB. Where reading is that far ahead, the rest is embedded when all is read.
_MOST = 4096


class Ahead:
    """Embeds chunks in a thread of its own as they come; use it in a `with` block, at whose end nothing runs any more.

    The block's end waits for the window under way alone and leaves the rest to `chunk_vectors`, which sorts it by
    length as a whole. `embedded` counts texts. What the thread raises, `add` or the block's end raises.
    """

    def __init__(self, old: Generation | None, embedder: IndexEmbedder, directory: Path) -> None:
        self.embedded = 0
        self._old = old
        self._embedder = embedder
        self._directory = directory
        self._waiting: dict[bytes, str] = {}
        self._known: set[bytes] = set()
        self._finished: set[bytes] | None = None  # of an earlier run; asked of the checkpoint once
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed-ahead")
        self._round: Future[None] | None = None

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Take chunks that an index will hold. Returns at once."""
        for chunk in chunks[: _MOST - len(self._waiting)]:
            key = context_key(chunk)
            if key not in self._known:
                self._known.add(key)
                self._waiting[key] = chunk.context_text
        if len(self._waiting) >= _BEGIN and (self._round is None or self._round.done()):
            if self._round is not None:
                self._round.result()
            waiting, self._waiting = self._waiting, {}
            self._round = self._thread.submit(self._embed, waiting)

    def _embed(self, texts: dict[bytes, str]) -> None:
        """Embed what neither the old generation nor an earlier run has."""
        for segment in self._old.segments if self._old else ():
            for key in segment.catalog.find(texts):
                del texts[key]
        with closing(Checkpoint(self._directory, self._embedder.fingerprint, self._embedder.dimension)) as checkpoint:
            if self._finished is None:
                self._finished = checkpoint.keys()
            ordered = sorted(texts.keys() - self._finished, key=lambda key: -len(texts[key]))
            for start in range(0, len(ordered), WINDOW):
                if self._stop.is_set():
                    return
                window = ordered[start : start + WINDOW]
                checkpoint.add(window, self._embedder.embed([texts[key] for key in window]))
                self.embedded += len(window)

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.shutdown()
        if kind is None and self._round is not None:
            self._round.result()

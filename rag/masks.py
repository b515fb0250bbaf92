"""Which documents and rows of an index a view leaves, by what is known of the documents of one generation.

A view becomes a mask over all rows before anything is searched, so that the best k are the best k of what may be seen,
and nothing else has a say in them.
"""

from collections.abc import Sequence
from datetime import date
from functools import lru_cache, partial
from threading import Lock
from typing import NamedTuple

import numpy as np

from rag.datatypes import Metadata
from rag.docstore import DocumentStore, SegmentedStore
from rag.filter import Facts, Filter, View, folded
from rag.glob import composed
from rag.labels import Labeller, LabelRule, may_see
from rag.protocols import BoolArray, IntArray

_KEPT = 32  # masks of the latest views, each a byte a row and another one a document


class _Labels(NamedTuple):
    """The label sets that occur, and for each document `(D,)`, of a segment or of all, the number of its own."""

    sets: list[frozenset[str]]
    numbers_n: IntArray


class Masks:
    """The live documents of an index, seen through views. Usable from several threads.

    Labels are looked up once for a segment and its rules, at the first view that has need of them. A filter is tried on
    one document after the other, read from the store, so that nothing of them stays in memory; the masks of the latest
    views are kept. For 100,000 documents of 2 kB labels take 1.0 s of one core, once, and a new filter of four parts
    1.3 s.
    """

    def __init__(self, store: SegmentedStore, rules: Sequence[LabelRule]) -> None:
        self._store = store
        self._rules = tuple(rules)
        self._labeller = Labeller(rules)
        self._lock = Lock()
        self._labels: _Labels | None = None
        self._row_documents: IntArray | None = None
        self._documents = lru_cache(maxsize=_KEPT)(self._see_documents)
        self._rows = lru_cache(maxsize=_KEPT)(self._see_rows)

    def rows(self, view: View) -> BoolArray | None:
        """Return which rows `(n,)` the view leaves, None for all of them. The array cannot be written to."""
        return self._rows(view)

    def documents(self, view: View) -> BoolArray | None:
        """Return which documents `(D,)` the view leaves, in the order of their rows, None for all of them."""
        return self._documents(view)

    def close(self) -> None:
        """Let go of all masks: kept by functions of this very object, they would outlive it until a collection."""
        self.__dict__.pop("_documents", None)
        self.__dict__.pop("_rows", None)

    def sees(self, document_id: str, view: View) -> bool:
        """Whether the view leaves this document; False also where there is none of that id."""
        metadata = self._store.described(document_id)
        if metadata is None:
            return False
        title, known = metadata
        labels = self._labeller.labels(document_id, _own_labels(known))
        holds = view.filter is None or view.filter.predicate()(_facts(document_id, title, known))
        return may_see(view.labels, labels) and holds

    def _see_rows(self, view: View) -> BoolArray | None:
        documents = self._documents(view)
        if documents is None:
            return None
        with self._lock:
            if self._row_documents is None:
                self._row_documents = self._store.row_documents()
        rows: BoolArray = documents[self._row_documents]
        rows.setflags(write=False)
        return rows

    def _see_documents(self, view: View) -> BoolArray | None:
        masks = []
        if view.labels is not None:
            masks.append(self._labelled(view.labels))
        if view.filter is not None:
            masks.append(self._filtered(view.filter))
        if all(mask.all() for mask in masks):
            return None
        seen: BoolArray = np.logical_and.reduce(masks)
        seen.setflags(write=False)
        return seen

    def _labelled(self, held: frozenset[str]) -> BoolArray:
        """Return which documents whoever holds these labels may see."""
        with self._lock:
            if self._labels is None:
                self._labels = self._read_labels()
        seen: BoolArray = np.array([may_see(held, labels) for labels in self._labels.sets], dtype=bool)
        return seen[self._labels.numbers_n]

    def _read_labels(self) -> _Labels:
        known: dict[frozenset[str], int] = {}
        numbers = [np.empty(0, np.int64)]
        for store, deleted in self._store.parts():
            found = store.made("labels", partial(self._labels_of, store), self._rules)
            here = np.array([known.setdefault(labels, len(known)) for labels in found.sets], dtype=np.int64)
            live = np.ones(len(found.numbers_n), np.bool_)
            live[list(deleted)] = False
            numbers.append(here[found.numbers_n[live]])
        return _Labels(list(known), np.concatenate(numbers))

    def _labels_of(self, store: DocumentStore) -> _Labels:
        """Look up the labels of all documents of a segment, the deleted ones included."""
        known: dict[frozenset[str], int] = {}
        numbers = [
            known.setdefault(self._labeller.labels(document_id, _own_labels(metadata)), len(known))
            for _, document_id, _, metadata in store.descriptions()
        ]
        return _Labels(list(known), np.array(numbers, dtype=np.int64))

    def _filtered(self, wanted: Filter) -> BoolArray:
        """Return of which documents the filter holds."""
        holds = wanted.predicate()
        return np.array([holds(_facts(*described)) for described in self._store.descriptions()], dtype=bool)


def _facts(document_id: str, title: str, metadata: Metadata) -> Facts:
    kinds = [str(metadata.get("format", "")), _suffix(document_id)]
    if document_id.startswith(("http://", "https://")):
        kinds.append(_suffix(document_id.partition("?")[0]))
    return Facts(
        path=composed(document_id),
        title=folded(title),
        types=frozenset(folded(kind) for kind in kinds if kind),
        tags=frozenset(folded(str(metadata.get("tags", ""))).splitlines()),
        day=_day(str(metadata.get("date", ""))),
    )


def _suffix(path: str) -> str:
    _, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return suffix if dot else ""


def _own_labels(metadata: Metadata) -> str:
    return str(metadata.get("labels", ""))


def _day(text: str) -> date | None:
    """Return the day that a date, or a date and time, in ISO 8601 begins with; records may hold anything else."""
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None

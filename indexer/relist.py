"""A segment's catalog told again, from the texts that are whole: which documents it holds, and where they came from."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from indexer.scan import URLS, is_path
from indexer.sources import record_original
from indexer.stream import is_stream
from rag.catalog import DocumentEntry, Original
from rag.datatypes import Document
from rag.docstore import DocumentStore


def relisted(store: DocumentStore, roots: Mapping[str, str], pages: Mapping[str, str]) -> list[DocumentEntry]:
    """Return the documents of a segment by number, as its lost catalog had them.

    Records and what came as a stream are recognised by their content, as ever. Of files and pages the checksum is lost:
    the next run reads them again. `roots` are the index's, with their labels; `pages` say in which list a URL is, where
    that is known.
    """
    chunks = np.bincount(store.owners(), minlength=store.counts()[0])
    return [
        DocumentEntry(document.id, document.title, document.uri, int(chunks[number]), original.bytes, original)
        for number, (document, original) in enumerate(_originals(store, roots, pages))
    ]


def _originals(
    store: DocumentStore, roots: Mapping[str, str], pages: Mapping[str, str]
) -> Iterator[tuple[Document, Original]]:
    for _, document_id, _, _ in store.descriptions():
        found = store.document(document_id)
        assert found is not None
        root = _root(found[1], roots, pages)
        lasting = not roots or is_stream(root)
        yield found[1], record_original(root, found[1]) if lasting else Original(root, "", 0, "")


def _root(document: Document, roots: Mapping[str, str], pages: Mapping[str, str]) -> str:
    """The root that a document came from; "" where none fits, so that the next run removes what it does not find."""
    for root in filter(is_path, roots):
        place = Path(root).as_uri()
        if document.uri == place or document.uri.startswith((f"{place.rstrip('/')}/", f"{place}#")):
            return root
    for root, label in roots.items():
        if is_stream(root) and document.id.startswith(f"{label}/"):
            return root
    listed = pages.get(document.uri) or pages.get(document.uri.partition("#")[0], "")  # a file of an archive
    return listed if listed in roots else next((root for root in roots if root.startswith(URLS)), "")

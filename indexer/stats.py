"""How large an index is, and of what."""

from pathlib import Path
from typing import Any

from indexer.compact import live_chunks
from indexer.letters import dead_letters
from indexer.segment import Part
from rag.errors import IndexDamaged
from rag.index import Generation
from rag.manifest import CATALOG, CLUSTERS, GENERATIONS, LEXICAL, STORE, VECTORS, FileInfo, published_stamp

_PARTS = {CATALOG: "catalog", STORE: "texts", VECTORS: "vectors", CLUSTERS: "clusters"}


def stats(directory: Path) -> dict[str, Any]:
    """Return counts and bytes of the current generation, as plain values for JSON.

    `unread` are the dead letters: what could not be read when it was last looked at, and why. Raises `IndexMissing`,
    `IndexDamaged` and `IndexIncompatible`. Files that need not be read are not verified.
    """
    while True:
        stamp = published_stamp(directory)
        try:
            return _stats(directory)
        except (IndexDamaged, FileNotFoundError):
            # A writer may have published and removed this generation since its name was read.
            if published_stamp(directory) == stamp:
                raise


def _stats(directory: Path) -> dict[str, Any]:
    with Generation.open(directory) as parts:
        segments = [
            _segment(Part(segment, deleted)) for segment, deleted in zip(parts.segments, parts.deleted, strict=True)
        ]
        folder = directory / GENERATIONS / parts.name
        manifest = sum(path.stat().st_size for path in folder.iterdir())
        return {
            "index": str(directory),
            "generation": parts.name,
            "created": parts.manifest.created.isoformat(),
            "embedder": parts.manifest.embedder.model_dump(),
            "documents": parts.manifest.counts.documents,
            "chunks": parts.manifest.counts.chunks,
            "deleted_documents": sum(segment["deleted_documents"] for segment in segments),
            "deleted_chunks": sum(segment["deleted_chunks"] for segment in segments),
            "bytes": {
                **{part: sum(s["bytes"][part] for s in segments) for part in (*_PARTS.values(), "lexical")},
                "manifest": manifest,
                "total": sum(sum(s["bytes"].values()) for s in segments) + manifest,
            },
            "segments": segments,
            "unread": [{"name": letter.name, "reason": letter.reason} for letter in dead_letters(directory)],
        }


def _segment(given: Part) -> dict[str, Any]:
    info = given.segment.info
    return {
        "name": info.name,
        "documents": info.documents,
        "chunks": info.chunks,
        "deleted_documents": len(given.deleted),
        "deleted_chunks": info.chunks - live_chunks(given),
        "bytes": {
            **{part: info.files[file].bytes if file in info.files else 0 for file, part in _PARTS.items()},
            "lexical": _lexical(info.files),
        },
    }


def _lexical(files: dict[str, FileInfo]) -> int:
    return sum(file.bytes for name, file in files.items() if name.startswith(f"{LEXICAL}/"))

"""Hashes of large files, and the small JSON files that remember which were checked."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

BLOCK = 1 << 20


def sha256_of(path: Path, done: Callable[[int], None] | None = None) -> str:
    """Return a file's SHA-256; `done` is told the bytes read since the last call."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if done is not None:
                done(len(block))
    return digest.hexdigest()


def stamp(path: Path) -> list[int]:
    """Return size and modification time: a file whose stamp has not changed need not be hashed again."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def read_json(path: Path) -> dict[str, dict[str, object]]:
    """Return an object of objects; empty where the file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: object) -> None:
    """Write it beside its place, then move it there."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(value, indent=1), encoding="utf-8")
    beside.replace(path)

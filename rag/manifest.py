"""The names in an index directory and its manifest. `docs/format.md` specifies both for other programs."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rag.errors import IndexDamaged, IndexIncompatible, IndexMissing, InvalidRequest
from rag.labels import MOST_RULES, LabelRule

FORMAT_VERSION = 1

CURRENT = "CURRENT"
GENERATIONS = "generations"
LOCK = "lock"
MANIFEST = "manifest.json"
VECTORS = "vectors.faiss"
STORE = "store.sqlite"
LEXICAL = "lexical"
LEXICAL_FILES = (
    "data.csc.index.npy",
    "indices.csc.index.npy",
    "indptr.csc.index.npy",
    "vocab.index.json",
    "params.index.json",
)
FILES = frozenset({VECTORS, STORE, *(f"{LEXICAL}/{name}" for name in LEXICAL_FILES)})

INDEX_HINT = "Build one: smallhold index PATH"
REBUILD_HINT = "Build it again: smallhold index PATH... --rebuild"

# One line per root and per file: far below this in any index that this program writes.
_MAX_MANIFEST_BYTES = 16_000_000
_GENERATION = re.compile(r"\d{6,18}")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EmbedderInfo(_Record):
    """The embedder that made the vectors. Vectors of another fingerprint cannot be compared with them."""

    name: str
    fingerprint: str
    dimension: int = Field(ge=1, le=1_000_000)


class ChunkerInfo(_Record):
    """How the documents were cut; documents cut under another fingerprint are cut again by the next sync."""

    tokens: int = Field(ge=1)
    overlap: int = Field(ge=0)
    fingerprint: str


class Counts(_Record):
    """What the generation holds."""

    documents: int = Field(ge=0)
    chunks: int = Field(ge=0)


class FileInfo(_Record):
    """A file of the generation, as it was published."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(_Record):
    """What a generation holds, who made it and how to tell that it is whole.

    `roots` maps the absolute path of each indexed folder or file to its label, the first part of its documents' ids
    (empty for none). It is empty where the documents came from records instead of files. `labels` are the rules for
    who may see which document (`rag.labels`).
    """

    format_version: int
    created: datetime
    smallhold: str
    embedder: EmbedderInfo
    chunker: ChunkerInfo
    roots: dict[str, str]
    labels: tuple[LabelRule, ...] = Field((), max_length=MOST_RULES)
    counts: Counts
    files: dict[str, FileInfo]


def read_current(directory: Path) -> str:
    """Return the name of the generation that readers should open. Raises `IndexMissing` and `IndexDamaged`."""
    path = directory / CURRENT
    try:
        with path.open("rb") as file:
            name = file.read(64).decode("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise IndexMissing(f"there is no index in {directory}", hint=INDEX_HINT) from None
    except OSError as error:
        raise IndexDamaged(f"{path} cannot be read: {error.strerror}", hint=REBUILD_HINT) from error
    if not _GENERATION.fullmatch(name):
        raise IndexDamaged(f"{path} names no generation", hint=REBUILD_HINT)
    return name


def read_synced(directory: Path) -> datetime | None:
    """Return when the index was last compared with its folders: the time of `CURRENT`; None where that is gone."""
    try:
        return datetime.fromtimestamp((directory / CURRENT).stat().st_mtime, UTC)
    except OSError:
        return None


def read_manifest(generation: Path) -> Manifest:
    """Read and check the manifest of a generation. Raises `IndexDamaged`, or `IndexIncompatible` for another format."""
    path = generation / MANIFEST
    data = _read_json(path)
    version = data.get("format_version")
    if isinstance(version, int) and version != FORMAT_VERSION:
        age = "an older" if version < FORMAT_VERSION else "a newer"
        raise IndexIncompatible(
            f"{generation} has {age} index format ({version}; this program reads {FORMAT_VERSION})", hint=REBUILD_HINT
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        _damaged(path, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
    if manifest.files.keys() != FILES:
        _damaged(path, f"it lists other files than {', '.join(sorted(FILES))}")
    return manifest


def read_roots(directory: Path) -> dict[str, str]:
    """Return the roots of an index that need not be readable otherwise; empty where they cannot be told."""
    try:
        roots = _read_json(directory / GENERATIONS / read_current(directory) / MANIFEST).get("roots")
    except (IndexMissing, IndexDamaged):
        return {}
    known = roots if isinstance(roots, dict) else {}
    return {path: label for path, label in known.items() if isinstance(label, str)}


def read_label_rules(directory: Path) -> tuple[LabelRule, ...]:
    """Return the label rules of an index that need not be readable otherwise, none where there is no index.

    Raises `InvalidRequest` where they cannot be told: an index made anew without them would show what they hid.
    """
    folder = directory / GENERATIONS
    names = (
        sorted(path.name for path in folder.iterdir() if _GENERATION.fullmatch(path.name)) if folder.is_dir() else []
    )
    try:
        name = read_current(directory)
    except (IndexMissing, IndexDamaged):
        if not names:
            return ()
        name = names[-1]
    try:
        found = _read_json(folder / name / MANIFEST).get("labels", [])
        return TypeAdapter(tuple[LabelRule, ...]).validate_python(found)
    except (IndexDamaged, ValidationError) as error:
        raise InvalidRequest(
            f"the index in {directory} is damaged, so that nobody knows what its label rules were",
            hint="Give them with --labels FILE; an empty file, where there were none.",
        ) from error


def verify_files(generation: Path, manifest: Manifest) -> None:
    """Compare every file of a generation with its checksum. Raises `IndexDamaged` naming the first that differs."""
    for name, expected in sorted(manifest.files.items()):
        path = generation / name
        try:
            found = describe_file(path)
        except OSError as error:
            _damaged(path, error.strerror or "it cannot be read")
        if found.bytes != expected.bytes:
            _damaged(path, f"it has {found.bytes} bytes instead of {expected.bytes}")
        if found.sha256 != expected.sha256:
            _damaged(path, "its content differs from its checksum")


def describe_file(path: Path) -> FileInfo:
    """Return size and SHA-256 of a file. Raises `OSError`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileInfo(sha256=digest, bytes=file.tell())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            _damaged(path, f"it is larger than {_MAX_MANIFEST_BYTES} bytes")
        data = json.loads(path.read_bytes())
    except OSError as error:
        _damaged(path, error.strerror or "it cannot be read")
    except (ValueError, RecursionError):
        _damaged(path, "it is not JSON")
    if not isinstance(data, dict):
        _damaged(path, "it is not a JSON object")
    return data


def _damaged(path: Path, reason: str) -> NoReturn:
    raise IndexDamaged(f"the index is damaged: {path}: {reason}", hint=REBUILD_HINT)

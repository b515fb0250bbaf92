"""The names in an index directory and its manifest. `docs/format.md` specifies both for other programs."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rag.errors import IndexDamaged, IndexIncompatible, IndexMissing, InvalidRequest, Unavailable
from rag.labels import MOST_RULES, LabelRule

FORMAT_VERSION = 3
READABLE = (2, FORMAT_VERSION)  # 2 is 3 without clusters
MOST_PATTERNS = 1000
_UNSUMMED = 1  # the format whose manifests had no checksum, and at first no label rules

CURRENT = "CURRENT"
GENERATIONS = "generations"
SEGMENTS = "segments"
LOCK = "lock"
# In a generation's folder.
MANIFEST = "manifest.json"
MANIFEST_SUM = "manifest.sha256"
DELETED = "deleted.json"
# In a segment's folder.
CATALOG = "catalog.sqlite"
STORE = "store.sqlite"
VECTORS = "vectors.faiss"
CLUSTERS = "clusters.faiss"  # in large segments only
LEXICAL = "lexical"
LEXICAL_FILES = ("terms.txt", "starts.npy", "rows.npy", "counts.npy", "lengths.npy")
SEGMENT_FILES = frozenset({CATALOG, STORE, VECTORS, *(f"{LEXICAL}/{name}" for name in LEXICAL_FILES)})

INDEX_HINT = "Build one: smallhold index PATH"
LOST_HINT = "Find it again: smallhold store repair; or smallhold index, which does so too."
REBUILD_HINT = "Build it again: smallhold index PATH... --rebuild"
DAMAGE_HINT = "Save what is whole: smallhold store repair. Or build it again: smallhold index PATH... --rebuild"

# One line per root, per file of a segment and per deleted document: far below this in any index of this program.
_MAX_JSON_BYTES = 64_000_000
_GENERATION = re.compile(r"\d{6,18}")
_PASSING = frozenset((errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


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
    """What the generation holds, deleted documents left out."""

    documents: int = Field(ge=0)
    chunks: int = Field(ge=0)


class FileInfo(_Record):
    """A file of the index, as it was published."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Patterns(_Record):
    """What of a root's files is indexed, in gitignore's syntax: those that match `include`, if there are any, and none
    that matches `exclude`. `gitignore` is whether .gitignore files in its folders count (`indexer.ignore`).
    """

    include: tuple[str, ...] = Field((), max_length=MOST_PATTERNS)
    exclude: tuple[str, ...] = Field((), max_length=MOST_PATTERNS)
    gitignore: bool = False


class SegmentInfo(_Record):
    """A segment that a generation reads: its folder's name, its files, and what is in them, deleted or not."""

    name: str = Field(pattern=r"^\d{6,18}$")
    documents: int = Field(ge=1)
    chunks: int = Field(ge=0)
    files: dict[str, FileInfo]


class Manifest(_Record):
    """What a generation holds, who made it and how to tell that it is whole.

    `roots` maps the absolute path of each indexed folder or file, `stream:NAME`, and `urls:` with the path of a list of
    URLs, to its label, the first part of its documents' ids (empty for none). It is empty where the documents came from
    records instead of files. `patterns` are those of the roots that have some. `labels` are the rules for who may see
    which document (`rag.labels`). `segments` are in row order.
    """

    format_version: int
    created: datetime
    smallhold: str
    embedder: EmbedderInfo
    chunker: ChunkerInfo
    roots: dict[str, str]
    patterns: dict[str, Patterns] = {}
    labels: tuple[LabelRule, ...] = Field(max_length=MOST_RULES)
    counts: Counts
    segments: list[SegmentInfo]
    deleted: FileInfo


def read_current(directory: Path) -> str:
    """Return the name of the generation that readers should open.

    Raises `IndexMissing`, `IndexDamaged`, and `Unavailable` where it may not be read, as do all that read here.
    """
    path = directory / CURRENT
    try:
        with path.open("rb") as file:
            name = file.read(64).decode("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        if _generations(directory):
            raise IndexMissing(f"the index in {directory} has lost its file {CURRENT}", hint=LOST_HINT) from None
        raise IndexMissing(f"there is no index in {directory}", hint=INDEX_HINT) from None
    except OSError as error:
        _refuse_passing(path, error)
        raise IndexDamaged(f"{path} cannot be read: {error.strerror}", hint=DAMAGE_HINT) from error
    if not _GENERATION.fullmatch(name):
        raise IndexDamaged(f"{path} names no generation", hint=DAMAGE_HINT)
    return name


def read_latest(directory: Path) -> str:
    """Return the name of the generation that a writer goes on from: the newest one where nothing names the current one.

    Raises `IndexMissing` where there is none, and `IndexDamaged` where `CURRENT` is all that there is.
    """
    try:
        return read_current(directory)
    except (IndexMissing, IndexDamaged):
        found = _generations(directory)
        if not found:
            raise
        return max(found, key=int)


def _generations(directory: Path) -> list[str]:
    folder = directory / GENERATIONS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if _GENERATION.fullmatch(name)]


def read_synced(directory: Path) -> datetime | None:
    """Return when the index was last compared with its folders: the time of `CURRENT`; None where that is gone."""
    try:
        return datetime.fromtimestamp((directory / CURRENT).stat().st_mtime, UTC)
    except OSError:
        return None


def published_stamp(directory: Path) -> tuple[int, int, int] | None:
    """Return what changes whenever something is published, for one `stat` of `CURRENT`; None where that is gone."""
    try:
        status = (directory / CURRENT).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_manifest(generation: Path) -> Manifest:
    """Read and check the manifest of a generation. Raises `IndexDamaged`, or `IndexIncompatible` for another format."""
    path = generation / MANIFEST
    data = _read_json(path)
    summed = _has_its_sum(generation)
    version = data.get("format_version")
    if isinstance(version, int) and version not in READABLE:
        age = "an older" if version < FORMAT_VERSION else "a newer"
        read = " and ".join(map(str, READABLE))
        raise IndexIncompatible(
            f"{generation} has {age} index format ({version}; this program reads {read})", hint=REBUILD_HINT
        )
    if not summed:
        _damaged(generation / MANIFEST_SUM, "it is missing, and with it the checksum of the manifest")
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        _damaged(path, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
    for segment in manifest.segments:
        if segment.files.keys() - {CLUSTERS} != SEGMENT_FILES:
            _damaged(path, f"segment {segment.name} has other files than {', '.join(sorted(SEGMENT_FILES))}")
    if len({segment.name for segment in manifest.segments}) < len(manifest.segments):
        _damaged(path, "it names a segment twice")
    return manifest


def manifest_sum(content: bytes) -> str:
    """Return what `manifest.sha256` holds for a manifest, in the form that `sha256sum -c` reads."""
    return f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n"


def _has_its_sum(generation: Path) -> bool:
    """Compare the manifest with its checksum; False where there is none, as in format version 1."""
    path = generation / MANIFEST_SUM
    try:
        with path.open("rb") as file:
            expected = file.read(200)
        if expected != manifest_sum((generation / MANIFEST).read_bytes()).encode("ascii"):
            _damaged(generation / MANIFEST, f"its content differs from its checksum in {MANIFEST_SUM}")
    except FileNotFoundError:
        return False
    except OSError as error:
        _refuse_passing(path, error)
        _damaged(path, error.strerror or "it cannot be read")
    return True


def read_deleted(generation: Path, manifest: Manifest) -> dict[str, list[int]]:
    """Return the numbers of the deleted documents by segment, ascending. Raises `IndexDamaged`."""
    verify_files(generation, {DELETED: manifest.deleted})
    found = _read_json(generation / DELETED)
    documents = {segment.name: segment.documents for segment in manifest.segments}
    for name, numbers in found.items():
        whole = isinstance(numbers, list) and all(type(number) is int for number in numbers)
        if not whole or numbers != sorted({n for n in numbers if 0 <= n < documents.get(name, 0)}):
            _damaged(generation / DELETED, f"segment {name[:20]}: it names documents that are not there")
    return found


def read_roots(directory: Path) -> dict[str, str]:
    """Return the roots of an index that need not be readable otherwise; empty where they cannot be told."""
    try:
        roots = _latest_manifest(directory).get("roots")
    except (IndexMissing, IndexDamaged):
        return {}
    known = roots if isinstance(roots, dict) else {}
    return {path: label for path, label in known.items() if isinstance(label, str)}


def read_patterns(directory: Path) -> dict[str, Patterns]:
    """Return the patterns of the roots of `read_roots`; empty where they cannot be told."""
    try:
        found = _latest_manifest(directory).get("patterns", {})
        return TypeAdapter(dict[str, Patterns]).validate_python(found)
    except (IndexMissing, IndexDamaged, ValidationError):
        return {}


def _latest_manifest(directory: Path) -> dict[str, Any]:
    """Return what the manifest of the newest generation holds, without its checksum. Raises as `read_latest`."""
    while True:
        name = read_latest(directory)
        try:
            return _read_json(directory / GENERATIONS / name / MANIFEST)
        except IndexDamaged:
            # A writer may have published and removed this generation since its name was read.
            if read_latest(directory) == name:
                raise


def read_label_rules(directory: Path) -> tuple[LabelRule, ...]:
    """Return the label rules of an index that need not be readable otherwise, none where there is no index.

    Raises `InvalidRequest` where they cannot be told: an index made anew without them would show what they hid.
    """
    try:
        name = read_latest(directory)
    except (IndexMissing, IndexDamaged):
        return ()
    try:
        return TypeAdapter(tuple[LabelRule, ...]).validate_python(_stored_label_rules(directory / GENERATIONS / name))
    except (IndexDamaged, ValidationError) as error:
        raise InvalidRequest(
            f"the index in {directory} is damaged, so that nobody knows what its label rules were",
            hint="Give them with --labels FILE; an empty file, where there were none.",
        ) from error


def _stored_label_rules(generation: Path) -> object:
    """Return what a manifest holds for `labels`. Raises `IndexDamaged` where it is not as it was written."""
    path = generation / MANIFEST
    data = _read_json(path)
    if data.get("format_version") == _UNSUMMED:
        return data.get("labels", [])
    if not _has_its_sum(generation):
        _damaged(generation / MANIFEST_SUM, "it is missing, and with it the checksum of the manifest")
    return data.get("labels")


def verify_files(folder: Path, files: Mapping[str, FileInfo]) -> None:
    """Compare files with their checksums, several at once. Raises `IndexDamaged` naming the first that differs."""
    for reason in damages(folder, files):
        raise IndexDamaged(f"the index is damaged: {reason}", hint=DAMAGE_HINT)


def damages(folder: Path, files: Mapping[str, FileInfo]) -> Iterable[str]:
    """Say of each file that differs from its checksum which it is and what is wrong."""
    # Large files cost 4 s a GB on a core without SHA instructions; hashlib leaves the other cores to other threads.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: _damage(folder / name, files[name]), sorted(files))
        return [reason for reason in found if reason]


def _damage(path: Path, expected: FileInfo) -> str:
    try:
        if (size := path.stat().st_size) != expected.bytes:
            return f"{path}: it has {size} bytes instead of {expected.bytes}"
        same = describe_file(path).sha256 == expected.sha256
    except OSError as error:
        _refuse_passing(path, error)
        return f"{path}: {error.strerror or 'it cannot be read'}"
    return "" if same else f"{path}: its content differs from its checksum"


def describe_file(path: Path) -> FileInfo:
    """Return size and SHA-256 of a file. Raises `OSError`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileInfo(sha256=digest, bytes=file.tell())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            _damaged(path, f"it is larger than {_MAX_JSON_BYTES} bytes")
        data = json.loads(path.read_bytes())
    except OSError as error:
        _refuse_passing(path, error)
        _damaged(path, error.strerror or "it cannot be read")
    except (ValueError, RecursionError):
        _damaged(path, "it is not JSON")
    if not isinstance(data, dict):
        _damaged(path, "it is not a JSON object")
    return data


def _refuse_passing(path: Path, error: OSError) -> None:
    """Raise `Unavailable` for what says nothing of a file: a repair must not drop what this user may not read."""
    if error.errno in _PASSING:
        raise Unavailable(
            f"the index cannot be read: {path}: {error.strerror}",
            hint="It may be whole: run it as a user who may read it, or once less is going on.",
        ) from error


def _damaged(path: Path, reason: str) -> NoReturn:
    raise IndexDamaged(f"the index is damaged: {path}: {reason}", hint=DAMAGE_HINT)

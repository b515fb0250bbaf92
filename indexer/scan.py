"""Which files belong in the index: the indexed roots, their labels and patterns, and what lies beneath them."""

import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from indexer.archive import SUFFIXES as ARCHIVES
from indexer.archive import TOTAL_BYTES
from indexer.ignore import IGNORE_FILE, Ignore
from indexer.load_image import NEEDS_OCR, PICTURES
from indexer.parsed import FILE_BYTES, excess
from rag.errors import InvalidRequest
from rag.manifest import Patterns

URLS = "urls:"  # what the root of a list of URLs begins with; its path follows


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to index. `root` is the absolute path of the root that it was found under.

    `address` is that of the page whose content the file holds, "" where it is a file of its own.
    """

    path: Path
    document_id: str
    root: str
    address: str = ""

    @property
    def name(self) -> str:
        """What a report calls it."""
        return self.address or printable(self.path)

    @property
    def uri(self) -> str:
        """Where a person finds it."""
        return self.address or self.path.as_uri()


class Place(NamedTuple):
    """A file or folder below a root, by the id that its document has, or that theirs begin with; "" is all of it."""

    root: str
    id: str

    @classmethod
    def around(cls, root: str, document_id: str) -> Iterator["Place"]:
        """Yield the places that a document stands in, its own first."""
        while document_id:
            yield cls(root, document_id)
            document_id = document_id.rpartition("/")[0]
        yield cls(root, "")


@dataclass(slots=True)
class Scan:
    """What a walk over the roots found. `skipped` and `failed` hold paths with the reason.

    `excluded` are the files and folders that patterns leave out, folders with a `/` at the end and without what is in
    them. `unseen` are those of the failed that could not be looked at, or into: nobody knows what is there. `mounts`
    are the folders in which another file system begins.
    """

    files: list[FoundFile] = field(default_factory=list)
    unseen: list[Place] = field(default_factory=list)
    mounts: list[Path] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RootPlan:
    """`labels` maps every root of the new index to its label, `sync` lists those to look through now.

    `patterns` are those of the roots that have some.
    """

    labels: dict[str, str]
    sync: list[str]
    patterns: dict[str, Patterns] = field(default_factory=dict)


def is_path(root: str) -> bool:
    """Whether a root is a file or a folder, and neither a stream nor a list of URLs."""
    return os.path.isabs(root)  # noqa: PTH117  # a `Path` of it would mangle what is no path


def plan_roots(
    known: Mapping[str, str],
    given: Sequence[Path],
    remove: Sequence[Path | str] = (),
    taken: Iterable[str] = (),
    others: Mapping[str, str] | None = None,
) -> RootPlan:
    """Decide the roots of the new index from those `known` (path to label).

    A given path inside a known root means that root; a given folder around known roots takes their place. `others`
    are given roots that are no paths, with the labels that they would like to have, "" for none. With nothing given
    and nothing to remove, all known files and folders are looked through again. `taken` are the first parts of ids in
    use, which no new label may equal. Raises `InvalidRequest` for a path or root that does not exist.
    """
    others = others or {}
    labels = dict(known)
    for path in remove:
        _forget(labels, path)
    wanted = [_existing(path) for path in given]
    if not given and not remove and not others:
        wanted = [_existing(Path(root)) for root in labels if is_path(root)]
        if not wanted:
            raise InvalidRequest(
                "there is nothing to index",
                hint="Name a file or a folder: smallhold index PATH. Lists of URLs need --allow-urls.",
            )
    sync: dict[str, None] = {}
    for path in wanted:
        around = next((root for root in labels if path.is_relative_to(root)), None)
        if around is None:
            for inside in [root for root in labels if Path(root).is_relative_to(path)]:
                del labels[inside]
                sync.pop(inside, None)
            around = str(path)
            labels[around] = _label(path, labels, taken)
        sync[around] = None
    for root, label in others.items():
        if root not in labels:
            used = {*labels.values(), *taken}
            labels[root] = next(name for name in _numbered(label) if name not in used) if label else ""
        sync[root] = None
    return RootPlan(labels, list(sync))


def plan_patterns(
    plan: RootPlan, known: Mapping[str, Patterns], given: Patterns | None, remove: Sequence[Path | str] = ()
) -> RootPlan:
    """Return the plan with its patterns: those `given` for the roots to be looked through, else those `known`.

    Raises `InvalidRequest` where none are given and a root that takes the place of others would lose theirs: what they
    keep out would come in.
    """
    kept = {root: patterns for root, patterns in known.items() if root in plan.labels}
    if given is not None:
        kept |= dict.fromkeys(filter(is_path, plan.sync), given)
    else:
        removed = {str(resolved(path)) for path in remove}
        for lost in known.keys() - kept.keys() - removed:
            raise InvalidRequest(
                f"{lost} has patterns of its own, and would be indexed as a part of a folder without any",
                hint="Say which: --include, --exclude or --gitignore, relative to that folder; or --no-patterns.",
            )
    return replace(plan, patterns={root: patterns for root, patterns in kept.items() if patterns != Patterns()})


def find_files(
    plan: RootPlan,
    suffixes: frozenset[str],
    exclude: Path,
    owners: Mapping[str, str],
    known: Collection[str] = (),
) -> Scan:
    """Walk the roots to be looked through for files of the supported `suffixes` (lower case, with the dot).

    `owners` maps ids that are in use by documents of other roots to those roots: no file can have them too. `known` are
    the ids of documents that the index holds: pictures that were read once are found though nothing reads them now.

    Hidden files and folders and everything in `exclude` are left out silently. Symbolic links are not followed: what
    they point to inside the root is found anyway, what lies outside is not asked for. Raises `DataError` for patterns
    that cannot be understood.
    """
    scan = Scan()
    owner = dict(owners)
    for root in filter(is_path, plan.sync):

        def unseen(path: Path, error: OSError, root: str = root) -> None:
            scan.failed.append((printable(path), error.strerror or "it cannot be looked at"))
            below = "" if str(path) == root else document_id_of(path, Path(root), plan.labels[root])
            scan.unseen.append(Place(root, below))

        for path in _walk(Path(root), exclude, plan.patterns.get(root, Patterns()), scan, unseen):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # it went away after its folder was listed
            except OSError as error:
                unseen(path, error)
                continue
            document_id = document_id_of(path, Path(root), plan.labels[root])
            if reason := _unsuitable(path, status, suffixes | PICTURES if document_id in known else suffixes):
                scan.skipped.append((printable(path), reason))
                continue
            if reason := excess(status.st_size, TOTAL_BYTES if path.suffix.lower() in ARCHIVES else FILE_BYTES):
                scan.failed.append((printable(path), reason))  # told before the whole of it is hashed
            elif not _is_utf8(document_id):
                scan.failed.append((printable(path), "its name is not valid UTF-8; rename it"))
            elif document_id in owner:
                reason = f"its id {document_id!r} belongs to {owner[document_id]}; rename one of them"
                scan.failed.append((printable(path), reason))
            else:
                owner[document_id] = printable(path)
                scan.files.append(FoundFile(path, document_id, root))
    return scan


def printable(path: Path | str) -> str:
    """Return a path, or a part of one, as text that can be printed and stored, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def resolved(path: Path | str) -> Path:
    """Return where a path leads, whether something is there or not; one that leads in a circle leads nowhere.

    `Path.resolve` raises `RuntimeError` for a circle of symbolic links.
    """
    return Path(os.path.realpath(path))


def names_of_root(path: Path | str) -> tuple[str, str, str]:
    """What a root to be removed may be among the roots of an index, the likeliest first."""
    found = str(resolved(path))
    return str(path), found, URLS + found


def _forget(labels: dict[str, str], path: Path | str) -> None:
    names = names_of_root(path)
    root = next((name for name in names if name in labels), names[1])
    if labels.pop(root, None) is None:
        roots = ", ".join(labels) or "none"
        raise InvalidRequest(f"{root} is not among the indexed paths", hint=f"Indexed are: {roots}")


def _existing(path: Path) -> Path:
    try:
        found = path.resolve(strict=True)
    except PermissionError as error:
        raise InvalidRequest(
            f"{printable(path)} cannot be looked at: {error.strerror}; the index was left as it is",
            hint="May you enter the folders above it? Ask for the permission, or run it as a user who has it.",
        ) from error
    except (OSError, RuntimeError) as error:
        raise InvalidRequest(
            f"there is no file or folder {printable(path)}",
            hint="If it was indexed before and is gone for good: smallhold index --remove PATH",
        ) from error
    if not _is_utf8(str(found)):
        raise InvalidRequest(
            f"the path {printable(found)} is not valid UTF-8, and no index can hold it",
            hint="Rename the file or folder that has these bytes in its name.",
        )
    return found


def _label(path: Path, labels: Mapping[str, str], taken: Iterable[str]) -> str:
    """The first root needs no label, nor does a single file whose name is free; others take their folder's name."""
    files = {Path(root).name for root, label in labels.items() if not label and Path(root).is_file()}
    used = {*labels.values(), *taken, *files}
    if not labels or (path.is_file() and path.name not in used):
        return ""
    name = (path.parent if path.is_file() else path).name or "root"
    # A folder's name may hold bytes that are no text, and must not look hidden.
    base = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "root"
    return next(label for label in _numbered(base) if label not in used)


def _numbered(base: str) -> Iterator[str]:
    yield base
    number = 2
    while True:
        yield f"{base}-{number}"
        number += 1


def _walk(
    root: Path, exclude: Path, patterns: Patterns, scan: Scan, unseen: Callable[[Path, OSError], None]
) -> Iterator[Path]:
    """Yield the files below a root, or the root that is one; `unseen` is told which folders cannot be listed."""
    if not root.is_dir():
        yield root
        return
    ignore = Ignore(root, patterns)

    def left_out(path: Path, folder: bool) -> bool:
        out = ignore.leaves_out(path, folder=folder)
        if out:
            scan.excluded.append(printable(path) + "/" * folder)
        return out

    # A list instead of `os.walk`, which calls itself once a level and ends with `RecursionError` in a deep tree.
    waiting: list[tuple[Path, int | None]] = [(root, None)]
    while waiting:
        here, disk_above = waiting.pop()
        try:
            disk = here.lstat().st_dev
            with suppress(FileNotFoundError):  # a folder that may be listed and not entered tells nothing of its files
                (here / IGNORE_FILE).lstat()
            with os.scandir(here) as entries:
                found = sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            unseen(here, error)
            continue
        yield from (here / name for name, folder in found if not folder and not left_out(here / name, False))
        folders = [here / name for name, folder in found if folder and here / name != exclude]
        waiting += [(path, disk) for path in folders if not left_out(path, True)][::-1]
        if disk_above not in (None, disk):
            scan.mounts.append(here)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, and no link to one."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _unsuitable(path: Path, status: os.stat_result, suffixes: frozenset[str]) -> str:
    """Say why a path is no document, empty where it may be one."""
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        return "it is a symbolic link; index what it points to by its own path"
    if not stat.S_ISREG(mode):
        return "it is not a regular file"
    if path.suffix.lower() not in suffixes:
        if path.suffix.lower() in PICTURES:
            return NEEDS_OCR
        suffix = printable(path.suffix)
        return f"no loader for files named *{suffix}" if suffix else "no loader for files without a suffix"
    return ""


def document_id_of(path: Path, root: Path, label: str) -> str:
    """Return the id of the document that a file below a root becomes, given the root's label."""
    relative = path.name if path == root else path.relative_to(root).as_posix()
    return f"{label}/{relative}" if label else relative


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

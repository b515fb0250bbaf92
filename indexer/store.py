"""Writing an index directory: whole generations, published atomically by one writer at a time."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from indexer.scratch import sweep
from rag.errors import IndexLocked, InvalidRequest, SmallholdError, Unavailable
from rag.labels import LabelRule
from rag.manifest import (
    CURRENT,
    DELETED,
    FORMAT_VERSION,
    GENERATIONS,
    LOCK,
    MANIFEST,
    MANIFEST_SUM,
    SEGMENTS,
    ChunkerInfo,
    Counts,
    EmbedderInfo,
    Manifest,
    Patterns,
    SegmentInfo,
    describe_file,
    manifest_sum,
    read_current,
    read_manifest,
)

_STAGING = ".staging"
_NEXT = f".{CURRENT}"
_POLL_SECONDS = 0.2  # between two looks at whether another writer has ended


class IndexWriter:
    """The exclusive right to write an index directory; use it as a context manager.

    Entering raises `IndexLocked` where another process writes, for `wait` seconds at least, `InvalidRequest` where the
    directory is someone else's, and removes what a killed writer left behind, unless `keep_leftovers`, which a repair
    wants to look at. Leaving an unpublished run leaves the old index untouched. `waiting` is called where it waits.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_leftovers: bool = False,
        wait: float = 0.0,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = directory
        self._keep_leftovers = keep_leftovers
        self._wait = wait
        self._waiting = waiting
        self._lock = FileLock(directory / LOCK)

    def __enter__(self) -> "IndexWriter":
        with self.guard():
            refuse_foreign(self.directory)
            _make_folder(self.directory)
            self._acquire()
            try:
                if not self._keep_leftovers:
                    self._remove_leftovers()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a hidden folder to write segments into; it is removed with what `publish` has not taken."""
        with self.guard():
            folder = self.directory / _STAGING
            shutil.rmtree(folder, ignore_errors=True)
            (folder / SEGMENTS).mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def new_segment(self, folder: Path) -> str:
        """Return a name that no segment has, published or in the staged `folder`."""
        names = [path.name for parent in (self.directory, folder) for path in _numbered(parent / SEGMENTS)]
        return f"{max(map(int, names), default=0) + 1:06d}"

    def publish(
        self,
        folder: Path,
        *,
        segments: Sequence[SegmentInfo],
        deleted: Mapping[str, Collection[int]],
        embedder: EmbedderInfo,
        chunker: ChunkerInfo,
        roots: Mapping[str, str],
        patterns: Mapping[str, Patterns],
        labels: Sequence[LabelRule],
        counts: Counts,
    ) -> str:
        """Make segments, published ones and some of the staged `folder`, the current generation, and return its name.

        `deleted` holds the numbers of deleted documents by the segment's name. The switch is the replacement of
        `CURRENT`: a crash before it leaves the old generation current, one after it the new one. Everything is on disk
        before the switch; what no generation needs is removed after it. Raises `Unavailable` where the disk refuses.
        """
        with self.guard():
            generation = folder / "generation"
            generation.mkdir()
            numbers = {name: sorted(found) for name, found in sorted(deleted.items()) if found}
            (generation / DELETED).write_text(json.dumps(numbers) + "\n", encoding="ascii")
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                created=datetime.now(UTC).replace(microsecond=0),
                smallhold=_program_version(),
                embedder=embedder,
                chunker=chunker,
                roots=dict(roots),
                patterns=dict(patterns),
                labels=tuple(labels),
                counts=counts,
                segments=list(segments),
                deleted=describe_file(generation / DELETED),
            )
            content = (manifest.model_dump_json(indent=2, exclude_defaults=True) + "\n").encode()
            (generation / MANIFEST).write_bytes(content)
            (generation / MANIFEST_SUM).write_bytes(manifest_sum(content).encode("ascii"))
            self._place_segments(folder, [segment.name for segment in segments])
            _sync_tree(generation)
            name = self._next_name()
            generations = self.directory / GENERATIONS
            generations.mkdir(exist_ok=True)
            generation.rename(generations / name)
            _sync(generations)
            self._switch(name)
            self._tidy()
        return name

    def confirm(self, name: str) -> None:
        """Note, as the time of `CURRENT`, that this generation is what its folders hold now: the one that it names."""
        with self.guard():
            if (self.directory / CURRENT).exists():
                os.utime(self.directory / CURRENT)
            else:  # it was lost
                self._switch(name)

    def switch(self, name: str) -> None:
        """Make a generation that is there already the current one, and remove what it does not need."""
        with self.guard():
            self._switch(name)
            self._tidy()

    def _place_segments(self, folder: Path, names: Collection[str]) -> None:
        """Move the staged segments that are among `names` to the published ones, on disk when this returns."""
        segments = self.directory / SEGMENTS
        segments.mkdir(exist_ok=True)
        for path in sorted((folder / SEGMENTS).iterdir()):
            if path.name in names:
                _sync_tree(path)
                path.rename(segments / path.name)
        _sync(segments)

    def _switch(self, name: str) -> None:
        temporary = self.directory / _NEXT
        temporary.write_text(name + "\n", encoding="ascii")
        _sync(temporary)
        temporary.replace(self.directory / CURRENT)
        _sync(self.directory)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Translate what a disk can refuse while the index is written."""
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"cannot write the index in {self.directory}: {error.strerror or error}",
                hint="The index that was there is untouched. Make room or make the folder writable, then run it again.",
            ) from error

    def _acquire(self) -> None:
        path = self.directory / LOCK
        try:
            self._lock_within(self._wait)
        except Timeout:
            holder = path.read_text(encoding="ascii", errors="replace").strip()[:20]
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise IndexLocked(
                f"{who} is writing the index in {self.directory}", hint="Wait for it to finish, then run this again."
            ) from None
        path.write_text(f"{os.getpid()}\n", encoding="ascii")

    def _lock_within(self, seconds: float) -> None:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            if not seconds:
                raise
            self._waiting()
            self._lock.acquire(timeout=seconds, poll_interval=_POLL_SECONDS)

    def _next_name(self) -> str:
        numbers = [int(path.name) for path in _numbered(self.directory / GENERATIONS)]
        with suppress(SmallholdError):
            numbers.append(int(read_current(self.directory)))
        return f"{max(numbers, default=0) + 1:06d}"

    def _tidy(self) -> None:
        """Remove what has been replaced. What the disk refuses to give up, the next writer tries again, and tells."""
        with suppress(OSError):
            self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove what the current generation does not need: nothing, where it cannot be told what it needs."""
        (self.directory / _NEXT).unlink(missing_ok=True)
        sweep(self.directory)
        if (self.directory / _STAGING).exists():
            shutil.rmtree(self.directory / _STAGING)
        try:
            current = read_current(self.directory)
            needed = {segment.name for segment in read_manifest(self.directory / GENERATIONS / current).segments}
        except SmallholdError:
            return  # `repair` may need it all, and the next publication settles it.
        for path in _numbered(self.directory / GENERATIONS):
            if path.name != current:
                shutil.rmtree(path)
        for path in _numbered(self.directory / SEGMENTS):
            if path.name not in needed:
                shutil.rmtree(path)


def _numbered(folder: Path) -> list[Path]:
    """The generations or segments in a folder; what someone else has put there is left alone."""
    return [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []


def refuse_foreign(directory: Path) -> None:
    """Raise `InvalidRequest` where a folder holds other things than an index.

    A mistyped `--index` must not fill someone's folder, nor take it for an index. One that has lost `CURRENT` is an
    index still, whatever else lies in it: `fusion.toml` does.
    """
    if (directory / CURRENT).exists() or not directory.is_dir():
        return
    if any((generation / MANIFEST).is_file() for generation in _numbered(directory / GENERATIONS)):
        return
    others = [
        p.name
        for p in directory.iterdir()
        if p.name not in {GENERATIONS, SEGMENTS, LOCK} and not p.name.startswith(".")
    ]
    if others:
        raise InvalidRequest(
            f"{directory} is no index, and holds other things ({others[0]!r})",
            hint="Name a new or empty folder for the index.",
        )


def _make_folder(path: Path) -> None:
    """Make a folder, with those above it that are missing, on disk when this returns."""
    missing = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        with suppress(PermissionError):  # one that may be written to and not read cannot be opened
            _sync(made.parent)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Force a file or folder to disk."""
    if path.is_dir() and sys.platform == "win32":
        return  # Windows cannot open folders.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _program_version() -> str:
    try:
        return version("smallhold")
    except PackageNotFoundError:
        return "uninstalled"

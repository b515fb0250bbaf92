"""Archives to plain files: members are written under numbers into a folder of ours, never under their own names.

So no name can lead out of the folder. What is unpacked is counted as it comes, whatever the archive says of itself:
bytes in all, the ratio to what is packed, members, and archives in archives.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, cast

from indexer.load_image import NEEDS_OCR, PICTURES
from indexer.parsed import FILE_BYTES
from rag.errors import UnreadableDocument

TOTAL_BYTES = 1_000_000_000
MEMBERS = 20_000  # those that are no documents included
DEEPEST = 3
RATIO = 200  # the most that text comes to in earnest is about 100
_RATIO_FROM = 10_000_000  # bytes: what is smaller does no harm, however well it packs
_PIECE = 1 << 20
_TAR = (".tar", ".tgz", ".tbz2", ".txz")
_COMPRESSED = (".gz", ".bz2", ".xz")
SUFFIXES = frozenset((".zip", *_TAR, *_COMPRESSED))
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError, OSError,
)  # fmt: skip
_SAYS_UTF8 = 0x800
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(slots=True)
class Unpacked:
    """What came out: for each member its path in the archive and the name of its file; what was left out, and why."""

    members: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def unpack(path: Path, folder: Path, suffixes: frozenset[str]) -> Unpacked:
    """Unpack the documents of the archive at `path`, those with one of `suffixes`, into the empty `folder`.

    Archives in it are unpacked too, their members named `inner.zip/path`. Raises `UnreadableDocument` where it is
    damaged, where it unpacks to more than the bounds, and `OSError` where the disk is full.
    """
    return _Unpacking(path, folder, suffixes).run()


class _Unpacking:
    def __init__(self, path: Path, folder: Path, suffixes: frozenset[str]) -> None:
        self._path = path
        self._folder = folder
        self._suffixes = suffixes
        self._left = min(TOTAL_BYTES, max(_RATIO_FROM, RATIO * path.stat().st_size))
        self._changed = path.stat().st_mtime
        self._seen = 0
        self._names: set[str] = set()
        self._unpacked = Unpacked()

    def run(self) -> Unpacked:
        with self._path.open("rb") as file:
            self._open(file, self._path.name, "", 1)
        return self._unpacked

    def _open(self, file: IO[bytes], name: str, prefix: str, depth: int) -> None:
        """Unpack one archive, all that is inside it being named with `prefix`."""
        try:
            if name.lower().endswith(".zip"):
                self._open_zip(file, prefix, depth)
            else:
                self._open_stream(file, name, prefix, depth)
        except UnreadableDocument:
            raise
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UnreadableDocument(f"damaged archive{f' {prefix[:-1]} in it' if prefix else ''}") from error

    def _open_zip(self, file: IO[bytes], prefix: str, depth: int) -> None:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                name = _zip_name(info)
                mode = info.external_attr >> 16
                if reason := self._unsuitable(name, prefix, info.file_size):
                    self._skip(prefix + name, reason)
                elif stat.S_ISLNK(mode):
                    self._skip(prefix + name, "it is a link")
                elif info.flag_bits & 1:
                    self._skip(prefix + name, "it is encrypted: a password is needed")
                else:
                    with archive.open(info) as member:
                        self._take(member, name, prefix, depth, changed=_zip_time(info))

    def _open_stream(self, file: IO[bytes], name: str, prefix: str, depth: int) -> None:
        with _decompressed(file, name) as plain:
            bounded = cast("IO[bytes]", _Bounded(plain, self))
            stem = PurePosixPath(name).stem
            if name.lower().endswith(_TAR) or stem.lower().endswith(".tar"):
                self._open_tar(bounded, prefix, depth)
            elif reason := self._unsuitable(stem, prefix, 0):
                self._skip(prefix + stem, reason)
            else:
                self._take(bounded, stem, prefix, depth, counted=True)

    def _open_tar(self, file: IO[bytes], prefix: str, depth: int) -> None:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                if info.isdir():
                    self._count()
                    continue
                if reason := self._unsuitable(info.name, prefix, info.size):
                    self._skip(prefix + info.name, reason)
                elif not info.isreg():
                    self._skip(prefix + info.name, "it is a link" if info.issym() or info.islnk() else "it is no file")
                elif member := archive.extractfile(info):
                    # The holes of a sparse file are in no stream: what comes out of it is all that can be counted.
                    changed = float(info.mtime) or None
                    self._take(member, info.name, prefix, depth, counted=not info.issparse(), changed=changed)

    def _unsuitable(self, name: str, prefix: str, size: int) -> str | None:
        """Say why a member is no document, None where it may be one. Counts the member."""
        self._count()
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or _DRIVE.match(parts[0]) or not name.isprintable():
            return "its path leads out of the archive, or is no text"
        path = prefix + "/".join(parts)
        suffix = PurePosixPath(path).suffix.lower()
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            return "it is hidden"
        if suffix not in self._suffixes and suffix in PICTURES:
            return NEEDS_OCR
        if suffix not in self._suffixes and suffix not in SUFFIXES:
            return f"no loader for files named *{suffix}" if suffix else "no loader for files without a suffix"
        if size > FILE_BYTES:
            return f"too large: {size / 1e6:.0f} MB, the limit is {FILE_BYTES // 1_000_000} MB"
        if path in self._names:
            return "there is another file of that name in the archive"
        self._names.add(path)
        return None

    def _count(self) -> None:
        self._seen += 1
        if self._seen > MEMBERS:
            raise UnreadableDocument(f"refused: more than {MEMBERS} files in the archive")

    def _skip(self, name: str, reason: str) -> None:
        if reason != "it is hidden":
            readable = name.encode("utf-8", "backslashreplace").decode()
            self._unpacked.skipped.append((readable, reason))

    def _take(
        self,
        member: IO[bytes],
        name: str,
        prefix: str,
        depth: int,
        *,
        counted: bool = False,
        changed: float | None = None,
    ) -> None:
        path = prefix + "/".join(PurePosixPath(name.replace("\\", "/")).parts)
        suffix = PurePosixPath(path).suffix.lower()
        target = self._folder / f"{self._seen}{suffix}"
        fits = self._copy(member, target, counted)
        os.utime(target, (self._changed, self._changed))
        if changed is not None:
            with suppress(OSError, OverflowError, ValueError):  # a time that no file system holds
                os.utime(target, (changed, changed))
        if fits and suffix not in SUFFIXES:
            self._unpacked.members.append((path, target.name))
            return
        if fits:
            self._open_inner(target, path, depth)
        else:
            self._skip(path, f"too large, the limit is {FILE_BYTES // 1_000_000} MB")
        target.unlink()

    def _copy(self, member: IO[bytes], target: Path, counted: bool) -> bool:
        """Copy a member into a file; say whether it fits in the bounds of one."""
        with target.open("xb") as file:
            while piece := member.read(_PIECE):
                if not counted:
                    self.spend(len(piece))
                if file.tell() + len(piece) > FILE_BYTES:
                    return False
                file.write(piece)
        return True

    def _open_inner(self, file: Path, path: str, depth: int) -> None:
        if depth >= DEEPEST:
            self._skip(path, f"archives are opened {DEEPEST} deep")
            return
        with file.open("rb") as inner:
            try:
                self._open(inner, path, f"{path}/", depth + 1)
            except UnreadableDocument as error:
                if error.message.startswith("refused"):
                    raise
                self._skip(path, error.message)

    def spend(self, size: int) -> None:
        """Count unpacked bytes. Raises `UnreadableDocument` where there are too many."""
        self._left -= size
        if self._left < 0:
            raise UnreadableDocument(
                f"refused: it unpacks to more than {TOTAL_BYTES // 1_000_000} MB or {RATIO} times its size"
            )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """A member's name. Programs, macOS's among them, write UTF-8 without a word; `zipfile` takes it for DOS's."""
    if info.flag_bits & _SAYS_UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _zip_time(info: zipfile.ZipInfo) -> float | None:
    """When a member was changed, in seconds, None where the archive does not say; its clock's zone is not known."""
    year, month, day, *_ = info.date_time
    try:
        return None if year == 1980 else datetime(year, month, day, 12, tzinfo=UTC).timestamp()
    except ValueError:
        return None


class _Bounded(io.RawIOBase):
    """A stream that counts what is read of it; `tarfile` takes a head's own word for how long the head is."""

    def __init__(self, file: IO[bytes], unpacking: _Unpacking) -> None:
        self._file = file
        self._unpacking = unpacking

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, all of a piece's worth where it is negative."""
        piece = self._file.read(size if 0 <= size <= _PIECE else _PIECE)
        self._unpacking.spend(len(piece))
        return piece


@contextmanager
def _decompressed(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    lower = name.lower()
    if lower.endswith((".gz", ".tgz")):
        with gzip.GzipFile(fileobj=file) as stream:
            yield cast("IO[bytes]", stream)
    elif lower.endswith((".bz2", ".tbz2")):
        with bz2.BZ2File(file) as stream:
            yield cast("IO[bytes]", stream)
    elif lower.endswith((".xz", ".txz")):
        with lzma.LZMAFile(file) as stream:
            yield cast("IO[bytes]", stream)
    else:
        yield file

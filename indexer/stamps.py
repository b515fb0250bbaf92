"""The checksums of source files that have not been touched since, so that a run need not read them all.

And where disks are mounted among them (`indexer.mounts`).
"""

import json
import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from rag.checksums import read_json
from rag.manifest import FileInfo, describe_file

_NAME = ".stamps"
# A file that is written twice within one tick of its file system's clock (2 s on FAT) has the same times twice.
_SETTLED_NS = 2_000_000_000


class Stamps:
    """Checksums by path, with size and times of the file, in a JSON file of the index directory.

    A stamp counts while size, modification and change time are what they were, as in git's index; other content under
    old times, which only a clock set back can make, is found by `--rebuild`. Damaged or lost, it costs only time.
    """

    def __init__(self, directory: Path, *, empty: bool = False) -> None:
        """`empty` begins without those that are there, so that every file is read."""
        self._path = directory / _NAME
        self._stored = read_json(self._path)
        self._known = {} if empty else self._stored
        self._seen: dict[str, dict[str, object]] = {}

    def describe(self, path: Path) -> FileInfo:
        """Return size and SHA-256 of a file, without reading it where its stamp counts. Raises `OSError`."""
        status = path.stat()
        times = [status.st_mtime_ns, status.st_ctime_ns]
        known = self._known.get(str(path))
        if isinstance(known, dict) and known.get("times") == times and known.get("bytes") == status.st_size:
            with suppress(ValidationError):
                info = FileInfo.model_validate({"sha256": known.get("sha256"), "bytes": status.st_size})
                self._seen[str(path)] = known
                return info
        info = describe_file(path)
        if info.bytes == status.st_size and max(times) < time.time_ns() - _SETTLED_NS:
            self._seen[str(path)] = {"times": times, **info.model_dump()}
        return info

    def mounts(self) -> list[Path]:
        """Return the folders that are known to have had a disk mounted in them."""
        return [Path(path) for path, known in self._stored.items() if isinstance(known, dict) and "mount" in known]

    def note_mount(self, folder: Path) -> None:
        """Remember that a disk is mounted in a folder."""
        self._seen[str(folder)] = {"mount": True}

    def save(self, others: Collection[str]) -> None:
        """Keep the stamps of files that were described, and of those below the roots `others`. Raises `OSError`."""
        below = tuple(root.rstrip(os.sep) + os.sep for root in others)
        kept = {path: stamp for path, stamp in self._known.items() if path.startswith(below) or path in others}
        stamps = kept | self._seen
        if stamps != self._stored:
            beside = self._path.with_suffix(".tmp")
            beside.write_text(json.dumps(stamps), encoding="utf-8")
            beside.replace(self._path)

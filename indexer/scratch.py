"""Folders for what a run needs only while it goes on. What a killed run has left, a later one removes."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock, Timeout

from rag.errors import Unavailable

_PREFIX = ".smallhold-pages-"
_LOCK = "lock"  # held by the process that the folder belongs to: the system lets go of it with the process


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Give a new folder below `parent`, which is removed at the block's end, and by `sweep` where that is not reached.

    Raises `Unavailable` where the disk refuses.
    """
    sweep(parent)
    try:
        folder, lock = _claimed(parent)
    except OSError as error:
        raise Unavailable(
            f"no folder for temporary files can be made in {parent}: {error.strerror or error}",
            hint="Make room, or make the folder writable.",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def sweep(parent: Path) -> None:
    """Remove from `parent` the folders that no process uses any more, as far as they are this user's."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != _user():
                continue
            with FileLock(folder / _LOCK, blocking=False):
                shutil.rmtree(folder, ignore_errors=True)


def _claimed(parent: Path) -> tuple[Path, FileLock]:
    while True:
        folder = Path(mkdtemp(prefix=_PREFIX, dir=parent))
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):
            continue  # swept away before it was locked
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder, lock


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0

"""Keeping an index like its folders while they change.

watchfiles tells that something has changed below a root, and the root is then brought up to date as a whole: what
exactly happened, in which order and how often, is never relied upon. A root is also brought up to date whenever a
watch on it begins, for nobody saw what happened before.

A root that is not there, or is empty, is waited for, from the beginning on. An unmounted disk looks like that, and so
does a folder that is being replaced: neither means that its documents have been deleted.
"""

import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchfiles import Change, watch

from indexer.ignore import GITIGNORE_FILE, IGNORE_FILE, Ignore
from rag.errors import DataError, IndexLocked, SmallholdError, Unavailable
from rag.manifest import Patterns

QUIET_SECONDS = 1.0  # without further changes, before a change is acted upon
DEBOUNCE_SECONDS = 30.0
_LOOK_SECONDS = 1.0  # between two looks at whether roots are still there
_POLL_SECONDS = 1.0
# Seconds before what failed is tried again without a change: it may pass, such as a full disk.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_LIMIT_HINT = "Raise the limit (sysctl fs.inotify.max_user_watches), watch smaller folders, or use --poll."

Changes = Collection[tuple[Change, str]]
Identity = tuple[int, int] | None
"""Device and inode of a root; None where it is not there."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which changes count: of files with these suffixes, outside of the index, that no pattern leaves out."""

    suffixes: frozenset[str]
    index_dir: Path
    patterns: Mapping[str, Patterns]

    def matter(self, root: Path, paths: Iterable[tuple[Change, Path]]) -> bool:
        """Whether one of these changes below a root can change what the index holds."""
        ignore = Ignore(root, self.patterns.get(str(root), Patterns()))
        return any(self._matters(root, change, path, ignore) for change, path in paths)

    def _matters(self, root: Path, change: Change, path: Path, ignore: Ignore) -> bool:
        if path == root:
            return change is not Change.modified or not _is_folder(path)
        if path.is_relative_to(self.index_dir):
            return False
        *folders, name = path.relative_to(root).parts
        if any(part.startswith(".") for part in folders):
            return False
        if name in (IGNORE_FILE, GITIGNORE_FILE):
            return True
        folder = _is_folder(path)
        known = path.suffix.lower() in self.suffixes
        # Of what is gone nobody can tell whether it was a folder; that something in a folder changed comes by itself.
        told = change is not Change.modified if folder else known or change is Change.deleted
        if name.startswith(".") or not told:
            return False
        try:
            above = root
            for part in folders:
                above /= part
                if ignore.leaves_out(above, folder=True):
                    return False
            kinds = {True, not known} if change is Change.deleted else {folder}
            return not all(ignore.leaves_out(path, folder=kind) for kind in kinds)
        except DataError:
            return True  # a file of patterns that cannot be read: the run says so


class Watch:
    """Watches roots, and runs `update` with each that needs to be brought up to date. Not for several threads.

    Where `update` returns something true, something could not be read that may be had later, and it is tried again:
    nobody tells that a right was given back, or a disk mounted in a folder.
    `rules` is asked anew before each look, since runs change patterns. `tell` is told what a person should know, once
    for each time that it comes about. `accept_empty` takes a root that has become empty for what it looks like.
    `debounce` is how long further changes are waited for at most, in seconds; `poll` looks at all files again and again
    instead of asking the operating system for events. Those of the roots that are `settled` need no run at first; why
    others are waited for, as `absence` says, may have been `told` already.
    """

    def __init__(
        self,
        roots: Iterable[Path],
        update: Callable[[Path], object],
        rules: Callable[[], Rules],
        tell: Callable[[str, SmallholdError | None], None],
        *,
        debounce: float = DEBOUNCE_SECONDS,
        quiet: float = QUIET_SECONDS,
        accept_empty: bool = False,
        poll: bool = False,
        settled: Collection[Path] = (),
        told: Mapping[Path, str] | None = None,
    ) -> None:
        self._roots = list(roots)
        self._update = update
        self._rules = rules
        self._tell = tell
        self._debounce = debounce
        self._quiet = min(quiet, debounce)
        self._accept_empty = accept_empty
        self._poll = poll
        # Roots that need a run, and from when on.
        self._due = {root: 0.0 for root in self._roots if root not in settled}
        self._pauses: dict[Path, float] = {}
        self._said = dict(told or {})
        self._away = set(self._said)

    def run(self, stop: Any = None) -> None:
        """Watch until `stop.is_set()`, or Ctrl-C. Raises `Unavailable` where the system cannot watch so much."""
        while stop is None or not stop.is_set():
            there = {root: _identity(root) for root in self._roots}
            if not any(there.values()):
                self._work()
                time.sleep(_LOOK_SECONDS)
                self._due = dict.fromkeys(self._roots, 0.0)  # what came just now was not watched yet
                continue
            with closing(self._changes([root for root in self._roots if there[root]], stop)) as changes:
                for batch in changes:
                    replaced = self._note(batch)
                    self._work()
                    if replaced or there != {root: _identity(root) for root in self._roots}:
                        break  # what is watched is not what is there: begin again
            self._due = dict.fromkeys(self._roots, 0.0)  # what happens before the next watch begins is seen by nobody

    def _changes(self, roots: list[Path], stop: Any) -> Generator[Changes, None, None]:
        """Yield changes, none where there were none for a while. The first comes once the watch has begun."""
        try:
            yield from watch(
                *roots,
                watch_filter=None,
                debounce=max(1, int(1000 * self._debounce)),
                step=max(1, int(1000 * self._quiet)),
                stop_event=stop,
                rust_timeout=int(1000 * _LOOK_SECONDS),
                yield_on_timeout=True,
                force_polling=self._poll or None,
                poll_delay_ms=int(1000 * _POLL_SECONDS),
                ignore_permission_denied=True,
            )
        except FileNotFoundError:
            time.sleep(_LOOK_SECONDS)  # it went between two looks
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"the folders cannot be watched: {error}", hint=_LIMIT_HINT) from error

    def _note(self, batch: Changes) -> bool:
        """Note which roots need a run; whether one of them was itself removed or put in the place of another."""
        if not batch:
            return False
        try:
            rules = self._rules()
        except SmallholdError:
            rules = None  # the index cannot be read at the moment: the run says so, and tries again
        paths = [(change, Path(path)) for change, path in batch]
        for root in self._roots:
            below = [(change, path) for change, path in paths if path.is_relative_to(root)]
            if below and (rules is None or rules.matter(root, below)):
                self._due[root] = 0.0
                self._pauses.pop(root, None)
        return any(change is not Change.modified and path in self._roots for change, path in paths)

    def _work(self) -> None:
        """Bring up to date what is due and there."""
        for root, due in list(self._due.items()):
            if reason := absence(root, accept_empty=self._accept_empty):
                self._away.add(root)
                self._say(root, reason)
                continue
            if root in self._away:
                self._away.discard(root)
                self._say(root, f"{root} is there again")
            if due <= time.monotonic():
                self._run_one(root)

    def _run_one(self, root: Path) -> None:
        del self._due[root]
        try:
            again = self._update(root)
        except IndexLocked as error:
            self._due[root] = time.monotonic() + _LOOK_SECONDS
            self._say(root, f"waiting: {error.message}")
        except (SmallholdError, OSError) as error:
            known = error if isinstance(error, SmallholdError) else _refused(error)
            self._pause(root)
            self._say(root, known.message, known)
        else:
            self._said.pop(root, None)
            if again:
                self._pause(root)
            else:
                self._pauses.pop(root, None)

    def _pause(self, root: Path) -> None:
        """Try again by itself, later each time."""
        pause = self._pauses.get(root, _FIRST_PAUSE)
        self._due[root] = time.monotonic() + pause
        self._pauses[root] = min(2 * pause, _LONGEST_PAUSE)

    def _say(self, root: Path, message: str, error: SmallholdError | None = None) -> None:
        if self._said.get(root) != message:
            self._said[root] = message
            self._tell(message, error)


def absence(root: Path, *, accept_empty: bool = False) -> str:
    """Say why a folder or file is waited for, "" where it is there."""
    try:
        if not root.is_dir():
            root.stat()
        elif not accept_empty and not any(root.iterdir()):
            return f"{root} is empty; what the index holds of it stays until there are files again"
    except OSError as error:
        what = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        return f"{root} {what}; it is waited for, and what the index holds of it stays"
    return ""


def _refused(error: OSError) -> Unavailable:
    where = f"{error.filename}: " if error.filename else ""
    return Unavailable(f"{where}{error.strerror or error}", hint="It is tried again by itself; see to that meanwhile.")


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder; False also where that may not be looked at."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _identity(root: Path) -> Identity:
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino

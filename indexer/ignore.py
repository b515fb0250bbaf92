"""Which files below a root are left out: patterns in gitignore's syntax, given with the root or lying in its folders.

Decided as git does: the last pattern that matches a file or folder counts, those of a deeper folder before those of one
above, and what lies in a folder that is left out cannot be let in again. It is decided entry by entry, because a walk
over folders asks of each folder before what is in it.
"""

import codecs
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from indexer.wildmatch import Wildmatch, compile_pattern
from rag.errors import DataError
from rag.glob import composed
from rag.manifest import Patterns

IGNORE_FILE = ".smallholdignore"
GITIGNORE_FILE = ".gitignore"
_FILE_BYTES = 1_000_000
_LONGEST = 500  # characters of a pattern
_HINT = "Patterns are those of .gitignore files: *.log, /drafts/, docs/**/old, !keep.log"


class Rules:
    """A list of patterns, each with where it stands, matched against paths relative to their folder.

    Raises `DataError` for a pattern that cannot be understood: to pass over it would index what it was to keep out.
    """

    def __init__(self, lines: Iterable[tuple[str, str]]) -> None:
        self._rules = [rule for line, where in lines if (rule := _compiled(line, where))][::-1]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def decide(self, path: str, *, folder: bool) -> bool | None:
        """Say whether a path with `/` is matched, False where a `!` takes that back, None where nothing is said."""
        text, rules = composed(path), (rule for rule in self._rules if folder or not rule.folders)
        return next((rule.matches for rule in rules if rule.regex.fullmatch(text)), None)


class Ignore:
    """What is left out below one root. Ask of each folder before asking of what is in it."""

    def __init__(self, root: Path, patterns: Patterns, *, unseen: bool = False) -> None:
        """Raises `DataError` for a pattern that cannot be understood.

        With `unseen` it is about what cannot be looked at now: files of patterns that cannot be read say nothing.
        """
        self._root = root
        self._unseen = unseen
        self._files = (GITIGNORE_FILE, IGNORE_FILE) if patterns.gitignore else (IGNORE_FILE,)
        self._include = Rules((pattern, "--include") for pattern in patterns.include)
        self._exclude = Rules((pattern, "--exclude") for pattern in patterns.exclude)
        self._included = {"": not self._include}  # by folder: whether what is in it is indexed unless something says no
        self._read: dict[str, tuple[tuple[str, Rules], ...]] = {}  # by folder: the rules of its files, deepest first

    def leaves_out(self, path: Path, *, folder: bool) -> bool:
        """Whether a file or folder below the root is not to be indexed.

        Raises `DataError` where a file of patterns beside it cannot be read or understood.
        """
        relative = path.relative_to(self._root).as_posix()
        parent = relative.rpartition("/")[0]
        if self._exclude.decide(relative, folder=folder) or self._left_out_by_files(relative, parent, folder):
            return True
        decided = self._include.decide(relative, folder=folder)
        included = self._included[parent] if decided is None else decided
        if folder:
            self._included[relative] = included
        return not folder and not included

    def leaves_out_below(self, relative: str) -> bool:
        """Whether a file is left out, by its path below the root, or a folder that it lies in."""
        parts = relative.split("/")
        return any(
            self.leaves_out(self._root.joinpath(*parts[:depth]), folder=depth < len(parts))
            for depth in range(1, len(parts) + 1)
        )

    def _left_out_by_files(self, relative: str, parent: str, folder: bool) -> bool:
        for base, rules in self._rules_of(parent):
            decided = rules.decide(relative[len(base) + 1 if base else 0 :], folder=folder)
            if decided is not None:
                return decided
        return False

    def _rules_of(self, folder: str) -> tuple[tuple[str, Rules], ...]:
        if folder not in self._read:
            above = self._rules_of(folder.rpartition("/")[0]) if folder else ()
            paths = [self._root / folder / name for name in self._files]
            own = Rules(line for path in paths for line in _lines(path, unseen=self._unseen))
            self._read[folder] = ((folder, own), *above) if own else above
        return self._read[folder]


def _compiled(line: str, where: str) -> Wildmatch | None:
    if len(line) > _LONGEST:
        raise DataError(f"{where}: a pattern has at most {_LONGEST} characters", hint=_HINT)
    try:
        return compile_pattern(line)
    except (ValueError, re.error):
        raise DataError(f"{where}: {line!r} is no pattern", hint=_HINT) from None


def _lines(path: Path, *, unseen: bool) -> list[tuple[str, str]]:
    """The lines of a file of patterns, each with where it stands; none where there is no file, or none can be seen."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise DataError(f"{path} is no regular file", hint="Replace it by a file of patterns, or remove it.")
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if unseen:
            return []
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="What it keeps out is not known.") from error
    if len(content) > _FILE_BYTES:
        raise DataError(f"{path} is larger than {_FILE_BYTES // 1_000_000} MB", hint=_HINT)
    lines = os.fsdecode(content.removeprefix(codecs.BOM_UTF8)).split("\n")
    return [(line.removesuffix("\r"), f"{path}, line {number}") for number, line in enumerate(lines, 1)]

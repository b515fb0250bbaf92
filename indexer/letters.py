"""Dead letters: what could not be read and why, so that it is listed, and not tried again before something changes."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from indexer.update import Source
from rag.catalog import Original
from rag.checksums import write_json
from rag.datatypes import Document
from rag.errors import UnreadableDocument

_NAME = ".failed"
_UNKNOWN = Original("", "", 0, "")
_MAX_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A file, or a line of a stream, that could not be read. `root` is the indexed root that it belongs to.

    `sha256`, `bytes` and `loader` are those of `rag.catalog.Original`; empty and 0 where the failure may pass by
    itself, such as a file that may not be opened.
    """

    root: str
    name: str
    reason: str
    sha256: str = ""
    bytes: int = 0
    loader: str = ""


def dead_letters(directory: Path) -> list[DeadLetter]:
    """Return those of an index, by name; none where the file that holds them is missing or damaged."""
    path = directory / _NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            return []
        return TypeAdapter(list[DeadLetter]).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return []


class DeadLetters:
    """The dead letters of one run: those that are known, and those that come up.

    Kept in a JSON file of the index directory. Lost or damaged, it costs that everything in it is tried once more.
    """

    def __init__(self, directory: Path, *, retry: bool = False) -> None:
        """`retry` tries everything again."""
        self._path = directory / _NAME
        self._stored = dead_letters(directory)
        self._known = {} if retry else {letter.name: letter for letter in self._stored if letter.sha256}
        self._originals: dict[str, Original] = {}
        self._places: dict[str, str] = {}

    def known(self, name: str, original: Original) -> str:
        """Return why this very content could not be read by this very loader, "" where nothing is known of that."""
        letter = self._known.get(name)
        if letter is None or (letter.sha256, letter.bytes, letter.loader) != original[1:]:
            return ""
        self._originals[name] = original
        return letter.reason

    def remember(self, name: str, original: Original, error: UnreadableDocument) -> None:
        """Note what could not be read, unless the failure may pass by itself."""
        if not error.passing:
            self._originals[name] = original

    def belongs(self, name: str, root: str) -> None:
        """Note to which root belongs what has this name, or one that begins with it, and not with the root's."""
        self._places[name] = root

    def watched(self, source: Source) -> Source:
        """Return a source that is remembered where it cannot be read."""
        return replace(source, read=partial(self._read, source))

    def _read(self, source: Source) -> Document:
        try:
            return source.read()
        except UnreadableDocument as error:
            self.remember(source.name, source.original, error)
            raise

    def save(self, failed: Iterable[tuple[str, str]], synced: Collection[str], others: Collection[str]) -> None:
        """Keep what failed in this run, below the roots `synced`, and what was known of `others`. Raises `OSError`."""
        letters = [letter for letter in self._stored if letter.root in others]
        places = {"": "", **{root: root for root in synced}, **self._places}
        for name, reason in failed:
            found = self._originals.get(name, _UNKNOWN)
            letters.append(
                DeadLetter(
                    places.get(name) or _root(name, places), name, reason, found.sha256, found.bytes, found.loader
                )
            )
        letters.sort(key=lambda letter: letter.name)
        if letters != self._stored:
            write_json(self._path, [asdict(letter) for letter in letters])


def _root(name: str, places: Mapping[str, str]) -> str:
    """The root of the longest beginning that a name has."""
    return places[max((place for place in places if name.startswith(place)), key=len, default="")]

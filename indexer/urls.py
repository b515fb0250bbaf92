"""A list of URLs as a source: the pages that it names are its documents, and their URLs the documents' ids.

A page that cannot be had stays in the index as it was, unlike a file: a server that is down says nothing of its pages.
What has been taken off the list, or is gone for good (status 410), is removed.
"""

import json
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from indexer.fetch import Reply, Validators, parse_url
from indexer.letters import DeadLetters
from indexer.scan import URLS, FoundFile, resolved
from indexer.sources import FileSources
from indexer.update import Source, SyncReport
from rag.catalog import serves
from rag.checksums import write_json
from rag.errors import InvalidRequest, UnreadableDocument

MOST_URLS = 10_000
_LIST_BYTES = 20_000_000
_MEMORY = ".urls"
_MEMORY_BYTES = 64_000_000
_TWICE = "its id belongs to a document of another source; take it off one of the lists"
_NOT_ASKED = Reply("failed", "it was put on the list while other pages were being fetched; the next run fetches it")
_REMOVED_SINCE = Reply(
    "failed", "it has not changed, says its server, but another run removed it meanwhile; the next run fetches it"
)
_FORMAT_HINT = "Write a text file with one address a line; what follows a # at the beginning of a line is a comment."


@dataclass(frozen=True, slots=True)
class UrlList:
    """A list that has been read. `failed` and `skipped` hold names of lines with the reason."""

    root: str
    urls: tuple[str, ...]
    failed: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file with a URL a line. Raises `InvalidRequest` where it is none, or names more than `MOST_URLS`."""
        text, root = _text(path), f"{URLS}{resolved(path)}"
        lines: dict[str, int] = {}
        failed: list[tuple[str, str]] = []
        skipped: list[tuple[str, str]] = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                url = str(parse_url(line.strip()))
            except UnreadableDocument as error:
                failed.append((f"{root}, line {number}", error.message))
                continue
            if url in lines:
                skipped.append((f"{root}, line {number}", f"{url} is in line {lines[url]} already"))
            lines.setdefault(url, number)
        if len(lines) + len(failed) > MOST_URLS:
            raise InvalidRequest(f"{path} names more than {MOST_URLS:,} pages", hint="Split it into several lists.")
        return cls(root, tuple(lines), tuple(failed), tuple(skipped))


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a page: its list, what to ask its server with, and a digest of the documents made of it."""

    root: str
    validators: Validators
    documents: str


@dataclass(slots=True)
class Pages:
    """What servers said of the pages in an index, in a JSON file of its directory. Lost, it costs one more fetch."""

    directory: Path
    _known: dict[str, Known] = field(default_factory=dict)
    _new: dict[str, Known] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Read what is remembered."""
        path = directory / _MEMORY
        try:
            content = path.read_bytes() if path.stat().st_size <= _MEMORY_BYTES else b"{}"
            return cls(directory, TypeAdapter(dict[str, Known]).validate_json(content))
        except (OSError, ValidationError):
            return cls(directory)

    def lists(self) -> dict[str, str]:
        """Return of each page that is remembered the root of its list, by URL."""
        return {url: known.root for url, known in self._known.items()}

    def validators(self, url: str, held: Sequence[Source], version: Callable[[str], str]) -> Validators:
        """Return what to ask for a page with, empty unless the index holds what its last answer gave.

        `version` is that of `sources.source_version`: what another one has read must be read again, changed or not.
        """
        known = self._known.get(url)
        current = bool(held) and all(_is_current(source, version) for source in held)
        return known.validators if known and current and known.documents == _digest(held) else Validators()

    def remember(self, url: str, root: str, validators: Validators, sources: Sequence[Source]) -> None:
        """Note an answer, and what was made of it."""
        self._new[url] = Known(root, validators, _digest(sources))

    def keep(self, url: str) -> None:
        """Note that what is remembered still counts."""
        if url in self._known:
            self._new[url] = self._known[url]

    def save(self, others: Collection[str]) -> None:
        """Keep what was noted, and what is known of the lists `others`. Raises `OSError`."""
        pages = {url: known for url, known in self._known.items() if known.root in others} | self._new
        if pages != self._known:
            write_json(self.directory / _MEMORY, {url: asdict(known) for url, known in pages.items()})


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of the pages that were fetched, by URL, and the roots of the lists that named them."""

    roots: frozenset[str] = frozenset()
    replies: Mapping[str, Reply] = field(default_factory=dict)


def to_ask(
    lists: Iterable[UrlList],
    held: Mapping[str, Mapping[str, Sequence[Source]]],
    others: Collection[str],
    pages: Pages,
    version: Callable[[str], str],
) -> dict[str, Validators]:
    """Return the pages of lists with what to ask for them with, each once: for the first list that names it.

    `held` is what the index holds of each list's pages, by root and URL, `version` that of `sources.source_version`.
    Pages that are among the documents of `others` are left out.
    """
    asked: dict[str, Validators] = {}
    for listed in lists:
        for url in listed.urls:
            if url not in asked and url not in others:
                asked[url] = pages.validators(url, held[listed.root].get(url, ()), version)
    return asked


class UrlSources:
    """Turns lists of URLs into sources, from what was fetched.

    The index may have been written since: what counts is what it holds and what the lists say now.
    """

    def __init__(
        self, fetched: Fetched, files: FileSources, pages: Pages, letters: DeadLetters, report: SyncReport
    ) -> None:
        self._replies = fetched.replies
        self._files = files
        self._pages = pages
        self._letters = letters
        self._report = report

    def of(self, listed: UrlList, held: Mapping[str, Sequence[Source]], taken: Collection[str]) -> list[Source]:
        """Return the sources of a list's pages, given by URL the documents that the index `held` of them.

        Ids that are `taken` belong to documents of other sources.
        """
        self._report.failed += listed.failed
        self._report.skipped += listed.skipped
        for url in listed.urls:
            self._letters.belongs(url, listed.root)
        self._report.failed += [(url, _TWICE) for url in listed.urls if url in taken]
        sources: dict[str, Source] = {}
        for url in listed.urls:
            if url in taken:
                continue
            reply = self._replies.get(url, _NOT_ASKED)
            for source in self._of_page(url, reply, listed.root, held.get(url, ())):
                # A page may have the address of a file in an archive.
                if source.id in taken or source.id in sources:
                    self._report.failed.append((source.name, _TWICE))
                else:
                    sources[source.id] = source
        return list(sources.values())

    def _of_page(self, url: str, reply: Reply, root: str, held: Sequence[Source]) -> list[Source]:
        if reply.kind == "unchanged" and held:
            self._pages.keep(url)
            return list(held)
        if reply.kind == "unchanged":
            reply = _REMOVED_SINCE
        if reply.kind != "content":
            self._report.failed.append((url, reply.reason))
            return [] if reply.kind == "gone" else self._kept(held)
        failed = len(self._report.failed)
        found = self._files.of_file(FoundFile(reply.file, url, root, url))
        sources = [replace(source, lasting=True) for source in found]
        self._pages.remember(url, root, reply.validators, sources)
        if len(self._report.failed) > failed:
            ids = {source.id for source in sources}
            sources += self._kept([source for source in held if source.id not in ids])
        return sources

    def _kept(self, held: Sequence[Source]) -> list[Source]:
        self._report.kept += bool(held)
        return list(held)


def _is_current(source: Source, version: Callable[[str], str]) -> bool:
    """Whether a page, or a file of an archive that is one, was read as it would be now."""
    read_as = (source.id, f"{source.id}.md")  # a server may call Markdown what its address does not
    return any(serves(source.original.loader, version(name)) for name in read_as)


def _digest(sources: Sequence[Source]) -> str:
    content = json.dumps(sorted([source.id, *source.original[1:]] for source in sources))
    return sha256(content.encode("utf-8", "backslashreplace")).hexdigest()


def _text(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe may never end, and is not there for the next run
            raise InvalidRequest(f"the list of URLs {path} is no regular file", hint=_FORMAT_HINT)
        with path.open("rb") as file:
            content = file.read(_LIST_BYTES + 1)
        if len(content) > _LIST_BYTES:
            raise InvalidRequest(f"{path} is larger than {_LIST_BYTES // 1_000_000} MB", hint=_FORMAT_HINT)
        str(resolved(path)).encode()
        return content.decode("utf-8-sig")
    except UnicodeError:
        raise InvalidRequest(f"{path!r}, or its name, is not UTF-8 text", hint=_FORMAT_HINT) from None
    except OSError as error:
        raise InvalidRequest(
            f"the list of URLs {path} cannot be read: {error.strerror or error}",
            hint=f"If it is gone for good: smallhold index --remove {URLS}{resolved(path)}",
        ) from error

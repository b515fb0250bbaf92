"""The documents that a run should find in the index, not read yet: those of files, and those of records."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from indexer import describe
from indexer.letters import DeadLetters
from indexer.load import Contents, Member, member_address
from indexer.load_image import NEEDS_OCR, PICTURES, is_picture
from indexer.scan import FoundFile, Place, Scan
from indexer.update import Progress, Source, SyncReport
from rag.catalog import Original, with_recogniser
from rag.datatypes import Document
from rag.errors import DataError, UnreadableDocument
from rag.manifest import FileInfo


class DocumentLoader(Protocol):
    """Reads files. The version changes with everything that changes what a file is read as."""

    @property
    def version(self) -> str:
        """What the index remembers to tell whether files must be read again."""
        ...

    def recogniser(self, name: str) -> str:
        """The same of what recognises pages that are pictures in a file of this name, "" where nothing does."""
        ...

    @property
    def suffixes(self) -> frozenset[str]:
        """The suffixes of files that can be read, in lower case, with the dot."""
        ...

    def load_file(self, path: Path, document_id: str, uri: str) -> Document:
        """Read a file. Raises `UnreadableDocument`, also where the file cannot be opened."""
        ...

    def unpack(self, path: Path, *, pictures: bool = False) -> Contents | None:
        """Return the documents in an archive, None where the file is none. Raises `UnreadableDocument`.

        With `pictures` those are among them though nothing reads them: each says so when it is read.
        """
        ...


class FileSources:
    """Turns found files into sources, archives into one for each of their members.

    What cannot be had is noted in the report; what failed before and has not changed since is not tried again.
    """

    def __init__(
        self,
        loader: DocumentLoader,
        describe_file: Callable[[Path], FileInfo],
        letters: DeadLetters,
        report: SyncReport,
        known: Iterable[str] = (),
    ) -> None:
        """`describe_file` returns size and checksum of a file, and raises `OSError`.

        `known` are the ids of documents that the index holds: pictures in archives that were read once are compared
        with what is there though nothing reads them now.
        """
        self._loader = loader
        self._describe_file = describe_file
        self._letters = letters
        self._report = report
        self.version = source_version(loader)
        self.unseen: list[Place] = []  # files that may be as they were: nothing could be read of them
        self._reads_pictures = loader.suffixes >= PICTURES
        self._pictures = frozenset(id_ for id_ in known if is_picture(id_) and not self._reads_pictures)
        self._around = frozenset(place.id for id_ in self._pictures for place in Place.around("", id_))

    def of(self, scan: Scan, progress: Progress) -> list[Source]:
        """Return the sources of all found files."""
        self._report.excluded += scan.excluded
        self._report.skipped += scan.skipped
        self._report.failed += scan.failed
        sources: list[Source] = []
        for done, file in enumerate(scan.files):
            progress("scan", done, len(scan.files))
            sources += self.of_file(file)
        progress("scan", len(scan.files), len(scan.files))
        return sources

    def of_file(self, file: FoundFile) -> list[Source]:
        """Return the source of a file, those of its members where it is an archive."""
        name = file.name
        try:
            # The checksum is taken before the file is read: what changes in between is found changed by the next run.
            found = self._describe_file(file.path)
            original = Original(file.root, found.sha256, found.bytes, self.version(file.path.name))
            if self._failed_before(name, original):
                return []
            contents = self._unpacked(file, name, original)
        except UnreadableDocument as error:
            self._report.failed.append((name, error.message))
            if error.passing:
                self.unseen.append(Place(file.root, file.document_id))
            return []
        except OSError as error:
            self._report.failed.append((name, error.strerror or "it cannot be read"))
            self.unseen.append(Place(file.root, file.document_id))
            return []
        if contents is None:
            read = partial(_read, self._loader, file)
            return [self._letters.watched(Source(file.document_id, file.uri, original, name, read))]
        self._report.skipped += [(f"{name}/{member}", reason) for member, reason in contents.skipped]
        return list(self._of_members(file, name, contents))

    def _unpacked(self, file: FoundFile, name: str, original: Original) -> Contents | None:
        try:
            return self._loader.unpack(file.path, pictures=file.document_id in self._around)
        except UnreadableDocument as error:
            self._letters.remember(name, original, error)
            raise

    def _of_members(self, file: FoundFile, archive: str, contents: Contents) -> Iterator[Source]:
        """The documents in an archive: their ids are their paths in it, after its own."""
        for member in contents.members:
            document_id, uri = member_address(file.document_id, file.uri, member.name)
            if is_picture(member.name) and not self._reads_pictures and document_id not in self._pictures:
                self._report.skipped.append((f"{archive}/{member.name}", NEEDS_OCR))
                continue
            original = Original(file.root, member.sha256, member.bytes, self.version(member.name))
            name = f"{archive}/{member.name}"
            if not self._failed_before(name, original):
                read = partial(_read_member, member, document_id, uri)
                yield self._letters.watched(Source(document_id, uri, original, name, read))

    def _failed_before(self, name: str, original: Original) -> bool:
        reason = self._letters.known(name, original)
        if reason:
            self._report.failed.append((name, reason))
            self._report.untried += 1
        return bool(reason)


def distinct(sources: Iterable[Source], kept: Mapping[str, str], report: SyncReport) -> list[Source]:
    """Leave out files whose ids belong to others already: those of archives come to light when they are opened."""
    owners = dict(kept)
    found = []
    for source in sources:
        if source.id in owners:
            reason = f"its id {source.id!r} belongs to {owners[source.id]}; rename one of them"
            report.failed.append((source.name, reason))
        else:
            owners[source.id] = source.name
            found.append(source)
    return found


def source_version(loader: DocumentLoader) -> Callable[[str], str]:
    """Return what says, of the name of a file or page, what decides what it becomes.

    The index remembers that of its documents as `loader`, to tell whether they must be read again.
    """
    version = loader.version
    return lambda name: with_recogniser(f"{version}, described {describe.version(name)}", loader.recogniser(name))


def record_sources(documents: Iterable[Document]) -> list[Source]:
    """Return the sources of records. Raises `DataError` where an id occurs twice."""
    sources: dict[str, Source] = {}
    for document in documents:
        if document.id in sources:
            raise DataError(f"two documents have the id {document.id!r}", hint="Give each its own.")
        original = record_original("", document)
        sources[document.id] = Source(document.id, document.uri, original, document.id, partial(_same, document))
    return list(sources.values())


def record_original(root: str, document: Document) -> Original:
    """Return what a record is recognised by: its title, text and metadata."""
    content = json.dumps([document.title, document.text, dict(document.metadata)], sort_keys=True).encode()
    return Original(root, sha256(content).hexdigest(), len(content), "")


def _read(loader: DocumentLoader, file: FoundFile) -> Document:
    document = loader.load_file(file.path, file.document_id, file.uri)
    return describe.described(document, describe.day_of_change(file.path))


def _read_member(member: Member, document_id: str, uri: str) -> Document:
    return describe.described(member.load(document_id, uri), member.changed)


def _same(document: Document) -> Document:
    return document

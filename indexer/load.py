"""A file to a Document: dispatch by suffix, bounds, and a worker process that keeps broken files at arm's length.

Plain text is decoded here. All else is parsed in a child process (`indexer.worker`), because the parsers are large
libraries, partly native: a file that crashes, hangs or fills the memory costs that child and no more. The child is kept
from file to file, so that a run pays once for its start and its imports.

Archives are unpacked by the child into a temporary folder, one archive at a time; their members are then files like
any other.
"""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from indexer import archive
from indexer.describe import day_of_change
from indexer.load_image import NEEDS_OCR, PICTURES
from indexer.load_text import Plain, parse_text
from indexer.outline import MARKDOWN_SUFFIXES, Markup
from indexer.parsed import FILE_BYTES, Parsed, checked, excess
from indexer.scratch import scratch
from indexer.worker import ALIVE
from rag.datatypes import Document
from rag.errors import Unavailable, UnreadableDocument, UnsupportedFormat
from rag.manifest import describe_file
from rag.tesseract import Tesseract

# Raise it with every change here or in a `load_*` module that changes the text or the title of any file.
_VERSION = 6
_LIBRARIES = (
    *("beautifulsoup4", "charset-normalizer", "lxml", "mammoth", "markdownify", "olefile", "openpyxl", "pypdfium2"),
)
SECONDS = 60.0
_START_SECONDS = 60.0
_OUT_OF_TIME = getattr(signal, "SIGPROF", 0)  # what ends the worker when its seconds of the processor are over
_ALIVE = json.dumps(ALIVE).encode() + b"\n"
_PATIENCE = 5  # times as long by the clock as in the processor: on a busy machine a file must not get lost

_PLAIN: dict[str, Markup | Plain] = {
    **dict.fromkeys(MARKDOWN_SUFFIXES, "markdown"),
    **dict.fromkeys((".rst", ".rest"), "rst"),
    **dict.fromkeys((".adoc", ".asciidoc"), "asciidoc"),
    **dict.fromkeys((".txt", ".text", ".log", ".xml", ".yaml", ".yml", ".toml", ".org", ".tex"), "text"),
    **dict.fromkeys(
        (
            *(".py", ".pyi", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".java", ".kt", ".kts", ".scala", ".groovy", ".cs"),
            *(".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".m", ".mm", ".go", ".rs", ".swift", ".zig"),
            *(".rb", ".php", ".pl", ".pm", ".lua", ".r", ".jl", ".dart", ".ex", ".exs", ".erl", ".hs", ".ml", ".clj"),
            *(".sh", ".bash", ".zsh", ".ps1", ".bat", ".sql", ".proto", ".graphql", ".css", ".scss", ".vue", ".svelte"),
            *(".cmake", ".gradle", ".tf", ".ini", ".cfg", ".conf", ".f90", ".vb", ".nim", ".v", ".vhd", ".asm"),
        ),
        "code",
    ),
}
_PARSED = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    **dict.fromkeys((".docx", ".docm"), "docx"),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx"), "pptx"),
    **dict.fromkeys((".xlsx", ".xlsm"), "xlsx"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    ".epub": "epub",
    ".ipynb": "ipynb",
    ".eml": "eml",
    ".msg": "msg",
    ".json": "json",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
}
_PICTURED = frozenset({"pdf", "image"})  # formats with pages that may be pictures
PLAIN = frozenset(_PLAIN)  # the suffixes of texts that are kept as they are
_DOCUMENTS = PLAIN | frozenset(_PARSED)
SUFFIXES = _DOCUMENTS | archive.SUFFIXES  # of what can be read without OCR
_PARSED |= dict.fromkeys(PICTURES, "image")


@dataclass(frozen=True, slots=True)
class Member:
    """A document in an archive. `name` is its path there, `load` reads it, given its document's id and URI.

    `changed` is the day of its last change, that of the archive where this says none.
    """

    name: str
    sha256: str
    bytes: int
    changed: date | None
    load: Callable[[str, str], Document]


@dataclass(frozen=True, slots=True)
class Contents:
    """What an archive holds: its documents, and the names of what was left out with the reason."""

    members: list[Member] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def member_address(archive_id: str, archive_uri: str, name: str) -> tuple[str, str]:
    """Id and URI of the document `name` in an archive that has these itself."""
    return f"{archive_id}/{name}", f"{archive_uri}#{quote(name)}"


class Loader:
    """Loads documents of all formats. Use it in a `with` block, which ends the worker; not from several threads.

    A file may take `seconds` of the processor's time to parse, and five times as long by the clock; where `ocr`
    recognises pages that are pictures, each of them may take as long. `command` starts another worker than
    `indexer.worker`.
    """

    def __init__(
        self, seconds: float = SECONDS, command: Sequence[str] | None = None, ocr: Tesseract | None = None
    ) -> None:
        self._worker = _Worker(command or (sys.executable, "-P", "-m", "indexer.worker"), seconds)
        self._ocr = ocr
        self._archive: _OpenArchive | None = None  # the one unpacked last

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker process, if one runs, and delete what was unpacked."""
        self._worker.stop()
        self._forget_archive()

    @property
    def version(self) -> str:
        """Names what decides the text of a given file: this code's version and those of the parsers.

        Raises `Unavailable` where one is not installed.
        """
        try:
            return " ".join([str(_VERSION), *(f"{name} {version(name)}" for name in _LIBRARIES)])
        except PackageNotFoundError as error:
            raise _not_installed(error.name or "") from error

    def recogniser(self, name: str) -> str:
        """Names what decides, beside `version`, the text of pages that are pictures, "" where none are recognised."""
        suffix = PurePosixPath(name).suffix.lower()
        return str(self._ocr) if self._ocr and _PARSED.get(suffix) in _PICTURED else ""

    @property
    def suffixes(self) -> frozenset[str]:
        """The suffixes of files that can be read, in lower case, with the dot."""
        return SUFFIXES | PICTURES if self._ocr else SUFFIXES

    def load_file(self, path: Path, document_id: str, uri: str) -> Document:
        """Return the document in the file `path`, with `format` in its metadata, and what of `Parsed.metadata` applies.

        Raises `UnsupportedFormat`, `UnreadableDocument` (the message is the reason alone, on one line), or
        `Unavailable` where the parsers are not installed.
        """
        return self._load(path, path.name, document_id, uri)

    def unpack(self, path: Path, *, pictures: bool = False) -> Contents | None:
        """Return what the archive `path` holds, None where the file is no archive.

        With `pictures` those are members where nothing recognises them, too; reading one raises `UnsupportedFormat`.
        Raises `UnreadableDocument` where it is damaged, or exceeds the bounds of `indexer.archive`; nothing of it is
        read then.
        """
        if path.suffix.lower() not in archive.SUFFIXES:
            return None
        files, skipped = self._unpacked(path, pictures)
        members = []
        for name, file in files.items():
            found = describe_file(file)
            read = partial(self._load_member, path, pictures, name)
            members.append(Member(name, found.sha256, found.bytes, day_of_change(file), read))
        return Contents(members, skipped)

    def _load_member(self, path: Path, pictures: bool, name: str, document_id: str, uri: str) -> Document:
        file = self._unpacked(path, pictures)[0].get(name)
        if file is None:
            raise UnreadableDocument("it is no longer in the archive")
        return self._load(file, PurePosixPath(name).name, document_id, uri)

    def _load(self, path: Path, name: str, document_id: str, uri: str) -> Document:
        suffix = path.suffix.lower()
        if suffix in archive.SUFFIXES:
            raise UnsupportedFormat("an archive: the files in it are documents of their own")
        if suffix not in self.suffixes:
            unknown = f"unsupported format {suffix}" if suffix else "unsupported format: no file suffix"
            raise UnsupportedFormat(NEEDS_OCR if suffix in PICTURES else unknown)
        try:
            _check_file(path, FILE_BYTES)
            parsed = self._parse(path, name, suffix)
        except OSError as error:
            raise UnreadableDocument(f"cannot be read: {error.strerror or error}", passing=True) from error
        return Document(document_id, uri, parsed.title, parsed.text, dict(parsed.metadata))

    def _parse(self, path: Path, name: str, suffix: str) -> Parsed:
        if suffix in _PLAIN:
            with path.open("rb") as file:
                content = file.read(FILE_BYTES + 1)
            if len(content) > FILE_BYTES:  # a log that grows, or a file system that tells no size
                raise UnreadableDocument("too large: it grew while it was read")
            return checked(parse_text(content, name, _PLAIN[suffix]))
        request = {"path": str(path.absolute()), "name": name, "format": _PARSED[suffix]}
        if self._ocr and _PARSED[suffix] in _PICTURED:
            request["ocr"] = self._ocr.languages
        answer = self._ask(request)
        return Parsed(answer["text"], answer["title"], answer["metadata"])

    def _unpacked(self, path: Path, pictures: bool) -> tuple[dict[str, Path], list[tuple[str, str]]]:
        """The files that the members of an archive were unpacked to, by name, and what was left out."""
        if self._archive is None or (self._archive.path, self._archive.pictures) != (path, pictures):
            self._forget_archive()
            try:
                _check_file(path, archive.TOTAL_BYTES)
            except OSError as error:
                raise UnreadableDocument(f"cannot be read: {error.strerror or error}", passing=True) from error
            self._archive = _OpenArchive(path, pictures)
            try:
                # What a killed run has left there, as much as an archive unpacks to, goes with the next one.
                folder = self._archive.opened.enter_context(scratch(Path(tempfile.gettempdir())))
                wanted = self.suffixes | PICTURES if pictures else self.suffixes
                suffixes = sorted(wanted - archive.SUFFIXES)
                answer = self._ask({"path": str(path.absolute()), "into": str(folder), "suffixes": suffixes})
            except BaseException:
                self._forget_archive()
                raise
            self._archive.files = {name: folder / file for name, file in answer["members"]}
            self._archive.skipped = [(name, reason) for name, reason in answer["skipped"]]
        return self._archive.files, self._archive.skipped

    def _forget_archive(self) -> None:
        open_archive, self._archive = self._archive, None
        if open_archive:
            open_archive.opened.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._worker.ask(request)
        if "error" in answer:
            raise UnreadableDocument(answer["error"], passing=answer.get("passing", False))
        if "missing" in answer:
            raise _not_installed(answer["missing"])
        return answer


@dataclass(slots=True)
class _OpenArchive:
    path: Path
    pictures: bool
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    files: dict[str, Path] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def _not_installed(what: str) -> Unavailable:
    return Unavailable(f"a parser is not installed: {what}", hint="Run `make install` again.")


def _check_file(path: Path, limit: int) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise UnreadableDocument("not a regular file")
    if reason := excess(status.st_size, limit):
        raise UnreadableDocument(reason)


class _Worker:
    """The child process: started when first asked, started anew after it crashed or was stopped."""

    def __init__(self, command: Sequence[str], seconds: float) -> None:
        self._command = list(command)
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send `request`, return the answer. Raises `UnreadableDocument` where the child crashes or takes too long."""
        try:
            process = self._running()
            line, late = self._exchange(
                process, {**request, "seconds": self._seconds, "patience": _PATIENCE * self._seconds}
            )
        except BaseException:  # Ctrl-C: the answer still under way must not become that of the next request
            self.stop()
            raise
        if not line.endswith(b"\n"):
            self.stop()
            late = late or process.returncode == -_OUT_OF_TIME
            raise UnreadableDocument(f"took longer than {self._seconds:g} s" if late else "the parser crashed")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Kill the child: it holds nothing that could be lost."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):  # flushing what it never read
                    pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process and self._process.poll() is None:
            return self._process
        self.stop()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which ends the child
            )
        except OSError as error:
            raise Unavailable(f"the process that parses documents does not start: {error.strerror}") from error
        line, _ = self._exchange(self._process, None)
        if not line.endswith(b"\n"):
            raise Unavailable(
                "the process that parses documents does not start", hint="See why: run `python -m indexer.worker`."
            )
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], request: dict[str, Any] | None) -> tuple[bytes, bool]:
        """Return the child's answer, cut short or empty if it died, and whether it was killed for being late."""
        line, late = self._next_line(process, request, _PATIENCE * self._seconds if request else _START_SECONDS)
        while line == _ALIVE:
            line, late = self._next_line(process, None, _PATIENCE * self._seconds)
        return line, late

    def _next_line(
        self, process: subprocess.Popen[bytes], request: dict[str, Any] | None, seconds: float
    ) -> tuple[bytes, bool]:
        """Send `request`, if there is one, and wait for a line, for so many seconds by the clock."""
        assert process.stdin and process.stdout
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        # A timer's thread instead of `select`, which does not wait on pipes everywhere.
        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            if request:
                with contextlib.suppress(BrokenPipeError):  # it died meanwhile: the empty line below says so
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.flush()
            return process.stdout.readline(), late.is_set()
        finally:
            timer.cancel()


def _environment() -> dict[str, str]:
    """The parent's, with this package's folder on the path; the working directory, which may be anyone's, is not."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

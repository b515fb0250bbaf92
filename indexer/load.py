"""A file to a Document: dispatch by suffix, bounds, and a worker process that keeps broken files at arm's length.

Plain text is decoded here. HTML, PDF and DOCX are parsed in a child process (`indexer.worker`), because their parsers
are large libraries, partly native: a file that crashes, hangs or fills the memory costs that child and no more. The
child is kept from file to file, so that a run pays once for its start and its imports.
"""

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from indexer.load_text import Plain, parse_text
from indexer.outline import Markup
from indexer.parsed import FILE_BYTES, Parsed, checked
from rag.datatypes import Document
from rag.errors import Unavailable, UnreadableDocument, UnsupportedFormat

# Raise it with every change here or in a `load_*` module that changes the text or the title of any file.
_VERSION = 1
_LIBRARIES = ("beautifulsoup4", "lxml", "mammoth", "markdownify", "pypdfium2")
SECONDS = 60.0
_START_SECONDS = 60.0

_PLAIN: dict[str, Markup | Plain] = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd"), "markdown"),
    **dict.fromkeys((".rst", ".rest"), "rst"),
    **dict.fromkeys((".adoc", ".asciidoc"), "asciidoc"),
    **dict.fromkeys((".txt", ".text", ".log", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml"), "text"),
    **dict.fromkeys((".yaml", ".yml", ".toml", ".org", ".tex"), "text"),
}
_PARSED: dict[str, Literal["html", "pdf", "docx"]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    ".docx": "docx",
}
SUFFIXES = frozenset(_PLAIN) | frozenset(_PARSED)


class Loader:
    """Loads documents of all formats. Use it in a `with` block, which ends the worker; not from several threads.

    A file may take `seconds` to parse. `command` starts another worker than `indexer.worker`.
    """

    def __init__(self, seconds: float = SECONDS, command: Sequence[str] | None = None) -> None:
        self._worker = _Worker(command or (sys.executable, "-P", "-m", "indexer.worker"), seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker process, if one runs."""
        self._worker.stop()

    @property
    def version(self) -> str:
        """Names what decides the text of a given file: this code's version and those of the parsers."""
        return " ".join([str(_VERSION), *(f"{name} {version(name)}" for name in _LIBRARIES)])

    @property
    def suffixes(self) -> frozenset[str]:
        """The suffixes of files that can be read, in lower case, with the dot."""
        return SUFFIXES

    def load_file(self, path: Path, document_id: str, uri: str) -> Document:
        """Return the document in the file `path`, with `format` in its metadata, and `pages`, `warning` if they apply.

        Raises `UnsupportedFormat`, `UnreadableDocument` (the message is the reason alone, on one line), or
        `Unavailable` where the parsers are not installed.
        """
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise UnsupportedFormat(f"unsupported format {suffix}" if suffix else "unsupported format: no file suffix")
        try:
            _check_file(path)
            parsed = self._parse(path, suffix)
        except OSError as error:
            raise UnreadableDocument(f"cannot be read: {error.strerror or error}") from error
        return Document(document_id, uri, parsed.title, parsed.text, dict(parsed.metadata))

    def _parse(self, path: Path, suffix: str) -> Parsed:
        if suffix in _PLAIN:
            return checked(parse_text(path.read_bytes(), path.name, _PLAIN[suffix]))
        answer = self._worker.ask({"path": str(path.absolute()), "format": _PARSED[suffix]})
        if "error" in answer:
            raise UnreadableDocument(answer["error"])
        if "missing" in answer:
            raise Unavailable(f"a parser is not installed: {answer['missing']}", hint="Run `make install` again.")
        return Parsed(answer["text"], answer["title"], answer["metadata"])


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise UnreadableDocument("not a regular file")
    if status.st_size > FILE_BYTES:
        raise UnreadableDocument(f"too large: {status.st_size / 1e6:.0f} MB, the limit is {FILE_BYTES // 1_000_000} MB")


class _Worker:
    """The child process: started when first asked, started anew after it crashed or was stopped."""

    def __init__(self, command: Sequence[str], seconds: float) -> None:
        self._command = list(command)
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, str]) -> dict[str, Any]:
        """Send `request`, return the answer. Raises `UnreadableDocument` where the child crashes or takes too long."""
        try:
            process = self._running()
            line, late = self._exchange(process, {**request, "seconds": self._seconds})
        except BaseException:  # Ctrl-C: the answer still under way must not become that of the next request
            self.stop()
            raise
        if not line.endswith(b"\n"):
            self.stop()
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
        """Return the child's next line, cut short or empty if it died, and whether it was killed for being late."""
        assert process.stdin and process.stdout
        late = threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        # A timer's thread instead of `select`, which does not wait on pipes everywhere.
        timer = threading.Timer(self._seconds if request else _START_SECONDS, kill)
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

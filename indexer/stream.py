"""Documents as JSON Lines, such as a program writes to standard input: one object a line.

    {"id": "42", "text": "...", "title": "...", "path": "2024/42", "uri": "https://...", "date": "2024-03-01",
     "tags": ["roof"], "labels": ["staff"], "metadata": {"author": "..."}}

`id` and `text` are required. The lines are copied to a temporary file as they come, so that a stream may be larger than
the memory, and the index is locked only once its end has been seen.
"""

import codecs
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import IO, Annotated, Any, BinaryIO, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from indexer.parsed import Parsed, checked, printable
from indexer.sources import record_original
from indexer.update import Source
from rag.catalog import Original
from rag.datatypes import Document
from rag.errors import InvalidRequest, Unavailable, UnreadableDocument
from rag.labels import is_label

LINE_BYTES = 32_000_000
LINES = 2_000_000
TOTAL_BYTES = 20_000_000_000
_PREFIX = "stream:"
_PIECE = 1 << 20
_OWN = frozenset({"date", "tags", "labels"})  # of the metadata: fields of their own say them
_DATE = re.compile(r"\s*(\d{4}-\d{2}-\d{2}|\d{8})(?=[T\s]|\Z)", re.ASCII)
_SPLIT_HINT = "Send it in several parts, each with a --source of its own."


def stream_root(name: str) -> str:
    """Return what a stream of that name is called among the roots of an index. Raises `InvalidRequest`."""
    if not name or len(name) > 64 or not all(char.isalnum() or char in "._-" for char in name) or name.startswith("."):
        raise InvalidRequest(
            f"{name!r} cannot be the name of a source", hint="Use up to 64 letters, digits, '.', '_' and '-'."
        )
    return _PREFIX + name


def is_stream(root: str) -> bool:
    """Whether a root of an index is a stream."""
    return root.startswith(_PREFIX)


def _path(value: str) -> str:
    if not value.isprintable() or any(part in ("", ".", "..") for part in value.split("/")):
        raise ValueError("it is no path of printable characters, parts between '/', none of them empty, '.' or '..'")
    return value


def _id(value: str) -> str:
    _word(value)
    return value


def _word(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("it is empty, or holds characters that cannot be printed")
    return value.strip()


def _label(value: str) -> str:
    if not is_label(value):
        raise ValueError(f"{value[:64]!r} is no label")
    return value


def _day(value: str) -> str:
    """The day of a date, or of a moment as programs spell it, in its own time zone."""
    try:
        said = _DATE.match(value)
        return date.fromisoformat(said[1] if said else "").isoformat()
    except ValueError:
        raise ValueError("a date is written as YYYY-MM-DD, a time may follow") from None


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_id)]
    text: str
    title: Annotated[str, Field(max_length=1000)] = ""
    path: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_path)] | None = None
    uri: Annotated[str, Field(max_length=2000)] = ""
    date: Annotated[str, AfterValidator(_day)] | None = None
    tags: list[Annotated[str, Field(max_length=200), AfterValidator(_word)]] = Field([], max_length=64)
    labels: list[Annotated[str, AfterValidator(_label)]] = Field([], max_length=64)
    metadata: dict[Annotated[str, Field(max_length=100)], str | int | float | bool] = Field({}, max_length=100)

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.path is None:
            try:
                _path(self.id)
            except ValueError as error:
                raise ValueError(f"id: {error}; give it a `path` of its own") from None
        return self

    def document(self, document_id: str) -> Document:
        """Return the record as a document. Raises `UnreadableDocument`."""
        if twice := _OWN & self.metadata.keys():
            raise UnreadableDocument(f"metadata: {min(twice)!r} is a field of its own, beside `metadata`")
        text = checked(Parsed(printable(self.text), self.title)).text
        known: dict[str, Any] = {"format": "text", **self.metadata}
        known |= {name: value for name, value in (("date", self.date),) if value}
        known |= {name: "\n".join(values) for name, values in (("tags", self.tags), ("labels", self.labels)) if values}
        if self.path is not None:
            known["id"] = self.id
        return Document(document_id, self.uri, printable(self.title).strip(), text, known)


@dataclass(frozen=True, slots=True)
class _Line:
    path: str
    number: int
    offset: int
    size: int
    uri: str
    original: Original


@dataclass(slots=True)
class Stream:
    """A stream that has been read to its end: its documents by place in a temporary file, and the lines that are none.

    `failed` holds names of lines with the reason. Close it to delete the file.
    """

    root: str
    failed: list[tuple[str, str]] = field(default_factory=list)
    _file: IO[bytes] = field(default_factory=lambda: tempfile.TemporaryFile())  # noqa: SIM115  # `close` closes it
    _lines: list[_Line] = field(default_factory=list)

    @classmethod
    def read(cls, lines: BinaryIO, name: str) -> Self:
        """Read lines to their end as the source `name`.

        Raises `InvalidRequest` for a name that is none, a stream that ends in the middle of a line, as one does whose
        writer was killed, or one of more than `LINES` lines or `TOTAL_BYTES`; `Unavailable` where the disk is full.
        """
        stream = cls(stream_root(name))
        try:
            stream._take_all(lines)
        except OSError as error:
            stream.close()
            raise Unavailable(
                f"the stream cannot be copied to a temporary file: {error.strerror or error}",
                hint="Make room, or set TMPDIR to a folder with room.",
            ) from error
        except BaseException:
            stream.close()
            raise
        return stream

    @property
    def label(self) -> str:
        """What the ids of its documents begin with, where nothing else does."""
        return self.root.removeprefix(_PREFIX)

    def sources(self, label: str) -> Iterator[Source]:
        """Return its documents, with ids of `label`, `/` and the path or id of the record."""
        for line in self._lines:
            document_id = f"{label}/{line.path}"
            name = self._name(line.number)
            yield Source(document_id, line.uri, line.original, name, partial(self._document, line, document_id))

    def close(self) -> None:
        """Delete the temporary file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_all(self, lines: BinaryIO) -> None:
        numbers: dict[tuple[str, str], int] = {}  # of the lines that have given an id, or a path
        total = 0
        for number, (line, size) in enumerate(_bounded(lines), 1):
            total += size
            if number > LINES or total > TOTAL_BYTES:
                raise InvalidRequest(
                    f"the stream has more than {LINES:,} lines, or {TOTAL_BYTES // 1_000_000_000} GB", hint=_SPLIT_HINT
                )
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)  # which programs on Windows begin with
            if not line.strip() and size <= LINE_BYTES:
                continue
            try:
                self._take(line, size, number, numbers)
            except UnreadableDocument as error:
                self.failed.append((self._name(number), error.message))

    def _take(self, line: bytes, size: int, number: int, numbers: dict[tuple[str, str], int]) -> None:
        if size > LINE_BYTES:
            raise UnreadableDocument(f"too long: a line has at most {LINE_BYTES // 1_000_000} MB")
        record = _parsed(line)
        path = record.path or record.id
        document = record.document(path)
        given = (("id", record.id), ("path", path))
        if twice := next((one for one in given if one in numbers), None):
            raise UnreadableDocument(f"the {twice[0]} {twice[1]!r} was given in line {numbers[twice]} already")
        numbers |= dict.fromkeys(given, number)
        try:
            original = record_original(self.root, document)
        except UnicodeEncodeError:
            raise UnreadableDocument("it holds characters that are no valid text (lone surrogates)") from None
        self._lines.append(_Line(path, number, self._file.tell(), len(line), document.uri, original))
        self._file.write(line)

    def _document(self, line: _Line, document_id: str) -> Document:
        self._file.seek(line.offset)
        return _parsed(self._file.read(line.size)).document(document_id)

    def _name(self, number: int) -> str:
        return f"{self.root}, line {number}"


def _bounded(lines: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Return each line with its size; of one that is too long only the beginning.

    Raises `InvalidRequest` where the last one is cut off.
    """
    while line := lines.readline(LINE_BYTES + 1):
        size, end = len(line), line
        while size > LINE_BYTES and not end.endswith(b"\n") and (end := lines.readline(_PIECE)):
            size += len(end)
        if not end.endswith(b"\n") and not (size <= LINE_BYTES and _is_json(line)):
            raise InvalidRequest(
                "the stream ends in the middle of a line; the index was left as it is",
                hint="Did the program that writes it fail? A stream takes the place of all that its source had before.",
            )
        yield line, size


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(line: bytes) -> _Record:
    try:
        return _Record.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:50] for part in first["loc"])
        raise UnreadableDocument(f"{place}: {first['msg']}" if place else str(first["msg"])) from None

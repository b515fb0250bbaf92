"""JSON lines in, whole files out. Reading is bounded by line; writing is all or nothing."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from rag.errors import DataError

JsonObject = dict[str, Any]


def read_jsonl(path: Path, *, max_line: int) -> Iterator[tuple[int, JsonObject]]:
    """Yield `(line number from 1, object)` of every line that is not blank.

    Raises `DataError` naming file and line where a line is longer than `max_line` bytes, not UTF-8 or no JSON object.
    """
    with open_data(path) as file:
        number = 0
        while line := file.readline(max_line + 1):
            number += 1
            if len(line) > max_line:
                raise DataError(f"{path}:{number}: the line is longer than {max_line:,} bytes")
            if line.strip():
                yield number, parse_object(line, f"{path}:{number}")


@contextmanager
def open_data(path: Path) -> Iterator[BufferedReader]:
    """Open an input file. Raises `DataError` where it is missing or cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


def read_bounded(path: Path, most: int) -> bytes:
    """Return a whole input file. Raises `DataError` where it cannot be read or has more than `most` bytes."""
    with open_data(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DataError(f"{path}: larger than {most:,} bytes")
    return content


def parse_object(line: bytes, where: str) -> JsonObject:
    """Parse one JSON object. Raises `DataError` that begins with `where`."""
    try:
        value = json.loads(line.decode("utf-8-sig").rstrip())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deeply") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON object is wanted, not {type(value).__name__}")
    return value


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place, synced, when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o666 & ~_umask())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with atomic_writer(path) as file:
        file.write(text.encode("utf-8", "replace"))


def quoted(text: str) -> str:
    """Return a text as a string of a TOML file, on one line; what cannot be printed becomes a space."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    escaped = printable.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def dump_line(value: JsonObject) -> bytes:
    """Return one JSON line; half surrogates become `?`. Raises `DataError` for NaN and infinity, which Python reads."""
    try:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(f"a number is NaN or infinite: {str(value)[:200]}", hint="JSON has no such number.") from error
    return line.encode("utf-8", "replace") + b"\n"


def _umask() -> int:
    # mkstemp makes files private; results are meant to be shared like any other file.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

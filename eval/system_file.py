"""The files that systems under comparison are listed in: `configs/systems.toml`, and one of the user's beside it."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eval.system_row import SystemRow
from rag.errors import ConfigError, UnknownModel

MAX_SYSTEMS_FILE = 1_000_000


def load_systems(file: Path | None = None) -> dict[str, SystemRow]:
    """Return the built-in rows by name, those of `file` added; a row of the same name takes the built-in one's place.

    Raises `ConfigError` naming file, row and key.
    """
    built_in = resources.files("configs").joinpath("systems.toml").read_bytes()
    rows = _parse(built_in, "configs/systems.toml")
    if file is not None:
        rows |= {name: _beside(row, file) for name, row in _parse(_read(file), str(file)).items()}
    return rows


def _beside(row: SystemRow, file: Path) -> SystemRow:
    """Take the name of a file of recorded answers as seen from the systems file."""
    return row.model_copy(update={"recorded": str(file.parent / row.recorded)}) if row.recorded else row


def choose_systems(names: Sequence[str], rows: Mapping[str, SystemRow]) -> list[SystemRow]:
    """Return the named rows in the order asked, each once. Raises `UnknownModel` naming those that there are."""
    for name in names:
        if name not in rows:
            raise UnknownModel(f"there is no system {name!r}", hint=f"There are {', '.join(sorted(rows))}.")
    return [rows[name] for name in dict.fromkeys(names)]


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_SYSTEMS_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_SYSTEMS_FILE:
        raise ConfigError(f"{file} is larger than {MAX_SYSTEMS_FILE:,} bytes")
    return content


def _parse(content: bytes, where: str) -> dict[str, SystemRow]:
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from error
    entries = table.get("system")
    if set(table) != {"system"} or not isinstance(entries, list):
        raise ConfigError(f"{where}: a list of [[system]] tables and nothing else is wanted")
    rows: dict[str, SystemRow] = {}
    for number, entry in enumerate(entries, start=1):
        row = _row(entry, f"{where}: [[system]] number {number}")
        if row.name in rows:
            raise ConfigError(f"{where}: there are two systems {row.name!r}")
        rows[row.name] = row
    return rows


def _row(entry: Any, where: str) -> SystemRow:
    try:
        return SystemRow.model_validate(entry)
    except ValidationError as error:
        faults = [": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in error.errors()]
        raise ConfigError(f"{where}: {'; '.join(faults)}") from error

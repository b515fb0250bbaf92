"""TOML files that people may edit or pass on: read whole, but never more than a hand could have written."""

import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

MOST_BYTES = 100_000


def read_toml(source: Path | Traversable) -> dict[str, Any]:
    """Return the table in a file.

    Raises `OSError`, or `ValueError` where it is larger than `MOST_BYTES`, no UTF-8 or no TOML; a model's
    `ValidationError` is a `ValueError`, too, so that callers translate one of each.
    """
    with source.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
    return tomllib.loads(content.decode("utf-8"))

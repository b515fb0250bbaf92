"""What filters ask for of a file's document: its date and its tags, in its metadata beside what its loader found.

date    YYYY-MM-DD: what the loader or the front matter says, else the day of the file's last change (UTC), as it
        was when the file was read
tags    one a line, from the front matter
labels  one a line, likewise: access labels, for documents that no label rule speaks of (`rag.labels`)
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from indexer.outline import FRONT_MATTER_CHARACTERS, JSON_OPENING, MARKDOWN_SUFFIXES, front_matter
from rag.datatypes import Document

# Raise one of them with every change here that changes what is known of a document: files are then read again, all of
# them or those that may have front matter. What shuts a document away must reach those that were indexed before.
_VERSION = 1
_FRONT_MATTER_VERSION = 4

_MOST = 64  # tags, or labels
_LONGEST = 200  # characters of one
# What shuts a document away that names labels nobody can make out. No key can hold it: it is no label.
_UNCLEAR = "(unclear)"
# Where front matter that cannot be read speaks of labels: at the beginning of a line, or of a field within braces.
_NAMES_LABELS = re.compile(r"""^[\s"'?-]*labels|[{,][\s"'?]*labels["']?\s*[:=]""", re.IGNORECASE | re.MULTILINE)
# Where nobody has closed it, text may follow: only what is a field.
_LABELS_FIELD = re.compile(r"""^["']?labels["']?[ \t]*[:=]""", re.IGNORECASE | re.MULTILINE)
_LABELS_IN_JSON = re.compile(r"""["']labels["']\s*:""", re.IGNORECASE)
_OPENING = re.compile(r"(---|\+\+\+)[ \t]*\r?\n")
_CLOSING = {mark: re.compile(rf"^(?:{re.escape(mark)}|\.\.\.)[ \t]*\r?$", re.MULTILINE) for mark in ("---", "+++")}
_MOST_MERGED = 10_000  # fields; there are 20,000 characters of front matter at most


def version(name: str) -> str:
    """Name what decides what is known of a file of this name, beside what its loader finds."""
    return str(_FRONT_MATTER_VERSION if PurePosixPath(name).suffix.lower() in MARKDOWN_SUFFIXES else _VERSION)


def described(document: Document, changed: date | None) -> Document:
    """Return the document with tags, date and labels of its front matter; without a date it is of the day `changed`."""
    known = _front_matter(document) if document.metadata.get("format") == "markdown" else {}
    found: dict[str, str] = {}
    if tags := _words(known.get("tags")):
        found["tags"] = "\n".join(tags[:_MOST])
    if "labels" in known:
        labels = _words(known["labels"])
        found["labels"] = "\n".join(labels[:_MOST]) or _UNCLEAR
    day = _day(known.get("date")) or _day(document.metadata.get("date")) or changed
    if day:
        found["date"] = day.isoformat()
    kept = {name: value for name, value in document.metadata.items() if name != "date"}
    return replace(document, metadata={**kept, **found})


def _front_matter(document: Document) -> Mapping[str, Any]:
    """Return the fields of a Markdown file's front matter, names in lower case; none where it cannot be read."""
    # Lines that end with a carriage return alone are lines to YAML, and were to the Macs of old.
    text = document.text.replace("\r\n", "\n").replace("\r", "\n")
    block, _ = front_matter(text)
    if not block:
        return {"labels": None} if _hides_labels(text) else {}
    try:
        fields = _parsed(text, block)
        if not isinstance(fields, dict):  # a list of fields, or a text: TOML between YAML's marks is one
            named = (_NAMES_LABELS if isinstance(fields, list) else _LABELS_FIELD).search(block)
            return {"labels": None} if named else {}
        return {str(name).lower(): value for name, value in fields.items()}
    except Exception:  # PyYAML lets through what its constructors raise: `!!bool maybe` is a KeyError, and so on
        return {"labels": None} if _NAMES_LABELS.search(block) else {}


def _parsed(text: str, block: str) -> Any:
    if text.startswith("{"):
        return json.loads(block)
    return tomllib.loads(block) if text.startswith("+++") else _yaml(block)


def _hides_labels(text: str) -> bool:
    """Whether labels stand in more front matter than is looked at, or in some that nobody has closed.

    A document must not be open for that.
    """
    if JSON_OPENING.match(text):  # too long, or a comma too many
        return _LABELS_IN_JSON.search(text, 0, FRONT_MATTER_CHARACTERS) is not None
    begun = _OPENING.match(text)
    if not begun:
        return False
    if _CLOSING[begun[1]].search(text, begun.end()):
        return _NAMES_LABELS.search(text, begun.end(), FRONT_MATTER_CHARACTERS) is not None
    block = text[begun.end() : FRONT_MATTER_CHARACTERS].partition("\n\n")[0]
    return _LABELS_FIELD.search(block) is not None


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML comes without types
    """YAML's plain values, merge keys within bounds: thirty lines of merged merges make a thousand million fields."""

    merged = 0

    def flatten_mapping(self, node: Any) -> None:
        """Put in what is merged. Raises `yaml.YAMLError` where that is too much."""
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > _MOST_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "too many merged keys", node.start_mark)


def _yaml(block: str) -> Any:
    return yaml.load(block, _Loader)  # noqa: S506 - a safe loader, by inheritance


def _words(value: object) -> list[str]:
    """Return the texts of a list, or of one text with commas, or one value such as a year."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    texts = (" ".join(_text(part).split()) for part in parts if isinstance(part, str | int | float | date))
    return list(dict.fromkeys(text[:_LONGEST] for text in texts if text))


def _text(part: str | float | date) -> str:
    try:
        return str(part)
    except ValueError:  # a number of more digits than Python spells
        return ""


def _day(value: object) -> date | None:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value.strip()[:10]) if isinstance(value, str) else None
    except ValueError:
        return None


def day_of_change(path: Path) -> date | None:
    """Return the day on which a file was last changed (UTC), None where that cannot be told."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    except (OSError, ValueError, OverflowError):
        return None

"""JSON to Markdown: records become sections or the rows of a table, everything else lines of `name: value`.

What is no JSON after all (comments, several values in a file) is kept as plain text, with a warning.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from indexer.load_text import decode
from indexer.outline import plain_title
from indexer.parsed import TEXT_CHARACTERS, Parsed, printable, readable_stem
from indexer.tables import markdown_table
from rag.errors import UnreadableDocument

_NAMES = ("title", "name", "headline", "subject", "label", "question", "id", "_id", "key")
_SHORT = 60  # characters: values of records that are short, few and the same make a table
_COLUMNS = 12
_DEEPEST = 100


def parse_json(content: bytes, name: str) -> Parsed:
    """Return the values of a JSON file as Markdown, also where it is JSON Lines after all.

    Raises `UnreadableDocument` where it is no text.
    """
    return _parsed(content, name, "json", _value)


def parse_jsonl(content: bytes, name: str) -> Parsed:
    """Return the records of a JSON Lines file, one to a line, as Markdown."""
    return _parsed(content, name, "jsonl", _records)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return _records(text)


def _records(text: str) -> list[Any]:
    return [json.loads(line) for line in _json_lines(text) if line.strip()]


def _json_lines(text: str) -> list[str]:
    # Not `splitlines`: other line ends than these may stand in a string as they are.
    return text.replace("\r", "\n").split("\n")


def _parsed(content: bytes, name: str, source: str, load: Any) -> Parsed:
    text = decode(content)
    try:
        value = load(text)
    except (ValueError, RecursionError):
        return Parsed(
            printable(text), readable_stem(name), {"format": "text", "warning": "not valid JSON: read as text"}
        )
    lines: list[str] = []
    size = 0
    for line in _document(value):
        lines.append(line)
        size += len(line)
        if size > TEXT_CHARACTERS:
            raise UnreadableDocument(f"too long: more than {TEXT_CHARACTERS // 1_000_000} million characters of text")
    return Parsed(printable("\n".join(lines)).strip(), readable_stem(name), {"format": source})


def _document(value: Any, under: int = 1) -> Iterator[str]:
    """The lines of a value; its sections stand below a heading of level `under`."""
    records = value if isinstance(value, list) else None
    mark = "#" * (under + 1)
    if records and all(isinstance(record, dict) for record in records):
        columns = list(dict.fromkeys(key for record in records for key in record))
        if len(records) > 1 and len(columns) <= _COLUMNS and all(_is_flat(record) for record in records):
            rows = [[_scalar(record.get(key)) for key in columns] for record in records]
            yield markdown_table([columns, *rows], under)
            return
        for number, record in enumerate(records, start=1):
            yield f"\n{mark} {_record_title(record, number)}\n"
            yield from _lines(record, 0)
    elif isinstance(value, dict):
        yield from _lines({key: item for key, item in value.items() if not _is_large(item)}, 0)
        for key, item in value.items():
            if _is_large(item):
                yield f"\n{mark} {plain_title(str(key)) or '-'}\n"
                table = isinstance(item, list) and not _is_nested_list(item)
                yield from _document(item, under + 1) if table else _lines(item, 0)
    else:
        yield from _lines(value, 0)


def _is_flat(record: Mapping[str, Any]) -> bool:
    return all(not isinstance(value, dict | list) and len(_scalar(value)) <= _SHORT for value in record.values())


def _is_large(value: Any) -> bool:
    """Whether a member of the outermost object deserves a section of its own."""
    return isinstance(value, dict | list) and any(isinstance(item, dict | list) for item in _items(value))


def _is_nested_list(value: Sequence[Any]) -> bool:
    return any(not isinstance(item, dict) for item in value)


def _items(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _record_title(record: Mapping[str, Any], number: int) -> str:
    names = (record[key] for key in _NAMES if isinstance(record.get(key), str | int))
    return next(filter(None, (plain_title(str(name)) for name in names)), f"Record {number}")


def _lines(value: Any, depth: int) -> Iterator[str]:
    """`name: value` lines, indented by depth; lists with dashes. Strings of several lines stand as they are."""
    indent = "  " * depth
    if depth > _DEEPEST:
        raise UnreadableDocument(f"damaged: nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                yield f"{indent}{key}:"
                yield from _lines(item, depth + 1)
            else:
                yield f"{indent}{key}: {_scalar(item)}"
    elif isinstance(value, list):
        if all(not isinstance(item, dict | list) for item in value) and sum(map(len, map(_scalar, value))) < 5 * _SHORT:
            yield indent + ", ".join(map(_scalar, value))
            return
        for item in value:
            if isinstance(item, dict | list) and item:
                first, *rest = list(_lines(item, depth + 1))
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{indent}- {_scalar(item)}"
    else:
        yield indent + _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)

"""XLSX to Markdown: each sheet a heading and its tables, read by openpyxl."""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from html import unescape
from itertools import groupby
from typing import Any

from indexer.charts import elements, line_of
from indexer.number_formats import number_as_shown
from indexer.outline import plain_title
from indexer.package import core_date, core_title, office_parts, related, xml_root
from indexer.parsed import Parsed, join_pages, printable, readable_stem
from indexer.tables import check_cells, markdown_table

_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\s[^>]*?ref=[\"']([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})[\"']")

# A cell's attributes and formula, where no result is stored with it; an empty text is a result.
_UNSOLVED = re.compile(
    rb"<(?:\w+:)?c\s([^>]*)>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>([^<]*)</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
_PLACE = re.compile(rb"\br=[\"']([A-Z]{1,3})(\d{1,7})[\"']")


def parse_xlsx(content: bytes, name: str) -> Parsed:
    """Return the values of an XLSX as tables, formulas by their results, or as they are where none was stored.

    Metadata `pages` holds the offsets of the sheets. An empty row ends a table. Raises `UnreadableDocument`
    where it is damaged, encrypted, not an XLSX, or too large.
    """
    import openpyxl

    parts, main = office_parts(content, "XLSX")
    book = openpyxl.load_workbook(_rezipped(parts), read_only=True, data_only=True, keep_links=False)
    places = _places(parts, main)
    cells = unsolved = 0
    sheets = []
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # what the file says of its size is often wrong
        rows = []
        for row in sheet.iter_rows():
            cells += max(1, len(row))
            check_cells(cells)
            rows.append([_text(cell) for cell in row])
        place = places.get(str(sheet.title), "")
        unsolved += _show_unsolved(rows, parts.get(place, b""))
        cells += _repeat_merged(rows, parts.get(place, b""), cells)
        sheets.append(printable(_sheet(str(sheet.title), rows, _text_boxes(parts, place))))
    text, offsets = join_pages(sheets)
    known = {"format": "xlsx", "pages": offsets, **core_date(content, parts)}
    if unsolved:
        known["warning"] = f"{unsolved} formulas without a stored result: open and save it in a spreadsheet program"
    return Parsed(text, core_title(parts, name) or readable_stem(name), known)


def _rezipped(parts: Mapping[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, xml in parts.items():
            archive.writestr(name, xml)
    file.seek(0)
    return file


def _places(parts: Mapping[str, bytes], main: str) -> dict[str, str]:
    """The names of the sheets' parts, by the sheets' titles."""
    links = related(parts, main)
    found = {}
    for sheet in elements(xml_root(parts[main]), "sheet"):
        reference = next((value for key, value in sheet.attrib.items() if key.endswith("}id")), "")
        found[sheet.get("name", "")] = links.get(reference, ("", ""))[1]
    return found


def _show_unsolved(rows: list[list[str]], xml: bytes) -> int:
    """Put formulas whose results nobody has stored, as libraries write them, in their cells; return how many."""
    from openpyxl.utils.cell import column_index_from_string

    found = 0
    for attributes, formula in _UNSOLVED.findall(xml):
        place = _PLACE.search(attributes)
        if not place or re.search(rb"\bt=[\"']str[\"']", attributes):
            continue
        row, column = int(place[2]) - 1, column_index_from_string(place[1].decode()) - 1
        if 0 <= row < len(rows) and column < len(rows[row]) and not rows[row][column]:
            rows[row][column] = "=" + unescape(formula.decode("utf-8", "replace")) if formula else ""
            found += 1
    return found


def _repeat_merged(rows: list[list[str]], xml: bytes, cells: int) -> int:
    """Repeat what is merged down a column in each row that holds anything, as it counts for them; return how often.

    Raises `UnreadableDocument` where that makes more than `CELLS`.
    """
    from openpyxl.utils.cell import column_index_from_string

    repeated = 0
    for found in _MERGED.finditer(xml):
        column, first, last_column, last = found.groups()
        top, at = int(first) - 1, column_index_from_string(column.decode()) - 1
        if column != last_column or not 0 <= top < len(rows) or at >= len(rows[top]):
            continue
        for row in rows[top + 1 : int(last)]:
            check_cells(cells + repeated)
            repeated += 1
            if any(row):
                row += [""] * (at + 1 - len(row))
                row[at] = rows[top][at]
    return repeated


def _text_boxes(parts: Mapping[str, bytes], sheet: str) -> Iterator[str]:
    """What is written in the shapes that lie on a sheet."""
    for kind, part in related(parts, sheet).values():
        if kind == "drawing" and part in parts:
            for shape in elements(xml_root(parts[part]), "sp"):
                paragraphs = (line_of(paragraph) for paragraph in elements(shape, "p"))
                yield "\n".join(filter(None, paragraphs))


def _sheet(title: str, rows: Iterable[list[str]], boxes: Iterable[str]) -> str:
    blocks = [*_blocks(rows), *filter(None, boxes)]
    return "\n\n".join([f"## {plain_title(title)}", *blocks]) if blocks else ""


def _blocks(rows: Iterable[list[str]]) -> Iterator[str]:
    """Runs of rows that are not empty: a table each, or lines where there is a single column."""
    runs = [list(group) for filled, group in groupby(rows, key=any) if filled]
    for number, run in enumerate(runs):
        if number + 1 < len(runs) and _is_head_of(run, runs[number + 1]):
            runs[number + 1] = run + runs[number + 1]
            continue
        left = min(map(_first, run))
        block = [row[left:] for row in run]
        while len(block) > 1 and not any(block[0][1:]) and any(any(row[1:]) for row in block):
            yield block.pop(0)[0]  # the table's caption, or a line above it
        if all(not any(row[1:]) for row in block):
            yield "\n".join(row[0] for row in block)
        else:
            yield markdown_table(block, under=2)


def _is_head_of(run: Sequence[Sequence[str]], below: Sequence[Sequence[str]]) -> bool:
    """Whether a row that stands alone names the columns of what follows an empty row below it."""
    head = run[-1]
    named = all(any(map(str.isalpha, cell)) for cell in head if cell) and sum(map(bool, head)) > 1
    captioned = all(sum(map(bool, row)) == 1 for row in run[:-1])
    return named and captioned and _first(head) == min(map(_first, below)) and _last(head) == max(map(_last, below))


def _first(row: Sequence[str]) -> int:
    return next(number for number, cell in enumerate(row) if cell)


def _last(row: Sequence[str]) -> int:
    return max(number for number, cell in enumerate(row) if cell)


def _text(cell: Any) -> str:
    """A cell as its reader sees it, as far as that can be known without Excel."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "minutes")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        minutes, seconds = divmod(round(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    return number_as_shown(value, str(cell.number_format)) if isinstance(value, int | float) else str(value)

"""CSV and its relatives (semicolon, tab, pipe) to Markdown tables."""

import csv
import io
import re
from collections import Counter
from itertools import islice, takewhile

from indexer.load_text import decode
from indexer.parsed import Parsed, printable, readable_stem
from indexer.tables import check_cells, markdown_table
from rag.errors import UnreadableDocument

_DELIMITERS = ",;\t|"
_NONE = "\x1f"  # stands in no text: `printable` drops it
_SAID = re.compile(r'"?sep=([^\w\s"]|\t)"?\n')  # the first line, for Excel alone
_SAMPLE_ROWS = 50
_SAMPLE = 50_000  # characters
_FIELD = 10_000_000  # characters of one cell


def parse_csv(content: bytes, name: str) -> Parsed:
    """Return the table of a CSV file, its first row taken for the head. Raises `UnreadableDocument`."""
    text = printable(decode(content))  # every line ends with \n now, and what else ends lines stands in cells
    said = _SAID.match(text)
    text = text[said.end() :] if said else text
    csv.field_size_limit(_FIELD)
    rows, cells = [], 0
    try:
        for row in csv.reader(io.StringIO(text, newline="\n"), delimiter=said[1] if said else _delimiter(text)):
            cells += max(1, len(row))
            check_cells(cells)
            rows.append(row)
    except csv.Error as error:
        raise UnreadableDocument(f"damaged CSV: {error}") from error
    rows = [row for row in rows if any(map(str.strip, row))]
    above = list(takewhile(lambda row: not any(map(str.strip, row[1:])), rows))  # a title, when it was made, and so on
    if len(above) == len(rows):  # a single column
        above = []
    blocks = ["\n".join(row[0].strip() for row in above), markdown_table(rows[len(above) :])]
    return Parsed("\n\n".join(filter(None, blocks)), readable_stem(name), {"format": "csv"})


def _delimiter(text: str) -> str:
    """The delimiter that cuts most rows of a sample to the same number of cells, the more the better.

    Where none cuts at least half of the rows it is a single column. `csv.Sniffer` finds letters to cut at there.
    """
    lines = list(islice(io.StringIO(text[:_SAMPLE], newline="\n"), _SAMPLE_ROWS))
    best = max(_DELIMITERS, key=lambda delimiter: _agreement(lines, delimiter))
    return best if _agreement(lines, best) > (0.0, 0) else _NONE


def _agreement(lines: list[str], delimiter: str) -> tuple[float, int]:
    """The share of rows with the most frequent number of cells, and that number."""
    try:
        widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
    except csv.Error:
        return 0.0, 0
    wide = {width: count for width, count in widths.items() if width > 1}
    if not wide or 2 * sum(wide.values()) < widths.total():
        return 0.0, 0
    width, count = max(wide.items(), key=lambda item: (item[1], item[0]))
    return count / widths.total(), width

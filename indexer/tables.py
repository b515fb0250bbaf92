"""Rows of cells to Markdown tables that stay readable when they are cut into passages."""

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from indexer.outline import plain_title
from rag.errors import UnreadableDocument

# A table is written in blocks of about so many characters and pieces (less than a chunk of the default 240 tokens
# holds), each with the head above it, so that every passage of a long table says what its columns are.
BLOCK_CHARACTERS = 700
_BLOCK_PIECES = 220
_PIECE = re.compile(r"[^\W\d_]{1,6}|\d{1,2}|[^\w\s]|_")
_LEAST = 3  # heads that a block is as long as: repeating it must not double the text
_NAME = 60  # characters: a cell that is short and says a word is what a row is called
_RULE = re.compile(r"^(\| ---(?: \| ---)* \|)$", re.MULTILINE)
CELLS = 5_000_000  # of one file, empty ones included


def markdown_table(rows: Sequence[Sequence[str]], under: int = 1) -> str:
    """Return `rows` as Markdown, the first one as the head; "" where all cells are empty. Rows may differ in length.

    Rows that are longer than a block by and large, such as those of tickets or reviews, become sections of
    `name: value` lines instead, below a heading of level `under`: a passage of such a row would not tell its column.
    Not those of many columns with short values, whose text the names would make several times as long.
    Raises `UnreadableDocument` where the table, its empty cells included, has more than `CELLS`.
    """
    lines = [[_cell(cell) for cell in row] for row in rows]
    lines = [row for row in lines if any(row)]
    width = max((_filled(row) for row in lines), default=0)
    if not width:
        return ""
    check_cells(width * len(lines))
    head, *body = [[*row[:width], *[""] * (width - len(row))] for row in lines]
    size = sum(map(len, map(_line, body)))
    if size > max(BLOCK_CHARACTERS, len(_line(head)) // 2) * len(body):
        filled = [row[:width] for row in rows if any(map(str.strip, row))]
        return "\n\n".join(_sections(filled, "#" * (under + 1)))
    return "\n\n".join(_blocks(_line(head), _line(["---"] * width), [_line(row) for row in body]))


def in_blocks(table: str) -> str:
    """Return a Markdown table in blocks like those of `markdown_table`; as it is where it has no head of its own."""
    before, rule, body = _RULE.split(table, maxsplit=1) if len(_RULE.findall(table)) == 1 else ("", "", table)
    above, _, head = before.strip("\n").rpartition("\n")
    rows = body.strip("\n").split("\n")
    if not head.startswith("|") or not all(row.startswith("|") for row in rows):
        return table
    blocks = "\n\n".join(_blocks(head, rule, rows))
    return f"{above}\n{blocks}" if above else blocks


def check_cells(count: int) -> None:
    """Raise `UnreadableDocument` where a file has more cells than are read."""
    if count > CELLS:
        raise UnreadableDocument(f"too large: more than {CELLS // 1_000_000} million cells")


def _blocks(head: str, rule: str, body: Sequence[str]) -> Iterator[str]:
    least = (len(head), _pieces(head) + _pieces(rule))
    block, (size, pieces) = [head, rule], least
    for row in body:
        more = _pieces(row)
        full = size + len(row) > BLOCK_CHARACTERS or pieces + more > _BLOCK_PIECES
        if full and size >= _LEAST * len(head):
            yield "\n".join(block)
            block, (size, pieces) = [head, rule], least
        block.append(row)
        size += len(row)
        pieces += more
    yield "\n".join(block)


def _pieces(row: str) -> int:
    """About how many tokens a row has: numbers and marks are many where words are few."""
    return sum(1 for _ in _PIECE.finditer(row))


def _sections(rows: Sequence[Sequence[str]], mark: str) -> Iterator[str]:
    head = [" ".join(cell.split()) for cell in rows[0]]
    for number, row in enumerate(rows[1:], start=1):
        names = (" ".join(cell.split()) for cell in row)
        name = next((name for name in names if len(name) <= _NAME and any(map(str.isalpha, name))), "")
        cells = zip_longest(head, map(str.strip, row), fillvalue="")
        lines = [f"{column or f'Column {at}'}: {cell}" for at, (column, cell) in enumerate(cells, start=1) if cell]
        yield f"{mark} {plain_title(name) or f'Row {number}'}\n\n" + "\n".join(lines)


def _filled(row: Sequence[str]) -> int:
    """How many cells the row has up to its last that is not empty."""
    return next((number for number in range(len(row), 0, -1) if row[number - 1]), 0)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

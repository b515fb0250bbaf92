"""Rows of cells to Markdown tables that stay readable when they are cut into passages."""

from collections.abc import Iterator, Sequence

from rag.errors import UnreadableDocument

# A table is written in blocks of about so many characters (less than a chunk of the default 240 tokens holds), each
# with the head above it, so that every passage of a long table says what its columns are.
BLOCK_CHARACTERS = 700
_FEWEST_ROWS = 4  # of a block: rows as wide as the head must not double the text
CELLS = 5_000_000  # of one file, empty ones included


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` as Markdown, the first one as the head; "" where all cells are empty. Rows may differ in length.

    Raises `UnreadableDocument` where the table, its empty cells included, has more than `CELLS`.
    """
    lines = [[_cell(cell) for cell in row] for row in rows]
    lines = [row for row in lines if any(row)]
    width = max((_filled(row) for row in lines), default=0)
    if not width:
        return ""
    check_cells(width * len(lines))
    head, *body = [[*row[:width], *[""] * (width - len(row))] for row in lines]
    return "\n\n".join(_blocks(_line(head), _line(["---"] * width), [_line(row) for row in body]))


def check_cells(count: int) -> None:
    """Raise `UnreadableDocument` where a file has more cells than are read."""
    if count > CELLS:
        raise UnreadableDocument(f"too large: more than {CELLS // 1_000_000} million cells")


def _blocks(head: str, rule: str, body: Sequence[str]) -> Iterator[str]:
    block = [head, rule]
    size = len(head)
    for row in body:
        if size + len(row) > BLOCK_CHARACTERS and len(block) >= 2 + _FEWEST_ROWS:
            yield "\n".join(block)
            block, size = [head, rule], len(head)
        block.append(row)
        size += len(row)
    yield "\n".join(block)


def _filled(row: Sequence[str]) -> int:
    """How many cells the row has up to its last that is not empty."""
    return next((number for number in range(len(row), 0, -1) if row[number - 1]), 0)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

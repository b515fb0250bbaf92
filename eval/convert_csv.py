"""A table of questions and answers, as people keep it in a spreadsheet, to a QA-set folder."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from eval.files import JsonObject, dump_line, open_data
from eval.qaset import QASet, load_qaset, read_corpus
from eval.qaset_draft import UNKNOWN_LICENSE, new_folder, write_meta
from rag.datatypes import Document
from rag.errors import DataError

MAX_CSV_FILE = 100_000_000
COLUMNS = ("id", "question", "answer", "answerable", "relevant")
_REQUIRED = ("question", "answer")
_DELIMITERS = (",", ";", "\t")
_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})

# Reads the documents of a folder; which formats it knows is not known here.
LoadFolder = Callable[[Path], Iterable[Document]]


class CsvForm(NamedTuple):
    """How a table is written. `separator` splits several right answers, or several relevant ids, in one cell.

    An empty `delimiter` is the one of comma, semicolon and tab with which the first line names the columns.
    """

    delimiter: str = ""
    separator: str = "|"
    encoding: str = "utf-8-sig"


PLAIN = CsvForm()


def csv_to_qaset(
    path: Path,
    documents: Path,
    out: Path,
    load_folder: LoadFolder,
    *,
    form: CsvForm = PLAIN,
    name: str = "",
    license_: str = UNKNOWN_LICENSE,
) -> QASet:
    """Convert a CSV file with the columns question and answer, and optionally id, answerable and relevant.

    `documents` is a folder of files, which `load_folder` reads, or a `corpus.jsonl`. A question that the documents
    do not answer has `false` in the column answerable and an empty answer. Other columns are passed over. Without the
    column relevant, retrieval and citations are not judged.
    Raises `DataError` naming the line where the table is malformed, or where `out` holds something.
    """
    rows = list(_rows(path, form))
    with new_folder(out) as draft:
        ids = _write_corpus(documents, draft / "corpus.jsonl", load_folder)
        _check_relevant(rows, ids, path)
        with (draft / "questions.jsonl").open("wb") as questions:
            questions.writelines(dump_line(row) for _, row in rows)
        kind = "QA with unanswerable questions" if any(not row["answerable"] for _, row in rows) else "QA"
        write_meta(draft, name or path.stem, kind, license_, f"CSV {path.name} over the documents of {documents.name}")
    return load_qaset(out)


def _write_corpus(documents: Path, target: Path, load_folder: LoadFolder) -> frozenset[str]:
    found = read_corpus(documents) if documents.is_file() else load_folder(documents)
    ids: dict[str, None] = {}
    with target.open("wb") as corpus:
        for document in found:
            ids[document.id] = None
            corpus.write(dump_line({"id": document.id, "title": document.title, "text": document.text}))
    if not ids:
        raise DataError(f"{documents} holds no document that can be read")
    return frozenset(ids)


def _check_relevant(rows: list[tuple[int, JsonObject]], ids: frozenset[str], path: Path) -> None:
    for line, row in rows:
        for id_ in row["relevant"]:
            if id_ not in ids:
                raise DataError(
                    f"{path}:{line}: `relevant` names {id_!r}, which is none of the documents",
                    hint="A document's id is its path in the folder, with forward slashes, or the id in corpus.jsonl.",
                )


def _rows(path: Path, form: CsvForm) -> Iterator[tuple[int, JsonObject]]:
    """Yield `(line, question)`. A quoted cell may hold line breaks: the line is the first of the row."""
    text = _text(path, form.encoding)
    form = form._replace(delimiter=form.delimiter or _delimiter(text))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=form.delimiter, strict=True)
    except (TypeError, ValueError) as error:
        raise DataError(f"the delimiter {form.delimiter!r} must be one character") from error
    if not form.separator:
        raise DataError("the separator of several answers is empty")
    header: list[str] | None = None
    seen: dict[str, int] = {}
    line = 1
    try:
        for cells in reader:
            begin, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(cells, f"{path}:{begin}", form)
                continue
            row = _question(cells, header, f"{path}:{begin}", form.separator, default_id=f"line-{begin}")
            if row["id"] in seen:
                raise DataError(f"{path}:{begin}: the id {row['id']!r} was used on line {seen[row['id']]} already")
            seen[row["id"]] = begin
            yield begin, row
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not CSV: {error}") from error
    if not seen:
        raise DataError(f"{path}: holds no question")


def _delimiter(text: str) -> str:
    """Return what splits the cells, by the first line that holds something; a comma where that names no columns."""
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    for delimiter in _DELIMITERS:
        named = {cell.strip(' "\r\n').lower() for cell in first.split(delimiter)}
        if named.issuperset(_REQUIRED):
            return delimiter
    return _DELIMITERS[0]


def _text(path: Path, encoding: str) -> str:
    with open_data(path) as file:
        content = file.read(MAX_CSV_FILE + 1)
    if len(content) > MAX_CSV_FILE:
        raise DataError(f"{path}: larger than {MAX_CSV_FILE:,} bytes")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not {encoding}: {error.reason} at byte {error.start}",
            hint="Name the encoding with --encoding; spreadsheets of Windows often write cp1252.",
        ) from error
    except LookupError as error:
        raise DataError(f"there is no encoding {encoding!r}", hint="Common ones: utf-8, utf-16, cp1252.") from error


def _header(cells: list[str], where: str, form: CsvForm) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    for name in COLUMNS:
        if header.count(name) > 1:
            raise DataError(f"{where}: there are two columns {name!r}")
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise DataError(
            f"{where}: the columns question and answer are wanted, the first line has {', '.join(header)}",
            hint=f"Cells are split by {form.delimiter!r}; name another character with --delimiter.",
        )
    return header


def _question(cells: list[str], header: list[str], where: str, separator: str, *, default_id: str) -> JsonObject:
    if len(cells) != len(header):
        raise DataError(
            f"{where}: {len(cells)} cells, but {len(header)} columns",
            hint='Put a cell with a comma in "double quotes".',
        )
    row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    if not row["question"]:
        raise DataError(f"{where}: the question is empty")
    answers = _split(row["answer"], separator)
    answerable = _truth(row.get("answerable", ""), where)
    if answerable and not answers:
        raise DataError(
            f"{where}: the answer is empty",
            hint="Where the documents do not hold the answer, write false in a column answerable.",
        )
    if answers and not answerable:
        raise DataError(f"{where}: there is an answer, but `answerable` is {row['answerable']!r}")
    return {
        "id": row.get("id") or default_id,
        "question": row["question"],
        "answers": answers,
        "answerable": answerable,
        "relevant": _split(row.get("relevant", ""), separator),
    }


def _truth(cell: str, where: str) -> bool:
    if cell and cell.lower() not in _TRUE | _FALSE:
        raise DataError(f"{where}: `answerable` must be true or false, not {cell[:40]!r}")
    return cell.lower() not in _FALSE


def _split(cell: str, separator: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip()))

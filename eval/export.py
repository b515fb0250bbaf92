"""A run in the forms of other tools: TREC run files with qrels, ragas' JSON lines, RAGChecker's JSON.

Rows hold the ids of retrieved documents; their texts are taken from the QA-set folder of the run. All is streamed:
rows from the run, texts from the corpus by their place in the file.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from eval.files import JsonObject, atomic_writer, dump_line, open_data, parse_object
from eval.qaset import MAX_CORPUS_LINE, load_qaset
from eval.results import Run, read_rows, read_run
from eval.rows import RankedDocument, Row
from rag.abstain import ABSTENTION_TEXT
from rag.errors import DataError

DEPTH = 5
QRELS = "qrels.txt"

_JSON_LIST = (b'{"results": [\n', b"]}\n")


class Exported(NamedTuple):
    """What was written: a file for each system, and how many questions were left out because the system failed."""

    files: dict[str, Path]
    questions: int
    failed: int


def export_trec(run_folder: Path, out: Path) -> Exported:
    """Write `SYSTEM.run` for each system that retrieves, and `qrels.txt`, as trec_eval reads them.

    A run has lines `query Q0 document rank score tag`, the qrels `query 0 document 1`. trec_eval orders by the score,
    as a 32-bit number, and breaks ties by id: where a question's scores do not fall strictly, reciprocal ranks stand
    in for them. White space and `%` in ids are percent-encoded, since the format has no quotes. Raises `DataError`.
    """
    with _opened(run_folder, out, ".run", lambda row: row.retrieves) as sink:
        for row in sink.rows:
            for rank, (document, score) in enumerate(_scored(row.retrieved), start=1):
                query, tag = trec_id(row.question_id), row.system
                sink.write(row, f"{query} Q0 {trec_id(document)} {rank} {score!r} {tag}\n".encode())
    with atomic_writer(out / QRELS) as file:
        for question, relevant in _relevant(run_folder):
            file.writelines(f"{trec_id(question)} 0 {trec_id(document)} 1\n".encode() for document in relevant)
    return sink.exported


def export_ragas(run_folder: Path, out: Path, data: Path, *, depth: int = DEPTH) -> Exported:
    """Write `SYSTEM.jsonl` for each system: lines that ragas' `EvaluationDataset.from_jsonl` reads.

    The retrieved contexts are the texts of the first `depth` documents, the reference the first right answer, or for
    an unanswerable question the words of an abstention. Questions on which a system failed are left out.
    Raises `DataError` where `data` is not the QA set of the run.
    """
    with CorpusTexts(run_folder, data) as texts, _opened(run_folder, out, ".jsonl", lambda _: True) as sink:
        for row in sink.rows:
            if sink.passes(row):
                sink.write(row, dump_line(_ragas_sample(row, texts, depth)))
    return sink.exported


def export_ragchecker(run_folder: Path, out: Path, data: Path, *, depth: int = DEPTH) -> Exported:
    """Write `SYSTEM.json` for each system that generates: `{"results": [...]}` as RAGChecker's command reads it.

    Contexts, references and failures as in `export_ragas`. Raises `DataError` where `data` is not the run's QA set.
    """
    with (
        CorpusTexts(run_folder, data) as texts,
        _opened(run_folder, out, ".json", lambda row: row.generates, _JSON_LIST) as sink,
    ):
        for row in sink.rows:
            if sink.passes(row):
                comma = b"," if sink.written[row.system] else b""
                sink.write(row, comma + dump_line(_ragchecker_result(row, texts, depth)))
    return sink.exported


def _ragas_sample(row: Row, texts: "CorpusTexts", depth: int) -> JsonObject:
    found = [document.document_id for document in row.retrieved[:depth]]
    sample: JsonObject = {"user_input": row.question}
    if row.generates:
        sample["response"] = _response(row)
    if row.gold or not row.answerable:
        sample["reference"] = _reference(row)
    if row.retrieves:
        sample |= {"retrieved_contexts": texts.of(found), "retrieved_context_ids": found}
    if row.relevant:
        sample |= {"reference_contexts": texts.of(row.relevant), "reference_context_ids": list(row.relevant)}
    return sample


def _ragchecker_result(row: Row, texts: "CorpusTexts", depth: int) -> JsonObject:
    found = [document.document_id for document in row.retrieved[:depth]]
    return {
        "query_id": row.question_id,
        "query": row.question,
        "gt_answer": _reference(row),
        "response": _response(row),
        "retrieved_context": [{"doc_id": id_, "text": text} for id_, text in zip(found, texts.of(found), strict=True)],
    }


def _response(row: Row) -> str:
    return ABSTENTION_TEXT if row.abstained else row.answer


def _reference(row: Row) -> str:
    return row.gold[0] if row.gold else "" if row.answerable else ABSTENTION_TEXT


def _scored(retrieved: Sequence[RankedDocument]) -> list[tuple[str, float]]:
    """Return the documents with scores that fall from rank to rank, also as 32-bit numbers."""
    scores = [document.score for document in retrieved]
    if any(score is None for score in scores) or np.any(np.diff(np.array(scores, np.float32)) >= 0):
        scores = [1 / rank for rank in range(1, len(scores) + 1)]
    return [(document.document_id, float(score or 0.0)) for document, score in zip(retrieved, scores, strict=True)]


def trec_id(id_: str) -> str:
    """Return an id fit for a column of a TREC file; `urllib.parse.unquote` gives it back."""
    return re.sub(r"[\s%]", lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode()), id_)


def _relevant(run_folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each question with its relevant documents once, whatever system was asked it."""
    seen: set[str] = set()
    for row in current_rows(run_folder, read_run(run_folder)):
        if row.question_id not in seen:
            seen.add(row.question_id)
            yield row.question_id, row.relevant


def current_rows(run_folder: Path, run: Run) -> Iterator[Row]:
    """Stream the rows that count; of several to a question and system the last."""
    last = {(row.system, row.question_id): place for place, row in enumerate(read_rows(run_folder)) if run.counts(row)}
    places = set(last.values())
    return (row for place, row in enumerate(read_rows(run_folder)) if place in places)


class CorpusTexts:
    """The texts of a QA set's corpus by id: places in the file are held, texts are read when asked for."""

    def __init__(self, run_folder: Path, data: Path) -> None:
        run, qaset = read_run(run_folder), load_qaset(data)
        if run.data.get("corpus_digest") != qaset.corpus_digest:
            raise DataError(
                f"the documents in {data} are not those of the run in {run_folder}",
                hint=f"Name the folder of the set {run.data.get('name')!r} with --data.",
            )
        self._path = qaset.corpus
        self._places: dict[str, int] = {}
        self._file: BufferedReader | None = None
        self._opened = ExitStack()

    def __enter__(self) -> "CorpusTexts":
        self._file = self._opened.enter_context(open_data(self._path))
        place = 0
        while line := self._file.readline(MAX_CORPUS_LINE + 1):
            if line.strip():
                self._places[parse_object(line, str(self._path))["id"]] = place
            place += len(line)
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def of(self, ids: Sequence[str]) -> list[str]:
        """Return the texts of documents, in their order. Raises `DataError` for an id that is not in the corpus."""
        return [self._text(id_) for id_ in ids]

    def _text(self, id_: str) -> str:
        assert self._file is not None, "use it in a with block"
        if id_ not in self._places:
            raise DataError(f"the run names the document {id_!r}, which is not in {self._path}")
        self._file.seek(self._places[id_])
        text: str = parse_object(self._file.readline(MAX_CORPUS_LINE + 1), str(self._path))["text"]
        return text


class _Sink:
    """A file for each system, opened together since the rows of a continued run are mixed."""

    def __init__(self, rows: Iterator[Row], files: dict[str, tuple[Path, BinaryIO]]) -> None:
        self.rows = rows
        self.written = dict.fromkeys(files, 0)
        self.failed = 0
        self._files = files
        self._questions: set[str] = set()

    def passes(self, row: Row) -> bool:
        """Whether a row is an answer; those that are errors are counted."""
        self.failed += row.failed
        return not row.failed

    def write(self, row: Row, line: bytes) -> None:
        self._files[row.system][1].write(line)
        self.written[row.system] += 1
        self._questions.add(row.question_id)

    @property
    def exported(self) -> Exported:
        return Exported({name: path for name, (path, _) in self._files.items()}, len(self._questions), self.failed)


@contextmanager
def _opened(
    run_folder: Path,
    out: Path,
    suffix: str,
    wanted: Callable[[Row], bool],
    around: tuple[bytes, bytes] = (b"", b""),
) -> Iterator[_Sink]:
    """Open a file for each system that has wanted rows; they take their places when all is written.

    `around` is what each begins and ends with.
    """
    run = read_run(run_folder)
    systems = sorted({row.system for row in current_rows(run_folder, run) if wanted(row)})
    if not systems:
        raise DataError(f"{run_folder} has no answers that fit this format", hint="See `smallhold eval report`.")
    rows = (row for row in current_rows(run_folder, run) if wanted(row))
    with ExitStack() as opened:
        files: dict[str, tuple[Path, BinaryIO]] = {}
        for name, path in _paths(systems, out, suffix).items():
            files[name] = (path, opened.enter_context(atomic_writer(path)))
            files[name][1].write(around[0])
        yield _Sink(rows, files)
        for _, file in files.values():
            file.write(around[1])


def _paths(systems: Sequence[str], out: Path, suffix: str) -> dict[str, Path]:
    """Return a file for each system; `/` and `:` of names become `_`, numbered where that makes two alike."""
    paths: dict[str, Path] = {}
    for name in systems:
        base = plain = re.sub(r"[/:]", "_", name)
        number = 2
        while out / f"{plain}{suffix}" in paths.values():
            plain, number = f"{base}-{number}", number + 1
        paths[name] = out / f"{plain}{suffix}"
    return paths

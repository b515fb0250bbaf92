"""SQuAD and BEIR data to QA-set folders."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from eval.files import JsonObject, dump_line, open_data, read_bounded, read_jsonl
from eval.qaset import MAX_CORPUS_LINE, MAX_QUESTION_LINE, QASet, load_qaset
from eval.qaset_draft import UNKNOWN_LICENSE, new_folder, text_keys, write_meta
from rag.errors import DataError

# The SQuAD 2.0 training file has 42 MB; it is one JSON value and has to be parsed whole.
MAX_SQUAD_FILE = 500_000_000


def squad_to_qaset(path: Path, out: Path, *, name: str = "", license_: str = UNKNOWN_LICENSE) -> QASet:
    """Convert a SQuAD v1.1 or v2.0 JSON file; each paragraph becomes a document `Title#0`, `Title#1`, ...

    Raises `DataError` where the file is not in SQuAD's format or `out` holds something.
    """
    data = _read_squad(path)
    with new_folder(out) as draft:
        kind = "extractive QA with unanswerable questions" if _has_impossible(data) else "extractive QA"
        write_meta(draft, name or path.stem, kind, license_, f"SQuAD JSON {path.name}")
        with (draft / "corpus.jsonl").open("wb") as corpus, (draft / "questions.jsonl").open("wb") as questions:
            for document, asked in _squad_paragraphs(data, path):
                corpus.write(dump_line(document))
                questions.writelines(dump_line(question) for question in asked)
    return load_qaset(out)


def beir_to_qaset(
    folder: Path, out: Path, *, split: str = "test", name: str = "", license_: str = UNKNOWN_LICENSE
) -> QASet:
    """Convert a BEIR folder (`corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`) to a set for retrieval alone.

    Queries without a positive judgement in the split are left out; a graded relevance above 0 counts as relevant.
    Judgements of documents that the corpus does not have are passed over, and counted in `meta.json`.
    Raises `DataError` where the folder is not in BEIR's format or `out` holds something.
    """
    relevant = _read_qrels(folder / "qrels" / f"{split}.tsv")
    with new_folder(out) as draft:
        ids: set[str] = set()
        with (draft / "corpus.jsonl").open("wb") as corpus:
            for number, row in read_jsonl(folder / "corpus.jsonl", max_line=MAX_CORPUS_LINE):
                id_, text = text_keys(row, ("_id", "text"), f"{folder / 'corpus.jsonl'}:{number}")
                corpus.write(dump_line({"id": id_, "title": row.get("title") or "", "text": text}))
                ids.add(id_)
        with (draft / "questions.jsonl").open("wb") as questions:
            for number, row in read_jsonl(folder / "queries.jsonl", max_line=MAX_QUESTION_LINE):
                id_, text = text_keys(row, ("_id", "text"), f"{folder / 'queries.jsonl'}:{number}")
                there = [document for document in relevant.get(id_, ()) if document in ids]
                if there:
                    line = {"id": id_, "question": text, "answers": [], "answerable": True, "relevant": there}
                    questions.write(dump_line(line))
        missing = sum(document not in ids for documents in relevant.values() for document in documents)
        source = f"BEIR folder {folder.resolve().name}, split {split}"
        source += f"; {missing} judgements of documents that are not in the corpus left out" if missing else ""
        write_meta(draft, name or folder.resolve().name, "retrieval with relevance judgements", license_, source)
    return load_qaset(out)


def _read_squad(path: Path) -> list[JsonObject]:
    try:
        data = json.loads(read_bounded(path, MAX_SQUAD_FILE))["data"]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not SQuAD: an object with the key 'data' is wanted") from error
    if not isinstance(data, list):
        raise DataError(f"{path}: not SQuAD: 'data' must be a list")
    return data


def _has_impossible(data: list[JsonObject]) -> bool:
    # Malformed rows are named by `_squad_paragraphs`, which runs afterwards.
    return '"is_impossible": true' in json.dumps(data)


def _squad_paragraphs(data: list[JsonObject], path: Path) -> Iterator[tuple[JsonObject, list[JsonObject]]]:
    numbers: Counter[str] = Counter()
    for place, article in enumerate(data):
        where = f"{path}: data[{place}]"
        title, paragraphs = text_keys(article, ("title", "paragraphs"), where)
        for p, paragraph in enumerate(paragraphs):
            context, asked = text_keys(paragraph, ("context", "qas"), f"{where}.paragraphs[{p}]")
            id_ = f"{title}#{numbers[title]}"
            numbers[title] += 1
            document = {"id": id_, "title": str(title).replace("_", " "), "text": context}
            places = (f"{where}.paragraphs[{p}].qas[{q}]" for q in range(len(asked)))
            yield document, [_squad_question(qa, id_, here) for qa, here in zip(asked, places, strict=True)]


def _squad_question(qa: JsonObject, document_id: str, where: str) -> JsonObject:
    id_, question, answers = text_keys(qa, ("id", "question", "answers"), where)
    answerable = not qa.get("is_impossible", False)
    texts = dict.fromkeys(text_keys(answer, ("text",), where)[0] for answer in answers)
    return {
        "id": id_,
        "question": str(question).strip(),
        "answers": list(texts) if answerable else [],
        "answerable": answerable,
        "relevant": [document_id] if answerable else [],
    }


def _read_qrels(path: Path) -> dict[str, list[str]]:
    relevant: dict[str, list[str]] = {}
    with open_data(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(10_000), b""), start=1):
            fields = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
            if number == 1 and not _is_integer(fields[-1]):
                continue  # the header
            if len(fields) != 3 or not _is_integer(fields[2]):
                raise DataError(f"{path}:{number}: query id, corpus id and an integer, split by tabs, are wanted")
            if int(fields[2]) > 0:
                relevant.setdefault(fields[0], []).append(fields[1])
    if not relevant:
        raise DataError(f"{path}: holds no positive judgement")
    return relevant


def _is_integer(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()

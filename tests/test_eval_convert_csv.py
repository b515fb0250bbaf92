"""The converter from a table of questions and answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval import convert_csv
from eval.convert_csv import PLAIN, CsvForm, csv_to_qaset
from eval.qaset import QASet
from rag.datatypes import Document
from rag.errors import DataError


def load_folder(folder: Path) -> Iterator[Document]:
    for file in sorted(folder.iterdir()):
        yield Document(file.name, file.as_uri(), file.stem, file.read_text())


def convert(folder: Path, table: str | bytes, form: CsvForm = PLAIN) -> QASet:
    documents = folder / "documents"
    documents.mkdir()
    (documents / "mill.txt").write_text("The mill stands by the river.")
    (documents / "ford.txt").write_text("The ford is shallow.")
    (folder / "table.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    return csv_to_qaset(folder / "table.csv", documents, folder / "out", load_folder, form=form, license_="own")


def test_a_table_becomes_a_set(tmp_path: Path) -> None:
    table = (
        "Question,Answer,answerable,relevant,note\r\n"
        '"Where is the mill,\nexactly?",by the river | the river,true,mill.txt,x\r\n'
        "\r\n"
        "Who owns it?,,no,,\r\n"
        "How is the ford?,shallow,,ford.txt|mill.txt,\r\n"
    )
    qaset = convert(tmp_path, b"\xef\xbb\xbf" + table.encode())
    assert [(d.id, d.title, d.text) for d in qaset.documents()] == [
        ("ford.txt", "ford", "The ford is shallow."),
        ("mill.txt", "mill", "The mill stands by the river."),
    ]
    assert [(q.id, q.question, q.answers, q.answerable, q.relevant) for q in qaset.questions] == [
        ("line-2", "Where is the mill,\nexactly?", ("by the river", "the river"), True, ("mill.txt",)),
        ("line-5", "Who owns it?", (), False, ()),
        ("line-6", "How is the ford?", ("shallow",), True, ("ford.txt", "mill.txt")),
    ]
    assert (qaset.name, qaset.license, qaset.kind) == ("table", "own", "QA with unanswerable questions")


def test_another_form_is_read_as_stated(tmp_path: Path) -> None:
    form = CsvForm(delimiter=";", separator="/", encoding="cp1252")
    qaset = convert(tmp_path, "id;question;answer\nq1;Was?;Mühle/Mühlrad\n".encode("cp1252"), form)
    assert [(q.id, q.answers) for q in qaset.questions] == [("q1", ("Mühle", "Mühlrad"))]


def test_documents_may_be_a_corpus_file(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"id": "d", "title": "", "text": "The mill."}))
    (tmp_path / "t.csv").write_text("question,answer,relevant\nWhat?,mill,d\n")
    qaset = csv_to_qaset(tmp_path / "t.csv", tmp_path / "corpus.jsonl", tmp_path / "out", load_folder)
    assert [(q.question, q.relevant) for q in qaset.questions] == [("What?", ("d",))]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("question/answer\nWhat?/mill\n", r"table.csv:1: the columns question and answer(.|\n)*--delimiter"),
        ("question,answer,question\n", "two columns 'question'"),
        ("question,answer\n", "holds no question"),
        ("", "holds no question"),
        ("question,answer\nWhat?,mill\nWho?,Ada,Brandt\n", "table.csv:3: 3 cells, but 2 columns"),
        ("question,answer\n ,mill\n", "table.csv:2: the question is empty"),
        ("question,answer\nWhat?,\n", "table.csv:2: the answer is empty"),
        ("question,answer,answerable\nWhat?,mill,false\n", "table.csv:2: there is an answer"),
        ("question,answer,answerable\nWhat?,mill,perhaps\n", "table.csv:2: `answerable` must be true or false"),
        ("question,answer,relevant\nWhat?,mill,no.txt\n", "table.csv:2: `relevant` names 'no.txt'"),
        ("id,question,answer\na,What?,x\na,Who?,y\n", "table.csv:3: the id 'a' was used on line 2"),
        ('question,answer\nWhat?,"mill" x\n', "table.csv:2: not CSV"),
        (b"question,answer\nWas?,M\xfchle\n", r"table.csv:2: not utf-8-sig(.|\n)*cp1252"),
    ],
)
def test_mistakes_are_named_with_their_line_and_leave_nothing(tmp_path: Path, table: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert(tmp_path, table)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["documents", "table.csv"]


def test_the_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_csv, "MAX_CSV_FILE", 20)
    with pytest.raises(DataError, match="larger than 20 bytes"):
        convert(tmp_path, "question,answer\nWhat?,mill\n")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (CsvForm(delimiter=",,"), "must be one character"),
        (CsvForm(separator=""), "is empty"),
        (CsvForm(encoding="klingon"), "no encoding 'klingon'"),
    ],
)
def test_an_impossible_form_is_refused(tmp_path: Path, form: CsvForm, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert(tmp_path, "question,answer\nWhat?,mill\n", form)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_splits_the_cells_is_found(tmp_path: Path, delimiter: str) -> None:
    lines = [["Question", '"answer"', "note"], ['"When,\nexactly; and\twhy?"', '"1801|MDCCCI"', "x"]]
    qaset = convert(tmp_path, "\ufeff\n" + "\r\n".join(delimiter.join(line) for line in lines))
    assert [(q.question, q.answers) for q in qaset.questions] == [("When,\nexactly; and\twhy?", ("1801", "MDCCCI"))]

"""Converters from SQuAD and BEIR."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.convert import beir_to_qaset, squad_to_qaset
from eval.convert_unanswerable import foreign_to_qaset, withheld_to_qaset
from eval.files import atomic_writer
from rag.errors import DataError

ANSWER = {"text": "by the river", "answer_start": 3}
SQUAD: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "Water_mill",
            "paragraphs": [
                {
                    "context": "It stands by the river.",
                    "qas": [{"id": "a", "question": " Where? ", "answers": [ANSWER]}],
                },
                {
                    "context": "It is old.",
                    "qas": [
                        {
                            "id": "b",
                            "question": "Who?",
                            "answers": [],
                            "is_impossible": True,
                            "plausible_answers": [ANSWER],
                        },
                        {
                            "id": "c",
                            "question": "Old?",
                            "answers": [{"text": "old"}, {"text": "old"}, {"text": "is old"}],
                        },
                    ],
                },
            ],
        }
    ],
}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_squad_paragraphs_become_documents(tmp_path: Path) -> None:
    qaset = squad_to_qaset(write(tmp_path / "dev.json", SQUAD), tmp_path / "out", license_="CC BY-SA 4.0")
    assert (qaset.name, qaset.license) == ("dev", "CC BY-SA 4.0")
    assert qaset.kind == "extractive QA with unanswerable questions"
    assert [(d.id, d.title, d.text) for d in qaset.documents()] == [
        ("Water_mill#0", "Water mill", "It stands by the river."),
        ("Water_mill#1", "Water mill", "It is old."),
    ]
    assert [(q.id, q.question, q.answers, q.answerable, q.relevant) for q in qaset.questions] == [
        ("a", "Where?", ("by the river",), True, ("Water_mill#0",)),
        ("b", "Who?", (), False, ()),
        ("c", "Old?", ("old", "is old"), True, ("Water_mill#1",)),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dev.json", "out"]  # no draft stays behind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ([], "not SQuAD"),
        ({"data": 3}, "'data' must be a list"),
        ({"data": [{"title": "x"}]}, r"data\[0\]: the key 'paragraphs' is missing"),
        (
            {"data": [{"title": "x", "paragraphs": [{"context": 1, "qas": []}]}]},
            r"paragraphs\[0\]: 'context' must be a str",
        ),
        (
            {"data": [{"title": "x", "paragraphs": [{"context": "", "qas": [{"id": "a"}]}]}]},
            r"qas\[0\]: the key 'question'",
        ),
    ],
)
def test_what_is_not_squad_is_named_and_leaves_nothing(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        squad_to_qaset(write(tmp_path / "dev.json", content), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["dev.json"]


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "out" / "mine.txt", "keep")
    with pytest.raises(DataError, match="not an empty folder"):
        squad_to_qaset(write(tmp_path / "dev.json", SQUAD), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def beir_folder(folder: Path, qrels: str) -> Path:
    write(folder / "corpus.jsonl", '{"_id": "1", "title": "T", "text": "one"}\n{"_id": "2", "text": "two"}\n')
    write(folder / "queries.jsonl", '{"_id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}\n')
    write(folder / "qrels" / "test.tsv", qrels)
    return folder


def test_beir_becomes_a_set_for_retrieval_alone(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "nano", "query-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t2\t1\nq2\t1\t0\n")
    qaset = beir_to_qaset(folder, tmp_path / "out")
    assert (qaset.name, qaset.retrieval_only) == ("nano", True)
    assert [(d.id, d.title, d.text) for d in qaset.documents()] == [("1", "T", "one"), ("2", "", "two")]
    assert [(q.id, q.question, q.relevant) for q in qaset.questions] == [("q1", "first", ("1", "2"))]  # q2 has none


def test_beir_judgements_of_documents_that_are_not_there_are_counted(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "nano", "q1\t7\t1\nq1\t2\t1\nq2\t8\t1\n")
    qaset = beir_to_qaset(folder, tmp_path / "out")
    assert [(q.id, q.relevant) for q in qaset.questions] == [("q1", ("2",))]  # nothing is left of q2
    assert qaset.source.endswith("; 2 judgements of documents that are not in the corpus left out")


def test_beir_without_a_header_is_read_too(tmp_path: Path) -> None:
    qaset = beir_to_qaset(beir_folder(tmp_path / "nano", "q2\t2\t1\n"), tmp_path / "out")
    assert [q.id for q in qaset.questions] == ["q2"]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1\t1\t1\nq1 2 1\n", r"test\.tsv:2: query id, corpus id and an integer"),
        ("query-id\tcorpus-id\tscore\n", "holds no positive judgement"),
        ("q1\t7\t1\n", r"in the new questions\.jsonl: holds no question"),
    ],
)
def test_what_is_not_beir_is_named(tmp_path: Path, qrels: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        beir_to_qaset(beir_folder(tmp_path / "nano", qrels), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = write(tmp_path / "file", "old")
    with pytest.raises(TypeError), atomic_writer(target) as file:
        file.writelines([b"half", 7])  # type: ignore[list-item]
    assert target.read_text() == "old"
    with atomic_writer(target) as file:
        file.write(b"new")
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_questions_of_one_set_over_the_documents_of_another(tmp_path: Path) -> None:
    def qaset(name: str, document: str, question: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "meta.json").write_text(json.dumps({"name": name, "kind": "k", "license": name, "source": "s"}))
        (folder / "corpus.jsonl").write_text(json.dumps({"id": "d", "title": "", "text": document}) + "\n")
        row = {"id": "q", "question": question, "answers": ["x"], "answerable": True, "relevant": ["d"]}
        (folder / "questions.jsonl").write_text(json.dumps(row) + "\n")
        return folder

    made = foreign_to_qaset(qaset("a", "ours x", "asked?"), qaset("b", "theirs x", "other?"), tmp_path / "out")
    assert [d.text for d in made.documents()] == ["theirs x"]
    (question,) = made.questions
    assert (question.question, question.answerable, question.answers, question.relevant) == ("asked?", False, (), ())


def test_questions_whose_documents_are_withheld(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps({"name": "s", "kind": "k", "license": "CC0", "source": "me"}))
    texts = {"a": "The mill is red.", "b": "The lake is blue.", "c": "The hill is red, the cap blue.", "d": "Nothing."}
    rows = [json.dumps({"id": id_, "title": "", "text": text}) for id_, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    asked = [("1", "Mill?", "red", ["a"]), ("2", "Lake?", "lake is", ["b"]), ("3", "Hill?", "cap", ["c"])]
    said = [{"role": "user", "content": "Is it red?"}, {"role": "assistant", "content": "It is."}]
    row = {"answerable": True, "history": said}
    lines = [
        json.dumps({**row, "id": id_, "question": text, "answers": [answer], "relevant": relevant})
        for id_, text, answer, relevant in asked
    ]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    # "a" alone is withheld with seed 1, and "red" stands in "c" as well.
    with pytest.raises(DataError, match="no question is left"):
        withheld_to_qaset(folder, tmp_path / "none", seed=1)
    seen = set()
    for seed in (0, 5, 6, 7):
        made = withheld_to_qaset(folder, tmp_path / f"out{seed}", seed=seed)
        left = {document.id for document in made.documents()}
        assert "d" in left and len(left) == 3  # one of the three that hold answers is gone
        (question,) = made.questions
        assert (question.answerable, question.answers, question.relevant) == (False, (), ())
        assert [turn.content for turn in question.history] == ["Is it red?", "It is."]
        seen.add((question.id, frozenset(left)))
    assert seen == {("2", frozenset("acd")), ("3", frozenset("abd"))}

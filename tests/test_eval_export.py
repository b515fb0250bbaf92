"""A run in the forms of other tools."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ir_measures
import pytest

from eval.export import export_ragas, export_ragchecker, export_trec, trec_id
from eval.qaset import load_qaset
from eval.results import Run, RunSystem, encode_row, row_fingerprint, write_run
from eval.rows import CitedSpan, RankedDocument, Row
from rag.errors import DataError

QUESTIONS: list[dict[str, Any]] = [
    {"id": "q1", "question": "Where?", "answers": ["river", "the river"], "answerable": True, "relevant": ["a b"]},
    {"id": "q2", "question": "Who?", "answers": [], "answerable": False, "relevant": []},
]
CORPUS = [{"id": id_, "title": "", "text": f"Text of {id_}."} for id_ in ("a b", "c", "d")]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    write_lines(folder / "corpus.jsonl", CORPUS)
    write_lines(folder / "questions.jsonl", QUESTIONS)
    (folder / "meta.json").write_text(json.dumps({"name": "set", "kind": "k", "license": "l", "source": "s"}))
    return folder


def row(system: str, question: int, **changes: Any) -> Row:
    q = QUESTIONS[question]
    fields = {
        "system": system,
        "question_id": q["id"],
        "question": q["question"],
        "answerable": q["answerable"],
        "gold": tuple(q["answers"]),
        "relevant": tuple(q["relevant"]),
        "generates": system != "retrieval",
        "retrieves": system != "small",
        "system_fingerprint": system,
        "fingerprint": row_fingerprint(system, f"digest {q['id']}"),
    }
    return Row(**{**fields, **changes})


def ranked(*documents: tuple[str, float | None]) -> tuple[RankedDocument, ...]:
    return tuple(RankedDocument(document_id=id_, score=score) for id_, score in documents)


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    found = ranked(("a b", 0.9), ("c", 0.5), ("d", 0.5))
    cited = (CitedSpan(document_id="c", span=(0, 4), text="Text"),)
    rows = [
        row("small/rag", 0, answer="old", retrieved=found),
        row("small", 0, answer="the river"),
        row("small/rag", 0, answer="by the river", retrieved=found, citations=cited),  # asked again: this one counts
        row("small/rag", 1, abstained=True, retrieved=ranked(("d", 0.75), ("c", 0.25))),
        row("small", 1, error="it broke"),
        row("retrieval", 0, retrieved=ranked(("c", None), ("a b", None))),
        row("gone", 0, answer="of a system that is no more"),
    ]
    (folder / "results.jsonl").write_bytes(b"".join(map(encode_row, rows)))
    system = RunSystem(fingerprint="", row={}, machine={}, date="")
    systems = {name: system.model_copy(update={"fingerprint": name}) for name in ("small/rag", "small", "retrieval")}
    digest = load_qaset(data).corpus_digest
    questions = {q["id"]: f"digest {q['id']}" for q in QUESTIONS}
    write_run(folder, Run(data={"name": "set", "corpus_digest": digest}, questions=questions, systems=systems))
    return folder


def test_trec_files_hold_ranks_that_trec_eval_keeps(run: Path, tmp_path: Path) -> None:
    done = export_trec(run, tmp_path / "out")
    assert (tmp_path / "out" / "small_rag.run").read_text().splitlines() == [
        "q1 Q0 a%20b 1 1.0 small/rag",  # two scores are alike: reciprocal ranks
        "q1 Q0 c 2 0.5 small/rag",
        f"q1 Q0 d 3 {1 / 3!r} small/rag",
        "q2 Q0 d 1 0.75 small/rag",
        "q2 Q0 c 2 0.25 small/rag",
    ]
    assert (tmp_path / "out" / "qrels.txt").read_text() == "q1 0 a%20b 1\n"
    assert set(done.files) == {"small/rag", "retrieval"}  # a system without retrieval has no ranking
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "out" / "qrels.txt")))
    ranking = list(ir_measures.read_trec_run(str(done.files["retrieval"])))
    assert ir_measures.calc_aggregate([ir_measures.RR], qrels, ranking)[ir_measures.RR] == 0.5


@pytest.mark.parametrize("id_", ["a b", "100%", "x\ty\u2003z", "%20", "plain/ü.txt"])
def test_ids_survive_trec(id_: str) -> None:
    assert unquote(trec_id(id_)) == id_
    assert len(trec_id(id_).split()) == 1


def test_ragas_lines_have_texts_and_references(run: Path, data: Path, tmp_path: Path) -> None:
    done = export_ragas(run, tmp_path / "out", data, depth=2)
    assert (set(done.files), done.failed) == ({"small/rag", "small", "retrieval"}, 1)
    lines = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in done.files.items()}
    assert lines["small/rag"] == [
        {
            "user_input": "Where?",
            "response": "by the river",
            "reference": "river",
            "retrieved_contexts": ["Text of a b.", "Text of c."],
            "retrieved_context_ids": ["a b", "c"],
            "reference_contexts": ["Text of a b."],
            "reference_context_ids": ["a b"],
        },
        {
            "user_input": "Who?",
            "response": "The documents do not say.",
            "reference": "The documents do not say.",
            "retrieved_contexts": ["Text of d.", "Text of c."],
            "retrieved_context_ids": ["d", "c"],
        },
    ]
    assert [line.get("retrieved_contexts") for line in lines["small"]] == [None]  # closed-book; the failure is left out
    assert "response" not in lines["retrieval"][0]


def test_ragchecker_file_is_one_object(run: Path, data: Path, tmp_path: Path) -> None:
    done = export_ragchecker(run, tmp_path / "out", data)
    assert set(done.files) == {"small/rag", "small"}
    results = json.loads(done.files["small/rag"].read_text())["results"]
    assert results[0] == {
        "query_id": "q1",
        "query": "Where?",
        "gt_answer": "river",
        "response": "by the river",
        "retrieved_context": [
            {"doc_id": "a b", "text": "Text of a b."},
            {"doc_id": "c", "text": "Text of c."},
            {"doc_id": "d", "text": "Text of d."},
        ],
    }
    assert results[1]["gt_answer"] == results[1]["response"] == "The documents do not say."
    assert json.loads(done.files["small"].read_text())["results"][0]["retrieved_context"] == []


def test_texts_of_other_documents_are_refused(run: Path, data: Path, tmp_path: Path) -> None:
    write_lines(data / "corpus.jsonl", [*CORPUS, {"id": "e", "title": "", "text": "more"}])
    with pytest.raises(DataError, match="are not those of the run"):
        export_ragas(run, tmp_path / "out", data)
    assert not (tmp_path / "out").exists()


def test_a_run_that_retrieves_nothing_has_no_trec_form(run: Path, tmp_path: Path) -> None:
    (run / "results.jsonl").write_bytes(encode_row(row("small", 0, answer="x")))
    with pytest.raises(DataError, match="no answers that fit"):
        export_trec(run, tmp_path / "out")

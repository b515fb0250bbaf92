"""QA sets: what is read, and how mistakes are named."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import eval.qaset as qaset_module
from eval.qaset import load_qaset
from rag.datatypes import Document, Message
from rag.errors import DataError

CORPUS = [{"id": "d1", "title": "Mill", "text": "The mill."}, {"id": "d2", "title": "", "text": "The ford."}]
QUESTIONS: list[dict[str, Any]] = [
    {"id": "q1", "question": "What?", "answers": ["mill"], "answerable": True, "relevant": ["d1", "d1"]},
    {"id": "q2", "question": "Who?", "answers": [], "answerable": False, "relevant": []},
]
META = {"name": "tiny", "kind": "test", "license": "CC0", "source": "made up"}


def write_set(folder: Path, corpus: Any = CORPUS, questions: Any = QUESTIONS, meta: Any = META) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("corpus", corpus), ("questions", questions)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return folder


def changed(**changes: Any) -> list[dict[str, Any]]:
    """The questions with the first one changed; None takes a key away."""
    first = {key: value for key, value in {**QUESTIONS[0], **changes}.items() if value is not None}
    return [first, QUESTIONS[1]]


def test_reads_what_is_there(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes?"}]
    qaset = load_qaset(write_set(tmp_path, questions=changed(history=turns, verdict="extra keys are passed over")))
    first, second = qaset.questions
    assert (qaset.name, qaset.kind, qaset.license, qaset.source) == ("tiny", "test", "CC0", "made up")
    assert (first.id, first.question, first.answers, first.answerable, first.relevant) == (
        "q1",
        "What?",
        ("mill",),
        True,
        ("d1",),
    )
    assert first.history == (Message("user", "Hm?"), Message("assistant", "Yes?"))
    assert (second.answers, second.answerable, second.history) == ((), False, ())
    assert not qaset.retrieval_only
    assert qaset.documents_count == 2
    assert list(qaset.documents()) == [
        Document("d1", f"{tmp_path}/corpus.jsonl#d1", "Mill", "The mill."),
        Document("d2", f"{tmp_path}/corpus.jsonl#d2", "", "The ford."),
    ]


def test_original_answers_are_read_and_change_a_digest_only_where_there_are_some(tmp_path: Path) -> None:
    plain, rewritten = (
        load_qaset(write_set(tmp_path / name, questions=changed(**extra))).questions[0]
        for name, extra in (("a", {}), ("b", {"original_answers": ["ford"]}))
    )
    assert (plain.original_answers, rewritten.original_answers) == ((), ("ford",))
    # The digest of a question without them, as rows of earlier runs have it.
    content = ["q1", "What?", ["mill"], True, ["d1"], []]
    assert plain.digest == hashlib.sha256(json.dumps(content).encode()).hexdigest() != rewritten.digest
    with pytest.raises(DataError, match="'original_answers' must be a list"):
        load_qaset(write_set(tmp_path / "c", questions=changed(original_answers="ford")))


def test_a_set_without_answers_is_for_retrieval_alone(tmp_path: Path) -> None:
    qaset = load_qaset(write_set(tmp_path, questions=[{**QUESTIONS[0], "answers": []}]))
    assert qaset.retrieval_only


def test_a_set_of_unanswerable_questions_alone_is_about_abstaining(tmp_path: Path) -> None:
    assert not load_qaset(write_set(tmp_path, questions=[QUESTIONS[1]])).retrieval_only


def test_limit_takes_the_first_and_keeps_the_digest(tmp_path: Path) -> None:
    qaset = load_qaset(write_set(tmp_path))
    assert [q.id for q in qaset.limited(1).questions] == ["q1"]
    assert [q.id for q in qaset.limited(1, skip=1).questions] == ["q2"]
    assert [q.id for q in qaset.limited(None, skip=1).questions] == ["q2"]
    assert qaset.limited(1).digest == qaset.digest
    assert len(qaset.limited(99).questions) == len(qaset.limited(None).questions) == 2
    with pytest.raises(DataError, match="at least 1"):
        qaset.limited(0)
    with pytest.raises(DataError, match="none is left after the first 2"):
        qaset.limited(None, skip=2)


def test_digests_tell_what_has_changed(tmp_path: Path) -> None:
    base = load_qaset(write_set(tmp_path))
    other_question = load_qaset(write_set(tmp_path, questions=changed(answers=["the mill"])))
    other_corpus = load_qaset(write_set(tmp_path, corpus=[*CORPUS, {"id": "d3", "title": "", "text": ""}]))
    assert other_question.corpus_digest == base.corpus_digest != other_corpus.corpus_digest
    assert len({base.digest, other_question.digest, other_corpus.digest}) == 3
    assert other_question.questions[0].digest != base.questions[0].digest
    assert other_question.questions[1].digest == base.questions[1].digest


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"questions": ['{"id": "q1",']}, r"questions\.jsonl:1: not JSON: .* at column 13"),
        ({"questions": [QUESTIONS[1], "[]"]}, r"questions\.jsonl:2: a JSON object is wanted, not list"),
        ({"questions": changed(question=None)}, r"questions\.jsonl:1: the key 'question' is missing"),
        ({"questions": changed(answerable=None)}, r"questions\.jsonl:1: the key 'answerable' is missing"),
        ({"questions": changed(answers="mill")}, r"questions\.jsonl:1: 'answers' must be a list, not \"mill\""),
        ({"questions": changed(answers=[7])}, r"questions\.jsonl:1: 'answers\[0\]' must be a string, not 7"),
        ({"questions": changed(answers=["mill", " "])}, r"questions\.jsonl:1: 'answers\[1\]' is empty"),
        ({"questions": changed(answerable=1)}, r"questions\.jsonl:1: 'answerable' must be true or false, not 1"),
        ({"questions": changed(answerable=False)}, r"questions\.jsonl:1: the question has answers but `answerable`"),
        ({"questions": changed(answers=[])}, r"questions\.jsonl:1: the question is answerable but has no answers"),
        ({"questions": changed(question=" ")}, r"questions\.jsonl:1: 'question' is empty"),
        ({"questions": changed(id="q2")}, r"questions\.jsonl:2: the id 'q2' was used on line 1 already"),
        ({"questions": changed(relevant=["d9"])}, r"questions\.jsonl:1: `relevant` names 'd9', which is not in corpus"),
        ({"questions": changed(history=[{"role": "system", "content": ""}])}, r"questions\.jsonl:1: history\[0\]: "),
        ({"questions": changed(history=[{"role": "user"}])}, r"history\[0\]: the key 'content' is missing"),
        ({"questions": [r'{"id": "q\ud800"}']}, r"questions\.jsonl:1: the key 'answerable' is missing"),
        ({"questions": changed(question="\ud800")}, r"questions\.jsonl:1: 'question' holds half of a surrogate pair"),
        ({"questions": [""]}, r"questions\.jsonl: holds no question"),
        ({"questions": ["[" * 100_000]}, r"questions\.jsonl:1: nested too deeply"),
        ({"corpus": [{"id": "d1", "title": "x"}]}, r"corpus\.jsonl:1: the key 'text' is missing"),
        ({"corpus": [{"id": "d1", "title": None, "text": ""}]}, r"corpus\.jsonl:1: 'title' must be a string, not null"),
        ({"corpus": [CORPUS[0], CORPUS[0]]}, r"corpus\.jsonl:2: the id 'd1' was used on line 1 already"),
        ({"corpus": []}, r"corpus\.jsonl: holds no document"),
        ({"meta": {"name": "x"}}, r"meta\.json: the key 'kind' is missing"),
        ({"meta": "x"}, r"meta\.json: not JSON"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_qaset(write_set(tmp_path, **files))


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no QA-set folder"):
        load_qaset(tmp_path / "nowhere")
    write_set(tmp_path)
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match=r"corpus\.jsonl cannot be read: No such file"):
        load_qaset(tmp_path)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(b'\n{"id": "\xff"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: not UTF-8: invalid start byte at byte 8"):
        load_qaset(tmp_path)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    write_set(tmp_path)
    questions = tmp_path / "questions.jsonl"
    questions.write_bytes(b"\xef\xbb\xbf" + questions.read_bytes())
    assert len(load_qaset(tmp_path).questions) == 2


def test_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qaset_module, "MAX_CORPUS_LINE", 60)
    write_set(tmp_path, corpus=[CORPUS[0], {"id": "d2", "title": "", "text": "x" * 60}])
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: the line is longer than 60 bytes"):
        load_qaset(tmp_path)


@pytest.mark.shared
def test_the_shared_sets_are_read() -> None:
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not shared.is_dir():
        pytest.skip("the shared data folder is not beside the checkout")
    small, scifact = load_qaset(shared / "squad2-small"), load_qaset(shared / "scifact")
    assert [sum(q.answerable == wanted for q in small.questions) for wanted in (True, False)] == [150, 50]
    assert (small.documents_count, small.retrieval_only) == (646, False)
    assert (scifact.documents_count, len(scifact.questions), scifact.retrieval_only) == (5183, 300, True)
    assert load_qaset(shared / "conversations").questions[0].history

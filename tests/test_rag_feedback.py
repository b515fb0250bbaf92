"""What people say of answers: who may, what is kept, for how long, and the QA set that it becomes."""

import json
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from eval.feedback_set import Exported, write_feedback_set
from eval.qaset import load_qaset
from rag.config import FeedbackSettings
from rag.datatypes import Answer, Citation, Document, Message, Span, Verdict
from rag.errors import DataError, FeedbackDamaged, UnknownAnswer
from rag.feedback import LONGEST_QUESTION, REMEMBERED, Feedback, FeedbackBook, Opinion
from rag.keys import Key, create_key
from tests.conftest import smallhold
from tests.test_rag_app import ANSWER, QUESTION, Script, ask, error, events, serving

NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> FeedbackBook:
    return FeedbackBook(tmp_path / "kept" / "feedback.sqlite", 30, clock)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return create_key(path, "one").key, create_key(path, "two").key


def remember(book: FeedbackBook, id_: str, key: Key | None = None, question: str = "When?", history=()) -> None:
    book.remember(id_, key, "small-1b", question, history, ANSWER)


# The book


def test_what_was_rated_is_kept_with_what_was_asked_and_answered(book, tmp_path, keys) -> None:
    history = [Message("user", "Is there a ferry?"), Message("assistant", "Yes.")]
    remember(book, "a", keys[0], history=history)
    assert not (tmp_path / "kept").exists()  # remembered, and in no file yet
    until = book.rate("a", keys[0], Opinion("down", "too early", "At seven."))
    assert until == NOON + timedelta(days=30)
    wanted = Feedback(
        "a",
        NOON,
        "small-1b",
        "When?",
        tuple(history),
        "At six.",
        "answered",
        ("ferry.md",),
        Opinion("down", "too early", "At seven."),
    )
    assert book.read() == [wanted]
    assert stat.S_IMODE((tmp_path / "kept" / "feedback.sqlite").stat().st_mode) == 0o600


def test_the_last_word_counts_also_after_a_restart_and_can_be_taken_back(book, tmp_path, clock) -> None:
    remember(book, "a")
    book.rate("a", None, Opinion("up"))
    clock.now += timedelta(days=1)
    again = FeedbackBook(tmp_path / "kept" / "feedback.sqlite", 30, clock)  # remembers no answer
    again.rate("a", None, Opinion("down", "no"))
    assert [(one.at, one.opinion) for one in book.read()] == [(clock.now, Opinion("down", "no"))]
    assert again.rate("a", None, None) is None
    assert book.read() == []


@pytest.mark.parametrize("early", [True, False], ids=["not rated yet", "rated by its own key"])
def test_an_answer_is_rated_by_who_asked_alone(book, keys, early) -> None:
    remember(book, "a", keys[0])
    if not early:
        book.rate("a", keys[0], Opinion("up", "mine"))
    for other in (keys[1], None):
        with pytest.raises(UnknownAnswer):
            book.rate("a", other, Opinion("down", "not mine"))
        book.rate("a", other, None)
    assert [one.opinion for one in book.read()] == ([] if early else [Opinion("up", "mine")])
    with pytest.raises(UnknownAnswer):
        book.rate("b", keys[0], Opinion("up"))


def test_memory_is_bounded(book) -> None:
    for i in range(REMEMBERED + 1):
        remember(book, f"a{i}")
    with pytest.raises(UnknownAnswer):
        book.rate("a0", None, Opinion("up"))
    book.rate("a1", None, Opinion("up"))
    remember(book, "long", question="x" * (LONGEST_QUESTION + 1))
    with pytest.raises(UnknownAnswer):
        book.rate("long", None, Opinion("up"))
    turns = [Message("user", "q" * 3000), Message("assistant", "a" * 3000)] * 3
    remember(book, "talk", history=turns)
    book.rate("talk", None, Opinion("up"))
    assert [one.history for one in book.read() if one.id == "talk"] == [tuple(turns[:2])]  # the latest 8,000 characters


def test_the_file_is_bounded(book, clock, monkeypatch) -> None:
    monkeypatch.setattr("rag.feedback.MOST", 3)
    for i in range(5):
        clock.now += timedelta(seconds=1)
        remember(book, f"a{i}")
        book.rate(f"a{i}", None, Opinion("up"))
    assert [one.id for one in book.read()] == ["a2", "a3", "a4"]


def test_what_was_kept_for_long_enough_is_overwritten(book, tmp_path, clock) -> None:
    remember(book, "a", question="Where did Signe hide the goose?")
    book.rate("a", None, Opinion("up"))
    file = tmp_path / "kept" / "feedback.sqlite"
    assert b"the goose" in file.read_bytes()
    clock.now += timedelta(days=30)
    book.forget_old()
    assert len(book.read()) == 1
    clock.now += timedelta(seconds=1)
    book.forget_old()
    assert b"the goose" not in b"".join(f.read_bytes() for f in file.parent.iterdir())
    assert book.read() == []


def test_what_is_taken_back_stays_in_no_journal_either(book, tmp_path) -> None:
    """What SQLite unlinks lies on the disk until something is written there: a second name of its journal shows it."""
    remember(book, "a", question="Where did Signe hide the goose?")
    book.rate("a", None, Opinion("up"))
    journal, seen = tmp_path / "kept" / "feedback.sqlite-journal", tmp_path / "seen"
    journal.touch()
    seen.hardlink_to(journal)
    book.rate("a", None, None)
    assert seen.stat().st_size > 0  # it was used
    assert b"the goose" not in seen.read_bytes()
    assert [file.name for file in journal.parent.iterdir()] == ["feedback.sqlite"]
    remember(book, "b")
    book.rate("b", None, Opinion("down"))
    assert [one.id for one in book.read()] == ["b"]


def test_a_damaged_file_is_told_without_its_path(book, tmp_path, caplog) -> None:
    file = tmp_path / "kept" / "feedback.sqlite"
    file.parent.mkdir()
    file.write_bytes(b"no database, and long enough to be looked at" * 100)
    remember(book, "a")
    for use in (lambda: book.rate("a", None, Opinion("up")), book.read, book.forget_old):
        with pytest.raises(FeedbackDamaged) as raised:
            use()
        assert str(tmp_path) not in str(raised.value)
    assert str(file) in caplog.text


def test_a_folder_that_the_system_says_nothing_of_is_told_likewise(tmp_path) -> None:
    """As one that may not be looked into for a while, after which old feedback is forgotten again."""
    book = FeedbackBook(tmp_path / ("x" * 300) / "feedback.sqlite", 30)
    for use in (book.read, book.forget_old):
        with pytest.raises(FeedbackDamaged):
            use()


def test_many_rate_at_once(book) -> None:
    for i in range(40):
        remember(book, f"a{i}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: book.rate(f"a{i}", None, Opinion("up", str(i))), range(40)))
    assert sorted(int(one.opinion.comment) for one in book.read()) == list(range(40))


def test_who_waits_for_the_file_keeps_nobody_from_going_on(book, tmp_path, monkeypatch) -> None:
    """As several servers, or a server and an export, with one file."""
    remember(book, "a")
    book.rate("a", None, Opinion("up"))
    waits = threading.Event()
    pause = time.sleep
    monkeypatch.setattr("rag.feedback.time.sleep", lambda seconds: (waits.set(), pause(seconds)))
    with (
        closing(sqlite3.connect(tmp_path / "kept" / "feedback.sqlite", timeout=0)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE feedback SET comment = 'theirs'")
        rated = pool.submit(book.read)
        assert waits.wait(10)
        other.commit()
        assert [one.opinion.comment for one in rated.result(20)] == ["theirs"]


def test_many_servers_write_at_once(tmp_path, clock) -> None:
    def rate_all(server: int) -> None:
        mine = FeedbackBook(tmp_path / "feedback.sqlite", 30, clock)
        for i in range(50):
            remember(mine, f"{server}-{i}")
            mine.rate(f"{server}-{i}", None, Opinion("up"))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(rate_all, range(6)))
    assert len(FeedbackBook(tmp_path / "feedback.sqlite", 30, clock).read()) == 300


# Over HTTP


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "feedback.sqlite"


@pytest.fixture
def client(file: Path) -> Iterator[httpx.Client]:
    with serving(Script(), feedback=FeedbackSettings(enabled=True, file=file, days=30)) as running:
        yield running


def rate(client: httpx.Client, id_: str, rating: str | None = "up", **fields) -> httpx.Response:
    return client.post("/v1/feedback", json={"id": id_, "rating": rating, **fields})


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_rated_by_its_id(client, file, stream) -> None:
    response = ask(client, stream=stream)
    id_ = events(response)[0]["id"] if stream else response.json()["id"]
    rated = rate(client, id_, "down", comment="no", right_answer="At seven.").json()
    assert (rated["object"], rated["id"]) == ("feedback", id_)
    until = datetime.fromisoformat(rated["kept_until"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < until <= timedelta(days=30)
    (kept,) = FeedbackBook(file, 30).read()
    assert (kept.question, kept.answer, kept.model) == (QUESTION["messages"][0]["content"], "At six.", "small-1b")
    assert kept.opinion == Opinion("down", "no", "At seven.")
    assert rate(client, id_, None).json()["kept_until"] is None
    assert FeedbackBook(file, 30).read() == []


def test_what_is_no_feedback_is_refused(client, file) -> None:
    id_ = ask(client).json()["id"]
    bad = ({"rating": "best"}, {"comment": "x" * 2001}, {"right_answer": "x" * 2001}, {"comment": 3}, {"id": "x" * 101})
    for fields in bad:
        assert error(client.post("/v1/feedback", json={"id": id_, "rating": "up", **fields}), 400)
    assert error(client.post("/v1/feedback", json={"id": id_}), 400)["param"] == "rating"
    assert error(rate(client, "chatcmpl-unknown"), 404)["code"] == "answer_not_found"
    assert not file.exists() or FeedbackBook(file, 30).read() == []


def test_it_is_off_unless_the_settings_say_so() -> None:
    with serving(Script()) as client:
        id_ = ask(client).json()["id"]
        assert client.get("/ready").json()["feedback"] is False
        assert error(rate(client, id_), 404)["code"] == "feedback_off"


def test_ready_says_that_it_is_on(client) -> None:
    assert client.get("/ready").json()["feedback"] is True


def test_another_key_cannot_rate_an_answer(tmp_path, file) -> None:
    path = tmp_path / "keys.json"
    one, two = (create_key(path, label).text for label in ("one", "two"))
    settings = FeedbackSettings(enabled=True, file=file)
    with serving(Script(), host="0.0.0.0", keys=path, feedback=settings) as client:
        bearer = {name: {"Authorization": f"Bearer {text}"} for name, text in (("one", one), ("two", two))}
        id_ = client.post("/v1/chat/completions", json=QUESTION, headers=bearer["one"]).json()["id"]
        body = {"id": id_, "rating": "up"}
        assert error(client.post("/v1/feedback", json=body, headers=bearer["two"]), 404)["code"] == "answer_not_found"
        assert client.post("/v1/feedback", json=body, headers=bearer["one"]).status_code == 200
        assert client.post("/v1/feedback", json=body).status_code == 401


def test_a_file_that_cannot_be_written_is_503_and_answers_go_on(client, file) -> None:
    id_ = ask(client).json()["id"]
    file.mkdir()
    assert error(rate(client, id_), 503)["code"] == "feedback_damaged"
    assert ask(client).status_code == 200


def test_old_feedback_goes_when_the_server_starts(file) -> None:
    long_ago = FeedbackBook(file, 30, lambda: NOON - timedelta(days=900))
    remember(long_ago, "a")
    long_ago.rate("a", None, Opinion("up"))
    with serving(Script(), feedback=FeedbackSettings(enabled=True, file=file)) as client:
        client.get("/health")
        for _ in range(200):
            with sqlite3.connect(file) as connection:
                left = connection.execute("SELECT count(*) FROM feedback").fetchone()
            connection.close()
            if left == (0,):
                return
        pytest.fail("it is still there")


# The QA set

DOCUMENTS = {
    "ferry.md": Document("ferry.md", "", "Ferry", "The ferry leaves at six. On Sundays at SEVEN."),
    "mill.md": Document("mill.md", "", "Mill", "The mill is closed."),
}


def said(id_: str, question: str, opinion: Opinion, answer: str = "At six.", verdict=Verdict.ANSWERED, **fields):
    cited = fields.pop("cited", ("ferry.md", "mill.md"))
    at = NOON + timedelta(hours=int(id_))
    return Feedback(id_, at, "m", question, fields.pop("history", ()), answer, verdict.value, cited, opinion)


def write(out: Path, *feedback: Feedback) -> Exported:
    return write_feedback_set(out, DOCUMENTS.values(), feedback, DOCUMENTS.get)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_feedback_becomes_a_qa_set(tmp_path) -> None:
    history = (Message("user", "Is there a ferry?"), Message("assistant", "Yes."))
    exported = write(
        tmp_path / "set",
        said("1", "When?", Opinion("up"), cited=("ferry.md",), history=history),
        said("2", "When on Sundays?", Opinion("down", "wrong", " At seven ")),
        said("3", "Who was the miller?", Opinion("up"), "", Verdict.ABSTAINED, cited=()),
        said("4", "How far?", Opinion("down", "nonsense")),
        said("5", "How deep?", Opinion("up"), "", Verdict.UNATTAINABLE, cited=()),
        said("6", "How old?", Opinion("up"), cited=("gone.md",)),
        said("7", "How big?", Opinion("up"), ""),  # a model may say nothing, and people click on anything
    )
    assert exported == Exported(documents=2, questions=3, review=4)
    found = load_qaset(tmp_path / "set")
    assert [(q.question, q.answers, q.answerable, q.relevant, q.history) for q in found.questions] == [
        ("When?", ("At six.",), True, ("ferry.md",), history),
        ("When on Sundays?", ("At seven",), True, ("ferry.md",), ()),  # the one of those cited that says so
        ("Who was the miller?", (), False, (), ()),
    ]
    assert [document.text for document in found.documents()] == [d.text for d in DOCUMENTS.values()]
    assert found.source == "smallhold feedback, 2026-03-05 to 2026-03-05"
    waiting = lines(tmp_path / "set" / "review.jsonl")
    assert [(row["question"], row["why"]) for row in waiting] == [
        ("How far?", "nobody said what is right"),
        ("How deep?", "nobody said what is right"),
        ("How old?", "the documents that it cited are gone"),
        ("How big?", "nobody said what is right"),
    ]
    # Completed by a person, such a line is a question like the others.
    with (tmp_path / "set" / "questions.jsonl").open("a") as file:
        file.write(json.dumps({**waiting[0], "answers": ["31 kilometres"]}) + "\n")
    assert load_qaset(tmp_path / "set").questions[-1].answers == ("31 kilometres",)


def test_as_long_a_document_as_an_index_takes_is_no_hindrance(tmp_path) -> None:
    long = Document("log.txt", "", "Log", "\u0449" * 9_000_000)
    rated = [said("1", "When?", Opinion("up"))]
    write_feedback_set(tmp_path / "set", [*DOCUMENTS.values(), long], rated, DOCUMENTS.get)
    assert load_qaset(tmp_path / "set").documents_count == 3


def test_of_one_question_the_last_word_counts(tmp_path) -> None:
    exported = write(
        tmp_path / "set",
        said("1", "When?", Opinion("up")),
        said("2", "  when? ", Opinion("down", "", "At seven")),
        said("3", "When?", Opinion("up"), history=(Message("user", "x"), Message("assistant", "y"))),
    )
    assert exported == Exported(documents=2, questions=2, review=0)
    assert [q.answers for q in load_qaset(tmp_path / "set").questions] == [("At seven",), ("At six.",)]


def test_nothing_to_export_is_an_error_and_a_full_folder_is_left_alone(tmp_path) -> None:
    with pytest.raises(DataError, match="none of 1 rated answers"):
        write(tmp_path / "set", said("1", "When?", Opinion("down")))
    assert not (tmp_path / "set").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        write(tmp_path / "full", said("1", "When?", Opinion("up")))
    assert [f.name for f in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.model
def test_the_commands_list_and_export_what_was_said(example_index, tmp_path) -> None:
    id_ = "council/minutes-2023-03-16.txt"
    book = FeedbackBook(tmp_path / ".smallhold" / "feedback.sqlite", 90)
    citation = Citation(1, id_, "Minutes", "", f"{id_}#0", Span(0, 1), "D")
    book.remember("a", None, "m", "What does dredging cost?", (), Answer("26,300 crowns", (citation,)))
    book.rate("a", None, Opinion("up", "good\x1b[31m"))
    listed = smallhold("feedback", "list", cwd=tmp_path)
    assert "26,300 crowns" in listed.stdout
    assert "\x1b[31m" not in listed.stdout
    (row,) = json.loads(smallhold("feedback", "list", "--json", cwd=tmp_path).stdout)
    assert (row["id"], row["rating"], row["comment"], row["cited"]) == ("a", "up", "good\x1b[31m", [id_])
    done = smallhold("feedback", "export", "--out", "set", "--index", example_index, cwd=tmp_path)
    assert done.stdout == "set: 1 questions over 37 documents\n", done.stderr
    assert load_qaset(tmp_path / "set").questions[0].relevant == (id_,)
    again = smallhold("feedback", "export", "--out", "set", "--index", example_index, cwd=tmp_path)
    assert again.returncode == 2
    assert "not an empty folder" in again.stderr


@pytest.mark.model
@pytest.mark.usefixtures("tiny_model")
def test_the_evaluation_takes_the_set(example_index, tmp_path) -> None:
    book = FeedbackBook(tmp_path / ".smallhold" / "feedback.sqlite", 90)
    book.remember("a", None, "m", "Where is the gold?", (), Answer("", verdict=Verdict.ABSTAINED))
    book.rate("a", None, Opinion("up"))
    assert smallhold("feedback", "export", "--out", "set", "--index", example_index, cwd=tmp_path).returncode == 0
    systems = tmp_path / "systems.toml"
    tiny = ("--systems", systems, "--system", "tiny")
    systems.write_text('[[system]]\nname = "tiny"\ngenerator = "smollm2-135m-instruct"\nretrieval = false\n')
    run = smallhold("eval", "run", "--data", "set", *tiny, "--out", "o", cwd=tmp_path)
    assert run.returncode == 0, run.stderr

"""The run: rows, resumption, exclusion, and what happens when a system fails."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from eval.qaset import QASet, load_qaset
from eval.report import write_report
from eval.results import ResultsWriter, locked, read_rows, read_run
from eval.rows import Row, rank_documents
from eval.runner import run
from eval.system_row import Endpoint, SystemRow
from eval.systems import PipelineSystem
from rag.config import Settings
from rag.datatypes import Answer, Chunk, Citation, Message, ScoredChunk, Span, Usage, Verdict
from rag.errors import DataError, EndpointFailed, InvalidRequest, ModelMissing, Unavailable

N = 4


def write_qaset(folder: Path, *, answers: bool = True, name: str = "tiny", changed: int | None = None) -> QASet:
    """Questions q0..q3 about documents d0..d3, the answer to qi being "answer i"; q3 is unanswerable."""
    folder.mkdir(exist_ok=True)
    corpus = [{"id": f"d{i}", "title": f"T{i}", "text": f"text {i}"} for i in range(N)]
    questions = [
        {
            "id": f"q{i}",
            "question": f"question {i}" + ("!" if i == changed else ""),
            "answers": [f"answer {i}"] if answers and i != 3 else [],
            "answerable": not answers or i != 3,
            "relevant": [f"d{i}"] if not answers or i != 3 else [],
        }
        for i in range(N)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "meta.json").write_text(json.dumps({"name": name, "kind": "k", "license": "l", "source": "s"}))
    return load_qaset(folder)


def chunk(document: str, number: int = 0) -> Chunk:
    return Chunk(f"{document}/{number}", document, "text", Span(0, 4))


class Fake:
    """A pipeline that answers rightly, abstains on question 3, and fails or is interrupted where it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.retrieved: list[str] = []
        self.opened: list[SystemRow] = []
        self.built = 0
        self.open_now = 0
        self.failing: set[str] = set()
        self.interrupted_at = ""
        self.fingerprint = "weights-1"

    @contextmanager
    def __call__(self, row: SystemRow) -> Iterator[PipelineSystem]:
        self.opened.append(row)
        self.open_now += 1
        assert self.open_now == 1, "one system at a time"
        yield PipelineSystem(self.fingerprint, self._build)
        self.open_now -= 1

    def _build(self) -> "Fake":
        self.built += 1
        return self

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        if question == self.interrupted_at:
            raise KeyboardInterrupt
        self.asked.append(question)
        if question in self.failing:
            raise EndpointFailed("no answer \ud800", hint="Try later.")
        number = question.removeprefix("question ")[0]
        retrieved = (ScoredChunk(chunk(f"d{number}"), 0.9), ScoredChunk(chunk("d9"), 0.5))
        if number == "3":
            return Answer("", verdict=Verdict.ABSTAINED, retrieved=retrieved, reason="not found", confidence=0.1)
        return Answer(
            f"answer {number}",
            citations=(Citation(1, f"d{number}", "T", "u", f"d{number}/0", Span(2, 6), "text"),),
            usage=Usage(100, 40, 5),
            timings={"retrieve": 0.01, "generate": 0.2},
            confidence=0.9,
            signals={"margin": float("inf"), "top": 0.5},
            retrieved=retrieved,
        )

    def retrieve(self, question: str, history: Sequence[Message] = ()) -> list[ScoredChunk]:
        self.retrieved.append(question)
        return [ScoredChunk(chunk(f"d{question[-1]}"), 1.0)]


class Warm(Fake):
    """Has done something before the first question."""

    @contextmanager
    def __call__(self, row: SystemRow) -> Iterator[PipelineSystem]:
        yield PipelineSystem(self.fingerprint, self._build, ahead=lambda: f"read ahead before {len(self.asked)}")


SMALL = SystemRow(name="small+retrieval", generator="tiny", retrieval=True, price_per_hour=3600.0)
CLOSED = SystemRow(name="small", generator="tiny", retrieval=False, price_per_hour=3600.0)


def go(qaset: QASet, fake: Fake, out: Path, *systems: SystemRow, settings: Settings | None = None) -> list[Row]:
    run(qaset, systems or (SMALL,), out, fake, settings=settings or Settings())
    return list(read_rows(out))


def test_what_was_done_before_the_first_question_is_told_for_good(tmp_path: Path) -> None:
    qaset = write_qaset(tmp_path / "set")
    for _ in range(2):  # the second run finds every row there and prepares nothing
        go(qaset, Warm(), tmp_path / "out")
        assert read_run(tmp_path / "out").systems["small+retrieval"].prepared == "read ahead before 0"
    assert "small+retrieval: read ahead before 0" in write_report(tmp_path / "out")["notes"]


def test_a_row_holds_what_the_system_made_of_the_question(tmp_path: Path) -> None:
    rows = go(write_qaset(tmp_path / "set"), Fake(), tmp_path / "out")
    assert [(row.system, row.question_id) for row in rows] == [("small+retrieval", f"q{i}") for i in range(4)]
    row = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[1])
    assert (row["question"], row["gold"], row["answer"], row["abstained"]) == (
        "question 1",
        ["answer 1"],
        "answer 1",
        False,
    )
    assert row["citations"] == [{"document_id": "d1", "span": [2, 6], "text": "text"}]
    assert row["retrieved"] == [{"document_id": "d1", "score": 0.9}, {"document_id": "d9", "score": 0.5}]
    assert row["usage"] == {"prompt": 100, "cached": 40, "completion": 5}
    assert row["signals"] == {"margin": None, "top": 0.5}
    assert row["scores"]["f1"] == row["scores"]["citation_recall"] == row["scores"]["recall@1"] == 1.0
    work = row["work"]
    assert work["cpu_seconds"] >= 0 and work["cores"] >= 1
    assert row["cost"] == pytest.approx(work["cpu_seconds"] / work["cores"])  # a dollar a second of the whole machine
    assert 0 < row["seconds"] < 5 and row["error"] is None
    assert (rows[3].abstained, rows[3].answer, rows[3].scores["abstention_recall"]) == (True, "", 1.0)


def test_a_second_run_asks_nothing_and_builds_nothing(tmp_path: Path) -> None:
    qaset, out = write_qaset(tmp_path / "set"), tmp_path / "out"
    first = go(qaset, Fake(), out)
    fake = Fake()
    assert go(qaset, fake, out) == first  # seconds and all
    assert (fake.asked, fake.built, len(fake.opened)) == ([], 0, 1)


def test_a_torn_last_line_is_mended_and_its_question_asked_again(tmp_path: Path) -> None:
    qaset, out = write_qaset(tmp_path / "set"), tmp_path / "out"
    before = go(qaset, Fake(), out)
    results = out / "results.jsonl"
    results.write_bytes(results.read_bytes()[:-30])  # as a kill in the middle of writing leaves it
    fake = Fake()
    after = go(qaset, fake, out)
    assert fake.asked == ["question 3"]
    assert after[:3] == before[:3] and after[3].question_id == "q3"


def test_a_damaged_line_in_the_middle_costs_its_row_alone(tmp_path: Path) -> None:
    qaset, out = write_qaset(tmp_path / "set"), tmp_path / "out"
    go(qaset, Fake(), out)
    results = out / "results.jsonl"
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join([lines[0], b"\0" * 50 + b"\n", *lines[2:]]))
    fake = Fake()
    rows = go(qaset, fake, out)
    assert fake.asked == ["question 1"]
    assert sorted(row.question_id for row in rows) == ["q0", "q1", "q2", "q3"]


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    qaset, out, fake = write_qaset(tmp_path / "set"), tmp_path / "out", Fake()
    fake.interrupted_at = "question 2"
    with pytest.raises(KeyboardInterrupt):
        go(qaset, fake, out)
    assert [row.question_id for row in read_rows(out)] == ["q0", "q1"]
    again = Fake()
    assert len(go(qaset, again, out)) == 4
    assert again.asked == ["question 2", "question 3"]


SLOW_RUN = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from eval.qaset import load_qaset
from eval.runner import run
from eval.system_row import SystemRow
from eval.systems import PipelineSystem
from rag.config import Settings
from rag.datatypes import Answer

class Slow:
    def answer(self, question, history=()):
        time.sleep(0 if question < "question 2" else 60)
        return Answer("answer")

@contextmanager
def opened(row):
    yield PipelineSystem("weights-1", Slow)

row = SystemRow(name="small+retrieval", generator="tiny", retrieval=True, price_per_hour=3600.0)
run(load_qaset(Path(sys.argv[1])), [row], Path(sys.argv[2]), opened, settings=Settings())
"""


def test_kill_9_keeps_what_is_done_and_frees_the_folder(tmp_path: Path) -> None:
    qaset, out = write_qaset(tmp_path / "set"), tmp_path / "out"
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(tmp_path / "set"), str(out)], cwd=root)
    try:
        for _ in range(1200):
            if len(list(read_rows(out))) == 2:
                break
            time.sleep(0.05)
        with pytest.raises(Unavailable, match="another evaluation is writing"):
            go(qaset, Fake(), out)
    finally:
        process.kill()
        process.wait()
    fake = Fake()
    assert len(go(qaset, fake, out)) == 4
    assert fake.asked == ["question 2", "question 3"]


def test_two_runs_in_one_folder_exclude_each_other(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Unavailable, match="another evaluation is writing"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_file_is_no_folder_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file cannot be written to: File exists"):
        go(write_qaset(tmp_path / "set"), Fake(), tmp_path / "file")


@pytest.mark.parametrize("change", ["weights", "settings", "override", "generator", "corpus"])
def test_everything_is_asked_again_when_the_system_has_changed(tmp_path: Path, change: str) -> None:
    qaset, out, fake = write_qaset(tmp_path / "set"), tmp_path / "out", Fake()
    go(qaset, Fake(), out)
    settings, row = Settings(), SMALL
    if change == "weights":
        fake.fingerprint = "weights-2"
    elif change == "settings":
        settings = Settings(evidence={"passages": 7})  # type: ignore[arg-type]
    elif change == "override":
        row = SMALL.model_copy(update={"settings": {"abstention": {"enabled": False}}})
    elif change == "generator":
        row = SMALL.model_copy(update={"generator": "other"})
    else:
        corpus = tmp_path / "set" / "corpus.jsonl"
        corpus.write_text(corpus.read_text() + '{"id": "new", "title": "", "text": ""}\n')
        qaset = load_qaset(tmp_path / "set")
    rows = go(qaset, fake, out, row, settings=settings)
    assert len(fake.asked) == 4
    assert len(rows) == 4  # the rows of before have made way


def test_only_a_changed_question_is_asked_again(tmp_path: Path) -> None:
    out, fake = tmp_path / "out", Fake()
    go(write_qaset(tmp_path / "set"), Fake(), out)
    rows = go(write_qaset(tmp_path / "set", changed=1), fake, out)
    assert fake.asked == ["question 1!"]
    assert sorted(row.question for row in rows) == ["question 0", "question 1!", "question 2", "question 3"]


def test_a_price_changes_the_cost_and_asks_nothing(tmp_path: Path) -> None:
    qaset, out, fake = write_qaset(tmp_path / "set"), tmp_path / "out", Fake()
    before = go(qaset, Fake(), out)
    after = go(qaset, fake, out, SMALL.model_copy(update={"price_per_hour": 7200.0}))
    assert fake.asked == []
    assert [row.cost for row in after] == [pytest.approx(2 * (row.cost or 0)) for row in before]


def test_a_question_that_is_as_it_was_again_keeps_its_answer(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out"
    row = SystemRow(name="s", generator="m", retrieval=True)
    run(write_qaset(tmp_path / "set"), [row], out, fake, settings=Settings())
    fake.interrupted_at = "question 2!"
    changed = write_qaset(tmp_path / "set", changed=1)
    changed = replace(
        changed, questions=(*changed.questions[:2], replace(changed.questions[2], question="question 2!"))
    )
    with pytest.raises(KeyboardInterrupt):
        run(changed, [row], out, fake, settings=Settings())
    fake.open_now = 0
    assert fake.asked[N:] == ["question 1!"]
    found = run(write_qaset(tmp_path / "set"), [row], out, fake, settings=Settings())
    assert len(fake.asked) == N + 1  # the answers of the beginning still count
    assert sum(found.counts(one) for one in read_rows(out)) == N


def test_a_limit_is_widened_without_asking_twice(tmp_path: Path) -> None:
    qaset, out, fake = write_qaset(tmp_path / "set"), tmp_path / "out", Fake()
    assert len(go(qaset.limited(2), Fake(), out)) == 2
    assert len(go(qaset, fake, out)) == 4
    assert fake.asked == ["question 2", "question 3"]
    go(qaset.limited(1), fake, out)
    assert list(read_run(out).questions) == ["q0"] and len(list(read_rows(out))) == 4


def test_systems_of_earlier_runs_stay(tmp_path: Path) -> None:
    qaset, out, fake = write_qaset(tmp_path / "set"), tmp_path / "out", Fake()
    go(qaset, fake, out, SMALL)
    rows = go(qaset, fake, out, CLOSED)
    assert len(fake.asked) == 8 and len(rows) == 8
    assert list(read_run(out).systems) == ["small+retrieval", "small"]


def test_a_folder_of_another_set_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(write_qaset(tmp_path / "set"), Fake(), out)
    with pytest.raises(DataError, match="holds a run on 'tiny', not on 'other'"):
        go(write_qaset(tmp_path / "other", name="other"), Fake(), out)


def test_a_failed_question_is_a_row_and_is_asked_again_next_time(tmp_path: Path) -> None:
    qaset, out, fake = write_qaset(tmp_path / "set"), tmp_path / "out", Fake()
    fake.failing = {"question 1"}
    failed = go(qaset, fake, out)[1]
    assert failed.error == "no answer ?\nTry later."
    assert (failed.scores["f1"], failed.scores["coverage"], failed.scores["abstention_precision"]) == (0.0, 0.0, None)
    assert (failed.cost, failed.abstained) == (None, False)
    again = Fake()
    rows = {row.question_id: row for row in go(qaset, again, out)}
    assert again.asked == ["question 1"]
    assert len(rows) == 4 and rows["q1"].error is None


def test_a_system_that_fails_every_question_is_stopped_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.asking.FAILURES_IN_A_ROW", 2)
    qaset, out = write_qaset(tmp_path / "set"), tmp_path / "out"

    class Down(Fake):
        def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
            if self.opened[-1].name == "small":
                raise EndpointFailed("down")
            return super().answer(question, history)

        @contextmanager
        def __call__(self, row: SystemRow) -> Iterator[PipelineSystem]:
            self.opened.append(row)
            yield PipelineSystem("w", self._build)

    go(qaset, Down(), out, CLOSED, SMALL)
    state = read_run(out)
    assert state.systems["small"].stopped.startswith("2 questions in a row failed, the last with: down")
    assert state.systems["small+retrieval"].stopped == ""
    assert sum(row.system == "small+retrieval" for row in read_rows(out)) == 4


def test_missing_weights_stop_a_system_and_keep_its_earlier_rows(tmp_path: Path) -> None:
    qaset, out = write_qaset(tmp_path / "set"), tmp_path / "out"
    before = go(qaset, Fake(), out)

    @contextmanager
    def missing(row: SystemRow) -> Iterator[PipelineSystem]:
        raise ModelMissing("no weights")
        yield

    run(qaset, (SMALL,), out, missing, settings=Settings())
    assert read_run(out).systems["small+retrieval"].stopped == "no weights"
    assert list(read_rows(out)) == before
    fake = Fake()
    go(qaset, fake, out)
    assert (fake.asked, read_run(out).systems["small+retrieval"].stopped) == ([], "")


def test_retrieval_without_a_language_model(tmp_path: Path) -> None:
    fake = Fake()
    only = SystemRow(name="retrieval", retrieval=True, price_per_hour=1.0)
    rows = go(write_qaset(tmp_path / "set"), fake, tmp_path / "out", only)
    assert (len(fake.retrieved), fake.asked) == (4, [])
    assert (rows[0].scores["recall@1"], rows[0].scores["f1"]) == (1.0, None)


def test_a_set_without_answers_runs_retrieval_alone_whatever_is_asked(tmp_path: Path) -> None:
    fake, out = Fake(), tmp_path / "out"
    rows = go(write_qaset(tmp_path / "set", answers=False), fake, out, SMALL, CLOSED)
    assert [row.generator for row in fake.opened] == [""]  # no language model is opened
    assert (len(fake.retrieved), fake.asked) == (4, [])
    assert {row.system for row in rows} == {"small+retrieval"}
    assert read_run(out).notes == (
        "tiny has no answers to compare with: only the retrieval of small+retrieval was run",
        "tiny has no answers to compare with: small retrieves nothing, left out",
    )


def test_a_set_without_answers_has_nothing_for_closed_book_systems(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="retrieve nothing"):
        go(write_qaset(tmp_path / "set", answers=False), Fake(), tmp_path / "out", CLOSED)


def test_documents_are_ranked_by_their_best_chunk() -> None:
    chunks = [chunk("b", 1), chunk("a", 1), chunk("b", 2), chunk("c", 1)]
    scored = [ScoredChunk(c, score) for c, score in zip(chunks, (0.9, 0.7, 0.6, float("nan")), strict=True)]
    ranked = [(document.document_id, document.score) for document in rank_documents(scored)]
    assert ranked == [("b", 0.9), ("a", 0.7), ("c", None)]
    assert len(rank_documents([ScoredChunk(chunk(str(i)), 0.0) for i in range(50)])) == 20


def test_a_torn_line_does_not_swallow_the_next_row(tmp_path: Path) -> None:
    row = go(write_qaset(tmp_path / "set"), Fake(), tmp_path / "out")[0]
    (tmp_path / "results.jsonl").write_bytes(b'{"system": "sma')
    with ResultsWriter(tmp_path) as writer:
        writer.append(row)
    assert list(read_rows(tmp_path)) == [row]


REMOTE = SystemRow(
    name="gpt",
    generator=Endpoint(endpoint="https://host/v1", model="m"),
    retrieval=False,
    concurrency=3,
    price_per_million_prompt=1.0,
    price_per_million_completion=1.0,
)


class Busy(Fake):
    """A fake that several threads may ask; it waits until `together` questions are under way or have been."""

    def __init__(self, together: int = 1) -> None:
        super().__init__()
        self.together = together
        self.now = self.most = 0
        self.changed = threading.Condition()

    def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
        if not self.asked:  # the first is asked alone
            return super().answer(question, history)
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.most >= self.together, timeout=30)
        try:
            return super().answer(question, history)
        finally:
            with self.changed:
                self.now -= 1


def test_an_endpoint_is_asked_several_questions_at_a_time(tmp_path: Path) -> None:
    qaset, fake = write_qaset(tmp_path / "set"), Busy(together=3)
    rows = go(qaset, fake, tmp_path / "out", REMOTE)
    assert (fake.asked[0], fake.most) == ("question 0", 3)
    assert sorted(row.question_id for row in rows) == ["q0", "q1", "q2", "q3"]
    assert all(row.work is not None and row.work.cpu_seconds >= 0 for row in rows)
    again = Busy()
    assert len(go(qaset, again, tmp_path / "out", REMOTE)) == 4 and again.asked == []


def test_one_at_a_time_where_that_is_asked_or_the_model_is_here(tmp_path: Path) -> None:
    fake = Busy()
    go(write_qaset(tmp_path / "set"), fake, tmp_path / "out", REMOTE.model_copy(update={"concurrency": 1}))
    assert fake.most == 1 and fake.asked == [f"question {i}" for i in range(4)]
    assert (SMALL.at_once, REMOTE.at_once, REMOTE.without_generator().at_once) == (1, 3, 1)
    assert REMOTE.model_copy(update={"concurrency": None}).at_once == 4
    with pytest.raises(ValidationError, match="concurrency is for endpoints"):
        SystemRow(name="small", generator="tiny", retrieval=False, concurrency=2)


def test_an_interrupt_keeps_the_answers_that_are_under_way(tmp_path: Path) -> None:
    class Interrupted(Busy):
        def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
            if question == "question 1":
                raise KeyboardInterrupt
            if self.asked:
                time.sleep(0.3)
            return super().answer(question, history)

    qaset, out = write_qaset(tmp_path / "set"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        go(qaset, Interrupted(), out, REMOTE)
    assert sorted(row.question_id for row in read_rows(out)) == ["q0", "q2", "q3"]
    again = Busy()
    assert len(go(qaset, again, out, REMOTE)) == 4 and again.asked == ["question 1"]


def test_an_interrupt_does_not_wait_for_an_endpoint_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.asking.LAST_ANSWERS", 0.1)
    never = threading.Event()

    class Silent(Busy):
        def answer(self, question: str, history: Sequence[Message] = ()) -> Answer:
            if question == "question 1":
                raise KeyboardInterrupt
            if self.asked:
                never.wait(60)
            return super().answer(question, history)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        go(write_qaset(tmp_path / "set"), Silent(), tmp_path / "out", REMOTE)
    assert time.monotonic() - began < 30
    never.set()


def test_failures_in_a_row_stop_an_endpoint_that_is_asked_several_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.asking.FAILURES_IN_A_ROW", 2)
    qaset, out, fake = write_qaset(tmp_path / "set"), tmp_path / "out", Busy()
    fake.failing = {f"question {i}" for i in range(4)}
    go(qaset, fake, out, REMOTE.model_copy(update={"concurrency": 2}))
    assert read_run(out).systems["gpt"].stopped.startswith("2 questions in a row failed, the last with: no answer")
    assert fake.asked == ["question 0", "question 1"]

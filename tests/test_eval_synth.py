"""Making a test set with a model that says what the test wants, and what a person does with it."""

import json
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.qaset import load_qaset
from eval.synth import Source, make_set
from eval.synth_ask import Asker, load_synth_prompts
from eval.synth_attempts import ATTEMPTS, Attempt, SetState, read_attempts
from eval.synth_candidates import Candidate, find_candidates
from eval.synth_drafts import Assignment, Assignments, Draft, Kind, Swaps, find_pairs, write_draft
from eval.synth_judge import CHECKS, MEANINGS, Judge
from eval.synth_page import Card, review_page
from eval.synth_passages import Passage
from eval.synth_set import DECISIONS, REVIEW, apply_decisions, report_of
from rag.datatypes import Chunk, Document, Message, Piece, Sampling, Span, Usage
from rag.errors import DataError
from rag.prompt import load_prompt
from tests.conftest import QueueGenerator, WordEmbedder

PROMPT = load_prompt("extractive")
FIRM = "The firm kept its books in the loft, and the books were kept well by all who worked there over the years. "


def document(number: int, name: str, year: int) -> Document:
    text = (
        f"{FIRM}The works of {name} were opened by the river in {year} after a long quarrel about the water. "
        f"Nobody remembers who had begun the quarrel, and nobody wants to know it any more."
    )
    return Document(f"d{number}", f"file:///d{number}", f"Works {number}", text)


NAMES = ("Tolmen Mill", "Orrin Forge", "Sile Brewery", "Selk Tannery", "Vey Foundry", "Pell Quarry", "Marn Bakery")
PLACES = "Lake Corwen, Mount Harl, Cape Donner, Port Ashby, Point Merrow, Loch Tarn and Fort Gale"
DOCUMENTS = [document(i, name, 1801 + i) for i, name in enumerate(NAMES)]
DOCUMENTS.append(Document("d7", "", "Travels", f"{FIRM}We went to see {PLACES}. {FIRM}"))


class Writer:
    """Asks when or what the works were, reads years and names out of a passage, and remembers nothing."""

    def __init__(self, *, stop_after: int = 10**9) -> None:
        self.calls = 0
        self.stop_after = stop_after

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        yield Piece(self.say(messages[-1].content))
        yield Piece("", finish_reason="stop", usage=Usage())

    def say(self, request: str) -> str:
        name = (re.search(r"works of ([A-Z]\w+ [A-Z]\w+)", request) or ["", ""])[1]
        if found := re.search(r"Question: When were the works of (.*?) opened\?\nForbidden: ", request):
            return f"What year were the works of {found[1]} first opened?"
        if "Answer:" in request:
            answer = (re.search(r"Answer: (.*)", request) or ["", ""])[1]
            return f"When were the works of {name} opened?" if answer.isdigit() else "What were the works like?"
        if "Passage" in request:
            return (re.search(r"in (\d{4})", request) or ["", ""])[1]
        return "I cannot know."


class Told:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int, int]] = []
        self.attempts: list[Attempt] = []
        self.finished = 0

    def start(self, total: int, kept: int, attempts: int) -> None:
        self.started.append((total, kept, attempts))

    def advance(self, attempt: Attempt, kept: int, attempts: int) -> None:
        self.attempts.append(attempt)

    def finish(self) -> None:
        self.finished += 1


def whole(document: Document) -> list[Chunk]:
    return [Chunk(f"{document.id}/0", document.id, document.text, Span(0, len(document.text)))]


def source(writer: Any, documents: Sequence[Document] = DOCUMENTS, fingerprint: str = "f") -> Source:
    asker = Asker(writer, PROMPT, load_synth_prompts())
    return Source("docs", "own", lambda: iter(documents), whole, asker, WordEmbedder(), "fake", fingerprint)


def make(out: Path, writer: Any, *, questions: int = 4, told: Told | None = None, **changes: Any) -> SetState:
    options = {"seed": 3, "min_f1": 0.6, "max_attempts": 24, **changes}
    documents = options.pop("documents", DOCUMENTS)
    fingerprint = options.pop("fingerprint", "f")
    return make_set(
        source(writer, documents, fingerprint), out, questions=questions, progress=told or Told(), **options
    )


def test_a_set_is_made_that_can_be_run(tmp_path: Path) -> None:
    told = Told()
    state = make(tmp_path / "set", Writer(), told=told)
    qaset = load_qaset(tmp_path / "set")
    assert (qaset.name, qaset.license, qaset.documents_count) == ("set", "own", 8)
    assert len(qaset.questions) == state.report["kept"] >= 3
    assert told.started == [(4, 0, 0)] and told.finished == 1 and len(told.attempts) == state.report["attempts"]
    years = {d.id: str(1801 + i) for i, d in enumerate(DOCUMENTS)}
    for question in qaset.questions:
        if question.answerable:
            assert [years[id_] for id_ in question.relevant] == list(question.answers)
    rows = [json.loads(line) for line in (tmp_path / "set" / "questions.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} >= {"one fact", "unanswerable"}
    for row in rows:
        for place in row["passages"]:
            text = next(d.text for d in DOCUMENTS if d.id == place["document_id"])
            assert text[slice(*place["span"])] == text  # the span is of the document
    page = (tmp_path / "set" / REVIEW).read_text()
    assert all(question.question in page for question in qaset.questions)


def test_an_interrupted_run_goes_on_to_the_same_set(tmp_path: Path) -> None:
    make(tmp_path / "whole", Writer())
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", Writer(stop_after=7))
    done = read_attempts(tmp_path / "cut")
    assert 0 < len(done) < len(read_attempts(tmp_path / "whole"))
    assert (tmp_path / "cut" / REVIEW).exists()  # what is kept so far is a set
    with (tmp_path / "cut" / ATTEMPTS).open("ab") as file:
        file.write(b'{"number": 99, "torn')
    told, writer = Told(), Writer()
    make(tmp_path / "cut", writer, told=told)
    assert told.started == [(4, sum(a.kept for a in done), len(done))]
    for name in ("questions.jsonl", "corpus.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = Writer()
    make(tmp_path / "cut", again)
    assert again.calls == 0  # nothing is asked twice


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "begun with another seed"),
        ({"min_f1": 0.5}, "begun with another min_f1"),
        ({"fingerprint": "g"}, "another model, prompt or way of cutting"),
        ({"documents": DOCUMENTS[:7]}, "the documents are not those"),
    ],
)
def test_another_begin_is_refused_and_harms_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    make(tmp_path / "set", Writer())
    before = {p.name: p.read_bytes() for p in (tmp_path / "set").iterdir() if p.name != ".lock"}
    with pytest.raises(DataError, match=message):
        make(tmp_path / "set", Writer(), **changes)
    assert {p.name: p.read_bytes() for p in (tmp_path / "set").iterdir() if p.name != ".lock"} == before


def test_a_folder_of_others_and_documents_without_prose_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(DataError, match=r"is no set of `eval synth`"):
        make(tmp_path / "mine", Writer())
    with pytest.raises(DataError, match="no passage of running text"):
        make(tmp_path / "new", Writer(), documents=[Document("d", "", "", "Short.")])
    assert not (tmp_path / "new" / "corpus.jsonl").exists()
    assert make(tmp_path / "new", Writer()).report["kept"]  # and the folder can be used


def test_attempts_are_bounded(tmp_path: Path) -> None:
    class Mute(Writer):
        def say(self, request: str) -> str:
            return ""

    state = make(tmp_path / "set", Mute(), max_attempts=5)
    # Two of one fact, one each to reword and to swap; no two passages share a name.
    assert (state.report["attempts"], state.report["kept"]) == (4, 0)
    assert {a.failed for a in read_attempts(tmp_path / "set")} == {"written"}


def test_a_kind_that_cannot_be_written_leaves_attempts_to_the_others(tmp_path: Path) -> None:
    class NeverRewords(Writer):
        def say(self, request: str) -> str:
            return "" if "Forbidden: " in request else super().say(request)

    make(tmp_path / "set", NeverRewords(), questions=5, max_attempts=20)
    rows = read_attempts(tmp_path / "set")
    tried = {kind: sum(a.kind is kind for a in rows) for kind in Kind}
    assert tried[Kind.PARAPHRASE] == 4  # a fifth of 20
    assert {a.kind for a in rows if a.kept} == {Kind.ONE_FACT, Kind.UNANSWERABLE}


def attempt(number: int, kind: Kind, failed: str) -> Attempt:
    place = (("d0", (0, 5)),)
    return Attempt(
        number=number, kind=kind, key="", passages=place, question="Q?", answer="a", answer_kind="name", failed=failed
    )


def test_survivors_are_counted_at_each_check() -> None:
    attempts = [
        attempt(1, Kind.ONE_FACT, ""),
        attempt(2, Kind.ONE_FACT, "no_leak"),
        attempt(3, Kind.ONE_FACT, "written"),
        attempt(4, Kind.PARAPHRASE, "reworded"),
        attempt(5, Kind.UNANSWERABLE, "swapped"),
    ]
    report = report_of(attempts, {"synth-00001": "strike"})
    checks = {check["check"]: check for check in report["checks"]}
    assert list(checks) == list(MEANINGS)
    # written: five came, one failed; no_leak: 1, 2 and 4 came, 2 failed; swapped and reworded: one came and failed
    assert (checks["written"]["came"], checks["written"]["passed"], checks["written"]["share"]) == (5, 4, 0.8)
    assert (checks["no_leak"]["came"], checks["no_leak"]["passed"]) == (3, 2)
    assert checks["no_leak"]["by_kind"]["one fact"] == {"came": 2, "passed": 1, "share": 0.5}
    assert (checks["reworded"]["came"], checks["reworded"]["share"]) == (1, 0.0)
    assert (checks["read"]["came"], checks["read"]["passed"]) == (1, 1)
    assert checks["not_elsewhere"] == {
        "check": "not_elsewhere",
        "came": 0,
        "passed": 0,
        "share": None,
        "by_kind": {"unanswerable": {"came": 0, "passed": 0, "share": None}},
    }
    assert (report["kept"], report["struck"], report["kept_by_kind"]["one fact"]) == (1, 1, 1)


def test_every_check_of_every_kind_is_explained() -> None:
    assert {name for names in CHECKS.values() for name in names} == set(MEANINGS)


def decisions(folder: Path, *pairs: tuple[str, str]) -> Path:
    asked = {q.id: q.question for q in load_qaset(folder).questions}
    said = [{"id": id_, "question": asked.get(id_, "?"), "decision": decision} for id_, decision in pairs]
    file = folder.parent / "decisions.json"
    file.write_text(json.dumps({"set": folder.name, "decisions": said}))
    return file


def test_struck_questions_are_out_and_stay_out(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    make(folder, Writer())
    ids = [q.id for q in load_qaset(folder).questions]
    state = apply_decisions(folder, decisions(folder, (ids[0], "strike"), (ids[1], "accept")))
    assert [q.id for q in load_qaset(folder).questions] == ids[1:]
    assert (state.report["struck"], state.report["accepted"]) == (1, 1)
    assert f"2 of {len(ids)} questions looked at by a person" in load_qaset(folder).source
    make(folder, Writer(), questions=5)
    assert ids[0] not in {q.id for q in load_qaset(folder).questions}


def test_decisions_on_other_questions_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    make(folder, Writer())
    with pytest.raises(DataError, match="is no question of this set"):
        apply_decisions(folder, decisions(folder, ("synth-99999", "strike")))
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match="no file of decisions"):
        apply_decisions(folder, tmp_path / "bad.json")
    with pytest.raises(DataError, match="no set of `eval synth`"):
        apply_decisions(tmp_path, tmp_path / "bad.json")
    assert not (folder / DECISIONS).exists()


def test_the_page_holds_texts_as_data() -> None:
    nasty = "</script><script>alert(1)</script><!--"
    page = review_page("set", [Card("a", "one fact", nasty, nasty, "", "", (("d", nasty),))], {"a": "accept"})
    assert "<script>alert" not in page and "<!--" not in page.split("<body>")[1]
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert data["cards"][0]["question"] == nasty and data["decided"] == {"a": "accept"}
    assert "http" not in page.replace("http-equiv", "")  # nothing is loaded from elsewhere


def passage(id_: str, text: str) -> Passage:
    return Passage(id_, id_.upper(), text, Span(0, len(text)))


def candidate(text: str, answer: str) -> Candidate:
    return next(c for c in find_candidates(text) if c.text == answer)


MILL = passage("mill", "The old mill ground barley. It was built by the engineer Ada Brandt for the farmers.")
LIFE = passage("life", "Ada Brandt was born in Norrin, where she kept bees.")


def test_pairs_share_a_name_that_the_answer_stands_beside() -> None:
    pairs = find_pairs([MILL, LIFE], seed=0)
    assert [(p.leading, p.passage, p.bridge, p.answer.text) for p in pairs] == [
        (MILL, LIFE, "Ada Brandt", "Norrin")  # the mill's passage says nothing else of her that is a name or number
    ]


def test_a_question_of_two_passages_describes_the_name() -> None:
    (pair,) = find_pairs([MILL, LIFE], seed=0)
    generator = QueueGenerator("Where was Ada Brandt born?", "the engineer of the old mill.", "Norrin", "London")
    asker = Asker(generator, PROMPT, load_synth_prompts())
    draft = write_draft(pair, asker, Swaps([], 0))
    assert draft.question == "Where was the engineer of the old mill born?"
    judgement = Judge(asker, WordEmbedder(), [MILL, LIFE]).judge(draft)
    assert (judgement.failed, judgement.read, judgement.remembered) == ("", "Norrin", "London")
    assert MILL.text in generator.asked[2][-1].content and LIFE.text in generator.asked[2][-1].content


@pytest.mark.parametrize(
    ("described", "failed"),
    [
        ("the engineer Brandt", "linked"),  # tells the name
        ("a baker of the old mill", "linked"),  # no definite description
        ("the inventor of steamships", "linked"),  # nothing of the passage
    ],
)
def test_descriptions_that_lead_nowhere_are_dropped(described: str, failed: str) -> None:
    (pair,) = find_pairs([MILL, LIFE], seed=0)
    asker = Asker(QueueGenerator("Where was Ada Brandt born?", described), PROMPT, load_synth_prompts())
    draft = write_draft(pair, asker, Swaps([], 0))
    assert Judge(asker, WordEmbedder(), [MILL, LIFE]).judge(draft).failed == failed


def test_a_swap_takes_a_name_of_another_document_of_the_same_length() -> None:
    other = passage("other", "It is said that Piet Callow of the ferry met Selk and the Duke of Sile there.")
    swaps = Swaps([MILL, LIFE, other], 0)
    assert swaps.swap("When did Ada Brandt build it?", MILL) == ("When did Piet Callow build it?", "Piet Callow")
    assert swaps.swap("When did they build it?", MILL) == ("", "")


def test_what_is_remembered_or_not_found_is_dropped() -> None:
    assignment = Assignment(Kind.ONE_FACT, LIFE, candidate(LIFE.text, "Norrin"))
    draft = Draft(assignment, "Where was Ada Brandt born?")
    for answers, failed in ((["bees"], "read"), (["Norrin", "in Norrin"], "not_remembered")):
        judge = Judge(Asker(QueueGenerator(*answers), PROMPT, load_synth_prompts()), WordEmbedder(), [LIFE])
        assert judge.judge(draft).failed == failed
    judge.keep("Where was Ada Brandt born?")
    assert judge.judge(draft).failed == "not_duplicate"  # before the model is asked anything


def test_a_question_that_told_its_answer_is_not_swapped_either() -> None:
    assignment = Assignment(Kind.UNANSWERABLE, LIFE, candidate(LIFE.text, "Norrin"))
    draft = Draft(assignment, "What is the name of Selk?", base=("What is the name of Norrin?",), swapped="Selk")
    judge = Judge(Asker(QueueGenerator(), PROMPT, load_synth_prompts()), WordEmbedder(), [LIFE])
    assert judge.judge(draft).failed == "no_leak"


def test_a_rewording_is_tried_three_times() -> None:
    base = "When was the mill of Ada Brandt built?"
    generator = QueueGenerator(base, base, base, "In what year did Ada Brandt erect the mill?")
    assignment = Assignment(Kind.PARAPHRASE, LIFE, candidate(LIFE.text, "Norrin"))
    draft = write_draft(assignment, Asker(generator, PROMPT, load_synth_prompts()), Swaps([], 0))
    assert (draft.base, draft.question) == ((base,), "In what year did Ada Brandt erect the mill?")
    assert [(s.temperature, s.seed) for s in generator.samplings] == [(0, 0), (0, 0), (1.0, 1), (1.0, 2)]


def test_no_span_is_given_out_twice() -> None:
    passages = [Passage(d.id, d.title, d.text, Span(0, len(d.text))) for d in DOCUMENTS]
    assignments = Assignments(passages, 0)
    kinds = [Kind.ONE_FACT, Kind.PARAPHRASE, Kind.UNANSWERABLE] * 20
    given = [a for a in map(assignments.next, kinds) if a]
    assert len({(a.passage.document_id, a.answer.start) for a in given}) == len(given) >= 12
    assert {a.passage.document_id for a in given[:8]} == {d.id for d in DOCUMENTS}

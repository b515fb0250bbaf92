"""What the terminal shows of an answer that is withheld, and of a run under way."""

import json
import re
import time
from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress

from rag import console
from rag.datatypes import Answer, AnswerSentence, Citation, Closest, RiskTarget, Span, Verdict

NEAR = (
    Closest(
        "council/minutes.txt", "Minutes [draft]", "", 0.5312, "The [bold]sand[/] was cleared.", "Works > Slip", 3, 0.412
    ),
    Closest("b.md", "B", "", 0.25, "Another."),
)
REFUSED = Answer("", verdict=Verdict.ABSTAINED, reason="the answer found is too unsure", closest=NEAR)


def test_a_refusal_says_why_and_lists_what_comes_closest(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_answer(REFUSED)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "The documents do not say.",
        "What comes closest:",
        "  Minutes [draft], Works > Slip, page 3 council/minutes.txt, similarity 0.41",
        "      “The [bold]sand[/] was cleared.”",
        "  B b.md, score 0.25",
        "      “Another.”",
    ]
    assert shown.err == "the answer found is too unsure\n"


@pytest.mark.parametrize(
    ("document_id", "where"),
    [("a/talk.pptx", "slide 2"), ("x.zip/book.XLSX", "sheet 2"), ("report.pdf", "page 2")],
)
def test_slides_and_sheets_are_cited_as_such(document_id: str, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    cited = Citation(1, document_id, "Title", "", f"{document_id}#0", Span(0, 3), "Ada", page=2)
    console.print_answer(Answer("Ada", citations=(cited,)))
    assert f"[1] Title, {where} {document_id}" in capsys.readouterr().out


def test_what_is_not_attainable_has_words_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    target = RiskTarget(0.01, 0.95, attainable=False)
    console.print_answer(Answer("", verdict=Verdict.UNATTAINABLE, reason="not attainable", target=target))
    assert capsys.readouterr().out == "No answer here would be sure enough.\n"


def test_the_same_as_json() -> None:
    told = json.loads(json.dumps(console.answer_json("Who?", REFUSED)))
    assert told["answer"] == "The documents do not say."
    assert told["risk_target"] is None
    assert told["closest"][0] == {
        "document_id": "council/minutes.txt",
        "title": "Minutes [draft]",
        "uri": "",
        "score": 0.5312,
        "text": "The [bold]sand[/] was cleared.",
        "headings": "Works > Slip",
        "page": 3,
        "dense": 0.412,
        "span": None,
    }
    target = RiskTarget(0.2, 0.95, attainable=True)
    given = console.answer_json("Who?", Answer("Ada", target=target))
    assert (given["answer"], given["closest"]) == ("Ada", [])
    assert given["risk_target"] == {"risk": 0.2, "confidence": 0.95, "attainable": True}


def test_each_sentence_is_marked_and_one_that_nothing_supports_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    sources = tuple(
        Citation(n, f"{n}.md", f"T{n}", "", f"{n}.md#0", Span(0, 4), text) for n, text in ((1, "Six."), (2, "Eight."))
    )
    sentences = (
        AnswerSentence(Span(0, 7), (1,), 1.0, True),
        AnswerSentence(Span(8, 22), (1, 2), 0.8, True),
        AnswerSentence(Span(23, 26), (), 0.0, False),
    )
    answer = Answer("At six. On Sundays [8. No.", sources, sentences)
    console.print_answer(answer)
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == "At six. [1] On Sundays [8. [1] [2] No."
    assert shown.err == "no passage supports: No.\n"
    console.print_answer(answer, shown=True)
    assert capsys.readouterr().out.splitlines()[0] == " [1] [2]"
    told = json.loads(json.dumps(console.answer_json("When?", answer)))["sentences"]
    assert told[1] == {"span": [8, 22], "citations": [1, 2], "score": 0.8, "supported": True}


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_bar_of_an_index_tells_documents_chunks_a_second_and_the_time_left() -> None:
    clock = Clock()
    bars = Progress(disable=True, get_time=clock)
    tell, column = console.StageProgress(bars), console.PaceColumn()
    tell("read", 0, 40)
    assert column.render(bars.tasks[0]).plain == ""
    clock.now += 8
    tell("read", 10, 40)
    assert column.render(bars.tasks[0]).plain == "1.2 documents/s, 0:00:24 left"
    tell("read", 40, 40)
    clock.now += 50
    assert column.render(bars.tasks[0]).plain == "5.0 documents/s"
    tell("embed", 0, 1280)
    clock.now += 4
    tell("embed", 128, 1280)
    assert column.render(bars.tasks[1]).plain == "32.0 chunks/s, 0:00:36 left"
    clock.now += 4
    assert column.render(bars.tasks[1]).plain == "16.0 chunks/s, 0:01:12 left"


def test_a_stage_whose_end_is_not_known_has_no_time_left() -> None:
    clock = Clock()
    bars = Progress(disable=True, get_time=clock)
    console.StageProgress(bars)("counting", 5, 0)
    clock.now += 1
    assert console.PaceColumn().render(bars.tasks[0]).plain == ""


def test_the_bars_are_drawn_with_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    written = StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, force_terminal=True, width=100))
    with console.stage_progress() as tell:
        tell("embed", 0, 300)
        time.sleep(0.01)
        tell("embed", 128, 300)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())
    assert re.search(r"embed \S+ 128/300 [\d,.]+ chunks/s, 0:00:0\d left", shown)


def test_text_is_shown_as_it_is_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Documents hold what looks like rich's emoji, and names of files hold anything."""
    citation = Citation(1, "\x1b[2Jetc\udcff.txt", "a\x07", "", "c", Span(0, 9), "root:x:0:0 \x9b31m\r\tend")
    console.print_answer(Answer("root:x:0:0", (citation,)))
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["root:x:0:0 [1]", r"  [1] a\x07 \x1b[2Jetc\udcff.txt", "      “root:x:0:0 \\x9b31m end”"]


def test_json_is_valid_whatever_a_name_holds(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"path": "a\udcff\x1b"})
    shown = capsys.readouterr().out
    shown.encode()
    assert json.loads(shown) == {"path": "a\udcff\x1b"}

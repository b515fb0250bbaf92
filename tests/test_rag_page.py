"""The chat page in a real Chromium, over a pipeline that answers by the words of the question."""

import contextlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvicorn

from rag.app import IndexedDocument, Service, create_app
from rag.config import FeedbackSettings, ServerSettings
from rag.cost import Costs, Prices
from rag.datatypes import Answer, Chunk, Citation, Closest, Delta, Document, Message, ScoredChunk, Span, Usage, Verdict
from rag.errors import EndpointFailed, IndexMissing, UnknownDocument
from rag.feedback import FeedbackBook, Opinion
from rag.filter import EVERYTHING, View
from rag.keys import create_key, revoke_key
from rag.options import AskOptions

sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
expect = sync_api.expect

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SHOTS = os.environ.get("SMALLHOLD_PAGE_SHOTS")  # a folder for screenshots, for people to look at

FERRY = (
    "The north ferry crosses the sound between Norrin and the mainland. It was built in 1931 and refitted twice, the "
    "last time in 1998, when the old steam capstan was given to the museum in Norrin.\n\n"
    "The first ferry leaves Norrin at six in the morning, on Sundays at eight. It carries no cars. Tickets are sold "
    "on board; children under seven cross free of charge, and so do sheep that are led on a rope. In a south-westerly "
    "gale above force eight the crossing is given up until the harbour master hoists the white cone again."
)
SENTENCE = "The first ferry leaves Norrin at six in the morning, on Sundays at eight."
LETTER = "My dear Signe, the ferry left at six sharp and I was on it, with the goose."
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


def chunk(name: str, text: str, title: str, **metadata) -> Chunk:
    return Chunk(f"{name}#0", name, text, Span(1000, 1000 + len(text)), {"title": title, **metadata})


def cite(index: int, source: Chunk, sentence: str, uri: str, page: int | None = None) -> Citation:
    start = source.span.start + source.text.index(sentence)
    return Citation(
        index, source.document_id, source.title, uri, source.id, Span(start, start + len(sentence)), sentence, page
    )


def answer(text: str, *sources: tuple[Chunk, Citation]) -> Answer:
    return Answer(
        text,
        tuple(citation for _, citation in sources),
        usage=Usage(prompt=310, cached=120, completion=1 + len(text.split())),
        timings={"retrieve": 0.02, "read": 0.4, "generate": 1.4, "total": 1.8},
        retrieved=tuple(ScoredChunk(source, 1.0) for source, _ in sources),
        passages_read=len(sources),
    )


TIMES = chunk("ferry-north.md", FERRY, "The north ferry", headings="Crossing > Times")
LUNAR = "船は朝六時に出る。"
CALENDAR = chunk("jp.txt", "甲" * 300 + LUNAR + "乙" * 300, "暦")
NOTE = chunk("letters/1902.txt", LETTER, "Letter of 1902")
ATTACK = chunk("evil.html", f"{EVIL} is what it says.", EVIL, headings=EVIL)
ANSWERS = {
    "ferry": answer(
        "At six in the morning, on Sundays at eight.",
        (TIMES, cite(1, TIMES, SENTENCE, "docs/ferry-north.md", page=3)),
        (NOTE, cite(2, NOTE, LETTER, "https://archive.example/1902")),
    ),
    "evil": answer(f"It says {EVIL}", (ATTACK, cite(1, ATTACK, EVIL, "javascript:window.hacked=1"))),
    # Two characters that JavaScript counts as two each, Python as one.
    "glyph": answer("\U00010900\U00010901 is Phoenician.", (NOTE, cite(1, NOTE, LETTER, ""))),
    "calendar": answer("朝六時", (CALENDAR, cite(1, CALENDAR, LUNAR, "file:///srv/secret/jp.txt"))),
    "gold": Answer("", verdict=Verdict.ABSTAINED, reason="no passage is close enough to the question"),
    "nugget": Answer(
        "",
        verdict=Verdict.UNATTAINABLE,
        reason="the share of wrong answers asked for is not attainable",
        closest=(
            Closest(
                "ferry-north.md",
                "The north ferry",
                "docs/ferry-north.md",
                0.534,
                SENTENCE,
                "Crossing > Times",
                3,
                0.412,
                TIMES.span,
            ),
            Closest("evil.html", EVIL, "javascript:window.hacked=1", 0.2, EVIL, EVIL, span=ATTACK.span),
        ),
    ),
    "long": answer("and so on " * 400),
}


class Scripted:
    """Answers by the first known word of the question, and fails as often as `failures` says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[Message]]] = []
        self.failures = 0
        self.cancelled = threading.Event()
        self.pace = 0.002

    def stream(self, question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
        self.asked.append((question, list(history)))
        if self.failures:
            self.failures -= 1
            raise EndpointFailed("the model does not answer", hint="Look into the log <b>of the model</b>.")
        result = next((a for word, a in ANSWERS.items() if word in question), ANSWERS["ferry"])
        try:
            yield Delta()
            for word in re.findall(r"\S+\s*", result.text):
                time.sleep(self.pace)
                yield Delta(word)
            yield Delta(answer=result)
        except GeneratorExit:
            self.cancelled.set()
            raise

    def retrieve(self, question: str, history: Sequence[Message] = (), view: View = EVERYTHING) -> list[ScoredChunk]:
        if "nothing" in question:
            return []
        return [ScoredChunk(TIMES, 0.8125, dense=0.654, lexical=7.25), ScoredChunk(ATTACK, 0.2, lexical=1.5)]


# The texts of the documents: what stands before and after their passages is filled up.
TEXTS = {
    source.document_id: "\U00010900" * 500 + "a" * 500 + source.text + "z" * after
    for source, after in ((TIMES, 70_000), (CALENDAR, 0), (NOTE, 10), (ATTACK, 100))
}


def document(id_: str, view: View) -> Document:
    if id_ not in TEXTS:
        raise UnknownDocument(f"the index holds no document {id_!r}")
    return Document(id_, f"docs/{id_}", id_, TEXTS[id_])


class Served:
    """The address of a running page, its pipeline, and what holds its loading back."""

    def __init__(self) -> None:
        self.url = ""
        self.pipeline = Scripted()
        self.load_now = threading.Event()
        self.load_error: Exception | None = None
        self.fillers = 0
        self.costs: Costs | None = None
        self.feedback: FeedbackSettings | None = None

    def load(self) -> Service:
        assert self.load_now.wait(30)
        if self.load_error is not None:
            raise self.load_error
        titles = ["The north ferry", "Letter of 1902", "Norrin head", "Kelp loaf", EVIL]
        rows = [IndexedDocument(f"{i}.md", title, f"docs/{i}.md", 9 + i, 4000) for i, title in enumerate(titles)]
        rows += [IndexedDocument(f"x{i}.md", f"Filler {i}", "", 0, 0) for i in range(self.fillers)]
        unused = None  # the page neither embeds nor counts
        return Service(
            self.pipeline,
            unused,
            unused,
            "qwen2.5-coder-0.5b-instruct",
            "all-MiniLM-L6-v2",
            lambda _: rows,
            document=document,
            changed=datetime(2026, 3, 5, 12, tzinfo=UTC),
            synced=lambda: datetime(2026, 3, 6, 13, 30, tzinfo=UTC),
            costs=self.costs,
        )


@contextlib.contextmanager
def running(served: Served, **settings) -> Iterator[Served]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    app = create_app(served.load, ServerSettings(**settings), feedback=served.feedback)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    served.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    try:
        yield served
    finally:
        served.load_now.set()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def chromium() -> str:
    """Where Chromium is; skips where it is not."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium was found: install one (Debian: apt-get install chromium) to test the page")


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    made.load_now.set()
    with running(made):
        yield made


@pytest.fixture
def page(browser, served):
    with opened(browser, served) as made:
        yield made


@contextlib.contextmanager
def opened(browser, served: Served, **context):
    """A page that must not log an error, break the content policy or ask anybody else for anything."""
    surroundings = (
        browser.new_context(viewport={"width": 1200, "height": 800}, **context)
        if not context.get("viewport")
        else browser.new_context(**context)
    )
    made = surroundings.new_page()
    complaints, strangers = [], []
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    made.on("request", lambda request: None if request.url.startswith(served.url) else strangers.append(request.url))
    made.goto(served.url)
    yield made
    assert made.evaluate("window.hacked") is None
    surroundings.close()
    assert [c for c in complaints if "Failed to load resource" not in c] == []  # an error status is told this way too
    assert strangers == []


def shoot(page, name: str, *, whole: bool = False) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=whole)


def ask(page, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.get_by_role("button", name="Ask").click()


def finished(page, turns: int = 1):
    """Wait for so many settled answers; gives the last turn."""
    expect(page.locator(".answer[aria-busy='false']")).to_have_count(turns)
    return page.locator(".turn").last


def test_an_answer_streams_and_shows_its_sources(page, served):
    expect(page.locator("#state-text")).to_have_text("qwen2.5-coder-0.5b-instruct")
    expect(page.locator("#welcome-index strong")).to_have_text("5 documents in 55 passages")
    shoot(page, "desktop-light-welcome")
    served.pipeline.pace = 0.25
    ask(page, "When does the first ferry leave?")
    text = page.locator(".answer-text")
    expect(text).to_contain_text("At six")
    assert "eight" not in text.inner_text()  # a part of the answer is there before the rest
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    shoot(page, "desktop-light-streaming")
    turn = finished(page)
    expect(turn.get_by_role("heading", level=2)).to_have_text("When does the first ferry leave?")
    expect(text).to_have_text("At six in the morning, on Sundays at eight.\u00a01\u00a02")
    cards = turn.get_by_role("listitem")
    expect(cards).to_have_count(2)
    expect(cards.first.locator(".source-title")).to_have_text("1The north ferry")
    start = 1000 + FERRY.index(SENTENCE)
    expect(cards.first.locator(".source-where")).to_have_text("Crossing > Times · page 3")
    expect(cards.first.locator("mark")).to_have_text(SENTENCE)
    expect(cards.first.locator(".source-uri")).to_have_text(
        f"docs/ferry-north.md · characters {start}–{start + len(SENTENCE)}"
    )
    expect(cards.first.get_by_role("link")).to_have_count(0)
    link = cards.last.get_by_role("link")
    expect(link).to_have_attribute("href", "https://archive.example/1902")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    figures = turn.locator(".figures p").first
    expect(figures).to_have_text(
        re.compile(
            r"^\d\.\d s · first words after \d\.\d s · 10 tokens, 9 per second · 2 passages read · "
            r"qwen2.5-coder-0.5b-instruct$"
        )
    )
    expect(page.locator("#announcer")).to_have_text("At six in the morning, on Sundays at eight. [1] [2] 2 sources.")
    shoot(page, "desktop-light-answer")


def test_marks_stand_where_they_belong_behind_characters_that_take_two_units(page):
    ask(page, "Which glyph?")
    text = finished(page).locator(".answer-text")
    expect(text).to_have_text("\U00010900\U00010901 is Phoenician.\u00a01")
    expect(text.get_by_role("link")).to_have_text("1")


def test_a_passage_opens_whole_and_closes_again(page):
    ask(page, "ferry?")
    card = finished(page).get_by_role("listitem").first
    quote = card.locator("blockquote")
    assert "crosses the sound" not in quote.inner_text()
    button = card.get_by_role("button", name="Show the whole passage")
    button.click()
    assert quote.text_content() == FERRY
    expect(quote.locator("mark")).to_have_text(SENTENCE)
    less = card.get_by_role("button", name="Show less")
    expect(less).to_have_attribute("aria-expanded", "true")
    less.click()
    assert "crosses the sound" not in quote.inner_text()


def test_a_passage_without_spaces_is_cut_all_the_same(page):
    ask(page, "calendar?")
    turn = finished(page)
    expect(turn.locator(".source-uri")).to_contain_text("jp.txt · characters")  # of the server's files no more
    quote = turn.locator("blockquote")
    assert quote.text_content() == "…" + "甲" * 160 + LUNAR + "乙" * 160 + "…"


def test_an_abstention_looks_calm_and_says_why(page):
    ask(page, "Where is the gold?")
    turn = finished(page)
    expect(turn.locator(".abstention-text")).to_have_text("The documents do not say.")
    expect(turn.locator(".abstention-why")).to_have_text("No passage is close enough to the question.")
    expect(turn.locator(".sources")).to_have_count(0)
    expect(turn.locator(".problem")).to_have_count(0)
    expect(page.locator("#announcer")).to_have_text("The documents do not say.")
    shoot(page, "desktop-light-abstention")


def test_a_refusal_shows_what_comes_closest_as_text(page):
    ask(page, "Where is the nugget?")
    turn = finished(page)
    expect(turn.locator(".abstention-text")).to_have_text("No answer here would be sure enough.")
    near = turn.locator(".closest .source")
    expect(near).to_have_count(2)
    expect(near.nth(0).locator(".source-title")).to_have_text("The north ferry")
    expect(near.nth(0).locator(".source-where")).to_have_text("Crossing > Times \u00b7 page 3")
    expect(near.nth(0).locator(".quote")).to_have_text(SENTENCE)
    expect(near.nth(0).locator(".source-uri")).to_have_text("docs/ferry-north.md \u00b7 similarity 0.41")
    expect(near.nth(1).locator(".source-uri")).to_have_text("javascript:window.hacked=1 \u00b7 score 0.20")
    expect(near.nth(1).locator(".source-title")).to_have_text(EVIL)
    expect(near.nth(1).locator(".quote")).to_have_text(EVIL)
    expect(near.locator("a")).to_have_count(0)
    assert page.evaluate("window.hacked") is None


def test_markup_from_documents_and_model_stays_text(page):
    ask(page, f"evil {EVIL}")
    turn = finished(page)
    expect(turn.get_by_role("heading", level=2)).to_have_text(f"evil {EVIL}")
    expect(turn.locator(".answer-text")).to_have_text(f"It says {EVIL}\u00a01")
    expect(turn.locator(".source-title")).to_have_text(f"1{EVIL}")
    expect(turn.locator("mark")).to_have_text(EVIL)
    expect(turn.locator(".source-uri")).to_contain_text("javascript:window.hacked=1")
    expect(turn.locator(".source-uri a")).to_have_count(0)
    expect(turn.locator("img, script")).to_have_count(0)
    assert page.evaluate("window.hacked") is None


def test_the_policy_forbids_markup_from_scripts(browser, served):
    page = browser.new_page()
    page.goto(served.url)
    thrown = page.evaluate("() => { try { document.body.innerHTML = '<b>x</b>' } catch (e) { return e.name } }")
    page.close()
    assert thrown == "TypeError"


def test_stopping_keeps_what_was_written_and_frees_the_model(page, served):
    served.pipeline.pace = 0.02
    ask(page, "a long one")
    expect(page.locator(".answer-text")).to_contain_text("and so on and")
    page.get_by_role("button", name="Stop").click()
    turn = finished(page)
    expect(turn.locator(".stopped")).to_have_text("Stopped.")
    assert served.pipeline.cancelled.wait(5)
    written = turn.locator(".answer-text").inner_text()
    assert len(written) < 3000
    page.wait_for_timeout(200)
    assert turn.locator(".answer-text").inner_text() == written
    ask(page, "ferry?")
    finished(page, 2)
    assert served.pipeline.asked[-1] == ("ferry?", [])  # half an answer is no part of the conversation


def test_an_error_is_readable_and_can_be_tried_again(page, served):
    served.pipeline.failures = 1
    ask(page, "ferry?")
    turn = finished(page)
    expect(turn.locator(".problem-text")).to_have_text("The model does not answer.")
    expect(turn.locator(".problem-hint")).to_have_text("Look into the log <b>of the model</b>.")
    shoot(page, "desktop-light-error")
    turn.get_by_role("button", name="Try again").click()
    expect(page.locator(".problem")).to_have_count(0)
    expect(finished(page).locator(".source")).to_have_count(2)
    expect(page.locator(".turn")).to_have_count(1)


def test_a_server_that_went_away_is_told(page, served):
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.route("**/ready", lambda route: route.abort())
    ask(page, "ferry?")
    turn = finished(page)
    expect(turn.locator(".problem-text")).to_have_text("The server does not answer.")
    expect(page.locator("#state-text")).to_have_text("No connection")
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()


def test_a_conversation_goes_along_until_a_new_chat(page, served):
    ask(page, "ferry?")
    finished(page)
    ask(page, "And on Sundays?")
    finished(page, 2)
    text = ANSWERS["ferry"].text
    assert served.pipeline.asked[1] == ("And on Sundays?", [Message("user", "ferry?"), Message("assistant", text)])
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_role("heading", name="Ask your documents")).to_be_visible()
    ask(page, "ferry again?")
    finished(page)
    assert served.pipeline.asked[2] == ("ferry again?", [])


def test_the_keyboard_is_enough(page, served):
    expect(page.get_by_label("Your question")).to_be_focused()
    expect(page.locator("#state")).to_have_attribute("data-status", "ready")
    page.keyboard.type("Which ferry")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("is first?")
    page.keyboard.press("Enter")
    turn = finished(page)
    assert served.pipeline.asked[0][0] == "Which ferry\nis first?"
    expect(page.get_by_label("Your question")).to_be_focused()
    # Back through the answer: copy, the second card's link, ..., up to the first mark, which leads to its source.
    for _ in range(20):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Source 1":
            break
    page.keyboard.press("Enter")
    expect(turn.locator(".source").first).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").locator("mark")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(turn.get_by_role("button", name="Open in the document").first).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(turn.get_by_role("button", name="Show less")).to_be_focused()
    # And an answer under way is stopped by Escape.
    served.pipeline.pace = 0.02
    page.get_by_label("Your question").focus()
    page.keyboard.type("a long one")
    page.keyboard.press("Enter")
    expect(page.locator(".answer-text").last).to_contain_text("and so")
    page.keyboard.press("Escape")
    expect(page.locator(".stopped")).to_have_count(1)
    page.keyboard.press("Control+Home")
    page.keyboard.type("x")
    expect(page.get_by_label("Your question")).to_have_value("x")


def test_shortcuts_need_two_modifiers_and_work_from_anywhere(page):
    ask(page, "ferry?")
    finished(page)
    page.keyboard.press("Alt+Shift+H")
    expect(page.get_by_role("dialog", name="Earlier chats")).to_be_visible()
    page.keyboard.press("Alt+Shift+N")  # not from within a dialog
    expect(page.locator(".turn")).to_have_count(1)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Documents").click()
    expect(page.get_by_role("heading", name="Documents", exact=True)).to_be_focused()
    page.keyboard.press("Alt+Shift+N")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_label("Your question")).to_be_focused()
    page.get_by_role("link", name="Documents").click()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_label("Your question")).to_be_focused()


def test_a_source_opens_its_document_at_the_quoted_span(page):
    ask(page, "ferry?")
    finished(page).get_by_role("button", name="Open in the document").first.click()
    reader = page.get_by_role("dialog", name="The north ferry")
    mark = reader.locator("mark")
    expect(mark).to_have_text(SENTENCE)  # behind 500 characters that JavaScript counts as two
    expect(mark).to_be_focused()
    expect(mark).to_be_in_viewport()
    expect(reader.locator("#reader-note")).to_have_text("")
    text = reader.locator("#reader-text")
    whole = TEXTS[TIMES.document_id]
    shown = text.text_content()
    assert whole.startswith(shown)
    assert len(shown) < len(whole)
    expect(reader.get_by_role("button", name="Show what comes before")).to_be_hidden()
    shoot(page, "desktop-light-reader")
    for _ in range(4):
        reader.get_by_role("button", name="Show what comes after").click()
        expect(reader.get_by_role("region")).to_be_focused()
        assert len(text.text_content()) > len(shown)
        shown = text.text_content()
    expect(reader.get_by_role("button", name="Show what comes after")).to_be_hidden()
    assert text.text_content() == whole
    reader.get_by_role("button", name="Close").click()
    expect(reader).to_be_hidden()


def test_what_comes_before_is_added_without_a_jump(page, monkeypatch):
    late = chunk("late.txt", LETTER, "Late")
    far = Span(30_000, 30_000 + len(LETTER))
    monkeypatch.setitem(TEXTS, "late.txt", "b" * 30_000 + LETTER + "c" * 10)
    found = Citation(1, "late.txt", "Late", "", late.id, far, LETTER)
    monkeypatch.setitem(ANSWERS, "late", Answer("Late.", (found,)))
    ask(page, "late?")
    finished(page).get_by_role("button", name="Open in the document").click()
    mark = page.get_by_role("dialog").locator("mark")
    expect(mark).to_be_in_viewport()
    page.locator("#reader-body").evaluate("e => e.scrollTop = 0")
    page.get_by_role("button", name="Show what comes before").click()
    expect(page.locator("#reader-body")).to_be_focused()
    assert len(page.locator("#reader-text").text_content()) > 25_000
    assert page.locator("#reader-body").evaluate("e => e.scrollTop") > 500
    page.get_by_role("button", name="Show what comes before").click()
    expect(page.get_by_role("button", name="Show what comes before")).to_be_hidden()
    assert page.locator("#reader-text").text_content() == TEXTS["late.txt"]
    expect(mark).to_have_text(LETTER)


def test_a_document_that_changed_or_went_is_told(page, monkeypatch):
    ask(page, "ferry?")
    turn = finished(page)
    monkeypatch.setitem(TEXTS, TIMES.document_id, "Another text. " * 200)
    turn.get_by_role("button", name="Open in the document").first.click()
    expect(page.locator("#reader-note")).to_contain_text("another one since it was quoted")
    page.keyboard.press("Escape")
    monkeypatch.delitem(TEXTS, TIMES.document_id)
    turn.get_by_role("button", name="Open in the document").first.click()
    expect(page.locator("#reader-note")).to_contain_text("The index holds no document 'ferry-north.md'.")
    expect(page.locator("#reader-text")).to_have_text("")


def test_markup_in_documents_stays_text_everywhere(page):
    ask(page, "evil?")
    finished(page).get_by_role("button", name="Open in the document").click()
    reader = page.get_by_role("dialog")
    expect(reader.get_by_role("heading")).to_have_text(EVIL)
    expect(reader.locator("mark")).to_have_text(EVIL)
    expect(reader.locator("a, img, script")).to_have_count(0)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Documents").click()
    page.get_by_label("Search the passages").fill(EVIL)
    page.keyboard.press("Enter")
    expect(page.locator("#hits .source-title").nth(1)).to_have_text(EVIL)
    expect(page.get_by_role("button", name=EVIL)).to_be_visible()
    page.get_by_role("button", name="History").click()
    expect(page.get_by_role("dialog").get_by_role("button", name="evil?", exact=True)).to_be_visible()
    expect(page.locator("main img, main script, dialog img, dialog script")).to_have_count(0)
    assert page.evaluate("window.hacked") is None


def test_the_documents_are_listed_with_sizes_and_the_last_sync(browser):
    served = Served()
    served.fillers = 230
    served.load_now.set()
    with running(served), opened(browser, served, timezone_id="UTC") as page:
        page.get_by_role("link", name="Documents").click()
        expect(page.get_by_label("Your question")).to_be_hidden()
        facts = page.locator("#facts")
        expect(facts).to_contain_text("Documents235")
        expect(facts).to_contain_text("Passages55")
        expect(facts).to_contain_text("Size20 kB")
        expect(facts).to_contain_text("Last sync6 Mar 2026, 13:30")
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(100)
        expect(rows.first).to_have_text("The north ferrydocs/0.md94.0 kB")
        shoot(page, "desktop-light-documents")
        more = page.get_by_role("button", name="Show more")
        more.click()
        expect(rows).to_have_count(200)
        expect(rows.nth(100).get_by_role("button")).to_be_focused()
        more.click()
        expect(rows).to_have_count(235)
        expect(more).to_be_hidden()
        page.reload()  # the address says which view it is
        expect(rows).to_have_count(100)
        page.go_back()
        expect(page.get_by_label("Your question")).to_be_visible()


def test_a_search_shows_passages_with_their_scores(page, served):
    page.get_by_role("link", name="Documents").click()
    page.get_by_label("Search the passages").fill("first ferry")
    page.get_by_role("button", name="Search").click()
    hits = page.locator("#hits .source")
    expect(hits).to_have_count(2)
    expect(page.locator("#found")).to_have_text(re.compile(r"^2 passages, best first, in \d+ ms\."))
    expect(hits.first.locator(".source-uri")).to_have_text(
        "ferry-north.md · score 0.813 · similarity 0.654 · keywords 7.25"
    )
    expect(hits.nth(1).locator(".source-uri")).to_have_text("evil.html · score 0.200 · keywords 1.50")
    assert served.pipeline.asked == []
    hits.first.get_by_role("button", name="Open in the document").click()
    assert page.get_by_role("dialog").locator("mark").text_content() == FERRY
    page.keyboard.press("Escape")
    shoot(page, "desktop-light-search")
    page.get_by_label("Search the passages").fill("nothing")
    page.keyboard.press("Enter")
    expect(page.locator("#found")).to_have_text("No passage was found.")
    expect(hits).to_have_count(0)


def test_figures_run_while_the_answer_comes_and_tell_the_cost_beside_the_baseline(browser):
    served = Served()
    # 1.8 s at 2 dollars an hour; 310 and 10 tokens at 30 and 60 dollars a million.
    served.costs = Costs(Prices(per_hour=2.0), Prices(None, 30.0, None, 60.0), "Large")
    served.load_now.set()
    served.pipeline.pace = 0.6  # six seconds, of which a busy machine may lose some
    with running(served), opened(browser, served) as page:
        ask(page, "ferry?")
        live = page.locator(".live")
        expect(live).to_have_text(re.compile(r"^\d\.\d s · first words after \d\.\d s · about \d+ tokens per second$"))
        seen = live.inner_text()
        page.wait_for_timeout(200)
        assert live.inner_text() != seen
        figures = finished(page).locator("footer.figures p").first
        expect(figures).to_contain_text("2 passages read · cost $0.001 · Large $0.0099, 9.9 times as much · qwen2.5")
        expect(live).to_have_count(0)


def test_chats_are_kept_in_the_browser_until_they_are_deleted(page, served):
    ask(page, "ferry?")
    finished(page)
    ask(page, "Where is the gold?")
    finished(page, 2)
    page.get_by_role("button", name="New chat").click()
    ask(page, "glyph?")
    finished(page)
    page.reload()  # the tab shows what it showed
    expect(page.locator(".asked")).to_have_text(["glyph?"])
    page.get_by_role("button", name="History").click()
    earlier = page.get_by_role("dialog", name="Earlier chats")
    expect(earlier.locator(".title")).to_have_text(["glyph?", "ferry?"])
    expect(earlier.locator("li").last).to_contain_text("2 questions")
    shoot(page, "desktop-light-history")
    earlier.get_by_role("button", name="ferry?", exact=True).click()
    expect(page.locator(".asked")).to_have_text(["ferry?", "Where is the gold?"])
    expect(page.locator(".source").first.locator("mark")).to_have_text(SENTENCE)
    expect(page.locator(".abstention-text")).to_have_text("The documents do not say.")
    page.get_by_role("link", name="Documents").click()
    page.get_by_role("button", name="History").click()
    earlier.get_by_role("button", name="ferry?", exact=True).click()  # from any view
    expect(page.locator(".asked")).to_have_text(["ferry?", "Where is the gold?"])
    ask(page, "And then?")  # it goes on where it was
    finished(page, 3)
    assert [m.content for m in served.pipeline.asked[-1][1]][::2] == ["ferry?", "Where is the gold?"]
    page.get_by_role("button", name="History").click()
    earlier.get_by_role("button", name="Delete: ferry?").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(earlier.locator(".title")).to_have_text(["glyph?"])
    earlier.get_by_role("button", name="Delete all").click()
    expect(earlier.get_by_text("There are none yet.")).to_be_visible()
    assert page.evaluate("localStorage.length") == 0


def test_kept_chats_are_bounded_and_what_is_damaged_is_dropped(page):
    kept = """n => {
      const reply = {content: "x".repeat(n), annotations: [], citations: [], closest: [], verdict: "answered"};
      const chat = (i) => ({id: `c${i}`, at: i, turns: [{question: `q${i}`, reply, figures: []}]});
      localStorage.setItem("smallhold-chats", JSON.stringify(Array.from({length: 40}, (_, i) => chat(40 - i))));
    }"""
    count = "JSON.parse(localStorage.getItem('smallhold-chats')).length"
    page.evaluate(kept, 10)
    ask(page, "ferry?")
    finished(page)
    assert page.evaluate(count) == 30
    page.evaluate(kept, 100_000)
    ask(page, "ferry?")
    finished(page, 2)
    assert 10 <= page.evaluate(count) <= 15
    assert page.evaluate("localStorage.getItem('smallhold-chats').length") <= 1_500_000
    for damaged in ("{", '{"a": 1}', "[null]", '[{"id": "c", "at": 1, "turns": [{"question": "q", "reply": {}}]}]'):
        page.evaluate("v => localStorage.setItem('smallhold-chats', v)", damaged)
        page.get_by_role("button", name="History").click()
        for title in page.locator("#chats .title").all():
            title.click()
        if page.locator("#chats").is_visible():
            page.keyboard.press("Escape")
        ask(page, "ferry?")
        finished(page, page.locator(".turn").count())


def test_answers_are_rated_where_the_server_takes_it(browser, tmp_path):
    served = Served()
    served.feedback = FeedbackSettings(enabled=True, file=tmp_path / "feedback.sqlite")
    served.load_now.set()
    book = FeedbackBook(served.feedback.file, 90)
    with running(served), opened(browser, served) as page:
        ask(page, "ferry?")
        turn = finished(page)
        down = turn.get_by_role("button", name="Not helpful")
        assert book.read() == []  # nothing is kept before a thumb is pressed
        down.click()
        expect(turn.get_by_role("status")).to_contain_text("kept on the server until")
        expect(down).to_have_attribute("aria-pressed", "true")
        (kept,) = book.read()
        assert (kept.question, kept.answer, kept.cited) == (
            "ferry?",
            ANSWERS["ferry"].text,
            ("ferry-north.md", "letters/1902.txt"),
        )
        assert kept.opinion == Opinion("down")
        shoot(page, "desktop-light-feedback")
        turn.get_by_label("What would have been right?").fill("At seven.")
        turn.get_by_label("Comment").fill("<b>Too early</b>")
        turn.get_by_role("button", name="Send").click()
        expect(turn.get_by_label("Comment")).to_be_hidden()
        assert [one.opinion for one in book.read()] == [Opinion("down", "<b>Too early</b>", "At seven.")]
        down.click()
        expect(turn.get_by_role("status")).to_have_text("Taken back: nothing is kept.")
        assert book.read() == []
        turn.get_by_role("button", name="Helpful", exact=True).click()
        expect(turn.get_by_label("Comment")).to_be_visible()
        expect(turn.get_by_label("What would have been right?")).to_have_count(0)
        assert [one.opinion.rating for one in book.read()] == ["up"]


def test_nothing_is_rated_where_the_server_does_not_take_it(page):
    ask(page, "ferry?")
    expect(finished(page).get_by_role("button", name="Helpful", exact=True)).to_have_count(0)


def test_an_empty_question_is_not_asked(page, served):
    expect(page.locator("#state")).to_have_attribute("data-status", "ready")
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    page.get_by_label("Your question").fill("   ")
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(0)
    assert served.pipeline.asked == []


def test_an_answer_is_copied_with_its_sources(browser, served):
    with opened(browser, served, permissions=["clipboard-read", "clipboard-write"]) as page:
        ask(page, "ferry?")
        finished(page).get_by_role("button", name="Copy answer").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == (
            "At six in the morning, on Sundays at eight. [1] [2]\n"
            "[1] The north ferry, page 3 (docs/ferry-north.md)\n"
            "[2] Letter of 1902 (https://archive.example/1902)"
        )


def test_the_page_waits_for_the_model(browser):
    served = Served()
    with running(served), opened(browser, served) as page:
        expect(page.locator("#state-text")).to_have_text("Loading the model")
        page.get_by_label("Your question").fill("ferry?")
        expect(page.get_by_role("button", name="Ask")).to_be_disabled()
        page.keyboard.press("Enter")
        expect(page.locator(".turn")).to_have_count(0)
        shoot(page, "desktop-light-loading")
        served.load_now.set()
        expect(page.get_by_role("button", name="Ask")).to_be_enabled()
        page.keyboard.press("Enter")
        finished(page)


def test_a_failed_loading_is_told_with_its_hint(browser):
    served = Served()
    served.load_error = IndexMissing("there is no index in .smallhold/index", hint="Make one: smallhold index PATH")
    served.load_now.set()
    with running(served), opened(browser, served) as page:
        expect(page.locator("#notice-text")).to_have_text("There is no index in .smallhold/index.")
        expect(page.locator("#notice-hint")).to_have_text("Make one: smallhold index PATH")
        expect(page.locator("#state-text")).to_have_text("Not ready")
        shoot(page, "desktop-light-failed")


def test_where_a_key_is_needed_the_page_asks_for_it_and_keeps_it_until_the_tab_is_closed(browser, tmp_path):
    keys = tmp_path / "keys.json"
    key = create_key(keys, "reader").text
    served = Served()
    served.load_now.set()
    with running(served, require_key=True, keys=keys), opened(browser, served) as page:
        field = page.get_by_label("API key", exact=True)
        expect(field).to_be_focused()
        expect(page.locator("#state-text")).to_have_text("An API key is needed")
        page.get_by_label("Your question").fill("ferry?")
        expect(page.get_by_role("button", name="Ask")).to_be_disabled()
        shoot(page, "desktop-light-key")
        field.fill("shk-00000000-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This key is not accepted.")
        field.fill(key)
        page.get_by_role("button", name="Use").click()
        expect(field).to_be_hidden()
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("#welcome-index strong")).to_have_text("5 documents in 55 passages")
        page.get_by_role("button", name="Ask").click()
        finished(page)
        page.reload()
        expect(page.locator("#state")).to_have_attribute("data-status", "ready")
        expect(field).to_be_hidden()
        # The key is in no place that outlives the tab; what it was answered is kept under its id.
        assert page.evaluate("[Object.keys(localStorage), document.cookie]") == [[f"smallhold-chats-{key[4:12]}"], ""]
        assert key not in page.evaluate("JSON.stringify(localStorage)")
        revoke_key(keys, "reader")
        ask(page, "ferry?")
        expect(finished(page, 2).locator(".problem-text")).to_have_text("This API key was revoked.")
        expect(field).to_be_focused()
        assert page.evaluate("sessionStorage.getItem('smallhold-key')") is None
        # And another key does not see them.
        field.fill(create_key(keys, "other").text)
        page.get_by_role("button", name="Use").click()
        expect(page.locator("#state")).to_have_attribute("data-status", "ready")
        expect(page.locator(".turn")).to_have_count(0)
        page.get_by_role("button", name="History").click()
        expect(page.get_by_text("There are none yet.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_phone_shows_everything_without_sideways_scrolling(browser, served, scheme):
    phone = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}
    with opened(browser, served, color_scheme=scheme, **phone) as page:
        shoot(page, f"phone-{scheme}-welcome")
        ask(page, "ferry?")
        finished(page)
        shoot(page, f"phone-{scheme}-answer")
        ask(page, "Where is the gold? " + "x" * 200)
        finished(page, 2)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for button in page.get_by_role("button").all():
            assert button.bounding_box()["height"] >= 32
        shoot(page, f"phone-{scheme}-whole", whole=True)
        page.get_by_role("button", name="Open in the document").first.click()
        expect(page.get_by_role("dialog").locator("mark")).to_be_in_viewport()
        shoot(page, f"phone-{scheme}-reader")
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="History").click()
        shoot(page, f"phone-{scheme}-history")
        page.keyboard.press("Escape")
        page.get_by_role("link", name="Documents").click()
        page.get_by_label("Search the passages").fill("ferry")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("#hits .source")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        shoot(page, f"phone-{scheme}-documents", whole=True)


def test_dark_follows_the_system(browser, served):
    with opened(browser, served, color_scheme="dark") as page:
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(21, 24, 22)"
        ask(page, "ferry?")
        finished(page)
        shoot(page, "desktop-dark-answer")
        ask(page, "Where is the gold?")
        finished(page, 2)
        shoot(page, "desktop-dark-abstention", whole=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, served, scheme):
    """WCAG 2 AA: a contrast of at least 4.5 for every piece of text, in both schemes."""
    with opened(browser, served, color_scheme=scheme) as page:
        for question in ("ferry?", "Where is the gold?"):
            ask(page, question)
            finished(page, 1 if question == "ferry?" else 2)
        served.pipeline.failures = 1
        ask(page, "ferry?")
        finished(page, 3)
        assert page.evaluate(CONTRAST) == []
        page.get_by_role("button", name="Open in the document").first.click()
        expect(page.get_by_role("dialog").locator("mark")).to_be_focused()
        assert page.evaluate(CONTRAST) == []
        page.keyboard.press("Escape")
        page.get_by_role("link", name="Documents").click()
        expect(page.locator("#rows tr")).to_have_count(5)
        page.get_by_label("Search the passages").fill("ferry")
        page.keyboard.press("Enter")
        expect(page.locator("#hits .source")).to_have_count(2)
        assert page.evaluate(CONTRAST) == []


# Lists the texts whose colour differs too little from the first opaque background behind them.
CONTRAST = """() => {
  const numbers = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || e.closest(".unseen, noscript, [hidden]") || e.disabled) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) low.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return low;
}"""

"""The chat page in a real Chromium, over a pipeline that answers by the words of the question."""

import contextlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import uvicorn

from rag.app import IndexedDocument, Service, create_app
from rag.config import ServerSettings
from rag.datatypes import Answer, Chunk, Citation, Closest, Delta, Message, ScoredChunk, Span, Usage, Verdict
from rag.errors import EndpointFailed, IndexMissing
from rag.filter import EVERYTHING, View
from rag.keys import create_key, revoke_key
from rag.pipeline import AskOptions

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
        timings={"retrieve": 0.02, "read": 0.4, "generate": 1.4},
        retrieved=tuple(ScoredChunk(source, 1.0) for source, _ in sources),
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
    "calendar": answer("朝六時", (CALENDAR, cite(1, CALENDAR, LUNAR, ""))),
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
            ),
            Closest("evil.html", EVIL, "javascript:window.hacked=1", 0.2, EVIL, EVIL),
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
        return []


class Served:
    """The address of a running page, its pipeline, and what holds its loading back."""

    def __init__(self) -> None:
        self.url = ""
        self.pipeline = Scripted()
        self.load_now = threading.Event()
        self.load_error: Exception | None = None

    def load(self) -> Service:
        assert self.load_now.wait(30)
        if self.load_error is not None:
            raise self.load_error
        titles = ["The north ferry", "Letter of 1902", "Norrin head", "Kelp loaf", EVIL]
        rows = [IndexedDocument(f"{i}.md", title, f"docs/{i}.md", 9 + i, 4000) for i, title in enumerate(titles)]
        unused = None  # the page neither embeds nor counts
        return Service(self.pipeline, unused, unused, "qwen2.5-coder-0.5b-instruct", "all-MiniLM-L6-v2", lambda _: rows)


@contextlib.contextmanager
def running(served: Served, **settings) -> Iterator[Served]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    app = create_app(served.load, ServerSettings(**settings))
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
    figures = turn.locator(".figures p")
    expect(figures).to_have_text(
        re.compile(r"^\d\.\d s · first words after \d\.\d s · 10 tokens, 9 per second · qwen2.5-coder-0.5b-instruct$")
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
    quote = finished(page).locator("blockquote")
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
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        revoke_key(keys, "reader")
        ask(page, "ferry?")
        expect(finished(page).locator(".problem-text")).to_have_text("This API key was revoked.")
        expect(field).to_be_focused()
        assert page.evaluate("sessionStorage.length") == 0


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
        low = page.evaluate(CONTRAST)
        assert low == []


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

"""The chat page in a real Chromium over a pipeline that answers by the words of the question: what its tests share."""

import contextlib
import dataclasses
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
from rag.cost import Costs
from rag.datatypes import (
    Answer,
    Chunk,
    Citation,
    Closest,
    Delta,
    Document,
    Elsewhere,
    Message,
    ScoredChunk,
    Span,
    Usage,
    Verdict,
)
from rag.errors import EndpointFailed, UnknownDocument
from rag.filter import EVERYTHING, View
from rag.options import AskOptions

sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
expect = sync_api.expect
expect.set_options(timeout=15_000)  # ms; a busy machine needs more than the 5 s that are usual

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
# Where the ferry's sentence stands, too: in a presentation, under a hostile name, and in further copies.
COPIES = (
    Elsewhere("plan.pptx", "Summer plan", "docs/plan.pptx", "plan.pptx#4", Span(700, 700 + len(SENTENCE)), 4),
    Elsewhere("evil.html", EVIL, "javascript:window.hacked=1", "evil.html#0", Span(0, 5)),
    *(Elsewhere(f"copy-{i}.txt", f"Copy {i}", f"https://archive.example/{i}", "", Span(0, 9)) for i in range(3)),
)
# Nothing in it can be broken where people break lines.
WIDE = "https://archive.example/" + "a/very%20long/path-" * 30 + " return" + "".join(f"(x{i}_" for i in range(80))
CODE = chunk("src/" + "deep/" * 30 + "wide.py", WIDE, "Wide" * 60, headings="Section" * 60)
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
    "copy": answer(
        "At six.", (TIMES, dataclasses.replace(cite(1, TIMES, SENTENCE, "docs/ferry-north.md"), also_in=COPIES))
    ),
    "wide": answer(WIDE, (CODE, cite(1, CODE, WIDE, WIDE.split()[0]))),
    "long": answer("and so on " * 400),
}


class Scripted:
    """Answers by the first known word of the question, and fails as often as `failures` says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[Message]]] = []
        self.failures = 0
        self.cancelled = threading.Event()
        self.pace = 0.002
        self.hold = threading.Event()  # nothing is answered while it is cleared
        self.hold.set()

    def stream(self, question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
        self.asked.append((question, list(history)))
        if self.failures:
            self.failures -= 1
            raise EndpointFailed("the model does not answer", hint="Look into the log <b>of the model</b>.")
        result = next((a for word, a in ANSWERS.items() if word in question), ANSWERS["ferry"])
        try:
            yield Delta()
            assert self.hold.wait(30)
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
        if "wide" in question:
            return [ScoredChunk(CODE, 0.5, also_in=(CODE,))]
        copies = (NOTE, ATTACK) if "copies" in question else ()
        return [
            ScoredChunk(TIMES, 0.8125, dense=0.654, lexical=7.25, also_in=copies),
            ScoredChunk(ATTACK, 0.2, lexical=1.5),
        ]


# The texts of the documents: what stands before and after their passages is filled up.
TEXTS = {
    source.document_id: "\U00010900" * 500 + "a" * 500 + source.text + "z" * after
    for source, after in ((TIMES, 70_000), (CALENDAR, 0), (NOTE, 10), (ATTACK, 100), (CODE, 0))
} | {"plan.pptx": "p" * 700 + SENTENCE + "q" * 9}


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
        self.server: uvicorn.Server | None = None

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

    def cut(self) -> None:
        """Break every connection off, as a server that is killed does."""
        for connection in list(self.server.server_state.connections):
            self.server.servers[0].get_loop().call_soon_threadsafe(connection.transport.abort)


@contextlib.contextmanager
def running(served: Served, **settings) -> Iterator[Served]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    app = create_app(served.load, ServerSettings(**settings), feedback=served.feedback)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=2))
    served.server = server
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


# Lists the texts whose colour differs too little from the first opaque background behind them, as they are and with
# what shines through them; and those that change by themselves, which no single look can judge.
CONTRAST = """() => {
  const numbers = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ancestors = (element) => {
    const all = [];
    for (let e = element; e; e = e.parentElement) all.push(e);
    return all;
  };
  const ground = (element) => {
    for (const e of ancestors(element)) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  const look = (e, text, style) => {
    const behind = ground(e);
    const [r, g, b, alpha = 1] = numbers(style.color);
    const opacities = ancestors(e).map((one) => Number(getComputedStyle(one).opacity));
    const part = opacities.reduce((all, one) => all * one, alpha * Number(style.opacity));
    const seen = [r, g, b].map((c, i) => c * part + behind[i] * (1 - part));
    const [a, z] = [light(seen), light(behind)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (z + 0.05);
    if (contrast < 4.5) low.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
    if (ancestors(e).some((one) => one.getAnimations().length)) low.push(`${text.slice(0, 40)}: moves`);
  };
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest(".unseen, noscript, [hidden]") || e.disabled || !e.checkVisibility()) continue;
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (text) look(e, text, getComputedStyle(e));
    if (e.placeholder) look(e, e.placeholder, getComputedStyle(e, "::placeholder"));
  }
  return low;
}"""

"""The chat page for everyone: by keyboard, read aloud, on a phone, in the dark, on paper, without motion or storage."""

import pytest

from rag.config import FeedbackSettings
from rag.keys import create_key
from tests import page_fakes
from tests.page_fakes import CONTRAST, WIDE, Served, ask, expect, finished, opened, running, shoot

pytestmark = pytest.mark.browser
browser, served, page = page_fakes.browser, page_fakes.served, page_fakes.page  # fixtures


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


def test_the_button_that_stops_leaves_the_focus_where_something_can_be_done(page, served):
    served.pipeline.pace = 0.02
    ask(page, "a long one")
    expect(page.locator(".answer-text").last).to_contain_text("and so")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".stopped")).to_have_count(1)
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    expect(page.get_by_label("Your question")).to_be_focused()


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_where_it_waits_asks_and_complains(browser, scheme, tmp_path):
    served = Served()
    served.feedback = FeedbackSettings(enabled=True, file=tmp_path / "feedback.sqlite")
    served.pipeline.pace = 0.02
    with running(served, require_key=True, keys=tmp_path / "keys.json"):
        key = create_key(tmp_path / "keys.json", "reader").text
        with opened(browser, served, color_scheme=scheme) as page:
            page.get_by_label("API key", exact=True).fill("shk-00000000-wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_be_visible()
            assert page.evaluate(CONTRAST) == []
            page.get_by_label("API key", exact=True).fill(key)
            page.keyboard.press("Enter")
            expect(page.locator("#state-text")).to_have_text("Loading the model")
            assert page.evaluate(CONTRAST) == []
            served.load_now.set()
            served.pipeline.hold.clear()
            ask(page, "copy, a nugget?")
            expect(page.locator(".progress")).to_be_visible()
            assert page.evaluate(CONTRAST) == []
            served.pipeline.hold.set()
            finished(page).get_by_role("button", name="Not helpful").click()
            expect(page.get_by_label("Comment")).to_be_visible()
            ask(page, "a long one")
            expect(page.locator(".answer-text").last).to_contain_text("and so on")
            assert page.evaluate(CONTRAST) == []
            page.keyboard.press("Escape")
            ask(page, "Where is the nugget?")
            finished(page, 3)
            assert page.evaluate(CONTRAST) == []
            page.get_by_role("button", name="History").click()
            assert page.evaluate(CONTRAST) == []


LOW = {"desk at 400 %": (320, 256), "phone on its side": (740, 360)}
WINDOWS = {"desk": (1200, 800), "phone": (360, 640), **LOW}

# What has the focus: its words, whether that can be seen by an outline, and what lies over its middle, if anything.
FOCUSED = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const box = e.getBoundingClientRect();
  const top = document.elementFromPoint(
    Math.min(Math.max(box.x + box.width / 2, 0), innerWidth - 1), box.y + Math.min(box.height / 2, 20));
  const outlined = [e, e.closest(".composer-box")].some((o) => o && getComputedStyle(o).outlineStyle !== "none");
  const covered = e.contains(top) || top?.contains(e) ? "" : (top?.className || top?.tagName || "off the screen");
  return {name: e.ariaLabel || e.innerText || e.id, tag: e.tagName, outlined, covered};
}"""


def to_the_top(page) -> None:
    """Let the next Tab lead to the first stop, as after the page was loaded."""
    page.evaluate("() => { const b = document.body; b.tabIndex = -1; b.focus(); b.removeAttribute('tabindex'); }")


def walk(page, key: str, stops: int) -> list[dict]:
    """Press a key so many times; gives what had the focus."""
    there = []
    for _ in range(stops):
        page.keyboard.press(key)
        there.append(page.evaluate(FOCUSED))
    return there


@pytest.mark.parametrize("window", LOW)
def test_a_low_window_is_left_to_what_is_read(browser, served, window):
    size = dict(zip(("width", "height"), LOW[window], strict=True))
    with opened(browser, served, viewport=size) as page:
        ask(page, "ferry?")
        finished(page)
        page.get_by_role("link", name="Source 1").click()
        rows = "[...Array(innerHeight).keys()].map((y) => document.elementFromPoint(innerWidth / 2, y))"
        read = page.evaluate(f"{rows}.filter((e) => e && document.getElementById('main').contains(e)).length")
        assert read >= 0.65 * size["height"]
        shoot(page, f"low-{size['width']}")


@pytest.mark.parametrize("window", WINDOWS)
def test_every_stop_of_the_keyboard_shows_and_is_covered_by_nothing(browser, served, window):
    size = dict(zip(("width", "height"), WINDOWS[window], strict=True))
    with opened(browser, served, viewport=size) as page:
        for turn, question in enumerate(["copy?", "Where is the nugget?", "ferry?"], 1):
            ask(page, question)
            finished(page, turn)
        to_the_top(page)
        there = walk(page, "Tab", 24)
        names = [stop["name"] for stop in there]
        assert names[:6] == ["Skip to the question", "Chat", "Documents", "History", "New chat", "Source 1"]
        assert names[-2:] == ["Copy answer", "question"]  # the last: Ask is disabled while nothing is written
        back = walk(page, "Shift+Tab", 23)
        assert [stop["name"] for stop in back] == names[-2::-1]
        assert [stop for stop in [*there, *back] if not stop["outlined"] or stop["covered"]] == []
        page.get_by_role("link", name="Documents").click()
        page.get_by_label("Search the passages").fill("copies")
        page.keyboard.press("Enter")
        expect(page.locator("#hits .source")).to_have_count(2)
        there = walk(page, "Tab", 10)  # the hits, and the list below them
        assert [stop for stop in there if not stop["outlined"] or stop["covered"]] == []


def test_the_skip_link_leads_to_the_question_from_any_view(page):
    ask(page, "ferry?")
    finished(page)
    for view, shown in (("Documents", "#documents-title"), ("Chat", "#chat-view")):
        page.get_by_role("link", name=view, exact=True).click()
        expect(page.locator(shown)).to_be_visible()
        if view == "Documents":  # its heading takes the focus, some time after the click
            expect(page.locator(shown)).to_be_focused()
        to_the_top(page)
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the question")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport(ratio=1)
        page.keyboard.press("Enter")
        expect(page.get_by_label("Your question")).to_be_focused()
    expect(page.locator(".turn")).to_have_count(1)


def test_everything_has_a_name_and_headings_a_level_below_the_one_before(page):
    ask(page, "copy?")
    finished(page)
    ask(page, "Where is the nugget?")
    finished(page, 2)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    said = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"] and "role" in node
    ]
    named = {"button", "link", "textbox", "searchbox", "article", "region", "navigation", "form", "dialog", "heading"}
    assert [role for role, name in said if role in named and not name.strip()] == []
    assert {"banner", "navigation", "main", "article", "heading", "textbox", "status"} <= {role for role, _ in said}
    assert ("article", "copy?") in said
    headings = "[...document.querySelectorAll('h1,h2,h3')].filter((h) => h.checkVisibility()).map((h) => h.tagName)"
    assert page.evaluate(headings) == ["H1", "H2", "H3", "H2", "H3"]
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_an_answer_is_read_out_once_and_whole(page, served):
    page.evaluate("""() => {
      window.said = [];
      const heard = () => said.push(document.getElementById("announcer").textContent);
      new MutationObserver(heard).observe(document.getElementById("announcer"), {childList: true});
    }""")
    served.pipeline.pace = 0.02
    ask(page, "ferry?")
    turn = finished(page)
    assert page.evaluate("said") == [
        "Reading the documents",
        "At six in the morning, on Sundays at eight. [1] [2] 2 sources.",
    ]
    # Words that come one by one, and figures that change ten times a second, are in no live region.
    assert turn.evaluate("e => e.closest('[aria-live], [role=status]') || e.querySelector('[aria-live]')") is None


def test_where_motion_is_unwanted_nothing_moves(browser, served):
    moving = "document.getAnimations().length"
    served.pipeline.pace = 0.05
    with opened(browser, served) as page:
        ask(page, "a long one")
        expect(page.locator(".answer-text")).to_contain_text("and so on")
        assert page.evaluate(moving) == 1
        page.keyboard.press("Escape")
    with opened(browser, served, reduced_motion="reduce") as page:
        ask(page, "a long one")
        expect(page.locator(".answer-text")).to_contain_text("and so on")
        assert page.evaluate(moving) == 0
        page.keyboard.press("Escape")


def test_paper_gets_what_was_said_and_nothing_to_press(browser, served):
    with opened(browser, served, color_scheme="dark") as page:
        ask(page, "copy?")
        finished(page)
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate(CONTRAST) == []
        expect(page.locator(".source mark")).to_be_visible()
        for gone in (".composer", ".bar", ".source-buttons button", ".actions button"):
            expect(page.locator(gone).first).to_be_hidden()
        expect(page.get_by_text("Summer plan")).to_be_visible()  # where it stands, too, though that opens it
        shoot(page, "print", whole=True)


@pytest.mark.parametrize("width", [320, 360])  # 320: a desktop's window at 400 %
def test_what_cannot_be_broken_is_broken_all_the_same(browser, served, width):
    fits = """[document.documentElement.scrollWidth,
      ...[...document.querySelectorAll("dialog[open] .sheet-body")].map((e) => e.scrollWidth - e.clientWidth)]"""
    with opened(browser, served, viewport={"width": width, "height": 740}) as page:
        ask(page, "wide " + "w" * 300)
        finished(page)
        assert page.evaluate(fits) == [width]
        shoot(page, f"phone-{width}-wide", whole=True)
        page.get_by_role("button", name="Open in the document").click()
        expect(page.get_by_role("dialog").locator("mark")).to_have_text(WIDE)
        assert page.evaluate(fits) == [width, 0]
        page.keyboard.press("Escape")
        page.get_by_role("button", name="History").click()
        assert page.evaluate(fits) == [width, 0]
        page.keyboard.press("Escape")
        page.get_by_role("link", name="Documents").click()
        page.get_by_label("Search the passages").fill("wide")
        page.keyboard.press("Enter")
        expect(page.locator("#hits .source")).to_have_count(1)
        assert page.evaluate(fits) == [width]


# Storage as browsers have it whose settings forbid it, and as it is where other pages of the address took all room.
FORBIDDEN = """for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, {get() { throw new DOMException("denied", "SecurityError"); }});"""
FULL = 'Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };'

# As after a crash of the browser, when what holds it is damaged: it is there, and nothing can be done with it.
BROKEN = """for (const name of ["getItem", "setItem", "removeItem"])
  Storage.prototype[name] = () => { throw new DOMException("corrupted", "UnknownError"); };"""


@pytest.mark.parametrize("storage", [FORBIDDEN, FULL, BROKEN], ids=["forbidden", "full", "broken"])
def test_without_storage_everything_works_until_the_page_is_left(browser, storage, tmp_path):
    keys = tmp_path / "keys.json"
    key = create_key(keys, "reader").text
    served = Served()
    served.load_now.set()
    with running(served, require_key=True, keys=keys), opened(browser, served) as page:
        page.add_init_script(storage)
        page.reload()
        page.get_by_label("API key", exact=True).fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_attribute("data-status", "ready")
        ask(page, "ferry?")
        finished(page)
        ask(page, "And on Sundays?")
        finished(page, 2)
        assert len(served.pipeline.asked[1][1]) == 2
        page.get_by_role("button", name="History").click()
        expect(page.get_by_role("dialog")).to_contain_text("gone when the page is closed")
        if storage is not FULL:  # then it is kept by the page itself
            page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="New chat").click()
        expect(page.locator(".turn")).to_have_count(0)
        page.reload()
        expect(page.get_by_label("API key", exact=True)).to_be_focused()


def test_what_has_no_spaces_widens_no_page(browser, served):
    with opened(browser, served, viewport={"width": 360, "height": 740}) as page:
        page.evaluate(
            """() => {
              const long = "path/of_a_document/".repeat(30);
              const at = (id) => document.getElementById(id);
              for (const id of ["welcome-index", "notice-text", "notice-hint"]) at(id).textContent = long;
              at("notice").hidden = false;
              for (const name of ["understood", "unsupported", "figures"]) {
                const line = document.createElement("p");
                line.className = name;
                line.textContent = long;
                at("turns").append(line);
              }
            }"""
        )
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_script_from_right_to_left_begins_on_the_right(browser, served):
    with opened(browser, served) as page:
        ask(page, "\u05de\u05ea\u05d9 ferry?")
        asked = finished(page).locator(".asked")
        first, last, edge = asked.evaluate(
            """heading => {
              const left = (at) => {
                const range = document.createRange();
                range.setStart(heading.firstChild, at);
                range.setEnd(heading.firstChild, at + 1);
                return range.getBoundingClientRect().right;
              };
              const text = heading.textContent;
              return [left(0), left(text.length - 1), heading.getBoundingClientRect().right];
            }"""
        )
        assert last < first
        assert abs(first - edge) < 2


def test_the_enter_that_ends_a_composition_asks_nothing(browser, served):
    """Safari tells of it when the composition is over, with the key code 229."""
    with opened(browser, served) as page:
        page.get_by_label("Your question").fill("ferry?")
        page.get_by_label("Your question").evaluate(
            "box => box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', keyCode: 229, bubbles: true}))"
        )
        expect(page.locator(".turn")).to_have_count(0)
        page.keyboard.press("Enter")
        expect(page.locator(".turn")).to_have_count(1)

"""The chat page in a real Chromium: what it shows of answers, sources, documents, chats, and of what goes wrong."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import pytest

from rag.config import FeedbackSettings
from rag.cost import Costs, Prices
from rag.datatypes import Answer, Citation, Delta, Message, Span
from rag.errors import IndexMissing, ModelDied
from rag.feedback import FeedbackBook, Opinion
from rag.keys import create_key, revoke_key
from rag.options import AskOptions
from tests import page_fakes
from tests.page_fakes import (
    ANSWERS,
    EVIL,
    FERRY,
    LETTER,
    LUNAR,
    SENTENCE,
    TEXTS,
    TIMES,
    Served,
    ask,
    chunk,
    expect,
    finished,
    opened,
    running,
    shoot,
)

pytestmark = pytest.mark.browser
browser, served, page = page_fakes.browser, page_fakes.served, page_fakes.page  # fixtures


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


def test_a_source_names_the_other_documents_that_hold_it_and_opens_them(page):
    ask(page, "copy?")
    card = finished(page).locator(".source")
    also = card.locator(".also")
    expect(also.locator("p").first).to_have_text("The same words stand in 5 other places")
    expect(also.get_by_role("listitem")).to_have_text(
        [
            "Summer plandocs/plan.pptx \u00b7 slide 4",
            f"{EVIL}javascript:window.hacked=1",
            "Copy 0https://archive.example/0",
        ]
    )
    expect(also.locator("img, script, a[href^='javascript']")).to_have_count(0)
    shoot(page, "desktop-light-also")
    also.get_by_role("button", name="Show 2 more").click()
    expect(also.get_by_role("button", name="Copy 1")).to_be_focused()
    expect(also.get_by_role("listitem")).to_have_count(5)
    also.get_by_role("button", name="Summer plan").click()
    reader = page.get_by_role("dialog", name="Summer plan")
    expect(reader.locator("mark")).to_have_text(SENTENCE)
    expect(reader.locator("#reader-note")).to_have_text("")
    page.keyboard.press("Escape")
    expect(also.get_by_role("button", name="Summer plan")).to_be_focused()
    page.reload()  # what is kept of the chat names them, too
    expect(page.locator(".also").get_by_role("listitem")).to_have_count(3)


def test_code_is_quoted_as_it_is_indented(page, monkeypatch):
    code = "def fare(age):\n    if age < 7:\n\treturn 0"
    source = chunk("fare.py", f"import ferry\n\n{code}\n", "fare.py")
    monkeypatch.setitem(
        ANSWERS, "fare", page_fakes.answer("Nothing.", (source, page_fakes.cite(1, source, code, "src/fare.py")))
    )
    ask(page, "fare of a child?")
    assert code in finished(page).locator("blockquote").inner_text()


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


def test_a_connection_that_breaks_in_mid_answer_leaves_what_came_and_a_way_on(page, served, monkeypatch):
    served.pipeline.pace = 0.02
    ask(page, "a long one")
    expect(page.locator(".answer-text")).to_contain_text("and so on and")
    served.cut()
    turn = finished(page)
    expect(turn.locator(".problem-text")).to_have_text("The connection was lost.")
    expect(turn.locator(".answer-text")).to_contain_text("and so on and")
    assert served.pipeline.cancelled.wait(5)
    monkeypatch.setitem(ANSWERS, "long", ANSWERS["ferry"])
    turn.get_by_role("button", name="Try again").click()
    expect(finished(page).locator(".problem")).to_have_count(0)
    # One that ends without a word is no whole answer either.
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body="", content_type="text/event-stream"))
    ask(page, "ferry?")
    expect(finished(page, 2).locator(".problem-text")).to_have_text("The answer broke off.")


def test_a_model_that_dies_in_mid_answer_is_told_and_the_server_is_looked_at(page, served, monkeypatch):
    def dies(question: str, history: Sequence[Message], options: AskOptions) -> Iterator[Delta]:
        yield Delta("At six")
        raise ModelDied("the process that ran the model died of SIGSEGV", hint="Try again in a moment.")

    expect(page.locator("#state")).to_have_attribute("data-status", "ready")
    monkeypatch.setattr(served.pipeline, "stream", dies)
    with page.expect_request("**/ready"):
        ask(page, "ferry?")
    turn = finished(page)
    expect(turn.locator(".answer-text")).to_have_text("At six")
    expect(turn.locator(".problem-text")).to_have_text("The process that ran the model died of SIGSEGV.")
    expect(turn.get_by_role("button", name="Try again")).to_be_visible()


def test_a_hundred_messages_are_shown_and_the_last_of_them_sent(page, served):
    page.evaluate("""() => {
      const reply = {content: "At six. [1]", annotations: [], citations: [], closest: [], verdict: "answered"};
      const turns = Array.from({length: 50}, (_, i) => ({question: `q${i}`, reply, figures: ["1.0 s"]}));
      localStorage.setItem("smallhold-chats", JSON.stringify([{id: "c", at: 1, turns}]));
      sessionStorage.setItem("smallhold-chat", "c");
    }""")
    page.reload()
    expect(page.locator(".asked")).to_have_count(50)
    expect(page.locator(".asked").last).to_be_in_viewport()
    ask(page, "ferry?")
    expect(finished(page, 51).locator(".asked")).to_be_in_viewport()
    assert [m.content for m in served.pipeline.asked[0][1]][::2] == [f"q{i}" for i in range(40, 50)]
    kept = page.evaluate("JSON.parse(localStorage.getItem('smallhold-chats'))[0].turns.map((turn) => turn.question)")
    assert kept == [*(f"q{i}" for i in range(11, 50)), "ferry?"]


def test_a_follow_up_tells_what_it_was_understood_as(page, monkeypatch):
    asked = "When does the <b>first</b> ferry leave on Sundays?"
    monkeypatch.setitem(ANSWERS, "Sundays", dataclasses.replace(ANSWERS["ferry"], question=asked))
    monkeypatch.setitem(ANSWERS, "again", dataclasses.replace(ANSWERS["ferry"], question="ferry again?"))
    ask(page, "And on Sundays?")
    expect(finished(page).locator(".understood")).to_have_text(f"Understood as: {asked}")
    ask(page, "ferry again?")
    expect(finished(page, 2).locator(".understood")).to_have_count(0)
    page.reload()
    expect(page.locator(".understood")).to_have_text([f"Understood as: {asked}"])


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


def test_pressed_twice_what_comes_after_comes_once(page, monkeypatch):
    monkeypatch.setitem(TEXTS, "docs/ferry-north.md", "x" * 1000 + FERRY + " line" * 20_000)
    ask(page, "ferry?")
    finished(page).get_by_role("button", name="Open in the document").first.click()
    reader = page.get_by_role("dialog", name="The north ferry")
    expect(reader.locator("mark")).to_have_text(SENTENCE)
    before = len(reader.locator("#reader-text").text_content())
    page.evaluate("[1, 2].forEach(() => document.getElementById('reader-later').click())")
    expect(reader.locator("#reader-body")).to_be_focused()
    page.wait_for_timeout(500)
    assert len(reader.locator("#reader-text").text_content()) == before + 20_000


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


def test_a_list_that_comes_after_it_was_cleared_is_not_shown(page):
    """As where its key was refused meanwhile: the next one may not see the same documents."""
    shown = """async (cleared) => {
      const { Library } = await import("/static/library.js");
      const library = new Library({ onTrouble: () => {} });
      const listing = library.show();
      if (cleared) library.clear();
      await listing;
      return document.getElementById("rows").childElementCount;
    }"""
    assert page.evaluate(shown, False) == 5
    assert page.evaluate(shown, True) == 0


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
    page.get_by_label("Search the passages").fill("copies")
    page.keyboard.press("Enter")
    also = hits.first.locator(".also")
    expect(also.locator("p").first).to_have_text("The same is said in 2 other places")
    expect(also.get_by_role("listitem")).to_have_text(["Letter of 1902letters/1902.txt", f"{EVIL}evil.html"])
    also.get_by_role("button", name="Letter of 1902").click()
    assert page.get_by_role("dialog").locator("mark").text_content() == LETTER
    page.keyboard.press("Escape")
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


def test_two_tabs_with_one_chat_overwrite_nothing(page):
    ask(page, "ferry?")
    finished(page)
    other = page.context.new_page()  # a tab that is duplicated has a copy of the tab's storage
    other.goto(page.url)
    other.evaluate(
        "id => sessionStorage.setItem('smallhold-chat', id)", page.evaluate("sessionStorage['smallhold-chat']")
    )
    other.reload()
    expect(other.locator(".turn")).to_have_count(1)
    for tab, question in ((other, "Which glyph?"), (page, "calendar?"), (other, "copy?")):
        turns = tab.locator(".turn").count()
        ask(tab, question)
        finished(tab, turns + 1)
    kept = page.evaluate("JSON.parse(localStorage['smallhold-chats'])")
    asked = sorted([turn["question"] for turn in chat["turns"]] for chat in kept)
    assert asked == [["ferry?", "Which glyph?", "copy?"], ["ferry?", "calendar?"]]


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
        expect(down).to_be_focused()
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


def test_an_answer_is_copied_where_the_page_came_by_http_from_another_machine(page):
    """There browsers have no clipboard to write to; whoever does not see the button is told all the same."""
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined});")
    page.reload()
    ask(page, "ferry?")
    finished(page).get_by_role("button", name="Copy answer").click()
    copied = page.get_by_role("button", name="Copied")
    expect(copied).to_be_focused()
    expect(page.locator("#announcer")).to_have_text("Copied")
    expect(page.locator("textarea")).to_have_count(1)  # what was selected to be copied has gone
    page.get_by_label("Your question").focus()
    page.keyboard.press("Control+V")
    expect(page.get_by_label("Your question")).to_have_value(re.compile(r"^At six .+\n\[1\] The north ferry"))


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


def test_what_a_proxy_says_in_the_servers_place_costs_no_key(browser, tmp_path):
    keys = tmp_path / "keys.json"
    key = create_key(keys, "reader").text
    served = Served()
    served.load_now.set()
    with running(served, require_key=True, keys=keys), opened(browser, served) as page:
        field = page.get_by_label("API key", exact=True)
        # A slow answer to a wrong key comes after the right one was given.
        late = []

        def hold(route):
            if "wrong" in route.request.headers.get("authorization", ""):
                late.append(route)
            else:
                route.continue_()

        page.route("**/ready", hold)
        field.fill("shk-00000000-wrong")
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
        assert len(late) == 1
        field.fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_attribute("data-status", "ready")
        late[0].continue_()
        page.wait_for_timeout(300)
        expect(field).to_be_hidden()
        # Down for a while, behind a proxy that says so in JSON of its own.
        page.unroute("**/ready")
        page.route("**/ready", lambda route: route.fulfill(status=502, json={"message": "no upstream"}))
        page.reload()
        expect(page.locator("#state-text")).to_have_text("No connection")
        expect(page.locator("#notice-text")).to_have_text("What answers in the server's place says 502.")
        expect(field).to_be_hidden()
        page.unroute("**/ready")
        expect(page.locator("#state")).to_have_attribute("data-status", "ready")


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

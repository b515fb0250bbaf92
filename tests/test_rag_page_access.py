"""The chat page for everyone: by keyboard, read aloud, on a phone, in the dark, on paper, without motion or storage."""

import pytest

from tests import page_fakes
from tests.page_fakes import CONTRAST, ask, expect, finished, opened, shoot

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

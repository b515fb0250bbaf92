"""The review page in a real browser."""

import json
from pathlib import Path

import pytest

from eval.qaset import load_qaset
from eval.synth_set import REVIEW, apply_decisions
from tests.page_fakes import FLAGS, chromium, sync_api
from tests.test_eval_synth import Writer, make

pytestmark = pytest.mark.browser


def test_a_person_decides_saves_and_applies(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    make(folder, Writer(), questions=4)
    ids = [q.id for q in load_qaset(folder).questions]
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto((folder / REVIEW).as_uri())
        page.locator("article").first.focus()
        for key in ("a", "j", "s"):
            page.keyboard.press(key)
        counted = f"{len(ids)} questions: 1 accepted, 1 struck, {len(ids) - 2} open"
        sync_api.expect(page.locator("output")).to_have_text(counted)
        for _ in range(20):  # decisions outlive the page; the browser writes its storage to disk in its own time
            page.wait_for_timeout(500)
            page.reload()
            if page.locator("output").inner_text() == counted:
                break
        sync_api.expect(page.locator("output")).to_have_text(counted)
        page.select_option("select", "open")
        assert page.locator("article:visible").count() == len(ids) - 2
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "decisions.json")
        browser.close()
    assert complaints == []
    assert len(json.loads((tmp_path / "decisions.json").read_text())["decisions"]) == 2
    apply_decisions(folder, tmp_path / "decisions.json")
    assert [q.id for q in load_qaset(folder).questions] == [ids[0], *ids[2:]]

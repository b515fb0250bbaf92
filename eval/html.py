"""`report.html`: the whole report of a run on one page that needs no network, no script and nothing beside it."""

from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval import html_disagreements, html_groups, html_sections, html_tables
from eval.files import write_text
from eval.html_digest import digest
from eval.html_page import Page
from eval.html_parts import Section
from eval.markup import joined, tag
from eval.verdict import verdict

REPORT_HTML = "report.html"

# Nothing is loaded and no script runs, whatever a document or a model may have smuggled in.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_SECTIONS = (
    html_tables.systems,
    html_sections.accuracy_against_cost,
    html_sections.trust,
    html_groups.by_question,
    html_sections.risk,
    html_sections.latency,
    html_disagreements.disagreements,
    html_tables.cost,
    html_tables.compared,
    html_tables.power,
    html_tables.break_even,
    html_tables.scale,
    html_tables.setting,
)


def write_html(out: Path, report: dict[str, Any]) -> None:
    """Write the page of the run in `out`, atomically. `report` is what `report.json` holds.

    Raises `DataError` where there is no run.
    """
    write_text(out / REPORT_HTML, report_html(Page(report, digest(out))))


def report_html(page: Page) -> str:
    """Return the page."""
    name = str((page.report.get("data") or {}).get("name") or "a QA set")
    sections = [make(page) for make in _SECTIONS]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", f"Evaluation on {name}"),
        tag("style", _style()),
    )
    body = tag("body", _header(page, name), tag("main", _verdict(page), _contents(sections), *map(_section, sections)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _style() -> Markup:
    # Our own file, and text that a style element takes as it is.
    return Markup(resources.files("eval").joinpath("report.css").read_text(encoding="utf-8"))  # noqa: S704


def _header(page: Page, name: str) -> Markup:
    data = page.report.get("data") or {}
    date = (page.report.get("machine") or {}).get("date")
    told = f"{data.get('questions', 0):,} questions over {data.get('documents', 0):,} documents, "
    told += f"{len(page.systems)} systems" + (f", measured {str(date)[:10]}" if date else "")
    return tag("header", tag("h1", f"Evaluation on {name}"), tag("p", told))


def _verdict(page: Page) -> Markup:
    sentences = page.report.get("verdict") or verdict(page.report)
    return tag("section", tag("h2", "Verdict"), *(tag("p", str(sentence)) for sentence in sentences), id="verdict")


def _contents(sections: list[Section]) -> Markup:
    links = [tag("li", tag("a", s.title, href=f"#{s.id}")) for s in sections if s.body is not None]
    return tag("nav", tag("ul", *links), aria_label="Contents")


def _section(section: Section) -> Markup:
    body = section.body
    if body is None:
        body = tag("p", f"Left out: {section.why}.", class_="missing")
    return tag("section", tag("h2", section.title), joined([body]), id=section.id)

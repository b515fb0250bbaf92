"""The questions on which the systems differ most: what each said, the verdict, and what it cited."""

from markupsafe import Markup

from eval.html_digest import MOST_DISAGREEMENTS, Disagreement, Quote, Said
from eval.html_page import TRUST, Page
from eval.html_parts import Section, paragraph, table
from eval.markup import Child, joined, tag
from eval.wording import UNKNOWN

_VERDICTS = {t.key: t.title for t in TRUST} | {"unscored": "not judged", "failed": "failed with an error"}


def disagreements(page: Page) -> Section:
    """Show the questions on which the systems differ most, with what each said and cited."""
    title = "Where the systems differ most"
    found = page.digest.disagreements
    if not found:
        return Section(
            "disagreements", title, None, "no question was answered rightly by one system and not by another"
        )
    intro = (
        f"{len(found)} questions (at most {MOST_DISAGREEMENTS} are shown), those first that split the systems evenly. "
        "Every other row is in results.jsonl."
    )
    blocks = [_disagreement(one, opened=place < 3) for place, one in enumerate(found)]
    return Section("disagreements", title, paragraph(intro) + joined(blocks))


def _disagreement(one: Disagreement, *, opened: bool) -> Markup:
    marks = [tag("span", f"{_mark(said)} {said.system}", class_=f"mark {_class(said)}") for said in one.said]
    expected = "; ".join(one.gold) if one.gold else "none: the documents do not say" if not one.answerable else UNKNOWN
    head: list[Child] = ["system", "verdict", "answer", "cited text"]
    rows: list[list[Child]] = [
        [
            said.system,
            tag("span", f"{_mark(said)} {_VERDICTS.get(said.verdict, said.verdict)}", class_=f"mark {_class(said)}"),
            said.answer or tag("em", "no answer"),
            joined([_quote(quote) for quote in said.quotes] + [_more(said)]) or tag("em", "nothing cited"),
        ]
        for said in one.said
    ]
    return tag(
        "details",
        tag("summary", tag("span", one.question, class_="asked"), tag("span", joined(marks, " "), class_="marks")),
        tag("p", tag("b", "Expected: "), expected, tag("small", f" ({one.question_id})")),
        tag("div", table(f"Answers to: {one.question}", head, rows), class_="answers"),
        open=opened,
    )


def _quote(quote: Quote) -> Markup:
    where = f"{quote.document}, {'a relevant document' if quote.relevant else 'not among the relevant documents'}"
    return tag("blockquote", quote.text, tag("cite", where))


def _more(said: Said) -> Markup | None:
    hidden = said.cited - len(said.quotes)
    return tag("small", f"and {hidden} more") if hidden > 0 else None


def _mark(said: Said) -> str:
    return "?" if said.right is None else "✓" if said.right else "✗"


def _class(said: Said) -> str:
    return "unjudged" if said.right is None else "good" if said.right else "bad"

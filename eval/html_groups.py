"""Which questions a system gets right: by their type, their answer's length, their relevant documents."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from eval import html_charts as charts
from eval.html_digest import Asked
from eval.html_page import Page, percent
from eval.html_parts import Section, drawing, figure, figures_below, paragraph
from eval.markup import Child, joined, tag
from eval.question_types import QUESTION_TYPES
from eval.selective import share_interval
from eval.verdict import RIGHT
from eval.wording import UNKNOWN

_LENGTHS = ("1 word", "2 or 3 words", "4 to 7 words", "8 words or more")


_RELEVANT = ("none named", "1 document", "2 documents", "3 documents or more")


def by_question(page: Page) -> Section:
    """Show accuracy by type of question, length of the right answer and number of relevant documents."""
    title = "Which questions it gets right"
    if not page.digest.judged_by("right"):
        return Section("questions", title, None, "no answers were judged to be right or wrong")
    metrics = page.systems.values()
    scored = any((system["metrics"].get(RIGHT) or {}).get("value") is not None for system in metrics)
    how = (
        "by the scorer of right answers"
        if scored
        else "where F1 reaches 0.5, as no other scorer of right answers was run"
    )
    parts = [
        paragraph(
            f"Shares of right answers, {how}, over the questions that have one; 95% Wilson intervals, which take "
            "the questions as independent."
        ),
        _grouped(page, "By type of question", QUESTION_TYPES, lambda asked: asked.kind),
        _grouped(page, "By length of the expected answer", _LENGTHS, lambda asked: _length(asked.words)),
        _grouped(page, "By number of relevant documents", _RELEVANT, lambda a: _RELEVANT[min(a.relevant, 3)]),
    ]
    return Section("questions", title, joined(parts))


def _grouped(page: Page, title: str, order: Sequence[str], group_of: Callable[[Asked], str]) -> Markup:
    names = page.digest.judged_by("right")
    counts: dict[str, dict[str, list[float]]] = {group: {name: [] for name in names} for group in order}
    for name in names:
        for place, fact in page.digest.facts[name].items():
            if fact.right is not None:
                counts[group_of(page.digest.asked[place])][name].append(fact.right)
    there = {group: by_name for group, by_name in counts.items() if any(by_name.values())}
    groups = [
        charts.Group(
            f"{group} ({_counted([len(rights) for rights in by_name.values()])})",
            [_bar(page, name, rights) for name, rights in by_name.items() if rights],
        )
        for group, by_name in there.items()
    ]
    told = "; ".join(f"{g.title}: " + ", ".join(f"{bar.name} {bar.value:.0%}" for bar in g.bars) for g in groups)
    picture = charts.both_widths(lambda width: charts.intervals(groups, title=f"{title}. {told}", width=width))
    rows: list[list[Child]] = [
        [group, *(_right_share(by_name[name]) for name in names)] for group, by_name in there.items()
    ]
    return tag("h3", title) + drawing(
        picture, f"{title}: share of right answers of each system.", figures_below(title, ["questions", *names], rows)
    )


def _bar(page: Page, name: str, rights: Sequence[float]) -> charts.Bar:
    share = sum(rights) / len(rights)
    low, high = share_interval(sum(rights), len(rights))
    return charts.Bar(page.series(name), name, share, low, high, f"{share:.0%} ({low * 100:.0f}–{high * 100:.0f})")


def _right_share(rights: Sequence[float]) -> Markup:
    if not rights:
        return joined([UNKNOWN])
    return figure(sum(rights) / len(rights), *share_interval(sum(rights), len(rights)), len(rights), percent)


def _counted(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"n = {high:,}" if low == high else f"n = {low:,} to {high:,}"


def _length(words: int) -> str:
    return _LENGTHS[0 if words <= 1 else 1 if words <= 3 else 2 if words <= 7 else 3]

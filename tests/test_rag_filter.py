"""The filter language: what it means, and that nothing in it is ever ignored."""

import json
from datetime import date

import pytest

from rag.errors import InvalidRequest
from rag.filter import EVERYTHING, Facts, Filter, View, folded, parse_filter

REPORT = Facts(
    "hr/2024/report.pdf", "annual report", frozenset({"pdf"}), frozenset({"budget", "final"}), date(2024, 5, 6)
)
NOTE = Facts("notes/a.md", "strasse", frozenset({"markdown", "md"}), frozenset(), None)


@pytest.mark.parametrize(
    ("wanted", "report", "note"),
    [
        ({}, True, True),
        ({"path": {"glob": "hr/**"}}, True, False),
        ({"path": {"glob": ["*.md", "*.txt"]}}, False, True),
        ({"type": "PDF"}, True, False),
        ({"type": ["md", "docx"]}, False, True),
        ({"type": ".md"}, False, True),
        ({"tags": {"any": ["Budget", "other"]}}, True, False),
        ({"tags": {"all": ["budget", "other"]}}, False, False),
        ({"tags": {"all": ["budget", "final"]}}, True, False),
        ({"tags": {"none": ["final"]}}, False, True),
        ({"tags": {"any": ["budget"], "none": ["final"]}}, False, False),
        ({"date": {"from": "2024-05-06"}}, True, False),
        ({"date": {"to": "2024-05-06"}}, True, False),
        ({"date": {"from": "2024-05-07"}}, False, False),
        ({"date": {"from": "2024-01-01", "to": "2024-12-31"}}, True, False),
        ({"title": {"contains": "REPORT"}}, True, False),
        ({"title": {"contains": "Straße"}}, False, True),
        ({"type": "pdf", "date": {"to": "2020-01-01"}}, False, False),
        ({"any": [{"type": "md"}, {"date": {"from": "2024-01-01"}}]}, True, True),
        ({"not": {"type": "pdf"}}, False, True),
        ({"not": {"date": {"from": "2024-01-01"}}}, False, True),
        ({"not": {"any": [{"type": "pdf"}, {"type": "md"}]}}, False, False),
    ],
)
def test_what_filters_mean(wanted: dict[str, object], report: bool, note: bool) -> None:
    predicate = parse_filter(json.dumps(wanted)).predicate()
    assert (predicate(REPORT), predicate(NOTE)) == (report, note)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"tag": {"any": ["a"]}}', "tag: Extra inputs"),
        ('{"path": "hr/**"}', "path: "),
        ('{"path": {}}', "path.glob: Field required"),
        ('{"path": {"glob": ["a", "b//c"]}}', "path.glob.1: no path has"),
        ('{"path": {"glob": 3}}', "path.glob: "),
        ('{"type": ["pdf", 3]}', "type.1: "),
        ('{"type": []}', "type: "),
        ('{"tags": {"any": []}}', "tags.any: "),
        ('{"tags": {"some": ["a"]}}', "tags.some: Extra"),
        ('{"date": {"from": "May 2024"}}', "date.from: a date is written as YYYY-MM-DD"),
        ('{"date": {"from": "20240101"}}', "date.from: a date is written as"),
        ('{"date": {"from": "2023-02-29"}}', "date.from: a date is written as"),
        ('{"date": {"from": 1704067200}}', "date.from: a date is written as"),
        ('{"date": {"from_": "2024-01-01"}}', "date.from_: Extra"),
        ('{"date": {"from": "2024-01-02", "to": "2024-01-01"}}', "date: `from` lies after `to`"),
        ('{"any": []}', "any: "),
        ('{"not_": {}}', "not_: Extra"),
        (json.dumps({"any": [{"type": "a"}] * 32}), "more than 32 parts"),
        ('{"not": ' * 40 + "{}" + "}" * 40, "more than 32 parts"),
        ('{"not": ' * 2000 + "{}" + "}" * 2000, "is not understood: "),
        ('{"title": {"contains": "' + "a" * 201 + '"}}', "title.contains: "),
        ("[]", "object"),
        ("type=pdf", "Invalid JSON"),
        (" " * 20_001, "longer than 20,000"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(text)
    assert told in caught.value.message
    assert "docs/filters.md" in caught.value.hint


def test_two_spellings_of_an_accent_are_the_same() -> None:
    facts = Facts("m\u00fcll/a.md", folded("Gru\u0308n"), frozenset({"md"}), frozenset({folded("Mu\u0308ll")}), None)
    for wanted in (
        {"path": {"glob": "mu\u0308ll/"}},
        {"title": {"contains": "gr\u00dcn"}},
        {"title": {"contains": "gru\u0308n"}},
        {"tags": {"any": ["m\u00fcll"]}},
    ):
        assert parse_filter(json.dumps(wanted)).predicate()(facts)


def test_views_are_the_same_where_they_mean_the_same() -> None:
    wanted = '{"tags": {"any": ["a", "b"]}, "not": {"type": "pdf"}}'
    one, two = (View(parse_filter(wanted), frozenset({"x", "y"})) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != View(parse_filter(wanted), frozenset({"x"}))
    assert View() == EVERYTHING != View(labels=frozenset())
    assert View(Filter()) != EVERYTHING

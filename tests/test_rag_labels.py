"""Label rules: which one counts, what a document may say of itself, and what cannot be read."""

from pathlib import Path

import pytest

from rag.errors import InvalidRequest
from rag.labels import Labeller, LabelRule, load_rules, may_see

RULES = """
[[rule]]
path = "**"
labels = ["staff"]

[[rule]]
path = "hr/**"
labels = ["hr", "board"]

[[rule]]
path = "hr/open/"
labels = []
"""


def test_the_last_rule_that_matches_counts(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    labeller = Labeller(load_rules(tmp_path / "rules.toml"))
    assert labeller.labels("a.md") == {"staff"}
    assert labeller.labels("hr/a.md") == {"hr", "board"}  # and not staff as well, which would let staff in
    assert labeller.unused == ["hr/open/"]
    assert labeller.labels("hr/open/a.md") == frozenset()
    assert labeller.unused == []


def test_a_document_can_shut_itself_away_but_not_open_itself() -> None:
    labeller = Labeller([LabelRule(path="hr/**", labels=("hr",)), LabelRule(path="open/**", labels=())])
    assert labeller.labels("notes/a.md", "me\n friends ") == {"me", "friends"}
    assert labeller.labels("notes/a.md", "") == frozenset()
    assert labeller.labels("hr/a.md", "everybody") == {"hr"}
    assert labeller.labels("open/a.md", "me") == frozenset()


@pytest.mark.parametrize(
    ("held", "labels", "seen"),
    [
        ((), (), True),
        ((), ("hr",), False),
        (("hr",), (), True),
        (("hr", "x"), ("hr", "board"), True),
        (("x",), ("hr",), False),
        (("HR",), ("hr",), False),
        (None, ("hr",), True),
    ],
)
def test_who_sees_what(held: tuple[str, ...] | None, labels: tuple[str, ...], seen: bool) -> None:
    assert may_see(None if held is None else frozenset(held), frozenset(labels)) is seen


def test_an_empty_file_has_no_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("")
    assert load_rules(tmp_path / "rules.toml") == ()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[[rule]]\npath = "a//b"\nlabels = []', "rule.0.path"),
        ('[[rule]]\npath = "a"\nlabels = ["-x"]', "rule.0.labels.0"),
        ('[[rule]]\npath = "a"\nlabels = "x"', "rule.0.labels"),
        ('[[rule]]\npath = "a"\nlabels = ["*"]', "'*' is no label"),
        ('[[rule]]\npath = "a"', "rule.0.labels: Field required"),
        ('[[rules]]\npath = "a"\nlabels = []', "rules: Extra"),
        ("rule = ", "cannot be read"),
        ("#" * 100_001, "larger than"),
    ],
)
def test_rules_that_are_not_understood_are_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "rules.toml").write_text(content)
    with pytest.raises(InvalidRequest, match=r"rules\.toml") as caught:
        load_rules(tmp_path / "rules.toml")
    assert told in caught.value.message
    assert "[[rule]]" in caught.value.hint


def test_rules_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        load_rules(tmp_path / "rules.toml")


def test_two_spellings_of_an_accent_are_the_same() -> None:
    """macOS writes "u" and a diaeresis where a keyboard gives one letter: a rule must not miss such a folder."""
    composed, apart = "personal/m\u00fcller/a.md", "personal/mu\u0308ller/a.md"
    for rule in (composed, apart):
        labeller = Labeller([LabelRule(path="**", labels=()), LabelRule(path=rule, labels=("hr",))])
        assert labeller.labels(composed) == labeller.labels(apart) == {"hr"}
        assert labeller.labels("personal/muller/a.md") == frozenset()

"""Date, tags and labels of a document, from its front matter and its file."""

import os
import time
from pathlib import Path

import pytest

from indexer.describe import day_of_change, described, version
from rag.datatypes import Document, Metadata

CHANGED = 1_700_000_000  # 2023-11-14 22:13:20 UTC


def metadata(tmp_path: Path, text: str, **known: str) -> Metadata:
    path = tmp_path / "a.md"
    path.write_text(text)
    os.utime(path, (CHANGED, CHANGED))
    found = described(Document("a.md", "file:///a.md", "A", text, {"format": "markdown", **known}), day_of_change(path))
    assert (found.id, found.text, found.metadata["format"]) == ("a.md", text, known.get("format", "markdown"))
    return {name: value for name, value in found.metadata.items() if name != "format"}


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        (
            "---\ntags: [Budget, audit 2024]\ndate: 2024-03-01\n---\n",
            {"tags": "Budget\naudit 2024", "date": "2024-03-01"},
        ),
        (
            "---\nTags:\n  - a\n  - a\n  - 7\ndate: 2024-03-01T23:30:00+02:00\n---\n",
            {"tags": "a\n7", "date": "2024-03-01"},
        ),
        ("---\ntags: a, b\ndate: '2024-03-01 10:00'\n---\n", {"tags": "a\nb", "date": "2024-03-01"}),
        ('+++\ntags = ["a"]\ndate = 2024-03-01\n+++\n', {"tags": "a", "date": "2024-03-01"}),
        ('{\n  "tags": ["a"],\n  "Date": "2024-03-01"\n}\n# Text', {"tags": "a", "date": "2024-03-01"}),
        ('{"labels": ["hr"]} \r\n\r\nText', {"labels": "hr", "date": "2023-11-14"}),
        ('{"tags": ["a"]} is an object', {"date": "2023-11-14"}),
        ('{{< gallery "labels": 1 >}}', {"date": "2023-11-14"}),
        ("---\nlabels: [hr, board]\n---\n", {"labels": "hr\nboard", "date": "2023-11-14"}),
        ("---\ndate: 1 March\n---\n", {"date": "2023-11-14"}),
        ("---\ntags: {a: b}\n---\n", {"date": "2023-11-14"}),
        ("---\ntags: 2024\nlabels: 7\n---\n", {"tags": "2024", "labels": "7", "date": "2023-11-14"}),
        ("---\nlabels of maps\n---\n", {"date": "2023-11-14"}),
        ("---\n- a\n- b\n---\n", {"date": "2023-11-14"}),
        ("---\ntags: [a\n---\n", {"date": "2023-11-14"}),
        ("---\na: " + "[" * 5000 + "\n---\n", {"date": "2023-11-14"}),
        ("---\na: !!python/object/apply:os.system [ls]\n---\n", {"date": "2023-11-14"}),
        ("---\na: !!bool maybe\n---\n", {"date": "2023-11-14"}),  # a KeyError of PyYAML
        ('---\na: !!int ""\n---\n', {"date": "2023-11-14"}),  # an IndexError
        ("---\na: !!timestamp now\n---\n", {"date": "2023-11-14"}),  # an AttributeError
        (f"---\ntags: [a, 0x{'f' * 5000}]\n---\n", {"tags": "a", "date": "2023-11-14"}),
        (f"+++\ntags = ['a', 0x{'f' * 5000}]\n+++\n", {"tags": "a", "date": "2023-11-14"}),
        (f"---\n? 0x{'f' * 5000}\n: 1\n---\n", {"date": "2023-11-14"}),
        ("---\na: &a {tags: [b]}\n<<: *a\n---\n", {"tags": "b", "date": "2023-11-14"}),
        (f"---\nlabels of old maps\n{'x' * 20_000}\n", {"date": "2023-11-14"}),  # a line across, and no end
        ("# Plain\n", {"date": "2023-11-14"}),
    ],
)
def test_what_is_known_of_a_file(tmp_path: Path, front: str, expected: Metadata) -> None:
    assert metadata(tmp_path, front + "Text.") == expected


def test_merges_of_merges_are_no_bomb(tmp_path: Path) -> None:
    merges = "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 100))
    began = time.monotonic()
    assert metadata(tmp_path, f"---\na0: &a0 {{x: 1}}\n{merges}---\nText.") == {"date": "2023-11-14"}
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "front",
    [
        *("labels: {hr: 1}", "labels:", "labels: []", "labels: [hr\ntags: x", "Labels: [a: b"),
        f"labels: [hr]\nimage: {'x' * 20_000}",
        *("labels: hr\na: !!bool maybe", "{a: !!bool maybe, 'labels': [hr]}", "{labels: [hr], a: [", "? labels\n: [hr"),
        *('labels = ["hr"]', "tags = ['a']\nlabels=hr", "- labels: [hr]\n- tags: [a]", '- {"labels": hr}'),
    ],
)
def test_labels_that_nobody_can_make_out_shut_the_document_away(tmp_path: Path, front: str) -> None:
    assert metadata(tmp_path, f"---\n{front}\n---\nText.")["labels"] == "(unclear)"


@pytest.mark.parametrize(
    "text",
    [
        "---\rlabels: [hr]\rtags: a\r---\rText.",
        "---\nlabels: [hr]\ntags: a\n\nText after front matter that nobody closed.",
        '+++\nlabels = ["hr"]\n\nText.',
        '{\n  "labels": ["hr"],\n}\nText.',
        f'{{"labels": ["hr"], "image": "{"x" * 20_000}"}}\nText.',
    ],
)
def test_labels_in_front_matter_that_is_hardly_any_do_not_leave_a_document_open(tmp_path: Path, text: str) -> None:
    assert metadata(tmp_path, text)["labels"] == ("hr" if "\r" in text else "(unclear)")


def test_a_line_across_and_words_on_labels_are_no_front_matter(tmp_path: Path) -> None:
    assert "labels" not in metadata(tmp_path, "---\nOf maps\n\nlabels: what is written on them")


def test_what_changes_in_the_reading_of_labels_reaches_what_was_indexed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And costs only the files that may have front matter."""
    note, scan = version("notes/A.MD"), version("scan.pdf")
    monkeypatch.setattr("indexer.describe._FRONT_MATTER_VERSION", 99)
    assert (version("notes/A.MD"), version("scan.pdf")) == ("99", scan)
    assert note != scan  # of indexes that were written before labels in odd front matter shut a document away


def test_the_loaders_date_comes_before_that_of_the_file(tmp_path: Path) -> None:
    assert metadata(tmp_path, "Text.", format="pdf", date="2020-02-02T08:00:00Z") == {"date": "2020-02-02"}
    assert metadata(tmp_path, "Text.", format="pdf", date="last year") == {"date": "2023-11-14"}
    # Only a Markdown file's beginning is front matter.
    assert metadata(tmp_path, "---\ntags: [a]\n---\n", format="text") == {"date": "2023-11-14"}


def test_what_is_long_or_much_is_cut(tmp_path: Path) -> None:
    tags = str(metadata(tmp_path, f"---\ntags: [{', '.join(f'{i}-' + 'x' * 205 for i in range(80))}]\n---\n")["tags"])
    assert (len(tags.splitlines()), max(map(len, tags.splitlines()))) == (64, 200)


def test_a_file_that_is_gone_has_no_date(tmp_path: Path) -> None:
    document = Document("a.md", "file:///a.md", "A", "Text.", {"format": "markdown"})
    assert described(document, day_of_change(tmp_path / "gone.md")).metadata == {"format": "markdown"}

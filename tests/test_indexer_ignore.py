"""What patterns leave out, beside what git makes of the same patterns, and what they do to an index."""

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from indexer.ignore import IGNORE_FILE, Ignore
from indexer.scan import Scan, find_files, plan_patterns, plan_roots
from rag.errors import DataError, InvalidRequest
from rag.index import Index
from rag.manifest import Patterns
from tests.test_indexer_sync import Run, Write, contents, write

__all__ = ["write"]

FILES = ["a.txt", "b.txt", "x/a.txt", "x/y/a.txt", "x/y/b.txt", "y/x/a.txt", "y/b.txt", "ab/x.txt", "b/[a].txt"]


def found(root: Path, patterns: Patterns | None = None) -> list[str]:
    """The files below `root` that are left."""
    return [file.document_id for file in scanned(root, patterns or Patterns()).files]


def scanned(root: Path, patterns: Patterns) -> Scan:
    plan = plan_patterns(plan_roots({}, [root]), {}, patterns)
    return find_files(plan, frozenset({".txt", ".md"}), root / "index", {})


@pytest.fixture
def tree(tmp_path: Path, write: Write) -> Path:
    for name in FILES:
        write(f"tree/{name}", name)
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), (), FILES),
        ((), ("a.txt",), ["ab/x.txt", "b.txt", "b/[a].txt", "x/y/b.txt", "y/b.txt"]),
        ((), ("/a.txt", "y/"), ["ab/x.txt", "b.txt", "b/[a].txt", "x/a.txt"]),
        (("y/",), (), ["x/y/a.txt", "x/y/b.txt", "y/b.txt", "y/x/a.txt"]),
        (("y/", "!x/y/"), (), ["y/b.txt", "y/x/a.txt"]),
        (("/x/**/*.txt",), ("/x/*",), []),
        (("x/**",), ("b.*",), ["x/a.txt", "x/y/a.txt"]),
        ((), ("*", "!x/", "!x/a.txt"), ["x/a.txt"]),
        ((), ("x/", "!x/a.txt"), ["a.txt", "ab/x.txt", "b.txt", "b/[a].txt", "y/b.txt"]),
        (("\\[a\\].txt", "?b/"), (), ["ab/x.txt", "b/[a].txt"]),
        (("*.md",), (), []),
    ],
)
def test_patterns_given_with_a_root(
    tree: Path, include: tuple[str, ...], exclude: tuple[str, ...], left: list[str]
) -> None:
    assert sorted(found(tree, Patterns(include=include, exclude=exclude))) == sorted(left)


def test_files_of_patterns_count_in_their_folder_and_the_deeper_one_first(tree: Path, write: Write) -> None:
    write(f"tree/{IGNORE_FILE}", "# by name\na.txt\n/y/\n")
    write(f"tree/x/{IGNORE_FILE}", "!/a.txt\r\ny/b.txt\r\n")
    assert found(tree) == ["b.txt", "ab/x.txt", "b/[a].txt", "x/a.txt"]
    assert found(tree, Patterns(exclude=("x/",))) == ["b.txt", "ab/x.txt", "b/[a].txt"]


def test_what_is_left_out_is_named_a_folder_once(tree: Path) -> None:
    assert scanned(tree, Patterns(exclude=("x/", "b.txt"))).excluded == [
        *(str(tree / "b.txt"), f"{tree}/x/"),
        *(str(tree / "y/b.txt"), f"{tree}/y/x/"),
    ]


def test_gitignore_files_count_where_that_is_wanted(tree: Path, write: Write) -> None:
    write("tree/.gitignore", "a.txt\nb.txt\n")
    write(f"tree/{IGNORE_FILE}", "!/a.txt\n")
    assert len(found(tree)) == len(FILES)
    assert found(tree, Patterns(gitignore=True)) == ["a.txt", "ab/x.txt", "b/[a].txt"]


@pytest.mark.parametrize("bad", ["!", "a\\", "[z-a]", "[]a", "[[:digits:]]", "x" * 501])
def test_a_pattern_that_cannot_be_understood_stops_the_run(tree: Path, write: Write, bad: str) -> None:
    with pytest.raises(DataError, match=r"^--exclude: "):
        found(tree, Patterns(exclude=(bad,)))
    where = write(f"tree/x/{IGNORE_FILE}", f"ok\n{bad}\n")
    with pytest.raises(DataError, match=f"^{where}, line 2: "):
        found(tree)


def test_a_file_of_patterns_that_cannot_be_read_stops_the_run(
    tree: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "x" / IGNORE_FILE).symlink_to(tree / "a.txt")
    with pytest.raises(DataError, match="is no regular file"):
        found(tree)
    (tree / "x" / IGNORE_FILE).unlink()
    write(f"tree/x/{IGNORE_FILE}", "#" * 1_000_001)
    with pytest.raises(DataError, match="larger than 1 MB"):
        found(tree)


def test_names_do_not_take_time_by_the_power_of_the_stars(tmp_path: Path) -> None:
    ignore = Ignore(tmp_path, Patterns(exclude=("*a" * 40 + "b", "/".join(["**", "a*"] * 20))))
    began = time.process_time()
    assert not ignore.leaves_out(tmp_path / ("a" * 250), folder=False)
    assert time.process_time() - began < 1


PIECES = ["a", "b", "x", "y", "*", "?", "**", "a.txt", "b.txt", "*.txt", "[ab]*", "[!a].txt", "x*", "*b", "\\[a]*"]
PIECES += [
    "[[:alpha:]].txt",
    "[]ab]*",
    "[]-a]*",
    "[!]a].txt",
    "[\\]a\\-x].txt",
    "[a/]*",
    "[a-]*\\]*",
    "[^[:punct:]b]*",
    "\\a ",
    "b*\\ ",
]


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        ("[[:upper:]][[:digit:]]*", ["B2 old", "C3"]),
        ("[]a].txt", ["].txt", "a.txt"]),
        ("[!]a].txt", ["-.txt", "b.txt", "ö.txt"]),
        ("[\\]b].txt", ["].txt", "b.txt"]),
        ("[a-].txt", ["-.txt", "a.txt"]),
        ("[é-ü].txt", ["ö.txt"]),
        ("?.txt", ["-.txt", "].txt", "a.txt", "b.txt", "ö.txt"]),
        ("B2\\ old  ", ["B2 old"]),
        ("a//b", []),
    ],
)
def test_brackets_and_spaces(tmp_path: Path, pattern: str, left_out: list[str]) -> None:
    names = ["].txt", "-.txt", "a.txt", "b.txt", "ö.txt", "B2 old", "C3"]
    ignore = Ignore(tmp_path, Patterns(exclude=(pattern,)))
    assert sorted(n for n in names if ignore.leaves_out(tmp_path / n, folder=False)) == sorted(left_out)


def random_pattern(rng: random.Random) -> str:
    parts = [rng.choice(PIECES) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
    ends = rng.choice(("", "", "!")) + rng.choice(("", "", "/")), rng.choice(("", "", "/"))
    return ends[0] + "/".join(parts) + ends[1]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("seed", range(40))
def test_git_leaves_out_the_same(tree: Path, write: Write, seed: int) -> None:
    rng = random.Random(seed)
    for folder in ("", "x/", "y/", "x/y/"):
        if not folder or rng.random() < 0.4:
            lines = [random_pattern(rng) for _ in range(rng.randint(1, 4))]
            write(f"tree/{folder}.gitignore", "\n".join(lines) + "\n")
    environment = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "PATH": "/usr/bin:/bin"}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tree), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    listed = git("ls-files", "-z", "--others", "--exclude-standard").split("\0")
    expected = sorted(name for name in listed if name.endswith(".txt"))
    patterns = {str(p.relative_to(tree)): p.read_text() for p in tree.rglob(".gitignore")}
    assert sorted(found(tree, Patterns(gitignore=True))) == expected, patterns


# --- in an index


def test_another_pattern_takes_documents_away_and_brings_them_back(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("docs/drafts/b.txt", "beta")
    Run(tmp_path, "docs")
    run = Run(tmp_path, patterns=Patterns(exclude=("drafts/",)))
    assert (run.report.removed, run.report.excluded) == (["drafts/b.txt"], [f"{tmp_path}/docs/drafts/"])
    assert contents(tmp_path) == {"a.txt": "alpha"}
    assert not Run(tmp_path).report.published  # they are kept with the index
    with Index.open(tmp_path / "index") as index:
        assert index.manifest.patterns == {str(tmp_path / "docs"): Patterns(exclude=("drafts/",))}
    assert Run(tmp_path, rebuild=True).report.added == ["a.txt"]
    run = Run(tmp_path, patterns=Patterns())
    assert run.report.added == ["drafts/b.txt"]
    with Index.open(tmp_path / "index") as index:
        assert index.manifest.patterns == {}


def test_patterns_belong_to_the_roots_of_their_run(tmp_path: Path, write: Write) -> None:
    for name in ("docs", "notes"):
        write(f"{name}/a.txt", name)
        write(f"{name}/b.md", name)
    Run(tmp_path, "docs", "notes")
    Run(tmp_path, "notes", patterns=Patterns(include=("*.md",)))
    assert sorted(contents(tmp_path)) == ["a.txt", "b.md", "notes/b.md"]
    Run(tmp_path, remove=["notes"])
    with Index.open(tmp_path / "index") as index:
        assert index.manifest.patterns == {}


def test_a_file_of_patterns_counts_from_the_next_run_on(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    write("docs/b.txt", "beta")
    Run(tmp_path, "docs")
    write(f"docs/{IGNORE_FILE}", "b.txt\n")
    assert Run(tmp_path).report.removed == ["b.txt"]


def test_a_folder_around_does_not_let_in_what_patterns_kept_out(tmp_path: Path, write: Write) -> None:
    write("docs/sub/a.txt", "alpha")
    write("docs/sub/secret.txt", "mine")
    Run(tmp_path, "docs/sub", patterns=Patterns(exclude=("secret.txt",)))
    with pytest.raises(InvalidRequest, match=r"sub has patterns of its own") as caught:
        Run(tmp_path, "docs")
    assert "--exclude" in caught.value.hint
    assert contents(tmp_path) == {"a.txt": "alpha"}
    Run(tmp_path, "docs", patterns=Patterns(exclude=("secret.txt",)))
    assert contents(tmp_path) == {"sub/a.txt": "alpha"}


def test_patterns_that_leave_nothing_are_refused_like_an_empty_folder(tmp_path: Path, write: Write) -> None:
    write("docs/a.txt", "alpha")
    Run(tmp_path, "docs")
    with pytest.raises(InvalidRequest, match="had documents and now has none"):
        Run(tmp_path, patterns=Patterns(include=("*.md",)))
    assert contents(tmp_path) == {"a.txt": "alpha"}


def test_two_spellings_of_an_accent_are_the_same(tmp_path: Path, write: Write) -> None:
    """A folder from a Mac is left out by a pattern from a keyboard."""
    write("tree/gehu\u0308tet/a.txt", "secret")
    write("tree/b.txt", "b")
    assert found(tmp_path / "tree", Patterns(exclude=("geh\u00fctet/",))) == ["b.txt"]
    (tmp_path / "tree" / IGNORE_FILE).write_text("geh\u00fctet/\n", encoding="utf-8")
    assert found(tmp_path / "tree") == ["b.txt"]

"""Path patterns against a plain recursive reading of the same rules, and their time."""

import random
import time

import pytest

from rag.glob import compile_glob


def holds(pattern: str, path: str) -> bool:
    """The rules, word by word, with no thought of time."""
    parts = pattern.removeprefix("/").removesuffix("/").split("/")
    if "/" not in pattern.removesuffix("/"):
        parts = ["**", *parts]
    if pattern.endswith("/"):
        parts = [*parts, "**"]
    names_a_folder = "*" not in parts[-1] and "?" not in parts[-1]

    def part(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return part(pattern[1:], text) or (bool(text) and part(pattern, text[1:]))
        return bool(text) and pattern[0] in ("?", text[0]) and part(pattern[1:], text[1:])

    def whole(patterns: list[str], texts: list[str]) -> bool:
        if not patterns:
            return not texts or names_a_folder
        if patterns[0] == "**":
            return bool(texts) and (len(patterns) == 1 or whole(patterns[1:], texts) or whole(patterns, texts[1:]))
        return bool(texts) and part(patterns[0], texts[0]) and whole(patterns[1:], texts[1:])

    return whole(parts, path.split("/"))


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("hr/**", ["hr/a", "hr/b/c.md"], ["hr", "hrx/a", "x/hr/a"]),
        ("**", ["a", "a/b"], []),
        ("*.pdf", ["a.pdf", "x/y/b.pdf"], ["a.pdf/c", "apdf"]),
        ("hr", ["hr", "hr/a", "x/hr/b/c"], ["hrs", "x/hrs/a"]),
        ("hr/", ["hr/a", "x/hr/b"], ["hr", "x/hr"]),
        ("/hr/", ["hr/a"], ["x/hr/a", "hr"]),
        ("docs/hr", ["docs/hr", "docs/hr/a"], ["docs/hr2", "x/docs/hr"]),
        ("docs/*", ["docs/a"], ["docs/a/b", "docs"]),
        ("a/**/z.md", ["a/z.md", "a/b/c/z.md"], ["z.md", "a/zz.md"]),
        ("report-202?.md", ["report-2024.md"], ["report-20245.md", "report-202/.md"]),
        ("a+b[1].md", ["a+b[1].md"], ["aab1.md", "ab1.md"]),
        ("*", ["a", "new\nline"], []),
    ],
)
def test_patterns_by_hand(pattern: str, matched: list[str], others: list[str]) -> None:
    compiled = compile_glob(pattern)
    assert [path for path in [*matched, *others] if compiled.match(path)] == matched


def test_patterns_at_random() -> None:
    """Taking what comes first must lose no match: short alphabets make many chances for that."""
    chance, matches = random.Random(6), 0
    for _ in range(20_000):
        parts = [
            "".join(chance.choice("aab*?") for _ in range(chance.randint(1, 3))) if chance.random() < 0.7 else "**"
            for _ in range(chance.randint(1, 4))
        ]
        pattern = chance.choice(["", "", "", "/"]) + "/".join(parts) + chance.choice(["", "", "", "/"])
        path = "/".join(
            "".join(chance.choice("ab") for _ in range(chance.randint(1, 3))) for _ in range(chance.randint(1, 5))
        )
        expected = holds(pattern, path)
        assert (compile_glob(pattern).match(path) is not None) == expected, (pattern, path)
        matches += expected
    assert matches > 2000


@pytest.mark.parametrize("pattern", ["*a" * 90 + "b", "**/a/" * 39 + "c", "**/*a*/" * 28 + "c"])
def test_no_pattern_takes_long(pattern: str) -> None:
    compiled = compile_glob(pattern)
    began = time.perf_counter()
    for path in ("a" * 4000, "a/" * 2000 + "b"):
        assert compiled.match(path) is None
    assert time.perf_counter() - began < 2  # by trying all splits it would be years


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "a/../b", "./a", "a" * 201])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="path"):
        compile_glob(pattern)

"""Patterns for paths, read as in CODEOWNERS files: `hr/**`, `*.pdf`, `/drafts/`, `reports/2024-??.md`.

`*` stands for any characters but `/`, `?` for one, and a whole part `**` for any number of folders. A pattern with a
`/` at its beginning or in it is a whole path; one without is the name of a file or folder at any depth. What names a
folder without wildcards, or ends with `/`, takes in everything beneath it.

A letter with an accent can be spelt as one character or as two: macOS writes file names in the second way, keyboards in
the first. Nobody sees the difference, so that there is none here.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

LONGEST = 200


def composed(text: str) -> str:
    """Return a text with its accents and letters as one character each (NFC), where Unicode has one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Return the regular expression whose `match` decides on a `composed` path with `/`.

    Raises `ValueError` for a bad pattern.

    Time is bounded by the path's length, not by its power of the number of wildcards: the text between two `*`, and the
    parts between two `**`, are taken where they come first and never tried again (atomic groups). That loses nothing,
    since what comes first leaves most to what follows.
    """
    if not pattern or len(pattern) > LONGEST:
        raise ValueError(f"a path pattern has 1 to {LONGEST} characters")
    pattern = composed(pattern)
    parts = pattern.removeprefix("/").removesuffix("/").split("/")
    scheme = 2 if parts[:2] in (["http:", ""], ["https:", ""]) else 0  # addresses of pages are ids too
    if any(part in ("", ".", "..") for part in parts[scheme:]):
        raise ValueError(f"no path has the empty, '.' or '..' part of {pattern!r}")
    if "/" not in pattern.removesuffix("/"):
        parts.insert(0, "**")
    if pattern.endswith("/"):
        parts.append("**")
    beneath = "" if "*" in parts[-1] or "?" in parts[-1] else "(?:/.*)?"
    spelt = path_expression([part if part == "**" else _part(part) for part in parts])
    return re.compile(f"(?s:{spelt}{beneath})\\Z")


def path_expression(parts: Sequence[str]) -> str:
    """Return the expression of a whole path from those of its parts, `**` for any number of folders."""
    runs: list[list[str]] = [[]] if parts[0] == "**" else []
    runs += [list(run) for free, run in groupby(parts, "**".__eq__) if not free]
    if parts[-1] == "**":
        runs.append([])
    spelt = ["/".join(run) for run in runs]
    if len(spelt) == 1 and parts[0] != "**":
        return spelt[0]
    first, last = spelt[0], spelt[-1] if len(spelt) > 1 else ""
    middle = "".join(f"(?>(?:[^/]*/)*?{run}/)" for run in spelt[1:-1])
    return (f"{first}/" if first else "") + middle + (f"(?:[^/]*+/)*{last}" if last else ".+")


def _part(part: str) -> str:
    return starred([re.escape(text).replace(r"\?", "[^/]") for text in re.split(r"\*+", part)])


def starred(texts: Sequence[str]) -> str:
    """Return the expression of a part of a path from those of the texts between its `*`.

    The texts have a fixed length each.
    """
    if len(texts) == 1:
        return texts[0]
    return texts[0] + "".join(f"(?>[^/]*?{text})" for text in texts[1:-1]) + f"[^/]*{texts[-1]}"

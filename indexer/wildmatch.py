"""A pattern of a `.gitignore` file as a regular expression, read as git reads it (its `dir.c` and `wildmatch.c`)."""

import re
import string
from typing import NamedTuple

from rag.glob import composed, path_expression, starred

_SINGLE = r"\\.|[^\\]"  # a character between brackets
_ITEM = rf"\[:[^\]]*:\]|{_SINGLE}"
_TOKEN = re.compile(
    # A `]` at the beginning of what stands between brackets is one of the characters.
    rf"\[(?P<negated>[!^]?+)(?P<items>(?>{_ITEM})(?>(?!\])(?:{_ITEM}))*+)\]"
    r"|(?P<stars>\*+)|(?P<any>\?)|(?P<slash>\\?/)|(?P<plain>\\.|[^\\\[])",
    re.DOTALL,
)
_RANGE = re.compile(
    rf"\[:(?P<named>[^\]]*):\]|(?P<first>{_SINGLE})-(?P<last>{_SINGLE})|(?P<alone>{_SINGLE})", re.DOTALL
)
_NAMED = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, (*range(32), 127))),
    "digit": string.digits,
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "punct": string.punctuation,
    "space": string.whitespace,
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}


class Wildmatch(NamedTuple):
    """What a pattern matches: whole paths, `rag.glob.composed`, those of folders alone where it is for `folders`.

    `matches` is False where a `!` takes that back.
    """

    matches: bool
    folders: bool
    regex: re.Pattern[str]


def compile_pattern(line: str) -> Wildmatch | None:
    """Return what a line means, None where it is empty, a comment, or speaks of no path that there could be (`a//b`).

    Raises `ValueError` or `re.error` for what is no pattern, such as a bracket that nothing closes.
    """
    line = composed(_trimmed(line))
    if not line or line.startswith("#"):
        return None
    pattern = line.removeprefix("!")
    if not pattern:
        raise ValueError("it takes back nothing")
    path = pattern.removesuffix("/")
    parts = _parts(path.removeprefix("/"))
    if "" in parts:
        return None
    if "/" not in path:  # the name of a file or folder at any depth
        parts.insert(0, "**")
    return Wildmatch(pattern == line, path != pattern, re.compile(path_expression(parts), re.DOTALL))


def _trimmed(line: str) -> str:
    """Without the spaces at its end, but for one that a backslash keeps."""
    bare = line.rstrip(" ")
    keeps = (len(bare) - len(bare.rstrip("\\"))) % 2 == 1
    return bare + line[len(bare) :][:1] if keeps else bare


def _parts(path: str) -> list[str]:
    """The expressions of the parts between `/`, and `**` for those that are any number of folders."""
    parts: list[list[str]] = [[]]
    at = 0
    while at < len(path):
        token = _TOKEN.match(path, at)
        if token is None:
            raise ValueError("it has a bracket that nothing closes, or a backslash at its end")
        at = token.end()
        if token["slash"]:
            parts.append([])
        else:
            parts[-1].append(token["stars"] or _character(token))
    return [_part(pieces) for pieces in parts]


def _part(pieces: list[str]) -> str:
    if len(pieces) == 1 and pieces[0].startswith("**"):
        return "**"
    texts = [""]
    for piece in pieces:
        if piece.startswith("*"):
            texts.append("")
        else:
            texts[-1] += piece
    return starred(texts)


def _character(token: re.Match[str]) -> str:
    if token["any"]:
        return "[^/]"
    return re.escape(token["plain"][-1]) if token["plain"] else _set(token["negated"], token["items"])


def _set(negated: str, items: str) -> str:
    """The expression of one character between brackets, which is never a `/`. Raises `ValueError`."""
    spelt = []
    for item in _RANGE.finditer(items):
        if item["named"] is not None:
            if item["named"] not in _NAMED:
                raise ValueError(f"no characters are called {item['named']!r}")
            spelt.append(re.escape(_NAMED[item["named"]]))
        else:
            ends = [re.escape(end[-1]) for end in item.group("first", "last", "alone") if end]
            spelt.append("-".join(ends))
    return f"(?!/)[{'^' if negated else ''}{''.join(spelt)}]"

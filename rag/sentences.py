"""Where sentences begin and end: the units of evidence, of citations and of the chunker's cuts.

Rules instead of a model: no dependency, several megabytes a second, and a wrong cut can be explained. A full stop ends a
sentence unless what stands before it is an abbreviation, an initial or a list number, or what follows goes on in lower
case. A line break ends one unless the line was wrapped, which its length and the next line's first letter tell.
"""

import re

from rag.datatypes import Span

# A stop of a script that writes spaces must be followed by one; the full-width stops of Chinese and Japanese need none.
_CLOSERS = r"""["'”’»›)\]}*_`]"""
_BOUNDARY = re.compile(
    rf"(?P<stop>[.!?…‥؟۔।॥։።]+{_CLOSERS}*(?:\[[\w ]{{1,12}}\])*)(?=\s|$)"
    r"|(?P<wide>[。！？｡．]+[」』）】》〉”’)\]]*)"
    r"|(?P<line>[^\S\n]*\n\s*)"
)
_WORD_BEFORE = re.compile(r"[^\s(\[{\"'“‘«—–/]*$")
_OPENERS = "\"'“‘«‹([{¿¡*_`„「『（"

# Almost always followed by the rest of the same sentence.
_INSIDE = frozenset(
    "mr mrs ms mx dr prof st gen col lt sgt capt cpt cmdr adm maj rev hon sen rep gov pres supt mt messrs mme mlle fr br sr. "
    "vs v cf e.g i.e eg ie viz ca approx resp incl excl ex nos fig figs eq eqs sec secs ch chap vol vols ed eds pp art ref "
    "refs tab app appx dept univ assn bros a.k.a aka b d fl r n z.b d.h bzw u.a vgl nr bd hrsg ggf sog evtl ggü".split()
)
# May close a sentence as well: they do before a word that rarely stands inside one.
_EITHER = frozenset(
    "inc ltd corp co llc plc jr sr esq etc al op cit ibid ph.d m.d b.a m.a b.sc m.sc d.c u.s u.k u.n e.u u.s.a a.m p.m "
    "a.d b.c b.c.e c.e ave blvd rd min max est usw".split()
)
# Abbreviations only before a number.
_BEFORE_NUMBER = frozenset("no p s § jan feb mar apr jun jul aug sep sept oct nov dec art para l ll c line".split())
_STARTERS = frozenset(
    "a an the this that these those there it its he she they we you i his her their our my in on at by for from with as if "
    "when while after before since during although though because however moreover furthermore therefore thus hence but "
    "and or so then also some many most all each every both no not one two what who where why how which once until "
    "according under over to of see let do".split()
)

_LIST_ITEM = re.compile(r"(?:[-*+•‣◦▪·–]|\(?\d{1,3}[.)]|\(?[A-Za-z][.)]|\([ivx]{1,4}\))[ \t]")
_BLOCK_START = re.compile(r"#{1,6}\s|[>|]|```|~~~|\.\. |:[\w ]{1,30}: |={2,6}\s|<|[-=~^*_+]{3,}\s*$", re.MULTILINE)
_RULE = re.compile(r"[-=~^*_+#.`]{3,}")
_LIST_NUMBER = re.compile(r"\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})")
# Text wrapped by an editor or a mail program: lines of this many characters that break off in mid-sentence.
_SHORTEST_WRAP, _SURE_WRAP, _LONGEST_WRAP = 20, 60, 120


def sentence_spans(text: str) -> list[Span]:
    """Return the spans of the sentences of `text`, in order, without the whitespace around them.

    Headings, list items, table rows and unwrapped lines are sentences of their own. Spans never overlap, and every
    character that is not whitespace lies in one.
    """
    spans: list[Span] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        kind = match.lastgroup
        if kind == "line":
            if _is_wrap(text, match.start(), match.end(), match.group()):
                continue
        elif kind == "stop" and not _is_end(text, match):
            continue
        _append(spans, text, start, match.end())
        start = match.end()
    _append(spans, text, start, len(text))
    return spans


def _append(spans: list[Span], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    stripped = piece.strip()
    if stripped:
        start += len(piece) - len(piece.lstrip())
        spans.append(Span(start, start + len(stripped)))


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether the stop of `match` ends a sentence, judged by the words on both sides of it."""
    after = _next_word(text, match.end())
    if not after:
        return True
    first = after[0]
    if first.islower() and not (len(after) > 1 and after[1].isupper()):  # eBay and iPhone begin sentences
        return False
    stop = match.group()
    if stop[0] != "." or stop.startswith(".."):
        return True
    before = _word_before(text, match.start())
    if _numbers_an_item(text, match.start(), before):
        return False
    word = before.lower()
    if word in _INSIDE:
        return False
    if word in _BEFORE_NUMBER and first.isdigit():
        return False
    if word in _EITHER or _is_initial(before):
        return after.lower().rstrip(",") in _STARTERS
    return True


def _next_word(text: str, at: int) -> str:
    """The next word on the same line, without opening quotes and brackets; empty at the end of the line."""
    line_end = text.find("\n", at, at + 80)
    words = text[at : line_end if line_end >= 0 else at + 80].split(maxsplit=1)
    return words[0].lstrip(_OPENERS) if words else ""


def _word_before(text: str, at: int) -> str:
    found = _WORD_BEFORE.search(text[max(0, at - 20) : at])
    return found.group() if found else ""


def _is_initial(word: str) -> bool:
    """`J`, or a chain of them as in `J.R.R`."""
    return all(len(letter) == 1 and letter.isupper() for letter in word.split(".")) if word else False


def _numbers_an_item(text: str, at: int, word: str) -> bool:
    """Whether the stop at `at` belongs to a list number such as `3.` or `b.` that begins its line."""
    if not _LIST_NUMBER.fullmatch(word):
        return False
    line_start = text.rfind("\n", 0, at) + 1
    return text[line_start:at].strip(" \t(") == word


def _is_wrap(text: str, start: int, end: int, gap: str) -> bool:
    """Whether the line break in `gap` only wraps a sentence that goes on in the next line."""
    if gap.count("\n") > 1 or end == len(text):
        return False
    line_start = text.rfind("\n", 0, start) + 1
    line = text[line_start:start].strip()
    if not _SHORTEST_WRAP <= len(line) <= _LONGEST_WRAP or line[0] in "#|" or line[-1] in ":|" or _RULE.fullmatch(line):
        return False
    if _LIST_ITEM.match(text, end) or _BLOCK_START.match(text, end):
        return False
    if text[end].islower():
        return True
    return len(line) >= _SURE_WRAP

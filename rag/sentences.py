"""Where sentences begin and end: the units of evidence, of citations and of the chunker's cuts.

Rules instead of a model: no dependency, nine megabytes of English a second, and a wrong cut can be explained. A full
stop ends a sentence unless what stands before it is an abbreviation, an initial or a list number, or what follows goes
on in lower case. A line break ends one unless it only wraps the line, which its length and the words around it tell.
"""

import re

from rag.datatypes import Span

# A stop of a script that writes spaces must be followed by one; the full-width stops of Chinese and Japanese need none.
# French writes a space before the quotation mark that closes, German closes with the ones that open elsewhere.
# Lookbehind and possessive quantifiers keep a line of a million dots linear.
_BOUNDARY = re.compile(
    r"""(?P<stop>(?<![.!?…‥؟۔।॥։።])[.!?…‥؟۔।॥։።]++(?:["'”“’‘»«›‹)\]}*_`]|[ \u00a0\u202f]»(?=\s|$))*+"""
    r"(?:\[[\w ]{1,12}\])*+)(?=\s|$)"
    r"|(?P<wide>[。！？｡]++[」』）】》〉”’)\]]*+)"
    r"|(?P<line>\n\s*+)"
)
_WORD_BEFORE = re.compile(r"[^\s(\[{\"'“‘«—–/]*$")
_LETTERS = re.compile(r"[^\W\d_]+")
_ONE_LETTER = re.compile(r"[^\W\d_]\.")
_SPACED = re.compile(r"(?<![^\s(])(?:[^\W\d_]\.\s)+[^\W\d_]{1,2}$")
_OPENERS = "\"'“‘«‹([{¿¡*_`„「『（"


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


# A name follows. Counted only where they are capitalized.
_TITLES = _words(
    "mr mrs ms mx dr prof gen col lt sgt capt cpt cmdr adm maj rev hon sen rep gov pres supt messrs mme mlle fr hr "
    "sra srta dra ft"
)
# The same sentence goes on. "v" stands between the parties of a case.
_INSIDE = _words(
    "v vs cf e.g i.e viz ca approx resp incl excl a.k.a z.b d.h bzw u.a vgl nr ggf sog p.ej p.ex dept univ assn "
    "inkl exkl zzgl bspw evtl med rer nat i.d.r i.v.m z.t z.zt u.u v.a s.o s.u o.g m.e az urt env"
)
# May close a sentence as well: they do before a word that rarely stands inside one with a capital.
_EITHER = _words(
    "inc ltd corp co llc plc jr sr esq etc al op cit ibid ph.d m.d b.a m.a b.sc m.sc u.s u.k u.n e.u u.s.a d.c a.m "
    "p.m a.d b.c b.c.e c.e st mt ave blvd rd bros ed eds est usw mio mrd jh str"
)
_BEFORE_NUMBER = _words(
    "no nos p pp fig figs eq eqs sec secs ch chap vol vols art tab app ref refs para l ll c jan feb mar apr jun jul "
    "aug sep sept oct nov dec kap abs ziff bd abb tel max min mind typ rn ver"
)
_ROMAN = re.compile(r"[IVXLC]+\b(?!['’])")
# Before a number with a stop they say that it is an ordinal of German: "die 5. Auflage", "am 1. Advent".
_ORDINAL = re.compile(r"(?<!\w)(?:[dD](?:er|ie|as|em|en|es)|(?<![iI] )[aA]m|[iI]m|[vV]om|[zZ]u[mr]|[bB]eim)\s+\d{1,3}$")
# What a number with a stop, an ordinal of German, counts: days of a month, and what histories are divided by.
_COUNTED = _words(
    "januar jänner februar feber märz april mai juni juli august september oktober november dezember jahrhundert "
    "jahrhunderts jahrtausend jahrtausends jh weltkrieg weltkriegs weltkrieges"
)
_STARTERS = _words(
    "a an the this that these those there it its he she they we you i his her their our my in on at by for from with "
    "as if when while after before since during although though because however moreover furthermore therefore thus "
    "hence but and or so then also some many most all each every both not one two what who where why how which once "
    "until according under over to of see let do der die das ein eine er sie es wir ihr im und aber oder doch dies "
    "diese dieser dieses dann"
)
# A line that ends in one of these has not ended its sentence.
_UNFINISHED = _words(
    "a an the of in on at by for from with to and or but nor as if is are was were be that than which who into its "
    "their his her our your this these those not no"
)

# How an item of a list begins.
LIST_ITEM = re.compile(r"(?:[-*+•‣◦▪·–]|\(?\d{1,3}[.)]|\(?[A-Za-z][.)]|\([ivx]{1,4}\))[ \t]")
_BLOCK_START = re.compile(r"#{1,6}\s|[>|<]|```|~~~|\.\. |:[\w ]{1,30}: |={2,6}\s|[-=~^*_+]{3,}[ \t]*$", re.MULTILINE)
_RULE = re.compile(r"[-=~^*_+#.`]{3,}")
_LIST_NUMBER = re.compile(r"\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})")
# Lines wrapped by an editor or a mail program are this long; a shorter one ended where its author wanted it to.
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
            if _is_wrap(text, match.start(), match.end()):
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
    first, letters = after[0], _LETTERS.match(after)
    if first.islower() and letters and letters.group().islower():  # eBay, macOS and getName begin sentences
        return False
    stop = match.group()
    if stop[0] != "." or stop.startswith(".."):
        return True
    before = _word_before(text, match.start())
    word = before.lower()
    if _numbers_an_item(text, match.start(), before) or word in _INSIDE or (word in _TITLES and before[0].isupper()):
        return False
    if len(word) <= 2 and word.isalpha() and _goes_on_spaced(text, match.start(), before, after):
        return False
    if word in _BEFORE_NUMBER and (first.isdigit() or _is_roman(after, before)):
        return False
    if word.isdecimal() and _is_ordinal(text, match.start(), word, after.lower().rstrip(".,;:!?)")):
        return False
    if word in _EITHER or _is_initial(before):
        return after.lower().rstrip(",") in _STARTERS
    return True


def _next_word(text: str, at: int) -> str:
    """The next word of the same paragraph, without opening quotes and brackets; empty where a line ends for good."""
    ahead = text[at : at + 80]
    words = ahead.split(maxsplit=1)
    if not words:
        return ""
    gap = ahead[: len(ahead) - len(ahead.lstrip())]
    if "\n" in gap and not _is_wrap(text, at + len(gap) - len(gap.lstrip(" \t\r")), at + len(gap)):
        return ""
    return words[0].lstrip(_OPENERS)


def _word_before(text: str, at: int) -> str:
    found = _WORD_BEFORE.search(text[max(0, at - 20) : at])
    return found.group() if found else ""


def _goes_on_spaced(text: str, at: int, before: str, after: str) -> bool:
    """Whether the stop at `at` belongs to an abbreviation that is written with spaces: "z. B.", "i. d. R."."""
    if len(before) == 1 and before.islower() and _ONE_LETTER.match(after):
        return True
    found = _SPACED.search(text, max(0, at - 20), at)
    return found is not None and re.sub(r"\s", "", found.group()).lower() in _INSIDE


def _is_roman(after: str, before: str) -> bool:
    """Whether a Roman number follows; "I" is one behind "Art.", and not behind "art."."""
    found = _ROMAN.match(after)
    return found is not None and (len(found.group()) > 1 or before[0].isupper())


def _is_ordinal(text: str, at: int, number: str, after: str) -> bool:
    """Whether the number before a stop is an ordinal of German: by what it counts, or by the article before it."""
    if after in _COUNTED:
        return len(number) <= 2
    return after not in _STARTERS and _ORDINAL.search(text, max(0, at - 20), at) is not None


def _is_initial(word: str) -> bool:
    """`J`, or a chain of them as in `J.R.R`."""
    return all(len(letter) == 1 and letter.isupper() for letter in word.split(".")) if word else False


def _numbers_an_item(text: str, at: int, word: str) -> bool:
    """Whether the stop at `at` belongs to a list number such as `3.` or `b.` that begins its line."""
    if not _LIST_NUMBER.fullmatch(word):
        return False
    line_start = text.rfind("\n", max(0, at - 200), at) + 1
    return text[max(line_start, at - 200) : at].strip(" \t(") == word


def _is_wrap(text: str, start: int, end: int) -> bool:
    """Whether the line break in the whitespace `[start, end)` only wraps a sentence that goes on in the next line."""
    if end == len(text) or text.count("\n", start, end) > 1:
        return False
    line_start = text.rfind("\n", max(0, start - 2 * _LONGEST_WRAP), start) + 1
    line = text[line_start:start].strip()
    if not _SHORTEST_WRAP <= len(line) <= _LONGEST_WRAP or line[0] in "#|" or line[-1] in ":|" or _RULE.fullmatch(line):
        return False
    if LIST_ITEM.match(text, end) or _BLOCK_START.match(text, end):
        return False
    last = line.rsplit(maxsplit=1)[-1]
    if len(line) >= _SURE_WRAP or last[-1] == "," or last in _UNFINISHED or last.lower().rstrip(".") in _TITLES:
        return True
    return text[end : end + 4].lstrip(_OPENERS)[:1].islower()

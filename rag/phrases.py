"""What a text speaks of: its names and noun phrases, found by closed word classes and capitals, without a tagger.

A phrase is a run of words between function words and punctuation, as in RAKE (Rose et al. 2010, "Automatic Keyword
Extraction from Individual Documents"); a name is a run of capitalized words, small words inside it included ("Bank of
Norrin"). English only: in other languages the runs are longer, and nothing breaks.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from rag.sentences import sentence_spans

# A comma belongs to a number whose thousands it parts; underscores join the words of one name of a program.
_WORD = re.compile(r"[^\W_]+(?:(?:[-.'’&/+]|_{1,2})[^\W_]+|(?<=\d),\d{3}(?!\d))*[+#]*")

PRONOUNS = frozenset(
    """i me my mine myself you your yours yourself we us our ours he him his himself she her hers herself it its itself
    they them their theirs themselves this that these those one ones someone anyone everyone somebody anybody nobody
    something anything everything nothing who whom whose which what""".split()
)
AUXILIARIES = frozenset(
    """am is are was were be been being do does did doing done have has had having can could will would shall should may
    might must ought isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't cannot couldn't won't
    wouldn't shouldn't isn’t aren’t wasn’t weren’t don’t doesn’t didn’t haven’t hasn’t hadn’t can’t couldn’t won’t
    wouldn’t shouldn’t what's what’s who's who’s it's it’s that's that’s there's there’s i'm i’m i've i’ve""".split()
)
PREPOSITIONS = frozenset(
    """of in on at to for from by with without about against between among into through during before after above below
    under over up down out off near since until till per via within across along around behind beside besides beyond
    despite except inside outside onto upon toward towards regarding concerning like unlike as than""".split()
)
QUESTION_WORDS = frozenset("what which who whom whose when where why how".split())
# Determiners, conjunctions and adverbs that name nothing.
_SMALL = frozenset(
    """a an the and or but nor so yet if because although though while whereas whether unless then else also too either
    neither both each every all any some no none not only just even still already ever never always often sometimes
    usually very much many more most less least few several enough such same other others another own here there now
    today again once else instead rather quite really well actually maybe perhaps anyway otherwise etc i.e e.g vs long
    far old""".split()
)
# What people say to the one they ask, not of what they ask.
_CHATTER = frozenset(
    """hi hello hey please thanks thank ok okay yes yeah yep no nope sorry oh wow hmm well great good nice tell explain
    compare describe clarify give say know want need like mean help think wonder wondering let see ask asking
    question questions answer information info detail details example examples talk talking speak speaking heard hear
    look looking get got make made take go going come use used using try trying provide sure interested curious
    thing things something kind sort way ways lot bit btw""".split()
)
FUNCTION_WORDS = PRONOUNS | AUXILIARIES | PREPOSITIONS | QUESTION_WORDS | _SMALL
EMPTY_WORDS = FUNCTION_WORDS | _CHATTER
ALSO_NAMES = frozenset({"may", "will"})  # of a month, of people; where they lead on
_SMALL_IN_NAMES = FUNCTION_WORDS - ALSO_NAMES - {"i"}
_INSIDE_NAMES = frozenset("of the and for de la le du des da di del van von der den al el &".split())
# Long Island, Great Britain, Old Trafford: they describe, and a name may begin with them.
_MAY_LEAD_NAMES = (EMPTY_WORDS - PRONOUNS - AUXILIARIES - QUESTION_WORDS - {"the", "a", "an"}) | ALSO_NAMES
# Words that end a noun phrase or begin one without being of it, beside those in -ly and -ed.
_VERBS = frozenset(
    """built done gone taken given written begun born bought brought caught chosen cost cut drawn driven eaten fallen
    felt fought flown frozen grown held hidden hit hurt kept laid led left lent lost meant met paid put ridden risen
    run said seen sold sent set shot shut sung sat slept spoken spent stood stolen struck swum taught told thrown
    understood won worn burnt became became began broke chose drank drew drove ate fell flew forgot froze gave grew
    hid rode rose sang sank spoke stole swam threw took wore wrote work works happen happens occur occurs exist
    exists contain contains create build buy sell pay follow open close start stop begin end keep choose find leave
    live die run""".split()
)
_SMALL_IN_TITLES = PREPOSITIONS | _INSIDE_NAMES | frozenset("a an but or nor so yet if vs i.e e.g etc".split())
DETERMINERS = frozenset("the a an my our your his her its their this that these those".split())
_BEFORE_SUBJECTS = frozenset("do does did can could will would shall should may might must".split())
_BEFORE_VERBS = frozenset("not never ever".split())
_BE = frozenset("is are was were".split())
_SUBJECTS = frozenset("i you we they he she it".split())
# What they ask of a thing is the thing itself: in "what is machine learning" nothing is said of a machine.
_ASKS_FOR = frozenset("what which who whom where".split())


class Token(NamedTuple):
    """A word as it is written, and where it stands."""

    text: str
    start: int
    end: int

    @property
    def low(self) -> str:
        """The word, case-folded."""
        return self.text.casefold()


class Phrase(NamedTuple):
    """A run of words that names something; `name` where its capitals say that it is a proper name.

    `determiner` is the article or the like before it, in lower case, "" where there is none.
    """

    text: str
    start: int
    name: bool
    determiner: str = ""

    @property
    def key(self) -> frozenset[str]:
        """Its words, case-folded: two phrases that share them are one."""
        return frozenset(w.low for w in tokens(self.text))


def tokens(text: str) -> list[Token]:
    """Return the words of a text in order; inner hyphens, dots and apostrophes belong to a word."""
    return [Token(m.group(), m.start(), m.end()) for m in _WORD.finditer(text)]


def phrases(text: str) -> list[Phrase]:
    """Return the phrases of a text in order."""
    return [phrase for span in sentence_spans(text) for phrase in _phrases(text[span.start : span.end], span.start)]


def _phrases(sentence: str, offset: int) -> Iterator[Phrase]:
    words = tokens(sentence)
    title_case, shouted = _title_case(words), _shouted(words)
    capitals = [not shouted and _is_capital(words, i, title_case) for i in range(len(words))]
    i = 0
    while i < len(words):
        degree = i > 0 and words[i - 1].low == "how"  # "how deep"
        if not capitals[i] and (degree or words[i].low in EMPTY_WORDS):
            i += 1
            continue
        named = capitals[i]
        end = _name_end(sentence, words, capitals, i) if named else _run_end(sentence, words, capitals, i)
        first, last = (i, _noun_after(sentence, words, capitals, i, end)) if named else _noun(words, i, end)
        determiner = words[first - 1].low if first and words[first - 1].low in DETERMINERS else ""
        text = sentence[words[first].start : words[last - 1].end]
        if named or not all(_is_verb(word.low) for word in words[first:last]):
            yield Phrase(text, offset + words[first].start, named, determiner)
        i = max(end, last)


def _noun(words: list[Token], start: int, end: int) -> tuple[int, int]:
    """Return the run `[start, end)` without the verbs and adverbs at its ends; one word at least."""
    first, last = start, end
    auxiliary = (
        words[start - 2 if start > 1 and words[start - 1].low in DETERMINERS else start - 1].low if start else ""
    )
    opens = auxiliary in _BE and start <= 2 and words[0].low not in _ASKS_FOR
    # "does apple strudel need", "did the old mill not burn", "did the royal proclamation of 1763 end"
    after = words[end].low if end < len(words) else ""
    whole = after in AUXILIARIES | _CHATTER | _BEFORE_VERBS or (after == "of" and words[-1].low not in EMPTY_WORDS)
    if (auxiliary in _BEFORE_SUBJECTS or opens) and last - first > 1 and not whole:
        last -= 1  # "does the mill grind", "is the mill safe": what is said of a subject follows it
    if start and words[start - 1].low in _SUBJECTS and last - first > 1:
        first += 1  # "do I bake bread"
    while last - first > 1 and _is_verb(words[last - 1].low):
        last -= 1
    while last - first > 1 and _is_verb(words[first].low):
        first += 1
    return first, last


def _noun_after(sentence: str, words: list[Token], capitals: list[bool], start: int, end: int) -> int:
    """Return the end of a name with the common noun that it may lead up to, as in "the Tolmen mill", "Ada's mill"."""
    if end == len(words) or not _adjoin(sentence, words, end):
        return end
    owner = words[end - 1].low.endswith(("'s", "’s"))  # "Bush's father" is not Bush
    if not owner and (not start or words[start - 1].low not in DETERMINERS):
        return end
    run = _run_end(sentence, words, capitals, end) - end
    plain = not capitals[end] and words[end].low not in EMPTY_WORDS and not _is_verb(words[end].low)
    auxiliary = words[start - 2].low if start > 1 else ""
    # "did the Tolmen burn", "is the Tolmen open", but "what is the Tolmen mill for"
    lone_verb = run == 1 and auxiliary in AUXILIARIES and (auxiliary not in _BE or start == 2)
    return end + 1 if plain and not lone_verb else end


def _is_verb(word: str) -> bool:
    return word in _VERBS or (len(word) > 4 and word.endswith(("ly", "ed")))


def _name_end(sentence: str, words: list[Token], capitals: list[bool], start: int) -> int:
    """Return where the name that begins at `start` ends, one past its last word."""
    end = start + 1
    while end < len(words):
        after = end
        while after < len(words) and after - end < 2 and words[after].low in _INSIDE_NAMES and not capitals[after]:
            after += 1
        joined = after < len(words) and all(_adjoin(sentence, words, j) for j in range(end, after + 1))
        if not joined or not (capitals[after] or words[after].text.isdigit()):
            break
        end = after + 1
    return end


def _run_end(sentence: str, words: list[Token], capitals: list[bool], start: int) -> int:
    end = start + 1
    while (
        end < len(words) and not capitals[end] and words[end].low not in EMPTY_WORDS and _adjoin(sentence, words, end)
    ):
        end += 1
    return end


def _adjoin(sentence: str, words: list[Token], i: int) -> bool:
    """Whether only a space lies between a word and the one before it, or the stop of an initial or a title: a name's.

    Another stop is none within a sentence.
    """
    gap = sentence[words[i - 1].end : words[i].start].strip()
    return not gap or (gap == "." and words[i - 1].text[0].isupper() and words[i].text[0].isupper())


def _is_capital(words: list[Token], i: int, title_case: bool) -> bool:
    """Whether a word's capital tells of a name: not a sentence's first, nor one where every word has one."""
    word = words[i]
    if not any(letter.isupper() for letter in word.text):
        return False
    if word.low in EMPTY_WORDS and not (word.text.isupper() and len(word.text) > 1):
        return word.low in _MAY_LEAD_NAMES and i > 0 and not title_case and _leads_on(words, i)
    if i == 0 and not any(letter.isupper() or letter.isdigit() for letter in word.text[1:]):
        return len(words) > 1 and words[1].text[0].isupper() and words[1].low not in EMPTY_WORDS
    return not title_case


def _leads_on(words: list[Token], i: int) -> bool:
    """Whether a number follows, or what a name may go on with: May 1990, Will Smith."""
    after = words[i + 1] if i + 1 < len(words) else None
    return after is not None and (after.text.isdigit() or (after.text[0].isupper() and after.low not in EMPTY_WORDS))


def _title_case(words: list[Token]) -> bool:
    """Whether a small word has a capital since every word has one that is more than an article or a preposition."""
    small = any(w.text[0].isupper() and w.low in _SMALL_IN_NAMES and not w.text.isupper() for w in words[1:])
    return small and not any(w.text[0].islower() and w.low not in _SMALL_IN_TITLES for w in words)


def _shouted(words: list[Token]) -> bool:
    """Whether all is in capitals, small words too, so that they tell of no name."""
    return all(w.text == w.text.upper() for w in words) and any(w.low in EMPTY_WORDS for w in words)

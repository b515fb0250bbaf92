"""Texts as the words that a lenient reader compares: case, accents, plurals and ways of writing numbers aside.

SQuAD's own normalisation is `eval.scorers.normalize_answer`; this is for scorers that are to agree with people.
English, and harmless elsewhere.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache, lru_cache
from typing import Any

from rag.text import STOP_WORDS

# Longer texts are cut: an answer has some hundred words, a cited passage some thousand.
MAX_TEXT = 20_000

_PLAIN = str.maketrans(dict.fromkeys("‘’ʼ`´′", "'") | {"æ": "ae", "Æ": "Ae", "ø": "o", "Ø": "O", "œ": "oe", "ł": "l"})
_POSSESSIVE = re.compile(r"(?:'|(?<=\d))s\b|'")  # and the s of 1930s
# ½ and ² would be digits of the number before them.
_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞⁰¹²³⁴-⁹])")
_POWER = re.compile(r"\b(mm|cm|m|km|ft|in|mi)([²³]|[23]\b)")
_POWERS = {"²": "square", "2": "square", "³": "cubic", "3": "cubic"}
# Pages copied as text glue links to the word before ("directed byWilliam") and footnote marks to a year ("19651.").
_GLUED = re.compile(r"(?<=[a-z]{3})(?=[A-Z][a-z])|\b(of|by|the|in|and|is|was|to|for|at|as|on|an?)(?=[A-Z0-9][a-z0-9])")
_FOOTNOTE = re.compile(r"\b((?:1\d|20)\d\d)[1-9]{1,2}(?=[.,;]?(?:\s|$))")
_YEARS = re.compile(r"\b(1\d|20)(\d\d)[-–](\d\d)\b(?![-–]\d)")  # 1990-95, not 1990-12-31
_MONEY = re.compile(r"([£$€]\s?\d[\d.,]*)\s?(m|mn|bn|b|k)\b", re.IGNORECASE)  # £50m
_CURRENCY = re.compile(r"([£$€])\s?(\d[\d.,]*(?:\s?(?:thousand|million|billion|trillion)\b)?)", re.IGNORECASE)
_CURRENCIES = {"$": "dollars", "€": "euros", "£": "pounds"}
_MINUS = re.compile(r"(?<![\w.,)\]%])(?<!\d\s)[-−](?=\d)")  # not that of a range
_MONEY_SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_INITIALS = re.compile(r"\b(?:[A-Za-z]\.\s?){2,}")
_ROMAN = re.compile(r"\b(?=[IVX]{2})X{0,3}(?:IX|IV|V?I{0,3})\b")
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_ORDINAL_ENDINGS = frozenset({"st", "nd", "rd", "th"})
_LONGEST_NUMBER = 15  # digits that a float holds exactly
_EXACT_BELOW = 2_100

_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
_NUMBERS = {
    **{name: value for value, name in enumerate(_UNITS)},
    **{name: 10 * value for value, name in enumerate(_TENS, 2)},
    **{name: value for value, name in enumerate(_ORDINALS, 1)},
}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}

_TITLES = frozenset("mr mrs ms miss dr sir dame lord lady prof professor jr sr saint st".split())
_SAME = {
    "usa": "us", "america": "us", "american": "us", "britain": "uk", "british": "uk", "england": "uk", "english": "uk",
    "kilometre": "km", "kilometer": "km", "kilometres": "km", "kilometers": "km",
    "metre": "m", "meter": "m", "metres": "m", "meters": "m", "mile": "mi", "miles": "mi", "feet": "ft", "foot": "ft",
    "millimetre": "mm", "millimeter": "mm", "millimetres": "mm", "millimeters": "mm",
    "centimetre": "cm", "centimeter": "cm", "centimetres": "cm", "centimeters": "cm",
    "gram": "g", "grams": "g", "gramme": "g", "grammes": "g", "kilo": "kg", "kilos": "kg", "kilogram": "kg",
    "kilograms": "kg", "milligram": "mg", "milligrams": "mg", "tonne": "ton", "tonnes": "ton", "lb": "pound",
    "lbs": "pound", "oz": "ounce", "litre": "l", "liter": "l", "litres": "l", "liters": "l", "millilitre": "ml",
    "milliliter": "ml", "millilitres": "ml", "milliliters": "ml", "teaspoon": "tsp", "teaspoons": "tsp",
    "tablespoon": "tbsp", "tablespoons": "tbsp", "celsius": "c", "centigrade": "c", "fahrenheit": "f",
    "min": "minute", "mins": "minute", "hr": "hour", "hrs": "hour", "sec": "seconds", "secs": "seconds",
    "sq": "square", "stunde": "hour", "stunden": "hour", "tage": "day", "tagen": "day", "woche": "week",
    "wochen": "week", "monate": "month", "monaten": "month", "jahre": "year", "jahren": "year", "minuten": "minute",
    "heure": "hour", "heures": "hour", "jours": "day", "semaine": "week", "semaines": "week", "mois": "month",
    "jan": "january", "feb": "february", "aug": "august", "sept": "september", "oct": "october", "nov": "november",
    "dec": "december", "nobody": "none", "nothing": "none", "no": "none", "mom": "mother", "mum": "mother",
}  # fmt: skip
_PHRASES = {("united", "states"): "us", ("united", "kingdom"): "uk", ("great", "britain"): "uk"}


def tidy(text: str) -> str:
    """Return the text with plain quotes, whole years, squares in words, and nothing glued together by copying pages."""
    text = _FRACTION.sub(" ", _POWER.sub(lambda found: f"{_POWERS[found[2]]} {found[1]}", text[:MAX_TEXT]))
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    text = _FOOTNOTE.sub(r"\1 ", _YEARS.sub(r"\1\2 \1\3", text))
    return _GLUED.sub(r"\1 ", text)


def fold(text: str) -> list[str]:
    """Return the comparable words of a text, in order: stems, and numbers in digits."""
    text = _MONEY.sub(lambda found: f"{found[1]} {_MONEY_SCALES[found[2].lower()]}", tidy(text))
    text = _MINUS.sub(" minus ", _CURRENCY.sub(lambda found: f"{found[2]} {_CURRENCIES[found[1]]} ", text))
    text = _ROMAN.sub(lambda found: _arabic(found[0]), text)
    text = _INITIALS.sub(lambda found: re.sub(r"[.\s]", "", found[0]) + " ", text)
    text = _THOUSANDS.sub("", _POSSESSIVE.sub("", text)).replace("%", " percent ").replace("&", " and ")
    bare = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return [_stem(_SAME.get(word, word)) for word in _join_phrases(_count(_words(bare)))]


def content(words: Sequence[str]) -> list[str]:
    """Return the folded words that carry meaning, or all of them where none does."""
    return [word for word in words if word not in STOP_WORDS and word not in _TITLES] or list(words)


def is_number(word: str) -> bool:
    """Whether a folded word is a number."""
    return word[0].isdigit()


def same_number(one: str, other: str) -> bool:
    """Whether two folded numbers are the same, or the rougher one is the other, rounded or cut: 2.2 or 2.1 for 2.18.

    It must have two digits at the least; two whole numbers below `_EXACT_BELOW`, counts and years, are not rounded.
    """
    if one == other or max(len(one), len(other)) > _LONGEST_NUMBER:
        return one == other
    rough, fine = sorted((Decimal(one).normalize(), Decimal(other).normalize()), key=lambda n: len(n.as_tuple().digits))
    if len(rough.as_tuple().digits) < 2 or all(n < _EXACT_BELOW and n == n.to_integral_value() for n in (rough, fine)):
        return False
    return rough in (fine.quantize(rough, ROUND_DOWN), fine.quantize(rough, ROUND_HALF_UP))


def _words(text: str) -> Iterator[str]:
    """Yield words and numbers; letters that stand alone are initials and make one word, so that E. L. is EL."""
    initials = ""
    for found in _TOKEN.finditer(text):
        word = found[0]
        if len(word) == 1 and word.isalpha() and word != "a":
            initials += word
            continue
        if initials:
            yield initials
            initials = ""
        if word[0].isdigit():
            whole, _, fraction = word.partition(".")
            yield (whole.lstrip("0") or "0") + (f".{fraction}" if fraction.strip("0") else "")
        elif word not in _ORDINAL_ENDINGS or not text[found.start() - 1 : found.start()].isdigit():
            yield word
    if initials:
        yield initials


class _Counter:
    """A number under way: 1 thousand, 1 hundred and 30 2."""

    def __init__(self) -> None:
        self.total, self.part, self.counting = 0.0, 0.0, False

    def adds(self, value: float) -> bool:
        """Whether `value` goes on with this number: forty two does, seven eight and nineteen eighty do not."""
        if not self.counting:
            return True
        return self.part % 100 == 0 or (value < 10 and self.part % 100 >= 20 and self.part % 10 == 0)

    def add(self, value: float) -> None:
        self.part, self.counting = self.part + value, True

    def scale(self, scale: int) -> None:
        if scale == 100:
            self.part *= 100
        else:
            self.total, self.part = self.total + self.part * scale, 0.0

    def flush(self) -> Iterator[str]:
        if self.counting:
            number = self.total + self.part
            yield str(int(number)) if number == int(number) else str(round(number, 6))
        self.total, self.part, self.counting = 0.0, 0.0, False


def _count(words: Iterable[str]) -> Iterator[str]:
    """Turn numbers in words into digits: one thousand one hundred and thirty two -> 1132; 18 million -> 18000000."""
    number, held = _Counter(), ""
    for word in words:
        if word in _NUMBERS:
            if not number.adds(_NUMBERS[word]):
                yield from number.flush()
            number.add(_NUMBERS[word])
        elif word[0].isdecimal() and len(word) <= _LONGEST_NUMBER:
            yield from number.flush()
            yield from [held] if held else []
            number.add(float(word))
        elif number.counting and word in _SCALES:
            number.scale(_SCALES[word])
        elif number.counting and word == "and" and number.part % 100 == 0 and not held:
            held = word  # part of the number where one more word of it follows
            continue
        else:
            yield from number.flush()
            yield from [held] if held else []
            yield word
        held = ""
    yield from number.flush()
    yield from [held] if held else []


def _join_phrases(words: Iterable[str]) -> Iterator[str]:
    before = ""
    for word in words:
        if (before, word) in _PHRASES:
            before = _PHRASES[before, word]
            continue
        if before:
            yield before
        before = word
    if before:
        yield before


def _arabic(roman: str) -> str:
    values = [{"I": 1, "V": 5, "X": 10}[letter] for letter in roman]
    signs = [-1 if here < after else 1 for here, after in zip(values, [*values[1:], 0], strict=True)] if values else []
    return str(sum(s * v for s, v in zip(signs, values, strict=True))) if values else ""


@cache
def _stemmer() -> Any:
    import Stemmer

    return Stemmer.Stemmer("english", 0)  # 0: no cache of its own beside the one here


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    return word if is_number(word) else str(_stemmer().stemWord(word))

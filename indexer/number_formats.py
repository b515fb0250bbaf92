"""Numbers of a workbook with what their formats print around them: units, currencies, words (ECMA-376-1, 18.8.30)."""

import re
from decimal import ROUND_HALF_UP, Decimal

# What a format is made of: quoted words, escaped characters, currencies such as [$€-407], other brackets, padding as
# wide as a character, fillings, places of digits, ends of sections, and all else as it stands.
_PIECE = re.compile(
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|\[\$(?P<currency>[^\]-]*)[^\]]*\]|\[[^\]]*\]|_.|\*.'
    r"|(?P<places>General|[0#?][0#?.,/]*(?:E[+-]0+)?)|(?P<end>;)|(?P<other>.)",
    re.DOTALL | re.IGNORECASE,
)
_CURRENCIES = "$€£¥₩₹₽₺฿₫₪"
_DECIMALS = re.compile(r"[0#?]\.([0#?]+)$")
_ROUNDED_BELOW = 1e9
_LONGEST = 255  # characters of a format, which Excel allows


def number_as_shown(value: float, number_format: str) -> str:
    """Return a number with the unit, currency or words of its format; thousands are not told apart.

    What is rounded for its reader is rounded here, though not to whole numbers. Where a format shows thousands as ones,
    or fractions, it is the number alone.
    """
    if "%" in number_format:
        return f"{100 * value:.10g}%"
    before, places, after = _section(value, number_format[:_LONGEST])
    if not places:
        return before or _plain(value)
    if places.endswith(",") or "/" in places:
        return _plain(value)
    decimals = _DECIMALS.search(places)
    digits = _plain(_rounded(abs(value), len(decimals.group(1))) if decimals else abs(value))
    return f"{'-' if value < 0 else ''}{before}{digits}{after}"


def _section(value: float, number_format: str) -> tuple[str, str, str]:
    """What stands before a number, the places of its digits, and what stands behind them.

    A format has up to three sections: for positive numbers, for negative ones, for zero; the first is for all that have
    none of their own.
    """
    sections = [["", "", ""]]
    for piece in _PIECE.finditer(number_format):
        if piece["end"]:
            sections.append(["", "", ""])
            continue
        section = sections[-1]
        section[1] = section[1] or piece["places"] or ""
        if not piece["places"]:
            section[2 if section[1] else 0] += _word(piece)
    wanted = 2 if value == 0 else 1 if value < 0 else 0
    before, places, after = sections[wanted if wanted < len(sections) else 0]
    return _spoken(before), places, _spoken(after)


def _word(piece: re.Match[str]) -> str:
    word = piece["quoted"] or piece["escaped"] or piece["currency"] or ""
    return word or (piece["other"] if piece["other"] and piece["other"] in f"{_CURRENCIES} " else "")


def _spoken(words: str) -> str:
    """Words around a number, without brackets and dashes that only say that it is negative, or zero."""
    return words if any(char.isalpha() or char in _CURRENCIES for char in words) else ""


def _rounded(value: float, decimals: int) -> float:
    """As Excel rounds, halves up; what has no digits to spare stays as it is."""
    if value >= _ROUNDED_BELOW:
        return value
    return float(Decimal(str(value)).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def _plain(value: float) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)

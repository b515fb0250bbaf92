"""Amounts: a number, its sign and what it counts. Another unit is another amount, however alike the words are.

On folded words (`eval.folding`), which write a unit in one way. Units are a closed list: of things that are counted
("26,300 crowns", "5 people") nobody can say which are others.
"""

from collections.abc import Sequence
from typing import NamedTuple

from eval.folding import fold, is_number, same_number

_UNITS = frozenset(
    word
    for unit in """mm cm m km inches ft yards mi mg g kg tons ounces pounds stones ml cl dl l gallons pints quarts cups
    tsp tbsp seconds minutes hours days weeks months years decades centuries c f percent dollars euros cents yen yuan
    rupees crowns francs pesos kb mb gb tb mv v kv w kw mw hz khz mhz ghz nm bar psi pm""".split()
    for word in fold(unit)
) | {"am"}
# Between a number and its unit: a range's other end, "degrees Celsius", "square metres", "3 and a half hours".
_BETWEEN = frozenset(fold("degrees square cubic half")) | frozenset("to or and a".split())
_NEGATIVE = frozenset(fold("minus negative"))
_FARTHEST = 4  # words from a number to its unit


class Amount(NamedTuple):
    """A number as it is folded, and its unit, "" where none is known."""

    number: str
    unit: str
    negative: bool

    def may_be(self, other: "Amount") -> bool:
        """Whether the two are not plainly different."""
        same_unit = not (self.unit and other.unit) or self.unit == other.unit
        return same_unit and self.negative == other.negative and same_number(self.number, other.number)


def amounts(words: Sequence[str]) -> list[Amount]:
    """Return the amounts that stand in folded words, in order."""
    return [
        Amount(word, _unit(words[i + 1 : i + 1 + _FARTHEST]), i > 0 and words[i - 1] in _NEGATIVE)
        for i, word in enumerate(words)
        if is_number(word)
    ]


def _unit(after: Sequence[str]) -> str:
    for word in after:
        if word in _UNITS:
            return word
        if not (is_number(word) or word in _BETWEEN):
            break
    return ""

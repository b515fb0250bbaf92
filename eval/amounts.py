"""Amounts: a number, its sign and what it counts. Another unit is another amount, however alike the words are.

On folded words (`eval.folding`), which write a unit in one way. Units are a closed list: of things that are counted
("26,300 crowns", "5 people") nobody can say which are others. What is the same in another unit of one system, 2 hours
and 120 minutes, is the same amount.
"""

import math
from collections.abc import Mapping, Sequence
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
# Units of one system, and how much of one each is. From one system to another people round, and five of five such
# answers were called wrong (docs/evaluation.md). Months are not equally long.
_MEASURES: Sequence[Mapping[str, float]] = (
    {"mm": 0.001, "cm": 0.01, "m": 1, "km": 1000},
    {"inches": 1, "ft": 12, "yards": 36, "mi": 63_360},
    {"mg": 0.001, "g": 1, "kg": 1000},
    {"ounces": 1, "pounds": 16, "stones": 224},
    {"ml": 0.001, "cl": 0.01, "dl": 0.1, "l": 1},
    {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800},
    {"months": 1, "years": 12, "decades": 120, "centuries": 1200},
)
_SIZES = {fold(unit)[0]: (system, size) for system, units in enumerate(_MEASURES) for unit, size in units.items()}
_ROUNDED = 0.003  # 1.67 hours are 100 minutes
_POWERS = {fold("square")[0]: 2, fold("cubic")[0]: 3}


class Amount(NamedTuple):
    """A number as it is folded, and its unit, "" where none is known, to a power."""

    number: str
    unit: str
    negative: bool
    power: int = 1

    def may_be(self, other: "Amount") -> bool:
        """Whether the two are not plainly different."""
        if self.is_converted(other):
            return True
        same_unit = not (self.unit and other.unit) or self.unit == other.unit
        return same_unit and self.negative == other.negative and same_number(self.number, other.number)

    def is_converted(self, other: "Amount") -> bool:
        """Whether the two are the same in two units."""
        mine, theirs = _SIZES.get(self.unit), _SIZES.get(other.unit)
        if mine is None or theirs is None or mine[0] != theirs[0] or self.unit == other.unit:
            return False
        size = (theirs[1] / mine[1]) ** self.power
        same_kind = self.power == other.power and self.negative == other.negative
        return same_kind and math.isclose(float(self.number), float(other.number) * size, rel_tol=_ROUNDED)


def amounts(words: Sequence[str]) -> list[Amount]:
    """Return the amounts that stand in folded words, in order."""
    found = []
    for i, word in enumerate(words):
        if is_number(word):
            unit, power = _unit(words[i + 1 : i + 1 + _FARTHEST])
            found.append(Amount(word, unit, i > 0 and words[i - 1] in _NEGATIVE, power))
    return found


def _unit(after: Sequence[str]) -> tuple[str, int]:
    """Return the unit behind a number, and its power."""
    power = 1
    for word in after:
        if word in _UNITS:
            return word, power
        if not (is_number(word) or word in _BETWEEN):
            break
        power = _POWERS.get(word, power)
    return "", 1

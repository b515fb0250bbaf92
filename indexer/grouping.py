"""Which neighbouring sentences make a chunk: the grouping whose costs sum to the least.

Every way to group a row of atoms into chunks has a cost: unused budget, squared, for each chunk; cutting where the text
holds together; joining what belongs apart. The cheapest is found exactly, by dynamic programming, as Knuth and Plass
break paragraphs into lines ("Breaking Paragraphs into Lines", 1981). Squares make it even: a text slightly over the
budget becomes two halves, not 199 tokens and 3.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

Joint = Literal["heading", "paragraph", "line", "sentence", "clause", "word", "piece"]

# Costs, in units of a whole unused budget. `CUT` is paid where two chunks meet, `_JOIN` inside a chunk.
CUT: dict[Joint, float] = {
    "heading": 0.0,
    "paragraph": 0.0,
    "line": 0.1,
    "sentence": 0.15,
    "clause": 0.4,
    "word": 0.8,
    "piece": 2.0,
}
_JOIN: dict[str, float] = {"heading": 0.8, "paragraph": 0.3}
CUT_AFTER_HEADING = 2.0  # a heading alone says nothing
CUT_AFTER_INTRODUCTION = 0.3  # a list without the line that announces it, a table without its head, say little

# A tokenizer counts a word of a megabyte as one unknown token; a chunk must stay small all the same.
CHARACTERS_PER_TOKEN = 16


# Atoms lighter than this part of the budget are joined: the search takes time in proportion to how many fit in a chunk.
LEAST_PART = 24


class Atom(NamedTuple):
    """A run of text that is kept whole; `joint` says what stands before it, `weight` is in tokens."""

    start: int
    end: int
    weight: int
    joint: Joint
    cut: float


def coalesced(atoms: Sequence[Atom], least: int) -> list[Atom]:
    """Return the atoms with neighbours joined up to a weight of `least`: a column of numbers stays quick to cut.

    Headings stay alone, and so do pieces of a word, whose tokens do not add up.
    """
    joined: list[Atom] = []
    for atom in atoms:
        last = joined[-1] if joined else None
        if (
            last is None
            or last.weight + atom.weight > least
            or atom.end - last.start > least * CHARACTERS_PER_TOKEN
            or last.joint == "heading"
            or atom.joint in ("heading", "piece")
        ):
            joined.append(atom)
        else:
            joined[-1] = last._replace(end=atom.end, weight=last.weight + atom.weight)
    return joined


def cheapest_groups(atoms: Sequence[Atom], budget: int) -> list[tuple[int, int]]:
    """Return the half-open ranges of atoms whose costs sum to the least. An atom over the budget stands alone."""
    weight = [0, *accumulate(atom.weight for atom in atoms)]
    joined = [0.0, *accumulate(_JOIN.get(atom.joint, 0.0) for atom in atoms[1:])]  # up to and including atom k
    starts, ends = [atom.start for atom in atoms], [atom.end for atom in atoms]
    longest = budget * CHARACTERS_PER_TOKEN
    best, back = [0.0] * (len(atoms) + 1), [0] * (len(atoms) + 1)
    for end in range(1, len(atoms) + 1):
        lowest, start = float("inf"), end - 1
        while start >= 0:
            used = weight[end] - weight[start]
            if start < end - 1 and (used > budget or ends[end - 1] - starts[start] > longest):
                break
            slack = 1 - used / budget
            cost = best[start] + slack * slack + joined[end - 1] - joined[start]
            if cost < lowest:
                lowest, back[end] = cost, start
            start -= 1
        best[end] = lowest + (atoms[end].cut if end < len(atoms) else 0.0)
    groups = []
    end = len(atoms)
    while end:
        groups.append((back[end], end))
        end = back[end]
    return groups[::-1]

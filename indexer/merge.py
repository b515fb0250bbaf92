"""Which segments are merged when a generation is published: few segments, little rewritten."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Chunks of a segment: those in its files, and those of them that are live."""

    rows: int
    live: int


@dataclass(frozen=True, slots=True)
class MergePolicy:
    """A log-structured merge (O'Neil et al. 1996) in tiers, as Lucene's, with a bound on what one run rewrites.

    Segments of at most `small` live chunks are rewritten whenever there are several, or when something in one is
    deleted: below that size it costs less than opening the files. The others are in tiers, each `factor` times as large
    as the one below; `factor` of a tier are merged, but no more in one run than `share` of the index, or what the run
    itself added, or four times `small`. A segment of which most is deleted is rewritten whatever it costs, so that the
    index is at most twice as large as what it holds.
    """

    small: int = 1000
    factor: int = 10
    share: float = 0.04

    def choose(self, sizes: Sequence[Size], added: int) -> list[list[int]]:
        """Return groups of positions in `sizes`, each to become one segment, after a run that added some chunks."""
        tiers: dict[int, list[int]] = {}
        stale = []
        for position, size in enumerate(sizes):
            if size.live > self.small and size.live * 2 < size.rows:
                stale.append([position])
            else:
                tiers.setdefault(self._tier(size.live), []).append(position)
        small = tiers.pop(-1, [])
        groups = [small] if len(small) > 1 or any(sizes[p].live < sizes[p].rows for p in small) else []
        budget = max(self.share * sum(size.live for size in sizes), added, 4 * self.small)
        for tier in sorted(tiers):
            if len(tiers[tier]) >= self.factor:
                chosen = _within(sorted(tiers[tier], key=lambda p: sizes[p].live), sizes, budget)
                budget -= sum(sizes[p].live for p in chosen)
                groups += [sorted(chosen)] if chosen else []
        return [*groups, *stale]

    def _tier(self, live: int) -> int:
        """-1 for small segments, 0 for up to `factor` times as large, and so on."""
        return -1 if live <= self.small else max(0, math.ceil(math.log(live / max(self.small, 1), self.factor)) - 1)


MERGE_POLICY = MergePolicy()


def _within(ascending: Sequence[int], sizes: Sequence[Size], budget: float) -> list[int]:
    """The smallest segments that fit the budget together; none where not even two do."""
    chosen: list[int] = []
    for position in ascending:
        budget -= sizes[position].live
        if budget < 0:
            break
        chosen.append(position)
    return chosen if len(chosen) > 1 else []

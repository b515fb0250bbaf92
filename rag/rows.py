"""The rows of an index: those of its segments one after another, without the deleted ones."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rag.errors import InvalidRequest
from rag.protocols import BoolArray, IntArray


class Rows:
    """Numbers the live rows of all segments 0, 1, ..., n - 1, in the order of the segments and of the rows in each.

    A row of the index is one of these numbers; a place is a segment's position and a row in that segment's files,
    where deleted rows still stand.
    """

    def __init__(self, live: Sequence[tuple[int, BoolArray | None]]) -> None:
        """Give for each segment how many rows its files have, and which of them are live; None where all are."""
        self._sizes = [size for size, _ in live]
        self._live = [None if mask is None or mask.all() else mask for _, mask in live]
        self._kept = [None if mask is None else np.flatnonzero(mask) for mask in self._live]
        counts = [size if kept is None else len(kept) for size, kept in zip(self._sizes, self._kept, strict=True)]
        self._starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64))).astype(np.int64)

    @classmethod
    def whole(cls, size: int) -> "Rows":
        """The rows of one segment without deletions."""
        return cls([(size, None)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def live(self, segment: int) -> BoolArray | None:
        """Which rows of a segment's files are live, None where all are."""
        return self._live[segment]

    def without_deleted(self, segment: int, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Of values, one for each row of a segment's files, those of live rows."""
        kept = self._kept[segment]
        return values if kept is None else values[kept]

    def number(self, segment: int, places: IntArray) -> IntArray:
        """Return the rows of places in a segment, all of which are live."""
        kept = self._kept[segment]
        inside = places if kept is None else np.searchsorted(kept, places)
        rows: IntArray = self._starts[segment] + inside
        return rows

    def spread(self, segment: int, allowed_n: BoolArray | None) -> BoolArray | None:
        """A mask of all rows, None for all, as a mask of the rows of a segment's files. None where it leaves all in."""
        if allowed_n is None:
            return self._live[segment]
        part = allowed_n[self._starts[segment] : self._starts[segment + 1]]
        live = self._live[segment]
        if live is not None:
            spread = np.zeros(self._sizes[segment], np.bool_)
            spread[self._kept[segment]] = part
            return spread
        return None if part.all() else part

    def places(self, rows: Sequence[int] | IntArray) -> Iterator[tuple[int, IntArray, IntArray]]:
        """Yield by segment which of `rows` lie there (positions in `rows`), and at which rows of its files.

        Raises `InvalidRequest` for a row out of range.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(outside):
            raise InvalidRequest(f"the index holds no chunk in row {outside[0]}")
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        for segment in np.unique(owners).tolist():
            at = np.flatnonzero(owners == segment)
            inside = wanted[at] - self._starts[segment]
            kept = self._kept[segment]
            yield segment, at, inside if kept is None else kept[inside]

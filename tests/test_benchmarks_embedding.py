"""The arithmetic of `benchmarks/embedding.py`, worked by hand, and whose turn it is."""

import numpy as np
import pytest

from benchmarks.embedding import Taken, figures, recall, take_turns
from rag.protocols import FloatArray


def test_every_way_is_warm_before_it_is_timed_and_begins_in_turn() -> None:
    calls: list[tuple[str, int]] = []

    def way(name: str) -> FloatArray:
        return np.zeros((1, 1), np.float32)

    def noted(name: str) -> object:
        return lambda texts: (calls.append((name, len(texts))), way(name))[1]

    passes = take_turns({"a": noted("a"), "b": noted("b")}, ["x"] * 40, 3)  # type: ignore[dict-item]
    assert calls[:2] == [("a", 32), ("b", 32)]
    assert calls[2:] == [(name, 40) for name in "abbaab"]
    assert {name: len(taken) for name, taken in passes.items()} == {"a": 3, "b": 3}
    assert all(one.clock > 0 and one.processor >= 0 for taken in passes.values() for one in taken)


def test_ratios_are_those_of_the_medians() -> None:
    passes = {
        "llamaindex": [Taken(6, 9), Taken(8, 9), Taken(60, 9)],
        "haystack": [Taken(4, 6)] * 3,
        "smallhold": [Taken(2, 3), Taken(2, 3), Taken(1, 1)],
    }
    found = figures(passes, 1000)
    assert found["ms_per_chunk"]["llamaindex"]["clock"] == {"median": 8, "least": 6, "most": 60}
    assert found["ratios"] == {
        "clock_over_llamaindex": 4.0,
        "processor_over_llamaindex": 3.0,
        "clock_over_haystack": 2.0,
        "processor_over_haystack": 2.0,
    }


def test_recall_counts_the_nearest_that_are_found_again() -> None:
    exact = np.arange(20, dtype=np.float32)[None]
    assert recall(exact, exact) == 1
    swapped = exact.copy()
    swapped[0, [0, 19]] = swapped[0, [19, 0]]
    assert recall(exact, swapped) == pytest.approx(0.9)
    assert recall(exact[:, :4], -exact[:, :4]) == 1  # four are all there are

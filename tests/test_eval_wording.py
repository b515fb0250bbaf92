"""How figures are written: what the page says of a difference agrees with the tests beside it."""

import pytest

from eval.markdown import _pair_sentence
from eval.wording import shows_a_difference


@pytest.mark.parametrize(
    ("p", "p_holm", "low", "shown"),
    [
        (0.02, 0.06, 0.01, False),  # chance explains it where several were compared, though the interval leaves 0 out
        (0.02, 0.04, -0.01, True),
        (0.02, None, -0.01, True),
        (None, None, 0.01, True),
        (None, None, -0.01, False),
    ],
)
def test_a_difference_is_shown_by_its_corrected_test(
    p: float | None, p_holm: float | None, low: float, shown: bool
) -> None:
    assert shows_a_difference({"p": p, "p_holm": p_holm, "low": low, "high": 0.2}) is shown


def test_an_interval_keeps_its_signs() -> None:
    pair = {"system": "b", "baseline": "a", "n": 40, "metric": "f1", "p": 0.01, "p_holm": 0.02}
    report = {"systems": {name: {"cost_per_question": None} for name in "ab"}}
    better = _pair_sentence(report, "f1", {**pair, "value": 0.1, "low": -0.01, "high": 0.2})
    assert "better than `a` in F1 by 0.100 (95% interval -0.010 to 0.200" in better
    worse = _pair_sentence(report, "f1", {**pair, "value": -0.1, "low": -0.2, "high": 0.01})
    assert "worse than `a` in F1 by 0.100 (95% interval -0.010 to 0.200" in worse

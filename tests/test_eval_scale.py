"""The logistic curve against statsmodels, and what a ladder does and does not support."""

from typing import Any

import numpy as np
import pytest

from eval.flops import Architecture
from eval.measurements import _ALL, RIGHT, Measurements
from eval.results import RunSystem
from eval.scale import equivalent_scale, fit_logistic
from rag.cost import Prices

QUESTIONS = 400


def system(name: str, parameters: float, right: int, *, asked: int = QUESTIONS, **row: Any) -> Measurements:
    """A system that has the first `right` of its questions right."""
    values = np.full((asked, len(_ALL)), np.nan)
    values[:, _ALL.index(RIGHT)] = np.arange(asked) < right
    stated = {"name": name, "generator": name, "retrieval": False, "parameters": parameters, "parameters_kind": "known"}
    return Measurements(
        name=name,
        system=RunSystem(fingerprint="", row={**stated, **row}, machine={}, date=""),
        places=np.arange(asked),
        values=values,
        tokens=np.zeros((asked, 3), dtype=np.int64),
        groups=np.arange(QUESTIONS),
        errors=0,
        abstentions=0,
        joules_measured=False,
        architecture=None,
        prices=Prices(),
    )


def reader(right: int, parameters: float = 0.1, **row: Any) -> Measurements:
    return system("small+retrieval", parameters, right, retrieval=True, **row)


# Log-odds -2, -1, 0, 1 at 0.1, 1, 10 and 100 billion: 0.1192, 0.2689, 0.5, 0.7311 of 400.
LADDER = [system("a", 0.1, 48), system("b", 1, 108), system("c", 10, 200), system("d", 100, 292)]


def test_two_points_are_met_exactly() -> None:
    ((intercept, slope),) = fit_logistic(np.array([0.0, 1.0]), np.array([[0.5, 1 / (1 + np.exp(-1.0))]]))
    assert (intercept, slope) == (pytest.approx(0.0, abs=1e-4), pytest.approx(1.0, abs=1e-4))


def test_the_curve_agrees_with_statsmodels() -> None:
    import statsmodels.api as sm

    x, shares = np.array([8.1, 8.7, 9.2, 11.0]), np.array([[0.05, 0.3, 0.2, 0.8], [0.1, 0.1, 0.4, 0.6]])
    ours = fit_logistic(x, shares)
    for row, fit in zip(shares, ours, strict=True):
        theirs = sm.GLM(np.stack([row * 1000, 1000 - row * 1000], axis=1), sm.add_constant(x), sm.families.Binomial())
        assert fit == pytest.approx(theirs.fit().params, rel=1e-4)


def test_shares_that_no_curve_fits_best_stay_finite() -> None:
    fits = fit_logistic(np.array([8.0, 9.0, 10.0]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]))
    assert np.isfinite(fits).all()


def test_within_the_ladder_the_scale_is_estimated() -> None:
    found = equivalent_scale([*LADDER, reader(200)])
    assert found is not None and found["n"] == QUESTIONS
    assert [rung["name"] for rung in found["ladder"]] == ["a", "b", "c", "d"]
    assert found["slope"]["value"] == pytest.approx(1.0, abs=0.01)
    (one,) = found["systems"]
    # Half right is what 10 billion have: 100 times the 0.1 billion of the small one.
    assert one["supported"] and one["times"]["value"] == pytest.approx(100, rel=0.03)
    assert one["times"]["low"] < 100 < one["times"]["high"]
    assert one["extrapolated"] is None and one["beats"] == ["a", "b"]
    assert "would have to be 100 times as large" in one["says"]


def test_beyond_the_ladder_there_is_a_lower_bound_alone() -> None:
    found = equivalent_scale([*LADDER, reader(380)])
    assert found is not None
    (one,) = found["systems"]
    # Better than 100 billion: more than 1,000 times its size. By the curve 0.95 takes 8,800 billion.
    assert not one["supported"] and one["times"] is None
    assert one["lower_bound"] == pytest.approx(1000)
    assert one["extrapolated"]["value"] == pytest.approx(88_000, rel=0.1)
    assert "more than 1,000 times as large" in one["says"] and "lower bound" in one["says"]


def test_two_rungs_support_no_estimate() -> None:
    found = equivalent_scale([*LADDER[:3:2], reader(100)])
    assert found is not None
    (one,) = found["systems"]
    assert not one["supported"] and one["extrapolated"] is not None
    assert one["lower_bound"] == pytest.approx(1.0)  # only the rung of its own size is shown to be worse


def test_a_ladder_that_does_not_rise_matches_nothing() -> None:
    flat = [system("a", 0.1, 100), system("b", 1, 101), system("c", 10, 99)]
    found = equivalent_scale([*flat, reader(300)])
    assert found is not None
    (one,) = found["systems"]
    assert one["extrapolated"] is None and one["lower_bound"] == pytest.approx(100)
    assert "not shown to be more accurate" in one["says"]
    worse = equivalent_scale([*flat, reader(50)])
    assert worse is not None and "cannot be told" in worse["systems"][0]["says"]


def test_one_size_is_no_ladder() -> None:
    found = equivalent_scale([system("a", 0.1, 100), reader(300)])
    assert found is not None and found["slope"] is None
    assert "one size of closed-book model" in found["systems"][0]["says"]


def test_recorded_systems_are_rungs_with_their_label() -> None:
    gpt = system("gpt", 1760, 390, generator="", recorded="gpt.jsonl", parameters_kind="estimated")
    found = equivalent_scale([*LADDER, gpt, reader(300)])
    assert found is not None
    assert found["ladder"][-1]["kind"] == "estimated" and found["ladder"][-1]["parameters"] == 1_760_000_000_000
    assert found["systems"][0]["supported"]


def test_an_oracle_and_a_model_of_unknown_size_have_no_scale() -> None:
    assert equivalent_scale([*LADDER, reader(300, oracle=True)]) is None
    unknown = system("x", 0, 300, retrieval=True)
    assert equivalent_scale([*LADDER, unknown]) is None
    assert equivalent_scale([reader(300)]) is None and equivalent_scale(LADDER) is None


def test_only_questions_judged_for_all_count() -> None:
    found = equivalent_scale([*LADDER, system("e", 1000, 90, asked=100), reader(200)])
    assert found is not None and found["n"] == 100


def test_the_size_may_come_from_the_weights() -> None:
    local = reader(200, parameters=0.1)
    local = Measurements(**{**vars(local), "architecture": Architecture(parameters=50_000_000)})
    del local.system.row["parameters"]
    found = equivalent_scale([*LADDER, local])
    assert found is not None and found["systems"][0]["parameters"] == 50_000_000
    assert found["systems"][0]["times"]["value"] == pytest.approx(200, rel=0.03)

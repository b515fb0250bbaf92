"""What questions can show, by hand and by simulation. z at 97.5% is 1.95996, at 80% 0.84162."""

import numpy as np
import pytest

from eval.paired import mcnemar_p
from eval.power import (
    design_effect,
    needed_binary,
    needed_continuous,
    paired_power,
    smallest_binary,
    smallest_continuous,
)


def test_continuous_by_hand() -> None:
    # 2.80159 x 0.4 / 10
    assert smallest_continuous(100, 0.4) == pytest.approx(0.112063, abs=1e-6)
    assert needed_continuous(0.4, 0.112063) == pytest.approx(100, abs=0.01)
    assert needed_continuous(0.4, 0.0) is None


def test_continuous_agrees_with_statsmodels() -> None:
    from statsmodels.stats.power import NormalIndPower

    power = NormalIndPower(ddof=0).power(
        effect_size=smallest_continuous(100, 0.4) / 0.4, nobs1=100, alpha=0.05, ratio=0
    )
    assert power == pytest.approx(0.8, abs=1e-4)


def test_binary_by_hand() -> None:
    # (1.95996 x sqrt 0.2 + 0.84162 x sqrt 0.19)^2 / 0.01 = (0.876523 + 0.366852)^2 / 0.01
    assert needed_binary(0.2, 0.1) == pytest.approx(154.598, abs=0.01)
    assert smallest_binary(154.598, 0.2) == pytest.approx(0.1, abs=1e-5)
    assert needed_binary(0.2, -0.1) == needed_binary(0.2, 0.1)
    assert needed_binary(0.2, 0.0) is None


def test_too_few_discordant_questions_show_nothing() -> None:
    # Even with all differences in one direction: (1.95996 x 0.2 + 0.84162 x sqrt 0.0384)^2 / 0.0016 = 193.9 questions.
    assert needed_binary(0.04, 0.04) == pytest.approx(193.9, abs=0.1)
    assert smallest_binary(193, 0.04) is None
    assert smallest_binary(195, 0.04) == pytest.approx(0.04, abs=2e-4)
    assert smallest_binary(100, 0.0) is None


def test_four_times_of_five_mcnemar_finds_the_smallest_difference() -> None:
    from scipy import stats

    # 940 questions, discordant on 0.3, difference 0.05: b on 0.125, c on 0.175 of them. The exact test is cautious.
    assert needed_binary(0.3, 0.05) == pytest.approx(940, abs=1)
    b, c, _ = np.random.default_rng(5).multinomial(940, [0.125, 0.175, 0.7], size=20_000).T
    exact = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(b, c), b + c, 0.5))
    assert (exact < 0.05).mean() == pytest.approx(0.79, abs=0.015)


def test_design_effect_by_hand() -> None:
    # Deviations of 1, 1, 0, 0 from 1/2: 4 x 1/4 alone; in pairs (1 and -1), 2.
    values = np.array([1.0, 1, 0, 0])
    assert design_effect(values, np.array([0, 0, 1, 1])) == 2.0
    assert design_effect(values, np.arange(4)) == 1.0
    # Pairs that cancel out would be worth more than they count; that is not claimed.
    assert design_effect(values, np.array([0, 1, 0, 1])) == 1.0
    assert design_effect(np.ones(3), np.arange(3)) == 1.0


def test_paired_power_of_right_and_wrong() -> None:
    a = np.array([1.0] * 5 + [0] * 15 + [1] * 80)
    b = np.array([0.0] * 5 + [1] * 15 + [1] * 80)
    found = paired_power(a, b)
    assert found is not None and found.binary
    assert (found.n, found.spread, found.observed) == (100, pytest.approx(0.2), pytest.approx(0.1))
    assert (found.questions_needed, found.more_needed) == (155, 55)
    assert found.smallest_difference == pytest.approx(0.124, abs=0.002)
    clustered = paired_power(np.repeat(a, 2), np.repeat(b, 2), np.repeat(np.arange(100), 2))
    # Every question twice: 200 are worth 100, and twice as many are needed.
    assert clustered is not None and clustered.design_effect == pytest.approx(2.0)
    assert clustered.smallest_difference == pytest.approx(found.smallest_difference)
    assert clustered.questions_needed == 310


def test_paired_power_of_other_scores() -> None:
    a, b = np.array([0.5, 0.5, 0.5, 0.5, np.nan]), np.array([0.6, 0.4, 0.8, 0.6, 0.9])
    found = paired_power(a, b)
    # Differences 0.1, -0.1, 0.3, 0.1: mean 0.1, standard deviation sqrt(0.08 / 3) = 0.163299.
    assert found is not None and not found.binary
    assert (found.n, found.observed, found.spread) == (4, pytest.approx(0.1), pytest.approx(0.163299, abs=1e-6))
    assert found.smallest_difference is None  # four questions show nothing
    eight = paired_power(np.repeat(a, 2), np.repeat(b, 2))
    # The same differences twice: standard deviation sqrt(0.16 / 7) = 0.151186.
    assert eight is not None and eight.smallest_difference == pytest.approx(2.80159 * 0.151186 / 8**0.5, abs=1e-5)
    assert found.questions_needed == 21  # (2.80159 x 1.63299)^2 = 20.93
    assert paired_power(a[:1], b[:1]) is None


def test_six_clusters_that_differ_are_the_fewest_that_show_anything() -> None:
    for n, shows in ((5, False), (6, True)):
        found = paired_power(np.zeros(n), np.ones(n))
        assert found is not None and (found.smallest_difference is not None) == shows
        assert (mcnemar_p(0, n) < 0.05) == shows
        assert (found.questions_needed, found.more_needed) == (6, 6 - n)
    # 20 questions about five documents: four questions to a document, so that 24 have six.
    clustered = paired_power(np.zeros(20), np.ones(20), np.repeat(np.arange(5), 4))
    assert clustered is not None and clustered.smallest_difference is None and clustered.questions_needed == 24
    half = paired_power(np.full(4, 0.5), np.ones(4))
    assert half is not None and (half.smallest_difference, half.questions_needed) == (None, 6)

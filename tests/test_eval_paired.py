"""Tests of differences against binomials worked by hand and scipy."""

import numpy as np
import pytest

from eval.paired import Difference, clustered_p, compare_scores, corrected, discordant, holm, mcnemar_p, randomised_ps
from eval.statistics import Estimate

NAN = float("nan")


def test_mcnemar_is_a_sign_test_on_the_discordant_questions() -> None:
    # 1 against 9: two-sided, 2 x (1 + 10) of the 1024 ways in which ten coins fall.
    assert mcnemar_p(1, 9) == mcnemar_p(9, 1) == pytest.approx(22 / 1024)
    assert mcnemar_p(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_p(3, 3) == 1.0
    assert mcnemar_p(0, 0) == 1.0


def test_mcnemar_agrees_with_scipy() -> None:
    from scipy import stats

    for only_a, only_b in ((2, 11), (14, 30), (70, 45)):
        assert mcnemar_p(only_a, only_b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_each_column_has_the_test_that_suits_it() -> None:
    a = np.array([[1.0, 0.5, 1.0, NAN], [0, 0.5, NAN, NAN], [0, 0.5, NAN, NAN], [1, 0.5, NAN, NAN]])
    b = np.array([[0.0, 0.6, NAN, 1.0], [1, 0.7, NAN, NAN], [1, 0.8, NAN, NAN], [1, 0.9, 0.0, NAN]])
    draws = np.ones((999, 4))
    assert discordant(a[:, 0], b[:, 0]) == (1, 2)
    right, score, of_others, unscored = compare_scores(a, b, draws, np.arange(4))
    assert right == (pytest.approx(1.0), (1, 2))
    # All four in favour: of 16 ways to sign them only this one and its mirror go as far.
    assert score == (pytest.approx(2 / 16), None)
    # Scored for other questions, as ratios are: nothing pairs up, and the bootstrap decides.
    assert of_others == (pytest.approx(0.002), None)
    assert unscored == (None, None)


def test_signs_are_enumerated_by_hand() -> None:
    # 3, 1 and -1 sum to 3. |+-3 +-1 +-1| is 5, 3, 3 or 1 for either sign of the 3: 6 of 8 reach 3.
    differences = np.array([[3.0], [1.0], [-1.0]])
    assert randomised_ps(differences, np.arange(3)).tolist() == [pytest.approx(6 / 8)]
    # The last two share a document and cancel out: whichever sign the 3 has, the sum is as far.
    assert randomised_ps(differences, np.array([0, 1, 1])).tolist() == [1.0]
    assert randomised_ps(np.zeros((3, 1)), np.arange(3)).tolist() == [1.0]
    assert randomised_ps(np.empty((0, 2)), np.empty(0, dtype=np.int64)).tolist() == [1.0, 1.0]


def test_random_signs_agree_with_scipy() -> None:
    from scipy import stats

    differences = np.random.default_rng(4).normal(0.12, 0.5, size=60)
    (ours,) = randomised_ps(differences[:, None], np.arange(60))
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=3
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.012)
    assert ours == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, abs=0.015)


def test_clusters_change_sides_as_a_whole() -> None:
    # Leads of 2, 1 and 1 for b: the coins add up to 4 in 1 of 8 ways, to -4 in another.
    differences = np.array([1.0, 1, 1, 1, 0])
    assert clustered_p(differences, np.array([0, 0, 1, 2, 2])) == pytest.approx(2 / 8)
    # Leads 2, 1 and 1, one of them a's: the sum 2 is reached by 2+1-1, 2-1+1 (and 4): 3 ways, and as many below.
    assert clustered_p(np.array([1.0, 1, 1, -1]), np.array([0, 0, 1, 2])) == pytest.approx(6 / 8)
    # Within a cluster a question each: it leads nowhere.
    assert clustered_p(np.array([1.0, -1]), np.array([0, 0])) == 1.0


def test_discordant_questions_of_clusters_of_their_own_are_mcnemars() -> None:
    differences = np.array([1.0] * 9 + [-1.0] + [0.0] * 5)
    assert clustered_p(differences, np.array([*range(10), 0, 1, 1, 2, 2])) == pytest.approx(22 / 1024)


def test_heavy_coins_agree_with_a_simulation_and_with_the_normal_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    groups = random.integers(0, 60, size=200)
    differences = random.choice([-1.0, 0.0, 1.0], size=200, p=[0.15, 0.6, 0.25])
    sums = np.bincount(groups, weights=differences)
    flipped = np.abs((random.choice([-1.0, 1.0], size=(100_000, len(sums))) * sums).sum(axis=1))
    exact = clustered_p(differences, groups)
    assert exact == pytest.approx((flipped >= abs(sums.sum())).mean(), abs=0.006)
    monkeypatch.setattr("eval.paired.MOST_EXACT", 10)
    assert clustered_p(differences, groups) == pytest.approx(exact, abs=0.02)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1, each no smaller than the one before.
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None]) == [None] and holm([]) == []


def test_the_tests_agree_with_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests

    draw = np.random.default_rng(5)
    for only_a, only_b in draw.integers(0, 40, size=(30, 2)).tolist():
        expected = mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue if only_a + only_b else 1.0
        assert mcnemar_p(only_a, only_b) == pytest.approx(min(1.0, expected), rel=1e-9)
    for count in (2, 5, 40):
        ps = [*draw.random(count).tolist(), 0.01, 0.01, 0.0]
        assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1].tolist(), rel=1e-12)


def test_each_metric_is_corrected_by_itself() -> None:
    figure = Estimate(0.1, 0.0, 0.2, 9)
    one = Difference("f1", "a", "b", figure, 0.03, None)
    others = [one._replace(b="c", p=0.01), one._replace(metric="right", p=0.03, discordant=(1, 8))]
    found = corrected([one, *others])
    assert [d.p_holm for d in found] == [pytest.approx(0.03), pytest.approx(0.02), pytest.approx(0.03)]
    assert [d.significant for d in found] == [True, True, True]
    assert not one._replace(p_holm=0.06).significant and not one._replace(p=None).significant

"""Intervals against exact distributions and scipy's."""

import numpy as np
import pytest

from eval.statistics import (
    NOTHING,
    Estimate,
    bootstrap_means,
    bootstrap_p,
    clusters,
    estimate,
    paired_difference,
    ratio,
    renumbered,
    score_matrix,
    with_width,
)

NAN = float("nan")


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def test_draws_of_two_questions_follow_the_exact_distribution() -> None:
    # Of 0 and 1 drawn twice: mean 0 in a quarter of the draws, 1/2 in a half, 1 in a quarter.
    draws = bootstrap_means(column(0.0, 1.0))[:, 0]
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    # Standard error of a share of 1/4 over 10,000 draws is 0.0043.
    assert counts / len(draws) == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    (figure,) = estimate(column(0.0, 1.0))
    assert figure == Estimate(0.5, 0.0, 1.0, 2)


def test_interval_of_a_share_agrees_with_the_normal_approximation() -> None:
    # 120 of 400 right: 0.3 +- 1.96 * sqrt(0.3 * 0.7 / 400) = 0.3 +- 0.0449.
    (figure,) = estimate(column(*([1.0] * 120 + [0.0] * 280)))
    assert figure.value == pytest.approx(0.3)
    assert (figure.low, figure.high) == (pytest.approx(0.2551, abs=0.005), pytest.approx(0.3449, abs=0.005))


def test_interval_agrees_with_scipy() -> None:
    from scipy import stats

    values = np.random.default_rng(7).exponential(size=60)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    (ours,) = estimate(values[:, None])
    # The two draw differently: bounds agree within the noise of 10,000 draws.
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.02), pytest.approx(theirs.high, abs=0.02))


def test_a_ratio_is_recomputed_on_every_draw() -> None:
    # One scored of two: of the draws that hold it, every mean is its value; a quarter of the draws holds none.
    draws = bootstrap_means(column(0.7, NAN))[:, 0]
    scored = draws[np.isfinite(draws)]
    assert scored == pytest.approx(0.7)
    assert 1 - len(scored) / len(draws) == pytest.approx(0.25, abs=0.02)
    (figure,) = estimate(column(0.7, NAN))
    assert (figure.value, figure.low, figure.high, figure.n) == (
        pytest.approx(0.7),
        pytest.approx(0.7),
        pytest.approx(0.7),
        1,
    )


def test_the_denominator_of_a_ratio_varies_too() -> None:
    # 20 abstentions among 200 questions, 15 rightly: with a fixed denominator the standard error would be
    # sqrt(.75 * .25 / 20) = 0.097 as well, but no draw could have other than 20 abstentions.
    scores = column(*([1.0] * 15 + [0.0] * 5 + [NAN] * 180))
    draws = bootstrap_means(scores)[:, 0]
    assert draws.std() == pytest.approx(0.097, abs=0.01)
    assert len(np.unique(np.round(draws, 9))) > 100


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(3).random((50, 2))
    assert estimate(scores) == estimate(scores.copy())
    assert not np.array_equal(bootstrap_means(scores, seed=1), bootstrap_means(scores, seed=2))


def test_nothing_scored_is_none_not_zero() -> None:
    nothing = Estimate(None, None, None, 0)
    assert estimate(np.empty((0, 3))) == [nothing] * 3
    assert estimate(column(NAN, NAN)) == [nothing]
    assert paired_difference(column(NAN, NAN), column(1.0, 0.0)) == [nothing]
    assert paired_difference(np.empty((0, 1)), np.empty((0, 1))) == [nothing]


def test_paired_difference_knows_that_questions_are_shared() -> None:
    # b beats a by 0.1 on every question, while questions differ widely: the difference has no spread at all.
    a = np.linspace(0.0, 0.9, 40)[:, None]
    (figure,) = paired_difference(a, a + 0.1)
    assert figure.value == pytest.approx(0.1)
    assert (figure.low, figure.high) == (pytest.approx(0.1), pytest.approx(0.1))
    (alone,) = estimate(a)
    assert alone.high is not None and alone.low is not None and alone.high - alone.low > 0.1


def test_paired_difference_by_hand() -> None:
    # Ten questions: b right where a is wrong on 3, a right where b is wrong on 1: difference 0.2, and per question
    # -1, 0 or 1, whose mean over draws has the variance (0.4 - 0.04) / 10.
    a = column(1, 0, 0, 0, 1, 1, 1, 0, 0, 0)
    b = column(0, 1, 1, 1, 1, 1, 1, 0, 0, 0)
    (figure,) = paired_difference(a, b)
    assert figure.value == pytest.approx(0.2)
    draws = bootstrap_means(b) - bootstrap_means(a)
    assert draws.std() == pytest.approx(np.sqrt(0.36 / 10), rel=0.03)
    assert figure.low == pytest.approx(-0.2, abs=0.11) and figure.high == pytest.approx(0.6, abs=0.11)
    assert not figure.shows_a_difference


def test_paired_difference_of_ratios_over_different_questions() -> None:
    # a abstained on the first two, b on the last two: both ratios stand, on one question in common or none.
    (figure,) = paired_difference(column(1, 0, NAN, NAN), column(NAN, NAN, 1, 1))
    assert (figure.value, figure.n) == (0.5, 4)


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        paired_difference(column(1, 0), column(1))


def test_score_matrix_has_nan_for_what_was_not_scored() -> None:
    matrix = score_matrix([{"f1": 1.0, "em": None}, {"f1": 0.25}], ("em", "f1"))
    assert np.array_equal(matrix, [[NAN, 1.0], [NAN, 0.25]], equal_nan=True)
    assert score_matrix([], ("em", "f1")).shape == (0, 2)


def test_questions_that_share_a_document_directly_or_through_others_are_one_cluster() -> None:
    documents = [["a"], [], ["b"], ["c", "a"], [], ["b", "c"], ["d"]]
    # 0-3 share a, 3-5 share c, 5-2 share b; the questions without documents stay alone.
    assert clusters(documents).tolist() == [0, 1, 0, 0, 2, 0, 3]
    assert clusters([]).tolist() == []
    assert renumbered(np.array([7, 3, 7, 0])).tolist() == [0, 1, 0, 2]


def test_drawing_whole_clusters_follows_the_exact_distribution() -> None:
    # Two clusters of two questions, one all right and one all wrong: drawn together, the mean is 0, 1/2 or 1 with
    # 1/4, 1/2, 1/4, as with two questions; drawn one by one the four would mostly mix.
    draws = bootstrap_means(column(1, 1, 0, 0), np.array([0, 0, 1, 1]))[:, 0]
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / len(draws) == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_larger_clusters_weigh_more() -> None:
    # Clusters of 3 (right) and 1 (wrong): both drawn once give 3 of 4.
    draws = bootstrap_means(column(1, 1, 1, 0), np.array([0, 0, 0, 1]))[:, 0]
    assert sorted(set(draws.tolist())) == [0.0, 0.75, 1.0]


def test_clusters_of_one_change_no_draw() -> None:
    scores = np.random.default_rng(3).random((20, 2))
    assert np.array_equal(bootstrap_means(scores, np.arange(20)), bootstrap_means(scores))


def test_a_ratio_of_sums_with_its_interval() -> None:
    # Four questions cost 1, 2, 3, 4; two of them are right: 10 / 2.
    spent, won = np.array([1.0, 2, 3, 4]), np.array([1.0, 0, 1, 0])
    figure = ratio(spent, won, bootstrap_means(np.stack([spent, won], axis=1)))
    assert (figure.value, figure.n) == (5.0, 4)
    # In 1 of 16 draws none is right, more often than the 1 of 40 that the interval cuts off: no upper bound.
    assert figure.high is None and figure.low is not None and 1 <= figure.low < 5
    many = np.tile([[1.0, 1.0], [1.0, 0.0]], (200, 1))
    figure = ratio(many[:, 0], many[:, 1], bootstrap_means(many))
    # 200 of 400 right: the share is 0.5 +- 0.049, the ratio its inverse.
    assert figure.value == 2.0
    assert (figure.low, figure.high) == (pytest.approx(1 / 0.549, abs=0.02), pytest.approx(1 / 0.451, abs=0.02))
    assert ratio(spent, np.zeros(4), bootstrap_means(np.zeros((4, 2)))) == Estimate(None, None, None, 0)


def test_bootstrap_p_counts_the_rarer_side() -> None:
    # 999 draws, 24 of them not above 0: 2 x (24 + 1) / 1000.
    draws = np.array([-1.0] * 20 + [0.0] * 4 + [1.0] * 975)
    assert bootstrap_p(draws) == pytest.approx(0.05)
    assert bootstrap_p(-draws) == pytest.approx(0.05)
    assert bootstrap_p(np.zeros(999)) == 1.0
    assert bootstrap_p(np.array([1.0] * 999 + [NAN])) == pytest.approx(0.002)


def test_bootstrap_p_agrees_with_the_t_test() -> None:
    from scipy import stats

    differences = np.random.default_rng(11).normal(0.1, 0.5, size=150)
    ours = bootstrap_p(bootstrap_means(differences[:, None])[:, 0])
    assert ours == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, abs=0.01)


def test_scores_that_are_all_alike_leave_room_for_others() -> None:
    from scipy import stats

    alone = np.arange(9)
    # 0.025^(1/9) = 0.663732, as Clopper and Pearson have it for 9 of 9.
    right = with_width(Estimate(1.0, 1.0, 1.0, 9), np.ones(9), alone, (0.0, 1.0))
    assert (right.low, right.high) == (pytest.approx(0.663732, abs=1e-6), 1.0)
    assert right.low == pytest.approx(stats.binomtest(9, 9).proportion_ci(0.95).low)
    worse = with_width(Estimate(-1.0, -1.0, -1.0, 9), -np.ones(9), alone, (-1.0, 1.0))
    assert (worse.low, worse.high) == (-1.0, pytest.approx(-1 + 2 * 0.336267, abs=1e-6))
    # Nine questions about three documents are three; 0.025^(1/3) = 0.292402.
    level = with_width(Estimate(0.0, 0.0, 0.0, 9), np.zeros(9), np.repeat(np.arange(3), 3), (-1.0, 1.0))
    assert (level.low, level.high) == (pytest.approx(-0.707598, abs=1e-6), pytest.approx(0.707598, abs=1e-6))
    mixed = Estimate(0.5, 0.2, 0.8, 2)
    assert with_width(mixed, np.array([0.0, 1.0]), alone[:2], (0.0, 1.0)) == mixed
    assert with_width(NOTHING, np.array([np.nan]), alone[:1], (0.0, 1.0)) == NOTHING

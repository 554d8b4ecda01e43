"""Intervals against published numbers, enumeration and coverage."""

import itertools

import numpy as np
import pytest
from scipy import stats

from reverie.core.errors import BadData
from reverie.evaluate.statistics import (
    Interval,
    iqm,
    mcnemar,
    mean_interval,
    optimality_gap,
    paired,
    probability_of_improvement,
    ratio_interval,
    seeds_interval,
    spearman,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (45, 50, 0.786, 0.957),  # the table in the evaluation literature: 90% of 50
        (0, 10, 0.0, 0.2775),  # Newcombe 1998: 0 of 10, z^2 / (n + z^2)
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_wilson_equals_published_intervals(successes, n, low, high):
    found = wilson(successes, n)
    assert found.value == successes / n
    assert found.low == pytest.approx(low, abs=5e-4)
    assert found.high == pytest.approx(high, abs=5e-4)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (6, 5), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(BadData, match=f"{successes} successes in {n} episodes"):
        wilson(successes, n)


def test_mean_interval_of_a_symmetric_sample_equals_full_enumeration():
    # Symmetric data: no bias and no skew, so BCa is the percentile interval, and with 7 values
    # the whole bootstrap distribution (7**7 resamples) can be written down.
    x = np.array([-9.0, -4.0, -1.0, 0.0, 1.0, 4.0, 9.0])
    means = np.array([sum(draw) for draw in itertools.product(x, repeat=7)]) / 7
    low, high = np.percentile(means, [2.5, 97.5])
    found = mean_interval(x + 100, resamples=40_000)
    assert found.value == pytest.approx(100)
    assert found.low == pytest.approx(100 + low, abs=0.15)
    assert found.high == pytest.approx(100 + high, abs=0.15)


def test_mean_interval_of_many_normal_values_is_the_textbook_one():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    half = 1.959964 * x.std(ddof=1) / np.sqrt(len(x))
    found = mean_interval(x)
    assert found.low == pytest.approx(x.mean() - half, abs=0.06 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.06 * half)


def test_mean_interval_covers_a_skewed_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        found = mean_interval(generator.exponential(1.0, size=40), resamples=400)
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 300 <= 0.985


def test_ratio_interval_of_large_samples_follows_the_delta_method():
    generator = np.random.default_rng(2)
    a, b = generator.normal(10, 1, 4000), generator.normal(4, 0.5, 3000)
    relative = np.sqrt(a.var() / (4000 * a.mean() ** 2) + b.var() / (3000 * b.mean() ** 2))
    ratio = a.mean() / b.mean()
    found = ratio_interval(a, b, resamples=4000)
    assert found.value == pytest.approx(ratio)
    assert found.low == pytest.approx(ratio * (1 - 1.96 * relative), rel=0.002)
    assert found.high == pytest.approx(ratio * (1 + 1.96 * relative), rel=0.002)


def test_seeds_that_differ_widen_the_interval():
    """Three seeds of constant returns: the interval is that of the mean of 3 of 3 seeds.

    Of the 27 equally likely picks of 0, 3 and 6, one has mean 0 and three have mean 1, so the
    2.5% quantile of the mean is 0 and the 97.5% quantile is 6.
    """
    found = seeds_interval([np.full(9, value) for value in (0.0, 3.0, 6.0)])
    assert found == (3.0, 0.0, 6.0)
    alike = np.random.default_rng(0).normal(10, 1, (3, 100))
    found, pooled = seeds_interval(list(alike)), mean_interval(alike.ravel())
    assert found.value == pytest.approx(pooled.value)
    assert found.high - found.low >= pooled.high - pooled.low


def test_one_seed_is_no_interval_over_seeds():
    with pytest.raises(BadData, match="at least 2 seeds, but got 1"):
        seeds_interval([np.arange(9)])


def test_equal_values_give_a_point_and_the_seed_decides():
    assert mean_interval([2.0] * 5) == Interval(2.0, 2.0, 2.0)
    assert ratio_interval([6.0] * 5, [2.0] * 9) == Interval(3.0, 3.0, 3.0)
    x = [1.0, 5.0, 2.0, 8.0, 3.0]
    assert mean_interval(x, seed=4) == mean_interval(x, seed=4)


def test_intervals_know_whether_they_touch():
    assert Interval(1, 0, 2).apart(Interval(5, 3, 6))
    assert not Interval(1, 0, 3).apart(Interval(5, 3, 6))


def test_bad_samples_are_refused_with_the_mend():
    with pytest.raises(BadData, match=r"at least 5 values .* got 4\. Run more episodes"):
        mean_interval([1, 2, 3, 4])
    with pytest.raises(BadData, match="1 values that are not finite"):
        mean_interval([1, 2, 3, 4, np.nan])
    with pytest.raises(BadData, match="b holds 0"):
        ratio_interval([1] * 5, [1, 2, 3, 4, 0])


def test_the_interquartile_mean_drops_a_quarter_on_each_side():
    """Of 0..7 the middle half is 2, 3, 4, 5; outliers outside it change nothing."""
    assert iqm([[0, 1, 2, 3], [4, 5, 6, 7]]).value == 3.5
    assert iqm([[-100, 1, 2, 3], [4, 5, 6, 900]]).value == 3.5


def test_runs_are_resampled_within_their_task():
    """Tasks differ, runs of one do not: nothing is uncertain. Pooled, it would be."""
    assert iqm([[1.0] * 4, [5.0] * 4]) == (3.0, 3.0, 3.0)


def test_the_optimality_gap_gives_no_credit_above_the_target():
    """Short by 1, 0.5, 0, 0 and 0: 0.3 on average."""
    assert optimality_gap([[0.0, 0.5, 1.0, 1.5, 9.0]]).value == pytest.approx(0.3)


def test_the_probability_of_improvement_is_mann_and_whitneys():
    random = np.random.default_rng(0)
    x, y = random.normal(0.5, 1, 40).round(1), random.normal(0, 1, 30).round(1)
    u = stats.mannwhitneyu(x, y).statistic / (40 * 30)
    found = probability_of_improvement([x], [y])
    assert found.value == pytest.approx(u)
    assert found.low < u < found.high
    # Better on one task, worse on the other by as much: as likely as not.
    assert probability_of_improvement([x, y], [y, x]).value == pytest.approx(0.5)
    assert probability_of_improvement([[1] * 5], [[0] * 5]) == (1.0, 1.0, 1.0)


def test_mcnemar_counts_only_where_the_two_differ():
    """8 against 1 of 9 discordant starts: 2 (1 + 9) / 2^9."""
    assert mcnemar(8, 1) == pytest.approx(20 / 512)
    assert mcnemar(0, 0) == 1.0


def test_paired_starts_take_the_test_that_fits():
    ours = np.array([True] * 8 + [False] * 3)
    theirs = np.array([False] * 8 + [True] + [False] * 2)
    found = paired(ours, theirs)
    assert (found.test, found.p) == ("McNemar", pytest.approx(20 / 512))
    assert found.difference.value == pytest.approx(7 / 11)
    # All of 6 differences have one sign: 2 / 2^6 of the sign patterns are as extreme.
    shift = paired(np.arange(1.0, 12.0, 2.0), np.arange(6.0))
    assert (shift.test, shift.p) == ("Wilcoxon", pytest.approx(2 / 64))
    assert paired(np.arange(6.0), np.arange(6.0)).p == 1.0


def test_spearman_is_of_ranks_and_as_unsure_as_they_are_few():
    """By hand: d^2 = 0 1 1 0 0, rho = 1 - 6 * 2 / 120 = 0.9, whatever the distances are."""
    found = spearman([1, 2, 3, 4, 5], [0.1, 30, 20, 40, 5000])
    assert found.value == pytest.approx(0.9)
    assert found.low < 0.1, "five points hardly order anything"
    perfect = spearman([1, 2, 3, 4, 5], [1, 2, 3, 4, 9])
    assert (perfect.value, perfect.high) == pytest.approx((1.0, 1.0))
    assert perfect.low == pytest.approx(found.low)


def test_spearmans_interval_covers_about_as_often_as_it_says():
    random, rho, hits = np.random.default_rng(3), 0.6, 0
    truth = 6 / np.pi * np.arcsin(rho / 2)  # of a bivariate normal
    for _ in range(400):
        x, noise = random.normal(size=(2, 20))
        found = spearman(x, rho * x + np.sqrt(1 - rho**2) * noise)
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / 400 <= 0.985


def test_comparisons_of_too_little_are_refused():
    with pytest.raises(BadData, match="task by task, but got 1 and 2"):
        probability_of_improvement([[1] * 5], [[1] * 5] * 2)
    with pytest.raises(BadData, match="episode by episode, but got 5 and 6"):
        paired(np.arange(5), np.arange(6))
    with pytest.raises(BadData, match="at least 5 values"):
        paired(np.arange(4), np.arange(4))
    with pytest.raises(BadData, match="at least 5 values .* got 3"):
        spearman([1, 2, 3], [1, 2, 3])
    with pytest.raises(BadData, match="Give pairs that differ"):
        spearman([1] * 5, [1, 2, 3, 4, 5])
    with pytest.raises(BadData, match="iqm needs at least 5"):
        iqm([[1, 2], [3]])

"""Bands over episodes against hand-worked numbers, a closed form and counted pairs."""

import itertools

import numpy as np
import pytest
import torch

from reverie.core.errors import BadData
from reverie.evaluate.bands import auc, band, beats, explained, measured, ratio, told


def test_the_curve_is_the_mean_over_episodes_and_the_value_the_mean_of_the_curve():
    found = band([torch.tensor([[1.0, 10], [2, 20], [3, 30], [4, 40], [5, 50]])])
    assert [point.value for point in found.curve] == pytest.approx([3, 30])
    assert found.value.value == pytest.approx(16.5)
    assert found.value.low < 16.5 < found.value.high


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    """Of 400 standard normal numbers: mean +- 1.96 / 20."""
    x = np.random.default_rng(0).normal(size=(400, 1))
    x = (x - x.mean()) / x.std()
    found = band([x]).value
    assert (found.low, found.high) == pytest.approx((-0.098, 0.098), abs=0.015)


def test_equal_episodes_have_no_doubt():
    found = band([np.full((6, 2), 7.0)]).value
    assert (found.value, found.low, found.high) == pytest.approx((7, 7, 7))


def test_a_ratio_is_of_means_not_the_mean_of_ratios():
    top, bottom = np.array([[1.0], [0], [0], [0], [0]]), np.array([[1.0], [1], [1], [1], [6]])
    assert band((top, bottom), ratio).value.value == pytest.approx(0.1)


def test_a_resample_without_a_denominator_does_not_count():
    bottom = np.array([[1.0], [0], [0], [0], [0]])
    found = band((3 * bottom, bottom), ratio).value
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


def test_r2_by_hand():
    """Truth 0 2 4 6 8 of variance 8; always off by 2: 1 - 4/8. The mean explains nothing."""
    true = np.arange(0, 10, 2.0).reshape(5, 1, 1)
    assert band(told(true + 2, true), explained).value.value == pytest.approx(0.5)
    assert band(told(true, true), explained).value.value == 1
    assert band(told(np.full((1, 1, 1), 4.0), true), explained).value.value == pytest.approx(0)


def test_baselines_stand_beside_the_model():
    columns = {"model": (np.ones((5, 2)),), "copy": (np.zeros((5, 2)),)}
    found = measured(columns, name="x", group="prediction", what="A.", unit="1", better="higher")
    assert found.value.value == 1 and found.baselines["copy"].value == 0
    assert len(found.curve) == len(found.baseline_curves["copy"]) == 2


def test_auc_is_the_share_of_counted_pairs():
    random = np.random.default_rng(0)
    positive, negative = random.integers(6, size=9) + 1.0, random.integers(6, size=9) + 0.0
    pairs = list(itertools.product(positive, negative))
    counted = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)
    found = auc(beats(positive, negative), np.ones((9, 9)))
    assert found.value == pytest.approx(counted)
    assert found.low < counted < found.high


def test_auc_of_a_perfect_and_of_an_upside_down_score():
    high, low = np.arange(5.0) + 10, np.arange(5.0)
    assert tuple(auc(beats(high, low), np.ones((5, 5)))) == pytest.approx((1, 1, 1))
    assert tuple(auc(beats(low, high), np.ones((5, 5)))) == pytest.approx((0, 0, 0))


def test_too_few_episodes_have_no_interval():
    with pytest.raises(BadData, match="at least 5 episodes for an interval, but got 4"):
        band([np.ones((4, 2))])


def test_a_model_that_diverges_has_no_score():
    with pytest.raises(BadData, match="got 1 of 10 numbers that are not finite"):
        band([np.where(np.eye(5, 2) * [[1, 0]], np.nan, 1.0)])

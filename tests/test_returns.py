"""Returns against tables worked by hand, a brute force sum, and NumPy's percentiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reverie.behaviors.returns import lambda_returns, reached
from reverie.nn.percentiles import Percentiles

REWARD = torch.tensor([[1.0, 2.0, 3.0]])
VALUE = torch.tensor([[10.0, 20.0, 30.0]])
HALF = torch.full((1, 3), 0.5)


@pytest.mark.parametrize(
    ("lam", "wanted"),
    [
        (0.0, [6.0, 12.0, 18.0]),  # 1 + 10/2, 2 + 20/2, 3 + 30/2
        (0.5, [6.375, 11.5, 18.0]),  # 2 + (20/2 + 18/2)/2; 1 + (10/2 + 11.5/2)/2
        (1.0, [6.5, 11.0, 18.0]),  # 2 + 18/2; 1 + 11/2
    ],
)
def test_lambda_returns_by_hand(lam, wanted):
    assert lambda_returns(REWARD, HALF, VALUE, lam).tolist() == [wanted]


def test_nothing_comes_back_over_an_end():
    goes_on = torch.tensor([[0.5, 0.0, 0.5]])
    assert lambda_returns(REWARD, goes_on, VALUE, 1.0).tolist() == [[2.0, 2.0, 18.0]]
    assert lambda_returns(REWARD, goes_on, VALUE, 0.0).tolist() == [[6.0, 2.0, 18.0]]


def test_each_transition_may_have_a_lambda_of_its_own():
    """A clock that ran out after the second: its return is the value alone, 2 + 20/2."""
    lam = torch.tensor([[1.0, 0.0, 1.0]])
    assert lambda_returns(REWARD, HALF, VALUE, lam).tolist() == [[7.0, 12.0, 18.0]]


def test_at_lambda_one_it_is_the_discounted_sum(generator):
    reward, value = torch.randn(2, 4, 9, generator=generator).unbind()
    found = lambda_returns(reward, torch.full((4, 9), 0.9), value, 1.0)
    powers = 0.9 ** torch.arange(9)
    wanted = (reward * powers).sum(1) + 0.9**9 * value[:, -1]
    torch.testing.assert_close(found[:, 0], wanted)


def test_a_state_counts_by_the_chance_that_it_is_reached():
    goes_on = torch.tensor([[0.5, 0.2, 0.9], [1.0, 1.0, 1.0]])
    found = reached(torch.tensor([1.0, 0.0]), goes_on)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5, 0.1], [0.0, 0.0, 0.0]]))


def test_the_range_moves_slowly_and_is_never_below_one(generator):
    returns = 100 * torch.rand(50, 20, generator=generator)
    low, high = np.percentile(returns.numpy(), [5, 95])
    running = Percentiles(rate=0.1)
    assert running(returns).item() == pytest.approx(0.1 * (high - low), rel=1e-5)
    assert running(returns).item() == pytest.approx(0.19 * (high - low), rel=1e-5)
    assert Percentiles()(returns / 100).item() == 1.0

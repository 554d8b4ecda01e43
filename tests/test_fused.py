"""Layer norm with Mish, and SimNorm, against torch's own; the symlog bins; the tanh normal."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from reverie.core.types import Box
from reverie.nn.fused import norm_mish, simplex
from reverie.nn.likelihood import SymlogTwoHot
from reverie.nn.policy import TanhNormal


def inputs(*shape, members=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.randn(*shape, generator=generator)
    gain, bias = 2 * torch.randn(2, members, shape[-1], generator=generator)
    return [y.requires_grad_() for y in (x, gain, bias)]


@pytest.mark.parametrize("shape", [(7, 5), (128, 64), (3, 11, 33)], ids=str)
def test_norm_and_mish_and_their_gradients_are_torchs(shape):
    members = shape[0] if len(shape) == 3 else 1
    given = inputs(*shape, members=members)
    x, gain, bias = given
    wide = (gain, bias) if len(shape) == 2 else (gain[:, None], bias[:, None])
    wanted = F.mish(F.layer_norm(x, shape[-1:]) * wide[0] + wide[1])
    found = norm_mish(*given)
    torch.testing.assert_close(found, wanted, atol=3e-6, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(norm_mish(*given), found)
    weight = torch.randn(shape)
    pairs = zip(
        torch.autograd.grad(found, given, weight),
        torch.autograd.grad(wanted, given, weight),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_mish_is_right_far_out():
    """At the ends of what is computed: 0 on the left, the number itself on the right."""
    x = torch.tensor([[-1.0, 1.0]])  # normed it is itself, nearly
    for size in (1.0, 20.0, 40.0, 1e4):
        found = norm_mish(x, torch.full((1, 2), size), torch.zeros(1, 2))
        exact = F.mish(torch.tensor([[-size, size]], dtype=torch.float64))
        assert found.tolist() == [pytest.approx(exact[0].tolist(), rel=1e-4, abs=1e-5)]


def test_what_is_not_finite_stays_visible():
    x = torch.randn(3, 8)
    x[1, 2] = float("nan")
    for found in (norm_mish(x, torch.ones(1, 8), torch.zeros(1, 8)), simplex(x, 4)):
        assert found.isnan().any(1).tolist() == [False, True, False]


def test_half_precision_comes_in_and_its_gradient_goes_back():
    x = torch.randn(4, 16, dtype=torch.bfloat16, requires_grad=True)
    found = norm_mish(x, torch.ones(1, 16), torch.zeros(1, 16))
    assert found.dtype == torch.float32
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("size", [8, 5, 1])
def test_simnorm_is_a_softmax_of_each_group(size):
    x = (10 * torch.randn(6, 4 * size)).requires_grad_()
    found, wanted = simplex(x, size), x.unflatten(-1, (4, size)).softmax(-1).flatten(-2)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.view(6, 4, size).sum(-1), torch.ones(6, 4))
    weight = torch.randn(6, 4 * size)
    mine, theirs = (torch.autograd.grad(y, x, weight)[0] for y in (found, wanted))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_simnorm_of_far_numbers_is_one_hot():
    x = torch.tensor([[1e4, -1e4, 0.0, 9e3, 5.0, 5.0, -200.0, 5.0]])
    assert simplex(x, 4).tolist() == [pytest.approx([1, 0, 0, 0, 1 / 3, 1 / 3, 0, 1 / 3])]


# -- symlog bins ----------------------------------------------------------------------------------


def weights_of(bins, target):
    """(N, 101) that targets (N,) are given: what the loss's gradient tells of them."""
    raw = torch.zeros(len(target), 101, requires_grad=True)
    (found,) = torch.autograd.grad(bins.loss(raw, target[:, None]).sum(), raw)
    return 1 / 101 - found


def test_a_target_lies_between_two_bins_of_the_symlog_scale():
    bins = SymlogTwoHot()
    found = weights_of(bins, torch.tensor([0.0, math.expm1(0.3), -math.expm1(0.25)]))
    assert found[0].nonzero(as_tuple=True)[0].tolist() != []
    assert found[0, 50].item() == pytest.approx(1, abs=1e-5)
    assert found[1, 51:53].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    assert found[2, 48:50].tolist() == pytest.approx([0.25, 0.75], abs=1e-4)
    assert found.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_the_mean_of_a_targets_weights_is_the_target():
    """Up to the ends, exp 10 - 1 = 22,025, and what is beyond them stays there."""
    bins, end = SymlogTwoHot(), math.expm1(10)
    target = torch.tensor([0.0, 1e-3, -0.7, 12.5, -800.0, 22025.0, -22025.0, end, 1e6, -1e9])
    raw = weights_of(bins, target).clamp(min=1e-9).log()
    wanted = target.clamp(-end, end)
    torch.testing.assert_close(bins.mean(raw)[:, 0], wanted, rtol=3e-4, atol=1e-4)


def test_equal_weights_mean_exactly_nothing():
    assert SymlogTwoHot().mean(torch.full((2, 101), 3.0)).tolist() == [[0.0], [0.0]]


def test_the_mean_is_taken_before_the_scale_is_undone():
    """Half at 0 and half at the bin of symlog 2: e - 1, not half of e^2 - 1."""
    raw = torch.full((1, 101), -100.0)
    raw[0, 50] = raw[0, 60] = 0.0
    assert SymlogTwoHot().mean(raw).item() == pytest.approx(math.e - 1, rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_targets_that_are_not_finite_give_nan(value):
    loss = SymlogTwoHot().loss(torch.zeros(2, 101), torch.tensor([[1.0], [value]]))
    assert loss.isnan().tolist() == [False, True]


# -- the tanh of a normal -------------------------------------------------------------------------


def test_its_density_is_that_of_torchs_transformed_normal():
    raw = torch.tensor([[0.3, -1.0, 0.2, 0.4], [1.5, 0.0, -0.1, 0.1]])
    mine = TanhNormal(raw, Box((2,)))
    mean, log_std = raw.chunk(2, -1)
    normal = torch.distributions.Normal(mean, (-10 + 6 * (log_std.tanh() + 1)).exp())
    theirs = torch.distributions.TransformedDistribution(
        normal, [torch.distributions.TanhTransform(cache_size=1)]
    )
    action = torch.tensor([[0.2, -0.7], [0.9, 0.1]])
    torch.testing.assert_close(mine.log_prob(action), theirs.log_prob(action).sum(-1))
    drawn, log_prob = mine.drawn(generator=torch.Generator().manual_seed(0))
    assert drawn.abs().max() <= 1
    torch.testing.assert_close(log_prob, mine.log_prob(drawn), atol=1e-2, rtol=1e-2)


def test_its_deviation_lies_within_the_bounds():
    raw = torch.tensor([[0.0, -100.0], [0.0, 0.0], [0.0, 100.0]])
    std = TanhNormal(raw, Box((1,))).std[:, 0]
    assert std.tolist() == pytest.approx([math.exp(-10), math.exp(-4), math.exp(2)], rel=1e-4)


def test_its_log_density_is_exact_at_the_edge():
    """Far out tanh rounds to 1, where a density of the action alone would be infinite."""
    raw = torch.tensor([[10.0, 0.0]])  # mean 10, deviation e^-4
    action, log_prob = TanhNormal(raw, Box((1,))).drawn(generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 1, generator=torch.Generator().manual_seed(0)).double()
    x = 10 + math.exp(-4) * noise
    slope = math.log(4) - 2 * x  # log (1 - tanh^2), x large
    wanted = -0.5 * noise.square() + 4 - 0.5 * math.log(2 * math.pi) - slope
    assert action.item() == 1.0
    assert log_prob.item() == pytest.approx(wanted.item(), abs=1e-3)

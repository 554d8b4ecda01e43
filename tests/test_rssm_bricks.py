"""Bricks of the Dreamer line against torch's own distributions, dense matrices, and hand's work."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import distributions, nn

from reverie.core.errors import SpaceMismatch
from reverie.core.model import Part
from reverie.core.types import Loss, Optim
from reverie.learner import GradientLearner
from reverie.nn.conv import Doubled, Halving, Valid
from reverie.nn.laprop import LaProp
from reverie.nn.latent import Categorical, Divergence, Gaussian
from reverie.nn.layers import BlockLinear, RMSNorm, Style, dense
from reverie.nn.likelihood import FreeGaussian, Head, SymlogError, TwoHot, UnitGaussian
from reverie.nn.recurrent import GRU, BlockGRU, LayerNormGRU, Sizes
from reverie.nn.symlog import symexp, symlog

NUMBERS = [0.0, 1e-3, 0.3, -7.3, 500.0, 1e4, -2.5e7]


def test_symlog_by_hand():
    x = torch.tensor([0.0, math.e - 1, -(math.e**2 - 1)])
    torch.testing.assert_close(symlog(x), torch.tensor([0.0, 1.0, -2.0]))
    torch.testing.assert_close(symexp(symlog(torch.tensor(NUMBERS))), torch.tensor(NUMBERS))


def test_two_hot_round_trips():
    two_hot, x = TwoHot(), torch.tensor(NUMBERS)
    weights = two_hot.encode(x)
    assert (weights > 0).sum(-1).max() <= 2
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(x)))
    back = two_hot.mean(weights.log())[:, 0]
    torch.testing.assert_close(back, x, rtol=2e-6, atol=1e-6)


def test_two_hot_by_hand_with_five_bins():
    """Bins symexp(-2, -1, 0, 1, 2) = -6.389, -1.718, 0, 1.718, 6.389: 1.718 a, half way to it."""
    two_hot, bin_ = TwoHot(5, 2.0), math.e - 1
    found = two_hot.encode(torch.tensor([bin_ / 2, -bin_, 1e9]))
    wanted = torch.tensor(
        [[0, 0, 0.5, 0.5, 0], [0, 1.0, 0, 0, 0], [0, 0, 0, 0, 1.0]], dtype=torch.float32
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    raw = torch.tensor([[0.0, 0.0, math.log(3.0), 0.0, 0.0]])
    loss = two_hot.loss(raw, torch.tensor([[bin_ / 2]]))
    assert loss.item() == pytest.approx(math.log(7.0) - 0.5 * math.log(3.0))


def test_equal_weights_give_exactly_nothing():
    assert TwoHot().mean(torch.full((7, 255), 0.3)).tolist() == [[0.0]] * 7
    head = Head(6, 2, 8, Style(), TwoHot(), scale=0.0)
    assert head.mean(100 * torch.randn(9, 6)).tolist() == [[0.0]] * 9


def test_likelihoods_against_torch():
    raw, x = torch.randn(5, 6), torch.randn(5, 3)
    mean, log_std = raw.chunk(2, -1)
    wanted = -distributions.Normal(mean, log_std.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(FreeGaussian().loss(raw, x), wanted)
    constant = 1.5 * math.log(2 * math.pi)
    wanted = -distributions.Normal(mean, 1.0).log_prob(x).sum(-1) - constant
    torch.testing.assert_close(UnitGaussian().loss(mean, x), wanted)
    loss = SymlogError().loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.e - 1]]))
    assert loss.item() == pytest.approx(2.0)
    assert SymlogError().mean(torch.tensor([[2.0]])).item() == pytest.approx(math.e**2 - 1)


def gaussians(raw):
    mean, std = raw.chunk(2, -1)
    return distributions.Normal(mean, F.softplus(std) + 0.1)


def categoricals(raw, latent):
    logits = raw.unflatten(-1, (latent.classes, latent.groups)).transpose(-1, -2)
    probs = (1 - latent.unimix) * logits.softmax(-1) + latent.unimix / latent.classes
    return distributions.Categorical(probs=probs)


def test_divergences_against_torch():
    latent, p, q = Gaussian(4), torch.randn(3, 8), torch.randn(3, 8)
    wanted = distributions.kl_divergence(gaussians(p), gaussians(q)).sum(-1)
    torch.testing.assert_close(latent.kl(p, q), wanted)
    latent, p, q = Categorical(5, 3), torch.randn(2, 15), torch.randn(2, 15)
    wanted = distributions.kl_divergence(categoricals(p, latent), categoricals(q, latent)).sum(-1)
    torch.testing.assert_close(latent.kl(p, q), wanted)


def test_draws_have_the_frequencies_of_their_distribution(generator):
    latent, raw = Categorical(2, 3, unimix=0.1), torch.randn(6)
    many = raw.expand(20_000, 6)
    drawn = latent.draw(many, latent.noise((20_000,), generator, raw))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(drawn.unflatten(-1, (3, 2)).sum(1), torch.ones(20_000, 2))
    found = drawn.mean(0).view(3, 2).T
    torch.testing.assert_close(found, categoricals(raw, latent).probs, rtol=0, atol=0.015)
    latent = Gaussian(1)
    many = torch.tensor([2.0, -1.0]).expand(20_000, 2)
    drawn = latent.draw(many, latent.noise((20_000,), generator, many))
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(math.log1p(math.exp(-1)) + 0.1, abs=0.02)


def test_straight_through_gradients_are_the_softmax_jacobian():
    latent, raw = Categorical(1, 4, unimix=0.0), torch.randn(1, 4, requires_grad=True)
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (latent.draw(raw, torch.rand(1, 1)) * weight).sum().backward()
    p = raw.detach().softmax(-1)[0]
    torch.testing.assert_close(raw.grad[0], (torch.diag(p) - p.outer(p)) @ weight)


def pulled(divergence, posterior, prior):
    """Gradients of the weighted terms in the two raw distributions."""
    p, q = (x.clone().requires_grad_() for x in (posterior, prior))
    terms = divergence.loss(Gaussian(4), p, q, torch.ones(p.shape[:2]))
    sum(divergence.weights[name] * term for name, term in terms.items()).backward()
    return p.grad, q.grad, terms


def test_balance_weighs_the_two_gradients_of_the_plain_divergence():
    p, q = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    plain_p, plain_q = p.clone().requires_grad_(), q.clone().requires_grad_()
    distributions.kl_divergence(gaussians(plain_p), gaussians(plain_q)).sum(-1).mean().backward()
    balanced = Divergence(0.0, prior=0.8, posterior=0.2, mean=True)
    to_posterior, to_prior, _ = pulled(balanced, p, q)
    torch.testing.assert_close(to_posterior, 0.2 * plain_p.grad)
    torch.testing.assert_close(to_prior, 0.8 * plain_q.grad)
    to_posterior, to_prior, _ = pulled(Divergence(0.0), p, q)
    torch.testing.assert_close(to_posterior, plain_p.grad)
    torch.testing.assert_close(to_prior, plain_q.grad)


def test_free_nats_are_counted_a_moment_or_over_the_batch():
    """Unit variances half a unit and four apart: KL 0.125 and 8 nats of one dimension."""
    raw = math.log(math.expm1(0.9))  # a standard deviation of 1
    prior = torch.tensor([[[0.0, raw], [0.0, raw]]])
    posterior = torch.tensor([[[0.5, raw], [4.0, raw]]])
    latent, ones = Gaussian(1), torch.ones(1, 2)
    each = Divergence(1.0).loss(latent, posterior, prior, ones)
    assert each["dyn"].item() == pytest.approx((1 + 8) / 2, rel=1e-5)
    mean = Divergence(1.0, mean=True).loss(latent, posterior, prior, ones)
    assert mean["rep"].item() == pytest.approx((0.125 + 8) / 2, rel=1e-5)
    floor = Divergence(5.0, mean=True).loss(latent, posterior, prior, ones)
    assert floor["dyn"].item() == 5.0
    only = Divergence(1.0).loss(latent, posterior, prior, torch.tensor([[1.0, 0.0]]))
    assert only["dyn"].item() == 1.0


def test_a_block_linear_map_is_a_dense_one_with_zeros():
    layer = BlockLinear(6, 9, 3)
    with torch.no_grad():
        layer.bias.normal_()
    x = torch.randn(4, 6)
    torch.testing.assert_close(layer(x), x @ torch.block_diag(*layer.weight) + layer.bias)


def test_rms_norm_by_hand():
    x = torch.tensor([[3.0, 4.0]])  # mean square 12.5
    torch.testing.assert_close(RMSNorm(2)(x), x / 12.5**0.5, rtol=1e-5, atol=0)


def test_weights_are_cut_at_two_deviations():
    weight = dense(400, 300).weight
    assert weight.std().item() == pytest.approx(1 / 20, rel=0.02)
    assert weight.abs().max().item() <= 2 * 1.1368 / 20 + 1e-6


@pytest.mark.parametrize("core", [GRU, LayerNormGRU, BlockGRU])
def test_a_closed_update_gate_keeps_the_memory(core):
    cell = core(Sizes(16, 4, 2, 8), Style())
    with torch.no_grad():
        if core is GRU:
            cell.cell.bias_ih[16:32] = 50.0  # torch's z keeps
        elif core is LayerNormGRU:
            cell.norm.bias[32:] = -50.0
        else:
            cell.gates.bias.view(8, 3, 2)[:, 2] = -50.0
    memory = torch.randn(3, 16)
    after = cell.step(memory, torch.randn(3, 4), cell.project(torch.randn(3, 2)))
    torch.testing.assert_close(after, memory)


def test_enlarging_inside_the_weights_is_enlarging_first():
    layer, x = Doubled(3, 4), torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        layer.bias.normal_()
    large = F.interpolate(x, scale_factor=2.0)
    torch.testing.assert_close(layer(x), F.conv2d(large, layer.weight, layer.bias, padding=2))


@pytest.mark.parametrize("stack", [Valid(4), Halving(8), Halving(8, pooled=False)])
def test_stacks_give_back_the_shape_that_they_take(stack):
    encoder, size = stack.encoder((3, 64, 64))
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, size)
    decoder = stack.decoder((3, 64, 64), 32, 8, 16)
    assert decoder(torch.randn(2, 32), torch.randn(2, 8)).shape == (2, 3, 64, 64)


def test_a_grid_of_ten_cells_is_a_picture_too():
    encoder, size = Halving(4).encoder((4, 10, 10))
    assert encoder(torch.rand(2, 4, 10, 10)).shape == (2, size) == (2, 8 * 5 * 5)
    decoder = Halving(4).decoder((4, 10, 10), 32, 8, 16)
    assert decoder(torch.randn(1, 32), torch.randn(1, 8)).shape == (1, 4, 10, 10)


def test_a_picture_that_a_stack_cannot_take_is_one_sentence():
    with pytest.raises(SpaceMismatch, match=r"takes 64x64 pictures, but found \(3, 84, 84\)"):
        Valid().encoder((3, 84, 84))
    with pytest.raises(SpaceMismatch, match=r"\(3, 84, 84\) ends at 21x21. Make .* size=64"):
        Halving().encoder((3, 84, 84))


def one(value):
    return nn.Parameter(torch.tensor(value))


def test_laprop_steps_by_the_sign_first_and_by_hand_then():
    """g = 2, then 1, betas 0.5: v^ = 4, 2; u = 1, 1/sqrt 2; m^ = 1, (0.25 + 0.5 u2) / 0.75."""
    p = one([1.0])
    optimizer = LaProp([p], lr=0.1, betas=(0.5, 0.5), agc=None)
    p.grad = torch.tensor([2.0])
    optimizer.step()
    assert p.item() == pytest.approx(0.9)
    p.grad = torch.tensor([1.0])
    optimizer.step()
    assert p.item() == pytest.approx(0.9 - 0.1 * (0.25 + 0.5 / 2**0.5) / 0.75)


def test_gradients_are_clipped_by_the_norm_of_what_they_move():
    """Norms 5 and 0.3 * 5 = 1.5: (3, 4) becomes (0.9, 1.2); (0.3, 0.4) stays as it is."""
    for grad, wanted in (([3.0, 4.0], [0.9, 1.2]), ([0.3, 0.4], [0.3, 0.4])):
        p = one([4.0, 3.0])
        optimizer = LaProp([p], lr=0.0, betas=(0.0, 0.0), agc=0.3)
        p.grad = torch.tensor(grad)
        optimizer.step()
        seen = optimizer.state[p]["size"].sqrt()
        torch.testing.assert_close(seen, torch.tensor(wanted))


def test_a_part_may_name_laprop_and_its_state_comes_back():
    module = nn.Linear(2, 1)
    optim = Optim(kind="laprop", lr=0.1, eps=1e-20, agc=0.3, warmup=2)
    x = torch.ones(1, 2)
    part = Part("p", module, lambda b, s: Loss(module(x).square().sum(), {}), optim)
    learner = GradientLearner([part])
    learner.update(None)
    kept = deepcopy(learner.state_dict())
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    learner.update(None)
    once = module.weight.clone()
    module.load_state_dict(weights)
    again = GradientLearner([part])
    again.load_state_dict(kept)
    again.update(None)
    assert torch.equal(module.weight, once)

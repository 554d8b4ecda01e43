"""Traps of the Dreamer line that other files do not try: each broke someone's implementation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reverie.behaviors.actor_critic import V1, V3, ActorCritic
from reverie.core import registry
from reverie.core.probe import sample_batch
from reverie.nn.latent import Categorical, Divergence
from reverie.nn.layers import BlockLinear, Style
from reverie.nn.likelihood import TwoHot
from reverie.nn.recurrent import BlockGRU, Sizes

TINY = {"units": 16, "horizon": 3}


def test_blocks_are_initialised_as_parts_of_the_full_matrix():
    """Of 1024 inputs in 8 blocks: a deviation of 1/32, not of 1 over the root of 128."""
    weight = BlockLinear(1024, 512, 8).weight
    assert weight.std().item() == pytest.approx(1 / 32, rel=0.02)


def test_the_block_gru_counts_its_repeated_input_in_every_block():
    """512 own and 8 times 3 x 64 shared inputs: 2048 in all."""
    cell = BlockGRU(Sizes(512, 128, 6, 64), Style())
    for weight in (cell.shared.weight, cell.own.weight):
        assert weight.std().item() == pytest.approx(2048**-0.5, rel=0.02)


@pytest.mark.parametrize(("paper", "name"), [(V1, "dreamer_v1"), (V3, "dreamer_v3")])
def test_returns_are_divided_by_their_range_whatever_the_gradient(paper, name):
    """A range of 100 makes the actor's gradient a hundredth, entropy apart."""
    model = registry.instance(name, small=True)
    batch = sample_batch(model, (2, 4), 0, obs=None, extra=None)
    with torch.no_grad():
        states = model.parts()[0].loss(batch, None).states
    found = []
    for high in (1.0, 100.0):
        torch.manual_seed(0)
        config = replace(paper, normalise=True, entropy=0.0, actor_scale=1.0, **TINY)
        behavior = ActorCritic(model, replace(config, critic_scale=1.0))
        behavior.range.rate = 0.0
        behavior.range.ends.copy_(torch.tensor([0.0, high]))
        torch.manual_seed(1)
        loss = behavior._actor_loss(batch, states)
        assert loss.terms["scale"].item() == high
        found.append(torch.autograd.grad(loss.total, [*behavior.actor.parameters()]))
    for one, hundredth in zip(*found, strict=True):
        assert one.any()
        torch.testing.assert_close(hundredth, one / 100, rtol=1e-3, atol=1e-7)


def test_free_nats_are_compared_with_the_sum_over_groups():
    """Each of 32 groups is below one nat, all together above: the prior still learns."""
    latent = Categorical(32, 4, unimix=0.0)
    posterior = torch.zeros(1, 1, 4, 32)
    posterior[:, :, 0] = 1.0
    prior = torch.zeros(1, 1, 128, requires_grad=True)
    each = latent.kl(posterior.flatten(2), prior).item() / 32
    assert 1 / 32 < each < 1
    dyn = Divergence(1.0).loss(latent, posterior.flatten(2), prior, torch.ones(1, 1))["dyn"]
    (grad,) = torch.autograd.grad(dyn, prior)
    assert grad.any()


def test_below_the_free_nats_nothing_is_learned():
    latent = Categorical(32, 4, unimix=0.0)
    raw = [(0.05 * torch.randn(2, 3, 128)).requires_grad_() for _ in range(2)]
    assert latent.kl(*raw).max() < 1
    terms = Divergence(1.0, prior=1.0, posterior=0.1).loss(latent, *raw, torch.ones(2, 3))
    assert terms["dyn"].item() == terms["rep"].item() == 1.0
    grads = torch.autograd.grad(terms["dyn"] + terms["rep"], raw)
    assert not any(grad.any() for grad in grads)


def test_bins_stay_in_float32_whatever_the_network_computes_in():
    """Bfloat16 has three digits: 12,345.0 would come back as 12,352, and bins would coincide."""
    two_hot, x = TwoHot(), torch.tensor([[12_345.0], [-3e8]])
    raw = two_hot.encode(x[:, 0]).log().clamp(min=-80)
    with torch.autocast("cpu", torch.bfloat16):
        mean = two_hot.mean(raw)
        loss = two_hot.loss(raw.bfloat16(), x)
    torch.testing.assert_close(mean, x, rtol=1e-4, atol=0)
    assert mean.dtype == loss.dtype == torch.float32
    assert loss.isfinite().all()


@pytest.mark.parametrize("horizon", [1, 5])
def test_a_dream_has_as_many_steps_as_it_says(horizon):
    """Returns of H states, and the features of H + 1."""
    model = registry.instance("dreamer_v3", small=True)
    behavior = ActorCritic(model, replace(V3, units=16, horizon=horizon))
    batch = sample_batch(model, (2, 4), 0, obs=None, extra=None)
    with torch.no_grad():
        states = model.parts()[0].loss(batch, None).states
        dreamt = behavior._actor_loss(batch, states).states
    assert dreamt.returns.shape == dreamt.weight.shape == (horizon, 10)
    assert dreamt.features.shape[:2] == (horizon + 1, 10)


def test_a_picture_is_read_alike_while_acting_and_while_learning():
    """Bytes, one at a time as an agent sees them or in a batch: 255 is 0.5, not 254.5."""
    model = registry.instance("dreamer_v3", small=True)
    batch = sample_batch(model, (2, 4), 0, obs=None, extra=None)
    flat = {name: x.flatten(0, 1) for name, x in batch.obs.items()}
    together = model.encode(flat)
    alone = torch.cat([model.encode({k: x[i : i + 1] for k, x in flat.items()}) for i in range(3)])
    torch.testing.assert_close(together[:3], alone, rtol=1e-4, atol=1e-5)
    seen = []
    net = next(iter(model.encoder.pictures.values()))
    net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.encode({**flat, "image": torch.full_like(flat["image"], 255)})
    assert seen[0].unique().tolist() == [0.5]
    assert flat["image"].dtype == torch.uint8
    assert flat["image"].max() > 1  # what was given is left as it was

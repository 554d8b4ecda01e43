"""World Models (2018): weights counted, densities against torch.distributions, seams, losses."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from torch import distributions as D

from reverie.core.check import check_world_model
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.types import Batch, Box, Discrete
from reverie.models.world_models_2018 import (
    DOOM,
    State,
    WorldModels2018,
    WorldModels2018Config,
)
from reverie.nn.mixture import mixture_nll, mixture_sample

IMAGE = {"image": Box((3, 64, 64), 0, 255, "uint8")}
SMALL = dataclasses.replace(DOOM, latent=4, hidden=8, vision_channels=4)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small_model(**changes) -> WorldModels2018:
    return WorldModels2018(dataclasses.replace(SMALL, **changes), IMAGE, Discrete(3))


def latent_batch(b: int = 2, t: int = 6, latent: int = 4, *, spread: float = -30.0) -> Batch:
    """A batch of stored latents with no posterior noise (logvar -30), one seam in row 0."""
    g = torch.Generator().manual_seed(0)
    mu = torch.randn(b, t + 1, latent, generator=g)
    first = torch.zeros(b, t + 1, dtype=torch.bool)
    first[:, 0] = True
    first[0, 4] = True  # an episode begins at observation 4 of row 0: transition 3 is the seam
    mask = torch.ones(b, t, dtype=torch.bool)
    mask[0, 3] = False
    terminated = torch.zeros(b, t, dtype=torch.bool)
    terminated[0, 2] = True
    action = torch.randint(3, (b, t), generator=g)
    return Batch(
        {"latent": torch.cat([mu, torch.full_like(mu, spread)], -1)},
        action,
        torch.ones(b, t),
        terminated,
        torch.zeros_like(terminated),
        mask,
        first,
        {},
    )


@pytest.mark.parametrize(
    ("config", "actions", "vision", "memory"),
    [
        (WorldModels2018Config(), Box((3,)), 4_348_547, 422_368),
        (DOOM, Discrete(3), 4_446_915, 1_678_785),
    ],
)
def test_the_papers_weights_are_counted(config, actions, vision, memory):
    model = WorldModels2018(config, IMAGE, actions)
    assert (count(model.vision), count(model.memory)) == (vision, memory)


@pytest.mark.parametrize(
    ("config", "actions"),
    [
        (SMALL, Discrete(3)),
        (dataclasses.replace(SMALL, predicts=(), scalar_action=False), Box((2,))),
        (dataclasses.replace(SMALL, predicts=("reward", "done"), scalar_action=False), Discrete(4)),
    ],
)
def test_it_keeps_the_contract(config, actions):
    torch.manual_seed(0)
    model = WorldModels2018(config, IMAGE, actions)
    with torch.no_grad():
        model.vision.logvar.bias.fill_(-6.0)  # an untrained V's latents are noise: nothing to fit
    assert check_world_model(model)


def test_one_component_is_a_gaussian_and_several_are_torchs_mixture():
    torch.manual_seed(0)
    raw, target = torch.randn(7, 3, 1, 5), torch.randn(7, 5)
    gaussian = D.Normal(raw[:, 1, 0], raw[:, 2, 0].exp()).log_prob(target)
    torch.testing.assert_close(mixture_nll(raw, target), -gaussian)
    raw = torch.randn(7, 3, 4, 5)
    planes = raw.movedim(2, -1)  # (7, 3, 5, K)
    reference = D.MixtureSameFamily(
        D.Categorical(logits=planes[:, 0]), D.Normal(planes[:, 1], planes[:, 2].exp())
    )
    torch.testing.assert_close(mixture_nll(raw, target), -reference.log_prob(target))


def test_cold_draws_are_the_likeliest_mean_and_hot_draws_are_wide():
    torch.manual_seed(0)
    raw = torch.randn(1, 3, 5, 6).expand(20_000, -1, -1, -1)
    z = torch.rand(20_000, 6), torch.randn(20_000, 6)
    cold = mixture_sample(raw, z, 1e-8)
    likeliest = raw[0, 1].gather(0, raw[0, 0].argmax(0, keepdim=True))[0]
    torch.testing.assert_close(cold, likeliest.expand_as(cold), atol=2e-3, rtol=0)
    warm = mixture_sample(raw, z, 1.0)
    weight, mean, std = raw[0, 0].softmax(0), raw[0, 1], raw[0, 2].exp()
    first = (weight * mean).sum(0)
    second = (weight * (mean**2 + std**2)).sum(0)
    torch.testing.assert_close(warm.mean(0), first, atol=0.06, rtol=0)
    torch.testing.assert_close(warm.var(0), second - first**2, atol=0, rtol=0.08)


def test_temperature_scales_the_noise_by_its_square_root():
    raw = torch.zeros(1, 3, 1, 1)  # one standard normal
    z = torch.tensor([[0.5]]), torch.tensor([[2.0]])
    assert mixture_sample(raw, z, 4.0).item() == pytest.approx(4.0)
    assert mixture_sample(raw, z, 0.25).item() == pytest.approx(1.0)


def test_kl_below_the_floor_costs_the_floor():
    model = small_model()
    with torch.no_grad():
        for layer in (model.vision.mu, model.vision.logvar):
            layer.weight.zero_()
            layer.bias.zero_()
    obs = {"image": torch.randint(0, 256, (2, 2, 3, 64, 64), dtype=torch.uint8)}
    blank = torch.zeros(2, 1, dtype=torch.bool)
    batch = Batch(obs, None, None, blank, blank, ~blank, torch.zeros(2, 2, dtype=torch.bool), {})
    loss = model.parts()[0].loss(batch, None)
    assert loss.terms["kl"].item() == 0.0
    assert (loss.total - loss.terms["reconstruction"]).item() == pytest.approx(0.5 * 4, abs=1e-3)


def test_bright_pixels_weigh_more():
    """One white pixel wrong by 1 in each channel costs 3; five times its weight more is 18."""
    totals = []
    for weight in (0.0, 5.0):
        torch.manual_seed(0)
        model = small_model(bright_weight=weight)
        with torch.no_grad():
            model.vision.decoder[-1].weight.zero_()
            model.vision.decoder[-1].bias.fill_(-30.0)  # draws black
        image = torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8)
        image[:, :, :, 10, 10] = 255
        blank = torch.zeros(1, 1, dtype=torch.bool)
        first = torch.zeros(1, 2, dtype=torch.bool)
        batch = Batch({"image": image}, None, None, blank, blank, ~blank, first, {})
        totals.append(model.parts()[0].loss(batch, None).terms["reconstruction"].item())
    assert totals == pytest.approx([3.0, 18.0])


def test_the_memory_forgets_at_a_seam():
    """What follows a seam is what a fresh sequence gives: nothing leaks between episodes."""
    torch.manual_seed(0)
    model = small_model()
    whole = latent_batch()
    states = model.parts()[1].loss(whole, None).states
    tail = whole._replace(
        obs={"latent": whole.obs["latent"][:1, 4:]},
        action=whole.action[:1, 4:],
        reward=whole.reward[:1, 4:],
        terminated=whole.terminated[:1, 4:],
        truncated=whole.truncated[:1, 4:],
        mask=whole.mask[:1, 4:],
        first=whole.first[:1, 4:],
    )
    fresh = model.parts()[1].loss(tail, None).states
    torch.testing.assert_close(states.h[0, 4:], fresh.h[0])
    assert states.h[0, 4].abs().max() == 0
    assert states.h[0, 3].abs().max() > 0


def test_the_restart_input_reaches_the_memory():
    model = small_model()
    blank = torch.zeros(1, 8)
    z, action = torch.zeros(1, 4), torch.tensor([1])
    began = model.predict(State(z, blank, blank, torch.tensor([True])), action)
    ran = model.predict(State(z, blank, blank, torch.tensor([False])), action)
    assert not torch.equal(began.h, ran.h)


def test_the_done_loss_is_hand_worked():
    """Logit 0 everywhere: log 2 a transition, ten times that for the one ending among 11."""
    model = small_model()
    with torch.no_grad():
        model.memory.scalars["done"].weight.zero_()
        model.memory.scalars["done"].bias.zero_()
    terms = model.parts()[1].loss(latent_batch(), None).terms
    assert terms["done"].item() == pytest.approx(0.693147 * (10 + 10) / 11, rel=1e-5)


def test_z_is_drawn_afresh_each_time():
    model = small_model()
    batch = latent_batch(spread=0.0)
    loss = model.parts()[1].loss
    assert not torch.equal(loss(batch, None).states.z, loss(batch, None).states.z)


def test_stored_latents_and_frames_are_the_same_to_the_memory():
    torch.manual_seed(0)
    model = small_model()
    with torch.no_grad():
        model.vision.logvar.weight.zero_()
        model.vision.logvar.bias.fill_(-10.0)
    batch = latent_batch()
    image = torch.randint(0, 256, (2, 7, 3, 64, 64), dtype=torch.uint8)
    mu, logvar = model.encode({"image": image.flatten(0, 1)})
    latent = torch.cat([mu, logvar], -1).unflatten(0, (2, 7)).detach()
    torch.manual_seed(1)
    seen = model.parts()[1].loss(batch._replace(obs={"image": image}), None)
    torch.manual_seed(1)
    stored = model.parts()[1].loss(batch._replace(obs={"latent": latent}), None)
    torch.testing.assert_close(seen.total, stored.total)


def test_small_frames_are_enlarged_and_drawn_small():
    torch.manual_seed(0)
    config = replace(DOOM, latent=4, hidden=8, vision_channels=4)
    large = WorldModels2018(config, IMAGE, Discrete(3))
    half = {"image": Box((3, 32, 32), 0, 255, "uint8")}
    small = WorldModels2018(config, half, Discrete(3))
    small.load_state_dict(large.state_dict())
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    enlarged = image.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(small.encode({"image": image}), large.encode({"image": enlarged}))
    z = torch.randn(2, 4)
    drawn = large.vision.decode(z).unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    torch.testing.assert_close(small.vision.decode(z), drawn)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        ({"image": Box((3, 48, 48), 0, 255, "uint8")}, Discrete(3), r"\(3, 48, 48\)"),
        ({"vector": Box((4,))}, Discrete(3), r"found \['vector'\]"),
        (IMAGE, None, "the world has none"),
    ],
)
def test_spaces_it_cannot_use_are_refused(observations, actions, message):
    with pytest.raises(SpaceMismatch, match=message):
        WorldModels2018(DOOM, observations, actions)


def test_settings_it_cannot_use_are_refused():
    with pytest.raises(BadConfig, match="'value'"):
        small_model(predicts=("value",))
    with pytest.raises(BadConfig, match="temperature"):
        small_model(temperature=0.0)

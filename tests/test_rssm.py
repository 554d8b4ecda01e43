"""The RSSM and its four configurations: counts, losses by hand, resets, errors, learning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reverie.core import registry
from reverie.core.check import check_world_model
from reverie.core.errors import BadConfig, SpaceMismatch
from reverie.core.probe import sample_batch
from reverie.core.types import Box, Discrete
from reverie.models.dreamer import DREAMER_V3, PIXELS, SCHOOLS, SIZES, DreamerV3, PlaNet, sized
from reverie.nn.conv import Halving
from reverie.nn.latent import Categorical
from reverie.nn.likelihood import UnitGaussian

VECTOR = {"vector": Box((4,), -float("inf"), float("inf"))}


def count(module):
    return sum(p.numel() for p in module.parameters())


def thin(name="dreamer_v3", **changes):
    school = SCHOOLS[name]
    small = {**school.thin, "memory": 16, "hidden": 8, "units": 8, **changes}
    return replace(school.config, **small)


def test_the_model_of_size_1m_has_what_is_left_of_686456_without_actor_and_critic():
    """Actor 640 to 3 x 64 to 6: 49,926. Critic to 255 bins: 66,111. Counted by hand."""
    assert count(DreamerV3(DREAMER_V3, PIXELS, Discrete(6))) == 686_456 - 49_926 - 66_111


@pytest.mark.parametrize("pooled", [False, True])
def test_pooling_changes_no_count(pooled):
    config = replace(DREAMER_V3, stack=Halving(4, pooled=pooled))
    assert count(DreamerV3(config, PIXELS, Discrete(6))) == 570_419


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_what_they_are_called(name):
    with torch.device("meta"):
        model = DreamerV3(sized(name), PIXELS, Discrete(6))
    named = float(name[:-1]) * 1e6
    assert 0.55 * named < count(model) < 1.1 * named  # the model is most of the agent


@pytest.mark.parametrize("name", SCHOOLS)
@pytest.mark.parametrize(
    ("observations", "actions"), [(VECTOR, Discrete(3)), (PIXELS, Box((2, 2)))]
)
def test_every_school_keeps_the_contract_with_one_modality(name, observations, actions):
    model = SCHOOLS[name].model(thin(name), observations, actions)
    assert check_world_model(model, overfit_updates=0)


def test_a_stride_of_two_and_a_small_grid_keep_the_contract():
    config = thin(stack=Halving(8, pooled=False))
    grid = {"image": Box((4, 10, 10), 0, 255, "uint8")}
    assert check_world_model(DreamerV3(config, grid, Discrete(3)), overfit_updates=0)


def test_a_reset_row_is_a_fresh_row(generator):
    model = registry.instance("dreamer_v3", small=True)
    obs = {k: v[:, 0] for k, v in sample_batch(model, (2, 3), 0, obs=None, extra=None).obs.items()}
    h = model.encode(obs)
    fresh = model.observe(None, None, h, generator=torch.Generator().manual_seed(1))
    old = model.predict(fresh, torch.ones(2, 2), generator=generator)
    first = torch.tensor([True, False])
    again = model.observe(
        old, torch.ones(2, 2), h, first=first, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(again.memory[0], fresh.memory[0])
    assert torch.equal(again.z[0], fresh.z[0])
    assert not torch.allclose(again.memory[1], fresh.memory[1])


def test_reward_is_read_where_a_transition_leads():
    """A model whose reward head says the first class of z: the loss must look one state ahead."""
    config = thin(reward=UnitGaussian(), reward_layers=0, latent=Categorical(1, 4))
    model = DreamerV3(config, VECTOR, Discrete(2))
    with torch.no_grad():
        model.reward.out.weight.zero_()
        model.reward.out.weight[0, config.memory] = 1.0
        model.reward.out.bias.zero_()
    batch = sample_batch(model, (3, 5), 0, obs=None, extra=None)
    loss = model.parts()[0].loss(batch, None)
    leads_to = loss.states.z[:, 1:, 0]
    wanted = 0.5 * (leads_to - batch.reward).square()[batch.mask].mean()
    torch.testing.assert_close(loss.terms["reward"], wanted.detach())
    state = type(loss.states)(*(x[:, 1] for x in loss.states))
    torch.testing.assert_close(model.heads.reward(None, None, state), state.z[:, 0].detach())


def test_actions_beyond_their_space_count_as_its_edge(generator):
    model = registry.instance("dreamer_v3", small=True)
    batch = sample_batch(model, (2, 3), 0, obs=None, extra=None)
    state = model.observe(None, None, model.encode({k: v[:, 0] for k, v in batch.obs.items()}))
    edge, far = torch.tensor([[1.0, -0.5]] * 2), torch.tensor([[7.0, -0.5]] * 2)
    z = model.design.latent.noise((2,), generator, edge)
    a, b = model.predict(state, edge, z=z), model.predict(state, far, z=z)
    torch.testing.assert_close(a.memory, b.memory)


def test_planet_has_no_head_for_endings_unless_asked():
    assert registry.instance("planet").heads.cont is None
    model = PlaNet(thin("planet", cont_weight=1.0), VECTOR, Discrete(2))
    assert model.heads.cont is not None


def test_pictures_are_decoded_in_their_own_units():
    model = registry.instance("dreamer_v3", small=True)
    batch = sample_batch(model, (2, 3), 0, obs=None, extra=None)
    state = model.observe(None, None, model.encode({k: v[:, 0] for k, v in batch.obs.items()}))
    drawn = model.heads.decode(state)["image"]
    assert drawn.min() >= 0 and drawn.max() <= 255
    assert 100 < drawn.mean() < 155  # nothing learned: half way


def test_the_loss_in_bf16_is_near_that_in_float32():
    model = registry.instance("dreamer_v3", small=True)
    batch = sample_batch(model, (2, 3), 0, obs=None, extra=None)
    torch.manual_seed(0)
    exact = model.parts()[0].loss(batch, None)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model.parts()[0].loss(batch, None)
    assert coarse.total.dtype == torch.float32
    assert coarse.total.item() == pytest.approx(exact.total.item(), rel=0.03)


def test_spaces_without_a_brick_are_refused():
    with pytest.raises(SpaceMismatch, match=r"dreamer_v3 reads uint8 pictures .* 'x' is Discrete"):
        DreamerV3(DREAMER_V3, {"x": Discrete(3)}, Discrete(2))
    with pytest.raises(SpaceMismatch, match="needs something to see and something to do"):
        DreamerV3(DREAMER_V3, VECTOR, None)
    with pytest.raises(SpaceMismatch, match="dreamer_v3 needs something to see"):
        DreamerV3(DREAMER_V3, {}, Discrete(2))
    with pytest.raises(BadConfig, match="memory must be a multiple of 8, but it is 20"):
        DreamerV3(replace(DREAMER_V3, memory=20), VECTOR, Discrete(2))
    with pytest.raises(SpaceMismatch, match=r"takes 64x64 pictures, but found \(3, 32, 32\)"):
        PlaNet(SCHOOLS["planet"].config, {"image": Box((3, 32, 32), 0, 255, "uint8")}, Discrete(2))

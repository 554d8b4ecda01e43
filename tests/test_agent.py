"""Agents on worlds whose right answers are known."""

import numpy as np
import pytest
import torch

from reverie.agent import PolicyAgent, RandomAgent
from reverie.core.errors import SpaceMismatch
from reverie.core.types import Box, Discrete
from reverie.envs.toy import ORACLES, WORLDS


def tensors(obs):
    return {name: torch.as_tensor(value) for name, value in obs.items()}


def test_policy_agent_tells_the_time_across_resets():
    agent = PolicyAgent(ORACLES["clock"](), lambda s, g: s.time.long())
    env = WORLDS["clock"](2)
    obs, _ = env.reset()
    carry, first, rewards = agent.initial(2), torch.ones(2, dtype=torch.bool), []
    for _ in range(12):
        carry, act = agent.act(carry, tensors(obs), first)
        obs, reward, terminated, _, _ = env.step(act.action.numpy())
        rewards.append(reward[0])
        first = torch.as_tensor(terminated)
        if terminated.any():
            obs, _ = env.reset(options={"reset_mask": terminated})
    assert rewards == [0, 10, 20, 30, 40, 50, 60, 70, 0, 10, 20, 30]


def test_policy_agent_filters_and_begins_rows_alone():
    """The carried belief is the Kalman filter's; a first row forgets what was carried for it."""
    model = ORACLES["linear_gaussian"]()
    agent = PolicyAgent(model, lambda s, g: s.mean[:, :1])
    seen = torch.tensor([[0.3], [0.8]])
    begun = model.observe(None, None, seen)
    carry, act = agent.act(agent.initial(2), {"vector": seen}, torch.tensor([True, True]))
    torch.testing.assert_close(act.action, begun.mean[:, :1])
    (state, _), _ = agent.act(carry, {"vector": seen}, torch.tensor([True, False]))
    torch.testing.assert_close(state.mean[0], begun.mean[0])
    moved = model.observe(begun, act.action, seen)
    torch.testing.assert_close(state.cov[1], moved.cov[1])
    assert not torch.allclose(state.cov[0], state.cov[1])


def test_policy_agent_explores_with_its_own_policy_and_generator(generator):
    def explore(state, g):
        return torch.randint(4, state.cell.shape, generator=g)

    agent = PolicyAgent(ORACLES["grid"](), lambda s, g: torch.zeros_like(s.cell), explore=explore)
    obs, first = {"vector": torch.zeros(50, 2)}, torch.ones(50, dtype=torch.bool)
    assert not agent.act(None, obs, first)[1].action.any()
    found = agent.act(None, obs, first, explore=True, generator=generator)[1].action
    wanted = torch.randint(4, (50,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, wanted)


def test_policy_agent_says_which_observation_is_missing():
    agent = PolicyAgent(ORACLES["clock"](), lambda s, g: s.time.long())
    with pytest.raises(SpaceMismatch, match="reads observation 'vector', but the data has"):
        agent.act(None, {"image": torch.zeros(1, 3)}, torch.ones(1, dtype=torch.bool))
    with pytest.raises(SpaceMismatch, match=r"of shape \(1,\), but the data has \(2,\)"):
        agent.act(None, {"vector": torch.zeros(1, 2)}, torch.ones(1, dtype=torch.bool))


def test_acting_keeps_no_graph():
    weight = torch.ones(1, requires_grad=True)
    agent = PolicyAgent(ORACLES["linear_gaussian"](), lambda s, g: s.mean[:, :1] * weight)
    _, act = agent.act(None, {"vector": torch.zeros(1, 1)}, torch.ones(1, dtype=torch.bool))
    assert not act.action.requires_grad


def test_random_agent_is_uniform_over_its_space(generator):
    first = torch.ones(20_000, dtype=torch.bool)
    carry, act = RandomAgent(Discrete(4)).act(None, {}, first, generator=generator)
    assert carry is None and act.action.dtype == torch.int64 and act.extra == {}
    np.testing.assert_allclose(np.bincount(act.action) / 20_000, 0.25, atol=0.015)
    _, act = RandomAgent(Box((2,), -1.0, 3.0)).act(None, {}, first, generator=generator)
    assert act.action.shape == (20_000, 2) and act.action.dtype == torch.float32
    assert act.action.min() >= -1 and act.action.max() <= 3
    np.testing.assert_allclose(act.action.mean(0), 1.0, atol=0.05)
    np.testing.assert_allclose(act.action.std(0), 4 / 12**0.5, atol=0.02)


@pytest.mark.gpu
def test_a_model_on_an_accelerator_acts_on_what_the_cpu_saw():
    model = ORACLES["linear_gaussian"]().to("cuda")
    agent = PolicyAgent(model, lambda s, g: s.mean[:, :1])
    seen, first = {"vector": torch.tensor([[0.3], [0.8]])}, torch.tensor([True, True])
    generator = torch.Generator().manual_seed(0)
    _, act = agent.act(agent.initial(2), seen, first, generator=generator)
    assert act.action.device.type == "cuda"

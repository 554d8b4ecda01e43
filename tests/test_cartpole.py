"""The true model of CartPole against Gymnasium's own environment."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from reverie.core.check import check_world_model
from reverie.envs.cartpole import CartPole, CartPoleState


def test_it_is_gymnasiums_world_step_by_step():
    env, model, random = gymnasium.make("CartPole-v1"), CartPole(), np.random.default_rng(0)
    ends = 0
    for seed in range(5):
        seen, _ = env.reset(seed=seed)
        state = CartPoleState(torch.as_tensor(seen)[None])
        for _ in range(200):
            action = int(random.integers(2))
            seen, reward, terminated, _, _ = env.step(action)
            before, pushed = state, torch.tensor([action])
            state = model.predict(state, pushed)
            torch.testing.assert_close(state.vector[0], torch.as_tensor(seen), atol=1e-4, rtol=1e-4)
            assert model.heads.reward(before, pushed, state).item() == reward
            assert model.heads.cont(state).item() == 1 - terminated
            if terminated:
                ends += 1
                break
    assert ends == 5


def test_it_keeps_the_contract():
    check_world_model(CartPole())

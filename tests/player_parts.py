"""A world whose pictures can be worked out by hand, for the tests of the player."""

from __future__ import annotations

from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from reverie.core.model import WorldModel
from reverie.core.types import Box, Card, Discrete, Heads
from reverie.data.episode import Episode
from reverie.player.subject import Subject, compose

SHAPE = (3, 4, 6)


class Grey(NamedTuple):
    x: Tensor  # (B,) brightness


class Lamp(WorldModel[Grey]):
    """A grey picture that gets brighter by its action, 0, 1 or 2; `drift` is the model's error."""

    card = Card("lamp", "Lamp", "oracle", "x", "none", "none", "none", (), ("decode",), "none")
    observations = {"image": Box(SHAPE, 0, 255, "uint8")}  # noqa: RUF012
    actions = Discrete(3)

    def __init__(self, drift: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.drift, self.noise, self.calls = drift, noise, []

    def encode(self, obs):
        return obs["image"].float().flatten(1)[:, 0]

    def observe(self, state, action, h, *, first=None, generator=None):
        return Grey(h)

    def predict(self, state, action, *, z=None, generator=None):
        self.calls.append(len(action))
        noise = self.noise * torch.randn(len(action), generator=generator)
        return Grey(state.x + action + self.drift + noise)

    @property
    def heads(self):
        return Heads(
            "lamp",
            reward=lambda s, a, n: n.x - s.x,
            cont=lambda n: (n.x < 250).float(),
            decode=lambda s: {"image": s.x.view(-1, 1, 1, 1).expand(-1, *SHAPE)},
            embed=lambda s: torch.stack([s.x, 0 * s.x], 1),
        )


def picture(x: float) -> np.ndarray:
    return np.full(SHAPE, x, np.uint8)


def episode(actions, start=10) -> Episode:
    """What the lamp really does."""
    level = start + np.concatenate([[0], np.cumsum(actions)])
    steps = len(actions)
    return Episode(
        obs={"image": np.stack([picture(x) for x in level])},
        action=np.array(actions, np.int64),
        reward=np.array(actions, np.float32),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
    )


class LampWorld(VectorEnv):
    """The real lamp; it ends after `last` steps, and breaks where it is told to."""

    def __init__(self, last: int = 10**6, breaks: int = -1) -> None:
        self.num_envs, self.last, self.breaks, self.closed_times = 1, last, breaks, 0
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = gymnasium.spaces.Dict(
            {"image": gymnasium.spaces.Box(0, 255, SHAPE, np.uint8)}
        )
        self.single_action_space = gymnasium.spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, 1)
        self.action_space = batch_space(self.single_action_space, 1)

    def reset(self, *, seed=None, options=None):
        self.x, self.t = 10, 0
        return {"image": picture(self.x)[None]}, {}

    def step(self, actions):
        self.x, self.t = self.x + int(actions[0]), self.t + 1
        if self.t == self.breaks:
            raise OSError("the bulb broke")
        over = np.array([self.t >= self.last])
        obs = {"image": picture(self.x)[None]}
        return obs, actions.astype(np.float64), over, np.array([False]), {}

    def close(self, **_):
        self.closed_times += 1


def subject(model=None, *, world=None, episodes=None, agent=None) -> Subject:
    model = Lamp() if model is None else model
    episodes = [episode([0, 1, 2, 2, 2])] if episodes is None else episodes
    return compose("lamp", "A lamp.", model, world, agent=agent, episodes=episodes)

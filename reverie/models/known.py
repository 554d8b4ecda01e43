"""What is known of some worlds beforehand: their rewards and endings as functions of vectors.

PETS plans with rewards that are given, MBPO with endings that are given; what is not in the tables
is learned. Put your own function into `REWARDS` or `ENDS` and name it in an `EnsembleConfig`:
configs hold names, so that a checkpoint never holds code. Angles and limits are those of
Gymnasium's sources. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Reward = Callable[[Tensor, Tensor, Tensor], Tensor]  # (o (N, D), a (N, A), o' (N, D)) -> (N,)
Ends = Callable[[Tensor], Tensor]  # o' (N, D) -> (N,) bool: the world has ended


def pendulum_reward(before: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """(N,) minus angle^2 + 0.1 speed^2 + 0.001 torque^2, all before the step."""
    del after
    angle, torque = torch.atan2(before[:, 1], before[:, 0]), 2 * action[:, 0]
    return -(angle.square() + 0.1 * before[:, 2].square() + 0.001 * torque.square())


def hopper_ends(after: Tensor) -> Tensor:
    """(N,) where it lies lower than 0.7, leans by more than 0.2 or moves beyond 100."""
    wild = (after[:, 1:].abs() >= 100).any(1) | ~torch.isfinite(after).all(1)
    return (after[:, 0] <= 0.7) | (after[:, 1].abs() >= 0.2) | wild


def inverted_pendulum_ends(after: Tensor) -> Tensor:
    """(N,) where the pole leans by more than 0.2."""
    return (after[:, 1].abs() > 0.2) | ~torch.isfinite(after).all(1)


def cartpole_ends(after: Tensor) -> Tensor:
    """(N,) where the cart is 2.4 off, or the pole leans by more than 12 degrees."""
    return (after[:, 0].abs() > 2.4) | (after[:, 2].abs() > 12 * torch.pi / 180)


REWARDS: dict[str, Reward] = {"Pendulum-v1": pendulum_reward}
ENDS: dict[str, Ends] = {
    "CartPole-v1": cartpole_ends,
    "Hopper-v5": hopper_ends,
    "InvertedPendulum-v5": inverted_pendulum_ends,
}
_ENDLESS = ("Pendulum-v1", "HalfCheetah-v5")


def ends_of(world: str) -> str | None:
    """What an `EnsembleConfig` says of a world's endings: a name, None (never), or "learned".

    Args:
        world: as `envs.make` takes it; dm_control's tasks ('dmc/...') end by the clock alone.
    """
    if world in ENDS:
        return world
    return None if world in _ENDLESS or world.startswith("dmc/") else "learned"

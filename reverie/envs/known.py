"""What is known of some worlds beforehand: their rewards and endings as functions of vectors.

PETS plans with rewards that are given, MBPO with endings that are given; what is not in the table
is learned. Angles and limits are those of Gymnasium's and dm_control's sources. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """Functions of observations (N, D) and actions (N, A) in [-1, 1]."""

    reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # (o, a, o') -> (N,)
    ends: Callable[[Tensor], Tensor] | None = None  # (o') -> (N,) bool; None: it never does


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


KNOWN: dict[str, Known] = {
    "Pendulum-v1": Known(reward=pendulum_reward),
    "CartPole-v1": Known(ends=cartpole_ends),
    "HalfCheetah-v5": Known(),
    "Hopper-v5": Known(ends=hopper_ends),
    "InvertedPendulum-v5": Known(ends=inverted_pendulum_ends),
}


def known(name: str) -> Known | None:
    """What is known of a world; None: nothing.

    Args:
        name: as `envs.make` takes it; tasks of dm_control ('dmc/...') end by the clock alone.
    """
    return Known() if name.startswith("dmc/") else KNOWN.get(name)
